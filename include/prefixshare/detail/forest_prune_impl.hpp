// SPDX-License-Identifier: Apache-2.0
// A forest without some of its sequences: what is freed, what is left, and what is left in the least memory.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>

#include "prefixshare/detail/forest_builders_impl.hpp"
#include "prefixshare/detail/forest_stats_impl.hpp"

namespace prefixshare {
inline namespace v0_1 {

namespace detail {

/// One element per sequence.
inline Status check_keep(const char* op, const Forest& f, Span<const std::uint8_t> keep) noexcept {
  const auto sequences = static_cast<std::int64_t>(f.sequences.size());
  if (keep.size() == sequences) return check_span(op, "keep", keep);
  return refuse(StatusCode::invalid_argument, op, "keep", -1, "size", keep.size(), "==", sequences);
}

/// Per node: 1 if the path of a sequence s with (keep[s] != 0) == kept includes it.
inline std::vector<std::uint8_t> nodes_on_paths(const Forest& f, Span<const std::uint8_t> keep, bool kept) {
  std::vector<std::uint8_t> on_path(f.nodes.size(), 0);
  for (std::size_t s = 0; s < f.sequences.size(); ++s) {
    const std::int32_t node = f.sequences[s].node;
    if (node >= 0 && (keep.data()[s] != 0) == kept) on_path.data()[node] = 1;
  }
  for (std::size_t n = on_path.size(); n-- > 0;) {
    if (on_path[n] && f.nodes[n].parent >= 0) on_path.data()[f.nodes[n].parent] = 1;
  }
  return on_path;
}

/// Pages that a run of `sorted` lies in, each once.
inline std::vector<PageId> pages_of_runs(const std::vector<SlotRun>& sorted) {
  std::vector<PageId> pages;
  for (const SlotRun& run : sorted) {
    if (pages.empty() || pages.back().pool != run.pool || pages.back().page != run.page) {
      pages.push_back({run.pool, run.page});
    }
  }
  return pages;
}

inline FreedStorage find_freed(const Forest& f, Span<const std::uint8_t> keep) {
  const std::vector<std::uint8_t> kept = nodes_on_paths(f, keep, true), dropped = nodes_on_paths(f, keep, false);
  std::vector<SlotRun> read, given_up;
  for (std::size_t n = 0; n < f.nodes.size(); ++n) {
    if (kept[n] || dropped[n]) add_slot_runs(f, f.nodes[n], kept[n] ? &read : &given_up);
  }
  std::sort(read.begin(), read.end());
  std::sort(given_up.begin(), given_up.end());
  const std::vector<PageId> still = pages_of_runs(read), maybe = pages_of_runs(given_up);
  FreedStorage freed;
  std::set_difference(
      maybe.begin(), maybe.end(), still.begin(), still.end(), std::back_inserter(freed.pages),
      [](const PageId& a, const PageId& b) { return std::tie(a.pool, a.page) < std::tie(b.pool, b.page); });
  freed.tokens = -count_slots(read);
  read.insert(read.end(), given_up.begin(), given_up.end());
  freed.tokens += count_slots(std::move(read));
  return freed;
}

/// New numbers of what is kept, in order; -1 for the rest.
template <class Flag>
std::vector<std::int32_t> number_kept(Span<const Flag> kept) {
  std::vector<std::int32_t> numbers;
  numbers.reserve(static_cast<std::size_t>(kept.size()));
  std::int32_t next = 0;
  for (const Flag flag : kept) numbers.push_back(flag != 0 ? next++ : -1);
  return numbers;
}

/// The kept sequences of a forest and what they need, stage by stage.
class ForestPruner {
 public:
  ForestPruner(const Forest& forest, Span<const std::uint8_t> keep) noexcept : f_(forest), keep_(keep) {}

  Status run(const char* op, Forest* pruned, ForestMap* map) {
    out_.pools = f_.pools;
    take_nodes();
    take_segments();
    take_sequences();
    Forest built;
    if (Status s = out_.build(op, &built)) return s;
    *pruned = std::move(built);
    if (map) *map = std::move(map_);
    return {};
  }

 private:
  void take_nodes() {
    const std::vector<std::uint8_t> on_path = nodes_on_paths(f_, keep_, true);
    std::vector<std::uint8_t> segments(f_.segments.size(), 0), slots;
    for (std::size_t n = 0; n < f_.nodes.size(); ++n) {
      const Node& node = f_.nodes[n];
      const auto slot = static_cast<std::size_t>(node.length_slot + 1);
      if (slots.size() < slot) slots.resize(slot, 0);
      if (!on_path[n]) continue;
      if (node.segment >= 0) segments.data()[node.segment] = 1;
      if (slot > 0) slots[slot - 1] = 1;
    }
    map_.nodes = number_kept<std::uint8_t>(on_path);
    map_.segments = number_kept<std::uint8_t>(segments);
    map_.length_slots = number_kept<std::uint8_t>(slots);
    for (std::size_t n = 0; n < f_.nodes.size(); ++n) {
      if (!on_path[n]) continue;
      Node node = f_.nodes[n];
      if (node.parent >= 0) node.parent = map_.nodes.data()[node.parent];
      if (node.segment >= 0) node.segment = map_.segments.data()[node.segment];
      if (node.length_slot >= 0) node.length_slot = map_.length_slots.data()[node.length_slot];
      out_.nodes.push_back(node);
    }
  }

  /// Segments, and the entries of the page list that they lie in. Segments that share entries still do.
  void take_segments() {
    std::vector<std::int32_t> begins(f_.pages.size() + 1, 0);  // segments that begin here, less those that end
    for (std::size_t i = 0; i < f_.segments.size(); ++i) {
      if (map_.segments[i] < 0) continue;
      const Segment& s = f_.segments[i];
      ++begins.data()[s.first_page];
      --begins.data()[s.first_page + pages_of(s, f_.pools.data()[s.pool])];
    }
    std::vector<std::int32_t> place(f_.pages.size() + 1, 0);
    std::int32_t segments = 0;
    for (std::size_t i = 0; i < place.size(); ++i) {
      place[i] = static_cast<std::int32_t>(out_.pages.size());
      segments += begins[i];
      if (segments > 0) out_.pages.push_back(f_.pages[i]);
    }
    for (std::size_t i = 0; i < f_.segments.size(); ++i) {
      if (map_.segments[i] < 0) continue;
      out_.segments.push_back(f_.segments[i]);
      out_.segments.back().first_page = place.data()[f_.segments[i].first_page];
    }
  }

  void take_sequences() {
    map_.sequences = number_kept(keep_);
    std::int32_t rows = 0;
    for (std::size_t i = 0; i < f_.sequences.size(); ++i) {
      Sequence s = f_.sequences[i];
      const bool kept = map_.sequences[i] >= 0;
      for (std::int32_t r = 0; r < s.q_len; ++r) map_.rows.push_back(kept ? rows++ : -1);
      if (!kept) continue;
      if (s.node >= 0) s.node = map_.nodes.data()[s.node];
      out_.sequences.push_back(s);
    }
  }

  const Forest& f_;
  Span<const std::uint8_t> keep_;
  ForestArrays out_;
  ForestMap map_;
};

/// Per segment: whether a path names tokens of it.
inline std::vector<char> segments_in_use(const Forest& f) {
  const std::vector<std::int32_t> references = count_references(f);
  std::vector<char> used(f.segments.size(), 0);
  for (std::size_t n = 0; n < f.nodes.size(); ++n) {
    if (references[n] > 0 && f.nodes[n].length > 0) used.data()[f.nodes[n].segment] = 1;
  }
  return used;
}

/// Moves the tokens of a forest whose every node is in use into one page per pool.
class ForestCompactor {
 public:
  ForestCompactor(const char* op, const Forest& forest) : op_(op), f_(forest), tokens_(forest.pools.size(), 0) {}

  Status run(Forest* compacted, std::vector<std::vector<std::int64_t>>* slots) {
    find_extents();
    if (Status s = place_nodes()) return s;
    for (const std::int64_t tokens : tokens_) out_.add_contiguous_pool(static_cast<std::int32_t>(tokens));
    out_.sequences = f_.sequences;
    fill_slots(slots);
    return out_.build(op_, compacted);
  }

 private:
  /// Tokens [begin, end) of a segment that stay together, and where they go.
  struct Extent {
    std::int32_t segment;
    std::int32_t begin;
    std::int32_t end;
    std::int64_t place = -1;
  };

  /// Unions of the ranges that nodes name, as far as they overlap.
  void find_extents() {
    std::vector<std::int32_t> order;
    for (std::size_t n = 0; n < f_.nodes.size(); ++n) {
      if (f_.nodes[n].length > 0) order.push_back(static_cast<std::int32_t>(n));
    }
    std::sort(order.begin(), order.end(), [this](std::int32_t a, std::int32_t b) {
      const Node &x = f_.nodes.data()[a], &y = f_.nodes.data()[b];
      return std::tie(x.segment, x.begin) < std::tie(y.segment, y.begin);
    });
    extent_of_.resize(f_.nodes.size());
    for (const std::int32_t n : order) {
      const Node& node = f_.nodes.data()[n];
      if (extents_.empty() || extents_.back().segment != node.segment || extents_.back().end <= node.begin) {
        extents_.push_back({node.segment, node.begin, node.begin});
      }
      extents_.back().end = std::max(extents_.back().end, node.begin + node.length);
      extent_of_.data()[n] = extents_.size() - 1;
    }
  }

  Status place_nodes() {
    for (std::size_t n = 0; n < f_.nodes.size(); ++n) {
      Node node = f_.nodes[n];
      if (node.length == 0) {
        node.segment = -1;
        node.begin = 0;
      } else {
        Extent& extent = extents_[extent_of_[n]];
        const std::int32_t pool = f_.segments.data()[node.segment].pool;
        std::int64_t& tokens = tokens_.data()[pool];
        if (extent.place < 0) extent.place = std::exchange(tokens, tokens + extent.end - extent.begin);
        if (tokens > kInt32Max) {
          return refuse(StatusCode::capacity_exceeded, op_, "pools", pool, "tokens", tokens, "<=", kInt32Max);
        }
        node.segment = pool;
        node.begin += static_cast<std::int32_t>(extent.place) - extent.begin;
      }
      out_.nodes.push_back(node);
    }
    return {};
  }

  void fill_slots(std::vector<std::vector<std::int64_t>>* slots) const {
    for (const PoolShape& pool : f_.pools) {
      slots->emplace_back(static_cast<std::size_t>(pool.num_pages) * static_cast<std::size_t>(pool.page_size), -1);
    }
    std::vector<SlotRun> runs;
    for (const Extent& extent : extents_) {
      runs.clear();
      add_slot_runs(f_, extent.segment, extent.begin, extent.end - extent.begin, &runs);
      std::int64_t to = extent.place;
      for (const SlotRun& run : runs) {
        const std::int64_t page = std::int64_t{run.page} * f_.pools.data()[run.pool].page_size;
        for (std::int64_t slot = page + run.begin; slot < page + run.end; ++slot) {
          slots->data()[run.pool].data()[slot] = to++;
        }
      }
    }
  }

  const char* op_;
  const Forest& f_;
  std::vector<std::int64_t> tokens_;  ///< placed in each pool
  std::vector<Extent> extents_;
  std::vector<std::size_t> extent_of_;  ///< per node with tokens
  ForestArrays out_;
};

inline Status compact(const char* op, const Forest& forest, Forest* compacted,
                      std::vector<std::vector<std::int64_t>>* slots) {
  if (Status s = check_disjoint_segments(op, forest, segments_in_use(forest))) return s;
  const std::vector<std::uint8_t> all(forest.sequences.size(), 1);
  Forest used, built;
  std::vector<std::vector<std::int64_t>> moves;
  if (Status s = ForestPruner(forest, all).run(op, &used, nullptr)) return s;
  if (Status s = ForestCompactor(op, used).run(&built, &moves)) return s;
  *compacted = std::move(built);
  *slots = std::move(moves);
  return {};
}

}  // namespace detail

inline Status would_free(const Forest& forest, Span<const std::uint8_t> keep, FreedStorage* freed) noexcept {
  constexpr const char* kOp = "would_free";
  if (Status s = detail::check_pointer(kOp, "freed", freed)) return s;
  if (Status s = detail::check_keep(kOp, forest, keep)) return s;
  try {
    *freed = detail::find_freed(forest, keep);
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "freed");
  }
}

inline Status prune_forest(const Forest& forest, Span<const std::uint8_t> keep, Forest* pruned,
                           ForestMap* map) noexcept {
  constexpr const char* kOp = "prune_forest";
  if (Status s = detail::check_pointer(kOp, "pruned", pruned)) return s;
  if (Status s = detail::check_keep(kOp, forest, keep)) return s;
  try {
    return detail::ForestPruner(forest, keep).run(kOp, pruned, map);
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "pruned");
  }
}

inline Status compact_forest(const Forest& forest, Forest* compacted,
                             std::vector<std::vector<std::int64_t>>* slots) noexcept {
  constexpr const char* kOp = "compact_forest";
  if (Status s = detail::check_pointer(kOp, "compacted", compacted)) return s;
  if (Status s = detail::check_pointer(kOp, "slots", slots)) return s;
  try {
    return detail::compact(kOp, forest, compacted, slots);
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "compacted");
  }
}

}  // namespace v0_1
}  // namespace prefixshare
