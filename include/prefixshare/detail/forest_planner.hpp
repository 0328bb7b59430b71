// SPDX-License-Identifier: Apache-2.0
// From a forest to tiles and runs: where each path range is read. Comes with plan.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "prefixshare/detail/plan_backward.hpp"
#include "prefixshare/detail/plan_builder.hpp"
#include "prefixshare/detail/share_planner.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Forest -> tiles. A tile is (rows, deepest node, path range); sharing decides at which node a range is read.
class ForestPlanner : PlanBuilder {
 public:
  ForestPlanner(const Forest& forest, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept
      : PlanBuilder(kind, options, plan), forest_(forest) {}

  Status build() {
    start(forest_.rows(), forest_.fingerprint);
    plan_.pools = forest_.pools;
    plan_.pages = forest_.pages;
    plan_.segments = forest_.segments;
    for (const Node& n : forest_.nodes) {
      plan_.deltas.push_back(n.delta);
      if (n.length_slot < 0) continue;
      const std::size_t slot = static_cast<std::size_t>(n.length_slot);
      if (plan_.slot_capacity.size() <= slot) plan_.slot_capacity.resize(slot + 1, 0);
      plan_.slot_capacity[slot] = n.length;
    }
    plan_.header.length_slots = static_cast<std::int32_t>(plan_.slot_capacity.size());
    sort_deltas();
    tree_ = PlanTreeBuilder(forest_, kind_, options_).build();
    make_tiles();
    std::vector<std::int32_t> callers_rows;
    callers_rows.reserve(tree_.rows.size());
    for (const std::int32_t row : tree_.rows) callers_rows.push_back(forest_.row_map.data()[row]);
    if (Status s = finish(callers_rows); !s.ok()) return s;
    if (!options_.backward) return Status{};
    std::vector<NamedRange> named;
    for (const Node& n : forest_.nodes) {
      if (n.length > 0) named.push_back({n.segment, n.begin, n.begin + n.length});
    }
    return BackwardPlanner(options_.cost, std::move(named), &plan_).build();
  }

 private:
  using Index = std::size_t;
  using Reading = NodeDecision::Reading;
  using Reason = NodeDecision::Reason;

  void make_tiles() {
    emit_sequences(0, tree_.empty_rows());  // empty paths
    SharePlanner planner(tree_, kind_, options_);
    std::vector<std::int32_t> starts(tree_.nodes.size());  // per node: where the reading of its children starts
    partial_budget_ = std::int64_t{kPartialRowsPerRow - 1} * forest_.rows() + kPartialRowsExtra;
    for (std::int32_t i = 0; i < tree_.size(); ++i) {
      const PlanTree::Node& n = tree_.node(i);
      const NodeDecision d = decide(i, n.parent < 0 ? 0 : starts.data()[n.parent], &planner);
      starts.data()[i] = emit(n, d);
      plan_.decisions.push_back(d);
    }
  }

  NodeDecision decide(std::int32_t i, std::int32_t x, SharePlanner* planner) {
    const PlanTree::Node& n = tree_.node(i);
    NodeDecision d{n.node, n.begin, n.end, x, n.own_rows(), n.all_rows()};
    d.reading = n.draft ? Reading::draft : n.own_rows() == n.all_rows() ? Reading::alone : Reading::folded;
    if (n.draft || count_readers(i) < 2) return d;
    if (options_.sharing == Sharing::automatic) {
      const SharePlanner::Choice c = planner->choose(i, x);
      d.folded_cost = c.folded;
      d.shared_cost = c.shared < std::numeric_limits<double>::infinity() ? c.shared : 0;
      d.reason = Reason::cost;
      if (c.shared < c.folded) d.reading = Reading::shared;
    } else {
      d.reason = Reason::asked;
      if (options_.sharing == Sharing::always) d.reading = Reading::shared;
      if (options_.sharing == Sharing::given && options_.shared[n.node] != 0) d.reading = Reading::shared;
    }
    if (shared_end(n, options_.mode) <= x) {
      d.reading = Reading::folded;
      d.reason = Reason::chunk;
    } else if (d.reading == Reading::shared && !invariant() && n.all_rows() > partial_budget_) {
      d.reading = Reading::folded;
      d.reason = Reason::budget;
    }
    return d;
  }
  /// Its children with rows, and its own rows.
  std::int32_t count_readers(std::int32_t i) const noexcept {
    std::int32_t readers = tree_.node(i).own_rows() > 0;
    for (std::int32_t c = i + 1; c < tree_.node(i).subtree_end; c = tree_.node(c).subtree_end) ++readers;
    return readers;
  }

  /// Emits the tiles that end at a node and returns where the paths below it go on.
  std::int32_t emit(const PlanTree::Node& n, const NodeDecision& d) {
    if (n.draft) {
      emit_draft(n, d.from);
      return n.end;
    }
    if (d.reading != Reading::shared) {
      emit_own(n, d.from);
      return d.from;
    }
    const std::int32_t end = shared_end(n, options_.mode);
    partial_budget_ -= n.all_rows();
    if (n.all_rows() <= tile_row_limit(kind_)) {
      emit_tiles(n.row_begin, n.row_end, n.node, d.from, end);
      if (end < n.end) emit_tiles(n.row_begin, n.own_end, n.node, end, n.end);
    } else {  // own rows stay out of the shared tiles: they end here and need no partial state
      emit_tiles(n.row_begin, n.own_end, n.node, d.from, n.end);
      emit_tiles(n.own_end, n.row_end, n.node, d.from, end);
    }
    return end;
  }

  /// All own rows of a node together, or each sequence alone when nothing is shared.
  void emit_own(const PlanTree::Node& n, std::int32_t x) {
    if (options_.sharing == Sharing::never) {
      emit_sequences(n.row_begin, n.own_end);
    } else {
      emit_tiles(n.row_begin, n.own_end, n.node, x, n.end);
    }
  }
  void emit_sequences(std::int32_t begin, std::int32_t end) {
    while (begin < end) {
      std::int32_t stop = begin + 1;
      const std::int32_t sequence = sequence_of(begin), node = forest_.sequences.data()[sequence].node;
      while (stop < end && sequence_of(stop) == sequence) ++stop;
      emit_tiles(begin, stop, node, 0, forest_.path_end(node));
      begin = stop;
    }
  }

  /// Tiles of the tree's rows [begin, end) against path positions [x, y) of node v's path.
  void emit_tiles(std::int32_t begin, std::int32_t end, std::int32_t v, std::int32_t x, std::int32_t y) {
    for (std::int32_t at = begin; at < end; at += tile_row_limit(kind_)) {
      const std::int32_t count = std::min(tile_row_limit(kind_), end - at);
      open(at, count, x == 0);
      add_path(at, count, v, x, y);
      close();
    }
  }
  void open(std::int32_t row, std::int32_t count, bool first) {
    open_tile(static_cast<std::int32_t>(plan_.instances.size()), count, first);
    tile_row_ = row;
    tile_deltas_.clear();
  }
  /// A tile without runs still needs its rows.
  void close() {
    if (tile_deltas_.empty()) instances_for(delta_index(0));
  }

  /// First instance of the open tile's rows for a delta; made when first asked for.
  std::int32_t instances_for(std::int32_t delta) {
    for (const auto& [known, first] : tile_deltas_) {
      if (known == delta) return first;
    }
    const std::int32_t first = static_cast<std::int32_t>(plan_.instances.size());
    for (std::int32_t i = 0; i < plan_.tiles.back().count; ++i) {
      RowInstance r = row_instance(tile_row_ + i);
      r.delta = delta;
      plan_.instances.push_back(r);
    }
    tile_deltas_.push_back({delta, first});
    return first;
  }
  std::int32_t sequence_of(std::int32_t row) const noexcept {
    return forest_.row_sequence.data()[tree_.rows.data()[row]];
  }
  RowInstance row_instance(std::int32_t row) const noexcept {
    RowInstance r;
    r.row = forest_.row_map.data()[tree_.rows.data()[row]];
    r.order = r.position = forest_.order(tree_.rows.data()[row]);
    const std::int32_t node = forest_.sequences.data()[sequence_of(row)].node;
    r.length_slot = node < 0 ? -1 : forest_.nodes.data()[node].length_slot;
    return r;
  }

  struct Orders {
    std::int32_t low, lowest, high;  // least and greatest order at capacity; least at any actual length
  };
  Orders orders(std::int32_t row, std::int32_t count) const noexcept {
    Orders o{INT32_MAX, INT32_MAX, INT32_MIN};
    for (std::int32_t i = 0; i < count; ++i) {
      const RowInstance r = row_instance(row + i);
      o.low = std::min(o.low, r.order);
      o.lowest = std::min(o.lowest, lowest_order(r));
      o.high = std::max(o.high, r.order);
    }
    return o;
  }

  /// Runs of path positions [x, y) of node v, less what no row of the tile can see, in path order.
  void add_path(std::int32_t row, std::int32_t count, std::int32_t v, std::int32_t x, std::int32_t y) {
    const Orders o = orders(row, count);
    y = static_cast<std::int32_t>(std::min<std::int64_t>(y, std::int64_t{o.high} + 1));
    if (kind_.window >= 0) {
      std::int64_t low = std::max<std::int64_t>(x, std::int64_t{o.lowest} - kind_.window + 1);
      if (invariant()) low = low / kInvariantChunk * kInvariantChunk;
      x = static_cast<std::int32_t>(std::min<std::int64_t>(std::max<std::int64_t>(x, low), y));
    }
    path_.clear();
    for (std::int32_t n = v; n >= 0 && forest_.path_end(n) > x; n = forest_.nodes[static_cast<Index>(n)].parent) {
      if (forest_.path_begin[static_cast<Index>(n)] < y) path_.push_back(n);
    }
    bool joined = false;
    for (auto n = path_.rbegin(); n != path_.rend(); ++n) joined = add_piece(*n, x, y, o, joined);
  }

  /// The part of node n inside [x, y); grows the run before it where the keys go on without a seam.
  bool add_piece(std::int32_t n, std::int32_t x, std::int32_t y, const Orders& o, bool joinable) {
    const Node& node = forest_.nodes[static_cast<Index>(n)];
    const std::int32_t path = forest_.path_begin[static_cast<Index>(n)];
    const std::int32_t from = std::max(x, path), to = std::min(y, path + node.length);
    if (from >= to) return joinable;
    KeyRun run;
    run.segment = node.segment;
    run.token = node.begin + (from - path);
    run.length = to - from;
    run.position = from;
    run.length_slot = node.length_slot;
    run.length_origin = from - path;
    run.first_instance = instances_for(delta_index(node.delta));
    if (joinable && node.length_slot < 0) {
      KeyRun& last = plan_.runs.back();
      if (last.segment == run.segment && last.token + last.length == run.token &&
          last.first_instance == run.first_instance) {
        last.length += run.length;
        last.mask = mask_of(last, o);
        return true;
      }
    }
    run.mask = mask_of(run, o);
    add_run(run);
    return node.length_slot < 0;
  }
  MaskKind mask_of(const KeyRun& run, const Orders& o) const noexcept {
    const bool below = run.position + run.length - 1 <= o.lowest;
    const bool inside = kind_.window < 0 || std::int64_t{run.position} > std::int64_t{o.high} - kind_.window;
    return below && inside && run.length_slot < 0 ? MaskKind::full : MaskKind::interval;
  }

  /// Rows of a draft tree: the path down to its root, then all of it as one run with ancestor bits.
  void emit_draft(const PlanTree::Node& n, std::int32_t x) {
    const DraftRun run = draft_run(forest_, n.node);
    KeyRun draft;
    draft.segment = run.segment;
    draft.token = run.token;
    draft.length = run.length;
    draft.position = n.end;
    draft.mask = MaskKind::bits;
    for (std::int32_t at = n.row_begin; at < n.row_end; at += tile_row_limit(kind_)) {
      const std::int32_t count = std::min(tile_row_limit(kind_), n.row_end - at);
      open(at, count, x == 0);
      add_path(at, count, n.node, x, n.end);
      draft.first_instance = instances_for(delta_index(forest_.nodes.data()[n.node + 1].delta));
      draft.first_word = static_cast<std::int64_t>(plan_.words.size());
      for (std::int32_t i = 0; i < count; ++i) {
        plan_.words.push_back(draft_word(forest_, run, n.node, tree_.rows.data()[at + i], kind_.window));
      }
      add_run(draft);
    }
  }

  const Forest& forest_;
  PlanTree tree_;
  std::int64_t partial_budget_ = 0;
  std::int32_t tile_row_ = 0;
  std::vector<std::pair<std::int32_t, std::int32_t>> tile_deltas_;  // of the open tile: delta index, first instance
  std::vector<std::int32_t> path_;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
