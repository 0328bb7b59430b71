// SPDX-License-Identifier: Apache-2.0
// The backward of tree_attention in plain C++: one owner per (reduce group, KV head) writes dQ, one per (key block, KV
// head) writes dK and dV, one per query head writes dsink. Scores are computed again from q, k and the saved lse.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "prefixshare/detail/lanes.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace portable {

/// Part `part` of `parts` of a backward, in arithmetic type Acc.
template <class Acc>
class Backward {
 public:
  Backward(const PlanView& plan, const AttendGrad& args, std::int32_t part, std::int32_t parts) noexcept
      : view_{plan, args.fwd},
        plan_(plan),
        args_(args),
        kind_(plan.header.kind),
        group_(kind_.group()),
        part_(part),
        parts_(parts),
        scale_(static_cast<Acc>(view_.scale())),
        arena_(static_cast<char*>(args.workspace.data) + args.workspace.counter_bytes +
               part * detail::backward_scratch_bytes(kind_)),
        memory_(&arena_, kind_),
        query_(view_, memory_.angles) {}

  void run() noexcept {
    const PlanHeader& h = plan_.header;
    for (const ReduceGroup& group : plan_.groups) {
      for (std::int32_t head = 0; head < kind_.Hkv && args_.dq; ++head) {
        if (owns(group.cost, head, h.total_group_cost)) query_gradient(group, head);
      }
    }
    for (const KeyBlock& block : plan_.blocks) {
      for (std::int32_t head = 0; head < kind_.Hkv; ++head) {
        if (owns(block.cost, head, h.total_block_cost)) key_gradient(block, head);
      }
    }
    for (std::int64_t h_q = part_; h_q < args_.dsinks.size(); h_q += parts_) sink_gradient(h_q);
  }

 private:
  using Piece = detail::Piece;

  /// Heads take turns over the parts, so that the work between two costs spreads too.
  bool owns(std::int64_t cost, std::int32_t head, std::int64_t total) const noexcept {
    return (detail::owner(cost, total, parts_) + head) % parts_ == part_;
  }

  void query_gradient(const ReduceGroup& group, std::int64_t head) noexcept {
    const std::int64_t rows = group.row_count * group_;
    point(memory_.q, kind_.D, rows, memory_.q_rows);
    point(memory_.dq_frame, kind_.D, rows, memory_.dq_rows);
    std::fill_n(memory_.dq, rows * kind_.D, Acc(0));
    std::fill_n(memory_.dq_frame, rows * kind_.D, Acc(0));
    for (std::int32_t r = 0; r < group.row_count; ++r) load_row_state(plan_.group_rows[group.first_row + r], r, head);
    for (std::int32_t t = 0; t < group.tile_count; ++t) {
      const GroupTile& at = plan_.group_tiles[group.first_tile + t];
      tile_query_gradient(plan_.tiles[at.tile], at.offset, group.row_count, head);
    }
    for (std::int64_t m = 0; m < rows; ++m) {
      const std::int64_t row = plan_.group_rows[group.first_row + m / group_];
      write(args_.dq.dtype, args_.dq.ptr(row, head * group_ + m % group_), kind_.D, memory_.dq + m * kind_.D);
    }
  }

  /// Adds one tile's keys to dQ of its rows [offset, offset + count).
  void tile_query_gradient(const RowTile& tile, std::int32_t offset, std::int32_t count, std::int64_t head) noexcept {
    detail::BlockCursor cursor(view_, tile.first_run, tile.run_count, detail::kBlockKeys, false);
    std::int32_t loaded = -1;
    while (!cursor.done()) {
      const std::int32_t instances = cursor.instances() + offset;
      if (instances != loaded) {
        if (loaded >= 0) query_.turn_back(loaded, count, memory_.dq_frame, memory_.dq);
        query_.load(instances, count, head, memory_.q);
        loaded = instances;
      }
      const std::int32_t pieces = cursor.next(memory_.pieces);
      memory_.keys.load(view_, memory_.pieces, pieces, head);
      score_gradients(pieces, offset, count, head);
      for_visible(pieces, offset, count, [&](std::int64_t m, std::int64_t rows, std::int32_t b, std::int32_t e) {
        detail::add_rows<Acc>({memory_.ds + m * kKeyBlock + b, kKeyBlock, 1}, memory_.keys.k + b, e - b,
                              memory_.dq_rows + m, rows, kind_.D);
      });
    }
    if (loaded >= 0) query_.turn_back(loaded, count, memory_.dq_frame, memory_.dq);
  }

  void key_gradient(const KeyBlock& block, std::int64_t head) noexcept {
    const Segment& segment = plan_.segments[block.segment];
    const KvGrad& grad = args_.dkv[segment.pool];
    if (!grad.dk && !grad.dv) return;
    point(memory_.dk, kind_.D, block.length, memory_.dk_rows);
    point(memory_.dv, kind_.Dv, block.length, memory_.dv_rows);
    std::fill_n(memory_.dk, block.length * kind_.D, Acc(0));
    std::fill_n(memory_.dv, block.length * kind_.Dv, Acc(0));
    for (std::int32_t i = 0; i < block.run_count; ++i) {
      run_key_gradient(block, plan_.runs[plan_.block_runs[block.first_run + i]], head);
    }
    const KvPool& pool = args_.fwd.kv[segment.pool];
    const std::int64_t page_size = plan_.pools[segment.pool].page_size;
    for (std::int32_t j = 0; j < block.length; ++j) {
      const detail::TokenPlace at = detail::place_of(plan_, segment, block.token + j);
      write_scaled(grad.dk, at, head, detail::scale_at(pool.k_scale, at, page_size, head, kind_.Hkv), kind_.D,
                   memory_.dk_rows[j]);
      write_scaled(grad.dv, at, head, detail::scale_at(pool.v_scale, at, page_size, head, kind_.Hkv), kind_.Dv,
                   memory_.dv_rows[j]);
    }
  }

  /// Adds the rows of one run's tile to dK and dV of the keys that the run and the block have in common.
  void run_key_gradient(const KeyBlock& block, const KeyRun& run, std::int64_t head) noexcept {
    const std::int64_t begin = std::max(run.token, block.token);
    const std::int64_t end = std::min<std::int64_t>(run.token + view_.keys(run), block.token + block.length);
    if (begin >= end) return;
    const RowTile& tile = plan_.tiles[run.tile];
    const std::int64_t rows = tile.count * group_;
    memory_.pieces[0] = {&run, static_cast<std::int32_t>(begin - run.token), 0, static_cast<std::int32_t>(end - begin)};
    point(memory_.q, kind_.D, rows, memory_.q_rows);
    query_.load(run.first_instance, tile.count, head, memory_.q);
    for (std::int32_t i = 0; i < tile.count; ++i) load_row_state(plan_.instances[tile.first + i].row, i, head);
    memory_.keys.load(view_, memory_.pieces, 1, head);
    score_gradients(1, 0, tile.count, head);
    const std::int64_t first = begin - block.token;
    for_visible(1, 0, tile.count, [&](std::int64_t m, std::int64_t count, std::int32_t b, std::int32_t e) {
      const std::int64_t at = m * kKeyBlock + b;
      detail::add_rows<Acc>({memory_.p + at, 1, kKeyBlock}, memory_.dout_rows + m, count, memory_.dv_rows + first + b,
                            e - b, kind_.Dv);
      detail::add_rows<Acc>({memory_.ds + at, 1, kKeyBlock}, memory_.q_rows + m, count, memory_.dk_rows + first + b,
                            e - b, kind_.D);
    });
  }

  /// P and dS of the loaded rows against the loaded keys. Entries that a row does not see are left as they are.
  void score_gradients(std::int32_t pieces, std::int32_t offset, std::int32_t count, std::int64_t head) noexcept {
    const std::int32_t columns = memory_.pieces[pieces - 1].end;
    detail::dot_rows(memory_.q_rows, count * group_, memory_.keys.k, columns, kind_.D, memory_.p,
                     std::int64_t{kKeyBlock});
    detail::dot_rows(memory_.dout_rows, count * group_, memory_.keys.v, columns, kind_.Dv, memory_.ds,
                     std::int64_t{kKeyBlock});
    for_visible(pieces, offset, count, [&](std::int64_t m, std::int64_t rows, std::int32_t b, std::int32_t e) {
      for (std::int64_t i = m; i < m + rows; ++i) score_gradient_row(pieces, i, head * group_ + i % group_, b, e);
    });
  }
  void score_gradient_row(std::int32_t pieces, std::int64_t m, std::int64_t q_head, std::int32_t begin,
                          std::int32_t end) noexcept {
    Acc* p = memory_.p + m * kKeyBlock;
    Acc* ds = memory_.ds + m * kKeyBlock;
    const Acc cap = static_cast<Acc>(args_.fwd.softcap);
    Acc logits[kKeyBlock] = {};
    for (std::int32_t c = begin; c < end; ++c) {
      logits[c] = p[c] * scale_;
      if (cap > 0) logits[c] = cap * std::tanh(logits[c] / cap);
      const Acc ratio = cap > 0 ? logits[c] / cap : Acc(0);
      p[c] = Acc(1) - ratio * ratio;  // derivative of the soft cap, until it is used below
    }
    for (std::int32_t i = 0; i < pieces; ++i) detail::add_bias(view_, memory_.pieces[i], q_head, logits);
    const Acc lse = memory_.lse[m];
    const bool empty = lse == -std::numeric_limits<Acc>::infinity();  // every key it sees has a logit of -inf
    for (std::int32_t c = begin; c < end; ++c) {
      const Acc slope = p[c];
      p[c] = empty ? Acc(0) : detail::exp_of(logits[c] - lse);
      ds[c] = empty ? Acc(0) : p[c] * (ds[c] - memory_.row_dot[m]) * slope * scale_;
    }
  }

  /// Calls f(first packed row, packed rows, first column, last column) so that every visible (row, column) comes once,
  /// rows ascending for each column; rows that see all columns come together.
  template <class F>
  void for_visible(std::int32_t pieces, std::int32_t offset, std::int32_t count, F&& f) const noexcept {
    const std::int32_t columns = memory_.pieces[pieces - 1].end;
    std::int64_t first = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      std::int32_t seen = 0;
      for (std::int32_t p = 0; p < pieces; ++p) {
        detail::visible_ranges(view_, memory_.pieces[p], offset + i,
                               [&](std::int32_t b, std::int32_t e) { seen += e - b; });
      }
      if (seen == columns) continue;
      if (first < i) f(first * group_, (i - first) * group_, 0, columns);
      first = i + 1;
      for (std::int32_t p = 0; p < pieces && seen > 0; ++p) {
        detail::visible_ranges(view_, memory_.pieces[p], offset + i,
                               [&](std::int32_t b, std::int32_t e) { f(i * group_, group_, b, e); });
      }
    }
    if (first < count) f(first * group_, (count - first) * group_, 0, columns);
  }

  /// dO, lse and D_i = dO . o - dlse of one query row's heads, as local row `i`.
  void load_row_state(std::int64_t row, std::int64_t i, std::int64_t head) noexcept {
    for (std::int64_t g = 0; g < group_; ++g) {
      const std::int64_t m = i * group_ + g, q_head = head * group_ + g;
      Acc* dout = memory_.dout + m * kind_.Dv;
      memory_.dout_rows[m] = dout;
      detail::load_row(args_.dout.dtype, args_.dout.ptr(row, q_head), kind_.Dv, dout);
      memory_.row_dot[m] = row_dot(row, q_head, dout);
      memory_.lse[m] = *args_.fwd.lse.template at<Acc>(row, q_head);
    }
  }
  Acc row_dot(std::int64_t row, std::int64_t q_head, const Acc* dout) noexcept {
    detail::load_row(args_.fwd.o.dtype, args_.fwd.o.ptr(row, q_head), kind_.Dv, memory_.o);
    const Acc* o = memory_.o;
    Acc dot;
    detail::dot_rows(&dout, 1, &o, 1, kind_.Dv, &dot, std::int64_t{1});
    return args_.dlse ? dot - *args_.dlse.template at<Acc>(row, q_head) : dot;
  }

  void sink_gradient(std::int64_t q_head) noexcept {
    const Acc sink = static_cast<Acc>(args_.fwd.sinks[q_head]);
    Acc sum = 0;
    for (std::int64_t row = 0; row < plan_.header.rows; ++row) {
      detail::load_row(args_.dout.dtype, args_.dout.ptr(row, q_head), kind_.Dv, memory_.dout);
      const Acc lse = *args_.fwd.lse.template at<Acc>(row, q_head);
      if (lse == -std::numeric_limits<Acc>::infinity()) continue;
      sum -= detail::exp_of(sink - lse) * row_dot(row, q_head, memory_.dout);
    }
    float& out = args_.dsinks[q_head];
    out = static_cast<float>(args_.accumulate ? static_cast<Acc>(out) + sum : sum);
  }

  void write_scaled(const TensorView<4>& out, detail::TokenPlace at, std::int64_t head, float scale, std::int64_t n,
                    Acc* row) const noexcept {
    if (!out) return;
    for (std::int64_t d = 0; d < n && scale != 1.0f; ++d) row[d] *= static_cast<Acc>(scale);
    write(out.dtype, out.ptr(at.page, at.slot, head), n, row);
  }
  void write(DType dtype, void* to, std::int64_t n, const Acc* row) const noexcept {
    if (args_.accumulate) {
      detail::add_row(dtype, to, n, row);
    } else {
      detail::store_row(dtype, to, n, row);
    }
  }
  template <class Pointer>
  static void point(Acc* base, std::int64_t width, std::int64_t count, Pointer* rows) noexcept {
    for (std::int64_t i = 0; i < count; ++i) rows[i] = base + i * width;
  }

  detail::AttendView view_;
  const PlanView& plan_;
  const AttendGrad& args_;
  LayerKind kind_;
  std::int64_t group_;
  std::int32_t part_, parts_;
  Acc scale_;
  detail::Arena arena_;
  detail::BackwardMemory<Acc> memory_;
  detail::QueryRows<Acc> query_;
};

/// Part `part` of `parts` of a validated call; for implementation lists.
inline Status tree_attention_backward_part(const AttendGradCall& call, std::int32_t part, std::int32_t parts) noexcept {
  if (call.plan.header.kind.acc_dtype() == DType::f64) {
    Backward<double>(call.plan, call.args, part, parts).run();
  } else {
    Backward<float>(call.plan, call.args, part, parts).run();
  }
  return Status{};
}

/// The operator on the calling thread, without a Context: contract at AttendGrad.
inline Status tree_attention_backward(const Plan& plan, const AttendGrad& args) noexcept {
  const AttendGradCall call{plan.view(), args};
  if (Status s = detail::validate(call.plan, args, 1); !s.ok()) return s;
  return tree_attention_backward_part(call, 0, 1);
}

}  // namespace portable
}  // namespace v0_1
}  // namespace prefixshare
