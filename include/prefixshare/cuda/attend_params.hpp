// SPDX-License-Identifier: Apache-2.0
// What a launch of tree_attention passes to its kernels beside the plan's image: plain data, made on the host.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/plan_image.hpp"
#include "prefixshare/dtype.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr std::int32_t kMaxPools = 4;  // kernel parameters are few; caches of one layer are one pool or two
inline constexpr std::int32_t kMaxRopePairs = 128;  // of heads of up to 256 dims
inline constexpr std::int32_t kAttendThreads = 128;

/// A rotation: angle of pair i at position p is 2 pi p turns[i], reduced in f64.
struct RopeParams {
  double turns[kMaxRopePairs];  ///< inv_freq / (2 pi)
  float mscale;
  std::int32_t pairs;  ///< 0: nothing rotates
  std::int32_t offset;
  std::int32_t interleaved;
};

struct ScaleParams {
  const float* data;
  std::int32_t granularity;  ///< ScaleGranularity
};

/// Divides tokens, 0 to 2^31 - 1, by a page size of at least 1: by a product (Granlund and Montgomery, PLDI 1994).
struct PageSize {
  std::int32_t size = 1;
  std::uint32_t factor = 0x80000000u;  ///< ceil(2^(31 + shift) / size)
  std::int32_t shift = 0;              ///< ceil(log2(size))

  PageSize() = default;
  explicit PageSize(std::int32_t page_size) noexcept : size(page_size) {
    while ((std::int64_t{1} << shift) < size) ++shift;
    factor = static_cast<std::uint32_t>(((std::uint64_t{1} << (31 + shift)) + static_cast<std::uint32_t>(size) - 1) /
                                        static_cast<std::uint32_t>(size));
  }
  /// Page of a token.
  PREFIXSHARE_HD std::int32_t page(std::int32_t token) const {
    return static_cast<std::int32_t>(std::uint64_t{static_cast<std::uint32_t>(token)} * factor >> (31 + shift));
  }
};

/// One pool of one layer. Strides count elements: page, slot in page, head.
struct PoolParams {
  const void* k;
  const void* v;
  const void* bias;  ///< f32 or null: [page, slot, query head]
  std::int64_t k_stride[3];
  std::int64_t v_stride[3];
  std::int64_t bias_stride[3];
  ScaleParams k_scale;
  ScaleParams v_scale;
  PageSize page_size;
};

/// Dtypes are those of the instantiation, except that the plain body takes any mix of f32, f16 and bf16.
struct AttendParams {
  PlanImage plan;
  const void* q;
  std::int64_t q_stride[2];  ///< row, head
  void* o;                   ///< null: not wanted
  std::int64_t o_stride[2];
  float* lse;  ///< null: not wanted
  std::int64_t lse_stride[2];
  const float* sinks;            ///< [Hq] or null
  const std::int32_t* lengths;   ///< [length slots] or null: capacities
  std::int32_t* queue;           ///< items taken beyond the first of each block; zero between calls, as the next
  std::int32_t* group_counters;  ///< [groups * Hkv]
  float* partial_o;              ///< [partial rows, Hq, Dv]
  float* partial_lse;            ///< [partial rows, Hq]
  float* fold;                   ///< batch_invariant: [blocks, kWideRows * (Dv + 1)] states of the chunks so far
  float scale;
  float softcap;  ///< 0: none
  std::int32_t Hq, Hkv, D, Dv;
  std::int32_t group;      ///< Hq / Hkv
  std::int32_t invariant;  ///< Mode::batch_invariant
  std::int32_t window;     ///< -1: none
  std::int32_t q_rotated;
  std::int32_t ring_slots;  ///< of the instance for matrix units
  DType q_dtype, kv_dtype, o_dtype;
  PoolParams pools[kMaxPools];
  RopeParams rope;
};
static_assert(sizeof(AttendParams) <= 4096, "kernel parameters");

/// Gradients of one pool: null pointers are not wanted.
struct PoolGradParams {
  void* dk;
  void* dv;
  std::int64_t dk_stride[3];
  std::int64_t dv_stride[3];
  DType dk_dtype, dv_dtype;
};

struct AttendGradParams {
  AttendParams fwd;  ///< o and lse are inputs
  const void* dout;
  std::int64_t dout_stride[2];
  DType dout_dtype, dq_dtype;
  const float* dlse;  ///< null: zero
  std::int64_t dlse_stride[2];
  void* dq;  ///< null: not wanted
  std::int64_t dq_stride[2];
  float* dsinks;   ///< [Hq] or null
  float* row_dot;  ///< [rows, Hq] D_i = dO_i . o_i - dlse_i, filled by the first kernel
  std::int32_t accumulate;
  PoolGradParams grads[kMaxPools];
};
static_assert(sizeof(AttendGradParams) <= 4096, "kernel parameters");

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
