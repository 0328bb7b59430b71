// SPDX-License-Identifier: Apache-2.0
// bf16 in AVX-512 registers: rounding, interleaving, parts of rows.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <limits>

#include "cpu/region.hpp"
#include "cpu/vector.hpp"
#include "prefixshare/dtype.hpp"

PREFIXSHARE_REGION_BEGIN

/// 16 floats rounded to bf16, to nearest even, subnormals to zero: as words, those of `even` in the even places.
inline __m512i interleave_rounded(Vec even, Vec odd) noexcept {
  const __m512i one_after_other = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd.v, even.v));
  alignas(64) static constexpr std::uint16_t kPlaces[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                            21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                            11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kPlaces), one_after_other);
}
/// What rounding x to bf16 leaves over; nothing of what is then not finite.
inline Vec rounding_rest(Vec x) noexcept {
  const __m256i near = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v));
  const Vec rounded = {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(near), 16))};
  return choose(less(magnitude(rounded), Vec::all(std::numeric_limits<float>::infinity())), x - rounded, Vec::zero());
}
/// The first min(n, 16) of the elements at `from`, then zeros. n may be negative.
inline __mmask16 first_lanes(std::int64_t n) noexcept {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}
inline Vec load_first(const float* from, std::int64_t n) noexcept {
  return {_mm512_maskz_loadu_ps(first_lanes(n), from)};
}
inline __m512i load_first(const BFloat16* from, std::int64_t n) noexcept {
  return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), from));
}
/// The same of up to 32 words.
inline __mmask32 first_words(std::int64_t n) noexcept {
  return static_cast<__mmask32>(n >= 32 ? 0xffffffff : n <= 0 ? 0 : (std::uint32_t{1} << n) - 1);
}
/// The first or the second bf16 of 16 pairs.
inline Vec first_of(__m512i pairs) noexcept { return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))}; }
inline Vec second_of(__m512i pairs) noexcept {
  return {_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)))};
}
/// 16 pairs of bf16 times a factor of each.
inline void multiply_pairs(BFloat16* pairs, Vec factor) noexcept {
  const __m512i upper = _mm512_set1_epi32(-0x10000), x = _mm512_load_si512(pairs);
  const Vec even = first_of(x) * factor, odd = second_of(x) * factor;
  _mm512_store_si512(pairs, _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even.v), 16),
                                            _mm512_and_si512(_mm512_castps_si512(odd.v), upper)));
}
/// 128-bit lane `lane` of rows r, r + 4, r + 8 and r + 12 of pairs [16][32].
inline __m512 lanes_of(const float* pairs, int r, int lane) noexcept {
  const float* at = pairs + r * 32 + lane * 4;
  __m512 x = _mm512_castps128_ps512(_mm_load_ps(at));
  x = _mm512_insertf32x4(x, _mm_load_ps(at + 4 * 32), 1);
  x = _mm512_insertf32x4(x, _mm_load_ps(at + 8 * 32), 2);
  return _mm512_insertf32x4(x, _mm_load_ps(at + 12 * 32), 3);
}
/// Pairs of keys [16][32 elements], in the order in which unpacking two rows of bf16 leaves the elements (4 from the
/// lower halves of each 128-bit lane, then 4 from the upper), to two tiles [16 elements][16 pairs]. The loads bring
/// lanes to their places, so that only half of the shuffles of a transposition are left.
inline void turn_pairs(const float* pairs, BFloat16* tiles) noexcept {
  float* to = reinterpret_cast<float*>(tiles);
  for (int lane = 0; lane < 8; ++lane) {
    const __m512 a = lanes_of(pairs, 0, lane), b = lanes_of(pairs, 1, lane);
    const __m512 c = lanes_of(pairs, 2, lane), d = lanes_of(pairs, 3, lane);
    const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), ab = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
    const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d)), cd = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
    float* row = to + (lane % 4 * 8 + lane / 4 * 4) * 16;
    _mm512_store_pd(row, _mm512_unpacklo_pd(ab_low, cd_low));
    _mm512_store_pd(row + 16, _mm512_unpackhi_pd(ab_low, cd_low));
    _mm512_store_pd(row + 32, _mm512_unpacklo_pd(ab, cd));
    _mm512_store_pd(row + 48, _mm512_unpackhi_pd(ab, cd));
  }
}
inline bool is_finite(BFloat16 x) noexcept { return (x.bits & 0x7f80) != 0x7f80; }

PREFIXSHARE_REGION_END
