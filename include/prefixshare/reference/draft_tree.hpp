// SPDX-License-Identifier: Apache-2.0
// Reference of draft_tree_from_parents for a batch: every node climbs to its root.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/detail/validate_ops.hpp"
#include "prefixshare/draft_tree.hpp"
#include "prefixshare/reference/matrix.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace reference {

/// Nodes on the way from i to its root, i among them; -1 if the way has no end, -2 if it leaves the tree.
inline std::int64_t way_up(Span<const std::int32_t> parents, std::int64_t i) {
  for (std::int64_t nodes = 0; nodes <= parents.size(); ++nodes) {
    if (i == -1) return nodes;
    if (i < -1 || i >= parents.size()) return -2;
    i = parents[i];
  }
  return -1;
}

inline DraftTreeFault fault_of(const DraftTreeBatch& args, std::int64_t t) {
  const std::int64_t begin = args.offsets[t], end = args.offsets[t + 1];
  if (begin < 0 || end < begin || end > args.parents.size()) return DraftTreeFault::offsets;
  if (end - begin > 64 * std::int64_t{args.words_per_row}) return DraftTreeFault::size;
  const Span<const std::int32_t> parents = args.parents.subspan(begin, end - begin);
  DraftTreeFault fault = DraftTreeFault::none;
  for (std::int64_t i = 0; i < parents.size(); ++i) {
    const std::int64_t nodes = way_up(parents, i);
    if (nodes == -2) return DraftTreeFault::parent;
    if (nodes == -1) fault = DraftTreeFault::cycle;
  }
  return fault;
}

inline void fill_tree(const DraftTreeBatch& args, std::int64_t t) {
  const DraftTreeFault fault = fault_of(args, t);
  args.faults[t] = static_cast<std::int32_t>(fault);
  if (fault == DraftTreeFault::offsets) return;
  const std::int64_t begin = args.offsets[t], nodes = args.offsets[t + 1] - begin;
  for (std::int64_t i = 0; i < nodes; ++i) {
    std::uint64_t* row = args.words.data() + (begin + i) * args.words_per_row;
    std::fill_n(row, args.words_per_row, std::uint64_t{0});
    args.depth[begin + i] = 0;
    if (fault != DraftTreeFault::none) continue;
    for (std::int64_t a = i; a >= 0; a = args.parents[begin + a]) row[a / 64] |= std::uint64_t{1} << (a % 64);
    args.depth[begin + i] = static_cast<std::int32_t>(way_up(args.parents.subspan(begin, nodes), i) - 1);
  }
}

inline Status draft_tree_from_parents_part(const DraftTreeBatch& args, std::int32_t i, std::int32_t n) noexcept {
  return run_part("draft_tree_from_parents", args.faults.size(), i, n, [&](std::int64_t t) { fill_tree(args, t); });
}

inline Status draft_tree_from_parents(const DraftTreeBatch& args) noexcept {
  if (Status s = prefixshare::detail::validate(args)) return s;
  return draft_tree_from_parents_part(args, 0, 1);
}

}  // namespace reference
}  // namespace v0_1
}  // namespace prefixshare
