// SPDX-License-Identifier: Apache-2.0
// The VectorFunctions of a region: include after its macros are defined.
#pragma once

#include "cpu/region.hpp"
#include "cpu/vector.hpp"
#include "cpu/vector_math.hpp"
#include "kernels/vector_functions.hpp"

PREFIXSHARE_REGION_BEGIN

inline void exp_all(const float* x, std::int64_t n, float* y) {
  for (std::int64_t i = 0; i < n; i += 16) exp_of(Vec::load(x + i)).store(y + i);
}
inline void exp2_all(const float* x, std::int64_t n, float* y) {
  for (std::int64_t i = 0; i < n; i += 16) exp2_of(Vec::load(x + i)).store(y + i);
}
inline void tanh_all(const float* x, std::int64_t n, float* y) {
  for (std::int64_t i = 0; i < n; i += 16) tanh_of(Vec::load(x + i)).store(y + i);
}
inline void load_all(DType type, const void* x, std::int64_t n, float scale, float* y) {
  load_scaled(type, x, n, scale, y);
}
inline void fma_of(const float* a, const float* b, const float* c, float* y) {
  fma(Vec::load(a), Vec::load(b), Vec::load(c)).store(y);
}
inline void larger_of(const float* best, const float* x, float* y) { larger(Vec::load(best), Vec::load(x)).store(y); }
inline void clamp_to(const float* x, float low, float high, float* y) {
  clamp(Vec::load(x), Vec::all(low), Vec::all(high)).store(y);
}
inline void choose_less(const float* a, const float* b, float* y) {
  const Vec va = Vec::load(a), vb = Vec::load(b);
  choose(less(va, vb), va, vb).store(y);
}
inline void choose_equal(const float* a, const float* b, float* y) {
  const Vec va = Vec::load(a), vb = Vec::load(b);
  choose(equal(va, vb), va, vb).store(y);
}
inline bool all_equal(const float* a, const float* b) { return all_of(equal(Vec::load(a), Vec::load(b))); }
inline void sign_of(const float* x, const float* s, float* y) { with_sign(Vec::load(x), Vec::load(s)).store(y); }
inline void magnitude_of(const float* x, float* y) { magnitude(Vec::load(x)).store(y); }
inline void test_bit(const std::uint32_t* words, std::uint32_t bit, float* y) {
  choose(bits_set(words, bit), Vec::all(1.0f), Vec::zero()).store(y);
}
inline void sum_four(const float* x, float* sums) {
  const Vec four[4] = {Vec::load(x), Vec::load(x + 16), Vec::load(x + 32), Vec::load(x + 48)};
  sum4(four, sums);
}
inline float largest_of(const float* x) { return largest(Vec::load(x)); }
inline void transpose_of(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride) {
  transpose16(from, from_stride, to, to_stride);
}

constexpr tests::VectorFunctions functions_of(const char* implementation) {
  return {implementation, exp_all,   exp2_all, tanh_all,     load_all, fma_of,   larger_of,  clamp_to,    choose_less,
          choose_equal,   all_equal, sign_of,  magnitude_of, test_bit, sum_four, largest_of, transpose_of};
}

PREFIXSHARE_REGION_END
