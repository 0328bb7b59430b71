// SPDX-License-Identifier: Apache-2.0
// draft_tree_from_parents for a batch in plain C++. Each tree is one unit of work.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/detail/validate_ops.hpp"
#include "prefixshare/draft_tree.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// One tree of a batch. Fits its row: rows have a bit for each of its nodes.
struct DraftTreeRows {
  Span<const std::int32_t> parents;
  std::int32_t* depth;
  std::uint64_t* words;
  std::int64_t words_per_row;

  std::uint64_t* row(std::int64_t i) const noexcept { return words + i * words_per_row; }

  /// No depths and no bits.
  void clear() const noexcept {
    std::fill_n(depth, parents.size(), 0);
    std::fill_n(words, parents.size() * words_per_row, std::uint64_t{0});
  }
  /// Climbs from node i to a root, or to a node that is done already. False on a cycle.
  bool climb(std::int64_t i) const noexcept {
    std::int64_t steps = 0;
    for (std::int64_t a = i; a >= 0; a = parents[a]) {
      if (a < i) {
        for (std::int64_t w = 0; w < words_per_row; ++w) row(i)[w] |= row(a)[w];
        depth[i] = depth[a] + static_cast<std::int32_t>(steps);
        return true;
      }
      if (steps == parents.size()) return false;
      row(i)[a / 64] |= std::uint64_t{1} << (a % 64);
      depth[i] = static_cast<std::int32_t>(steps++);
    }
    return true;
  }
};

inline DraftTreeFault fill_draft_tree(const DraftTreeRows& tree) noexcept {
  tree.clear();
  const std::int64_t nodes = tree.parents.size();
  if (nodes > 64 * tree.words_per_row) return DraftTreeFault::size;
  for (const std::int32_t parent : tree.parents) {
    if (parent < -1 || parent >= nodes) return DraftTreeFault::parent;
  }
  for (std::int64_t i = 0; i < nodes; ++i) {
    if (tree.climb(i)) continue;
    tree.clear();
    return DraftTreeFault::cycle;
  }
  return DraftTreeFault::none;
}

inline DraftTreeFault fill_draft_tree(const DraftTreeBatch& args, std::int64_t t) noexcept {
  const std::int64_t begin = args.offsets[t], end = args.offsets[t + 1];
  if (begin < 0 || end < begin || end > args.parents.size()) return DraftTreeFault::offsets;
  return fill_draft_tree({args.parents.subspan(begin, end - begin), args.depth.data() + begin,
                          args.words.data() + begin * args.words_per_row, args.words_per_row});
}

}  // namespace detail

namespace portable {

/// Part `part` of `parts` of a call that has been validated. Parts may run in any order; bits do not depend on `parts`.
inline Status draft_tree_from_parents_part(const DraftTreeBatch& args, std::int32_t part, std::int32_t parts) noexcept {
  const detail::Range trees = detail::part_range(args.faults.size(), part, parts);
  for (std::int64_t t = trees.begin; t < trees.end; ++t) {
    args.faults[t] = static_cast<std::int32_t>(detail::fill_draft_tree(args, t));
  }
  return {};
}

/// The whole call on the calling thread. Contract: DraftTreeBatch.
inline Status draft_tree_from_parents(const DraftTreeBatch& args) noexcept {
  if (Status s = detail::validate(args)) return s;
  return draft_tree_from_parents_part(args, 0, 1);
}

}  // namespace portable
}  // namespace v0_1
}  // namespace prefixshare
