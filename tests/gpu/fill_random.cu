// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include <cstdint>

#include "gpu/device.hpp"
#include "gpu/launch.cuh"
#include "prefixshare/cuda/ptx.cuh"
#include "prefixshare/dtype.hpp"

namespace prefixshare::gpu {

/// Element i is a function of the seed and i alone: uniform in +- sqrt(3).
template <class T>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(256, 1) fill_with_numbers(T* data, std::int64_t count, std::uint64_t seed) {
  const std::int64_t step = std::int64_t{1} * ptx::blocks() * ptx::threads();
  for (std::int64_t i = std::int64_t{1} * ptx::block() * ptx::threads() + ptx::thread(); i < count; i += step) {
    std::uint64_t z = (seed << 40) + static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u;  // splitmix64
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    const float unit = static_cast<float>(static_cast<std::uint32_t>(z >> 40)) * 0x1p-24f;
    const float x = 3.4641016f * unit - 1.7320508f;
    if constexpr (sizeof(T) == 2) {
      data[i] = ptx::from_float<BFloat16>(x);
    } else {
      data[i] = x;
    }
  }
}

void fill_random(void* data, DType dtype, std::int64_t count, std::uint64_t seed);
void fill_random(void* data, DType dtype, std::int64_t count, std::uint64_t seed) {
  const int blocks = static_cast<int>(multiprocessors()) * 8;
  if (size_of(dtype) == 2) {
    launch(fill_with_numbers<std::uint16_t>, {blocks, 256}, static_cast<std::uint16_t*>(data), count, seed);
  } else {
    launch(fill_with_numbers<float>, {blocks, 256}, static_cast<float*>(data), count, seed);
  }
}

}  // namespace prefixshare::gpu
