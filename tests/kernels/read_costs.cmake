# SPDX-License-Identifier: Apache-2.0
# Files of cost constants, as the build reads them: of CPUs, of GPUs, and wrong ones, which it must refuse by name.
# Variables: SOURCE, the project; BINARY, a folder to write to.
cmake_minimum_required(VERSION 3.24)
include(${SOURCE}/cmake/PrefixshareCosts.cmake)

set(constants)
foreach(constant item kv_element mac partial few_kv_element few_mac min_item)
  string(APPEND constants ", \"${constant}_ns\": 2.5")
endforeach()

# costs(<identity>): a file with one implementation.
function(costs identity)
  file(WRITE ${BINARY}/costs.json
    "{\"machine\": \"m\", ${identity}, \"cost_models\": [{\"implementation\": \"cuda:x\"${constants}}]}")
endfunction()
function(expect name got want)
  if(NOT got STREQUAL want)
    message(FATAL_ERROR "${name}: got '${got}', want '${want}'")
  endif()
endfunction()

set(measured_line "    {\"m\", \"cuda:x\", {2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5}},\n")
costs("\"devices\": [\"NVIDIA H200\", \"Another\"]")
prefixshare_read_costs(${BINARY}/costs.json)
expect("devices" "${devices}" "    {\"m\", \"NVIDIA H200\"},\n    {\"m\", \"Another\"},\n")
expect("machines" "${machines}" "")
expect("measured" "${measured}" "${measured_line}")

set(devices)
set(measured)
costs("\"cpuid\": {\"vendor\": \"V\", \"family\": 6, \"models\": [1, 2]}")
prefixshare_read_costs(${BINARY}/costs.json)
expect("machines" "${machines}" "    {\"m\", \"V\", 6, 1},\n    {\"m\", \"V\", 6, 2},\n")
expect("devices" "${devices}" "")
expect("measured" "${measured}" "${measured_line}")

# refuse(<identity> <message>): in a process of its own, which it ends.
function(refuse identity message)
  costs("${identity}")
  file(WRITE ${BINARY}/costs.cmake
    "cmake_minimum_required(VERSION 3.24)\ninclude(${SOURCE}/cmake/PrefixshareCosts.cmake)\nprefixshare_read_costs(${BINARY}/costs.json)\n")
  execute_process(COMMAND ${CMAKE_COMMAND} -P ${BINARY}/costs.cmake RESULT_VARIABLE code ERROR_VARIABLE error)
  string(REGEX REPLACE "[ \n]+" " " error "${error}")
  if(code EQUAL 0 OR NOT error MATCHES "${message}")
    message(FATAL_ERROR "${identity}: want '${message}', got '${error}'")
  endif()
endfunction()
refuse("\"devices\": \"H200\"" "costs.json: devices: it is STRING, not ARRAY")
refuse("\"devices\": [1]" "costs.json: devices.0: it is NUMBER, not STRING")
refuse("\"devices\": [\"H'200\"]" "costs.json: devices.0: 'H'200' is no name")
refuse("\"cpuid\": {\"vendor\": \"V\"}" "costs.json: cpuid.family: ")
refuse("\"nobody\": 1" "costs.json: cpuid.vendor: ")
