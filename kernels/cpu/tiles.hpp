// SPDX-License-Identifier: Apache-2.0
// The eight matrix tiles of AMX: registers of 16 rows of 64 bytes. A product adds A B to C, with C [16][16] f32,
// A [16][32] bf16, and B [32][16] bf16 as pairs of terms, [16][16][2]. Any class with these members can stand in for
// HardwareTiles in TileMultiplier. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1,
// chapter 18, and volume 2, LDTILECFG and TDPBF16PS.
#pragma once

#include <cstdint>

#include "cpu/region.hpp"

PREFIXSHARE_REGION_BEGIN

/// What LDTILECFG and STTILECFG move.
struct TileConfig {
  std::uint8_t palette = 0;  // 0: no tiles are configured
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

/// The CPU's tiles while it lives: all eight configured as whole tiles, then as they were. What the caller had in its
/// tiles is lost, as it is in any call: they are not saved across calls.
class HardwareTiles {
 public:
  HardwareTiles() noexcept {
    TileConfig whole;
    whole.palette = 1;
    for (int t = 0; t < 8; ++t) whole.row_bytes[t] = 64, whole.rows[t] = 16;
    asm volatile("sttilecfg %0" : "=m"(callers_));
    asm volatile("ldtilecfg %0" : : "m"(whole));
  }
  ~HardwareTiles() {
    asm volatile("tilerelease");
    if (callers_.palette != 0) asm volatile("ldtilecfg %0" : : "m"(callers_));
  }
  HardwareTiles(const HardwareTiles&) = delete;
  HardwareTiles& operator=(const HardwareTiles&) = delete;

  template <int T>
  void zero() noexcept {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
  }
  /// 16 rows of 64 bytes, `stride` bytes apart.
  template <int T>
  void load(const void* from, std::int64_t stride) noexcept {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  void store(void* to, std::int64_t stride) const noexcept {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
  }
  /// C += A B. Even and odd terms are summed apart, in order, then added to each other, then to C: every step in f32,
  /// to nearest even, with subnormal inputs and results as zero.
  template <int C, int A, int B>
  void multiply_add() noexcept {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }

 private:
  TileConfig callers_;
};

PREFIXSHARE_REGION_END
