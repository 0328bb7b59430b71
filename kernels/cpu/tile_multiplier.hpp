// SPDX-License-Identifier: Apache-2.0
// What TileProducts has multiplied, C = A B or C += A B, and how with matrix tiles. A and B are bf16, C f32. A is two
// tiles high, B is one or two panels wide, and a step is kTileTerms products of each sum. A Multiplier has
//   multiply<Panels, adds>(a, b, steps, c, ahead)   which calls ahead->some() once a step
#pragma once

#include <cstdint>

#include "cpu/region.hpp"
#include "prefixshare/tree_attention.hpp"

PREFIXSHARE_REGION_BEGIN

inline constexpr std::int64_t kTileRowBytes = 64;
inline constexpr std::int64_t kTileSums = std::int64_t{detail::kPanelRows} * detail::kPanelRows;

/// 16 rows of A, evenly strided: those of step i from first + i * step on. Bytes.
struct RowTiles {
  const char* first;
  std::int64_t stride, step;
};
/// B: tiles of pairs of terms, [16 pairs][kPanelRows][2], one step after the other. Elements.
struct PanelTiles {
  const BFloat16* first;
  std::int64_t panel;  // from a panel to the next
};
/// C: [32][kPanelRows] for each panel. Elements.
struct SumTiles {
  float* first;
  std::int64_t panel;
};

/// With registers that are tiles: 0 to 3 sum, 4 and 5 hold A, 6 and 7 B.
template <class Tiles>
class TileMultiplier {
 public:
  template <int Panels, bool adds, class Ahead>
  void multiply(const RowTiles* a, PanelTiles b, std::int64_t steps, SumTiles c, Ahead* ahead) noexcept {
    start<adds, 0, 1>(c.first);
    if constexpr (Panels == 2) start<adds, 2, 3>(c.first + c.panel);
    for (std::int64_t i = 0; i < steps; ++i) {
      ahead->some();
      tiles_.template load<4>(a[0].first + i * a[0].step, a[0].stride);
      tiles_.template load<6>(b.first + i * detail::kTile, kTileRowBytes);
      tiles_.template multiply_add<0, 4, 6>();
      tiles_.template load<5>(a[1].first + i * a[1].step, a[1].stride);
      tiles_.template multiply_add<1, 5, 6>();
      if constexpr (Panels == 2) {
        tiles_.template load<7>(b.first + b.panel + i * detail::kTile, kTileRowBytes);
        tiles_.template multiply_add<2, 4, 7>();
        tiles_.template multiply_add<3, 5, 7>();
      }
    }
    end<0, 1>(c.first);
    if constexpr (Panels == 2) end<2, 3>(c.first + c.panel);
  }

 private:
  template <bool adds, int Upper, int Lower>
  void start(const float* c) noexcept {
    if constexpr (adds) {
      tiles_.template load<Upper>(c, kTileRowBytes);
      tiles_.template load<Lower>(c + kTileSums, kTileRowBytes);
    } else {
      tiles_.template zero<Upper>();
      tiles_.template zero<Lower>();
    }
  }
  template <int Upper, int Lower>
  void end(float* c) noexcept {
    tiles_.template store<Upper>(c, kTileRowBytes);
    tiles_.template store<Lower>(c + kTileSums, kTileRowBytes);
  }

  Tiles tiles_;
};

PREFIXSHARE_REGION_END
