// SPDX-License-Identifier: Apache-2.0
// The topology as planning sees it: a forest without the nodes at which there is nothing to decide. Comes with
// plan.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "prefixshare/detail/draft_run.hpp"
#include "prefixshare/detail/plan_cost.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Where paths part or rows end. One node stands for several of the forest:
///   a node without rows and with one child is one with that child;
///   a node without tokens is one with its parent;
///   rows along a spine (a node with rows and one child) are one list, whose orders hide from each row what lies below;
///   a draft tree is one node with the context above it.
struct PlanTree {
  struct Node {
    std::int32_t node = -1;    ///< of the forest, the deepest: the path to it is what rows read
    std::int32_t parent = -1;  ///< of the tree
    std::int32_t begin = 0;    ///< path positions of its tokens
    std::int32_t end = 0;
    std::int32_t subtree_end = 0;
    std::int32_t row_begin = 0;  ///< into `rows`: own rows, then those below
    std::int32_t own_end = 0;
    std::int32_t row_end = 0;
    bool draft = false;

    std::int32_t own_rows() const noexcept { return own_end - row_begin; }
    std::int32_t all_rows() const noexcept { return row_end - row_begin; }
  };

  std::vector<Node> nodes;         ///< depth-first preorder
  std::vector<std::int32_t> rows;  ///< depth-first rows of the forest, those of empty paths first

  std::int32_t size() const noexcept { return static_cast<std::int32_t>(nodes.size()); }
  const Node& node(std::int32_t i) const noexcept { return nodes.data()[i]; }
  std::int32_t empty_rows() const noexcept {
    return nodes.empty() ? static_cast<std::int32_t>(rows.size()) : nodes[0].row_begin;
  }
};

class PlanTreeBuilder {
 public:
  PlanTreeBuilder(const Forest& forest, const LayerKind& kind, const PlanOptions& options) noexcept
      : forest_(forest), kind_(kind), options_(options) {}

  PlanTree build() {
    weigh_nodes();
    place_nodes();
    place_rows();
    return std::move(tree_);
  }

 private:
  /// What a node of the forest is to the plan, once nodes without tokens have gone into their parents.
  struct Weight {
    bool draft = false;
    std::int32_t rows = 0;          // that end here
    std::int32_t children = 0;      // with rows below
    std::int32_t high = INT32_MIN;  // greatest order of the rows
  };

  std::int32_t count() const noexcept { return static_cast<std::int32_t>(forest_.nodes.size()); }
  const prefixshare::Node& node(std::int32_t v) const noexcept { return forest_.nodes.data()[v]; }
  Weight& weight(std::int32_t v) noexcept { return weights_.data()[v]; }
  bool has_rows(std::int32_t v) const noexcept { return forest_.row_end.data()[v] > forest_.row_begin.data()[v]; }
  bool vanishes(std::int32_t v) noexcept { return node(v).length == 0 && !weight(v).draft; }

  void weigh_nodes() {
    weights_.assign(static_cast<std::size_t>(count()), Weight{});
    const bool drafts = options_.mode == Mode::fast && options_.sharing != Sharing::never;
    for (std::int32_t v = 0; v < count() && drafts;) {
      weight(v).draft = has_rows(v) && is_draft_root(forest_, v);
      v = weight(v).draft ? forest_.subtree_end.data()[v] : v + 1;
    }
    for (std::int32_t v = count() - 1; v >= 0; --v) {
      if (!has_rows(v)) continue;
      const std::int32_t end = weight(v).draft ? forest_.row_end.data()[v] : forest_.own_row_end.data()[v];
      for (std::int32_t r = forest_.row_begin.data()[v]; r < end; ++r) {
        weight(v).high = std::max(weight(v).high, forest_.order(r));
      }
      weight(v).rows += end - forest_.row_begin.data()[v];
      if (node(v).parent >= 0) add_to_parent(v);
    }
  }
  void add_to_parent(std::int32_t v) noexcept {
    Weight& above = weight(node(v).parent);
    if (!vanishes(v)) {
      ++above.children;
      return;
    }
    above.rows += weight(v).rows;
    above.children += weight(v).children;
    above.high = std::max(above.high, weight(v).high);
  }

  /// home_: the tree's node that has a node's rows. up_: the one that its children hang below.
  void place_nodes() {
    home_.assign(static_cast<std::size_t>(count()), -1);
    up_.assign(static_cast<std::size_t>(count()), -1);
    for (std::int32_t v = 0; v < count();) {
      if (!has_rows(v)) {
        v = forest_.subtree_end.data()[v];
        continue;
      }
      const std::int32_t above = node(v).parent < 0 ? -1 : up_.data()[node(v).parent];
      const Weight& w = weight(v);
      const bool passes = vanishes(v) || (w.rows == 0 && w.children == 1 && !w.draft);
      const std::int32_t home = passes ? above : place(v, above);
      home_.data()[v] = up_.data()[v] = home;
      v = w.draft ? forest_.subtree_end.data()[v] : v + 1;
    }
    for (std::int32_t i = tree_.size() - 1; i >= 0; --i) {
      const PlanTree::Node& n = tree_.node(i);
      if (n.parent < 0) continue;
      std::int32_t& end = tree_.nodes.data()[n.parent].subtree_end;
      end = std::max(end, n.subtree_end);
    }
  }
  std::int32_t place(std::int32_t v, std::int32_t above) {
    if (above >= 0 && continues(above, v)) {
      PlanTree::Node& n = tree_.nodes.data()[above];
      n.node = v;
      n.end = forest_.path_end(v);
      spines_.data()[above].rows += weight(v).rows;
      spines_.data()[above].high = std::max(spines_.data()[above].high, weight(v).high);
      return above;
    }
    PlanTree::Node n;
    n.node = v;
    n.parent = above;
    n.begin = above < 0 ? 0 : tree_.node(above).end;
    n.end = forest_.path_end(v);
    n.subtree_end = tree_.size() + 1;
    n.draft = weight(v).draft;
    tree_.nodes.push_back(n);
    spines_.push_back(weight(v));
    return n.subtree_end - 1;
  }

  /// Whether v, the only child of a node with rows, is better one with it: then no tile but the one that holds rows of
  /// both computes scores that its masks hide, and the path above is not read again for v's rows.
  bool continues(std::int32_t above, std::int32_t v) noexcept {
    const PlanTree::Node& n = tree_.node(above);
    const Weight& spine = spines_.data()[above];
    if (n.draft || weight(v).draft || weight(n.node).children != 1 || spine.high >= n.end) return false;
    if (options_.sharing == Sharing::never) return false;
    const std::int32_t limit = tile_row_limit(kind_), mixed = spine.rows % limit;
    std::int64_t seen = node(v).length;
    if (weight(v).rows > 0) {
      const std::int64_t first = forest_.order(forest_.row_begin.data()[v]);
      seen = std::clamp<std::int64_t>(first + std::min(weight(v).rows, limit - mixed) - n.end, 0, seen);
    }
    const CostModel& c = options_.cost;
    const double wasted = c.mac * mixed * kind_.group() * static_cast<double>(seen);
    return wasted <= c.item * static_cast<double>(work_pieces(kind_, c, 1)) / kv_elements(kind_) + c.kv_element * n.end;
  }

  /// Rows go to the homes of their nodes and stay in order there.
  void place_rows() {
    const std::int32_t rows = forest_.rows();
    std::vector<std::int32_t> home_of_row(static_cast<std::size_t>(rows), -1), next(tree_.nodes.size() + 1, 0);
    for (std::int32_t v = 0; v < count();) {
      const bool draft = weight(v).draft;
      const std::int32_t end = draft ? forest_.row_end.data()[v] : forest_.own_row_end.data()[v];
      std::fill(home_of_row.begin() + forest_.row_begin.data()[v], home_of_row.begin() + end, home_.data()[v]);
      v = draft ? forest_.subtree_end.data()[v] : v + 1;
    }
    for (const std::int32_t home : home_of_row) ++next.data()[home + 1];
    std::int32_t at = 0;
    for (std::int32_t i = -1; i < tree_.size(); ++i) {
      const std::int32_t own = next.data()[i + 1];
      next.data()[i + 1] = at;
      at += own;
      if (i >= 0) tree_.nodes.data()[i].row_begin = next.data()[i + 1], tree_.nodes.data()[i].own_end = at;
    }
    for (PlanTree::Node& n : tree_.nodes) n.row_end = tree_.node(n.subtree_end - 1).own_end;
    tree_.rows.resize(static_cast<std::size_t>(rows));
    for (std::int32_t r = 0; r < rows; ++r) tree_.rows.data()[next.data()[home_of_row.data()[r] + 1]++] = r;
  }

  const Forest& forest_;
  const LayerKind& kind_;
  const PlanOptions& options_;
  PlanTree tree_;
  std::vector<Weight> weights_;  // per node of the forest
  std::vector<Weight> spines_;   // per node of the tree: the rows that it has so far
  std::vector<std::int32_t> home_, up_;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
