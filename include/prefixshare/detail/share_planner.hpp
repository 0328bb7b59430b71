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
/// windows of kWindow levels, from the top, of which the upper kKept levels are kept and the others are seen again from
/// nearer. What lies below a window counts as rows that read to its edge, once for all of them or each for itself,
/// whichever is cheaper.
/// The same recursion over prefix lengths instead of costs is the exact form of the grouping of BatchLLM (arXiv
/// 2412.03594), which is greedy; folding and sharing are the two choices per edge of FastTree (MLSys 2025), greedy too.
class SharePlanner {
 public:
  SharePlanner(const PlanTree& tree, const LayerKind& kind, const PlanOptions& options)
      : tree_(tree),
        mode_(options.mode),
        limit_(tile_row_limit(kind)),
        cost_(kind, options),
        choice_(tree.nodes.size()),
        folded_key_(tree.nodes.size(), 0),
        level_(tree.nodes.size(), 0),
        candidate_(tree.nodes.size(), 0),
        first_(tree.nodes.size(), 0) {
    for (std::int32_t i = tree.size() - 1; i >= 0; --i) {
      const PlanTree::Node& n = tree.node(i);
      folded_key_.data()[i] += cost_.tiles(n.own_rows(), 1) - cost_.tiles(n.own_rows(), 0);
      if (n.parent >= 0) folded_key_.data()[n.parent] += folded_key_.data()[i];
    }
  }

  /// What the rest of the plan costs at and below a node whose reading starts at x, when it is shared and when not.
  struct Choice {
    std::int32_t x = -1;
    double shared = 0;
    double folded = 0;
  };
  Choice choose(std::int32_t i, std::int32_t x) {
    if (choice_.data()[i].x != x) solve(i, x);
    return choice_.data()[i];
  }

 private:
  static constexpr std::int32_t kWindow = 32;
  static constexpr std::int32_t kKept = 16;

  std::int32_t level(std::int32_t i) const noexcept { return level_.data()[i]; }
  std::size_t entries(std::int32_t i) const noexcept { return static_cast<std::size_t>(level(i)) + 1; }

  /// Entry j of a node: its reading starts at x_[j], the end of its ancestor j - 1 levels below the window's root, or
  /// at the root's own x. One entry more holds what its children add when it is shared.
  void solve(std::int32_t root, std::int32_t x) {
    collect(root, x);
    for (auto i = window_.rbegin(); i != window_.rend(); ++i) {
      const PlanTree::Node& n = tree_.node(*i);
      const std::size_t first = first_.data()[*i], children = first + entries(*i);
      for (std::size_t at = first; at < children; ++at) {
        const bool edge = level(*i) == kWindow;
        folded_[at] = edge ? below(*i, x_[at]) : own(n, x_[at]) + below_[at];
        shared_[at] = edge ? folded_[at] : share(n, x_[at]) + below_[children];
      }
      if (*i != root) add_to_parent(*i);
    }
    keep();
  }

  /// The window's nodes in preorder, their entries, and where each entry starts to read.
  void collect(std::int32_t root, std::int32_t x) {
    window_.clear();
    x_.clear();
    level_.data()[root] = 0;
    for (std::int32_t i = root; i < tree_.node(root).subtree_end;) {
      const std::int32_t parent = tree_.node(i).parent;
      if (i != root) level_.data()[i] = level(parent) + 1;
      first_.data()[i] = x_.size();
      window_.push_back(i);
      if (i == root) x_.push_back(x);
      if (i != root) {
        const std::size_t above = first_.data()[parent];
        for (std::size_t j = 0; j + 1 < entries(i); ++j) x_.push_back(x_[above + j]);
        x_.push_back(shared_end(tree_.node(parent), mode_));
      }
      x_.push_back(0);  // no place to read from: the entry of the children
      i = level(i) == kWindow ? tree_.node(i).subtree_end : i + 1;
    }
    shared_.assign(x_.size(), 0);
    folded_.assign(x_.size(), 0);
    below_.assign(x_.size(), 0);
  }

  void add_to_parent(std::int32_t i) noexcept {
    const std::size_t mine = first_.data()[i], above = first_.data()[tree_.node(i).parent];
    for (std::size_t j = 0; j < entries(i); ++j) below_[above + j] += std::min(shared_[mine + j], folded_[mine + j]);
  }

  /// From the root down: the entry that holds at each node, given what its ancestors choose.
  void keep() noexcept {
    for (const std::int32_t i : window_) {
      if (level(i) >= kKept) continue;
      std::int32_t& candidate = candidate_.data()[i];
      candidate = 0;
      if (level(i) > 0) {
        const std::int32_t parent = tree_.node(i).parent;
        const Choice& above = choice_.data()[parent];
        candidate = above.shared < above.folded ? level(i) : candidate_.data()[parent];
      }
      const std::size_t at = first_.data()[i] + static_cast<std::size_t>(candidate);
      choice_.data()[i] = {x_[at], shared_[at], folded_[at]};
    }
  }

  /// Rows that end at n read [x, its end) for themselves.
  double own(const PlanTree::Node& n, std::int32_t x) const noexcept { return alone(n.own_rows(), x, n.end); }
  /// Rows at and below node i read the path down to it.
  double below(std::int32_t i, std::int32_t x) const noexcept {
    const PlanTree::Node& n = tree_.node(i);
    const double partials = cost_.partials(n.all_rows()), keys = std::max(n.begin - x, 0);
    const double folded = keys * folded_key_.data()[i] + (x > 0 ? partials : 0);
    return std::min(folded, cost_.tiles(n.all_rows(), std::max(n.begin - x, 0)) + 2 * partials);
  }
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
  std::vector<Choice> choice_;           // per node, once it was kept
  std::vector<double> folded_key_;       // per node: one key against each tile of own rows at and below
  std::vector<std::int32_t> level_;      // per node of the window: levels below its root
  std::vector<std::int32_t> candidate_;  // per node of the window: the entry that holds
  std::vector<std::size_t> first_;       // per node of the window: its first entry
  std::vector<std::int32_t> window_;
  std::vector<std::int32_t> x_;
  std::vector<double> shared_, folded_, below_;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
