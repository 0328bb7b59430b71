// SPDX-License-Identifier: Apache-2.0
// Conversions over all 16-bit values, and the functions that are approximate on the device.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "prefixshare/cuda/ptx.cuh"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

using namespace prefixshare;
using prefixshare::testing::Random;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::uint16_t kOneNan = 0x7fff;

/// Distance in units in the last place of the right answer.
double ulps(float got, double want) {
  const float nearest = static_cast<float>(want);
  const double unit = static_cast<double>(std::nextafter(std::fabs(nearest), kInfinity)) - std::fabs(nearest);
  return std::fabs(static_cast<double>(got) - want) / unit;
}

template <class T>
int wrong_conversions() {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const auto b = static_cast<std::uint16_t>(bits);
    const float x = ptx::to_float<T>(b);
    const float library = load_as<float>(T{b});
    if (std::isnan(x)) {
      wrong += !std::isnan(library) || ptx::from_float<T>(x) != kOneNan;
    } else {
      wrong += x != library || std::signbit(x) != std::signbit(library) || ptx::from_float<T>(x) != b;
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("numbers: 16-bit values to f32 and back", "[simt]") {
  CHECK(wrong_conversions<BFloat16>() == 0);
  CHECK(wrong_conversions<Float16>() == 0);
}

TEST_CASE("numbers: pack rounds to nearest even, the first value low", "[simt]") {
  CHECK(ptx::pack<BFloat16>(1.0f, 2.0f) == 0x40003f80u);
  CHECK(ptx::pack<Float16>(1.0f, 2.0f) == 0x40003c00u);
  CHECK(ptx::pack<BFloat16>(1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f) == 0x3f823f80u);  // ties, to even
  CHECK(ptx::pack<Float16>(1.0f + 0x1p-11f, 1.0f + 3 * 0x1p-11f) == 0x3c023c00u);
  CHECK(ptx::pack<Float16>(65520.0f, -kInfinity) == 0xfc007c00u);
  CHECK(ptx::pack<BFloat16>(kNan, -kNan) == 0x7fff7fffu);
  CHECK(ptx::from_float<BFloat16>(-0.0f) == 0x8000);
  CHECK(ptx::from_float<Float16>(0x1p-24f) == 0x0001);
}

TEST_CASE("numbers: exp2 and log2", "[simt]") {
  CHECK(ptx::exp2(0.0f) == 1.0f);
  CHECK(ptx::exp2(-0.0f) == 1.0f);
  CHECK(ptx::exp2(1e-40f) == 1.0f);
  CHECK(ptx::exp2(-kInfinity) == 0.0f);
  CHECK(!std::signbit(ptx::exp2(-kInfinity)));
  CHECK(ptx::exp2(kInfinity) == kInfinity);
  CHECK(ptx::exp2(-126.0f) == 0x1p-126f);
  CHECK(ptx::exp2(-127.0f) == 0.0f);
  CHECK(std::isnan(ptx::exp2(kNan)));
  CHECK(ptx::log2(1.0f) == 0.0f);
  CHECK(ptx::log2(0x1p-149f) == -149.0f);
  CHECK(ptx::log2(0.0f) == -kInfinity);
  CHECK(ptx::log2(kInfinity) == kInfinity);
  CHECK(std::isnan(ptx::log2(-1.0f)));
  Random random(1);
  for (int i = 0; i < 10000; ++i) {
    const float x = static_cast<float>(random.between(-1250000, 1270000)) * 1e-4f;
    CHECK(ulps(ptx::exp2(x), std::exp2(static_cast<double>(x))) <= 1);
    const float y = std::ldexp(1.0f + std::fabs(x) / 128, random.between(-120, 120));
    CHECK(ulps(ptx::log2(y), std::log2(static_cast<double>(y))) <= 1);
  }
}

TEST_CASE("numbers: reciprocal is rounded correctly", "[simt]") {
  Random random(2);
  for (int i = 0; i < 10000; ++i) {
    const float x = static_cast<float>(random.between(1, 1 << 30)) * 1e-5f;
    CHECK(ptx::reciprocal(x) == static_cast<float>(1.0 / static_cast<double>(x)));
  }
  CHECK(ptx::reciprocal(0.0f) == kInfinity);
  CHECK(ptx::reciprocal(kInfinity) == 0.0f);
}

TEST_CASE("numbers: sine and cosine of multiples of pi", "[simt]") {
  const float exact[][3] = {{0.0f, 0.0f, 1.0f},  {0.5f, 1.0f, 0.0f},  {1.0f, 0.0f, -1.0f},      {-0.5f, -1.0f, 0.0f},
                            {3.5f, -1.0f, 0.0f}, {-2.0f, 0.0f, 1.0f}, {16777216.0f, 0.0f, 1.0f}};
  for (const auto& row : exact) {
    float sin = kNan, cos = kNan;
    ptx::sincospi(row[0], &sin, &cos);
    CHECK(sin == row[1]);
    CHECK(cos == row[2]);
  }
  Random random(3);
  for (int i = 0; i < 10000; ++i) {
    const float x = static_cast<float>(random.between(-4096, 4096)) / 1024;  // the angle is exact enough in f64
    float sin = kNan, cos = kNan;
    ptx::sincospi(x, &sin, &cos);
    const long double angle = 3.14159265358979323846264338L * static_cast<long double>(x);
    CHECK(std::fabs(sin - static_cast<double>(std::sin(angle))) <= 0x1p-24);
    CHECK(std::fabs(cos - static_cast<double>(std::cos(angle))) <= 0x1p-24);
  }
  float sin = 0, cos = 0;
  ptx::sincospi(kInfinity, &sin, &cos);
  CHECK(std::isnan(sin));
  CHECK(std::isnan(cos));
}
