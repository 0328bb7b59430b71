// SPDX-License-Identifier: Apache-2.0
// States of rows on a device: how one takes in another, how a row is finished, and who merges partial states. One
// arithmetic for all of it, so that states merged anywhere in the same order give the same bits.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/attend_params.hpp"
#include "prefixshare/cuda/key_walk.cuh"
#include "prefixshare/cuda/ptx.cuh"
#include "prefixshare/cuda/tile.cuh"
#include "prefixshare/detail/softmax_state.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr float kEmptyLse = prefixshare::detail::LseMerge<float>::kEmpty;

/// How a state takes in another: detail::merge_into, of which the lse is done and the elements of o are to come.
struct StateMerge {
  bool mine, theirs;  // which of the two is not empty: an empty one leaves the bits of the other
  float keep, take;

  PREFIXSHARE_DEVICE float operator()(float o, float other) const {
    return !theirs ? o : !mine ? other : fmaf(keep, o, take * other);
  }
};
PREFIXSHARE_DEVICE StateMerge merge_lse(float* lse, float other) {
  StateMerge m{*lse != kEmptyLse, other != kEmptyLse, 1.0f, 0.0f};
  if (!m.theirs) return m;
  const prefixshare::detail::MergedPair<float> merged = prefixshare::detail::merge_pair(*lse, other);
  *lse = merged.lse;
  m.keep = merged.weight_a;
  m.take = merged.weight_b;
  return m;
}

/// Merges a row's lse with the sink logit of its head, if there is one; returns what its o is multiplied by.
PREFIXSHARE_DEVICE float merge_sink(const AttendParams& p, std::int32_t q_head, float* lse) {
  if (p.sinks == nullptr) return 1.0f;
  const prefixshare::detail::MergedPair<float> merged = prefixshare::detail::merge_pair(*lse, p.sinks[q_head]);
  *lse = merged.lse;
  return merged.weight_a;
}

/// One element of a finished row.
PREFIXSHARE_DEVICE void store_o(const AttendParams& p, std::int64_t at, float x) {
  if (p.o_dtype == DType::f32) {
    static_cast<float*>(p.o)[at] = x;
  } else if (p.o_dtype == DType::f16) {
    static_cast<std::uint16_t*>(p.o)[at] = ptx::from_float<Float16>(x);
  } else {
    static_cast<std::uint16_t*>(p.o)[at] = ptx::from_float<BFloat16>(x);
  }
}
PREFIXSHARE_DEVICE void store_lse(const AttendParams& p, std::int64_t row, std::int32_t q_head, float lse) {
  if (p.lse != nullptr) p.lse[row * p.lse_stride[0] + q_head * p.lse_stride[1]] = lse;
}

/// Where the state of a packed row of an item belongs.
struct StatePlace {
  std::int64_t row;  // query row; of partial states, partial row
  std::int32_t q_head;
};
/// `slot` is the partial row of the tile's first row, or -1.
PREFIXSHARE_DEVICE StatePlace state_place(const AttendParams& p, const ImageItem& item, int m, std::int64_t slot) {
  const std::int32_t group = p.group, packed = item.first_packed + m, i = packed / group;
  const std::int32_t q_head = item.kv_head * group + packed % group;
  if (slot >= 0) return {slot + i, q_head};
  return {p.plan.list<ImageInstance>(p.plan.header().instances_at)[item.instance + i].row, q_head};
}

/// The merge of a row's partial states, in the order of its parts, by one warp. Where they lie and their lse are read
/// for 32 parts at a time, a lane each; o of PartsAhead parts is on its way at once.
template <int PartsAhead>
PREFIXSHARE_DEVICE void merge_row(const AttendParams& p, const ImageGroup& group, std::int32_t r, std::int32_t q_head) {
  constexpr int kElements = kMaxHeadDim / 32;  // of a lane
  const int lane = ptx::opaque(ptx::lane());
  const std::int32_t* parts = p.plan.list<std::int32_t>(p.plan.header().parts_at) + group.first_part;
  float o[kElements] = {};
  float lse = kEmptyLse;
  for (std::int32_t first = 0; first < group.part_count; first += 32) {
    const std::int32_t count = between(group.part_count - first, 0, 32);
    const std::int64_t mine = lane < count ? (std::int64_t{parts[first + lane]} + r) * p.Hq + q_head : 0;
    const float lse_of_mine = lane < count ? ptx::load_cached(p.partial_lse + mine) : kEmptyLse;
    for (std::int32_t part = 0; part < count; part += PartsAhead) {
      float other[PartsAhead][kElements];
      PREFIXSHARE_UNROLL
      for (int i = 0; i < PartsAhead; ++i) {
        const std::int32_t from = part + i < count ? part + i : part;
        const float* source = p.partial_o + ptx::shuffle(mine, from) * p.Dv;
        PREFIXSHARE_UNROLL
        for (int e = 0; e < kElements; ++e) {
          const int d = 32 * e + lane;
          other[i][e] = d < p.Dv && part + i < count ? ptx::load_cached(source + d) : 0.0f;
        }
      }
      PREFIXSHARE_UNROLL
      for (int i = 0; i < PartsAhead; ++i) {
        const float lse_of_other = ptx::shuffle(lse_of_mine, (part + i) % 32);
        if (part + i >= count) break;
        const StateMerge merge = merge_lse(&lse, lse_of_other);
        PREFIXSHARE_UNROLL
        for (int e = 0; e < kElements; ++e) o[e] = merge(o[e], other[i][e]);
      }
    }
  }
  const float weight = merge_sink(p, q_head, &lse);
  const std::int64_t row = p.plan.list<std::int32_t>(p.plan.header().group_rows_at)[group.first_row + r];
  PREFIXSHARE_UNROLL
  for (int e = 0; e < kElements; ++e) {
    const int d = 32 * e + lane;
    if (p.o != nullptr && d < p.Dv) store_o(p, row * p.o_stride[0] + q_head * p.o_stride[1] + d, weight * o[e]);
  }
  if (lane == 0) store_lse(p, row, q_head, lse);
}

/// Counts a finished item in for every reduce group of its rows. Where it came last the block merges the group, for the
/// item's KV head. `last` is shared memory for kWideRows numbers, free after a sync_block.
PREFIXSHARE_DEVICE void arrive(const AttendParams& p, const ImageItem& item, std::int32_t* last) {
  static_assert(kWideRows <= kAttendThreads, "a row is in one group, a group has a thread");
  const ImageGroup* groups = p.plan.list<ImageGroup>(p.plan.header().groups_at);
  const std::int32_t* of_item = p.plan.list<std::int32_t>(p.plan.header().item_groups_at) + item.first_group;
  const int thread = ptx::opaque(ptx::thread());
  ptx::fence();
  ptx::sync_block();
  bool is_last = false;
  if (thread < item.group_count) {
    const std::int32_t index = of_item[thread], before_last = groups[index].arrivals - 1;
    is_last = ptx::arrive(p.counters + std::int64_t{index} * p.Hkv + item.kv_head, before_last) == before_last;
    last[thread] = is_last;
  }
  if (!ptx::any_block(is_last)) return;
  const std::int32_t heads = p.group;
  int turn = 0;  // rows and heads go round the warps
  for (int i = 0; i < item.group_count; ++i) {
    if (last[i] == 0) continue;
    const ImageGroup& group = groups[of_item[i]];
    for (int j = 0; j < group.row_count * heads; ++j) {
      if (turn++ % (kAttendThreads / 32) == thread / 32) {
        merge_row<1>(p, group, j / heads, item.kv_head * heads + j % heads);
      }
    }
  }
}

/// Merges the groups that no item merges, a warp for each row and query head, in the launch after that of the items.
/// Any grid will do.
template <int Threads>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(Threads, 4) merge_deferred(const PREFIXSHARE_GRID_CONSTANT AttendParams p) {
  ptx::prerequisite_wait();
  const ImageHeader& header = p.plan.header();
  const ImageDeferred* deferred = p.plan.list<ImageDeferred>(header.deferred_at);
  const std::int64_t states = std::int64_t{header.deferred_rows} * p.Hq, warps = ptx::blocks() * (Threads / 32);
  for (std::int64_t at = ptx::block() * (Threads / 32) + ptx::warp(); at < states; at += warps) {
    const std::int32_t row = static_cast<std::int32_t>(at / p.Hq);
    std::int32_t low = 0, high = header.deferred_count;  // the row's group is in [low, high)
    while (high - low > 1) {
      const std::int32_t middle = low + (high - low) / 2;
      (deferred[middle].first_row <= row ? low : high) = middle;
    }
    const ImageGroup& group = p.plan.list<ImageGroup>(header.groups_at)[deferred[low].group];
    merge_row<4>(p, group, row - deferred[low].first_row, static_cast<std::int32_t>(at % p.Hq));
  }
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
