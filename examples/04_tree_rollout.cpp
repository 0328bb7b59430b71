// SPDX-License-Identifier: Apache-2.0
// Rollouts of a flow-matching image model that share their denoising steps up to and inside a sliding window: how many
// network evaluations the tree saves, and what weight each shared step has in the gradient. Bookkeeping only: nothing
// here attends.
#include <cmath>
#include <cstdio>

#include "example.hpp"
#include "tree_rollout.hpp"

using namespace prefixshare;

namespace {

/// Group-relative: the mean over all rollouts is 0, the deviation 1.
std::vector<double> advantages_of(std::vector<double> rewards) {
  const double count = static_cast<double>(rewards.size());
  double mean = 0, square = 0;
  for (const double r : rewards) mean += r / count;
  for (const double r : rewards) square += (r - mean) * (r - mean) / count;
  for (double& r : rewards) r = square > 0 ? (r - mean) / std::sqrt(square) : 0;
  return rewards;
}

/// What the objective says: rollout by rollout, every noisy step of its path.
std::vector<double> weights_by_path(const Forest& forest, const example::RolloutWindow& window,
                                    const std::vector<double>& advantages) {
  std::vector<double> weights(forest.nodes.size(), 0);
  for (std::size_t s = 0; s < advantages.size(); ++s) {
    for (std::int32_t n = forest.sequences[s].node; n >= 0; n = forest.nodes[static_cast<std::size_t>(n)].parent) {
      const std::size_t node = static_cast<std::size_t>(n);
      if (window.holds(forest.path_begin[node]))
        weights[node] += advantages[s] / static_cast<double>(advantages.size());
    }
  }
  return weights;
}

}  // namespace

int main() {
  bool ok = true;
  for (const std::int32_t begin : {0, 4, 8, 12, 16}) {  // the window slides
    const example::RolloutWindow window = {20, begin, 4, 2};
    const Forest forest = example::rollout_forest(window);
    ForestStats stats;
    throw_if_error(forest_stats(forest, &stats));
    const std::vector<double> advantages = advantages_of(example::random<double>(window.rollouts(), 1));
    const double off =
        example::distance(step_weights(forest, window, advantages), weights_by_path(forest, window, advantages));
    std::printf("window [%d, %d) of %d: %lld evaluations for %lld rollouts instead of %lld; weights differ by %.0e\n",
                begin, begin + window.length, window.steps, static_cast<long long>(stats.unique_tokens),
                static_cast<long long>(stats.sequences), static_cast<long long>(stats.logical_tokens), off);
    ok = ok && off < 1e-12 && stats.unique_tokens == window.shared_evaluations() &&
         stats.logical_tokens == window.separate_evaluations();
  }
  return ok ? 0 : 1;
}
