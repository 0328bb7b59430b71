// SPDX-License-Identifier: Apache-2.0
// rope_apply and rope_shift on CUDA, in the emulator: against the reference in f64 and against cpu:portable.
#include "prefixshare/cuda/rope.cuh"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "prefixshare/portable/rope.hpp"
#include "prefixshare/reference/rope.hpp"
#include "simt/modes.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/emulator.hpp"
#include "support/ops.hpp"
#include "support/pairwise.hpp"

using namespace prefixshare;
using tests::close;
using tests::Emulator;

namespace {

using Numbers = std::vector<std::int32_t>;

/// A table with its frequencies.
struct OwnedTable {
  std::vector<double> inv_freq;
  RopeTable table;

  OwnedTable(std::int32_t dim, std::int32_t offset, RopePairing pairing, double mscale = 1) {
    for (std::int32_t i = 0; i < dim / 2; ++i) inv_freq.push_back(std::pow(10000.0, -2.0 * i / dim));
    table.dim = dim;
    table.offset = offset;
    table.pairing = pairing;
    table.mscale = mscale;
  }
  RopeTable get() const {
    RopeTable t = table;
    t.inv_freq = inv_freq;
    return t;
  }
};

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};
constexpr RopePairing kPairings[] = {RopePairing::half, RopePairing::interleaved};

/// Rotary dims of a row: all, leading, trailing, inner, none; in whole chunks and not; more than one launch turns.
struct Placement {
  std::int64_t D;
  std::int32_t dim, offset;
};
constexpr Placement kPlacements[] = {{24, 24, 0},   {24, 8, 0},    {24, 8, 16},   {24, 6, 5},     {24, 0, 0},
                                     {128, 128, 0}, {160, 64, 32}, {128, 100, 7}, {96, 90, 6},    {80, 80, 0},
                                     {64, 16, 48},  {2, 2, 0},     {5, 4, 1},     {1112, 1100, 8}};

/// Rows [tokens, heads, D], tight or with strides of whole chunks or of none; heads before tokens in memory.
constexpr testing::TensorLayout kLayouts[] = {{}, {8, true}, {3, false}};

testing::Tensor<3> random_rows(DType type, std::int64_t tokens, std::int64_t heads, std::int64_t D,
                               const testing::TensorLayout& layout = {}, std::uint64_t seed = 1) {
  testing::Random random(seed);
  testing::Tensor<3> x(type, {tokens, heads, D}, layout);
  x.fill_normal(&random);
  return x;
}
testing::Tensor<3> empty_like(const testing::Tensor<3>& x, const testing::TensorLayout& layout = {}) {
  const TensorView<3> v = x.view();
  return testing::Tensor<3>(v.dtype, {v.shape[0], v.shape[1], v.shape[2]}, layout);
}

/// Validated as a call on a device, which the host stands for.
void run(RopeApply args, Emulator* on) {
  args.x.space = args.out.space = args.lists_space = MemorySpace::device;
  REQUIRE(to_string(prefixshare::detail::validate(args, MemorySpace::device)) == "ok");
  REQUIRE(to_string(cuda::launch_rope_apply(args, *on)) == "ok");
}
void run(RopeShift args, Emulator* on, MemorySpace lists = MemorySpace::device) {
  args.x.space = args.out.space = MemorySpace::device;
  args.lists_space = lists;
  REQUIRE(to_string(prefixshare::detail::validate(args, MemorySpace::device)) == "ok");
  REQUIRE(to_string(cuda::launch_rope_shift(args, *on)) == "ok");
}
template <class Args>
void run(const Args& args, const simt::Options& options = {}) {
  Emulator emulator(options);
  run(args, &emulator);
}

/// What the reference makes of the same numbers in f64.
template <class Args, class Operator>
std::vector<double> in_f64(Args args, Operator&& reference) {
  std::vector<double> values = testing::to_doubles(args.x);
  args.x = args.out = make_view(values.data(), {args.x.shape[0], args.x.shape[1], args.x.shape[2]});
  REQUIRE(reference(args).ok());
  return values;
}
std::vector<double> exact(const RopeApply& args) { return in_f64(args, reference::rope_apply); }
std::vector<double> exact(const RopeShift& args) { return in_f64(args, reference::rope_shift); }
Status portable_op(const RopeApply& args) { return portable::rope_apply(args); }
Status portable_op(const RopeShift& args) { return portable::rope_shift(args); }

/// Runs a call and checks its output `out` against both.
template <class Args>
void check(const Args& args, const testing::Tensor<3>& out, const Numbers& positions) {
  double most = 0;
  for (const std::int32_t p : positions) most = std::max(most, std::abs(static_cast<double>(p)));
  const double bound = testing::rope_tolerance(DType::f32, most);
  const std::vector<double> want = exact(args);
  testing::Tensor<3> portable = empty_like(out);
  Args other = args;
  other.out = portable.view();
  REQUIRE(portable_op(other).ok());
  run(args);
  const auto c = close(out.view(), want, bound);
  CAPTURE(c.text);
  CHECK(c.ok);
  CHECK(out.guards_intact());
  if (out.view().dtype != DType::f32) return;  // both are right, but may round to neighbours
  CHECK(close(out.view(), testing::to_doubles(portable.view()), 2 * bound).ok);
}

Numbers random_numbers(std::size_t count, std::int32_t most, std::uint64_t seed) {
  testing::Random random(seed);
  Numbers numbers(count);
  for (std::int32_t& n : numbers) n = random.chance(0.2) ? 0 : random.between(-most, most);
  return numbers;
}

}  // namespace

TEST_CASE("cuda rope: any type, pairing, placement, layout and list", "[cuda][rope]") {
  constexpr std::int64_t tokens[] = {1, 7, 40}, heads[] = {1, 3, 5};
  constexpr std::int32_t most[] = {1, 8191, 131071, INT32_MAX};
  const std::uint64_t seeds = tests::test_all() ? 8 : 1;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    for (const auto& row : tests::pairwise({3, 2, 14, 3, 3, 3, 4, 4}, seed)) {
      const std::vector<std::size_t> c(row.begin(), row.end());
      const Placement place = kPlacements[c[2]];
      CAPTURE(seed, c[0], c[1], place.D, place.dim, place.offset, tokens[c[3]], heads[c[4]], c[5], most[c[6]], c[7]);
      const OwnedTable table(place.dim, place.offset, kPairings[c[1]], c[7] == 1 ? 1.25 : 1);
      const auto x = random_rows(kTypes[c[0]], tokens[c[3]], heads[c[4]], place.D, kLayouts[c[5]], seed);
      const auto out = empty_like(x, kLayouts[(c[5] + c[7]) % 3]);
      const bool apply = c[7] < 2, one = c[7] == 3;
      const Numbers numbers = random_numbers(one ? 1 : static_cast<std::size_t>(tokens[c[3]]), most[c[6]], seed + 3);
      if (apply) {
        check(RopeApply{x.view(), out.view(), numbers, table.get()}, out, numbers);
      } else {
        check(RopeShift{x.view(), out.view(), numbers, table.get()}, out, numbers);
      }
    }
  }
}

TEST_CASE("cuda rope_shift: delta 0 copies bit for bit, NaN and negative zero included", "[cuda][rope]") {
  for (const DType type : kTypes) {
    for (const RopePairing pairing : kPairings) {
      for (const std::int64_t D : {24, 31}) {
        auto x = random_rows(type, 6, 3, D);
        for (std::int64_t i = 0; i < 6 * 3; ++i) {
          x.set(i * D + i % 5, std::numeric_limits<double>::quiet_NaN());
          x.set(i * D + 6, -0.0);
          static_cast<unsigned char*>(x.view().ptr(i / 3, i % 3, 7))[0] = 0x35;  // a payload, if it is made a NaN
        }
        const OwnedTable table(16, 3, pairing, 1.5);
        const auto one = empty_like(x), many = empty_like(x);
        const Numbers zero{0}, zeros(6, 0);
        run(RopeShift{x.view(), one.view(), zero, table.get()});
        run(RopeShift{x.view(), many.view(), zeros, table.get()});
        CHECK(testing::same_bits(x.view(), one.view()));
        CHECK(testing::same_bits(x.view(), many.view()));
        CHECK(one.guards_intact());
      }
    }
  }
}

TEST_CASE("cuda rope_shift: one delta, on the host or on the device, has the bits of a list of it", "[cuda][rope]") {
  const OwnedTable table(48, 8, RopePairing::interleaved);
  const auto x = random_rows(DType::bf16, 70, 3, 64);
  const auto one = empty_like(x), host = empty_like(x), many = empty_like(x);
  const Numbers delta{-77}, deltas(70, -77);
  run(RopeShift{x.view(), one.view(), delta, table.get()});
  Emulator emulator;
  run(RopeShift{x.view(), host.view(), delta, table.get()}, &emulator, MemorySpace::host);
  run(RopeShift{x.view(), many.view(), deltas, table.get()});
  CHECK(testing::same_bits(one.view(), many.view()));
  CHECK(testing::same_bits(host.view(), many.view()));
  RopeShift args{x.view(), many.view(), deltas, table.get()};
  args.x.space = args.out.space = MemorySpace::device;
  CHECK(to_string(prefixshare::detail::validate(args, MemorySpace::device)) ==
        "rope_shift: lists_space got host, want == device (backend_unavailable)");
}

TEST_CASE("cuda rope_shift: never applies mscale", "[cuda][rope]") {
  const OwnedTable plain(24, 0, RopePairing::half), scaled(24, 0, RopePairing::half, 1.4);
  const auto x = random_rows(DType::f32, 9, 2, 24);
  const auto a = empty_like(x), b = empty_like(x);
  const Numbers deltas = random_numbers(9, 5000, 4);
  run(RopeShift{x.view(), a.view(), deltas, plain.get()});
  run(RopeShift{x.view(), b.view(), deltas, scaled.get()});
  CHECK(testing::same_bits(a.view(), b.view()));
}

TEST_CASE("cuda rope: in place gives the same bits", "[cuda][rope]") {
  for (const DType type : kTypes) {
    for (const RopePairing pairing : kPairings) {
      for (const auto& [dim, offset] : {std::pair{14, 3}, std::pair{32, 0}, std::pair{16, 8}}) {
        const OwnedTable table(dim, offset, pairing, 0.7);
        const auto x = random_rows(type, 11, 3, 32);
        const auto applied = empty_like(x), shifted = empty_like(x);
        const Numbers numbers = random_numbers(11, 9000, 5);
        run(RopeApply{x.view(), applied.view(), numbers, table.get()});
        run(RopeShift{applied.view(), shifted.view(), numbers, table.get()});
        run(RopeApply{x.view(), x.view(), numbers, table.get()});
        CHECK(testing::same_bits(x.view(), applied.view()));
        run(RopeShift{x.view(), x.view(), numbers, table.get()});
        CHECK(testing::same_bits(x.view(), shifted.view()));
        CHECK(x.guards_intact());
      }
    }
  }
}

TEST_CASE("cuda rope: NaN stays in its pair, and so does an infinite angle", "[cuda][rope]") {
  for (const RopePairing pairing : kPairings) {
    const bool half = pairing == RopePairing::half;
    OwnedTable table(16, 8, pairing);
    table.inv_freq[3] = std::numeric_limits<double>::infinity();
    auto x = random_rows(DType::f32, 2, 1, 32);
    x.set(8 + 2, std::numeric_limits<double>::quiet_NaN());  // of pair 2 if half, of pair 1 if interleaved
    const auto out = empty_like(x);
    const Numbers positions{5, 0};  // 0 times infinity is no angle either
    run(RopeApply{x.view(), out.view(), positions, table.get()});
    const std::vector<double> y = testing::to_doubles(out.view());
    for (std::size_t i = 0; i < y.size(); ++i) {
      const bool rotary = i % 32 >= 8 && i % 32 < 24;
      const std::size_t pair = half ? i % 8 : (i % 32 - 8) / 2;
      CHECK(std::isnan(y[i]) == (rotary && (pair == 3 || (i < 32 && pair == (half ? 2u : 1u)))));
    }
  }
}

TEST_CASE("cuda rope: angles stay as exact as their f64 products for every position", "[cuda][rope]") {
  // One pair whose frequency is a whole number of turns leaves whatever the reduction loses.
  std::vector<double> frequency{1.0};
  RopeTable table;
  table.inv_freq = frequency;
  table.dim = 2;
  testing::Random random(9);
  Numbers positions(4000);
  for (std::size_t i = 0; i < positions.size(); ++i) {
    positions[i] = i < 2000 ? static_cast<std::int32_t>(i) - 1000 : random.between(INT32_MIN, INT32_MAX);
  }
  testing::Tensor<3> x(DType::f32, {4000, 1, 2});
  for (std::int64_t i = 0; i < 4000; ++i) x.set(2 * i, 1), x.set(2 * i + 1, 0);
  const auto out = empty_like(x);
  run(RopeApply{x.view(), out.view(), positions, table});
  double worst = 0;
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const double angle = positions[i];
    const auto at = static_cast<std::int64_t>(i);
    const double c = *out.view().at<float>(at, 0, 0), s = *out.view().at<float>(at, 0, 1);
    const double off = std::max(std::abs(c - std::cos(angle)), std::abs(s - std::sin(angle)));
    worst = std::max(worst, off - 4 * 0x1p-53 * std::abs(angle));
  }
  CHECK(worst <= testing::rope_tolerance(DType::f32, 0));
}

TEST_CASE("cuda rope: zero tokens, heads and dims are legal", "[cuda][rope]") {
  const OwnedTable table(0, 0, RopePairing::half);
  for (const auto& shape : {std::array<std::int64_t, 3>{0, 3, 4}, {2, 0, 4}, {2, 3, 0}}) {
    const testing::Tensor<3> x(DType::f32, shape), out(DType::f32, shape);
    const Numbers numbers(static_cast<std::size_t>(shape[0]), 1), one{5};
    run(RopeApply{x.view(), out.view(), numbers, table.get()});
    run(RopeShift{x.view(), out.view(), one, table.get()});
    CHECK(out.guards_intact());
  }
}

TEST_CASE("cuda rope: bits do not depend on the order of threads and blocks", "[cuda][rope]") {
  const OwnedTable table(40, 8, RopePairing::half, 1.1);
  const auto x = random_rows(DType::bf16, 70, 3, 64);
  const auto applied = empty_like(x), shifted = empty_like(x);
  const Numbers positions = random_numbers(70, 100000, 6), delta{123};
  run(RopeApply{x.view(), applied.view(), positions, table.get()});
  run(RopeShift{x.view(), shifted.view(), delta, table.get()});
  for (const simt::Options& options : tests::simt_modes()) {
    CAPTURE(tests::to_string(options));
    const auto a = empty_like(x), s = empty_like(x);
    Emulator on(options);
    run(RopeApply{x.view(), a.view(), positions, table.get()}, &on);
    run(RopeShift{x.view(), s.view(), delta, table.get()}, &on);
    CHECK(on.launches[0].blocks > 3);
    CHECK(on.launches[1].blocks > 3);
    CHECK(testing::same_bits(a.view(), applied.view()));
    CHECK(testing::same_bits(s.view(), shifted.view()));
  }
}
