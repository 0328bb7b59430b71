// SPDX-License-Identifier: Apache-2.0
// The multipliers of TileProducts, each against its instruction's pseudo code: every sum to the bit, and nothing beside
// the sums.
#define PREFIXSHARE_REGION multipliers
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/dot_multiplier.hpp"
#include "cpu/tile_multiplier.hpp"
#include "kernels/emulated_tiles.hpp"
#include "kernels/tile_contexts.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using cpu::multipliers::PanelTiles;
using cpu::multipliers::RowTiles;
using cpu::multipliers::SumTiles;

float flushed(float x) { return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x; }
float flushed(BFloat16 x) { return flushed(to_float(x)); }

/// A pair of terms of a row of A and of a column of B.
struct Pair {
  BFloat16 a[2], b[2];
};

/// VDPBF16PS: the second term of a pair, then the first, each fused with the sum.
float dot_step(float c, const std::array<Pair, 16>& pairs) {
  for (const Pair& p : pairs) {
    for (const int i : {1, 0}) c = flushed(std::fma(flushed(p.a[i]), flushed(p.b[i]), c));
  }
  return c;
}
/// TDPBF16PS: first and second terms apart.
float tile_step(float c, const std::array<Pair, 16>& pairs) {
  float sums[2] = {0, 0};
  for (const Pair& p : pairs) {
    for (const int i : {0, 1}) sums[i] = flushed(std::fma(flushed(p.a[i]), flushed(p.b[i]), sums[i]));
  }
  return flushed(flushed(c) + flushed(sums[0] + sums[1]));
}

/// Counts what a multiplier asks for.
struct Asked {
  std::int64_t times = 0;
  void some() noexcept { ++times; }
};

/// Operands of a product, with room between rows of A, panels of B and panels of C.
struct Operands {
  static constexpr std::int64_t kGap = 48;  // elements
  std::int64_t panels, steps;
  std::int64_t stride = steps * 32 + kGap, b_panel = steps * 512 + 64, c_panel = 512 + 32;
  std::vector<BFloat16> a = std::vector<BFloat16>(static_cast<std::size_t>(32 * stride));
  std::vector<BFloat16> b_memory = std::vector<BFloat16>(static_cast<std::size_t>(panels * b_panel + 32));
  std::vector<float> c = std::vector<float>(static_cast<std::size_t>(panels * c_panel));

  Operands(std::int64_t panel_count, std::int64_t step_count, Random* random) : panels(panel_count), steps(step_count) {
    for (auto* x : {&a, &b_memory}) {
      for (BFloat16& e : *x) {
        const double size = random->chance(0.1) ? std::exp2(random->between(-70, 30)) : 1;
        e = to_bfloat16(static_cast<float>(random->normal() * size));
      }
    }
    for (float& e : c) e = static_cast<float>(random->normal());
  }
  /// The operand as the multipliers take it: whole lines.
  const BFloat16* b() const {
    const auto at = reinterpret_cast<std::uintptr_t>(b_memory.data());
    return b_memory.data() + (64 - at % 64) % 64 / 2;
  }
  std::array<Pair, 16> pairs(std::int64_t panel, std::int64_t row, std::int64_t column, std::int64_t step) const {
    std::array<Pair, 16> all;
    for (std::int64_t k = 0; k < 16; ++k) {
      for (std::int64_t i = 0; i < 2; ++i) {
        all[static_cast<std::size_t>(k)].a[i] = a[static_cast<std::size_t>(row * stride + step * 32 + 2 * k + i)];
        all[static_cast<std::size_t>(k)].b[i] = b()[panel * b_panel + step * 512 + k * 32 + 2 * column + i];
      }
    }
    return all;
  }
};

/// C as the pseudo code has it.
std::vector<float> expected(const Operands& x, bool adds, float (*step)(float, const std::array<Pair, 16>&)) {
  std::vector<float> c = x.c;
  for (std::int64_t p = 0; p < x.panels; ++p) {
    for (std::int64_t row = 0; row < 32; ++row) {
      for (std::int64_t column = 0; column < 16; ++column) {
        float& sum = c[static_cast<std::size_t>(p * x.c_panel + row * 16 + column)];
        if (!adds) sum = 0;
        for (std::int64_t i = 0; i < x.steps; ++i) sum = step(sum, x.pairs(p, row, column, i));
      }
    }
  }
  return c;
}

template <class Multiplier, int Panels, bool adds>
void check_product(std::int64_t steps, float (*step)(float, const std::array<Pair, 16>&), Random* random) {
  Operands x(Panels, steps, random);
  const std::vector<float> wanted = expected(x, adds, step);
  const auto rows = [&](std::int64_t first) {
    return RowTiles{reinterpret_cast<const char*>(x.a.data() + first * x.stride), x.stride * 2, 64};
  };
  const RowTiles a[2] = {rows(0), rows(16)};
  Asked asked;
  Multiplier multiplier;
  multiplier.template multiply<Panels, adds>(a, PanelTiles{x.b(), x.b_panel}, steps, SumTiles{x.c.data(), x.c_panel},
                                             &asked);
  CHECK(asked.times == steps);
  CHECK(std::memcmp(x.c.data(), wanted.data(), wanted.size() * sizeof(float)) == 0);
}

template <class Multiplier>
void check_products(float (*step)(float, const std::array<Pair, 16>&)) {
  if (!can_emulate_tiles()) return;
  Random random(5);
  for (std::int64_t steps = 1; steps <= 9; ++steps) {
    INFO("steps " << steps);
    check_product<Multiplier, 1, false>(steps, step, &random);
    check_product<Multiplier, 1, true>(steps, step, &random);
    check_product<Multiplier, 2, false>(steps, step, &random);
    check_product<Multiplier, 2, true>(steps, step, &random);
  }
}

}  // namespace

TEST_CASE("multipliers: dot products compute what the manual says", "[tiles]") {
  check_products<cpu::multipliers::DotMultiplier>(dot_step);
}

TEST_CASE("multipliers: tiles compute what the manual says", "[tiles]") {
  check_products<cpu::multipliers::TileMultiplier<cpu::multipliers::EmulatedTiles>>(tile_step);
}
