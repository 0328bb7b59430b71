// SPDX-License-Identifier: Apache-2.0
// The backward of tree_attention one pair at a time, in f32: any head dims up to 256, any mix of storage types, and
// nothing of a pair that is hidden is ever multiplied. Sixteen rows meet sixteen keys in shared memory.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/elements.cuh"
#include "prefixshare/cuda/gradient_rows.cuh"
#include "prefixshare/cuda/key_walk.cuh"
#include "prefixshare/cuda/query_tile.cuh"
#include "prefixshare/detail/softmax_state.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr int kPlainRows = 16;  // of a tile, and as many keys

/// A packed row in a tile.
struct PlainRow {
  std::int64_t row;
  std::int32_t order;  // in this call
  double position;     // angle position in its frame
  double by;           // what `turn` turns it by
  std::int32_t head;   // query head; -1: there is no row
  std::uint32_t seen;  // bit j: sees key j of the tile
  float lse, row_dot;
};
/// A key in a tile.
struct PlainKey {
  const float* bias;  // null: none
  std::int64_t bias_stride;
  float k_scale, v_scale;
};

/// Sixteen packed rows and sixteen keys in shared memory, and what comes of each pair. All threads call all members.
template <int Threads>
class PlainTile {
 public:
  static constexpr int kColumns = 256 / Threads;  // dims of a gradient that a thread sums: thread(), thread() + Threads

  PREFIXSHARE_DEVICE PlainTile(const AttendGradParams& p, unsigned char* memory) : p_(p), a_(p.fwd) {
    rows_ = reinterpret_cast<PlainRow*>(memory);
    keys_ = reinterpret_cast<PlainKey*>(rows_ + kPlainRows);
    p_pairs_ = reinterpret_cast<float*>(keys_ + kPlainRows);
    ds_pairs_ = p_pairs_ + kPlainRows * kStride;
    q_ = ds_pairs_ + kPlainRows * kStride;
    k_ = q_ + kPlainRows * width(a_.D);
    dout_ = k_ + kPlainRows * width(a_.D);
    v_ = dout_ + kPlainRows * width(a_.Dv);
  }
  static PREFIXSHARE_HD constexpr int bytes(int D, int Dv) {
    return kPlainRows * static_cast<int>(sizeof(PlainRow) + sizeof(PlainKey)) +
           4 * (2 * kPlainRows * kStride + 2 * kPlainRows * (width(D) + width(Dv)));
  }

  PREFIXSHARE_DEVICE PlainRow& row(int i) const { return rows_[i]; }
  PREFIXSHARE_DEVICE bool sees(int i, int j) const { return (rows_[i].seen >> j & 1u) != 0; }
  PREFIXSHARE_DEVICE float p(int i, int j) const { return p_pairs_[i * kStride + j]; }
  PREFIXSHARE_DEVICE float ds(int i, int j) const { return ds_pairs_[i * kStride + j]; }
  PREFIXSHARE_DEVICE float q(int i, int d) const { return q_[i * width(a_.D) + d]; }
  PREFIXSHARE_DEVICE float k(int j, int d) const { return k_[j * width(a_.D) + d]; }
  PREFIXSHARE_DEVICE float dout(int i, int d) const { return dout_[i * width(a_.Dv) + d]; }

  /// Describes row i, unless it is there already: of instance `instance`, as query head `head`; -1: none.
  PREFIXSHARE_DEVICE void describe_row(int i, std::int32_t instance, std::int32_t head) const {
    PlainRow r{0, 0, 0.0, 0.0, head, 0, kEmptyRow, 0.0f};
    if (head >= 0) {
      const ImageInstance& from = instances_of(a_)[instance];
      r.row = from.row;
      r.order = order_of(a_, from);
      r.position = r.by = turn_position(a_, from);
      r.lse = a_.lse[r.row * a_.lse_stride[0] + head * a_.lse_stride[1]];
      r.row_dot = p_.row_dot[r.row * a_.Hq + head];
    }
    rows_[i] = r;
  }
  /// Queries of the rows that are described, each turned into its frame.
  PREFIXSHARE_DEVICE void load_queries() const {
    load(q_, a_.D, a_.q_dtype, a_.q, a_.q_stride);
    ptx::sync_block();
    turn(q_, turn_gain(a_));
  }
  PREFIXSHARE_DEVICE void load_outputs() const { load(dout_, a_.Dv, p_.dout_dtype, p_.dout, p_.dout_stride); }

  /// Turns rows of D elements in shared memory, times `gain`, each by what its description says.
  PREFIXSHARE_DEVICE void turn(float* x, float gain) const {
    const int pairs = a_.rope.pairs;
    for (int i = ptx::thread(); i < kPlainRows * pairs; i += Threads) {
      const PlainRow& r = rows_[i / pairs];
      if (r.head < 0 || (r.by == 0 && gain == 1.0f)) continue;
      float sine, cosine;
      turn_angle(a_, i % pairs, r.by, gain, &sine, &cosine);
      const TurnPair at = turn_pair(a_.rope, i % pairs);
      float* const first = x + i / pairs * width(a_.D) + at.first;
      float* const second = x + i / pairs * width(a_.D) + at.second;
      const float a = *first, b = *second;
      *first = fmaf(a, cosine, -(b * sine));
      *second = fmaf(b, cosine, a * sine);
    }
    ptx::sync_block();
  }
  /// Memory for sixteen rows of D elements, `width` apart: where the queries are.
  PREFIXSHARE_DEVICE float* query_memory() const { return q_; }
  static PREFIXSHARE_HD constexpr int width(int dims) { return dims + 1; }  // keys of one dim lie in different banks

  /// Loads keys and values [key, key + count) of a list of tokens, times their scales; count is at most 16.
  template <class Run>
  PREFIXSHARE_DEVICE void load_keys(const Run& run, std::int32_t key, std::int32_t count, std::int32_t kv_head) const {
    const PoolParams& pool = a_.pools[run.pool];
    for (int j = 0; j < count; ++j) {
      const KeyPlace at = place_of(a_, run, key + j);
      const float k_scale = scale_at(pool.k_scale, at, pool.page_size, kv_head, a_.Hkv);
      const float v_scale = scale_at(pool.v_scale, at, pool.page_size, kv_head, a_.Hkv);
      const std::int64_t k = offset_of(pool.k_stride, at, kv_head), v = offset_of(pool.v_stride, at, kv_head);
      for (int d = ptx::thread(); d < a_.D; d += Threads) {
        k_[j * width(a_.D) + d] = load_element(a_.kv_dtype, pool.k, k + d) * k_scale;
      }
      for (int d = ptx::thread(); d < a_.Dv; d += Threads) {
        v_[j * width(a_.Dv) + d] = load_element(a_.kv_dtype, pool.v, v + d) * v_scale;
      }
      if (ptx::thread() != j) continue;
      const float* bias = static_cast<const float*>(pool.bias);
      if (bias != nullptr) bias += offset_of(pool.bias_stride, at, 0);
      keys_[j] = {bias, pool.bias_stride[2], k_scale, v_scale};
    }
  }
  PREFIXSHARE_DEVICE const PlainKey& key(int j) const { return keys_[j]; }

  /// P and dS of every pair that is seen.
  PREFIXSHARE_DEVICE void score() const {
    for (int i = ptx::thread(); i < kPlainRows * kPlainRows; i += Threads) {
      if (sees(i / kPlainRows, i % kPlainRows)) score_pair(i / kPlainRows, i % kPlainRows);
    }
  }

 private:
  static constexpr int kStride = kPlainRows + 1;

  PREFIXSHARE_DEVICE void load(float* to, int dims, DType dtype, const void* from,
                               const std::int64_t (&stride)[2]) const {
    for (int i = ptx::thread(); i < kPlainRows * dims; i += Threads) {
      const PlainRow& r = rows_[i / dims];
      if (r.head < 0) continue;
      to[i / dims * width(dims) + i % dims] =
          load_element(dtype, from, r.row * stride[0] + r.head * stride[1] + i % dims);
    }
  }
  static PREFIXSHARE_DEVICE float dot(const float* a, const float* b, int dims) {
    float sum[4] = {};
    int d = 0;
    for (; d + 4 <= dims; d += 4) {
      for (int i = 0; i < 4; ++i) sum[i] = fmaf(a[d + i], b[d + i], sum[i]);
    }
    for (; d < dims; ++d) sum[0] = fmaf(a[d], b[d], sum[0]);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
  PREFIXSHARE_DEVICE void score_pair(int i, int j) const {
    const PlainRow& r = rows_[i];
    float x = dot(q_ + i * width(a_.D), k_ + j * width(a_.D), a_.D) * a_.scale, slope = 1;
    if (a_.softcap > 0) {
      const float ratio = tanhf(x / a_.softcap);
      slope = 1 - ratio * ratio;
      x = a_.softcap * ratio;
    }
    if (keys_[j].bias != nullptr) x += keys_[j].bias[r.head * keys_[j].bias_stride];
    const float dp = dot(dout_ + i * width(a_.Dv), v_ + j * width(a_.Dv), a_.Dv);
    const float probability = prefixshare::detail::exp_of(x - r.lse);
    p_pairs_[i * kStride + j] = probability;
    ds_pairs_[i * kStride + j] = probability * (dp - r.row_dot) * slope * a_.scale;
  }

  const AttendGradParams& p_;
  const AttendParams& a_;
  PlainRow* rows_;
  PlainKey* keys_;
  float *p_pairs_, *ds_pairs_, *q_, *k_, *dout_, *v_;
};

/// dK and dV of a key block, sixteen keys at a time against all rows that meet them.
template <int Threads>
class PlainKeyGradient {
  using Tile16 = PlainTile<Threads>;
  static constexpr int kColumns = Tile16::kColumns;

 public:
  PREFIXSHARE_DEVICE PlainKeyGradient(const AttendGradParams& p, const ImageKeyWork& work, unsigned char* memory)
      : p_(p), a_(p.fwd), work_(work), tile_(p, memory), group_(p.fwd.Hq / p.fwd.Hkv) {}

  PREFIXSHARE_DEVICE void run() {
    const PoolGradParams& grad = p_.grads[work_.pool];
    if (grad.dk == nullptr && grad.dv == nullptr) return;
    for (first_ = 0; first_ < work_.length; first_ += kPlainRows) {
      count_ = work_.length - first_ < kPlainRows ? work_.length - first_ : kPlainRows;
      clear();
      tile_.load_keys(work_, first_, count_, work_.kv_head);
      for (std::int32_t s = 0; s < work_.span_count; ++s) meet(spans()[s]);
      ptx::sync_block();
      write();
      ptx::sync_block();
    }
  }

 private:
  PREFIXSHARE_DEVICE const ImageKeySpan* spans() const {
    return a_.plan.list<ImageKeySpan>(a_.plan.header().key_spans_at) + work_.first_span;
  }
  PREFIXSHARE_DEVICE void clear() {
    PREFIXSHARE_UNROLL
    for (int j = 0; j < kPlainRows; ++j) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < kColumns; ++c) dk_[j][c] = dv_[j][c] = 0;
    }
  }
  /// Adds all rows of a span.
  PREFIXSHARE_DEVICE void meet(const ImageKeySpan& span) {
    const ImageRun& run = runs_of(a_)[span.run];
    const std::int32_t block = work_.token + first_, run_end = run.token + keys_of(a_, run);
    const std::int32_t begin = run.token > block ? run.token : block;
    const std::int32_t end = run_end < block + count_ ? run_end : block + count_;
    if (begin >= end) return;
    for (std::int32_t packed = 0; packed < span.tile_rows * group_; packed += kPlainRows) {
      ptx::sync_block();
      bool any = false;
      if (const int i = ptx::thread(); i < kPlainRows) {
        const std::int32_t m = packed + i, row = m / group_;
        const bool there = m < span.tile_rows * group_;
        tile_.describe_row(i, run.first_instance + row, there ? work_.kv_head * group_ + m % group_ : -1);
        PlainRow& r = tile_.row(i);
        if (there && r.lse != kEmptyRow) {
          const std::uint64_t seen = visible_keys(a_, run, begin - run.token, end - begin, row, r.order);
          r.seen = static_cast<std::uint32_t>(seen << (begin - block));
        }
        any = r.seen != 0;
      }
      if (!ptx::any_block(any)) continue;
      tile_.load_outputs();
      tile_.load_queries();
      tile_.score();
      ptx::sync_block();
      add();
    }
  }
  PREFIXSHARE_DEVICE void add() {
    PREFIXSHARE_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const int d = ptx::thread() + c * Threads;
      for (int i = 0; i < kPlainRows; ++i) {
        const float q = d < a_.D ? tile_.q(i, d) : 0, dout = d < a_.Dv ? tile_.dout(i, d) : 0;
        PREFIXSHARE_UNROLL
        for (int j = 0; j < kPlainRows; ++j) {
          if (!tile_.sees(i, j)) continue;
          dk_[j][c] = fmaf(tile_.ds(i, j), q, dk_[j][c]);
          dv_[j][c] = fmaf(tile_.p(i, j), dout, dv_[j][c]);
        }
      }
    }
  }
  PREFIXSHARE_DEVICE void write() const {
    const PoolGradParams& grad = p_.grads[work_.pool];
    PREFIXSHARE_UNROLL
    for (int j = 0; j < kPlainRows; ++j) {
      if (j >= count_) break;
      const KeyPlace at = place_of(a_, work_, first_ + j);
      const std::int64_t dk = offset_of(grad.dk_stride, at, work_.kv_head);
      const std::int64_t dv = offset_of(grad.dv_stride, at, work_.kv_head);
      PREFIXSHARE_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const int d = ptx::thread() + c * Threads;
        if (grad.dk != nullptr && d < a_.D) {
          put_element(grad.dk_dtype, grad.dk, dk + d, dk_[j][c] * tile_.key(j).k_scale, p_.accumulate != 0);
        }
        if (grad.dv != nullptr && d < a_.Dv) {
          put_element(grad.dv_dtype, grad.dv, dv + d, dv_[j][c] * tile_.key(j).v_scale, p_.accumulate != 0);
        }
      }
    }
  }

  const AttendGradParams& p_;
  const AttendParams& a_;
  const ImageKeyWork& work_;
  Tile16 tile_;
  std::int32_t group_;
  std::int32_t first_ = 0, count_ = 0;  // keys of the block that are summed up now
  float dk_[kPlainRows][kColumns], dv_[kPlainRows][kColumns];
};

/// dQ of packed rows of a reduce group, sixteen at a time against all keys of their runs.
template <int Threads>
class PlainQueryGradient {
  using Tile16 = PlainTile<Threads>;
  static constexpr int kColumns = Tile16::kColumns;

 public:
  PREFIXSHARE_DEVICE PlainQueryGradient(const AttendGradParams& p, const ImageQueryWork& work, unsigned char* memory)
      : p_(p), a_(p.fwd), work_(work), tile_(p, memory), group_(p.fwd.Hq / p.fwd.Hkv) {}

  PREFIXSHARE_DEVICE void run() {
    const ImageQuerySpan* spans = a_.plan.list<ImageQuerySpan>(a_.plan.header().query_spans_at) + work_.first_span;
    for (first_ = 0; first_ < work_.packed_count; first_ += kPlainRows) {
      count_ = work_.packed_count - first_ < kPlainRows ? work_.packed_count - first_ : kPlainRows;
      clear();
      instances_ = -1;
      for (std::int32_t s = 0; s < work_.span_count; ++s) {
        for (std::int32_t r = 0; r < spans[s].run_count; ++r)
          meet(runs_of(a_)[spans[s].first_run + r], spans[s].offset);
      }
      if (instances_ >= 0) turn_sums(turn_gain(a_), [](double position) { return -position; });
      write();
    }
  }

 private:
  PREFIXSHARE_DEVICE void clear() {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kPlainRows; ++i) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < kColumns; ++c) dq_[i][c] = 0;
    }
  }
  /// Row of the group, and query head, of row i.
  PREFIXSHARE_DEVICE std::int32_t group_row(int i) const { return (work_.first_packed + first_ + i) / group_; }
  PREFIXSHARE_DEVICE std::int32_t head(int i) const {
    return i < count_ ? work_.kv_head * group_ + (work_.first_packed + first_ + i) % group_ : -1;
  }

  /// Adds all keys of a run, in whose tile the group's rows begin at `offset`.
  PREFIXSHARE_DEVICE void meet(const ImageRun& run, std::int32_t offset) {
    const std::int32_t keys = keys_of(a_, run);
    if (keys == 0) return;
    if (run.first_instance + offset != instances_) load_rows(run.first_instance + offset);
    for (std::int32_t key = 0; key < keys; key += kPlainRows) {
      const std::int32_t count = keys - key < kPlainRows ? keys - key : kPlainRows;
      ptx::sync_block();
      bool any = false;
      if (const int i = ptx::thread(); i < kPlainRows) {
        PlainRow& r = tile_.row(i);
        r.seen = 0;
        if (i < count_ && r.lse != kEmptyRow) {
          r.seen = static_cast<std::uint32_t>(visible_keys(a_, run, key, count, offset + group_row(i), r.order));
        }
        any = r.seen != 0;
      }
      if (!ptx::any_block(any)) continue;
      tile_.load_keys(run, key, count, work_.kv_head);
      ptx::sync_block();
      tile_.score();
      ptx::sync_block();
      add();
    }
  }
  /// Turns to the rows' frame at `instances`, which is the group's first row there.
  PREFIXSHARE_DEVICE void load_rows(std::int32_t instances) {
    const auto instance = [&] { return instances_of(a_)[instances + group_row(ptx::thread())]; };
    if (instances_ >= 0) turn_sums(1.0f, [&](double position) { return turn_position(a_, instance()) - position; });
    instances_ = instances;
    ptx::sync_block();
    if (const int i = ptx::thread(); i < kPlainRows) tile_.describe_row(i, instances + group_row(i), head(i));
    ptx::sync_block();
    tile_.load_outputs();
    tile_.load_queries();
  }
  /// Turns the sums of a row, times `gain`, by what `by` makes of its position. They pass through the queries' memory.
  template <class F>
  PREFIXSHARE_DEVICE void turn_sums(float gain, F&& by) {
    if (a_.rope.pairs == 0) return;
    float* const rows = tile_.query_memory();
    ptx::sync_block();
    if (const int i = ptx::thread(); i < count_) tile_.row(i).by = by(tile_.row(i).position);
    each_sum([&](float& sum, int i, int d) { rows[i * Tile16::width(a_.D) + d] = sum; });
    ptx::sync_block();
    tile_.turn(rows, gain);
    each_sum([&](float& sum, int i, int d) { sum = rows[i * Tile16::width(a_.D) + d]; });
  }
  PREFIXSHARE_DEVICE void add() {
    PREFIXSHARE_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const int d = ptx::thread() + c * Threads;
      for (int j = 0; j < kPlainRows && d < a_.D; ++j) {
        const float k = tile_.k(j, d);
        PREFIXSHARE_UNROLL
        for (int i = 0; i < kPlainRows; ++i) {
          if (tile_.sees(i, j)) dq_[i][c] = fmaf(tile_.ds(i, j), k, dq_[i][c]);
        }
      }
    }
  }
  PREFIXSHARE_DEVICE void write() {
    const std::int32_t* rows = a_.plan.list<std::int32_t>(a_.plan.header().group_rows_at) + work_.first_row;
    each_sum([&](float& sum, int i, int d) {
      if (i >= count_) return;
      const std::int64_t at = rows[group_row(i)] * p_.dq_stride[0] + head(i) * p_.dq_stride[1];
      put_element(p_.dq_dtype, p_.dq, at + d, sum, p_.accumulate != 0);
    });
  }
  /// Calls f(sum, row, dim) for the sums of this thread.
  template <class F>
  PREFIXSHARE_DEVICE void each_sum(F&& f) {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kPlainRows; ++i) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const int d = ptx::thread() + c * Threads;
        if (d < a_.D) f(dq_[i][c], i, d);
      }
    }
  }

  const AttendGradParams& p_;
  const AttendParams& a_;
  const ImageQueryWork& work_;
  Tile16 tile_;
  std::int32_t group_;
  std::int32_t first_ = 0, count_ = 0;  // rows that are summed up now
  std::int32_t instances_ = -1;         // whose frame they and their sums are in
  float dq_[kPlainRows][kColumns];
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
