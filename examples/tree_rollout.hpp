// SPDX-License-Identifier: Apache-2.0
// The tree of rollouts of Dynamic-TreeRPO (arXiv 2509.23352), as a forest, and sums from its leaves to their ancestors.
// Bookkeeping only: what the rollouts of a flow-matching model share is latents, not keys and values, so that no
// attention operator takes part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "prefixshare/forest.hpp"

namespace example {

/// T denoising steps. Inside the window of w steps from step t0 every state goes on in k ways (with noise), outside in
/// one (without). k >= 1, t0, w >= 0, t0 + w <= T, and an int32 numbers the states.
struct RolloutWindow {
  std::int32_t steps = 0;   ///< T
  std::int32_t begin = 0;   ///< t0
  std::int32_t length = 0;  ///< w
  std::int32_t ways = 1;    ///< k

  bool holds(std::int32_t step) const { return step >= begin && step < begin + length; }
  /// k^w
  std::int64_t rollouts() const {
    std::int64_t count = 1;
    for (std::int32_t j = 0; j < length; ++j) count *= ways;
    return count;
  }
  /// States of the tree, one network evaluation each: t0 + k + k^2 + ... + k^w + (T - t0 - w) k^w.
  std::int64_t shared_evaluations() const {
    std::int64_t count = begin, level = 1;
    for (std::int32_t j = 0; j < length; ++j) count += level *= ways;
    return count + (steps - begin - length) * level;
  }
  /// The same rollouts one by one: k^w T.
  std::int64_t separate_evaluations() const { return rollouts() * steps; }
};

/// A state per node, a rollout per sequence, both level by level; each state is one token of a contiguous pool. So
/// forest_stats counts separate evaluations as logical tokens and shared ones as unique tokens.
inline prefixshare::Forest rollout_forest(const RolloutWindow& window) {
  std::vector<prefixshare::Node> nodes;
  std::vector<std::int32_t> level = {-1};
  for (std::int32_t step = 0; step < window.steps; ++step) {
    std::vector<std::int32_t> next;
    for (const std::int32_t parent : level) {
      for (std::int32_t way = 0; way < (window.holds(step) ? window.ways : 1); ++way) {
        next.push_back(static_cast<std::int32_t>(nodes.size()));
        nodes.push_back({parent, 0, next.back(), 1, 0, -1});
      }
    }
    level = next;
  }
  std::vector<prefixshare::Sequence> rollouts;
  rollouts.reserve(level.size());
  for (const std::int32_t node : level) rollouts.push_back({node, 0});
  const auto count = static_cast<std::int32_t>(nodes.size());
  const prefixshare::PoolShape pool = {count > 0 ? count : 1, 1};
  const std::int32_t page = 0;
  const prefixshare::Segment segment = {0, 0, 0, count};
  prefixshare::Forest forest;
  throw_if_error(make_forest({{&pool, 1}, {&page, 1}, {&segment, 1}, nodes, rollouts}, &forest));
  return forest;
}

/// Per node of the forest: the sum of a value per sequence over the sequences through it. Linear.
inline std::vector<double> sum_to_ancestors(const prefixshare::Forest& forest, const std::vector<double>& values) {
  std::vector<double> sums(forest.nodes.size(), 0);
  for (std::size_t s = 0; s < values.size(); ++s) {
    const std::int32_t node = forest.sequences[s].node;
    if (node >= 0) sums[static_cast<std::size_t>(node)] += values[s];
  }
  for (std::size_t n = sums.size(); n-- > 0;) {  // children come after their parents
    const std::int32_t parent = forest.nodes[n].parent;
    if (parent >= 0) sums[static_cast<std::size_t>(parent)] += sums[n];
  }
  return sums;
}

/// Per node: the weight of its step's log-probability in the policy's objective, the mean over rollouts of advantage
/// times the log-probabilities of the rollout's noisy steps. A shared step has it once, weighed by the sum of the
/// advantages of all rollouts through it; a step outside the window is certain and has none.
inline std::vector<double> step_weights(const prefixshare::Forest& forest, const RolloutWindow& window,
                                        const std::vector<double>& advantages) {
  std::vector<double> weights = sum_to_ancestors(forest, advantages);
  for (std::size_t n = 0; n < weights.size(); ++n) {
    const bool noisy = window.holds(forest.path_begin[n]);  // one token a step: the path position is the step
    weights[n] = noisy ? weights[n] / static_cast<double>(advantages.size()) : 0;
  }
  return weights;
}

}  // namespace example
