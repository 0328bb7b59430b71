// SPDX-License-Identifier: Apache-2.0
// The vectors that kernels are written with, for every instruction set that this machine has: exp and tanh against f64
// over all floats, and what moves, compares and sums lanes.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/vector_functions.hpp"
#include "support/attention.hpp"
#include "support/data.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
using Lanes = std::array<float, 16>;

/// The functions of every region that this build has and this machine can run. Says what is skipped.
std::vector<const VectorFunctions*> usable_functions() {
  std::vector<const VectorFunctions*> list;
#if defined(__x86_64__)
  Context context;
  require_ok(create_context(&context));
  for (const VectorFunctions* f : {&kAvx2Functions, &kAvx512Functions}) {
    const auto* entry = detail::find(context.tree_attention, f->implementation);
    REQUIRE(entry != nullptr);
    const Status s = entry->accepts({});
    if (s.ok()) {
      list.push_back(f);
    } else {
      skip(f->implementation, to_string(s));
    }
  }
#else
  skip("vectors", "this build has none of its own for this machine");
#endif
  return list;
}

float from_bits(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// Place of a number among all floats in order; both zeros have one.
std::int64_t place_of(float x) {
  std::int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits < 0 ? -std::int64_t{bits & INT32_MAX} : bits;
}

/// Floats between `got` and the correctly rounded `exact`, the last included. NaN for NaN is 0.
std::int64_t distance_in_floats(float got, double exact) {
  constexpr std::int64_t kFar = std::numeric_limits<std::int64_t>::max();
  if (std::isnan(got) || std::isnan(exact)) return std::isnan(got) && std::isnan(exact) ? 0 : kFar;
  return std::abs(place_of(got) - place_of(static_cast<float>(exact)));
}

/// The largest distance of a function from an exact one, and where it is.
struct Worst {
  std::int64_t distance = 0;
  float at = 0;
};

/// Over every `step`-th float, with what is special besides. A prime step meets all exponents and mantissas.
template <class Exact>
Worst worst_over(void (*function)(const float*, std::int64_t, float*), Exact exact, std::uint64_t step) {
  constexpr std::size_t kBatch = 4096;
  std::vector<float> x = {0.0f, -0.0f, kInf, -kInf, kNaN, 1.0f, -1.0f, 88.7228f, 88.7229f, -87.33655f, -103.97208f},
                     y(kBatch);
  Worst worst;
  std::uint64_t bits = 0;
  do {
    while (x.size() < kBatch && bits <= UINT32_MAX) {
      x.push_back(from_bits(static_cast<std::uint32_t>(bits)));
      bits += step;
    }
    const std::size_t count = x.size();
    x.resize((count + 15) / 16 * 16);
    function(x.data(), static_cast<std::int64_t>(x.size()), y.data());
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t d = distance_in_floats(y[i], exact(static_cast<double>(x[i])));
      if (d > worst.distance) worst = {d, x[i]};
    }
    x.clear();
  } while (bits <= UINT32_MAX);
  return worst;
}

/// All of them takes minutes: when all is asked for.
std::uint64_t step_of() { return test_all() ? 1 : 97; }

/// exp_of promises 2. tanh_of has no promise: over all floats the furthest is 1 away, as is that of exp_of.
constexpr std::int64_t kExpDistance = 2;
constexpr std::int64_t kTanhDistance = 1;

Lanes random_lanes(Random* random) {
  Lanes x;
  for (float& lane : x) lane = static_cast<float>(random->normal());
  return x;
}

bool same_bits(const Lanes& a, const Lanes& b) { return std::memcmp(a.data(), b.data(), sizeof a) == 0; }

}  // namespace

TEST_CASE("vectors: exp is within two floats of the correctly rounded one", "[kernels]") {
  for (const VectorFunctions* f : usable_functions()) {
    const Worst worst = worst_over(
        f->exp, [](double x) { return std::exp(x); }, step_of());
    INFO(f->implementation << ": " << worst.distance << " at " << worst.at);
    CHECK(worst.distance <= kExpDistance);
  }
}

TEST_CASE("vectors: exp2 is within two floats of the correctly rounded one, and exact for whole numbers", "[kernels]") {
  for (const VectorFunctions* f : usable_functions()) {
    const Worst worst = worst_over(
        f->exp2, [](double x) { return std::exp2(x); }, step_of());
    INFO(f->implementation << ": " << worst.distance << " at " << worst.at);
    CHECK(worst.distance <= kExpDistance);
    for (float n = -160; n <= 140; n += 16) {
      Lanes x, y;
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = n + static_cast<float>(i);
      f->exp2(x.data(), 16, y.data());
      for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == std::exp2(x[i]));
    }
    const Lanes odd = {0.0f, -0.0f, -kInf, kInf, kNaN, 1000.0f, -1000.0f};
    Lanes y;
    f->exp2(odd.data(), 16, y.data());
    CHECK((y[0] == 1 && y[1] == 1 && y[3] == kInf && std::isnan(y[4]) && y[5] == kInf));
    CHECK((y[2] == 0 && !std::signbit(y[2]) && y[6] == 0 && !std::signbit(y[6])));
  }
}

TEST_CASE("vectors: exp of 0, of the infinities and of NaN is exact", "[kernels]") {
  for (const VectorFunctions* f : usable_functions()) {
    INFO(f->implementation);
    const Lanes x = {0.0f, -0.0f, -kInf, kInf, kNaN, -kNaN, 1000.0f, -1000.0f};
    Lanes y;
    f->exp(x.data(), 16, y.data());
    CHECK(y[0] == 1);
    CHECK(y[1] == 1);
    CHECK((y[2] == 0 && !std::signbit(y[2])));
    CHECK(y[3] == kInf);
    CHECK(std::isnan(y[4]));
    CHECK(std::isnan(y[5]));
    CHECK(y[6] == kInf);
    CHECK((y[7] == 0 && !std::signbit(y[7])));
  }
}

TEST_CASE("vectors: tanh is the correctly rounded one or a float next to it", "[kernels]") {
  for (const VectorFunctions* f : usable_functions()) {
    const Worst worst = worst_over(
        f->tanh, [](double x) { return std::tanh(x); }, step_of());
    INFO(f->implementation << ": " << worst.distance << " at " << worst.at);
    CHECK(worst.distance <= kTanhDistance);
  }
}

TEST_CASE("vectors: every f16 and bf16 becomes the float that it is, in vectors and in what is left over",
          "[kernels]") {
  for (const VectorFunctions* f : usable_functions()) {
    for (const DType type : {DType::f16, DType::bf16}) {
      INFO(f->implementation << ", " << to_string(type));
      std::vector<std::uint16_t> stored(65536 + 5);
      for (std::size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<std::uint16_t>(i);
      std::vector<float> got(stored.size());
      for (const std::int64_t first : {0, 5}) {  // the last five are left over, and vectors start at odd places
        const std::int64_t count = static_cast<std::int64_t>(stored.size()) - first;
        f->load_scaled(type, stored.data() + first, count, 1, got.data());
        std::int64_t wrong = 0;
        for (std::int64_t i = 0; i < count; ++i) {
          const std::uint16_t bits = stored[static_cast<std::size_t>(first + i)];
          const float want = type == DType::f16 ? load_as<float>(Float16{bits}) : load_as<float>(BFloat16{bits});
          const float x = got[static_cast<std::size_t>(i)];
          wrong += std::isnan(want) ? !std::isnan(x) : std::memcmp(&x, &want, sizeof x) != 0;
        }
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE("vectors: scaled rows are rounded once, and nothing is written beyond them", "[kernels]") {
  Random random(1);
  for (const VectorFunctions* f : usable_functions()) {
    for (std::int64_t n = 0; n < 50; ++n) {
      std::vector<float> x(static_cast<std::size_t>(n)), y(static_cast<std::size_t>(n) + 16, 7.0f);
      for (float& e : x) e = static_cast<float>(random.normal());
      f->load_scaled(DType::f32, x.data(), n, 0.3f, y.data());
      for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == x[i] * 0.3f);
      CHECK(std::all_of(y.begin() + n, y.end(), [](float e) { return e == 7; }));
    }
  }
}

TEST_CASE("vectors: lanes are compared, chosen and bounded one by one, and NaN as the kernels need it", "[kernels]") {
  const Lanes a = {1, 2, -3, kNaN, kInf, -kInf, 0.0f, -0.0f, 5, kNaN, kNaN, 1e-40f, 7, 8, 9, -10};
  const Lanes b = {2, 1, -4, 5, 6, 7, -0.0f, 0.0f, kNaN, kNaN, -kInf, 0, 7, -8, 9.5f, -11};
  for (const VectorFunctions* f : usable_functions()) {
    INFO(f->implementation);
    Lanes less, equal, larger, clamped, magnitude, sign;
    f->choose_less(a.data(), b.data(), less.data());
    f->choose_equal(a.data(), b.data(), equal.data());
    f->larger(a.data(), b.data(), larger.data());
    f->clamp(a.data(), -2.5f, 6.5f, clamped.data());
    f->magnitude(a.data(), magnitude.data());
    f->with_sign(a.data(), b.data(), sign.data());
    const auto same = [](float x, float y) { return std::memcmp(&x, &y, sizeof x) == 0; };
    for (std::size_t i = 0; i < 16; ++i) {
      INFO(i << ": " << a[i] << ", " << b[i]);
      CHECK(same(less[i], a[i] < b[i] ? a[i] : b[i]));
      CHECK(same(equal[i], a[i] == b[i] ? a[i] : b[i]));
      CHECK(same(magnitude[i], std::abs(a[i])));
      CHECK(same(sign[i], std::copysign(a[i], b[i])));
      if (std::isnan(a[i])) {
        CHECK(std::isnan(clamped[i]));
      } else {
        CHECK(clamped[i] == std::clamp(a[i], -2.5f, 6.5f));
      }
      if (std::isnan(b[i])) {
        CHECK(same(larger[i], a[i]));  // NaN is not larger than anything
      } else if (!std::isnan(a[i])) {
        CHECK(larger[i] == std::max(a[i], b[i]));
      }
    }
    CHECK(!f->all_equal(a.data(), a.data()));  // NaN
    Lanes ones, one_off;
    ones.fill(1);
    CHECK(f->all_equal(ones.data(), ones.data()));
    for (std::size_t i = 0; i < 16; ++i) {
      one_off = ones;
      one_off[i] = 2;
      CHECK(!f->all_equal(ones.data(), one_off.data()));
    }
  }
}

TEST_CASE("vectors: each bit of each lane's word is found where it is", "[kernels]") {
  for (const VectorFunctions* f : usable_functions()) {
    INFO(f->implementation);
    Random random(2);
    std::array<std::uint32_t, 16> words;
    for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(random.next());
    for (std::uint32_t bit = 0; bit < 32; ++bit) {
      Lanes set;
      f->bits_set(words.data(), std::uint32_t{1} << bit, set.data());
      for (std::size_t i = 0; i < 16; ++i) CHECK(set[i] == static_cast<float>(words[i] >> bit & 1));
    }
  }
}

TEST_CASE("vectors: sums, the largest lane, and fused products", "[kernels]") {
  for (const VectorFunctions* f : usable_functions()) {
    INFO(f->implementation);
    std::array<float, 64> x;
    for (std::size_t i = 0; i < 64; ++i) x[i] = static_cast<float>(std::int64_t{1} << (i / 16)) * static_cast<float>(i);
    float sums[4];
    f->sum4(x.data(), sums);
    for (std::size_t r = 0; r < 4; ++r) {  // whole numbers: any order gives the same
      float want = 0;
      for (std::size_t i = 0; i < 16; ++i) want += x[r * 16 + i];
      CHECK(sums[r] == want);
    }
    Random random(3);
    for (std::size_t at = 0; at < 16; ++at) {
      Lanes lanes = random_lanes(&random);
      lanes[at] = 9;
      CHECK(f->largest(lanes.data()) == 9);
      lanes.fill(-kInf);
      lanes[at] = -3;
      CHECK(f->largest(lanes.data()) == -3);
    }
    const Lanes a = random_lanes(&random), b = random_lanes(&random), c = random_lanes(&random);
    Lanes got, want;
    f->fma(a.data(), b.data(), c.data(), got.data());
    for (std::size_t i = 0; i < 16; ++i) want[i] = std::fma(a[i], b[i], c[i]);
    CHECK(same_bits(got, want));
  }
}

TEST_CASE("vectors: rows become columns, whatever the strides", "[kernels]") {
  for (const VectorFunctions* f : usable_functions()) {
    for (const std::int64_t from_stride : {16, 17, 40}) {
      for (const std::int64_t to_stride : {16, 23, 64}) {
        INFO(f->implementation << ", strides " << from_stride << ", " << to_stride);
        std::vector<float> from(static_cast<std::size_t>(16 * from_stride)),
            to(static_cast<std::size_t>(16 * to_stride), -1.0f);
        for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i);
        f->transpose16(from.data(), from_stride, to.data(), to_stride);
        std::int64_t wrong = 0;
        for (std::int64_t r = 0; r < 16; ++r) {
          for (std::int64_t c = 0; c < to_stride; ++c) {
            const float want = c < 16 ? static_cast<float>(c * from_stride + r) : -1.0f;
            wrong += to[static_cast<std::size_t>(r * to_stride + c)] != want;
          }
        }
        CHECK(wrong == 0);
      }
    }
  }
}
