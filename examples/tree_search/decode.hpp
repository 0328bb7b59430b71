// SPDX-License-Identifier: Apache-2.0
// One attention step of decoding on a search tree: planned, run, timed and checked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/context.hpp"
#include "search_tree.hpp"

namespace tree_search {

/// K and V of one layer: [pages, page_size, Hkv, D], f32, N(0, 1). What a token holds follows from its step alone.
class Cache {
 public:
  explicit Cache(const prefixshare::LayerKind& kind) : kind_(kind) {}
  /// Writes the tokens of the tree's leaves, which are the new ones, and makes room for them.
  void store_leaves(const SearchTree& tree);
  prefixshare::KvPool pool(const prefixshare::Forest& forest) const;

 private:
  prefixshare::LayerKind kind_;
  std::vector<float> k_, v_;
};

struct Decode {
  std::string implementation;
  std::int64_t kv_rows = 0;  ///< token rows of K and V that the plan's items read
  double seconds = 0;        ///< median of the timed runs; 0 without any
  double error = 0;          ///< of o and lse against the reference, as prefixshare/testing/compare.hpp defines it
  double bound = 0;
  bool ok() const { return error <= bound; }
};

/// How steps are decoded: with the best implementation, and with the reference (on Eigen, in f64).
struct Decoder {
  prefixshare::LayerKind kind;
  prefixshare::Context context;
  prefixshare::Context reference;
  std::int32_t repeats = 0;

  /// Both contexts; the executor of each runs `threads` parts.
  Decoder(const prefixshare::LayerKind& layer, const prefixshare::Executor& executor, std::int32_t timed_runs);
  /// One row per leaf, its path's last token.
  Decode run(const SearchTree& tree, const Cache& cache) const;
};

}  // namespace tree_search
