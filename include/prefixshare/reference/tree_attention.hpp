// SPDX-License-Identifier: Apache-2.0
// Reference of tree_attention, forward and backward: f64 throughout, two-pass softmax, one query row at a time.
// Read it top down to learn the operator: which keys a row sees, how they meet its query, and what is summed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/reference/kv_append.hpp"
#include "prefixshare/reference/matrix.hpp"
#include "prefixshare/reference/merge_states.hpp"
#include "prefixshare/reference/rope.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace reference {

// ---- Which keys a row sees ----

/// Tokens in a length slot: what the call says, or the capacity.
inline std::int64_t actual_length(const PlanView& plan, const Attend& args, std::int32_t slot) {
  return args.actual_lengths.empty() ? plan.slot_capacity[slot] : args.actual_lengths[slot];
}

/// By how much the orders and positions of a length slot's rows fall because the slot is not full.
inline std::int64_t shortfall(const PlanView& plan, const Attend& args, std::int32_t slot) {
  return slot < 0 ? 0 : plan.slot_capacity[slot] - actual_length(plan, args, slot);
}

/// Keys of a run that exist in this call.
inline std::int64_t key_count(const PlanView& plan, const Attend& args, const KeyRun& run) {
  if (run.length_slot < 0) return run.length;
  return std::clamp<std::int64_t>(actual_length(plan, args, run.length_slot) - run.length_origin, 0, run.length);
}

/// Whether row `i` of the run's tile sees key `j` of the run.
inline bool is_visible(const PlanView& plan, const Attend& args, const KeyRun& run, std::int64_t i, std::int64_t j) {
  if (run.mask == MaskKind::full) return true;
  if (run.mask == MaskKind::bits) {
    const std::int64_t words_per_row = (std::int64_t{run.length} + 63) / 64;
    return plan.words[run.first_word + i * words_per_row + j / 64] >> (j % 64) & 1;
  }
  const RowInstance& instance = plan.instances[run.first_instance + i];
  const std::int64_t order = instance.order - shortfall(plan, args, instance.length_slot);
  const std::int64_t position = run.position + j;
  const std::int64_t window = plan.header.kind.window;
  return position <= order && (window < 0 || position > order - window);
}

/// Where a key and its value are.
struct KeyPlace {
  std::int32_t token;  ///< of the segment
  std::int32_t pool;
  std::int64_t page;
  std::int64_t slot;
};

inline KeyPlace place_of(const PlanView& plan, const Segment& segment, std::int32_t token) {
  const std::int64_t page_size = plan.pools[segment.pool].page_size;
  const std::int64_t at = std::int64_t{segment.offset} + token;
  return {token, segment.pool, plan.pages[segment.first_page + at / page_size], at % page_size};
}

/// The keys that row `i` of the run's tile sees, among tokens [begin, end) of the segment.
inline std::vector<KeyPlace> visible_keys(const PlanView& plan, const Attend& args, const KeyRun& run, std::int64_t i,
                                          std::int64_t begin, std::int64_t end) {
  std::vector<KeyPlace> keys;
  const std::int64_t first = std::max<std::int64_t>(0, begin - run.token);
  const std::int64_t last = std::min(key_count(plan, args, run), end - run.token);
  for (std::int64_t j = first; j < last; ++j) {
    if (!is_visible(plan, args, run, i, j)) continue;
    keys.push_back(place_of(plan, plan.segments[run.segment], static_cast<std::int32_t>(run.token + j)));
  }
  return keys;
}

// ---- How they meet the query ----

/// The rotation of a query row before it meets the keys of a run. Keys stay in their own frame, queries turn by -delta.
struct Turn {
  double position = 0;
  double gain = 1;
};

inline Turn turn_of(const PlanView& plan, const Attend& args, const RowInstance& instance) {
  const double delta = plan.deltas.empty() ? 0 : plan.deltas[instance.delta];
  if (!args.rope || args.q_rotated) return {-delta, 1};
  const double position = static_cast<double>(instance.position - shortfall(plan, args, instance.length_slot));
  return {position - delta, args.rope->mscale};
}

inline void rotate(const RopeTable* table, const Turn& turn, Matrix* x) {
  const bool identity = turn.position == 0 && turn.gain == 1;
  if (table && !identity) rotate(*table, turn.position, turn.gain, x);
}

/// One query row, the query heads of one KV head, and n keys that they see: the operands of every formula.
struct Operands {
  std::int64_t row = 0;   ///< caller's query row
  std::int64_t head = 0;  ///< first query head
  Turn turn;
  std::vector<KeyPlace> keys;  ///< [n]
  Vector k_scale;              ///< [n]
  Vector v_scale;              ///< [n]
  Matrix q;                    ///< [group, D], rotated
  Matrix k;                    ///< [n, D]
  Matrix v;                    ///< [n, Dv]
  Matrix bias;                 ///< [group, n]
};

/// Loads the operands of row `i` of the run's tile for its visible keys among tokens [begin, end) of the segment.
inline Operands gather(const PlanView& plan, const Attend& args, const KeyRun& run, std::int64_t i,
                       std::int64_t kv_head, std::int64_t begin = 0, std::int64_t end = INT64_MAX) {
  const LayerKind& kind = plan.header.kind;
  const RowInstance& instance = plan.instances[run.first_instance + i];
  Operands x;
  x.row = instance.row;
  x.head = kv_head * kind.group();
  x.turn = turn_of(plan, args, instance);
  x.keys = visible_keys(plan, args, run, i, begin, end);
  x.q = load_heads(args.q, x.row, x.head, kind.group());
  rotate(args.rope, x.turn, &x.q);

  const auto n = static_cast<std::int64_t>(x.keys.size());
  x.k_scale.resize(n);
  x.v_scale.resize(n);
  x.k.resize(n, kind.D);
  x.v.resize(n, kind.Dv);
  x.bias.setZero(kind.group(), n);
  for (std::int64_t j = 0; j < n; ++j) {
    const KeyPlace& key = x.keys[static_cast<std::size_t>(j)];
    const KvPool& pool = args.kv[key.pool];
    const std::int64_t page_size = plan.pools[key.pool].page_size;
    x.k_scale[j] = scale_at(pool.k_scale, key.page, key.slot, page_size, kv_head, kind.Hkv);
    x.v_scale[j] = scale_at(pool.v_scale, key.page, key.slot, page_size, kv_head, kind.Hkv);
    x.k.row(j) = x.k_scale[j] * load_row(pool.k.ptr(key.page, key.slot, kv_head), pool.k.dtype, kind.D);
    x.v.row(j) = x.v_scale[j] * load_row(pool.v.ptr(key.page, key.slot, kv_head), pool.v.dtype, kind.Dv);
    for (std::int64_t h = 0; pool.bias && h < kind.group(); ++h) {
      x.bias(h, j) = load(pool.bias.ptr(key.page, key.slot, x.head + h), pool.bias.dtype);
    }
  }
  return x;
}

inline double softmax_scale(const PlanView& plan, const Attend& args) {
  return args.scale != 0 ? args.scale : 1 / std::sqrt(static_cast<double>(plan.header.kind.D));
}

/// Logits and their slopes.
struct Scores {
  Matrix s;      ///< [group, n] softcap(scale q k^T) + bias
  Matrix slope;  ///< [group, n] ds / d(scale q k^T)
};

inline Scores scores(const PlanView& plan, const Attend& args, const Operands& x) {
  const Matrix logits = softmax_scale(plan, args) * (x.q * x.k.transpose());
  if (args.softcap == 0) return {logits + x.bias, Matrix::Ones(logits.rows(), logits.cols())};
  const Matrix t = (logits / args.softcap).unaryExpr([](double value) { return std::tanh(value); });
  return {args.softcap * t + x.bias, (1 - t.array().square()).matrix()};
}

// ---- Forward ----

/// Calls f(run, i) for each key run that holds row `r` of the group, in key order; i is the row's index in its tile.
template <class F>
void for_each_run(const PlanView& plan, const ReduceGroup& group, std::int32_t r, F&& f) {
  for (std::int32_t t = group.first_tile; t < group.first_tile + group.tile_count; ++t) {
    const RowTile& tile = plan.tiles[plan.group_tiles[t].tile];
    for (std::int32_t run = tile.first_run; run < tile.first_run + tile.run_count; ++run) {
      f(plan.runs[run], plan.group_tiles[t].offset + r);
    }
  }
}

/// The state of one head over keys with logits `s` [n] and values `v` [n, Dv]:
///   top = max(s, sink);  sum = sum_j exp(s_j - top) + exp(sink - top);  lse = top + log(sum);
///   o = sum_j exp(s_j - top) v_j / sum
/// NaN: the maximum skips it, the sum does not. No key, or only logits of -inf: o = 0, lse = -inf.
struct HeadState {
  RowVector o;
  double lse;
};

inline HeadState softmax(const RowVector& s, const Matrix& v, double sink) {
  double top = sink;
  for (const double logit : s) top = std::max(top, logit);
  if (top == kEmptyLse) top = 0;  // exp(-inf - 0) is 0, exp(-inf + inf) would not be
  const RowVector p = exp_of((s.array() - top).matrix());
  const double sum = p.sum() + std::exp(sink - top);
  if (sum == 0) return {RowVector::Zero(v.cols()), kEmptyLse};
  return {p * v / sum, top + std::log(sum)};
}

/// Row `r` of a reduce group for the query heads of one KV head.
inline void attend_row(const AttendCall& call, const ReduceGroup& group, std::int32_t r, std::int64_t kv_head) {
  const PlanView& plan = call.plan;
  const Attend& args = call.args;
  const LayerKind& kind = plan.header.kind;
  Matrix s(kind.group(), 0);
  Matrix v(0, kind.Dv);
  for_each_run(plan, group, r, [&](const KeyRun& run, std::int64_t i) {
    const Operands x = gather(plan, args, run, i, kv_head);
    s.conservativeResize(Eigen::NoChange, s.cols() + x.v.rows());
    v.conservativeResize(v.rows() + x.v.rows(), Eigen::NoChange);
    s.rightCols(x.v.rows()) = scores(plan, args, x).s;
    v.bottomRows(x.v.rows()) = x.v;
  });

  const std::int64_t row = plan.group_rows[group.first_row + r];
  for (std::int64_t h = 0; h < kind.group(); ++h) {
    const std::int64_t head = kv_head * kind.group() + h;
    const HeadState state = softmax(s.row(h), v, args.sinks.empty() ? kEmptyLse : args.sinks[head]);
    if (args.o) store_row(args.o.ptr(row, head), args.o.dtype, state.o);
    if (args.lse) store_row(args.lse.ptr(row, head), args.lse.dtype, RowVector::Constant(1, state.lse));
  }
}

/// Part `i` of `n` of the forward: parts own whole query rows, so there are no partial states.
inline Status tree_attention_part(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  return run_part("tree_attention", call.plan.groups.size(), i, n, [&](std::int64_t g) {
    const ReduceGroup& group = call.plan.groups[g];
    for (std::int32_t r = 0; r < group.row_count; ++r) {
      for (std::int64_t kv_head = 0; kv_head < call.plan.header.kind.Hkv; ++kv_head) {
        attend_row(call, group, r, kv_head);
      }
    }
  });
}

// ---- Backward ----

/// What the backward reads of one query row, for the query heads of one KV head.
struct RowState {
  Matrix dout;  ///< [group, Dv]
  Vector lse;   ///< [group]
  Vector d;     ///< [group] dO . o - dlse
};

inline RowState load_row_state(const AttendGrad& args, std::int64_t row, std::int64_t head, std::int64_t heads) {
  RowState state;
  state.dout = load_heads(args.dout, row, head, heads);
  state.d = state.dout.cwiseProduct(load_heads(args.fwd.o, row, head, heads)).rowwise().sum();
  state.lse.resize(heads);
  for (std::int64_t h = 0; h < heads; ++h) {
    state.lse[h] = load(args.fwd.lse.ptr(row, head + h), args.fwd.lse.dtype);
    if (args.dlse) state.d[h] -= load(args.dlse.ptr(row, head + h), args.dlse.dtype);
  }
  return state;
}

/// What a row takes from each of n keys and sends back to it.
struct Weights {
  Matrix p;   ///< [group, n] exp(s - lse)
  Matrix ds;  ///< [group, n] p (dO . v - D) slope, the gradient of scale q k^T
};

inline Weights weights(const AttendGradCall& call, const Operands& x, const RowState& row) {
  const Scores score = scores(call.plan, call.args.fwd, x);
  Weights w;
  w.p = exp_of(score.s.colwise() - row.lse);
  for (Eigen::Index h = 0; h < row.lse.size(); ++h) {
    if (row.lse[h] == kEmptyLse) w.p.row(h).setZero();  // every logit is -inf
  }
  const Matrix dp = row.dout * x.v.transpose();
  w.ds = w.p.cwiseProduct(dp.colwise() - row.d).cwiseProduct(score.slope);
  return w;
}

/// dQ = scale ds K, turned back to the caller's frame, summed over the runs that hold the row.
inline void row_backward(const AttendGradCall& call, const ReduceGroup& group, std::int32_t r, std::int64_t kv_head) {
  const LayerKind& kind = call.plan.header.kind;
  const std::int64_t row = call.plan.group_rows[group.first_row + r];
  const std::int64_t head = kv_head * kind.group();
  const RowState state = load_row_state(call.args, row, head, kind.group());
  Matrix dq = Matrix::Zero(kind.group(), kind.D);
  for_each_run(call.plan, group, r, [&](const KeyRun& run, std::int64_t i) {
    const Operands x = gather(call.plan, call.args.fwd, run, i, kv_head);
    Matrix piece = softmax_scale(call.plan, call.args.fwd) * (weights(call, x, state).ds * x.k);
    rotate(call.args.fwd.rope, {-x.turn.position, x.turn.gain}, &piece);
    dq += piece;
  });
  store_heads(call.args.dq, row, head, dq, call.args.accumulate);
}

/// Gradients of the keys and values of one block, for one KV head.
struct BlockGrad {
  Matrix dk;  ///< [block.length, D]
  Matrix dv;  ///< [block.length, Dv]
};

/// Adds dK = scale ds^T Q and dV = P^T dO of row `i` of a run's tile. Gradients are those of the stored values: the KV
/// scales multiply.
inline void add_row(const AttendGradCall& call, const KeyBlock& block, const KeyRun& run, std::int64_t i,
                    std::int64_t kv_head, BlockGrad* grad) {
  const Attend& fwd = call.args.fwd;
  const std::int64_t end = std::int64_t{block.token} + block.length;
  const Operands x = gather(call.plan, fwd, run, i, kv_head, block.token, end);
  const RowState row = load_row_state(call.args, x.row, x.head, call.plan.header.kind.group());
  const Weights w = weights(call, x, row);
  const Matrix dk = softmax_scale(call.plan, fwd) * (x.k_scale.asDiagonal() * (w.ds.transpose() * x.q));
  const Matrix dv = x.v_scale.asDiagonal() * (w.p.transpose() * row.dout);
  for (std::size_t j = 0; j < x.keys.size(); ++j) {
    const Eigen::Index at = x.keys[j].token - block.token;
    grad->dk.row(at) += dk.row(static_cast<Eigen::Index>(j));
    grad->dv.row(at) += dv.row(static_cast<Eigen::Index>(j));
  }
}

/// dK and dV of a block, over all rows that see it.
inline void block_backward(const AttendGradCall& call, const KeyBlock& block, std::int64_t kv_head) {
  const PlanView& plan = call.plan;
  BlockGrad grad;
  grad.dk.setZero(block.length, plan.header.kind.D);
  grad.dv.setZero(block.length, plan.header.kind.Dv);
  for (std::int32_t b = block.first_run; b < block.first_run + block.run_count; ++b) {
    const KeyRun& run = plan.runs[plan.block_runs[b]];
    for (std::int64_t i = 0; i < plan.tiles[run.tile].count; ++i) add_row(call, block, run, i, kv_head, &grad);
  }
  for (std::int32_t t = 0; t < block.length; ++t) {
    const KeyPlace key = place_of(plan, plan.segments[block.segment], block.token + t);
    const auto& [dk, dv] = call.args.dkv[key.pool];
    if (dk) store_row(dk.ptr(key.page, key.slot, kv_head), dk.dtype, grad.dk.row(t), call.args.accumulate);
    if (dv) store_row(dv.ptr(key.page, key.slot, kv_head), dv.dtype, grad.dv.row(t), call.args.accumulate);
  }
}

/// dsink = -sum_i exp(sink - lse_i) D_i.
inline void sink_backward(const AttendGradCall& call, std::int64_t head) {
  const double sink = call.args.fwd.sinks[head];
  double sum = 0;
  for (std::int64_t row = 0; sink != kEmptyLse && row < call.plan.header.rows; ++row) {
    const RowState state = load_row_state(call.args, row, head, 1);
    sum -= std::exp(sink - state.lse[0]) * state.d[0];
  }
  store_row(&call.args.dsinks[head], DType::f32, RowVector::Constant(1, sum), call.args.accumulate);
}

/// Part `i` of `n` of the backward: each row of dQ, each key block and each sink has one owner.
inline Status tree_attention_backward_part(const AttendGradCall& call, std::int32_t i, std::int32_t n) noexcept {
  const std::int64_t groups = call.plan.groups.size();
  const std::int64_t blocks = call.plan.blocks.size();
  const std::int64_t kv_heads = call.plan.header.kind.Hkv;
  return run_part("tree_attention_backward", groups + blocks + call.args.dsinks.size(), i, n, [&](std::int64_t unit) {
    if (unit >= groups + blocks) return sink_backward(call, unit - groups - blocks);
    for (std::int64_t kv_head = 0; unit >= groups && kv_head < kv_heads; ++kv_head) {
      block_backward(call, call.plan.blocks[unit - groups], kv_head);
    }
    for (std::int64_t kv_head = 0; unit < groups && kv_head < kv_heads; ++kv_head) {
      const ReduceGroup& group = call.plan.groups[unit];
      for (std::int32_t r = 0; r < group.row_count; ++r) row_backward(call, group, r, kv_head);
    }
  });
}

// ---- Typed entries ----

/// The operators without a Context, total: they accept every valid problem and need no workspace.
inline Status tree_attention(const Plan& plan, const Attend& args) noexcept {
  const AttendCall call{plan.view(), args};
  if (Status s = prefixshare::detail::validate(call.plan, args)) return s;
  return tree_attention_part(call, 0, 1);
}

inline Status tree_attention_backward(const Plan& plan, const AttendGrad& args) noexcept {
  const AttendGradCall call{plan.view(), args};
  if (Status s = prefixshare::detail::validate(call.plan, args)) return s;
  return tree_attention_backward_part(call, 0, 1);
}

/// The forward of some query rows only (sorted): o and lse of the others keep their bits. For spot checks of a large
/// call.
inline Status tree_attention_rows(const Plan& plan, const Attend& args, Span<const std::int32_t> rows) noexcept {
  const AttendCall call{plan.view(), args};
  if (Status s = prefixshare::detail::validate(call.plan, args)) return s;
  return run_part("tree_attention", call.plan.groups.size(), 0, 1, [&](std::int64_t g) {
    const ReduceGroup& group = call.plan.groups[g];
    for (std::int32_t r = 0; r < group.row_count; ++r) {
      if (!std::binary_search(rows.begin(), rows.end(), call.plan.group_rows[group.first_row + r])) continue;
      for (std::int64_t kv_head = 0; kv_head < plan.header.kind.Hkv; ++kv_head) attend_row(call, group, r, kv_head);
    }
  });
}

}  // namespace reference
}  // namespace v0_1
}  // namespace prefixshare
