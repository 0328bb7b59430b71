// SPDX-License-Identifier: Apache-2.0
// Storage types: all 16-bit values, and rounding against the neighbours of the value, found by search.
#include "prefixshare/dtype.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "prefixshare/detail/convert.hpp"
#include "prefixshare/detail/softmax_state.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

using namespace prefixshare;

namespace {

template <class T>
T from_bits(unsigned bits) {
  return T{static_cast<std::uint16_t>(bits)};
}

/// A 16-bit format, from its definition.
struct Format {
  int exponent_bits;
  int mantissa_bits;

  unsigned infinity() const { return ((1u << exponent_bits) - 1) << mantissa_bits; }
  /// Value of non-negative bits below infinity; of infinity itself: the power of two that would follow.
  double value(unsigned bits) const {
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = static_cast<int>(bits >> mantissa_bits);
    const int mantissa = static_cast<int>(bits & ((1u << mantissa_bits) - 1));
    if (exponent == 0) return std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  }
  std::vector<double> values() const {
    std::vector<double> all;
    for (unsigned bits = 0; bits <= infinity(); ++bits) all.push_back(value(bits));
    return all;
  }
};
constexpr Format kHalf{5, 10};
constexpr Format kBrain{8, 7};

/// Bits of the value nearest to x, ties to even bits; the midpoint of two neighbours is exact in f64.
unsigned nearest(const std::vector<double>& values, double x) {
  const unsigned sign = std::signbit(x) ? 0x8000u : 0u;
  const double magnitude = std::abs(x);
  const auto above = std::lower_bound(values.begin(), values.end(), magnitude);
  if (above == values.end()) return sign | static_cast<unsigned>(values.size() - 1);
  const auto high = static_cast<unsigned>(above - values.begin());
  if (*above == magnitude) return sign | high;
  const double middle = (values[high - 1] + values[high]) / 2;
  if (magnitude == middle) return sign | (high % 2 == 0 ? high : high - 1);
  return sign | (magnitude < middle ? high - 1 : high);
}

template <class Storage, class Real>
std::int64_t wrong_roundings(const std::vector<double>& values, const std::vector<Real>& inputs) {
  return std::count_if(inputs.begin(), inputs.end(),
                       [&](Real x) { return store_as<Storage>(x).bits != nearest(values, static_cast<double>(x)); });
}

/// Every midpoint of neighbours with the numbers next to it, and the values themselves with theirs, in both signs.
template <class Real>
std::vector<Real> hard_inputs(const std::vector<double>& values) {
  std::vector<Real> inputs;
  const Real infinity = std::numeric_limits<Real>::infinity();
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    for (const double value : {values[i], (values[i] + values[i + 1]) / 2}) {
      const Real x = static_cast<Real>(value);
      for (const Real y : {x, std::nextafter(x, infinity), std::nextafter(x, -infinity)}) {
        inputs.push_back(y);
        inputs.push_back(-y);
      }
    }
  }
  return inputs;
}

template <class Real, class Bits>
std::vector<Real> random_bits(std::uint64_t seed, std::int64_t count) {
  testing::Random random(seed);
  std::vector<Real> inputs;
  while (static_cast<std::int64_t>(inputs.size()) < count) {
    const Real x = detail::bit_cast<Real>(static_cast<Bits>(random.next()));
    if (!std::isnan(x)) inputs.push_back(x);
  }
  return inputs;
}

/// f64 of a magnitude that a 16-bit type cares about.
std::vector<double> random_doubles(std::uint64_t seed, std::int64_t count, int low, int high) {
  testing::Random random(seed);
  std::vector<double> inputs;
  for (std::int64_t i = 0; i < count; ++i) {
    inputs.push_back(std::ldexp(2 * random.uniform() - 1, random.between(low, high)));
  }
  return inputs;
}

template <class Storage>
void check_all_values(const Format& format) {
  std::int64_t wrong = 0;
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    const float x = to_float(from_bits<Storage>(bits));
    const unsigned magnitude = bits & 0x7fffu;
    const bool negative = (bits & 0x8000u) != 0;
    if (magnitude > format.infinity()) {
      const unsigned back = store_as<Storage>(x).bits;
      wrong += !std::isnan(x) || (back & 0x7fffu) <= format.infinity() || std::signbit(x) != negative;
      continue;
    }
    const double value = magnitude == format.infinity() ? HUGE_VAL : format.value(magnitude);
    wrong += static_cast<double>(x) != (negative ? -value : value) || std::signbit(x) != negative;
    wrong += store_as<Storage>(x).bits != bits || store_as<Storage>(static_cast<double>(x)).bits != bits;
    wrong += load_as<double>(from_bits<Storage>(bits)) != static_cast<double>(x);
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("dtype: all 65,536 f16 values read and come back", "[dtype]") { check_all_values<Float16>(kHalf); }

TEST_CASE("dtype: all 65,536 bf16 values read and come back", "[dtype]") { check_all_values<BFloat16>(kBrain); }

TEST_CASE("dtype: f16 rounds once, to nearest even", "[dtype]") {
  const std::vector<double> values = kHalf.values();
  CHECK(wrong_roundings<Float16>(values, hard_inputs<float>(values)) == 0);
  CHECK(wrong_roundings<Float16>(values, hard_inputs<double>(values)) == 0);
  CHECK(wrong_roundings<Float16>(values, random_bits<float, std::uint32_t>(1, 400000)) == 0);
  CHECK(wrong_roundings<Float16>(values, random_bits<double, std::uint64_t>(2, 100000)) == 0);
  CHECK(wrong_roundings<Float16>(values, random_doubles(3, 400000, -28, 17)) == 0);
}

TEST_CASE("dtype: bf16 rounds once, to nearest even", "[dtype]") {
  const std::vector<double> values = kBrain.values();
  CHECK(wrong_roundings<BFloat16>(values, hard_inputs<float>(values)) == 0);
  CHECK(wrong_roundings<BFloat16>(values, hard_inputs<double>(values)) == 0);
  CHECK(wrong_roundings<BFloat16>(values, random_bits<float, std::uint32_t>(4, 400000)) == 0);
  CHECK(wrong_roundings<BFloat16>(values, random_bits<double, std::uint64_t>(5, 100000)) == 0);
  CHECK(wrong_roundings<BFloat16>(values, random_doubles(6, 400000, -136, 129)) == 0);
}

TEST_CASE("dtype: NaN stays NaN whatever its payload", "[dtype]") {
  testing::Random random(7);
  std::int64_t wrong = 0;
  for (int i = 0; i < 100000; ++i) {
    const std::uint64_t sign = random.next() & 1;
    const std::uint32_t f32 = 0x7f800001u + static_cast<std::uint32_t>(random.next() % 0x7fffffu);
    const std::uint64_t f64 = 0x7ff0000000000001u + random.next() % 0xfffffffffffffu;
    const float x = detail::bit_cast<float>(f32 | static_cast<std::uint32_t>(sign << 31));
    const double y = detail::bit_cast<double>(f64 | sign << 63);
    wrong += !std::isnan(to_float(store_as<Float16>(x))) || !std::isnan(to_float(store_as<BFloat16>(x)));
    wrong += !std::isnan(to_float(store_as<Float16>(y))) || !std::isnan(to_float(store_as<BFloat16>(y)));
    wrong += !std::isnan(store_as<float>(y));
  }
  CHECK(wrong == 0);
}

TEST_CASE("dtype: f64 to f32 rounds to nearest even, f32 to f64 is exact", "[dtype]") {
  CHECK(store_as<float>(1 + 0x1p-24) == 1.0f);
  CHECK(store_as<float>(1 + 0x1p-24 + 0x1p-50) == 1.0f + 0x1p-23f);
  CHECK(store_as<float>(1 + 3 * 0x1p-24) == 1.0f + 2 * 0x1p-23f);
  CHECK(load_as<double>(0x1.fffffep-126f) == 0x1.fffffep-126);
}

TEST_CASE("dtype: rows convert like their elements, in every pair of types", "[dtype][convert]") {
  constexpr DType kTypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16};
  constexpr std::int64_t kLength = 300;
  testing::Random random(8);
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      testing::Tensor<1> source(from, {kLength}), target(to, {kLength});
      source.fill_normal(&random, 100);
      detail::copy_row<double>(from, source.view().data, to, target.view().data, kLength);
      const std::vector<double> x = testing::to_doubles(source.view());
      const std::vector<double> y = testing::to_doubles(target.view());
      for (std::size_t i = 0; i < x.size(); ++i) REQUIRE(y[i] == testing::round_to(to, x[i]));
      CHECK(target.guards_intact());
    }
  }
}

TEST_CASE("dtype: add_row rounds the sum once", "[dtype][convert]") {
  for (const DType type : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    testing::Tensor<1> row(type, {5});
    for (std::int64_t i = 0; i < 5; ++i) row.set(i, static_cast<double>(i));
    const double add[5] = {0.1, 1e-9, -2, 1000.03, 0};
    detail::add_row(type, row.view().data, 5, add);
    const std::vector<double> y = testing::to_doubles(row.view());
    for (std::size_t i = 0; i < 5; ++i) CHECK(y[i] == testing::round_to(type, static_cast<double>(i) + add[i]));
    CHECK(row.guards_intact());
  }
}

TEST_CASE("exp_of: within 2 ulp over the normal range, half a unit more below it", "[softmax]") {
  double worst = 0, worst_small = 0;
  for (std::uint32_t bits = 0; bits < 0xff800000u; bits += 1009) {
    const float x = detail::bit_cast<float>(bits);
    if (!(x <= 88.72283f && x >= -104.0f)) continue;
    const double exact = std::exp(static_cast<double>(x));
    const float rounded = static_cast<float>(exact);
    const double unit = static_cast<double>(std::nextafter(rounded, HUGE_VALF) - rounded);
    const double error = std::abs(static_cast<double>(detail::exp_of(x)) - exact) / unit;
    (x >= -87.3365f ? worst : worst_small) = std::max(x >= -87.3365f ? worst : worst_small, error);
  }
  CHECK(worst <= 2);
  CHECK(worst_small <= 2);
  CHECK(worst > 0.4);  // the sweep saw something
}

TEST_CASE("exp_of: exact at its special values", "[softmax]") {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(detail::exp_of(0.0f) == 1.0f);
  CHECK(detail::exp_of(-0.0f) == 1.0f);
  CHECK(detail::bit_cast<std::uint32_t>(detail::exp_of(-infinity)) == 0u);
  CHECK(detail::bit_cast<std::uint32_t>(detail::exp_of(-1e30f)) == 0u);
  CHECK(detail::exp_of(infinity) == infinity);
  CHECK(detail::exp_of(88.8f) == infinity);
  CHECK(detail::exp_of(1e30f) == infinity);
  CHECK(std::isnan(detail::exp_of(std::numeric_limits<float>::quiet_NaN())));
  CHECK(std::isnan(detail::exp_of(-std::numeric_limits<float>::quiet_NaN())));
  CHECK(detail::exp_of(0.0) == 1.0);
  CHECK(detail::exp_of(-HUGE_VAL) == 0.0);
}
