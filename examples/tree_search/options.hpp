// SPDX-License-Identifier: Apache-2.0
// What the user asked for: the command line, checked.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>

#include "prefixshare/plan.hpp"
#include "selector.hpp"

namespace tree_search {

/// What the user gave is wrong: one line that says where, exit code 2.
struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::int32_t width = 16;  ///< continuations that a depth deals out
  std::int32_t depth = 8;   ///< steps
  std::int32_t prompt = 512;
  std::uint64_t seed = 1;
  double temperature = 0.2;
  double lambda_b = 1;
  double lambda_d = 1.5;
  NodeCost cost = NodeCost::nodes;
  std::int64_t limit = 2000;  ///< subproblems of a selection
  std::int32_t repeats = 5;   ///< timed runs of a decode step; 0: none
  std::int32_t threads = 1;
  prefixshare::LayerKind kind;  ///< f32
};

/// The options, or the exit code when there is nothing to run (--help). Throws InputError.
struct ParsedOptions {
  Options options;
  std::optional<int> exit_code;
};
ParsedOptions parse_options(int argc, char** argv);

}  // namespace tree_search
