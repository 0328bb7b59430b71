# SPDX-License-Identifier: Apache-2.0
# cmake -DSOURCE=folder -DHEADER=file -P commit.cmake: writes the commit of a checkout into a header, with -dirty behind it
# where tracked files have changed; "unknown" outside of one. The header is touched only when it changes.
set(commit unknown)
find_program(git git)
if(git)
  execute_process(COMMAND ${git} -C ${SOURCE} rev-parse --show-toplevel OUTPUT_VARIABLE top RESULT_VARIABLE failed
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  file(REAL_PATH "${SOURCE}" source)
  if(NOT failed AND top STREQUAL source)  # not of a project that holds this one without its history
    execute_process(COMMAND ${git} -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
      OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
set(text "// SPDX-License-Identifier: Apache-2.0
// Made by bench/commit.cmake with every build: the commit that it is of.
#pragma once

namespace prefixshare::bench {

inline constexpr const char* kCommit = \"${commit}\";

}  // namespace prefixshare::bench
")
file(CONFIGURE OUTPUT ${HEADER} CONTENT "${text}" @ONLY)
