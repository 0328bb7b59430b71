// SPDX-License-Identifier: Apache-2.0
// The workloads of the catalogue and of real input: found by name or pattern, listed for people and for peers.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "prefixshare/testing/workload.hpp"

namespace prefixshare::bench {

/// Every workload there is, and what is missing.
struct Workloads {
  std::vector<testing::Workload> list;
  std::vector<std::string> missing;  ///< a line per file of real input

  /// The workload of that name, or all in whose names the regular expression is found. Throws OptionError if it is
  /// no expression or matches none.
  std::vector<const testing::Workload*> find(const std::string& pattern) const;
};

/// The catalogue, and real input from the folder that PREFIXSHARE_TEST_DATA names.
Workloads all_workloads();

/// A line each: name, tokens, what it is; then what is missing.
void print_list(const Workloads& workloads, std::ostream& out);
/// With every number that a peer needs. docs/benchmarking.md says what the members are.
void print_json(const Workloads& workloads, std::ostream& out);

}  // namespace prefixshare::bench
