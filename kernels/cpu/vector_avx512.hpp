// SPDX-License-Identifier: Apache-2.0
// Vec on AVX-512: 16 floats in one register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/region.hpp"
#include "prefixshare/dtype.hpp"

PREFIXSHARE_REGION_BEGIN

/// Which of 16 lanes.
struct Mask {
  __mmask16 m;
};

/// 16 floats.
struct Vec {
  __m512 v;

  static Vec zero() noexcept { return {_mm512_setzero_ps()}; }
  static Vec all(float x) noexcept { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* from) noexcept { return {_mm512_loadu_ps(from)}; }
  static Vec load(const BFloat16* from) noexcept {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))};
  }
  static Vec load(const Float16* from) noexcept {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
  }
  void store(float* to) const noexcept { _mm512_storeu_ps(to, v); }
  void store(BFloat16* to) const noexcept { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_bfloat16()); }
  void store(Float16* to) const noexcept { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_float16()); }
  /// Past the caches, to a multiple of the bytes that are stored. Ordered by _mm_sfence.
  void stream(float* to) const noexcept { _mm512_stream_ps(to, v); }
  void stream(BFloat16* to) const noexcept { _mm256_stream_si256(reinterpret_cast<__m256i*>(to), to_bfloat16()); }
  void stream(Float16* to) const noexcept { _mm256_stream_si256(reinterpret_cast<__m256i*>(to), to_float16()); }

 private:
  // Rounded to nearest even, NaN quiet: bit for bit as prefixshare::to_bfloat16 and to_float16.
  __m256i to_bfloat16() const noexcept {
    const __m512i bits = _mm512_castps_si512(v);
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i half = _mm512_mask_blend_epi32(odd, _mm512_set1_epi32(0x7fff), _mm512_set1_epi32(0x8000));
    const __m512i rounded = _mm512_mask_or_epi32(_mm512_add_epi32(bits, half), nan, bits, _mm512_set1_epi32(0x400000));
    alignas(32) static constexpr std::uint16_t kUpper[16] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
    const __m512i places = _mm512_castsi256_si512(_mm256_load_si256(reinterpret_cast<const __m256i*>(kUpper)));
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16(places, rounded));
  }
  __m256i to_float16() const noexcept { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

inline Vec operator+(Vec a, Vec b) noexcept { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) noexcept { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) noexcept { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) noexcept { return {_mm512_div_ps(a.v, b.v)}; }
/// a * b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) noexcept { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
/// a * b - c, rounded once.
inline Vec fms(Vec a, Vec b, Vec c) noexcept { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }
/// The larger; where `x` is NaN, `best`.
inline Vec larger(Vec best, Vec x) noexcept { return {_mm512_max_ps(x.v, best.v)}; }
/// Between low and high; a NaN stays.
inline Vec clamp(Vec x, Vec low, Vec high) noexcept { return {_mm512_min_ps(high.v, _mm512_max_ps(low.v, x.v))}; }
inline Vec magnitude(Vec x) noexcept { return {_mm512_abs_ps(x.v)}; }
/// Magnitude of x, sign of s.
inline Vec with_sign(Vec x, Vec s) noexcept {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(sign, x.v), _mm512_and_ps(sign, s.v))};
}

inline Mask less(Vec a, Vec b) noexcept { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask equal(Vec a, Vec b) noexcept { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline bool all_of(Mask m) noexcept { return m.m == 0xffff; }
inline bool none_of(Mask m) noexcept { return m.m == 0; }
/// Lanes whose word has the bit.
inline Mask bits_set(const std::uint32_t* words, std::uint32_t bit) noexcept {
  return {_mm512_test_epi32_mask(_mm512_loadu_si512(words), _mm512_set1_epi32(static_cast<int>(bit)))};
}
/// a where m, else b.
inline Vec choose(Mask m, Vec a, Vec b) noexcept { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }

inline Vec round_to_whole(Vec x) noexcept {
  return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
/// x * 2^n for a whole n, rounded once.
inline Vec scale_by_power(Vec x, Vec n) noexcept { return {_mm512_scalef_ps(x.v, n.v)}; }
/// x less the whole number below it, in [0, 1]; 0 for an infinity.
inline Vec fraction(Vec x) noexcept { return {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
/// x * 2^floor(y), rounded once.
inline Vec scale_by_floor(Vec x, Vec y) noexcept { return {_mm512_scalef_ps(x.v, y.v)}; }
inline Vec round_up(Vec x) noexcept { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)}; }
/// x = m * 2^power with a whole power and m in [sqrt(1/2), sqrt(2)), for a normal x > 0.
inline Vec split_power(Vec x, Vec* power) noexcept {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i whole = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
  *power = {_mm512_cvtepi32_ps(whole)};
  return {_mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(whole, 23)))};
}

/// Sums of the lanes of four vectors, in one order.
inline void sum4(const Vec* x, float* sums) noexcept {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(x[0].v, x[1].v), _mm512_unpackhi_ps(x[0].v, x[1].v));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(x[2].v, x[3].v), _mm512_unpackhi_ps(x[2].v, x[3].v));
  const __m512 abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
inline float largest(Vec x) noexcept { return _mm512_reduce_max_ps(x.v); }
/// Lanes 2i and 2i + 1 change places.
inline Vec swap_neighbours(Vec x) noexcept { return {_mm512_permute_ps(x.v, 0xb1)}; }

/// Rows become columns: to[c][r] = from[r][c] of a 16 x 16 block.
inline void transpose16(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride) noexcept {
  __m512 a[16], b[16];
  for (int r = 0; r < 16; ++r) a[r] = _mm512_loadu_ps(from + r * from_stride);
  for (int r = 0; r < 16; r += 2) {
    b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
    b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
  }
  for (int r = 0; r < 16; r += 4) {  // a[r + i]: column 4k + i of rows r to r + 3 in 128-bit lane k
    a[r] = _mm512_shuffle_ps(b[r], b[r + 2], 0x44);
    a[r + 1] = _mm512_shuffle_ps(b[r], b[r + 2], 0xee);
    a[r + 2] = _mm512_shuffle_ps(b[r + 1], b[r + 3], 0x44);
    a[r + 3] = _mm512_shuffle_ps(b[r + 1], b[r + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512 low_even = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88),
                 low_odd = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
    const __m512 high_even = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88),
                 high_odd = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    _mm512_storeu_ps(to + i * to_stride, _mm512_shuffle_f32x4(low_even, high_even, 0x88));
    _mm512_storeu_ps(to + (i + 4) * to_stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0x88));
    _mm512_storeu_ps(to + (i + 8) * to_stride, _mm512_shuffle_f32x4(low_even, high_even, 0xdd));
    _mm512_storeu_ps(to + (i + 12) * to_stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd));
  }
}

// Register blocks, in vectors of 16 lanes. 32 registers: products of 3 panels x 8 keys use 24 sums, 3 rows and a
// broadcast; a stream's 4 rows x 4 keys 16 sums, 4 rows of keys and a query.
inline constexpr int kProductPanels = 3;
inline constexpr int kProductCount = 8;
inline constexpr int kStreamDotRows = 4;
inline constexpr int kStreamDotKeys = 4;
inline constexpr int kStreamSumVectors = 4;

PREFIXSHARE_REGION_END
