// SPDX-License-Identifier: Apache-2.0
// States of rows on a device: how one takes in another, how a row is finished, and where it belongs.
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

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
