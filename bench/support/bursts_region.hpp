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

// ---- The other way

/// Products of a panel of rows and a panel of columns, as in a matrix product: a column's numbers are loaded, a row's
/// number goes to all lanes.
template <std::size_t Rows, std::size_t Columns>
void multiply_panels(std::int64_t count) {
  constexpr std::size_t kDepth = bench::Bursts::kDepth;
  alignas(64) float rows[kDepth * Rows], columns[kDepth * Columns * 16];
  for (float& x : rows) x = 0.999f;
  for (float& x : columns) x = 0.001f;
  Vec sums[Rows][Columns];
  for (auto& row : sums) {
    for (Vec& s : row) s = Vec::zero();
  }
  for (std::int64_t n = 0; n < count; ++n) {
    for (std::size_t k = 0; k < kDepth; ++k) {
      Vec column[Columns];
#pragma GCC unroll 8
      for (std::size_t c = 0; c < Columns; ++c) column[c] = Vec::load(columns + (k * Columns + c) * 16);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < Rows; ++r) {
        const Vec row = Vec::all(rows[k * Rows + r]);
#pragma GCC unroll 8
        for (std::size_t c = 0; c < Columns; ++c) sums[r][c] = fma(row, column[c], sums[r][c]);
      }
    }
    bench::keep(rows);
  }
  float results[Rows * Columns * 16];
  for (std::size_t r = 0; r < Rows; ++r) {
    for (std::size_t c = 0; c < Columns; ++c) sums[r][c].store(results + (r * Columns + c) * 16);
  }
  bench::keep(results);
}

/// Only their sums, backwards, and nothing is stored.
inline void sum_exponentials(std::int64_t count) {
  constexpr std::int64_t kCount = bench::Bursts::kExponentials;
  float x[kCount];
  for (std::int64_t i = 0; i < kCount; ++i) x[i] = -0.01f * static_cast<float>(i);
  Vec sums[2] = {Vec::zero(), Vec::zero()};
  for (std::int64_t n = 0; n < count; ++n) {
    for (std::int64_t i = kCount - 32; i >= 0; i -= 32) {
      sums[0] = sums[0] + exp_of(Vec::load(x + i));
      sums[1] = sums[1] + exp_of(Vec::load(x + i + 16));
    }
    bench::keep(x);
  }
  float results[32];
  for (int k = 0; k < 2; ++k) sums[k].store(results + 16 * k);
  bench::keep(results);
}

inline void read_halves(const float* from, std::int64_t count) {
  constexpr int kSums = 4;
  const std::int64_t half = count / 2;
  Vec sums[kSums];
  for (Vec& s : sums) s = Vec::zero();
  for (std::int64_t i = 0; i < half; i += 16 * kSums) {
    for (const float* at : {from + i, from + half + i}) {
#pragma GCC unroll 4
      for (int k = 0; k < kSums; ++k) sums[k] = sums[k] + Vec::load(at + 16 * k);
    }
  }
  float results[16 * kSums];
  for (int k = 0; k < kSums; ++k) sums[k].store(results + 16 * k);
  bench::keep(results);
}

PREFIXSHARE_REGION_END
