// SPDX-License-Identifier: Apache-2.0
// tree_attention in plain C++, total: every storage type, head count, head dim, mask and page size. The rows of a tile
// (query rows x the heads of a group) meet blocks of keys with an online softmax; partial states are merged in key
// order by whoever completes them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>

#include "prefixshare/detail/lanes.hpp"
#include "prefixshare/portable/tree_attention_backward.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace portable {

/// Part `part` of `parts` of a forward, in arithmetic type Acc.
template <class Acc>
class Forward {
 public:
  Forward(const PlanView& plan, const Attend& args, std::int32_t part, std::int32_t parts) noexcept
      : view_{plan, args},
        plan_(plan),
        args_(args),
        kind_(plan.header.kind),
        group_(kind_.group()),
        invariant_(plan.header.mode == Mode::batch_invariant),
        part_(part),
        parts_(parts),
        scale_(static_cast<Acc>(view_.scale())),
        counters_(static_cast<std::atomic<std::int32_t>*>(args.workspace.data)),
        scratch_(static_cast<char*>(args.workspace.data) + args.workspace.counter_bytes),
        scratch_bytes_(detail::scratch_bytes<detail::ForwardMemory>(kind_)),
        arena_(scratch_ + part * scratch_bytes_),
        memory_(&arena_, kind_),
        query_(view_, memory_.q, memory_.angles),
        partial_o_(reinterpret_cast<Acc*>(scratch_ + parts * scratch_bytes_)),
        partial_lse_(partial_o_ + plan.header.partial_rows * kind_.Hq * kind_.Dv) {}

  void run() noexcept {
    for (const Item& item : plan_.items) {
      if (detail::owner(item.cost, plan_.header.total_cost, parts_) == part_) attend(item);
    }
  }

 private:
  static constexpr Acc kEmpty = -std::numeric_limits<Acc>::infinity();

  /// One item: for each of its KV heads the rows of the tile against the keys of its runs.
  void attend(const Item& item) noexcept {
    const RowTile& tile = plan_.tiles[item.tile];
    rows_ = tile.count * group_;
    for (std::int64_t m = 0; m < rows_; ++m) {
      memory_.q_rows[m] = memory_.q + m * kind_.D;
      memory_.o_rows[m] = memory_.o + m * kind_.Dv;
    }
    for (std::int32_t head = item.head_begin; head < item.head_end; ++head) attend_head(item, tile, head);
    if (item.slot >= 0) arrive(tile);
  }

  void attend_head(const Item& item, const RowTile& tile, std::int32_t head) noexcept {
    detail::BlockCursor cursor(view_, item.first_run, item.run_count, detail::kBlockKeys, invariant_);
    const bool folds = invariant_ && item.fold;
    std::int32_t loaded = -1;
    std::fill_n(memory_.fold_lse, folds ? rows_ : 0, kEmpty);
    const std::int64_t first_chunk = item.run_count == 0 ? 0 : plan_.runs[item.first_run].position / kInvariantChunk;
    for (std::int64_t chunk = 0, chunks = chunk_count(item); chunk < chunks; ++chunk) {
      std::fill_n(memory_.maximum, rows_, kEmpty);
      std::fill_n(memory_.sum, rows_, Acc(0));
      std::fill_n(memory_.o, rows_ * kind_.Dv, Acc(0));
      while (!cursor.done() && (!invariant_ || cursor.position() / kInvariantChunk == first_chunk + chunk)) {
        const std::int32_t instances = cursor.instances();
        if (instances != loaded) query_.load(instances, tile.count, head);
        loaded = instances;
        const std::int32_t count = cursor.next(memory_.pieces);
        memory_.keys.load(view_, memory_.pieces, count, head);
        absorb(count, head);
      }
      finish_state();
      if (folds) {
        fold();
      } else {
        emit(tile, head, memory_.o, memory_.maximum, item.slot < 0 ? -1 : item.slot + chunk * tile.count);
      }
    }
    if (folds) emit(tile, head, memory_.fold_o, memory_.fold_lse, item.slot);
  }

  /// States that an item makes: in batch_invariant mode one per chunk of path positions that its runs can touch.
  std::int64_t chunk_count(const Item& item) const noexcept {
    if (!invariant_ || item.run_count == 0) return 1;
    const KeyRun& first = plan_.runs[item.first_run];
    const KeyRun& last = plan_.runs[item.first_run + item.run_count - 1];
    return (last.position + last.length - 1) / kInvariantChunk - first.position / kInvariantChunk + 1;
  }

  /// Adds a block of keys to the state of every row.
  void absorb(std::int32_t count, std::int64_t head) noexcept {
    const std::int32_t columns = memory_.pieces[count - 1].end;
    detail::dot_rows(memory_.q_rows, rows_, memory_.keys.k, columns, kind_.D, memory_.scores,
                     std::int64_t{detail::kBlockKeys});
    bool full = true;
    for (std::int32_t p = 0; p < count; ++p) full = full && memory_.pieces[p].run->mask == MaskKind::full;
    for (std::int64_t m = 0; m < rows_; ++m) {
      Acc* scores = memory_.scores + m * detail::kBlockKeys;
      to_logits(scores, count, columns, head * group_ + m % group_);
      if (!full) hide(scores, count, columns, m / group_);
      absorb_scores(scores, columns, m);
    }
    if (full) {
      add_values(0, rows_, 0, columns);
    } else {
      add_visible_values(count, columns);
    }
  }

  /// Dot products to logits: scale, soft cap, bias.
  void to_logits(Acc* scores, std::int32_t count, std::int32_t columns, std::int64_t q_head) const noexcept {
    for (std::int32_t c = 0; c < columns; ++c) scores[c] *= scale_;
    if (args_.softcap > 0) {
      const Acc cap = static_cast<Acc>(args_.softcap);
      for (std::int32_t c = 0; c < columns; ++c) scores[c] = cap * std::tanh(scores[c] / cap);
    }
    for (std::int32_t p = 0; p < count; ++p) detail::add_bias(view_, memory_.pieces[p], q_head, scores);
  }

  /// -inf wherever tile row `i` sees nothing.
  void hide(Acc* scores, std::int32_t count, std::int32_t columns, std::int64_t i) const noexcept {
    std::int32_t seen = 0;
    for (std::int32_t p = 0; p < count; ++p) {
      detail::visible_ranges(view_, memory_.pieces[p], i, [&](std::int32_t begin, std::int32_t end) {
        std::fill(scores + seen, scores + begin, kEmpty);
        seen = end;
      });
    }
    std::fill(scores + seen, scores + columns, kEmpty);
  }

  /// Logits of a row to exp(logit - maximum), with the row's maximum, sum and output brought along.
  void absorb_scores(Acc* scores, std::int32_t columns, std::int64_t m) noexcept {
    const std::int32_t padded = (columns + detail::kSumLanes - 1) / detail::kSumLanes * detail::kSumLanes;
    std::fill(scores + columns, scores + padded, kEmpty);
    const Acc before = memory_.maximum[m];
    const Acc after = detail::larger(before, detail::row_maximum(scores, padded));
    const Acc shift = after == kEmpty ? Acc(0) : after;  // a row that saw nothing yet: exp(-inf - 0) = 0
    for (std::int32_t c = 0; c < padded; ++c) scores[c] = detail::exp_of(scores[c] - shift);
    const Acc keep = detail::exp_of(before - shift);
    memory_.maximum[m] = after;
    memory_.sum[m] = memory_.sum[m] * keep + detail::row_sum(scores, padded);
    if (keep == Acc(1)) return;
    Acc* o = memory_.o_rows[m];
    for (std::int32_t d = 0; d < kind_.Dv; ++d) o[d] *= keep;
  }

  void add_values(std::int64_t first_row, std::int64_t rows, std::int32_t begin, std::int32_t end) noexcept {
    detail::add_rows<Acc>({memory_.scores + first_row * detail::kBlockKeys + begin, detail::kBlockKeys, 1},
                          memory_.keys.v + begin, end - begin, memory_.o_rows + first_row, rows, kind_.Dv);
  }
  /// A value that a row does not see is never multiplied, not even by zero: it may be NaN. Neighbouring rows that see
  /// the same single range go together.
  void add_visible_values(std::int32_t count, std::int32_t columns) noexcept {
    std::int64_t first = 0;  // rows [first, i) see all columns
    const std::int64_t tile_rows = rows_ / group_;
    for (std::int64_t i = 0; i < tile_rows; ++i) {
      std::int32_t seen = 0;
      for (std::int32_t p = 0; p < count; ++p) {
        detail::visible_ranges(view_, memory_.pieces[p], i, [&](std::int32_t b, std::int32_t e) { seen += e - b; });
      }
      if (seen == columns) continue;
      add_values(first * group_, (i - first) * group_, 0, columns);
      first = i + 1;
      for (std::int32_t p = 0; p < count && seen > 0; ++p) {
        detail::visible_ranges(view_, memory_.pieces[p], i,
                               [&](std::int32_t b, std::int32_t e) { add_values(i * group_, group_, b, e); });
      }
    }
    add_values(first * group_, (tile_rows - first) * group_, 0, columns);
  }

  /// o over its sum; the maximum becomes the lse.
  void finish_state() noexcept {
    for (std::int64_t m = 0; m < rows_; ++m) {
      const Acc sum = memory_.sum[m];
      if (sum == Acc(0)) {
        memory_.maximum[m] = kEmpty;
        continue;
      }
      Acc* o = memory_.o_rows[m];
      for (std::int32_t d = 0; d < kind_.Dv; ++d) o[d] /= sum;
      memory_.maximum[m] += detail::log_of(sum);
    }
  }
  void fold() noexcept {
    for (std::int64_t m = 0; m < rows_; ++m) {
      detail::merge_into(memory_.fold_o + m * kind_.Dv, memory_.fold_lse + m, memory_.o_rows[m], memory_.maximum[m],
                         kind_.Dv);
    }
  }

  /// Writes the states of a tile's rows: to their partial rows, or finished when slot is -1.
  void emit(const RowTile& tile, std::int64_t head, Acc* o, const Acc* lse, std::int64_t slot) noexcept {
    for (std::int64_t i = 0; i < tile.count; ++i) {
      for (std::int64_t g = 0; g < group_; ++g) {
        const std::int64_t m = i * group_ + g, q_head = head * group_ + g;
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
  }

  /// Sink, rounding, store.
  void finish_row(std::int64_t row, std::int64_t q_head, Acc* o, Acc lse) const noexcept {
    if (!args_.sinks.empty()) {
      const detail::MergedPair<Acc> merged = detail::merge_pair(lse, static_cast<Acc>(args_.sinks[q_head]));
      for (std::int32_t d = 0; d < kind_.Dv; ++d) o[d] *= merged.weight_a;
      lse = merged.lse;
    }
    if (args_.o) detail::store_row(args_.o.dtype, args_.o.ptr(row, q_head), kind_.Dv, o);
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
      detail::merge_into(o, &lse, partial_o_ + at * kind_.Dv, partial_lse_[at], kind_.Dv);
    }
    finish_row(plan_.group_rows[group.first_row + r], q_head, o, lse);
  }

  detail::AttendView view_;
  const PlanView& plan_;
  const Attend& args_;
  LayerKind kind_;
  std::int64_t group_;
  bool invariant_;
  std::int32_t part_, parts_;
  Acc scale_;
  std::atomic<std::int32_t>* counters_;  // [reduce groups]
  char* scratch_;
  std::int64_t scratch_bytes_;
  detail::Arena arena_;
  detail::ForwardMemory<Acc> memory_;
  detail::QueryRows<Acc> query_;
  Acc* partial_o_;         // [partial rows, Hq, Dv]
  Acc* partial_lse_;       // [partial rows, Hq]
  std::int64_t rows_ = 0;  // packed rows of the present tile
};

/// Part `part` of `parts` of a validated call; for implementation lists.
inline Status tree_attention_part(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept {
  if (call.plan.header.kind.acc_dtype() == DType::f64) {
    Forward<double>(call.plan, call.args, part, parts).run();
  } else {
    Forward<float>(call.plan, call.args, part, parts).run();
  }
  return Status{};
}

/// The operator on the calling thread, without a Context: contract at Attend.
inline Status tree_attention(const Plan& plan, const Attend& args) noexcept {
  const AttendCall call{plan.view(), args};
  if (Status s = detail::validate(call.plan, args, 1); !s.ok()) return s;
  return tree_attention_part(call, 0, 1);
}

}  // namespace portable
}  // namespace v0_1
}  // namespace prefixshare
