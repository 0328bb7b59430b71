// SPDX-License-Identifier: Apache-2.0
// Bursts of the region whose Vec came before.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/region.hpp"
#include "cpu/vector_math.hpp"
#include "support/bursts.hpp"

PREFIXSHARE_REGION_BEGIN

/// Chains of multiply-adds that do not wait for each other: enough for two units of latency 5.
template <std::size_t Chains>
void multiply(std::int64_t count) {
  const Vec factor = Vec::all(0.999f), term = Vec::all(0.001f);
  Vec sums[Chains];
  for (Vec& s : sums) s = term;
  for (std::int64_t n = 0; n < count; ++n) {
    for (Vec& s : sums) s = fma(s, factor, term);
  }
  float results[16 * Chains];
  for (std::size_t i = 0; i < Chains; ++i) sums[i].store(results + 16 * i);
  bench::keep(results);
}

/// From and to the first-level cache, as in a softmax.
inline void exponentials(std::int64_t count) {
  constexpr std::int64_t kCount = bench::Bursts::kExponentials;
  float x[kCount], y[kCount];
  for (std::int64_t i = 0; i < kCount; ++i) x[i] = -0.01f * static_cast<float>(i);
  for (std::int64_t n = 0; n < count; ++n) {
    for (std::int64_t i = 0; i < kCount; i += 16) exp_of(Vec::load(x + i)).store(y + i);
    bench::keep(y);
  }
}

inline void read(const float* from, std::int64_t count) {
  const std::int64_t quarter = count / 4;
  Vec sums[4];
  for (Vec& s : sums) s = Vec::zero();
  for (std::int64_t i = 0; i < quarter; i += 32) {
    for (int k = 0; k < 4; ++k) {
      sums[k] = sums[k] + Vec::load(from + k * quarter + i);
      sums[k] = sums[k] + Vec::load(from + k * quarter + i + 16);
    }
  }
  float results[64];
  for (int k = 0; k < 4; ++k) sums[k].store(results + 16 * k);
  bench::keep(results);
}

PREFIXSHARE_REGION_END
