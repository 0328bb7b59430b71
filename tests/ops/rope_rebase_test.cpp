// SPDX-License-Identifier: Apache-2.0
// rope_rebase: pages of all layers against complex numbers, what must stay as it is, every error.
#include "prefixshare/portable/rope_rebase.hpp"

#include <array>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/ops.hpp"
#include "support/rebase.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

void rebase(const Rows& on, const Caches& caches, const Moves& moves, const RopeTable& table) {
  const bool f64 = !caches.k.empty() && caches.k[0].view().dtype == DType::f64;
  on.call(rope_rebase, &Context::rope_rebase, args_of(caches, moves, table), f64);
}

constexpr RopePairing kPairings[] = {RopePairing::half, RopePairing::interleaved};

}  // namespace

TEST_CASE("rope_rebase: moves pages of every layer, in every pair of types, pairing and placement", "[rope_rebase]") {
  const Rows on = each_rows();
  CAPTURE(on.name);
  const std::pair<std::int32_t, std::int32_t> placements[] = {{24, 0}, {8, 0}, {8, 16}, {6, 5}, {0, 0}};
  for (const DType k_type : kAllDTypes) {
    for (const DType v_type : {DType::f64, DType::bf16}) {
      for (const RopePairing pairing : kPairings) {
        for (const auto& [dim, offset] : placements) {
          CAPTURE(to_string(k_type), to_string(v_type), static_cast<int>(pairing), dim, offset);
          const TurnOf table(dim, offset, pairing);
          const Caches caches(3, k_type, v_type);
          rebase(on, caches, {}, table.get());
          check(caches, {}, table.get());
        }
      }
    }
  }
}

TEST_CASE("rope_rebase: one delta serves all moves", "[rope_rebase]") {
  const Rows on = each_rows();
  CAPTURE(on.name);
  const TurnOf table(kD, 0, RopePairing::half);
  Moves moves;
  for (const std::int32_t delta : {-77, 0}) {
    moves.deltas = {delta};
    const Caches one(2, DType::bf16, DType::bf16);
    rebase(on, one, moves, table.get());
    check(one, moves, table.get());
  }
}

TEST_CASE("rope_rebase: keys alone, for latent attention", "[rope_rebase]") {
  const Rows on = each_rows();
  CAPTURE(on.name);
  const TurnOf table(8, 16, RopePairing::interleaved);
  const Caches caches(2, DType::bf16, DType::bf16, false);
  rebase(on, caches, {}, table.get());
  check(caches, {}, table.get(), false);
}

TEST_CASE("rope_rebase: has the bits of rope_shift, page by page", "[rope_rebase]") {
  const Rows on = each_rows();
  CAPTURE(on.name);
  for (const DType type : kAllDTypes) {
    const TurnOf table(16, 4, RopePairing::half);
    const Moves moves;
    const Caches caches(2, type, type);
    rebase(on, caches, moves, table.get());
    for (std::size_t m = 0; m < moves.to.size(); ++m) {
      const testing::Tensor<3> want(type, {kPageSize, kHeads, kD});
      const TensorView<3> before = page(caches.k_before[1].view(), moves.from[m]);
      REQUIRE(rope_shift(on.context, {before, want.view(), {&moves.deltas[m], 1}, table.get()}).ok());
      CHECK(testing::same_bits(page(caches.k[1].view(), moves.to[m]), want.view()));
    }
  }
}

TEST_CASE("rope_rebase: delta 0 copies bit for bit, NaN and negative zero included", "[rope_rebase]") {
  const Rows on = each_rows();
  CAPTURE(on.name);
  for (const DType type : kAllDTypes) {
    const TurnOf table(kD, 0, RopePairing::half);
    Caches caches(1, type, type);
    for (std::int64_t i = 0; i < kPages * kPageSize * kHeads; ++i) {
      caches.k[0].set(i * kD + 3, std::numeric_limits<double>::quiet_NaN());
      caches.v[0].set(i * kDv + 4, -0.0);
    }
    caches.remember();
    Moves moves;
    moves.deltas.assign(moves.to.size(), 0);
    rebase(on, caches, moves, table.get());
    check(caches, moves, table.get());
  }
}

TEST_CASE("rope_rebase: K and V of all layers in one memory", "[rope_rebase]") {
  const Rows on = each_rows();
  CAPTURE(on.name);
  constexpr std::int64_t kLayers = 3, kRow = kHeads * kD;
  testing::Tensor<4> memory(DType::f16, {kPages, kLayers * 2 * kPageSize, kHeads, kD});
  testing::Random random(5);
  memory.fill_normal(&random);
  const testing::Tensor<4> before = memory;
  std::vector<KvPool> layers(kLayers);
  const auto cache = [&](const testing::Tensor<4>& of, std::int64_t which) {
    TensorView<4> view = of.view();
    view.shape[1] = kPageSize;
    view.data = view.at<Float16>(0) + which * kPageSize * kRow;
    return view;
  };
  for (std::int64_t l = 0; l < kLayers; ++l) {
    layers[static_cast<std::size_t>(l)].k = cache(memory, 2 * l);
    layers[static_cast<std::size_t>(l)].v = cache(memory, 2 * l + 1);
  }
  const TurnOf table(kD, 0, RopePairing::half);
  const Moves moves;
  RopeRebase args{layers, moves.from, moves.to, moves.deltas, table.get()};
  on.call(rope_rebase, &Context::rope_rebase, args, false);
  for (std::int64_t l = 0; l < kLayers; ++l) {
    for (std::size_t m = 0; m < moves.to.size(); ++m) {
      const TensorView<3> k = page(cache(memory, 2 * l), moves.to[m]), old = page(cache(before, 2 * l), moves.from[m]);
      CHECK(close(k, turned(old, table.get(), moves.deltas[m]), testing::rope_tolerance(DType::f32, 131071)).ok);
      CHECK(testing::same_bits(page(cache(memory, 2 * l + 1), moves.to[m]),
                               page(cache(before, 2 * l + 1), moves.from[m])));
    }
    CHECK(testing::same_bits(page(cache(memory, 2 * l), 7), page(cache(before, 2 * l), 7)));
  }
  CHECK(memory.guards_intact());
}

TEST_CASE("rope_rebase: no layers, no moves, no heads and empty pages are legal", "[rope_rebase]") {
  const Rows on = each_rows();
  CAPTURE(on.name);
  const TurnOf table(0, 0, RopePairing::half);
  const Caches caches(2, DType::f32, DType::f32), none(0, DType::f32, DType::f32);
  rebase(on, caches, {{}, {}, {}}, table.get());
  check(caches, {{}, {}, {}}, table.get());
  rebase(on, none, {}, table.get());
  for (const auto& shape : {std::array<std::int64_t, 4>{9, 0, 2, 4}, {9, 3, 0, 4}, {9, 3, 2, 0}}) {
    const testing::Tensor<4> k(DType::f32, shape);
    KvPool pool;
    pool.k = k.view();
    const Moves moves;
    const RopeRebase args{{&pool, 1}, moves.from, moves.to, moves.deltas, table.get()};
    on.call(rope_rebase, &Context::rope_rebase, args, false);
    CHECK(k.guards_intact());
  }
}

TEST_CASE("rope_rebase: parts 1, 2, 3, 8, 64 give the same bits", "[rope_rebase]") {
  const Rows on = each_rows();
  CAPTURE(on.name);
  const TurnOf table(16, 4, RopePairing::half);
  const Caches whole(3, DType::bf16, DType::bf16);
  rebase(on, whole, {}, table.get());
  for (const std::int32_t n : kPartCounts) {
    const Caches caches(3, DType::bf16, DType::bf16);
    const Moves moves;
    run_parts(on.context.rope_rebase.entries[0].part, args_of(caches, moves, table.get()), n);
    CHECK(same(caches, whole));
  }
}

TEST_CASE("rope_rebase: what a list holds is refused by name", "[rope_rebase][errors]") {
  const Caches caches(2, DType::f32, DType::f32);
  const TurnOf table(kD, 0, RopePairing::half);
  const auto refusal = [&](const std::vector<std::int32_t>& from, const std::vector<std::int32_t>& to) {
    const std::int32_t delta = 1;
    const std::string text = to_string(portable::rope_rebase({caches.layers, from, to, {&delta, 1}, table.get()}));
    CHECK(testing::same_bits(caches.k[0].view(), caches.k_before[0].view()));
    return text;
  };
  const std::string op = "rope_rebase: ";
  CHECK(refusal({0, 9}, {1, 2}) == op + "from_pages[1] got 9, want < 9 (invalid_argument)");
  CHECK(refusal({0, 1}, {1, -1}) == op + "to_pages[1] got -1, want >= 0 (invalid_argument)");
  CHECK(refusal({0, 1}, {5, 5}) == op + "to_pages[1] got 5, want other than target page 5 (invalid_argument)");
  CHECK(refusal({0, 0}, {0, 0}) == op + "to_pages[1] got 0, want other than target page 0 (invalid_argument)");
  CHECK(refusal({3, 1}, {4, 3}) == op + "from_pages[0] got 3, want other than target page 3 (invalid_argument)");
  CHECK(refusal({3, 3}, {3, 4}) == op + "from_pages[1] got 3, want other than target page 3 (invalid_argument)");
}

TEST_CASE("rope_rebase: pages beyond the marks that are kept at a time", "[rope_rebase][errors]") {
  constexpr std::int32_t kMany = 300000;
  std::vector<Float16> memory(kMany);
  KvPool pool;
  pool.k = make_view(memory.data(), {kMany, 1, 1, 1});
  std::vector<std::int32_t> from(1000), to(1000);
  for (std::int32_t i = 0; i < 1000; ++i) {
    from[static_cast<std::size_t>(i)] = 7 * i;
    to[static_cast<std::size_t>(i)] = kMany - 1 - 290 * i;
  }
  const std::int32_t delta = 0;
  for (std::int32_t i = 0; i < kMany; ++i) memory[static_cast<std::size_t>(i)].bits = static_cast<std::uint16_t>(i);
  const auto call = [&] { return to_string(portable::rope_rebase({{&pool, 1}, from, to, {&delta, 1}, {}})); };
  REQUIRE(call() == "ok");
  for (std::size_t i = 0; i < 1000; ++i) {
    CHECK(memory[static_cast<std::size_t>(to[i])].bits == static_cast<std::uint16_t>(from[i]));
  }
  to[999] = to[10];
  CHECK(call() == "rope_rebase: to_pages[999] got 297099, want other than target page 297099 (invalid_argument)");
  to[999] = 5;
  from[998] = to[0];
  CHECK(call() == "rope_rebase: from_pages[998] got 299999, want other than target page 299999 (invalid_argument)");
}
