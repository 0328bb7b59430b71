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
inline bool is_finite(BFloat16 x) noexcept { return (x.bits & 0x7f80) != 0x7f80; }

PREFIXSHARE_REGION_END
