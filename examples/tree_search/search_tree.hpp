// SPDX-License-Identifier: Apache-2.0
// The search tree as a forest on a paged cache: it grows by steps, is pruned, and gives its pages back.
#pragma once

#include <cstdint>
#include <vector>

#include "prefixshare/forest.hpp"

namespace tree_search {

/// A step of the simulated model: what one node of the tree is, beside its place.
struct Step {
  std::uint64_t key = 0;  ///< all of the step follows from it: the same step in every search with the same seed
  std::int32_t tokens = 0;
  double reward = 0;         ///< of the process reward model, in (0, 1)
  double quality = 0;        ///< the reward's logit, from which the next steps drift
  std::int64_t cluster = 0;  ///< steps with one label say the same in other words
};

/// What a tree holds. Tokens are key/value rows of the cache; each node has segments and pages of its own.
struct Accounting {
  std::int64_t leaves = 0;
  std::int64_t nodes = 0;
  std::int64_t unique_tokens = 0;   ///< on the paths of leaves, each once: the KV cache that ETS calls total KV size
  std::int64_t logical_tokens = 0;  ///< path by path
  std::int64_t shared_tokens = 0;   ///< of the unique ones: read by two leaves or more
  std::int64_t pages = 0;           ///< in use
};

class SearchTree {
 public:
  static constexpr std::int32_t kPageSize = 16;

  /// A prompt, which is the only leaf.
  SearchTree(std::int32_t prompt_tokens, std::uint64_t seed);

  /// The tree; sequence i is leaf i and has one query row, its last token. Every node is on the path of a leaf.
  const prefixshare::Forest& forest() const { return forest_; }
  /// Per node of the forest.
  const std::vector<Step>& steps() const { return steps_; }
  /// Per leaf: its node, its step's reward and cluster.
  std::vector<std::int32_t> leaf_nodes() const;
  std::vector<double> rewards() const;
  std::vector<std::int64_t> clusters() const;

  /// Leaf i gets children[i] >= 1 steps, which are the leaves from then on, in this order.
  void grow(const std::vector<std::int32_t>& children);
  /// Drops leaves (keep[i] == 0) and whatever only they need. Returns what that freed; its pages are used again.
  prefixshare::FreedStorage prune(const std::vector<std::uint8_t>& keep);

  Accounting account() const;

 private:
  std::int32_t take_page();

  prefixshare::Forest forest_;
  std::vector<Step> steps_;
  std::int32_t pages_ = 0;  ///< of the pool; it grows where no page is free
  std::vector<std::int32_t> free_pages_;
};

}  // namespace tree_search
