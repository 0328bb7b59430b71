// SPDX-License-Identifier: Apache-2.0
// A step (one decode step, or forward and backward of training) planned with sharing and without.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "options.hpp"
#include "prefixshare/context.hpp"
#include "prefixshare/counters.hpp"
#include "prefixshare/forest.hpp"
#include "prefixshare/plan.hpp"

namespace prefix_report {

/// One way of doing the step.
struct Way {
  std::string name;
  prefixshare::Forest forest;
  prefixshare::Plan plan;
  prefixshare::Counters counters;
  double plan_seconds = 0;
};

/// Both ways. Decode: the same rows and the same cache; without sharing, every sequence reads its whole path alone.
/// Training: the shared way has each distinct token once as a query row; the unshared one repeats each sequence's
/// prefix with its own keys and values, as a batch of full causal sequences.
struct Step {
  bool train = false;
  Way unshared;
  Way shared;
  std::vector<std::int64_t> source;  ///< unshared row -> the shared row that it repeats
  std::vector<std::int64_t> slots;   ///< training: shared row -> slot of its token in the pool

  /// Seconds that the plans predict for one run of both ways.
  double predicted_seconds(std::int32_t threads) const;
};

/// Plans both ways. Throws std::runtime_error if a plan cannot be made.
Step plan_step(const prefixshare::Context& context, const Options& options, const prefixshare::Forest& forest);

/// Slots (page * page_size + slot in page) of the first `count` tokens on the path to a node.
std::vector<std::int64_t> path_slots(const prefixshare::Forest& forest, std::int32_t node, std::int64_t count);

}  // namespace prefix_report
