// SPDX-License-Identifier: Apache-2.0
// Runs by machine: what one section of the page is about. Times of two machines never meet in one plot.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "report/run.hpp"

namespace prefixshare::report {

/// A case, and the run that it is from.
struct Entry {
  const Case* c = nullptr;
  const Run* run = nullptr;
  std::size_t series = 0;  ///< of its implementation: shape and colour everywhere on the page

  /// For a pointer that rests on its mark.
  std::string about() const;
};

/// What implementations of one problem have in common.
struct Problem {
  std::string title;  ///< workload and type
  std::string workload;
  std::string dtype;
  std::int32_t threads = 0;
  std::vector<Entry> entries;
  double floor_seconds = 0;     ///< 0: unknown
  double unshared_seconds = 0;  ///< of the fastest of our implementations without sharing; 0: unknown

  /// The fastest of ours; null if there is none.
  const Entry* best() const;
  /// The floor over the time, where the floor is known.
  std::optional<double> floor_fraction(const Entry& e) const;
};

struct Machine {
  std::string id;  ///< for anchors
  std::string title;
  std::vector<Run> runs;            ///< oldest first
  std::vector<std::string> series;  ///< implementations: ours, then those of peers
  std::vector<Entry> entries;       ///< the newest of each case that has a time
  std::vector<Problem> problems;    ///< of the entries that have an implementation
  std::int32_t team = 0;            ///< the largest number of threads of ours

  Machine() = default;
  Machine(Machine&&) = default;  // entries point into runs, whose memory moves along
  Machine& operator=(Machine&&) = default;
};

std::vector<Machine> by_machine(std::vector<Run> runs, Complaints* complaints);

}  // namespace prefixshare::report
