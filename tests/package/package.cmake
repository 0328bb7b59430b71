# SPDX-License-Identifier: Apache-2.0
# cmake -DSTEP=install|consume|refuse ... -P package.cmake: one step of a package test. Nothing here sees Eigen.
#   install: builds the library alone (SHARED, COMPILER), installs it into the empty folder PREFIX, checks its symbols
#   consume: builds the project CONSUMER with COMPILER against PREFIX or SOURCE, and runs its PROGRAM
#   refuse:  configures CONSUMER, which asks for COMPONENT, and wants a failure whose text matches MESSAGE

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${BINARY})
set(configure ${CMAKE_COMMAND} -B ${BINARY} -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_BUILD_TYPE=Release
  "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG"  # what is tested here does not depend on speed
  -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON)

if(STEP STREQUAL "install")
  file(REMOVE_RECURSE ${PREFIX})
  run(${configure} -S ${SOURCE} -DBUILD_SHARED_LIBS=${SHARED} -DCMAKE_INSTALL_PREFIX=${PREFIX} -DCMAKE_INSTALL_LIBDIR=lib
    -DPREFIXSHARE_BUILD_TESTS=OFF -DPREFIXSHARE_BUILD_EXAMPLES=OFF -DPREFIXSHARE_WARNINGS_AS_ERRORS=ON)
  run(${CMAKE_COMMAND} --build ${BINARY})
  run(${CMAKE_COMMAND} --install ${BINARY})
  file(GLOB library ${PREFIX}/lib/libprefixshare.a ${PREFIX}/lib/libprefixshare.so)
  run(sh ${CMAKE_CURRENT_LIST_DIR}/check_symbols.sh ${library} ${PREFIX}/include)
elseif(STEP STREQUAL "consume")
  run(${configure} -S ${CONSUMER} -DCMAKE_PREFIX_PATH=${PREFIX} -DPREFIXSHARE_SOURCE=${SOURCE})
  run(${CMAKE_COMMAND} --build ${BINARY})
  run(${BINARY}/${PROGRAM})
elseif(STEP STREQUAL "refuse")
  execute_process(COMMAND ${configure} -S ${CONSUMER} -DCMAKE_PREFIX_PATH=${PREFIX} -DCOMPONENT=${COMPONENT}
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(result EQUAL 0 OR NOT output MATCHES "${MESSAGE}")
    message(FATAL_ERROR "component ${COMPONENT}: wanted the message '${MESSAGE}', got\n${output}")
  endif()
endif()
