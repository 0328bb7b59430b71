// SPDX-License-Identifier: Apache-2.0
// The two products of attention on panels of kPanelRows packed rows: logits from keys and queries, outputs from values
// and probabilities. Both are C[i][row] (+)= sum_t A(i, t) B[t][row] with rows side by side in a vector: keys and
// values are broadcast as they lie, nothing is transposed, and a row's sum runs over t in order whatever its
// neighbours.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/key_buffer.hpp"
#include "cpu/region.hpp"
#include "cpu/vector.hpp"
#include "prefixshare/tree_attention.hpp"

PREFIXSHARE_REGION_BEGIN

/// scores: A is keys [count, terms], C starts from 0. outputs: A is values [terms, count], C from what it holds.
enum class Product { scores, outputs };

/// Rows [i, i + Count) of C for Panels neighbouring panels.
template <Product kind, int Panels, int Count>
inline void product_block(const float* a, std::int64_t width, std::int64_t i, const float* b, std::int64_t b_panel,
                          std::int64_t terms, float* c, std::int64_t c_panel) noexcept {
  constexpr bool kOutputs = kind == Product::outputs;
  const std::int64_t i_stride = kOutputs ? 1 : width, t_stride = kOutputs ? width : 1;
  Vec sums[std::size_t{Panels}][std::size_t{Count}];
  PREFIXSHARE_UNROLL
  for (int p = 0; p < Panels; ++p) {
    PREFIXSHARE_UNROLL
    for (int k = 0; k < Count; ++k) {
      sums[p][k] = kOutputs ? Vec::load(c + p * c_panel + (i + k) * detail::kPanelRows) : Vec::zero();
    }
  }
  const float* at = a + i * i_stride;
  for (std::int64_t t = 0; t < terms; ++t) {
    Vec row[std::size_t{Panels}];
    PREFIXSHARE_UNROLL
    for (int p = 0; p < Panels; ++p) row[p] = Vec::load(b + p * b_panel + t * detail::kPanelRows);
    PREFIXSHARE_UNROLL
    for (int k = 0; k < Count; ++k) {
      const Vec x = Vec::all(at[k * i_stride]);
      PREFIXSHARE_UNROLL
      for (int p = 0; p < Panels; ++p) sums[p][k] = fma(x, row[p], sums[p][k]);
    }
    at += t_stride;
  }
  PREFIXSHARE_UNROLL
  for (int p = 0; p < Panels; ++p) {
    PREFIXSHARE_UNROLL
    for (int k = 0; k < Count; ++k) sums[p][k].store(c + p * c_panel + (i + k) * detail::kPanelRows);
  }
}

template <Product kind, int Panels>
void product_of(const float* a, std::int64_t width, std::int64_t count, const float* b, std::int64_t b_panel,
                std::int64_t terms, float* c, std::int64_t c_panel, KeyBuffer* keys) noexcept {
  std::int64_t i = 0;
  for (; i + kProductCount <= count; i += kProductCount) {
    keys->some();
    product_block<kind, Panels, kProductCount>(a, width, i, b, b_panel, terms, c, c_panel);
  }
  if (i < count) keys->some();
  for (; i + 2 <= count; i += 2) product_block<kind, Panels, 2>(a, width, i, b, b_panel, terms, c, c_panel);
  for (; i < count; ++i) product_block<kind, Panels, 1>(a, width, i, b, b_panel, terms, c, c_panel);
}

/// Calls of KeyBuffer::some() in a product of `count` rows.
inline std::int64_t product_chunks(std::int64_t count) noexcept { return (count + kProductCount - 1) / kProductCount; }

/// C[i][row] (+)= sum over t < terms of A(i, t) B[t][row] for i < count, in 1 to kProductPanels neighbouring panels.
/// `width`: elements from a row of A in memory to the next.
template <Product kind>
void product(const float* a, std::int64_t width, std::int64_t count, const float* b, std::int64_t b_panel,
             std::int64_t terms, float* c, std::int64_t c_panel, int panels, KeyBuffer* keys) noexcept {
  if constexpr (kProductPanels >= 3) {
    if (panels == 3) return product_of<kind, 3>(a, width, count, b, b_panel, terms, c, c_panel, keys);
    if (panels == 2) return product_of<kind, 2>(a, width, count, b, b_panel, terms, c, c_panel, keys);
  }
  product_of<kind, 1>(a, width, count, b, b_panel, terms, c, c_panel, keys);
}

PREFIXSHARE_REGION_END
