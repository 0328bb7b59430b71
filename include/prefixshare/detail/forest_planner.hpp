// SPDX-License-Identifier: Apache-2.0
// From a forest to tiles and runs: where each path range is read. Comes with plan.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "prefixshare/detail/plan_backward.hpp"
#include "prefixshare/detail/plan_builder.hpp"

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
    make_tiles();
    if (Status s = finish(forest_.row_map); !s.ok()) return s;
    if (!options_.backward) return Status{};
    std::vector<NamedRange> named;
    for (const Node& n : forest_.nodes) {
      if (n.length > 0) named.push_back({n.segment, n.begin, n.begin + n.length});
    }
    return BackwardPlanner(options_.cost, std::move(named), &plan_).build();
  }

 private:
  using Index = std::size_t;

  void make_tiles() {
    const std::int32_t nodes = static_cast<std::int32_t>(forest_.nodes.size());
    const std::int32_t before = nodes > 0 ? forest_.row_begin[0] : forest_.rows();
    emit_sequences(0, before, -1, 0);  // empty paths
    start_.assign(static_cast<Index>(nodes), 0);
    partial_budget_ = std::int64_t{kPartialRowsPerRow - 1} * forest_.rows() + kPartialRowsExtra;
    for (std::int32_t v = 0; v < nodes;) {
      const std::int32_t parent = forest_.nodes[static_cast<Index>(v)].parent;
      const std::int32_t x = parent < 0 ? 0 : start_[static_cast<Index>(parent)];
      if (forest_.row_end[static_cast<Index>(v)] == forest_.row_begin[static_cast<Index>(v)]) {
        v = forest_.subtree_end[static_cast<Index>(v)];  // nobody asks below it
      } else if (is_draft_root(v)) {
        emit_draft(v, x);
        v = forest_.subtree_end[static_cast<Index>(v)];
      } else {
        start_[static_cast<Index>(v)] = visit(v, x);
        ++v;
      }
    }
  }

  /// Emits the tiles that end at node v and returns where the paths below it go on.
  std::int32_t visit(std::int32_t v, std::int32_t x) {
    const std::int32_t row_begin = forest_.row_begin[static_cast<Index>(v)];
    const std::int32_t own_end = forest_.own_row_end[static_cast<Index>(v)];
    const std::int32_t row_end = forest_.row_end[static_cast<Index>(v)];
    const std::int32_t end = forest_.path_end(v);
    const std::int32_t shared_end = invariant() ? end / kInvariantChunk * kInvariantChunk : end;
    if (!share(v, x, shared_end)) {
      emit_own(row_begin, own_end, v, x, end);
      return x;
    }
    partial_budget_ -= row_end - row_begin;
    if (row_end - row_begin <= tile_row_limit(kind_)) {
      emit_tiles(row_begin, row_end, v, x, shared_end);
      if (shared_end < end) emit_own(row_begin, own_end, v, shared_end, end);
    } else {  // own rows stay out of the shared tiles: they end here and need no partial state
      emit_own(row_begin, own_end, v, x, end);
      emit_tiles(own_end, row_end, v, x, shared_end);
    }
    return shared_end;
  }

  /// Whether reading path [x, end) once for all rows below v beats reading it once per child and for v's own rows.
  bool share(std::int32_t v, std::int32_t x, std::int32_t end) const noexcept {
    if (options_.sharing == Sharing::never || end <= x) return false;
    const std::int32_t limit = tile_row_limit(kind_);
    const std::int64_t rows = forest_.row_end[static_cast<Index>(v)] - forest_.row_begin[static_cast<Index>(v)];
    const std::int64_t own = forest_.own_row_end[static_cast<Index>(v)] - forest_.row_begin[static_cast<Index>(v)];
    std::int64_t readers = own > 0, reads = ceil_div(own, limit);
    for (std::int32_t c = v + 1; c < forest_.subtree_end[static_cast<Index>(v)];
         c = forest_.subtree_end[static_cast<Index>(c)]) {
      const std::int64_t below = forest_.row_end[static_cast<Index>(c)] - forest_.row_begin[static_cast<Index>(c)];
      readers += below > 0;
      reads += ceil_div(below, limit);
    }
    if (readers < 2 || (!invariant() && rows > partial_budget_)) return false;
    if (options_.sharing == Sharing::always) return true;
    const std::int64_t tiles = ceil_div(rows, limit);
    const CostModel& c = options_.cost;
    const double saved =
        static_cast<double>(reads - tiles) * (end - x) * kind_.Hkv * (kind_.D + kind_.Dv) * c.kv_element;
    const double spent =
        static_cast<double>(rows) * kind_.Hq * (kind_.Dv + 1) * c.partial * 2 + static_cast<double>(tiles) * c.item;
    return saved > spent;
  }

  /// Private tiles: all own rows of a node together, or each sequence alone when nothing is shared.
  void emit_own(std::int32_t begin, std::int32_t end, std::int32_t v, std::int32_t x, std::int32_t y) {
    if (options_.sharing == Sharing::never) {
      emit_sequences(begin, end, v, y);
    } else {
      emit_tiles(begin, end, v, x, y);
    }
  }
  void emit_sequences(std::int32_t begin, std::int32_t end, std::int32_t v, std::int32_t y) {
    while (begin < end) {
      std::int32_t stop = begin + 1;
      const std::int32_t sequence = forest_.row_sequence[static_cast<Index>(begin)];
      while (stop < end && forest_.row_sequence[static_cast<Index>(stop)] == sequence) ++stop;
      emit_tiles(begin, stop, v, 0, y);
      begin = stop;
    }
  }

  /// Tiles of depth-first rows [begin, end) against path positions [x, y) of node v's path.
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
  RowInstance row_instance(std::int32_t row) const noexcept {
    RowInstance r;
    r.row = forest_.row_map[static_cast<Index>(row)];
    r.order = r.position = forest_.order(row);
    const std::int32_t node = forest_.sequences[static_cast<Index>(forest_.row_sequence[static_cast<Index>(row)])].node;
    r.length_slot = node < 0 ? -1 : forest_.nodes[static_cast<Index>(node)].length_slot;
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

  /// Whether everything below v is a draft tree: up to 64 tokens in short nodes, consecutive slots of one segment.
  bool is_draft_root(std::int32_t v) const noexcept {
    const std::int32_t end = forest_.subtree_end[static_cast<Index>(v)];
    const std::int32_t nodes = end - v - 1;
    const std::int32_t rows = forest_.row_end[static_cast<Index>(v)] - forest_.own_row_end[static_cast<Index>(v)];
    if (invariant() || options_.sharing == Sharing::never || nodes < 2 || nodes > kDraftTokens || rows < 2)
      return false;
    const Node& first = forest_.nodes[static_cast<Index>(v + 1)];
    std::int32_t low = INT32_MAX, high = INT32_MIN, tokens = 0;
    for (std::int32_t n = v + 1; n < end; ++n) {
      const Node& node = forest_.nodes[static_cast<Index>(n)];
      if (node.length < 1 || node.segment != first.segment || node.delta != first.delta || node.length_slot >= 0)
        return false;
      low = std::min(low, node.begin);
      high = std::max(high, node.begin + node.length);
      tokens += node.length;
      if (tokens > kDraftTokens) return false;
    }
    if (high - low != tokens || tokens > 2 * nodes) return false;
    std::uint64_t seen = 0;  // disjoint: every slot exactly once
    for (std::int32_t n = v + 1; n < end; ++n) seen |= token_bits(n, low, forest_.nodes[static_cast<Index>(n)].length);
    return seen == low_bits(tokens);
  }
  static std::uint64_t low_bits(std::int32_t n) noexcept {
    return n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
  }
  std::uint64_t token_bits(std::int32_t n, std::int32_t low, std::int32_t count) const noexcept {
    return count <= 0 ? 0 : low_bits(count) << (forest_.nodes[static_cast<Index>(n)].begin - low);
  }

  /// Rows of v's subtree: the path up to and with v, then the whole draft tree as one run with ancestor bits.
  void emit_draft(std::int32_t v, std::int32_t x) {
    KeyRun draft;
    const std::int32_t end = forest_.subtree_end[static_cast<Index>(v)];
    std::int32_t low = INT32_MAX, tokens = 0;
    for (std::int32_t n = v + 1; n < end; ++n) {
      low = std::min(low, forest_.nodes[static_cast<Index>(n)].begin);
      tokens += forest_.nodes[static_cast<Index>(n)].length;
    }
    draft.segment = forest_.nodes[static_cast<Index>(v + 1)].segment;
    draft.token = low;
    draft.length = tokens;
    draft.position = forest_.path_end(v);
    draft.mask = MaskKind::bits;
    const std::int32_t row_end = forest_.row_end[static_cast<Index>(v)];
    for (std::int32_t at = forest_.row_begin[static_cast<Index>(v)]; at < row_end; at += tile_row_limit(kind_)) {
      const std::int32_t count = std::min(tile_row_limit(kind_), row_end - at);
      open(at, count, x == 0);
      add_path(at, count, v, x, forest_.path_end(v));
      draft.first_instance = instances_for(delta_index(forest_.nodes[static_cast<Index>(v + 1)].delta));
      draft.first_word = static_cast<std::int64_t>(plan_.words.size());
      for (std::int32_t i = 0; i < count; ++i) plan_.words.push_back(draft_word(at + i, v, low));
      add_run(draft);
    }
  }
  /// Visible draft tokens of a row: ancestors-or-self up to its order and inside the window, which cannot go stale here
  /// because a draft tree has no length slots.
  std::uint64_t draft_word(std::int32_t row, std::int32_t root, std::int32_t low) const noexcept {
    const std::int64_t order = forest_.order(row);
    const std::int64_t first = kind_.window < 0 ? INT32_MIN : order - kind_.window + 1;
    std::uint64_t word = 0;
    std::int32_t n = forest_.sequences[static_cast<Index>(forest_.row_sequence[static_cast<Index>(row)])].node;
    for (; n != root; n = forest_.nodes[static_cast<Index>(n)].parent) {
      const std::int64_t path = forest_.path_begin[static_cast<Index>(n)];
      const std::int32_t length = forest_.nodes[static_cast<Index>(n)].length;
      const auto upto = [&](std::int64_t position) {
        return static_cast<std::int32_t>(std::clamp<std::int64_t>(position - path, 0, length));
      };
      word |= token_bits(n, low, upto(order + 1)) & ~token_bits(n, low, upto(first));
    }
    return word;
  }

  const Forest& forest_;
  std::vector<std::int32_t> start_;  // per node: path position where the ranges of its children start
  std::int64_t partial_budget_ = 0;
  std::int32_t tile_row_ = 0;
  std::vector<std::pair<std::int32_t, std::int32_t>> tile_deltas_;  // of the open tile: delta index, first instance
  std::vector<std::int32_t> path_;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
