// SPDX-License-Identifier: Apache-2.0
// rope_rebase: pages of all layers against complex numbers, what must stay as it is, every error.
#include "prefixshare/portable/rope_rebase.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/ops.hpp"

using namespace prefixshare;
using tests::close;
using tests::Rows;

namespace {

constexpr std::int64_t kPages = 9, kPageSize = 3, kHeads = 2, kD = 24, kDv = 10;

/// Moves: page 4 and page 1 in place, copies of which two start from one page, one that goes nowhere.
struct Moves {
  std::vector<std::int32_t> from{4, 7, 7, 2, 1, 3};
  std::vector<std::int32_t> to{4, 0, 8, 5, 1, 6};
  std::vector<std::int32_t> deltas{-3, 100, -8191, 0, 0, 131071};

  /// The move that ends at a page, or -1.
  std::int64_t to_page(std::int64_t page) const {
    const auto at = std::find(to.begin(), to.end(), page);
    return at == to.end() ? -1 : at - to.begin();
  }
};

struct OwnedTable {
  std::vector<double> inv_freq;
  RopeTable table;

  OwnedTable(std::int32_t dim, std::int32_t offset, RopePairing pairing) {
    for (std::int32_t i = 0; i < dim / 2; ++i) inv_freq.push_back(std::pow(10000.0, -2.0 * i / dim));
    table.dim = dim;
    table.offset = offset;
    table.pairing = pairing;
    table.mscale = 1.3;  // which must not show
  }
  RopeTable get() const {
    RopeTable t = table;
    t.inv_freq = inv_freq;
    return t;
  }
};

/// Caches of some layers, each with strides of its own, and what they held before.
struct Caches {
  std::vector<testing::Tensor<4>> k, v, k_before, v_before;
  std::vector<KvPool> layers;

  Caches(std::size_t count, DType k_type, DType v_type, bool with_values = true, std::uint64_t seed = 1) {
    testing::Random random(seed);
    for (std::size_t l = 0; l < count; ++l) {
      const testing::TensorLayout layout{static_cast<std::int64_t>(l % 3), l % 2 == 1};
      k.emplace_back(k_type, testing::Tensor<4>::Shape{kPages, kPageSize, kHeads, kD}, layout);
      v.emplace_back(v_type, testing::Tensor<4>::Shape{kPages, kPageSize, kHeads, kDv}, layout);
      k.back().fill_normal(&random);
      v.back().fill_normal(&random);
    }
    remember();
    for (std::size_t l = 0; l < count; ++l) {
      layers.emplace_back();
      layers.back().k = k[l].view();
      if (with_values) layers.back().v = v[l].view();
    }
  }
  void remember() {
    k_before = k;
    v_before = v;
  }
};

TensorView<3> page(const TensorView<4>& cache, std::int64_t which) {
  TensorView<3> view;
  view.data = cache.ptr(which);
  view.dtype = cache.dtype;
  std::copy(cache.shape + 1, cache.shape + 4, view.shape);
  std::copy(cache.stride + 1, cache.stride + 4, view.stride);
  return view;
}

/// x e^(i delta f) for each pair of a page of keys, as complex numbers in f64.
std::vector<double> turned(const TensorView<3>& keys, const RopeTable& table, double delta) {
  std::vector<double> y = testing::to_doubles(keys);
  const bool half = table.pairing == RopePairing::half;
  for (std::size_t row = 0; row < y.size(); row += static_cast<std::size_t>(keys.shape[2])) {
    for (std::int32_t i = 0; i < table.dim / 2; ++i) {
      const std::size_t a = row + static_cast<std::size_t>(table.offset + (half ? i : 2 * i));
      const std::size_t b = a + static_cast<std::size_t>(half ? table.dim / 2 : 1);
      const std::complex<double> z = std::complex<double>(y[a], y[b]) * std::polar(1.0, delta * table.inv_freq[i]);
      y[a] = z.real();
      y[b] = z.imag();
    }
  }
  return y;
}

/// Keys turned, values copied, and everything else as it was.
void check_keys(const testing::Tensor<4>& now, const testing::Tensor<4>& before, const Moves& moves,
                const RopeTable& table) {
  const DType acc = now.view().dtype == DType::f64 ? DType::f64 : DType::f32;
  for (std::int64_t p = 0; p < kPages; ++p) {
    const std::int64_t m = moves.to_page(p);
    const std::int32_t delta = m < 0 ? 0 : moves.deltas[moves.deltas.size() == 1 ? 0 : static_cast<std::size_t>(m)];
    const std::int64_t source = m < 0 ? p : moves.from[static_cast<std::size_t>(m)];
    CAPTURE(p, m, delta);
    if (delta == 0) {
      CHECK(testing::same_bits(page(now.view(), p), page(before.view(), source)));
      continue;
    }
    const auto c = close(page(now.view(), p), turned(page(before.view(), source), table, delta),
                         testing::rope_tolerance(acc, std::abs(static_cast<double>(delta))));
    CAPTURE(c.text);
    CHECK(c.ok);
  }
  CHECK(now.guards_intact());
}
void check_values(const testing::Tensor<4>& now, const testing::Tensor<4>& before, const Moves& moves) {
  for (std::int64_t p = 0; p < kPages; ++p) {
    const std::int64_t m = moves.to_page(p);
    const std::int64_t source = m < 0 ? p : moves.from[static_cast<std::size_t>(m)];
    CHECK(testing::same_bits(page(now.view(), p), page(before.view(), source)));
  }
  CHECK(now.guards_intact());
}
void check(const Caches& caches, const Moves& moves, const RopeTable& table, bool with_values = true) {
  for (std::size_t l = 0; l < caches.k.size(); ++l) {
    CAPTURE(l);
    check_keys(caches.k[l], caches.k_before[l], moves, table);
    check_values(caches.v[l], caches.v_before[l], with_values ? moves : Moves{{}, {}, {}});
  }
}

RopeRebase args_of(const Caches& caches, const Moves& moves, const RopeTable& table) {
  RopeRebase args;
  args.layers = caches.layers;
  args.from_pages = moves.from;
  args.to_pages = moves.to;
  args.deltas = moves.deltas;
  args.table = table;
  return args;
}
void rebase(const Rows& on, const Caches& caches, const Moves& moves, const RopeTable& table) {
  const bool f64 = !caches.k.empty() && caches.k[0].view().dtype == DType::f64;
  on.call(rope_rebase, &Context::rope_rebase, args_of(caches, moves, table), f64);
}

bool same(const Caches& a, const Caches& b) {
  bool same = true;
  for (std::size_t l = 0; l < a.k.size(); ++l) {
    same = same && testing::same_bits(a.k[l].view(), b.k[l].view()) && testing::same_bits(a.v[l].view(), b.v[l].view());
  }
  return same;
}

constexpr RopePairing kPairings[] = {RopePairing::half, RopePairing::interleaved};

}  // namespace

TEST_CASE("rope_rebase: moves pages of every layer, in every pair of types, pairing and placement", "[rope_rebase]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const std::pair<std::int32_t, std::int32_t> placements[] = {{24, 0}, {8, 0}, {8, 16}, {6, 5}, {0, 0}};
  for (const DType k_type : tests::kAllDTypes) {
    for (const DType v_type : {DType::f64, DType::bf16}) {
      for (const RopePairing pairing : kPairings) {
        for (const auto& [dim, offset] : placements) {
          CAPTURE(to_string(k_type), to_string(v_type), static_cast<int>(pairing), dim, offset);
          const OwnedTable table(dim, offset, pairing);
          const Caches caches(3, k_type, v_type);
          rebase(on, caches, {}, table.get());
          check(caches, {}, table.get());
        }
      }
    }
  }
}

TEST_CASE("rope_rebase: one delta serves all moves", "[rope_rebase]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const OwnedTable table(kD, 0, RopePairing::half);
  Moves moves;
  for (const std::int32_t delta : {-77, 0}) {
    moves.deltas = {delta};
    const Caches one(2, DType::bf16, DType::bf16);
    rebase(on, one, moves, table.get());
    check(one, moves, table.get());
  }
}

TEST_CASE("rope_rebase: keys alone, for latent attention", "[rope_rebase]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const OwnedTable table(8, 16, RopePairing::interleaved);
  const Caches caches(2, DType::bf16, DType::bf16, false);
  rebase(on, caches, {}, table.get());
  check(caches, {}, table.get(), false);
}

TEST_CASE("rope_rebase: has the bits of rope_shift, page by page", "[rope_rebase]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : tests::kAllDTypes) {
    const OwnedTable table(16, 4, RopePairing::half);
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
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : tests::kAllDTypes) {
    const OwnedTable table(kD, 0, RopePairing::half);
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
  const Rows on = tests::each_rows();
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
  const OwnedTable table(kD, 0, RopePairing::half);
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
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const OwnedTable table(0, 0, RopePairing::half);
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
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const OwnedTable table(16, 4, RopePairing::half);
  const Caches whole(3, DType::bf16, DType::bf16);
  rebase(on, whole, {}, table.get());
  for (const std::int32_t n : tests::kPartCounts) {
    const Caches caches(3, DType::bf16, DType::bf16);
    const Moves moves;
    tests::run_parts(on.context.rope_rebase.entries[0].part, args_of(caches, moves, table.get()), n);
    CHECK(same(caches, whole));
  }
}

TEST_CASE("rope_rebase: what a list holds is refused by name", "[rope_rebase][errors]") {
  const Caches caches(2, DType::f32, DType::f32);
  const OwnedTable table(kD, 0, RopePairing::half);
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
