// SPDX-License-Identifier: Apache-2.0
// Products of bf16 summed in f32: the dot product of AVX-512 BF16, and the tiles of AMX.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "cpu/features.hpp"
#include "support/bursts.hpp"

namespace prefixshare::bench {
namespace {

constexpr int kDotChains = 12;
constexpr std::int64_t kTileProducts = 4;                 // 2 x 2 tiles of sums
constexpr std::int64_t kTileMultiplyAdds = 16 * 16 * 32;  // of one product of tiles

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) void multiply_dot(std::int64_t count) {
  const __m512bh ones = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80));
  __m512 sums[kDotChains];
  for (__m512& s : sums) s = _mm512_setzero_ps();
  for (std::int64_t n = 0; n < count; ++n) {
    for (__m512& s : sums) s = _mm512_dpbf16_ps(s, ones, ones);
  }
  float results[16 * kDotChains];
  for (int i = 0; i < kDotChains; ++i) _mm512_storeu_ps(results + 16 * i, sums[i]);
  keep(results);
}

/// What ldtilecfg reads: every tile 16 rows of 64 bytes.
struct TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileShapes) == 64);

/// Tiles of ones: with zeros the unit draws less power, and the clock stays higher than with any real data.
template <int Tiles>
struct Ones {
  alignas(64) std::int16_t x[std::size_t{Tiles} * 16 * 32];
  Ones() { std::fill(std::begin(x), std::end(x), std::int16_t{0x3f80}); }
};

/// Not _tile_loadconfig: that of g++ 12 tells the compiler of the first 8 bytes only, which then leaves the rest unset.
void load_config(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }

__attribute__((target("amx-tile,amx-bf16"))) void multiply_amx(std::int64_t count) {
  const TileShapes shapes;
  static const Ones<1> ones;
  load_config(shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones.x, 64);
  _tile_loadd(5, ones.x, 64);
  _tile_loadd(6, ones.x, 64);
  _tile_loadd(7, ones.x, 64);
  for (std::int64_t n = 0; n < count; ++n) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

// ---- The other way: operands come from the first-level cache

constexpr std::size_t kDotRows = 8;  // of a panel, against one column

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) void multiply_dot_panels(std::int64_t count) {
  constexpr std::size_t kDepth = Bursts::kDepth;
  alignas(64) std::int16_t columns[kDepth * 32];
  std::int32_t rows[kDepth * kDotRows];  // pairs
  for (std::int16_t& x : columns) x = 0x3f80;
  for (std::int32_t& x : rows) x = 0x3f803f80;
  __m512 sums[kDotRows];
  for (__m512& s : sums) s = _mm512_setzero_ps();
  for (std::int64_t n = 0; n < count; ++n) {
    for (std::size_t k = 0; k < kDepth; ++k) {
      const __m512bh column = reinterpret_cast<__m512bh>(_mm512_load_si512(columns + 32 * k));
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kDotRows; ++r) {
        const __m512bh row = reinterpret_cast<__m512bh>(_mm512_set1_epi32(rows[k * kDotRows + r]));
        sums[r] = _mm512_dpbf16_ps(sums[r], row, column);
      }
    }
    keep(rows);
  }
  float results[16 * kDotRows];
  for (std::size_t r = 0; r < kDotRows; ++r) _mm512_storeu_ps(results + 16 * r, sums[r]);
  keep(results);
}

constexpr int kTileDepth = 4;  // pairs of tiles of either side

__attribute__((target("amx-tile,amx-bf16"))) void multiply_amx_panels(std::int64_t count) {
  constexpr int kTile = 16 * 32;
  static const Ones<kTileDepth * 2> left, right;
  const TileShapes shapes;
  load_config(shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t n = 0; n < count; ++n) {
    for (int k = 0; k < kTileDepth; ++k) {
      _tile_loadd(4, left.x + 2 * k * kTile, 64);
      _tile_loadd(6, right.x + 2 * k * kTile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, right.x + (2 * k + 1) * kTile, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, left.x + (2 * k + 1) * kTile, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_release();
}

}  // namespace

Bursts bf16_dot_bursts(Way way) {
  Bursts b;
  b.name = "AVX-512 BF16";
  b.usable = cpu::features().avx512 && __builtin_cpu_supports("avx512bf16");
  b.storage = DType::bf16;
  const bool panels = way == Way::panels;
  b.multiply = panels ? &multiply_dot_panels : &multiply_dot;
  b.multiply_adds = 32 * (panels ? std::int64_t{kDotRows * Bursts::kDepth} : kDotChains);
  return b;
}

Bursts bf16_amx_bursts(Way way) {
  Bursts b;
  b.name = "AMX BF16";
  b.usable = cpu::features().amx_bf16 && cpu::request_tiles();
  b.storage = DType::bf16;
  const bool panels = way == Way::panels;
  b.multiply = panels ? &multiply_amx_panels : &multiply_amx;
  b.multiply_adds = kTileProducts * kTileMultiplyAdds * (panels ? kTileDepth : 1);
  return b;
}

}  // namespace prefixshare::bench

#endif
