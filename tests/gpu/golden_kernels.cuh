// SPDX-License-Identifier: Apache-2.0
// Kernels whose answers on a GPU are recorded, so that the emulator's models are held to the hardware: each reads words
// and writes words, so that one way of launching serves all of them.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/ptx.cuh"

namespace prefixshare::golden {

/// One product per block of a warp: of each lane a[4], b[2] and c[4] in, d[4] out.
template <class T>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(32, 1) golden_mma(const std::uint32_t* in, std::uint32_t* out) {
  const int i = 32 * ptx::block() + ptx::lane();
  std::uint32_t a[4], b[2];
  float d[4];
  for (int r = 0; r < 4; ++r) a[r] = in[10 * i + r];
  for (int r = 0; r < 2; ++r) b[r] = in[10 * i + 4 + r];
  for (int r = 0; r < 4; ++r) d[r] = detail::bit_cast<float>(in[10 * i + 6 + r]);
  ptx::multiply_add<T>(d, a, b);
  for (int r = 0; r < 4; ++r) out[4 * i + r] = detail::bit_cast<std::uint32_t>(d[r]);
}

/// A warp loads the 512 bytes of its block as 32 rows. Of each lane 12 words out: x4, x4 transposed, x2, x2 transposed.
template <int kRowStep>  // lane l names row l kRowStep % 32
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(32, 1) golden_ldmatrix(const std::uint32_t* in, std::uint32_t* out) {
  auto* const s = reinterpret_cast<std::uint32_t*>(ptx::shared_memory());
  const int lane = ptx::lane();
  for (int i = lane; i < 128; i += 32) s[i] = in[128 * ptx::block() + i];
  ptx::sync_warp();
  const std::uint32_t* const row = s + 4 * (lane * kRowStep % 32);
  std::uint32_t x4[4], x4_transposed[4], x2[2], x2_transposed[2];
  ptx::load_matrix_x4(x4, row);
  ptx::load_matrix_x4_transposed(x4_transposed, row);
  ptx::load_matrix_x2(x2, row);
  ptx::load_matrix_x2_transposed(x2_transposed, row);
  std::uint32_t* const o = out + 12 * (32 * ptx::block() + lane);
  for (int r = 0; r < 4; ++r) o[r] = x4[r];
  for (int r = 0; r < 4; ++r) o[4 + r] = x4_transposed[r];
  for (int r = 0; r < 2; ++r) o[8 + r] = x2[r];
  for (int r = 0; r < 2; ++r) o[10 + r] = x2_transposed[r];
}

/// 2^x of one number per thread. A template, as all kernels that headers define.
template <class T = float>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(32, 1) golden_exp2(const std::uint32_t* in, std::uint32_t* out) {
  const int i = ptx::block() * ptx::threads() + ptx::thread();
  out[i] = detail::bit_cast<std::uint32_t>(ptx::exp2(detail::bit_cast<T>(in[i])));
}

}  // namespace prefixshare::golden
