// SPDX-License-Identifier: Apache-2.0
// The forward of tree_attention one pair at a time, in f32: any head dims up to 256, any mix of f32, f16 and bf16
// storage, any alignment. Nothing of a pair that is hidden is ever multiplied.
#pragma once

#include <cmath>
#include <cstdint>

#include "prefixshare/cuda/elements.cuh"
#include "prefixshare/cuda/key_walk.cuh"
#include "prefixshare/cuda/merge_rows.cuh"
#include "prefixshare/cuda/query_tile.cuh"
#include "prefixshare/detail/softmax_state.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// Sixteen packed rows of an item at a time against tiles of 32 keys. A row belongs to eight threads of a warp, which
/// have an eighth of its keys and an eighth of its o each.
class PlainForward {
  static constexpr int kRows = 16, kKeys = 32, kRowThreads = kAttendThreads / kRows;
  static constexpr int kPairs = kKeys / kRowThreads;       // keys of a tile that a thread has
  static constexpr int kDims = kMaxHeadDim / kRowThreads;  // elements of o that it has, at most
  static_assert(32 % kRowThreads == 0, "the threads of a row share a warp");

  /// What a logit needs of a key beside the key.
  struct Key {
    const float* bias;  // null: none
    std::int64_t bias_stride;
  };

 public:
  PREFIXSHARE_DEVICE PlainForward(const AttendParams& p, unsigned char* memory)
      : p_(p),
        keys_(reinterpret_cast<Key*>(memory)),
        q_(reinterpret_cast<float*>(keys_ + kKeys)),
        k_(q_ + kRows * width(p.D)),
        v_(k_ + kKeys * width(p.D)) {}
  /// Shared memory for heads of these dims.
  static PREFIXSHARE_HD constexpr int bytes(int D, int Dv) {
    return kKeys * static_cast<int>(sizeof(Key)) + 4 * ((kRows + kKeys) * width(D) + kKeys * width(Dv));
  }

  PREFIXSHARE_DEVICE void run(const ImageItem& item) {
    for (int first = 0; first < item.packed_count; first += kRows) attend_rows(item, first);
    if (item.group_count > 0) arrive(p_, item, reinterpret_cast<std::int32_t*>(keys_));
  }

 private:
  static PREFIXSHARE_HD constexpr int width(int dims) { return dims + 1; }  // keys of one dim lie in different banks
  static PREFIXSHARE_DEVICE int row() { return ptx::thread() / kRowThreads; }
  static PREFIXSHARE_DEVICE int rank() { return ptx::thread() % kRowThreads; }

  PREFIXSHARE_DEVICE void attend_rows(const ImageItem& item, int first) {
    const std::int32_t chunks = static_cast<std::int32_t>(chunk_count(p_, item)), from = first_chunk(p_, item);
    const bool folds = item.fold != 0 && chunks > 1;
    packed_ = first + row() < item.packed_count ? item.first_packed + first + row() : -1;
    loaded_ = -1;
    walk_.start(p_, item);
    for (std::int32_t chunk = 0; chunk < chunks; ++chunk) {
      clear();
      while (!walk_.done() && (p_.invariant == 0 || walk_.chunk(p_) == from + chunk)) absorb_tile(item);
      float lse = finish();
      if (folds) lse = fold(lse, chunk == 0);
      if (packed_ < 0 || (folds && chunk + 1 < chunks)) continue;
      emit(item, first + row(), lse, item.slot < 0 ? -1 : item.slot + std::int64_t{folds ? 0 : chunk} * item.tile_rows);
    }
  }

  PREFIXSHARE_DEVICE void clear() {
    maximum_ = kEmptyLse;
    sum_ = 0;
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kDims; ++i) o_[i] = 0;
  }

  PREFIXSHARE_DEVICE void absorb_tile(const ImageItem& item) {
    if (walk_.instances(p_) != loaded_) load_query(item);
    ptx::sync_block();  // the tile before has been read
    std::uint64_t seen = 0;
    const std::int32_t group = p_.group;
    walk_.next(p_, [&](const ImageRun& run, std::int32_t key, std::int32_t begin, std::int32_t count) {
      load_keys(run, key, begin, count, item.kv_head);
      if (packed_ >= 0) seen |= visible_keys(p_, run, key, count, packed_ / group, order_) << begin;
    });
    ptx::sync_block();
    absorb(seen, item.kv_head * group + (packed_ < 0 ? 0 : packed_ % group));
  }

  /// This row's query, turned into the frame of the next keys.
  PREFIXSHARE_DEVICE void load_query(const ImageItem& item) {
    loaded_ = walk_.instances(p_);
    ptx::sync_warp();
    if (packed_ >= 0) {
      const std::int32_t group = p_.group;
      const ImageInstance& r = instances_of(p_)[loaded_ + packed_ / group];
      order_ = order_of(p_, r);
      const std::int64_t head = item.kv_head * group + packed_ % group;
      const std::int64_t from = r.row * p_.q_stride[0] + head * p_.q_stride[1];
      for (int d = rank(); d < p_.D; d += kRowThreads) query()[d] = load_element(p_.q_dtype, p_.q, from + d);
    }
    ptx::sync_warp();
    if (packed_ >= 0) turn_query(instances_of(p_)[loaded_ + packed_ / p_.group]);
    ptx::sync_warp();
  }
  PREFIXSHARE_DEVICE void turn_query(const ImageInstance& r) const {
    const double position = turn_position(p_, r);
    const float gain = turn_gain(p_);
    if (position == 0 && gain == 1.0f) return;
    for (int pair = rank(); pair < p_.rope.pairs; pair += kRowThreads) {
      float sine, cosine;
      turn_angle(p_, pair, position, gain, &sine, &cosine);
      const TurnPair at = turn_pair(p_.rope, pair);
      const float x = query()[at.first], y = query()[at.second];
      query()[at.first] = fmaf(x, cosine, -(y * sine));
      query()[at.second] = fmaf(y, cosine, x * sine);
    }
  }
  PREFIXSHARE_DEVICE float* query() const { return q_ + row() * width(p_.D); }

  /// Keys and values [key, key + count) of a run, times their scales, as columns from `begin` on.
  PREFIXSHARE_DEVICE void load_keys(const ImageRun& run, std::int32_t key, std::int32_t begin, std::int32_t count,
                                    std::int32_t kv_head) const {
    const PoolParams& pool = p_.pools[run.pool];
    for (int j = 0; j < count; ++j) {
      const KeyPlace at = place_of(p_, run, key + j);
      const float k_scale = scale_at(pool.k_scale, at, pool.page_size, kv_head, p_.Hkv);
      const float v_scale = scale_at(pool.v_scale, at, pool.page_size, kv_head, p_.Hkv);
      const std::int64_t k = offset_of(pool.k_stride, at, kv_head), v = offset_of(pool.v_stride, at, kv_head);
      for (int d = ptx::thread(); d < p_.D; d += kAttendThreads) {
        k_[(begin + j) * width(p_.D) + d] = load_element(p_.kv_dtype, pool.k, k + d) * k_scale;
      }
      for (int d = ptx::thread(); d < p_.Dv; d += kAttendThreads) {
        v_[(begin + j) * width(p_.Dv) + d] = load_element(p_.kv_dtype, pool.v, v + d) * v_scale;
      }
      if (ptx::thread() != j) continue;
      const float* bias = static_cast<const float*>(pool.bias);
      keys_[begin + j] = {bias == nullptr ? nullptr : bias + offset_of(pool.bias_stride, at, 0), pool.bias_stride[2]};
    }
  }

  /// The tile's keys that this row sees join its state.
  PREFIXSHARE_DEVICE void absorb(std::uint64_t seen, std::int32_t q_head) {
    float p[kPairs];
    float largest = maximum_;
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const int j = rank() + kRowThreads * i;
      p[i] = (seen >> j & 1) != 0 ? logit(j, q_head) : kEmptyLse;
      largest = fmaxf(largest, p[i]);
    }
    largest = of_row(largest, [](float a, float b) { return fmaxf(a, b); });
    const float shift = largest == kEmptyLse ? 0.0f : largest;
    const float keep = prefixshare::detail::exp_of(maximum_ - shift);
    maximum_ = largest;
    float added = 0;
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      p[i] = prefixshare::detail::exp_of(p[i] - shift);
      added += p[i];
    }
    sum_ = fmaf(sum_, keep, of_row(added, [](float a, float b) { return a + b; }));
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kDims; ++i) o_[i] *= keep;
    add_values(seen, p);
  }
  PREFIXSHARE_DEVICE void add_values(std::uint64_t seen, const float (&p)[kPairs]) {
    PREFIXSHARE_UNROLL
    for (int j = 0; j < kKeys; ++j) {
      const int owner = ptx::lane() / kRowThreads * kRowThreads + j % kRowThreads;
      const float weight = ptx::shuffle(p[j / kRowThreads], owner);
      if ((seen >> j & 1) == 0) continue;
      const float* value = v_ + j * width(p_.Dv) + rank();
      PREFIXSHARE_UNROLL
      for (int i = 0; i < kDims; ++i) {
        if (rank() + kRowThreads * i < p_.Dv) o_[i] = fmaf(weight, value[kRowThreads * i], o_[i]);
      }
    }
  }
  PREFIXSHARE_DEVICE float logit(int j, std::int32_t q_head) const {
    const float *q = query(), *k = k_ + j * width(p_.D);
    float sums[4] = {};  // four terms at a time: shorter chains of roundings, and of waiting
    int d = 0;
    for (; d + 4 <= p_.D; d += 4) {
      PREFIXSHARE_UNROLL
      for (int i = 0; i < 4; ++i) sums[i] = fmaf(q[d + i], k[d + i], sums[i]);
    }
    for (; d < p_.D; ++d) sums[0] = fmaf(q[d], k[d], sums[0]);
    float x = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * p_.scale;
    if (p_.softcap > 0) x = p_.softcap * tanhf(x / p_.softcap);
    const Key& key = keys_[j];
    return key.bias == nullptr ? x : x + key.bias[q_head * key.bias_stride];
  }
  /// Over the threads of a row.
  template <class F>
  static PREFIXSHARE_DEVICE float of_row(float x, F&& f) {
    PREFIXSHARE_UNROLL
    for (int mask = 1; mask < kRowThreads; mask *= 2) x = f(x, ptx::shuffle_xor(x, mask));
    return x;
  }

  /// o over its sum; returns the lse. A row that saw nothing has o = 0.
  PREFIXSHARE_DEVICE float finish() {
    const float inverse = sum_ == 0 ? 0.0f : ptx::reciprocal(sum_);
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kDims; ++i) o_[i] *= inverse;
    return sum_ == 0 ? kEmptyLse : maximum_ + prefixshare::detail::log_of(sum_);
  }
  /// batch_invariant: the state of the chunks so far, in o_ too.
  PREFIXSHARE_DEVICE float fold(float lse, bool first) {
    if (first) folded_lse_ = kEmptyLse;
    const StateMerge merge = merge_lse(&folded_lse_, lse);
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kDims; ++i) o_[i] = folded_[i] = first ? o_[i] : merge(folded_[i], o_[i]);
    return folded_lse_;
  }

  /// Writes the state of this row, which is the item's packed row m.
  PREFIXSHARE_DEVICE void emit(const ImageItem& item, int m, float lse, std::int64_t slot) {
    const StatePlace to = state_place(p_, item, m, slot);
    if (slot >= 0) {
      const std::int64_t at = to.row * p_.Hq + to.q_head;
      each_dim([&](int d, float x) { p_.partial_o[at * p_.Dv + d] = x; });
      if (rank() == 0) p_.partial_lse[at] = lse;
      return;
    }
    const float weight = merge_sink(p_, to.q_head, &lse);
    const std::int64_t at = to.row * p_.o_stride[0] + to.q_head * p_.o_stride[1];
    if (rank() == 0) store_lse(p_, to.row, to.q_head, lse);
    if (p_.o == nullptr) return;
    each_dim([&](int d, float x) { store_element(p_.o_dtype, p_.o, at + d, weight * x); });
  }
  template <class F>
  PREFIXSHARE_DEVICE void each_dim(F&& f) const {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kDims; ++i) {
      if (rank() + kRowThreads * i < p_.Dv) f(rank() + kRowThreads * i, o_[i]);
    }
  }

  const AttendParams& p_;
  KeyWalk<kKeys> walk_ = {};
  Key* keys_;
  float *q_, *k_, *v_;
  std::int32_t packed_ = -1;  // of the tile; -1: this thread has no row
  std::int32_t loaded_ = -1;  // instances of the queries
  std::int32_t order_ = 0;
  float maximum_ = kEmptyLse, sum_ = 0, folded_lse_ = kEmptyLse;
  float o_[kDims], folded_[kDims];
};

template <int Threads>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(Threads, 2)
    tree_attention_simt(const PREFIXSHARE_GRID_CONSTANT AttendParams p) {
  static_assert(Threads == kAttendThreads);
  ptx::launch_dependents();
  PlainForward forward(p, ptx::shared_memory());
  const std::int32_t count = p.plan.header().item_count;
  for (std::int32_t i = ptx::block(); i < count; i += ptx::blocks()) forward.run(items_of(p)[i]);
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
