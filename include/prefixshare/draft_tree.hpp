// SPDX-License-Identifier: Apache-2.0
// Draft tree: what a step of tree verification needs to know of a parent array. Depths, ancestor bits, accepted path.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/span.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/stream.hpp"
#include "prefixshare/tensor.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// Depths and visibility of draft tokens, one per node of a parent array.
/// Plain data. Row i's words are words[i * words_per_row ...]; they serve as a MaskKind::bits rectangle as they are.
struct DraftTree {
  std::vector<std::int32_t> depth;   ///< per node: edges to its root; a RoPE position less the root's
  std::vector<std::uint64_t> words;  ///< [nodes, words_per_row]: bit j of row i is set iff i is j or hangs below j
  std::int32_t words_per_row = 0;    ///< ceil(nodes / 64)

  /// Whether node i sees node j.
  bool sees(std::int32_t i, std::int32_t j) const noexcept {
    return words.data()[std::int64_t{i} * words_per_row + j / 64] >> (j % 64) & 1;
  }
};

/// Depths and ancestor bits of a parent array: -1 for a root, of which there may be many; any order of nodes; none at
/// all is legal. Iterative: deep chains are fine; the bits take nodes^2 / 8 bytes. On error `*tree` is unchanged.
/// Errors: invalid_argument (null, parent out of range, cycle), capacity_exceeded, out_of_memory.
/// Source: Cai et al., "Medusa", 2024, section 2.1.3 (tree attention).
Status draft_tree_from_parents(Span<const std::int32_t> parents, DraftTree* tree) noexcept;

/// What is wrong with one tree of a batch.
enum class DraftTreeFault : std::int32_t {
  none,
  offsets,  ///< descending, or beyond the parents
  size,     ///< more nodes than a row has bits
  parent,   ///< out of range
  cycle
};

/// Depths and ancestor bits of many trees at once, where the trees are: in host memory, or in device memory and never
/// on the host. What the lists hold is judged tree by tree, alike in both spaces: a tree with a fault gets depths 0 and
/// no bits, so that its rows see nothing, and the fault's number; the others get what DraftTree says. Bits behind a
/// tree's last node are clear. Nodes of no tree are not written. Outputs overlap nothing. No trees at all are ok.
/// Workspace none. Bits do not depend on the number of parts. Errors: invalid_argument, unsupported (rows longer than
/// an implementation takes), backend_unavailable.
struct DraftTreeBatch {
  Span<const std::int32_t> parents;  ///< [nodes] of all trees, counted in the tree; -1 for a root; any order
  Span<const std::int64_t> offsets;  ///< [trees + 1]: tree t is nodes [offsets[t], offsets[t + 1])
  Span<std::int32_t> depth;          ///< out, [nodes]
  Span<std::uint64_t> words;         ///< out, [nodes, words_per_row]
  std::int32_t words_per_row = 1;    ///< a tree has up to 64 nodes for each of them
  Span<std::int32_t> faults;         ///< out, [trees]: 0, or a DraftTreeFault
  MemorySpace space = MemorySpace::host;
  Stream stream = {};
};

/// The path that verification accepts: from a root down to the deepest node which is accepted with all its ancestors.
/// Ties: the lowest index. Empty when no root is accepted. accepted[i] is 0 or not. On error `*path` is unchanged.
/// Errors: as draft_tree_from_parents, and invalid_argument if the sizes differ.
Status accept_path(Span<const std::int32_t> parents, Span<const std::uint8_t> accepted,
                   std::vector<std::int32_t>* path) noexcept;

namespace detail {

/// Parents before children. Refuses what is no forest.
inline Status order_parents(const char* op, Span<const std::int32_t> parents, std::vector<std::int32_t>* order) {
  if (Status s = check_span(op, "parents", parents)) return s;
  if (Status s = check_parent_range(op, parents)) return s;
  const auto count = static_cast<std::int32_t>(parents.size());
  const auto parent_of = [parents](std::int32_t i) { return parents[i]; };
  *order = depth_first(count, parent_of);
  if (static_cast<std::int64_t>(order->size()) == parents.size()) return {};
  const std::int32_t i = node_on_cycle(count, *order, parent_of);
  return refuse_cycle(op, "parents", "", i, parents[i]);
}

inline DraftTree make_draft_tree(Span<const std::int32_t> parents, const std::vector<std::int32_t>& order) {
  const auto nodes = static_cast<std::size_t>(parents.size());
  const std::size_t words_per_row = (nodes + 63) / 64;
  DraftTree tree;
  tree.words_per_row = static_cast<std::int32_t>(words_per_row);
  tree.depth.resize(nodes, 0);
  tree.words.resize(nodes * words_per_row, 0);
  for (std::int32_t i : order) {
    std::uint64_t* row = tree.words.data() + std::int64_t{i} * tree.words_per_row;
    if (const std::int32_t parent = parents[i]; parent >= 0) {
      const std::uint64_t* above = tree.words.data() + std::int64_t{parent} * tree.words_per_row;
      std::copy(above, above + tree.words_per_row, row);
      tree.depth.data()[i] = tree.depth.data()[parent] + 1;
    }
    row[i / 64] |= std::uint64_t{1} << (i % 64);
  }
  return tree;
}

inline std::vector<std::int32_t> find_accepted_path(Span<const std::int32_t> parents, Span<const std::uint8_t> accepted,
                                                    const std::vector<std::int32_t>& order) {
  std::vector<std::int32_t> lengths(order.size(), 0);  // nodes of the accepted path that ends here; 0: not accepted
  Span<std::int32_t> length = lengths;
  for (std::int32_t i : order) {
    const std::int32_t above = parents[i] < 0 ? 0 : length[parents[i]];
    if (accepted[i] && (parents[i] < 0 || above > 0)) length[i] = above + 1;
  }
  const auto deepest = std::max_element(lengths.begin(), lengths.end());  // the first of several
  std::vector<std::int32_t> path;
  if (deepest == lengths.end() || *deepest == 0) return path;
  for (auto i = static_cast<std::int32_t>(deepest - lengths.begin()); i >= 0; i = parents[i]) path.push_back(i);
  std::reverse(path.begin(), path.end());
  return path;
}

}  // namespace detail

inline Status draft_tree_from_parents(Span<const std::int32_t> parents, DraftTree* tree) noexcept {
  constexpr const char* kOp = "draft_tree_from_parents";
  if (Status s = detail::check_pointer(kOp, "tree", tree)) return s;
  try {
    std::vector<std::int32_t> order;
    if (Status s = detail::order_parents(kOp, parents, &order)) return s;
    *tree = detail::make_draft_tree(parents, order);
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "tree");
  }
}

inline Status accept_path(Span<const std::int32_t> parents, Span<const std::uint8_t> accepted,
                          std::vector<std::int32_t>* path) noexcept {
  constexpr const char* kOp = "accept_path";
  if (Status s = detail::check_pointer(kOp, "path", path)) return s;
  if (Status s = detail::check_span(kOp, "accepted", accepted)) return s;
  if (accepted.size() != parents.size()) {
    return detail::refuse(StatusCode::invalid_argument, kOp, "accepted", -1, "size", accepted.size(),
                          "==", parents.size());
  }
  try {
    std::vector<std::int32_t> order;
    if (Status s = detail::order_parents(kOp, parents, &order)) return s;
    *path = detail::find_accepted_path(parents, accepted, order);
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "path");
  }
}

}  // namespace v0_1
}  // namespace prefixshare
