// SPDX-License-Identifier: Apache-2.0
// rope_rebase on CUDA, in the emulator: pages of all layers against complex numbers, one launch for all layers alike.
#include "prefixshare/cuda/rope_rebase.cuh"

#include <limits>
#include <vector>

#include "prefixshare/detail/validate_rebase.hpp"
#include "simt/modes.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/emulator.hpp"
#include "support/pairwise.hpp"
#include "support/rebase.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

constexpr RopePairing kPairings[] = {RopePairing::half, RopePairing::interleaved};

/// Validated as a call on a device, which the host stands for; the launches.
std::vector<simt::Grid> run(RopeRebase args, const simt::Options& options = {}) {
  std::vector<KvPool> layers(args.layers.begin(), args.layers.end());
  for (KvPool& layer : layers) layer.k.space = layer.v.space = MemorySpace::device;
  args.layers = layers;
  args.lists_space = MemorySpace::device;
  REQUIRE(to_string(prefixshare::detail::validate(args, MemorySpace::device)) == "ok");
  Emulator emulator(options);
  REQUIRE(to_string(cuda::launch_rope_rebase(args, emulator)) == "ok");
  return emulator.launches;
}

}  // namespace

TEST_CASE("cuda rope_rebase: any types, pairing, placement, layers and deltas", "[cuda][rope_rebase]") {
  constexpr std::pair<std::int32_t, std::int32_t> placements[] = {{24, 0}, {8, 0}, {8, 16}, {6, 5}, {0, 0}, {16, 8}};
  constexpr DType types[] = {DType::f32, DType::f16, DType::bf16};
  const std::uint64_t seeds = test_all() ? 8 : 1;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    for (const auto& row : pairwise({3, 4, 2, 6, 3, 2, 3}, seed)) {
      const std::vector<std::size_t> c(row.begin(), row.end());
      const auto [dim, offset] = placements[c[3]];
      CAPTURE(seed, c[0], c[1], c[2], dim, offset, c[4], c[5], c[6]);
      const TurnOf table(dim, offset, kPairings[c[2]]);
      const bool values = c[5] == 1;
      const Caches caches(c[4] + 1, types[c[0]], kAllDTypes[c[1]], values, seed);
      Moves moves;
      if (c[6] > 0) moves.deltas = {c[6] == 1 ? 0 : -4711};
      run(args_of(caches, moves, table.get()));
      check(caches, moves, table.get(), values);
    }
  }
}

TEST_CASE("cuda rope_rebase: layers of one layout go in one launch, as many as its parameters hold",
          "[cuda][rope_rebase]") {
  constexpr std::int64_t layers = 230, row = 2 * 8;
  const TurnOf table(8, 0, RopePairing::half);
  testing::Random random(2);
  testing::Tensor<2> memory(DType::bf16, {layers * 4 * 3 * 2, row});
  memory.fill_normal(&random);
  const testing::Tensor<2> before = memory;
  const auto cache = [&](const testing::Tensor<2>& of, std::int64_t which) {
    return make_view(of.view().at<BFloat16>(which * 4 * 3), {4, 3, 2, 8});
  };
  std::vector<KvPool> pools(layers);
  for (std::int64_t l = 0; l < layers; ++l) {
    pools[static_cast<std::size_t>(l)].k = cache(memory, 2 * l);
    pools[static_cast<std::size_t>(l)].v = cache(memory, 2 * l + 1);
  }
  const Moves moves{{0, 2}, {1, 2}, {-9, 9}};
  RopeRebase args{pools, moves.from, moves.to, moves.deltas, table.get()};
  CHECK(run(args).size() == 3);
  for (std::int64_t l = 0; l < layers; ++l) {
    const double bound = testing::rope_tolerance(DType::f32, 9);
    const TensorView<4> k = cache(memory, 2 * l), old = cache(before, 2 * l);
    CHECK(close(page(k, 1), turned(page(old, 0), table.get(), -9), bound).ok);
    CHECK(close(page(k, 2), turned(page(old, 2), table.get(), 9), bound).ok);
    CHECK(testing::same_bits(page(k, 3), page(old, 3)));
    CHECK(testing::same_bits(page(cache(memory, 2 * l + 1), 1), page(cache(before, 2 * l + 1), 0)));
    CHECK(testing::same_bits(page(cache(memory, 2 * l + 1), 2), page(cache(before, 2 * l + 1), 2)));
  }
  pools.resize(112);
  args.layers = pools;
  CHECK(run(args).size() == 1);
  CHECK(memory.guards_intact());
}

TEST_CASE("cuda rope_rebase: a cache of one long page, and pairs for several launches", "[cuda][rope_rebase]") {
  constexpr std::int64_t tokens = 300;
  for (const RopePairing pairing : kPairings) {
    for (const std::int32_t dim : {32, 1040}) {
      const TurnOf table(dim, 8, pairing);
      const std::int64_t D = dim + 16, length = dim == 32 ? tokens : 5;
      testing::Random random(3);
      testing::Tensor<4> k(DType::f16, {2, length, 1, D}), v(DType::f32, {2, length, 1, 12});
      k.fill_normal(&random);
      v.fill_normal(&random);
      const testing::Tensor<4> k_before = k, v_before = v;
      KvPool pool;
      pool.k = k.view();
      pool.v = v.view();
      const Moves moves{{1}, {0}, {1234}};
      const auto launches = run({{&pool, 1}, moves.from, moves.to, moves.deltas, table.get()});
      CHECK(launches.size() == (dim == 32 ? 1u : 3u));
      if (dim == 32) CHECK(launches[0].blocks > 1);
      const std::vector<double> want = turned(page(k_before.view(), 1), table.get(), 1234);
      CHECK(close(page(k.view(), 0), want, testing::rope_tolerance(DType::f32, 1234)).ok);
      CHECK(testing::same_bits(page(k.view(), 1), page(k_before.view(), 1)));
      CHECK(testing::same_bits(page(v.view(), 0), page(v_before.view(), 1)));
      CHECK(k.guards_intact());
      CHECK(v.guards_intact());
    }
  }
}

TEST_CASE("cuda rope_rebase: values of another layout, or off by an element, in one of the layers",
          "[cuda][rope_rebase]") {
  const TurnOf table(8, 0, RopePairing::half);
  const Moves moves{{1}, {0}, {5}};
  for (const bool apart : {false, true}) {
    testing::Random random(7);
    testing::Tensor<4> k(DType::bf16, {6, 3, 2, 8}), v(DType::bf16, {6, 3, 2, 8}, {apart ? 8 : 0, false});
    testing::Tensor<1> shifted(DType::bf16, {2 * 3 * 2 * 8 + 1});
    k.fill_normal(&random);
    v.fill_normal(&random);
    shifted.fill_normal(&random);
    const testing::Tensor<4> v_before = v;
    const testing::Tensor<1> shifted_before = shifted;
    const auto second = [](const testing::Tensor<1>& of) { return make_view(of.view().at<BFloat16>(1), {2, 3, 2, 8}); };
    std::vector<KvPool> layers(2);
    for (std::size_t l = 0; l < 2; ++l) {
      layers[l].k = layers[l].v = k.view();
      layers[l].k.data = k.view().ptr(2 * l);
      layers[l].k.shape[0] = 2;
    }
    layers[0].v = v.view();
    layers[0].v.shape[0] = 2;
    layers[1].v = second(shifted);
    CHECK(run({layers, moves.from, moves.to, moves.deltas, table.get()}).size() == (apart ? 2u : 1u));
    CHECK(testing::same_bits(page(v.view(), 0), page(v_before.view(), 1)));
    CHECK(testing::same_bits(page(second(shifted), 0), page(second(shifted_before), 1)));
    CHECK(v.guards_intact());
    CHECK(shifted.guards_intact());
  }
}

TEST_CASE("cuda rope_rebase: delta 0 copies bit for bit, NaN included", "[cuda][rope_rebase]") {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const TurnOf table(kD, 0, RopePairing::half);
    Caches caches(2, type, type);
    for (std::int64_t i = 0; i < kPages * kPageSize * kHeads; ++i) {
      caches.k[0].set(i * kD + 3, std::numeric_limits<double>::quiet_NaN());
      caches.v[1].set(i * kDv + 4, std::numeric_limits<double>::quiet_NaN());
    }
    caches.remember();
    Moves moves;
    moves.deltas.assign(moves.to.size(), 0);
    run(args_of(caches, moves, table.get()));
    check(caches, moves, table.get());
  }
}

TEST_CASE("cuda rope_rebase: no layers, no moves, no heads and empty pages are legal", "[cuda][rope_rebase]") {
  const TurnOf table(0, 0, RopePairing::half);
  const Caches caches(2, DType::f32, DType::f32), none(0, DType::f32, DType::f32);
  const Moves nothing{{}, {}, {}}, moves;
  CHECK(run(args_of(caches, nothing, table.get())).empty());
  CHECK(run(args_of(none, moves, table.get())).empty());
  for (const auto& shape : {std::array<std::int64_t, 4>{9, 0, 2, 4}, {9, 3, 0, 4}, {9, 3, 2, 0}}) {
    const testing::Tensor<4> k(DType::f32, shape);
    KvPool pool;
    pool.k = k.view();
    run({{&pool, 1}, moves.from, moves.to, moves.deltas, table.get()});
    CHECK(k.guards_intact());
  }
}

TEST_CASE("cuda rope_rebase: bits do not depend on the order of threads and blocks", "[cuda][rope_rebase]") {
  const TurnOf table(16, 4, RopePairing::interleaved);
  const Moves moves;
  const Caches first(4, DType::bf16, DType::f16);
  run(args_of(first, moves, table.get()));
  for (const simt::Options& options : simt_modes()) {
    CAPTURE(tests::to_string(options));
    const Caches caches(4, DType::bf16, DType::f16);
    run(args_of(caches, moves, table.get()), options);
    CHECK(same(caches, first));
  }
}
