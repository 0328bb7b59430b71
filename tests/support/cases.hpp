// SPDX-License-Identifier: Apache-2.0
// What makes cases of attention, for tests with any harness: pairwise matrices, topologies, constants of plans.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "prefixshare/plan.hpp"
#include "prefixshare/testing/problem.hpp"

namespace prefixshare::tests {

using prefixshare::testing::Problem;
using prefixshare::testing::ProblemOptions;
using prefixshare::testing::Random;
using prefixshare::testing::Topology;

/// Constants under which sharing and cutting always pay, so that small problems get shared tiles and partial states.
inline CostModel eager_cost() {
  CostModel cost;
  cost.item = 1;
  cost.kv_element = 1e4;
  cost.partial = 1e-3;
  return cost;
}

/// A tree of one-token nodes, each a query row, below a context: all draft tokens lie in one segment.
inline Topology draft_tree(std::int32_t context, std::int32_t tokens, Random* random) {
  Topology t;
  t.add_node(-1, context);
  t.segments.push_back(tokens);
  for (std::int32_t n = 0; n < tokens; ++n) {
    Node node;
    node.parent = random->between(0, n);
    node.segment = 1;
    node.begin = n;
    node.length = 1;
    t.nodes.push_back(node);
    t.add_sequence(n + 1, 1);
  }
  return t;
}

/// A bias of -inf hides a key as well as a mask does: from a head, or from all of them.
inline void hide_with_bias(Problem* p) {
  Random random(p->options.seed);
  const std::int32_t heads = p->options.kind.Hq;
  for (Problem::Pool& pool : p->pools) {
    for (std::size_t token = 0; token < pool.named.size(); ++token) {
      const bool whole = random.chance(0.1);
      for (std::int32_t h = 0; h < heads; ++h) {
        if (!pool.named[token] || !(whole || random.chance(0.1))) continue;
        pool.bias.set(static_cast<std::int64_t>(token) * heads + h, -std::numeric_limits<double>::infinity());
      }
    }
  }
}

/// Rows of level indices such that every pair of levels of any two factors occurs: greedy, deterministic.
inline std::vector<std::vector<std::int32_t>> pairwise(const std::vector<std::int32_t>& levels,
                                                       std::uint64_t seed = 1) {
  const std::size_t n = levels.size();
  std::vector<std::vector<char>> open(n * n);
  std::int64_t left = 0;
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = a + 1; b < n; ++b) {
      open[a * n + b].assign(static_cast<std::size_t>(levels[a] * levels[b]), 1);
      left += levels[a] * levels[b];
    }
  }
  const auto covers = [&](const std::vector<std::int32_t>& row, bool close) {
    std::int64_t count = 0;
    for (std::size_t a = 0; a < n; ++a) {
      for (std::size_t b = a + 1; b < n; ++b) {
        char& pair = open[a * n + b][static_cast<std::size_t>(row[a] * levels[b] + row[b])];
        count += pair;
        if (close) pair = 0;
      }
    }
    return count;
  };
  Random random(seed);
  std::vector<std::vector<std::int32_t>> rows;
  while (left > 0) {
    std::vector<std::int32_t> best;
    std::int64_t most = 0;
    while (most == 0) {
      for (int candidate = 0; candidate < 60; ++candidate) {
        std::vector<std::int32_t> row;
        for (std::int32_t count : levels) row.push_back(random.between(0, count - 1));
        const std::int64_t count = covers(row, false);
        if (count > most) most = count, best = row;
      }
    }
    left -= covers(best, true);
    rows.push_back(best);
  }
  return rows;
}

}  // namespace prefixshare::tests
