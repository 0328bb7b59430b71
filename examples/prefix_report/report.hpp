// SPDX-License-Identifier: Apache-2.0
// What is printed: text for people, one JSON object for machines.
#pragma once

#include <optional>
#include <string>

#include "job.hpp"
#include "options.hpp"
#include "prefixshare/forest.hpp"
#include "traffic.hpp"

namespace prefix_report {

/// Everything that the answer is made of.
struct Report {
  Options options;
  Traffic traffic;
  prefixshare::ForestStats stats;  ///< of all the traffic
  TokenCount independent;          ///< tokens counted without a forest
  std::optional<prefixshare::Counters> whole_unshared,
      whole_shared;  ///< of a step on all the traffic, when it is sampled
  Sample sample;
  JobResult result;

  bool counts_agree() const;
  bool passes() const { return counts_agree() && result.checks_pass(); }
};

std::string to_text(const Report& report);
std::string to_json(const Report& report);

}  // namespace prefix_report
