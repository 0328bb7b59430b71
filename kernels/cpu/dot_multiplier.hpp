// SPDX-License-Identifier: Apache-2.0
// The Multiplier of AVX-512's bf16 dot product, which adds the products of 16 pairs of terms to 16 sums: rows of B as
// they lie, pairs of A broadcast. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2,
// VDPBF16PS: two fused multiply-adds, each rounded to nearest even, with subnormal inputs and results as zero.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/region.hpp"
#include "cpu/tile_multiplier.hpp"
#include "cpu/vector.hpp"

PREFIXSHARE_REGION_BEGIN

class DotMultiplier {
 public:
  template <int Panels, bool adds, class Ahead>
  void multiply(const RowTiles* a, PanelTiles b, std::int64_t steps, SumTiles c, Ahead* ahead) const noexcept {
    for (std::int64_t block = 0; block < kBlocks; ++block) {
      RowTiles rows = a[block * kBlockRows / detail::kPanelRows];
      rows.first += block * kBlockRows % detail::kPanelRows * rows.stride;
      const SumTiles sums = {c.first + block * kBlockRows * detail::kPanelRows, c.panel};
      multiply_block<Panels, adds>(rows, b, steps, sums, block, ahead);
    }
  }

 private:
  // Registers, of 32: 8 rows x 2 panels are 16 sums, with 2 rows of B and a broadcast: as fast as three panels, which
  // would not pair with the tiles', and faster than 16 rows x 1 panel, where each product is a load, too.
  static constexpr int kBlockRows = 8;
  static constexpr std::int64_t kBlocks = 2 * detail::kPanelRows / kBlockRows;

  /// kBlockRows rows of A times B. Of the steps every kBlocks-th asks ahead.
  template <int Panels, bool adds, class Ahead>
  static void multiply_block(RowTiles a, PanelTiles b, std::int64_t steps, SumTiles c, std::int64_t block,
                             Ahead* ahead) noexcept {
    Vec sums[std::size_t{Panels}][std::size_t{kBlockRows}];
    PREFIXSHARE_UNROLL
    for (int p = 0; p < Panels; ++p) {
      PREFIXSHARE_UNROLL
      for (int r = 0; r < kBlockRows; ++r) {
        sums[p][r] = adds ? Vec::load(c.first + p * c.panel + r * detail::kPanelRows) : Vec::zero();
      }
    }
    for (std::int64_t i = 0; i < steps; ++i) {
      if (i % kBlocks == block) ahead->some();
      multiply_step<Panels>(a.first + i * a.step, a.stride, b.first + i * detail::kTile, b.panel, sums);
    }
    PREFIXSHARE_UNROLL
    for (int p = 0; p < Panels; ++p) {
      PREFIXSHARE_UNROLL
      for (int r = 0; r < kBlockRows; ++r) sums[p][r].store(c.first + p * c.panel + r * detail::kPanelRows);
    }
  }
  template <int Panels>
  __attribute__((always_inline)) static void multiply_step(const char* a, std::int64_t stride, const BFloat16* b,
                                                           std::int64_t panel,
                                                           Vec (*sums)[std::size_t{kBlockRows}]) noexcept {
    for (std::int64_t pair = 0; pair < detail::kPanelRows; ++pair, a += 4, b += 2 * detail::kPanelRows) {
      __m512bh columns[std::size_t{Panels}];
      PREFIXSHARE_UNROLL
      for (int p = 0; p < Panels; ++p) {
        columns[p] = reinterpret_cast<__m512bh>(_mm512_load_si512(b + p * panel));
      }
      PREFIXSHARE_UNROLL
      for (int r = 0; r < kBlockRows; ++r) {
        std::int32_t terms;
        std::memcpy(&terms, a + r * stride, sizeof terms);
        const __m512bh row = reinterpret_cast<__m512bh>(_mm512_set1_epi32(terms));
        PREFIXSHARE_UNROLL
        for (int p = 0; p < Panels; ++p) sums[p][r].v = _mm512_dpbf16_ps(sums[p][r].v, row, columns[p]);
      }
    }
  }
};

PREFIXSHARE_REGION_END
