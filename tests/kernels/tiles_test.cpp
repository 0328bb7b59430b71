// SPDX-License-Identifier: Apache-2.0
// The tiles themselves: the emulation against the manual's pseudo code, and the hardware, where there is some, against
// the emulation.
#define PREFIXSHARE_REGION tiles
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"

#include "cpu/tiles.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/emulated_tiles.hpp"
#include "kernels/tile_contexts.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

/// C, A and B of a product.
struct Operands {
  std::array<float, 256> c;
  std::array<BFloat16, 512> a, b;
};

/// bf16 of any size, now and then zero, subnormal, infinite or NaN.
BFloat16 any_bf16(Random* random) {
  if (random->chance(0.02)) return {static_cast<std::uint16_t>(random->next())};
  return to_bfloat16(static_cast<float>(random->normal() * std::exp2(random->between(-70, 60))));
}

Operands random_operands(Random* random, bool plain) {
  Operands x;
  for (float& c : x.c) c = static_cast<float>(random->normal());
  for (auto* tile : {&x.a, &x.b}) {
    for (BFloat16& e : *tile) e = plain ? to_bfloat16(static_cast<float>(random->normal())) : any_bf16(random);
  }
  return x;
}

float flushed(float x) { return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x; }

/// C + A B as the pseudo code has it.
std::array<float, 256> expected(const Operands& x) {
  std::array<float, 256> c = x.c;
  for (std::size_t m = 0; m < 16; ++m) {
    for (std::size_t n = 0; n < 16; ++n) {
      float sums[2] = {0, 0};
      for (std::size_t k = 0; k < 16; ++k) {
        for (std::size_t i = 0; i < 2; ++i) {
          const float a = flushed(to_float(x.a[m * 32 + 2 * k + i])), b = flushed(to_float(x.b[k * 32 + 2 * n + i]));
          sums[i] = flushed(std::fma(a, b, sums[i]));
        }
      }
      c[m * 16 + n] = flushed(flushed(c[m * 16 + n]) + flushed(sums[0] + sums[1]));
    }
  }
  return c;
}

template <class Tiles>
std::array<float, 256> product(const Operands& x) {
  std::array<float, 256> c{};
  Tiles tiles;
  tiles.template load<2>(x.c.data(), 64);
  tiles.template load<4>(x.a.data(), 64);
  tiles.template load<7>(x.b.data(), 64);
  tiles.template multiply_add<2, 4, 7>();
  tiles.template store<2>(c.data(), 64);
  return c;
}

/// The same bits, any NaN for NaN.
bool same(const std::array<float, 256>& x, const std::array<float, 256>& y) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i]) != std::isnan(y[i])) return false;
    if (!std::isnan(x[i]) && std::memcmp(&x[i], &y[i], sizeof(float)) != 0) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("tiles: the emulation computes what the manual says", "[tiles]") {
  if (!can_emulate_tiles()) return;
  Random random(1);
  for (int i = 0; i < 200; ++i) {
    const Operands x = random_operands(&random, i % 2 == 0);
    CHECK(same(product<cpu::tiles::EmulatedTiles>(x), expected(x)));
  }
}

TEST_CASE("tiles: the hardware computes what the emulation does", "[tiles]") {
  if (!can_emulate_tiles() || !has_hardware_tiles()) return;
  Random random(2);
  for (int i = 0; i < 200; ++i) {
    const Operands x = random_operands(&random, i % 2 == 0);
    CHECK(same(product<cpu::tiles::HardwareTiles>(x), product<cpu::tiles::EmulatedTiles>(x)));
  }
}

TEST_CASE("tiles: the caller's configuration comes back", "[tiles]") {
  if (!has_hardware_tiles()) return;
  const auto configured = [] {
    cpu::tiles::TileConfig now;
    asm volatile("sttilecfg %0" : "=m"(now));
    return now;
  };
  const auto is_same = [](const cpu::tiles::TileConfig& a, const cpu::tiles::TileConfig& b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
  };
  const cpu::tiles::TileConfig none = configured();
  CHECK(none.palette == 0);
  { const cpu::tiles::HardwareTiles tiles; }
  CHECK(is_same(configured(), none));
  cpu::tiles::TileConfig own;
  own.palette = 1;
  own.row_bytes[3] = 32;
  own.rows[3] = 5;
  asm volatile("ldtilecfg %0" : : "m"(own));
  {
    const cpu::tiles::HardwareTiles tiles;
    CHECK_FALSE(is_same(configured(), own));
  }
  CHECK(is_same(configured(), own));
  asm volatile("tilerelease");
}
