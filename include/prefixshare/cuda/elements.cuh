// SPDX-License-Identifier: Apache-2.0
// Single elements of tensors in f32, f16 or bf16 storage, for bodies that take any mix of them.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/ptx.cuh"
#include "prefixshare/dtype.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

PREFIXSHARE_DEVICE float load_element(DType dtype, const void* base, std::int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(base)[i];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(base)[i];
  return dtype == DType::f16 ? ptx::to_float<Float16>(bits) : ptx::to_float<BFloat16>(bits);
}
PREFIXSHARE_DEVICE void store_element(DType dtype, void* base, std::int64_t i, float x) {
  if (dtype == DType::f32) {
    static_cast<float*>(base)[i] = x;
  } else {
    static_cast<std::uint16_t*>(base)[i] =
        dtype == DType::f16 ? ptx::from_float<Float16>(x) : ptx::from_float<BFloat16>(x);
  }
}
/// Stores, or adds to what is there: one rounding.
PREFIXSHARE_DEVICE void put_element(DType dtype, void* base, std::int64_t i, float x, bool accumulate) {
  store_element(dtype, base, i, accumulate ? load_element(dtype, base, i) + x : x);
}

/// The same for two neighbours, which lie together at a multiple of their size.
PREFIXSHARE_DEVICE void put_pair(float* to, float x, float y, bool accumulate) {
  struct alignas(8) Pair {
    float x, y;
  };
  Pair* const pair = reinterpret_cast<Pair*>(to);
  *pair = accumulate ? Pair{pair->x + x, pair->y + y} : Pair{x, y};
}
template <class T>
PREFIXSHARE_DEVICE void put_pair(std::uint16_t* to, float x, float y, bool accumulate) {
  if (accumulate) {
    x += ptx::to_float<T>(to[0]);
    y += ptx::to_float<T>(to[1]);
  }
  *reinterpret_cast<std::uint32_t*>(to) = ptx::pack<T>(x, y);
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
