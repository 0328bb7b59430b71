// SPDX-License-Identifier: Apache-2.0
// Tiles in memory that compute what the hardware's do, bit for bit, on any machine with AVX-512. Source: Intel 64 and
// IA-32 Architectures Software Developer's Manual, volume 2, pseudo code of TDPBF16PS.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/region.hpp"
#include "cpu/vector.hpp"

PREFIXSHARE_REGION_BEGIN

class EmulatedTiles {
 public:
  template <int T>
  void zero() noexcept {
    std::memset(tile_[T], 0, sizeof tile_[T]);
  }
  template <int T>
  void load(const void* from, std::int64_t stride) noexcept {
    for (std::int64_t r = 0; r < 16; ++r) std::memcpy(tile_[T][r], static_cast<const char*>(from) + r * stride, 64);
  }
  template <int T>
  void store(void* to, std::int64_t stride) const noexcept {
    for (std::int64_t r = 0; r < 16; ++r) std::memcpy(static_cast<char*>(to) + r * stride, tile_[T][r], 64);
  }
  template <int C, int A, int B>
  void multiply_add() noexcept {
    for (int m = 0; m < 16; ++m) {
      Vec even = Vec::zero(), odd = Vec::zero();
      for (int k = 0; k < 16; ++k) {
        const std::uint32_t a = tile_[A][m][k];
        even = flushed(fma(low(_mm512_set1_epi32(static_cast<int>(a))), low(row(tile_[B][k])), even));
        odd = flushed(fma(high(_mm512_set1_epi32(static_cast<int>(a))), high(row(tile_[B][k])), odd));
      }
      const Vec before = flushed({_mm512_castsi512_ps(row(tile_[C][m]))});
      flushed(before + flushed(even + odd)).store(reinterpret_cast<float*>(tile_[C][m]));
    }
  }

 private:
  static __m512i row(const std::uint32_t* from) noexcept { return _mm512_loadu_si512(from); }
  /// The bf16 in the lower or upper halves of 16 words, as f32.
  static Vec low(__m512i pairs) noexcept { return flushed({_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))}); }
  static Vec high(__m512i pairs) noexcept {
    return flushed({_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)))});
  }
  /// Subnormals become zeros of their sign.
  static Vec flushed(Vec x) noexcept {
    const Vec least = Vec::all(std::numeric_limits<float>::min());
    return choose(less(magnitude(x), least), with_sign(Vec::zero(), x), x);
  }

  alignas(64) std::uint32_t tile_[8][16][16];
};

PREFIXSHARE_REGION_END
