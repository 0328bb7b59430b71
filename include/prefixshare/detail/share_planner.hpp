// SPDX-License-Identifier: Apache-2.0
// Which nodes are read once for all rows below them: the cheapest assignment under the cost model. Comes with plan.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "prefixshare/detail/plan_tree.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Where a node's range ends for those who share it: in batch_invariant mode at a whole chunk.
inline std::int32_t shared_end(const PlanTree::Node& n, Mode mode) noexcept {
  return mode == Mode::batch_invariant ? n.end / kInvariantChunk * kInvariantChunk : n.end;
}

/// A path is read in pieces: it starts at x = 0, and every node that shares reads [x, its end) once for all rows below
/// and moves x there for them. With best(v, x) the least cost of everything at and below v,
///   best(v, x) = min(share(v, x) + sum_c best(c, end of v), fold(v, x) + sum_c best(c, x))
/// over the children c, where x is 0 or the end of an ancestor: exact, in O(nodes * depth). Deeper trees are solved in
/// windows of kWindow levels, from the top; what lies below a window counts as rows that read to its edge.
/// The same recursion over prefix lengths instead of costs is the exact form of BatchLLM's grouping (Zheng et al.,
/// "BatchLLM", 2024, section 4.1, which is greedy); folding and sharing are the two choices per edge of FastTree (Pan
/// et al., 2025, section 4).
class SharePlanner {
 public:
  SharePlanner(const PlanTree& tree, const LayerKind& kind, const PlanOptions& options)
      : tree_(tree),
        mode_(options.mode),
        limit_(tile_row_limit(kind)),
        cost_(kind, options),
        level_(tree.nodes.size(), 0),
        candidate_(tree.nodes.size(), 0),
        first_(tree.nodes.size(), 0) {}

  /// What the rest of the plan costs at and below node i, whose reading starts at x, when it is shared and when not.
  struct Choice {
    double shared = 0;
    double folded = 0;
  };
  /// Nodes are asked for in preorder, and settled before the nodes below them.
  Choice choose(std::int32_t i, std::int32_t x) {
    if (level(i) == 0) solve(i, x);
    const std::size_t at = first_.data()[i] + static_cast<std::size_t>(candidate_.data()[i]);
    return {shared_[at], folded_[at]};
  }
  void settle(std::int32_t i, bool shared) noexcept {
    for (std::int32_t c = i + 1; c < tree_.node(i).subtree_end; c = tree_.node(c).subtree_end) {
      level_.data()[c] = (level(i) + 1) % kWindow;
      candidate_.data()[c] = level(c) == 0 ? 0 : shared ? level(c) : candidate_.data()[i];
    }
  }

 private:
  static constexpr std::int32_t kWindow = 32;

  std::int32_t level(std::int32_t i) const noexcept { return level_.data()[i]; }

  /// Entry j of a node: its reading starts at x_[j], the end of its ancestor j - 1 levels below the window's root, or
  /// at the root's own x. One entry more holds what its children add when it is shared.
  void solve(std::int32_t root, std::int32_t x) {
    collect(root, x);
    for (auto i = window_.rbegin(); i != window_.rend(); ++i) {
      const PlanTree::Node& n = tree_.node(*i);
      const std::size_t first = first_.data()[*i], entries = static_cast<std::size_t>(level(*i)) + 1;
      const bool edge = *i != root && level(*i) == 0;
      for (std::size_t j = 0; j < (edge ? kEdgeEntries : entries); ++j) {
        if (edge) {
          folded_[first + j] = below(n, x_[first + j]);
          continue;
        }
        folded_[first + j] = own(n, x_[first + j]) + below_[first + j];
        shared_[first + j] = share(n, x_[first + j]) + below_[first + entries];
      }
      if (*i != root) add_to_parent(*i, edge ? kEdgeEntries : entries);
    }
  }

  static constexpr std::size_t kEdgeEntries = static_cast<std::size_t>(kWindow) + 1;

  /// The window's nodes in preorder, their entries, and where each entry starts to read.
  void collect(std::int32_t root, std::int32_t x) {
    window_.clear();
    x_.clear();
    for (std::int32_t i = root; i < tree_.node(root).subtree_end;) {
      const std::int32_t parent = tree_.node(i).parent;
      if (i != root) level_.data()[i] = (level(parent) + 1) % kWindow;
      const bool edge = i != root && level(i) == 0;
      const std::size_t entries = edge ? kEdgeEntries : static_cast<std::size_t>(level(i)) + 1;
      first_.data()[i] = x_.size();
      window_.push_back(i);
      if (i == root) x_.push_back(x);
      if (i != root) {
        const std::size_t above = first_.data()[parent];
        for (std::size_t j = 0; j + 1 < entries; ++j) x_.push_back(x_[above + j]);
        x_.push_back(shared_end(tree_.node(parent), mode_));
      }
      x_.push_back(0);  // no place to read from: the entry of the children
      i = edge ? tree_.node(i).subtree_end : i + 1;
    }
    shared_.assign(x_.size(), 0);
    folded_.assign(x_.size(), 0);
    below_.assign(x_.size(), 0);
  }

  void add_to_parent(std::int32_t i, std::size_t entries) noexcept {
    const std::size_t mine = first_.data()[i], above = first_.data()[tree_.node(i).parent];
    const bool edge = level(i) == 0;
    for (std::size_t j = 0; j < entries; ++j) {
      below_[above + j] += edge ? folded_[mine + j] : std::min(shared_[mine + j], folded_[mine + j]);
    }
  }

  /// Rows that end at n read [x, its end) for themselves.
  double own(const PlanTree::Node& n, std::int32_t x) const noexcept { return alone(n.own_rows(), x, n.end); }
  /// Rows at and below n read the path down to n.
  double below(const PlanTree::Node& n, std::int32_t x) const noexcept { return alone(n.all_rows(), x, n.begin); }
  double alone(std::int32_t rows, std::int32_t x, std::int32_t end) const noexcept {
    if (rows == 0) return 0;
    return cost_.tiles(rows, std::max(end - x, 0)) + (x > 0 ? cost_.partials(rows) : 0);
  }

  /// [x, end) once for all rows below. Own rows come along where that fits one tile.
  double share(const PlanTree::Node& n, std::int32_t x) const noexcept {
    const std::int32_t end = shared_end(n, mode_);
    if (n.draft || end <= x) return std::numeric_limits<double>::infinity();
    if (n.all_rows() > limit_) {
      const std::int32_t rows = n.all_rows() - n.own_rows();
      return own(n, x) + cost_.tiles(rows, end - x) + cost_.partials(rows);
    }
    const double rest = end < n.end ? alone(n.own_rows(), end, n.end) : 0;
    return cost_.tiles(n.all_rows(), end - x) + cost_.partials(n.all_rows()) + rest;
  }

  const PlanTree& tree_;
  Mode mode_;
  std::int32_t limit_;
  TileCost cost_;
  std::vector<std::int32_t> level_;      // per node: levels below the root of its window
  std::vector<std::int32_t> candidate_;  // per node: the entry that holds, once its parent is settled
  std::vector<std::size_t> first_;       // per node of the window: its first entry
  std::vector<std::int32_t> window_;
  std::vector<std::int32_t> x_;
  std::vector<double> shared_, folded_, below_;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
