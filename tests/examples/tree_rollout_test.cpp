// SPDX-License-Identifier: Apache-2.0
// tree_rollout: the forest has as many nodes as the formula says, and sums to ancestors are sums over paths.
#include "tree_rollout.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

namespace {

using example::RolloutWindow;
using example::step_weights;
using example::sum_to_ancestors;
using namespace prefixshare;

std::int64_t power(std::int64_t k, std::int32_t j) { return j == 0 ? 1 : k * power(k, j - 1); }

/// Every window of every rollout of up to 12 steps whose tree stays small.
template <class Check>
void for_each_window(Check check) {
  for (std::int32_t ways : {1, 2, 3, 5}) {
    for (std::int32_t length : {0, 1, 2, 3, 4}) {
      for (std::int32_t begin : {0, 1, 4}) {
        for (std::int32_t after : {0, 1, 7}) {
          INFO("k " << ways << ", w " << length << ", t0 " << begin << ", T " << begin + length + after);
          check(RolloutWindow{begin + length + after, begin, length, ways});
        }
      }
    }
  }
}

/// Multiples of 1/8, whose sums are exact in any order.
std::vector<double> exact_values(std::int64_t count, std::uint64_t seed) {
  testing::Random random(seed);
  std::vector<double> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(random.between(-800, 800) / 8.0);
  return values;
}

}  // namespace

TEST_CASE("tree_rollout: the forest has the evaluations of the formula", "[examples]") {
  for_each_window([](const RolloutWindow& window) {
    const std::int32_t T = window.steps, t0 = window.begin, w = window.length, k = window.ways;
    std::int64_t shared = t0 + (T - t0 - w) * power(k, w);
    for (std::int32_t j = 1; j <= w; ++j) shared += power(k, j);
    const Forest forest = rollout_forest(window);
    ForestStats stats;
    REQUIRE(forest_stats(forest, &stats).ok());
    CHECK(window.shared_evaluations() == shared);
    CHECK(window.separate_evaluations() == power(k, w) * T);
    CHECK(stats.nodes == shared);
    CHECK(stats.unique_tokens == shared);
    CHECK(stats.logical_tokens == power(k, w) * T);
    CHECK(stats.sequences == power(k, w));
    CHECK(stats.max_path == T);
    CHECK(stats.depth == T);
    std::vector<std::int32_t> rollouts;  // through each state: those that its step has not split yet
    REQUIRE(reference_counts(forest, &rollouts).ok());
    for (std::size_t n = 0; n < rollouts.size(); ++n) {
      const std::int32_t splits = std::min(std::max(forest.path_begin[n] - t0 + 1, 0), w);
      CHECK(rollouts[n] == power(k, w - splits));
    }
  });
}

TEST_CASE("tree_rollout: sums to ancestors and weights of steps are sums over paths", "[examples]") {
  for_each_window([](const RolloutWindow& window) {
    const Forest forest = rollout_forest(window);
    const std::vector<double> values = exact_values(window.rollouts(), 7);
    std::vector<double> sums(forest.nodes.size(), 0), noisy(forest.nodes.size(), 0);
    for (std::size_t s = 0; s < values.size(); ++s) {
      std::int32_t step = window.steps;
      for (std::int32_t n = forest.sequences[s].node; n >= 0; n = forest.nodes[static_cast<std::size_t>(n)].parent) {
        --step;
        sums[static_cast<std::size_t>(n)] += values[s];
        if (step >= window.begin && step < window.begin + window.length)
          noisy[static_cast<std::size_t>(n)] += values[s];
      }
      CHECK(step == 0);
    }
    for (double& weight : noisy) weight /= static_cast<double>(values.size());
    CHECK(sum_to_ancestors(forest, values) == sums);
    CHECK(step_weights(forest, window, values) == noisy);
  });
}

TEST_CASE("tree_rollout: sums in a forest whose sequences end anywhere", "[examples]") {
  testing::Random random(3);
  for (int round = 0; round < 50; ++round) {
    const testing::Topology topology = random_topology(&random);
    testing::Problem p;
    REQUIRE(make_problem(topology, {}, &p).ok());
    const std::vector<double> values = exact_values(static_cast<std::int64_t>(p.forest.sequences.size()), 9);
    std::vector<double> sums(p.forest.nodes.size(), 0);
    for (std::size_t s = 0; s < values.size(); ++s) {
      for (std::int32_t n = p.forest.sequences[s].node; n >= 0;
           n = p.forest.nodes[static_cast<std::size_t>(n)].parent) {
        sums[static_cast<std::size_t>(n)] += values[s];
      }
    }
    CHECK(sum_to_ancestors(p.forest, values) == sums);
  }
}
