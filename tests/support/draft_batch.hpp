// SPDX-License-Identifier: Apache-2.0
// Batches of draft trees: random ones, faulty ones, and what must come of them by the builder of one tree.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "prefixshare/draft_tree.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

namespace prefixshare::tests {

using Parents = std::vector<std::int32_t>;

/// Any order of nodes, several roots; `spread` large: bushy, small: deep.
inline Parents random_parents(testing::Random* random, std::int32_t count, std::int32_t spread) {
  Parents name(static_cast<std::size_t>(count)), parents(static_cast<std::size_t>(count));
  std::iota(name.begin(), name.end(), 0);
  random->shuffle(&name);
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int32_t parent = random->between(std::max(-1, i - spread), i - 1);
    parents[static_cast<std::size_t>(name[static_cast<std::size_t>(i)])] =
        parent < 0 ? -1 : name[static_cast<std::size_t>(parent)];
  }
  return parents;
}

/// Faults of every kind between trees without one, for rows of 2 words.
inline std::vector<Parents> faulty_trees() {
  Parents chain(128), ring(128), long_one(129, -1);
  std::iota(chain.begin(), chain.end(), -1);
  std::iota(ring.begin(), ring.end(), 1);
  ring.back() = 0;
  return {{-1, 0},     {0},  {-1, 2},  {-1, -2},  {-1, 0, 4, 2, 3, 4}, {}, chain, ring, {-1, INT32_MAX, 1},
          {INT32_MIN}, {-1}, long_one, {1, 0, 7}, {-1, 0, 0, 1}};
}

/// An end of the second of three trees with 2, 3 and 1 nodes, and what is then at fault.
inline std::vector<std::pair<std::int64_t, Parents>> faulty_offsets() {
  const auto bad = static_cast<std::int32_t>(DraftTreeFault::offsets);
  return {{1, {0, bad, static_cast<std::int32_t>(DraftTreeFault::cycle)}},
          {-1, {0, bad, bad}},
          {7, {0, bad, bad}},
          {INT64_MAX, {0, bad, bad}},
          {INT64_MIN, {0, bad, bad}}};
}

/// A batch with its memory: outputs poisoned, between guards.
struct OwnedBatch {
  static constexpr std::int32_t kPoison = 0x5a5a5a5a;
  static constexpr std::size_t kGuard = 8;

  std::vector<Parents> trees;
  std::int32_t words_per_row;
  Parents parents;
  std::vector<std::int64_t> offsets{0};
  mutable std::vector<std::int32_t> depth, faults;  // written through the batch
  mutable std::vector<std::uint64_t> words;

  OwnedBatch(std::vector<Parents> of, std::int32_t row) : trees(std::move(of)), words_per_row(row) {
    for (const Parents& tree : trees) {
      parents.insert(parents.end(), tree.begin(), tree.end());
      offsets.push_back(static_cast<std::int64_t>(parents.size()));
    }
    depth.assign(parents.size() + kGuard, kPoison);
    words.assign(parents.size() * static_cast<std::size_t>(row) + kGuard, kPoison);
    faults.assign(trees.size(), kPoison);
  }
  DraftTreeBatch args() const {
    DraftTreeBatch a;
    a.parents = parents;
    a.offsets = offsets;
    a.depth = {depth.data(), static_cast<std::int64_t>(parents.size())};
    a.words = {words.data(), static_cast<std::int64_t>(words.size() - kGuard)};
    a.words_per_row = words_per_row;
    a.faults = faults;
    return a;
  }
  bool guards_intact() const {
    const auto poison = [](auto x) { return x == kPoison; };
    return std::all_of(depth.end() - kGuard, depth.end(), poison) &&
           std::all_of(words.end() - kGuard, words.end(), poison);
  }

  /// Every tree as draft_tree_from_parents builds it alone, or its fault and nothing else.
  void check() const {
    for (std::size_t t = 0; t < trees.size(); ++t) check_tree(t);
    CHECK(guards_intact());
  }

 private:
  DraftTreeFault fault_of(const Parents& tree) const {
    const auto nodes = static_cast<std::int32_t>(tree.size());
    const auto outside = [nodes](std::int32_t parent) { return parent < -1 || parent >= nodes; };
    if (nodes > 64 * words_per_row) return DraftTreeFault::size;
    if (std::any_of(tree.begin(), tree.end(), outside)) return DraftTreeFault::parent;
    DraftTree alone;
    return draft_tree_from_parents(tree, &alone).ok() ? DraftTreeFault::none : DraftTreeFault::cycle;
  }
  void check_tree(std::size_t t) const {
    const DraftTreeFault fault = fault_of(trees[t]);
    CAPTURE(t, static_cast<int>(fault));
    CHECK(faults[t] == static_cast<std::int32_t>(fault));
    DraftTree alone;
    if (fault == DraftTreeFault::none) REQUIRE(draft_tree_from_parents(trees[t], &alone).ok());
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < trees[t].size(); ++i) {
      const std::size_t node = static_cast<std::size_t>(offsets[t]) + i;
      wrong += depth[node] != (fault == DraftTreeFault::none ? alone.depth[i] : 0);
      for (std::int32_t w = 0; w < words_per_row; ++w) {
        const bool has = fault == DraftTreeFault::none && w < alone.words_per_row;
        const std::size_t at = i * static_cast<std::size_t>(alone.words_per_row) + static_cast<std::size_t>(w);
        wrong += words[node * static_cast<std::size_t>(words_per_row) + static_cast<std::size_t>(w)] !=
                 (has ? alone.words[at] : 0);
      }
    }
    CHECK(wrong == 0);
  }
};

}  // namespace prefixshare::tests
