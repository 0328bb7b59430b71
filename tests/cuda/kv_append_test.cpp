// SPDX-License-Identifier: Apache-2.0
// kv_append on CUDA, in the emulator: against the reference in f64, and what must stay untouched.
#include "prefixshare/cuda/kv_append.cuh"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "prefixshare/portable/kv_append.hpp"
#include "prefixshare/reference/kv_append.hpp"
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

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};
constexpr std::int64_t kPages = 6, kPageSize = 5;

struct Dims {
  std::int64_t heads, D, Dv;
  std::int32_t rotary, offset;
};
constexpr Dims kDims[] = {{2, 20, 12, 8, 6}, {1, 64, 64, 64, 0},  {3, 128, 128, 128, 0}, {5, 24, 8, 16, 8},
                          {1, 7, 3, 4, 1},   {2, 96, 16, 64, 32}, {1, 1072, 8, 1056, 16}};

/// This step's tokens and a poisoned pool; some slots are skipped.
struct Append {
  Dims dims;
  testing::Tensor<3> k, v;
  testing::Tensor<4> pool_k, pool_v;
  std::vector<std::int64_t> slots;
  std::vector<std::int32_t> positions;
  std::vector<double> inv_freq;
  std::vector<float> scales;
  RopeTable table;
  ScaleGranularity granularity = ScaleGranularity::none;
  bool values = true;
  bool rotates = true;

  Append(Dims d, DType source, DType pool, bool swap_heads, std::size_t tokens, std::uint64_t seed)
      : dims(d),
        k(source, {static_cast<std::int64_t>(tokens), d.heads, d.D}, {swap_heads ? 3 : 0, true}),
        v(source, {static_cast<std::int64_t>(tokens), d.heads, d.Dv}, {tokens % 2 == 0 ? 1 : 0, false}),
        pool_k(pool, {kPages, kPageSize, d.heads, d.D}, {swap_heads ? 8 : 0, swap_heads}),
        pool_v(pool, {kPages, kPageSize, d.heads, d.Dv}, {tokens == 7 ? 3 : 0, swap_heads}),
        slots(kPages * kPageSize),
        positions(tokens),
        scales(kPages * kPageSize * static_cast<std::size_t>(d.heads)) {
    testing::Random random(seed);
    k.fill_normal(&random);
    v.fill_normal(&random);
    std::iota(slots.begin(), slots.end(), 0);
    random.shuffle(&slots);
    slots.resize(tokens);
    for (std::int64_t& slot : slots) slot = random.chance(0.2) ? -1 : slot;
    for (std::int32_t& p : positions) p = random.between(-100, 131071);
    for (float& s : scales) s = static_cast<float>(0.5 + random.uniform());
    for (int i = 0; i < d.rotary / 2; ++i) inv_freq.push_back(std::pow(10000.0, -2.0 * i / d.rotary));
    table.dim = d.rotary;
    table.offset = d.offset;
    table.mscale = 1.2;
  }
  /// `rope` must outlive the call.
  KvAppend args(RopeTable* rope) const {
    *rope = table;
    rope->inv_freq = inv_freq;
    KvAppend a;
    a.k = k.view();
    a.pool.k = pool_k.view();
    a.pool.k_scale = {scales.data(), granularity};
    if (values) {
      a.v = v.view();
      a.pool.v = pool_v.view();
      a.pool.v_scale = {scales.data() + 1,
                        granularity == ScaleGranularity::head ? ScaleGranularity::tensor : ScaleGranularity::none};
    }
    a.slots = slots;
    if (rotates) {
      a.positions = positions;
      a.rope = rope;
    }
    return a;
  }
  bool guards_intact() const { return pool_k.guards_intact() && pool_v.guards_intact(); }
};

/// Validated as a call on a device, which the host stands for; the launches.
std::vector<simt::Grid> run(const Append& append, const simt::Options& options = {}) {
  RopeTable rope;
  KvAppend args = append.args(&rope);
  args.k.space = args.v.space = args.pool.k.space = args.pool.v.space = args.lists_space = MemorySpace::device;
  REQUIRE(to_string(prefixshare::detail::validate(args, MemorySpace::device)) == "ok");
  Emulator emulator(options);
  REQUIRE(to_string(cuda::launch_kv_append(args, emulator)) == "ok");
  return emulator.launches;
}

/// A pool with the reference's answer, from the same numbers in f64.
template <int Rank>
testing::Tensor<Rank> in_f64(const testing::Tensor<Rank>& x) {
  typename testing::Tensor<Rank>::Shape shape;
  std::copy_n(x.view().shape, Rank, shape.begin());
  testing::Tensor<Rank> wide(DType::f64, shape);
  const std::vector<double> values = testing::to_doubles(x.view());
  for (std::size_t i = 0; i < values.size(); ++i) wide.set(static_cast<std::int64_t>(i), values[i]);
  return wide;
}

/// Everything in the pools: what the reference stores, and the poison that is NaN in both.
void check(const Append& a) {
  RopeTable rope;
  KvAppend args = a.args(&rope);
  const auto k = in_f64(a.k), v = in_f64(a.v);
  const testing::Tensor<4> pool_k(DType::f64, {kPages, kPageSize, a.dims.heads, a.dims.D});
  const testing::Tensor<4> pool_v(DType::f64, {kPages, kPageSize, a.dims.heads, a.dims.Dv});
  args.k = k.view();
  args.pool.k = pool_k.view();
  if (a.values) {
    args.v = v.view();
    args.pool.v = pool_v.view();
  }
  REQUIRE(reference::kv_append(args).ok());
  const double bound = testing::rope_tolerance(DType::f32, 131071);
  const auto keys = close(a.pool_k.view(), testing::to_doubles(pool_k.view()), bound);
  const auto values = close(a.pool_v.view(), testing::to_doubles(pool_v.view()), bound);
  CAPTURE(keys.text, values.text);
  CHECK(keys.ok);
  CHECK(values.ok);
  CHECK(a.guards_intact());
  std::vector<bool> named(kPages * kPageSize, false);
  for (const std::int64_t slot : a.slots) {
    if (slot >= 0) named[static_cast<std::size_t>(slot)] = true;
  }
  for (std::int64_t slot = 0; slot < kPages * kPageSize; ++slot) {
    if (!named[static_cast<std::size_t>(slot)]) {
      CHECK(a.pool_k.poisoned(slot * a.dims.heads * a.dims.D, a.dims.heads * a.dims.D));
    }
  }
}

}  // namespace

TEST_CASE("cuda kv_append: any types, dims, layout, scales, with and without a table and values", "[cuda][kv_append]") {
  constexpr std::size_t tokens[] = {1, 7, 30};
  const std::uint64_t seeds = tests::test_all() ? 8 : 1;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    for (const auto& row : tests::pairwise({3, 3, 7, 2, 5, 2, 3, 3}, seed)) {
      const std::vector<std::size_t> c(row.begin(), row.end());
      CAPTURE(seed, c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]);
      Append a(kDims[c[2]], kTypes[c[0]], kTypes[c[1]], c[3] == 1, tokens[c[6]], seed);
      a.granularity = static_cast<ScaleGranularity>(c[4]);
      a.table.pairing = c[5] == 0 ? RopePairing::half : RopePairing::interleaved;
      a.rotates = c[7] != 1;
      a.values = c[7] != 2;
      run(a);
      check(a);
    }
  }
}

TEST_CASE("cuda kv_append: what is not turned or converted keeps its bits", "[cuda][kv_append]") {
  for (const DType type : kTypes) {
    for (const bool swap_heads : {false, true}) {
      Append a({2, 24, 10, 8, 3}, type, type, swap_heads, 9, 2);
      for (std::int64_t i = 0; i < 9 * 2; ++i) {
        a.k.set(i * 24 + 20, std::numeric_limits<double>::quiet_NaN());
        a.v.set(i * 10 + 1, -0.0);
        static_cast<unsigned char*>(a.k.view().ptr(i / 2, i % 2, 20))[0] = 0x35;  // a payload
      }
      run(a);
      for (std::size_t t = 0; t < a.slots.size(); ++t) {
        if (a.slots[t] < 0) continue;
        const std::int64_t page = a.slots[t] / kPageSize, slot = a.slots[t] % kPageSize;
        const auto token = static_cast<std::int64_t>(t);
        const auto bytes = static_cast<std::size_t>(size_of(type));
        for (std::int64_t h = 0; h < 2; ++h) {
          CHECK(std::memcmp(a.pool_k.view().ptr(page, slot, h), a.k.view().ptr(token, h), 3 * bytes) == 0);
          CHECK(std::memcmp(a.pool_k.view().ptr(page, slot, h, 11), a.k.view().ptr(token, h, 11), 13 * bytes) == 0);
          CHECK(std::memcmp(a.pool_v.view().ptr(page, slot, h), a.v.view().ptr(token, h), 10 * bytes) == 0);
        }
      }
    }
  }
}

TEST_CASE("cuda kv_append: slots outside the pool are skipped", "[cuda][kv_append]") {
  Append a(kDims[0], DType::f32, DType::bf16, false, 8, 3);
  for (const std::int64_t bad : {std::int64_t{-2}, INT64_MIN, kPages * kPageSize, std::int64_t{1} << 40, INT64_MAX}) {
    a.slots[3] = bad;
    a.pool_k.poison();
    a.pool_v.poison();
    run(a);
    a.slots[3] = -1;
    check(a);
  }
}

TEST_CASE("cuda kv_append: no tokens, and nothing but skipped ones, write nothing", "[cuda][kv_append]") {
  Append a(kDims[0], DType::f32, DType::f16, false, 7, 4);
  a.slots.assign(7, -1);
  CHECK(run(a).size() == 1);
  check(a);
  const Append none(kDims[0], DType::f32, DType::f16, false, 0, 4);
  CHECK(run(none).empty());
}

TEST_CASE("cuda kv_append: bits do not depend on the order of threads and blocks", "[cuda][kv_append]") {
  const auto make = [] {
    Append a({3, 64, 32, 48, 16}, DType::bf16, DType::bf16, true, 26, 5);
    a.granularity = ScaleGranularity::token;
    return a;
  };
  const Append first = make();
  CHECK(run(first)[0].blocks > 3);
  for (const simt::Options& options : tests::simt_modes()) {
    CAPTURE(tests::to_string(options));
    const Append again = make();
    run(again, options);
    CHECK(testing::same_bits(again.pool_k.view(), first.pool_k.view()));
    CHECK(testing::same_bits(again.pool_v.view(), first.pool_v.view()));
  }
}
