# SPDX-License-Identifier: Apache-2.0
# cmake -DPROGRAM=file -DOUTPUT=text -P run_example.cmake: runs an example of the docs and compares what it prints.
execute_process(COMMAND ${PROGRAM} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE error)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "exit code ${result}\n${output}${error}")
endif()
if(NOT OUTPUT STREQUAL "" AND NOT output STREQUAL OUTPUT)
  message(FATAL_ERROR "the page says\n${OUTPUT}but the program prints\n${output}")
endif()
