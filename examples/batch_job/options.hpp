// SPDX-License-Identifier: Apache-2.0
// What the user asked for: the command line, checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "replay.hpp"

namespace batch_job {

struct Options {
  Source source;  ///< no input: the benchmark's
  Limits limits;
  std::int32_t decode = -1;  ///< tokens that every request writes; -1: what the input says
  std::string json, csv;     ///< files to write; empty: none

  bool is_benchmark() const { return source.input.empty(); }
};

/// The options, or the exit code when there is nothing to run (--help). Throws InputError.
struct ParsedOptions {
  Options options;
  std::optional<int> exit_code;
};
ParsedOptions parse_options(int argc, char** argv);

}  // namespace batch_job
