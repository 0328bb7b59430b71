// SPDX-License-Identifier: Apache-2.0
// The frame of every host forward: which items a part works on, the chunks of batch_invariant mode, where states go and
// who merges them. A Body does the arithmetic.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>

#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Part `part` of `parts` of a forward. A Body holds the states of packed rows, numbered head by head, then tile row,
/// then head of the group; it has
///   Acc                                            the arithmetic type
///   Body(AttendView, Arena*)                       takes its scratch
///   std::int32_t begin(tile, item)                 KV heads that it works on at once
///   std::int32_t block_keys()                      most keys of a block, at most kTileBlockKeys
///   void load(first_instance, head_begin, heads)   queries in the frame of a list of instances
///   void clear()                                   all states empty
///   void absorb(pieces, count, head_begin, heads)  a block of keys into every state
///   void finish()                                  o over its sum, row-major, and the lse
///   Acc* o(), Acc* lse()                           [rows, Dv] and [rows] of the finished states
template <class Body>
class AttendForward {
 public:
  using Acc = typename Body::Acc;

  AttendForward(const PlanView& plan, const Attend& args, std::int32_t part, std::int32_t parts) noexcept
      : view_{plan, args},
        plan_(plan),
        args_(args),
        kind_(plan.header.kind),
        group_(kind_.group()),
        invariant_(plan.header.mode == Mode::batch_invariant),
        part_(part),
        parts_(parts),
        counters_(static_cast<std::atomic<std::int32_t>*>(args.workspace.data)),
        scratch_(static_cast<char*>(args.workspace.data) + args.workspace.counter_bytes),
        scratch_bytes_(forward_scratch_bytes(kind_)),
        arena_(scratch_ + part * scratch_bytes_),
        memory_(&arena_, kind_),
        body_(view_, &arena_),
        partial_o_(reinterpret_cast<Acc*>(scratch_ + parts * scratch_bytes_)),
        partial_lse_(partial_o_ + plan.header.partial_rows * kind_.Hq * kind_.Dv) {}

  void run() noexcept {
    for (const Item& item : plan_.items) {
      if (owner(item.cost, plan_.header.total_cost, parts_) == part_) attend(item);
    }
  }

 private:
  static constexpr Acc kEmpty = -std::numeric_limits<Acc>::infinity();

  /// One item: for its KV heads the rows of the tile against the keys of its runs.
  void attend(const Item& item) noexcept {
    const RowTile& tile = plan_.tiles[item.tile];
    const std::int32_t step = body_.begin(tile, item);
    for (std::int32_t head = item.head_begin; head < item.head_end; head += step) {
      attend_heads(item, tile, head, std::min(step, item.head_end - head));
    }
    if (item.slot >= 0) arrive(tile);
  }

  void attend_heads(const Item& item, const RowTile& tile, std::int32_t head, std::int32_t heads) noexcept {
    const std::int64_t rows = std::int64_t{heads} * tile.count * group_;
    BlockCursor cursor(view_, item.first_run, item.run_count, body_.block_keys(), invariant_);
    const bool folds = invariant_ && item.fold;
    std::int32_t loaded = -1;
    std::fill_n(memory_.fold_lse, folds ? rows : 0, kEmpty);
    const std::int64_t first_chunk = item.run_count == 0 ? 0 : plan_.runs[item.first_run].position / kInvariantChunk;
    for (std::int64_t chunk = 0, chunks = chunk_count(item); chunk < chunks; ++chunk) {
      body_.clear();
      while (!cursor.done() && (!invariant_ || cursor.position() / kInvariantChunk == first_chunk + chunk)) {
        const std::int32_t instances = cursor.instances();
        if (instances != loaded) body_.load(instances, head, heads);
        loaded = instances;
        const std::int32_t count = cursor.next(memory_.pieces);
        body_.absorb(memory_.pieces, count, head, heads);
      }
      body_.finish();
      if (folds) {
        fold(rows);
      } else {
        const std::int64_t slot = item.slot < 0 ? -1 : item.slot + chunk * tile.count;
        emit(tile, head, heads, body_.o(), body_.lse(), slot);
      }
    }
    if (folds) emit(tile, head, heads, memory_.fold_o, memory_.fold_lse, item.slot);
  }

  /// States that an item makes: in batch_invariant mode one per chunk of path positions that its runs can touch.
  std::int64_t chunk_count(const Item& item) const noexcept {
    if (!invariant_ || item.run_count == 0) return 1;
    const KeyRun& first = plan_.runs[item.first_run];
    const KeyRun& last = plan_.runs[item.first_run + item.run_count - 1];
    return (last.position + last.length - 1) / kInvariantChunk - first.position / kInvariantChunk + 1;
  }

  void fold(std::int64_t rows) noexcept {
    for (std::int64_t m = 0; m < rows; ++m) {
      merge_into(memory_.fold_o + m * kind_.Dv, memory_.fold_lse + m, body_.o() + m * kind_.Dv, body_.lse()[m],
                 kind_.Dv);
    }
  }

  /// Writes the states of a tile's rows: to their partial rows, or finished when slot is -1.
  void emit(const RowTile& tile, std::int32_t head, std::int32_t heads, Acc* o, const Acc* lse,
            std::int64_t slot) noexcept {
    const std::int64_t of_head = tile.count * group_;
    for (std::int64_t m = 0; m < heads * of_head; ++m) {
      const std::int64_t i = m % of_head / group_, q_head = (head + m / of_head) * group_ + m % group_;
      Acc* row = o + m * kind_.Dv;
      if (lse[m] == kEmpty) std::fill_n(row, kind_.Dv, Acc(0));
      if (slot < 0) {
        finish_row(plan_.instances[tile.first + i].row, q_head, row, lse[m]);
      } else {
        const std::int64_t at = (slot + i) * kind_.Hq + q_head;
        std::copy_n(row, kind_.Dv, partial_o_ + at * kind_.Dv);
        partial_lse_[at] = lse[m];
      }
    }
  }

  /// Sink, rounding, store.
  void finish_row(std::int64_t row, std::int64_t q_head, Acc* o, Acc lse) const noexcept {
    if (!args_.sinks.empty()) {
      const MergedPair<Acc> merged = merge_pair(lse, static_cast<Acc>(args_.sinks[q_head]));
      for (std::int32_t d = 0; d < kind_.Dv; ++d) o[d] *= merged.weight_a;
      lse = merged.lse;
    }
    if (args_.o) store_row(args_.o.dtype, args_.o.ptr(row, q_head), kind_.Dv, o);
    if (args_.lse) *args_.lse.template at<Acc>(row, q_head) = lse;
  }

  /// Counts an item in for every reduce group of its rows; the last one merges. The counter returns to zero.
  void arrive(const RowTile& tile) noexcept {
    for (std::int32_t i = 0; i < tile.group_count; ++i) {
      const std::int32_t index = plan_.tile_groups[tile.first_group + i];
      const ReduceGroup& group = plan_.groups[index];
      if (counters_[index].fetch_add(1, std::memory_order_acq_rel) + 1 < group.arrivals) continue;
      counters_[index].store(0, std::memory_order_relaxed);
      for (std::int32_t r = 0; r < group.row_count; ++r) {
        for (std::int32_t h = 0; h < kind_.Hq; ++h) merge_row(group, r, h);
      }
    }
  }
  void merge_row(const ReduceGroup& group, std::int64_t r, std::int64_t q_head) noexcept {
    Acc* o = memory_.fold_o;
    Acc lse = kEmpty;
    std::fill_n(o, kind_.Dv, Acc(0));
    for (std::int32_t p = 0; p < group.part_count; ++p) {
      const std::int64_t at = (plan_.parts[group.first_part + p] + r) * kind_.Hq + q_head;
      merge_into(o, &lse, partial_o_ + at * kind_.Dv, partial_lse_[at], kind_.Dv);
    }
    finish_row(plan_.group_rows[group.first_row + r], q_head, o, lse);
  }

  AttendView view_;
  const PlanView& plan_;
  const Attend& args_;
  LayerKind kind_;
  std::int64_t group_;
  bool invariant_;
  std::int32_t part_, parts_;
  std::atomic<std::int32_t>* counters_;  // [reduce groups]
  char* scratch_;
  std::int64_t scratch_bytes_;
  Arena arena_;
  FrameMemory<Acc> memory_;
  Body body_;
  Acc* partial_o_;    // [partial rows, Hq, Dv]
  Acc* partial_lse_;  // [partial rows, Hq]
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
