# SPDX-License-Identifier: Apache-2.0
# How the project's own targets are compiled. Nothing here reaches a user of the library.

# prefixshare_own_target(<target>): warnings, sanitizers, and products that are not fused with sums unless the source says
# std::fma, so that bits do not depend on the compiler's taste.
function(prefixshare_own_target target)
  set(options -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -ffp-contract=off)
  if(PREFIXSHARE_WARNINGS_AS_ERRORS)
    list(APPEND options -Werror)
  endif()
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${options}>")
  if(PREFIXSHARE_SANITIZE)
    set(sanitize -fsanitize=${PREFIXSHARE_SANITIZE} -fno-sanitize-recover=all)
    # g++ 12 sees uninitialised members in libstdc++ where it has sanitised them itself.
    target_compile_options(${target} PRIVATE ${sanitize} -fno-omit-frame-pointer
      $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    target_link_options(${target} PRIVATE ${sanitize})
  endif()
endfunction()

# prefixshare_header_library(<component> [LINK <targets>] FILES <headers>): prefixshare::<component>, headers only.
function(prefixshare_header_library component)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LINK;FILES")
  set(target prefixshare_${component})
  add_library(${target} INTERFACE)
  add_library(prefixshare::${component} ALIAS ${target})
  set_target_properties(${target} PROPERTIES
    EXPORT_NAME ${component}
    INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)
  target_compile_features(${target} INTERFACE cxx_std_17)
  target_link_libraries(${target} INTERFACE ${arg_LINK})
  target_sources(${target} INTERFACE FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES ${arg_FILES})
endfunction()
