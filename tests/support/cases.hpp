// SPDX-License-Identifier: Apache-2.0
// What makes cases of attention, for tests with any harness: topologies, constants of plans.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "prefixshare/plan.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/pairwise.hpp"

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

}  // namespace prefixshare::tests
