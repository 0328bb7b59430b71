// SPDX-License-Identifier: Apache-2.0
// Vec on AVX2 with FMA and F16C: 16 floats in two registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/region.hpp"
#include "prefixshare/dtype.hpp"

PREFIXSHARE_REGION_BEGIN

/// Which of 16 lanes.
struct Mask {
  __m256 a, b;
};

/// 16 floats.
struct Vec {
  __m256 a, b;

  static Vec zero() noexcept { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec all(float x) noexcept { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Vec load(const float* from) noexcept { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
  static Vec load(const BFloat16* from) noexcept { return {widen(from), widen(from + 8)}; }
  static Vec load(const Float16* from) noexcept {
    return {_mm256_cvtph_ps(half(from)), _mm256_cvtph_ps(half(from + 8))};
  }
  void store(float* to) const noexcept {
    _mm256_storeu_ps(to, a);
    _mm256_storeu_ps(to + 8, b);
  }
  void store(BFloat16* to) const noexcept { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_bfloat16()); }
  void store(Float16* to) const noexcept { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_float16()); }
  /// Past the caches, to a multiple of 32 bytes. Ordered by _mm_sfence.
  void stream(float* to) const noexcept {
    _mm256_stream_ps(to, a);
    _mm256_stream_ps(to + 8, b);
  }
  void stream(BFloat16* to) const noexcept { _mm256_stream_si256(reinterpret_cast<__m256i*>(to), to_bfloat16()); }
  void stream(Float16* to) const noexcept { _mm256_stream_si256(reinterpret_cast<__m256i*>(to), to_float16()); }

 private:
  static __m128i half(const void* from) noexcept { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
  static __m256 widen(const void* from) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half(from)), 16));
  }
  static __m256i rounded(__m256 x) noexcept {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  }
  static __m256i quiet_if_nan(__m256 x, __m256i other) noexcept {
    const __m256i quiet = _mm256_or_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(other, _mm256_srli_epi32(quiet, 16), nan);
  }
  // To nearest even, NaN quiet: bit for bit as prefixshare::to_bfloat16 and to_float16.
  __m256i to_bfloat16() const noexcept {
    __m256i low = rounded(a), high = rounded(b);
    if (__builtin_expect(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0, 0)) {
      low = quiet_if_nan(a, low);
      high = quiet_if_nan(b, high);
    }
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
  }
  __m256i to_float16() const noexcept {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return _mm256_set_m128i(_mm256_cvtps_ph(b, kNearest), _mm256_cvtps_ph(a, kNearest));
  }
};

inline Vec operator+(Vec x, Vec y) noexcept { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec operator-(Vec x, Vec y) noexcept { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec operator*(Vec x, Vec y) noexcept { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec operator/(Vec x, Vec y) noexcept { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
/// a * b + c, rounded once.
inline Vec fma(Vec x, Vec y, Vec z) noexcept {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
/// a * b - c, rounded once.
inline Vec fms(Vec x, Vec y, Vec z) noexcept {
  return {_mm256_fmsub_ps(x.a, y.a, z.a), _mm256_fmsub_ps(x.b, y.b, z.b)};
}
/// The larger; where `x` is NaN, `best`.
inline Vec larger(Vec best, Vec x) noexcept { return {_mm256_max_ps(x.a, best.a), _mm256_max_ps(x.b, best.b)}; }
/// Between low and high; a NaN stays.
inline Vec clamp(Vec x, Vec low, Vec high) noexcept {
  return {_mm256_min_ps(high.a, _mm256_max_ps(low.a, x.a)), _mm256_min_ps(high.b, _mm256_max_ps(low.b, x.b))};
}
inline Vec magnitude(Vec x) noexcept {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
/// Magnitude of x, sign of s.
inline Vec with_sign(Vec x, Vec s) noexcept {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(sign, x.a), _mm256_and_ps(sign, s.a)),
          _mm256_or_ps(_mm256_andnot_ps(sign, x.b), _mm256_and_ps(sign, s.b))};
}

inline Mask less(Vec x, Vec y) noexcept {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
}
inline Mask equal(Vec x, Vec y) noexcept {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)};
}
inline bool all_of(Mask m) noexcept { return _mm256_movemask_ps(_mm256_and_ps(m.a, m.b)) == 0xff; }
inline __m256 bit_set(const std::uint32_t* words, __m256i bit) noexcept {
  const __m256i x = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)), bit);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(x, bit));
}
/// Lanes whose word has the bit.
inline Mask bits_set(const std::uint32_t* words, std::uint32_t bit) noexcept {
  const __m256i bits = _mm256_set1_epi32(static_cast<int>(bit));
  return {bit_set(words, bits), bit_set(words + 8, bits)};
}
/// a where m, else b.
inline Vec choose(Mask m, Vec x, Vec y) noexcept {
  return {_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)};
}

inline Vec round_to_whole(Vec x) noexcept {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kNearest), _mm256_round_ps(x.b, kNearest)};
}
/// 2^n for a whole n in the range of normal numbers.
inline __m256 power_of_two(__m256i n) noexcept {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
inline __m256 scale_half(__m256 x, __m256 n) noexcept {
  const __m256i whole = _mm256_cvtps_epi32(n), first = _mm256_srai_epi32(whole, 1);
  return _mm256_mul_ps(_mm256_mul_ps(x, power_of_two(first)), power_of_two(_mm256_sub_epi32(whole, first)));
}
/// x * 2^n for a whole n of at most 252 in magnitude and x near 1: in two factors, of which only the last rounds.
inline Vec scale_by_power(Vec x, Vec n) noexcept { return {scale_half(x.a, n.a), scale_half(x.b, n.b)}; }
/// Within what a float's powers of two reach, and beyond by more than rounding.
inline Vec within_powers(Vec x) noexcept { return clamp(x, Vec::all(-160.0f), Vec::all(130.0f)); }
inline Vec round_down(Vec x) noexcept {
  constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kDown), _mm256_round_ps(x.b, kDown)};
}
/// x less the whole number below it, in [0, 1]; of what powers of two do not reach 0.
inline Vec fraction(Vec x) noexcept {
  x = within_powers(x);
  return x - round_down(x);
}
/// x * 2^floor(y) for x near 1, rounded once.
inline Vec scale_by_floor(Vec x, Vec y) noexcept { return scale_by_power(x, round_down(within_powers(y))); }
inline __m256 split_power(__m256 x, __m256* power) noexcept {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i whole = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
  *power = _mm256_cvtepi32_ps(whole);
  return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(whole, 23)));
}
/// x = m * 2^power with a whole power and m in [sqrt(1/2), sqrt(2)), for a normal x > 0.
inline Vec split_power(Vec x, Vec* power) noexcept {
  return {split_power(x.a, &power->a), split_power(x.b, &power->b)};
}

/// Sums of the lanes of four vectors, in one order.
inline void sum4(const Vec* x, float* sums) noexcept {
  __m256 y[4];
  for (int i = 0; i < 4; ++i) y[i] = _mm256_add_ps(x[i].a, x[i].b);
  const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(y[0], y[1]), _mm256_unpackhi_ps(y[0], y[1]));
  const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(y[2], y[3]), _mm256_unpackhi_ps(y[2], y[3]));
  const __m256 abcd = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}
inline float largest(Vec x) noexcept {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
/// Lanes 2i and 2i + 1 change places.
inline Vec swap_neighbours(Vec x) noexcept { return {_mm256_permute_ps(x.a, 0xb1), _mm256_permute_ps(x.b, 0xb1)}; }

inline void transpose8(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride) noexcept {
  __m256 a[8], b[8];
  for (int r = 0; r < 8; ++r) a[r] = _mm256_loadu_ps(from + r * from_stride);
  for (int r = 0; r < 8; r += 2) {
    b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
    b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
  }
  for (int r = 0; r < 8; r += 4) {  // a[r + i]: columns i and 4 + i of rows r to r + 3
    a[r] = _mm256_shuffle_ps(b[r], b[r + 2], 0x44);
    a[r + 1] = _mm256_shuffle_ps(b[r], b[r + 2], 0xee);
    a[r + 2] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0x44);
    a[r + 3] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}
/// Rows become columns: to[c][r] = from[r][c] of a 16 x 16 block.
inline void transpose16(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride) noexcept {
  for (int r = 0; r < 16; r += 8) {
    for (int c = 0; c < 16; c += 8)
      transpose8(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
  }
}

// Register blocks, in vectors of 16 lanes. 16 registers: products of 1 panel x 6 keys use 12 sums, 2 for the row and a
// broadcast; a stream's 2 rows x 2 keys 8 sums, 4 for the keys and 2 for a query.
inline constexpr int kProductPanels = 1;
inline constexpr int kProductCount = 6;
inline constexpr int kStreamDotRows = 2;
inline constexpr int kStreamDotKeys = 2;
inline constexpr int kStreamSumVectors = 1;

PREFIXSHARE_REGION_END
