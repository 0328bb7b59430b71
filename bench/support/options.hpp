// SPDX-License-Identifier: Apache-2.0
// The command line of prefixshare_bench; what is not its own is Google Benchmark's.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "prefixshare/dtype.hpp"

namespace prefixshare::bench {

/// What is wrong with the command line, in one line.
struct OptionError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  bool help = false;
  bool list = false;   ///< print the workloads instead
  bool json = false;   ///< of --list
  bool quick = false;  ///< a part of the suite, for little time each
  std::int32_t threads = 1;
  std::int32_t scale = 1;            ///< of --workload: lengths are divided by it
  std::string workload;              ///< a name, or a regular expression; empty: the suite
  std::string type;                  ///< of --workload: of q, K and V; empty: the workload's own
  std::vector<std::string> kernels;  ///< shared libraries
  std::vector<char*> rest;           ///< the program's name and Google Benchmark's options
};

/// Throws OptionError. `threads` is 0 where it is not said.
Options parse_options(const std::vector<char*>& arguments);

/// The type of that name. Throws OptionError.
DType dtype_of(const std::string& name);

extern const char* const kHelp;

}  // namespace prefixshare::bench
