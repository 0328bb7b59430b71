// SPDX-License-Identifier: Apache-2.0
// kv_append: what lands in the named slots, what stays untouched, every error.
#include "prefixshare/portable/kv_append.hpp"

#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/ops.hpp"

using namespace prefixshare;
using tests::Fault;
using tests::Rows;

namespace {

constexpr std::int64_t kTokens = 7, kHeads = 2, kD = 20, kDv = 12, kPages = 5, kPageSize = 3;

/// This step's tokens, a poisoned pool, and shuffled slots of which some are skipped.
struct Append {
  testing::Tensor<3> k, v;
  testing::Tensor<4> pool_k, pool_v;
  std::vector<std::int64_t> slots{11, 0, -1, 14, 5, -1, 3};
  std::vector<std::int32_t> positions{100, 101, 102, -7, 104, 105, 8191};
  std::vector<double> inv_freq;
  RopeTable table;

  Append(DType k_type, DType v_type, DType pool_type, bool swap_heads = false, std::uint64_t seed = 1)
      : k(k_type, {kTokens, kHeads, kD}, {3, true}),
        v(v_type, {kTokens, kHeads, kDv}),
        pool_k(pool_type, {kPages, kPageSize, kHeads, kD}, {1, swap_heads}),
        pool_v(pool_type, {kPages, kPageSize, kHeads, kDv}, {0, swap_heads}) {
    testing::Random random(seed);
    k.fill_normal(&random);
    v.fill_normal(&random);
    for (int i = 0; i < 4; ++i) inv_freq.push_back(std::pow(100.0, -i / 4.0));
    table.dim = 8;
    table.offset = 6;
    table.mscale = 1.2;
  }
  KvAppend args() const {
    KvAppend a;
    a.k = k.view();
    a.v = v.view();
    a.pool.k = pool_k.view();
    a.pool.v = pool_v.view();
    a.slots = slots;
    a.positions = positions;
    return a;
  }
  RopeTable rope() const {
    RopeTable t = table;
    t.inv_freq = inv_freq;
    return t;
  }
  bool untouched() const {
    return pool_k.poisoned(0, kPages * kPageSize * kHeads * kD) &&
           pool_v.poisoned(0, kPages * kPageSize * kHeads * kDv);
  }
};

void run(const Rows& on, const KvAppend& args) {
  const auto is_f64 = [](const auto& view) { return view && view.dtype == DType::f64; };
  const bool f64 = is_f64(args.k) || is_f64(args.v) || is_f64(args.pool.k) || is_f64(args.pool.v);
  on.call(kv_append, &Context::kv_append, args, f64);
}

/// Every named slot holds `want` rounded once; every other byte of the pool is poison still.
void check_pool(const testing::Tensor<4>& pool, const std::vector<std::int64_t>& slots,
                const std::vector<double>& want) {
  const TensorView<4> view = pool.view();
  const std::int64_t vector = view.shape[2] * view.shape[3];
  const std::vector<double> got = testing::to_doubles(view);
  std::vector<char> named(static_cast<std::size_t>(view.shape[0] * view.shape[1]), 0);
  for (std::size_t t = 0; t < slots.size(); ++t) {
    if (slots[t] < 0) continue;
    named[static_cast<std::size_t>(slots[t])] = 1;
    for (std::int64_t i = 0; i < vector; ++i) {
      const double x = want[t * static_cast<std::size_t>(vector) + static_cast<std::size_t>(i)];
      const double y = got[static_cast<std::size_t>(slots[t] * vector + i)];
      REQUIRE(y == testing::round_to(view.dtype, x));
    }
  }
  for (std::size_t slot = 0; slot < named.size(); ++slot) {
    if (!named[slot]) CHECK(pool.poisoned(static_cast<std::int64_t>(slot) * vector, vector));
  }
  CHECK(pool.guards_intact());
}

}  // namespace

TEST_CASE("kv_append: scatters keys and values, in every pair of types, and touches nothing else", "[kv_append]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType source : tests::kAllDTypes) {
    for (const DType pool : tests::kAllDTypes) {
      for (const bool swap_heads : {false, true}) {
        CAPTURE(to_string(source), to_string(pool), swap_heads);
        const Append a(source, source, pool, swap_heads);
        run(on, a.args());
        check_pool(a.pool_k, a.slots, testing::to_doubles(a.k.view()));
        check_pool(a.pool_v, a.slots, testing::to_doubles(a.v.view()));
      }
    }
  }
}

TEST_CASE("kv_append: a contiguous cache is one page", "[kv_append]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const Append a(DType::f32, DType::f32, DType::f16);
  const testing::Tensor<4> k(DType::f16, {1, 15, kHeads, kD}), v(DType::f16, {1, 15, kHeads, kDv});
  KvAppend args = a.args();
  args.pool.k = k.view();
  args.pool.v = v.view();
  run(on, args);
  check_pool(k, a.slots, testing::to_doubles(a.k.view()));
  check_pool(v, a.slots, testing::to_doubles(a.v.view()));
}

TEST_CASE("kv_append: rotates keys as rope_apply does, values never", "[kv_append]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : tests::kAllDTypes) {
    for (const RopePairing pairing : {RopePairing::half, RopePairing::interleaved}) {
      Append a(type, type, type);
      a.table.pairing = pairing;
      const RopeTable table = a.rope();
      KvAppend args = a.args();
      args.rope = &table;
      run(on, args);
      const testing::Tensor<3> rotated(type, {kTokens, kHeads, kD});
      REQUIRE(rope_apply(on.context, {a.k.view(), rotated.view(), a.positions, table}).ok());
      check_pool(a.pool_k, a.slots, testing::to_doubles(rotated.view()));
      check_pool(a.pool_v, a.slots, testing::to_doubles(a.v.view()));
    }
  }
}

TEST_CASE("kv_append: a rotated f32 key in a 16-bit pool is rounded once", "[kv_append]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const Append a(DType::f32, DType::f32, DType::bf16);
  const RopeTable table = a.rope();
  KvAppend args = a.args();
  args.rope = &table;
  run(on, args);
  const testing::Tensor<3> rotated(DType::f32, {kTokens, kHeads, kD});
  REQUIRE(rope_apply(on.context, {a.k.view(), rotated.view(), a.positions, table}).ok());
  check_pool(a.pool_k, a.slots, testing::to_doubles(rotated.view()));
}

TEST_CASE("kv_append: stored value times scale is the value, for every granularity", "[kv_append]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  std::vector<float> scales(kPages * kPageSize * kHeads);
  testing::Random random(2);
  for (float& s : scales) s = static_cast<float>(0.25 + random.uniform());
  for (const auto granularity : {ScaleGranularity::none, ScaleGranularity::tensor, ScaleGranularity::head,
                                 ScaleGranularity::token, ScaleGranularity::page}) {
    for (const bool rotate : {false, true}) {
      CAPTURE(static_cast<int>(granularity), rotate);
      const Append a(DType::f32, DType::f32, DType::f32);
      const RopeTable table = a.rope();
      KvAppend args = a.args();
      args.pool.k_scale = {scales.data(), granularity};
      args.pool.v_scale = {scales.data() + 1, ScaleGranularity::tensor};
      if (rotate) args.rope = &table;
      run(on, args);
      const testing::Tensor<3> keys(DType::f32, {kTokens, kHeads, kD});
      REQUIRE(rope_apply(on.context, {a.k.view(), keys.view(), a.positions, rotate ? table : RopeTable{}}).ok());
      std::vector<double> want_k = testing::to_doubles(keys.view()), want_v = testing::to_doubles(a.v.view());
      for (std::size_t i = 0; i < want_k.size(); ++i) {
        const auto t = static_cast<std::int64_t>(i) / (kHeads * kD), h = static_cast<std::int64_t>(i) / kD % kHeads;
        const std::int64_t slot = a.slots[static_cast<std::size_t>(t)];
        if (slot < 0) continue;
        const std::int64_t index = granularity == ScaleGranularity::head    ? h
                                   : granularity == ScaleGranularity::token ? slot * kHeads + h
                                   : granularity == ScaleGranularity::page  ? slot / kPageSize * kHeads + h
                                                                            : 0;
        if (granularity != ScaleGranularity::none)
          want_k[i] /= static_cast<double>(scales[static_cast<std::size_t>(index)]);
      }
      for (double& x : want_v) x /= static_cast<double>(scales[1]);
      check_pool(a.pool_k, a.slots, want_k);
      check_pool(a.pool_v, a.slots, want_v);
    }
  }
}

TEST_CASE("kv_append: rows of several vectors, in every pair of types, rotated and scaled", "[kv_append]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  constexpr std::int64_t kWide = 154;
  std::vector<double> inv_freq;
  for (int i = 0; i < 66; ++i) inv_freq.push_back(std::pow(100.0, -i / 66.0));
  RopeTable table;
  table.dim = 132;
  table.offset = 9;
  table.inv_freq = inv_freq;
  const std::vector<float> scales(kHeads, 0.25f);  // a power of two: the quotient is exact
  const Append a(DType::f32, DType::f32, DType::f32);
  testing::Random random(3);
  for (const DType source : {DType::f32, DType::f16, DType::bf16}) {
    for (const DType pool : {DType::f32, DType::f16, DType::bf16}) {
      for (const RopePairing pairing : {RopePairing::half, RopePairing::interleaved}) {
        CAPTURE(to_string(source), to_string(pool), static_cast<int>(pairing));
        table.pairing = pairing;
        testing::Tensor<3> k(source, {kTokens, kHeads, kWide}), in_f32(DType::f32, {kTokens, kHeads, kWide});
        k.fill_normal(&random);
        const testing::Tensor<4> pool_k(pool, {kPages, kPageSize, kHeads, kWide}),
            pool_v(pool, {kPages, kPageSize, kHeads, kWide});
        KvAppend args = a.args();
        args.k = args.v = k.view();
        args.pool.k = pool_k.view();
        args.pool.v = pool_v.view();
        args.pool.v_scale = {scales.data(), ScaleGranularity::head};
        args.rope = &table;
        run(on, args);
        std::vector<double> values = testing::to_doubles(k.view());
        for (std::size_t i = 0; i < values.size(); ++i) in_f32.set(static_cast<std::int64_t>(i), values[i]);
        REQUIRE(rope_apply(on.context, {in_f32.view(), in_f32.view(), a.positions, table}).ok());
        check_pool(pool_k, a.slots, testing::to_doubles(in_f32.view()));
        for (double& x : values) x *= 4;
        check_pool(pool_v, a.slots, values);
      }
    }
  }
}

TEST_CASE("kv_append: keys alone, for latent attention", "[kv_append]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const Append a(DType::bf16, DType::bf16, DType::bf16);
  KvAppend args = a.args();
  args.v = {};
  args.pool.v = {};
  run(on, args);
  check_pool(a.pool_k, a.slots, testing::to_doubles(a.k.view()));
  CHECK(a.pool_v.poisoned(0, kPages * kPageSize * kHeads * kDv));
}

TEST_CASE("kv_append: K and V interleaved in one cache", "[kv_append]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const Append a(DType::f32, DType::f32, DType::f32);
  const testing::Tensor<4> cache(DType::f32, {kPages, kPageSize, kHeads, kD + kDv});
  KvAppend args = a.args();
  args.pool.k = args.pool.v = cache.view();
  args.pool.k.shape[3] = kD;
  args.pool.v.shape[3] = kDv;
  args.pool.v.data = args.pool.v.ptr(0, 0, 0, kD);
  run(on, args);
  CHECK(cache.guards_intact());
  const auto slot_of_k = testing::to_doubles(make_view(args.pool.k.at<float>(3, 2, 1), {kD}));
  const auto k = testing::to_doubles(make_view(a.k.view().at<float>(0, 1), {kD}));
  const auto slot_of_v = testing::to_doubles(make_view(args.pool.v.at<float>(3, 2, 1), {kDv}));
  const auto v = testing::to_doubles(make_view(a.v.view().at<float>(0, 1), {kDv}));
  CHECK(slot_of_k == k);
  CHECK(slot_of_v == v);
}

TEST_CASE("kv_append: no tokens, and nothing but skipped ones, write nothing", "[kv_append]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  Append a(DType::f32, DType::f32, DType::f16);
  a.slots.assign(kTokens, -1);
  run(on, a.args());
  CHECK(a.untouched());
  KvAppend args = a.args();
  args.slots = {};
  args.k.shape[0] = args.v.shape[0] = 0;
  run(on, args);
  CHECK(a.untouched());
}

TEST_CASE("kv_append: parts 1, 2, 3, 8, 64 give the same bits", "[kv_append]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const Append whole(DType::f32, DType::f32, DType::f16);
  const RopeTable table = whole.rope();
  KvAppend args = whole.args();
  args.rope = &table;
  run(on, args);
  for (const std::int32_t n : tests::kPartCounts) {
    const Append again(DType::f32, DType::f32, DType::f16);
    KvAppend parts = again.args();
    parts.rope = &table;
    tests::run_parts(on.context.kv_append.entries[0].part, parts, n);
    CHECK(testing::same_bits(again.pool_k.view(), whole.pool_k.view()));
    CHECK(testing::same_bits(again.pool_v.view(), whole.pool_v.view()));
  }
}

TEST_CASE("kv_append: every error is named and nothing is written", "[kv_append][errors]") {
  const Append a(DType::f32, DType::f32, DType::f32);
  const RopeTable table = a.rope();
  RopeTable bad_table = table;
  bad_table.dim = 7;
  std::vector<std::int64_t> bad_slots;
  const auto spoil = [&](KvAppend* args) {
    bad_slots = a.slots;
    args->slots = bad_slots;
    return &bad_slots[4];
  };
  using F = Fault<KvAppend>;
  constexpr StatusCode kUnavailable = StatusCode::backend_unavailable;
  const std::vector<F> faults = {
      {"slots", "data",
       [](KvAppend* x) {
         x->slots = {nullptr, kTokens};
       }},
      {"slots", "size",
       [](KvAppend* x) {
         x->slots = {x->slots.data(), -1};
       }},
      {"slots", "", [&](KvAppend* x) { *spoil(x) = kPages * kPageSize; }, 4},
      {"slots", "", [&](KvAppend* x) { *spoil(x) = -2; }, 4},
      {"k", "data", [](KvAppend* x) { x->k.data = nullptr; }},
      {"k", "shape[0]", [](KvAppend* x) { x->k.shape[0] = 6; }},
      {"k", "shape[1]", [](KvAppend* x) { x->k.shape[1] = 1; }},
      {"k", "shape[2]", [](KvAppend* x) { x->k.shape[2] = 8; }},
      {"k", "stride[2]", [](KvAppend* x) { x->k.stride[2] = 2; }},
      {"k", "dtype", [](KvAppend* x) { x->k.dtype = static_cast<DType>(4); }},
      {"k", "space", [](KvAppend* x) { x->k.space = MemorySpace::device; }, -1, kUnavailable},
      {"v", "data", [](KvAppend* x) { x->v.data = nullptr; }},
      {"v", "shape[2]", [](KvAppend* x) { x->v.shape[2] = kDv - 1; }},
      {"v", "stride[0]", [](KvAppend* x) { x->v.stride[0] = 0; }},
      {"pool.k", "data", [](KvAppend* x) { x->pool.k.data = nullptr; }},
      {"pool.k", "shape[1]", [](KvAppend* x) { x->pool.k.shape[1] = -1; }},
      {"pool.k", "shape[3]", [](KvAppend* x) { x->pool.k.shape[3] = std::int64_t{1} << 60; }},
      {"pool.k", "stride[0]", [](KvAppend* x) { x->pool.k.stride[0] = 0; }},
      {"pool.k", "stride", [](KvAppend* x) { x->pool.k.stride[2] = kD - 1; }},
      {"pool.k", "stride[3]", [](KvAppend* x) { x->pool.k.stride[3] = 0; }},
      {"pool.k", "alignment", [](KvAppend* x) { x->pool.k.data = static_cast<char*>(x->pool.k.data) + 1; }},
      {"pool.v", "data", [](KvAppend* x) { x->pool.v.data = nullptr; }},
      {"pool.v", "shape[0]", [](KvAppend* x) { x->pool.v.shape[0] = 4; }},
      {"pool.v", "dtype", [](KvAppend* x) { x->pool.v.dtype = static_cast<DType>(4); }},
      {"pool.v", "space", [](KvAppend* x) { x->pool.v.space = MemorySpace::device; }, -1, kUnavailable},
      {"pool.k_scale", "data", [](KvAppend* x) { x->pool.k_scale.granularity = ScaleGranularity::token; }},
      {"pool.v_scale", "granularity",
       [](KvAppend* x) { x->pool.v_scale.granularity = static_cast<ScaleGranularity>(5); }},
      {"positions", "size", [](KvAppend* x) { x->positions = {}; }},
      {"positions", "data",
       [](KvAppend* x) {
         x->positions = {nullptr, kTokens};
       }},
      {"rope", "dim % 2", [&](KvAppend* x) { x->rope = &bad_table; }},
      {"pool.k", "overlap", [](KvAppend* x) { x->k.data = x->pool.k.data; }},
      {"pool.k", "overlap", [](KvAppend* x) { x->v.data = x->pool.k.data; }},
      {"pool.v", "overlap", [](KvAppend* x) { x->k.data = x->pool.v.data; }},
      {"pool.v", "overlap", [](KvAppend* x) { x->v.data = x->pool.v.data; }},
      {"pool.v", "overlap", [](KvAppend* x) { x->pool.v.data = x->pool.k.data; }},
  };
  KvAppend good = a.args();
  good.rope = &table;
  tests::check_faults("kv_append", good, faults, portable::kv_append, [&] { return a.untouched(); });
}
