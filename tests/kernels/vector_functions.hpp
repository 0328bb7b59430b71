// SPDX-License-Identifier: Apache-2.0
// What the vectors of a region compute, as functions that tests at the baseline can call. Arrays of 16 floats unless a
// count says otherwise.
#pragma once

#include <cstdint>

#include "prefixshare/dtype.hpp"

namespace prefixshare::tests {

struct VectorFunctions {
  const char* implementation;                              ///< that is compiled for the same features
  void (*exp)(const float* x, std::int64_t n, float* y);   ///< n a multiple of 16
  void (*exp2)(const float* x, std::int64_t n, float* y);  ///< n a multiple of 16
  void (*tanh)(const float* x, std::int64_t n, float* y);  ///< n a multiple of 16
  void (*load_scaled)(DType type, const void* x, std::int64_t n, float scale, float* y);
  void (*fma)(const float* a, const float* b, const float* c, float* y);
  void (*larger)(const float* best, const float* x, float* y);
  void (*clamp)(const float* x, float low, float high, float* y);
  void (*choose_less)(const float* a, const float* b, float* y);   ///< a < b ? a : b
  void (*choose_equal)(const float* a, const float* b, float* y);  ///< a == b ? a : b
  bool (*all_equal)(const float* a, const float* b);
  void (*with_sign)(const float* x, const float* s, float* y);
  void (*magnitude)(const float* x, float* y);
  void (*bits_set)(const std::uint32_t* words, std::uint32_t bit, float* y);  ///< 1 or 0
  void (*sum4)(const float* x, float* sums);                                  ///< x [4][16]
  float (*largest)(const float* x);
  void (*transpose16)(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride);
};

// Where the build has them.
extern const VectorFunctions kAvx2Functions;
extern const VectorFunctions kAvx512Functions;

}  // namespace prefixshare::tests
