// SPDX-License-Identifier: Apache-2.0
// What a logit and a probability need of a key beside the key: scales and biases, if some pool has any.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/key_walk.cuh"
#include "prefixshare/cuda/tile.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

struct KeyColumn {
  const float* bias;         ///< null: none
  std::int64_t bias_stride;  ///< from query head to query head
  float k_scale, v_scale;

  PREFIXSHARE_DEVICE float bias_of(std::int32_t q_head) const {
    return bias == nullptr ? 0.0f : bias[q_head * bias_stride];
  }
};

/// That of a key for a KV head.
PREFIXSHARE_DEVICE KeyColumn key_column(const AttendParams& p, const PoolParams& pool, KeyPlace place,
                                        std::int32_t kv_head) {
  KeyColumn c{nullptr, pool.bias_stride[2], scale_at(pool.k_scale, place, pool.page_size, kv_head, p.Hkv),
              scale_at(pool.v_scale, place, pool.page_size, kv_head, p.Hkv)};
  if (pool.bias != nullptr) c.bias = static_cast<const float*>(pool.bias) + offset_of(pool.bias_stride, place, 0);
  return c;
}

/// Whether values have scales.
PREFIXSHARE_DEVICE bool has_value_scales(const AttendParams& p) {
  bool any = false;
  PREFIXSHARE_UNROLL
  for (int i = 0; i < kMaxPools; ++i) any = any || p.pools[i].v_scale.granularity != 0;
  return any;
}
/// Whether logits depend on more of a key than its product with the query, or values have scales.
PREFIXSHARE_DEVICE bool has_key_columns(const AttendParams& p) {
  bool any = has_value_scales(p);
  PREFIXSHARE_UNROLL
  for (int i = 0; i < kMaxPools; ++i) {
    any = any || p.pools[i].bias != nullptr || p.pools[i].k_scale.granularity != 0;
  }
  return any;
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
