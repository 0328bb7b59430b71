// SPDX-License-Identifier: Apache-2.0
// rope_apply and rope_shift: the rotation against complex numbers, the group laws, every error.
#include "prefixshare/portable/rope.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/ops.hpp"

using namespace prefixshare;
using tests::close;
using tests::Fault;
using tests::Rows;

namespace {

/// A table with its frequencies.
struct OwnedTable {
  std::vector<double> inv_freq;
  RopeTable table;

  OwnedTable(std::int32_t dim, std::int32_t offset, RopePairing pairing, double mscale = 1, double base = 10000) {
    for (std::int32_t i = 0; i < dim / 2; ++i) inv_freq.push_back(std::pow(base, -2.0 * i / dim));
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

constexpr RopePairing kPairings[] = {RopePairing::half, RopePairing::interleaved};
constexpr std::int64_t kTokens = 6, kHeads = 3, kD = 24;

/// Rotary dims of a row: all, leading, trailing, inner, none; in whole vectors and not.
struct Placement {
  std::int64_t D;
  std::int32_t dim, offset;
};
constexpr Placement kPlacements[] = {{24, 24, 0},   {24, 8, 0},    {24, 8, 16},   {24, 6, 5},
                                     {24, 0, 0},    {128, 128, 0}, {160, 64, 32}, {192, 64, 128},
                                     {128, 100, 7}, {96, 90, 6},   {80, 80, 0}};

double max_position(const std::vector<std::int32_t>& positions) {
  double top = 0;
  for (const std::int32_t p : positions) top = std::max(top, std::abs(static_cast<double>(p)));
  return top;
}

/// scale * x e^(i p f) for each pair, as complex numbers in f64.
std::vector<double> rotated(const std::vector<double>& x, std::int64_t heads, std::int64_t D, const RopeTable& table,
                            const std::vector<std::int32_t>& positions, double scale) {
  std::vector<double> y = x;
  for (std::size_t row = 0; row < x.size() / static_cast<std::size_t>(D); ++row) {
    const double position = positions[row / static_cast<std::size_t>(heads)];
    for (std::int32_t i = 0; i < table.dim / 2; ++i) {
      const bool half = table.pairing == RopePairing::half;
      const std::size_t a =
          row * static_cast<std::size_t>(D) + static_cast<std::size_t>(table.offset + (half ? i : 2 * i));
      const std::size_t b = a + static_cast<std::size_t>(half ? table.dim / 2 : 1);
      const std::complex<double> turned =
          std::complex<double>(x[a], x[b]) * std::polar(scale, position * table.inv_freq[i]);
      y[a] = turned.real();
      y[b] = turned.imag();
    }
  }
  return y;
}

testing::Tensor<3> random_rows(DType type, std::uint64_t seed, std::int64_t D = kD) {
  testing::Random random(seed);
  testing::Tensor<3> x(type, {kTokens, kHeads, D}, {2, true});
  x.fill_normal(&random);
  return x;
}

testing::Tensor<3> empty_rows(DType type, std::int64_t D = kD) {
  return testing::Tensor<3>(type, {kTokens, kHeads, D}, {1, false});
}

void apply(const Rows& on, const testing::Tensor<3>& x, const testing::Tensor<3>& out,
           const std::vector<std::int32_t>& positions, const RopeTable& table) {
  const bool f64 = x.view().dtype == DType::f64;
  on.call(rope_apply, &Context::rope_apply, RopeApply{x.view(), out.view(), positions, table}, f64);
}
void shift(const Rows& on, const testing::Tensor<3>& x, const testing::Tensor<3>& out,
           const std::vector<std::int32_t>& deltas, const RopeTable& table) {
  const bool f64 = x.view().dtype == DType::f64;
  on.call(rope_shift, &Context::rope_shift, RopeShift{x.view(), out.view(), deltas, table}, f64);
}

DType acc_of(DType type) { return type == DType::f64 ? DType::f64 : DType::f32; }

const std::vector<std::int32_t> kPositions{0, 1, 7, 8191, -3, 131071};

}  // namespace

TEST_CASE("rope: turns pairs, in every type, pairing and placement", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : tests::kAllDTypes) {
    for (const RopePairing pairing : kPairings) {
      for (const Placement place : kPlacements) {
        CAPTURE(to_string(type), static_cast<int>(pairing), place.D, place.dim, place.offset);
        const OwnedTable table(place.dim, place.offset, pairing, 1.25);
        const auto x = random_rows(type, 1, place.D);
        const auto applied = empty_rows(type, place.D), shifted = empty_rows(type, place.D);
        apply(on, x, applied, kPositions, table.get());
        shift(on, x, shifted, kPositions, table.get());
        const std::vector<double> values = testing::to_doubles(x.view());
        const double bound = testing::rope_tolerance(acc_of(type), max_position(kPositions));
        const auto a = close(applied.view(), rotated(values, kHeads, place.D, table.get(), kPositions, 1.25), bound);
        const auto s = close(shifted.view(), rotated(values, kHeads, place.D, table.get(), kPositions, 1), bound);
        CAPTURE(a.text, s.text);
        CHECK(a.ok);
        CHECK(s.ok);
        CHECK(applied.guards_intact());
        CHECK(shifted.guards_intact());
      }
    }
  }
}

TEST_CASE("rope: more pairs than one chunk", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const RopePairing pairing : kPairings) {
    for (const DType type : {DType::f64, DType::f32}) {
      const OwnedTable table(1100, 6, pairing);
      const auto x = random_rows(type, 2, 1112);
      const auto out = empty_rows(type, 1112);
      apply(on, x, out, kPositions, table.get());
      const auto want = rotated(testing::to_doubles(x.view()), kHeads, 1112, table.get(), kPositions, 1);
      CHECK(close(out.view(), want, testing::rope_tolerance(type, max_position(kPositions))).ok);
    }
  }
}

TEST_CASE("rope: angles of any size, infinite ones in their pair alone", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  OwnedTable table(24, 0, RopePairing::half);
  for (const double scale : {1.0, 1e3, 1e6, 1e9, 1e15, 1e200}) {
    CAPTURE(scale);
    for (double& f : table.inv_freq) f = scale * (1 + f);
    if (scale == 1e15) table.inv_freq[3] = std::numeric_limits<double>::infinity();
    const auto x = random_rows(DType::f32, 16);
    const auto out = empty_rows(DType::f32);
    apply(on, x, out, kPositions, table.get());
    const auto want = rotated(testing::to_doubles(x.view()), kHeads, kD, table.get(), kPositions, 1);
    const auto c = close(out.view(), want, testing::rope_tolerance(DType::f32, 0));
    CAPTURE(c.text);
    CHECK(c.ok);
  }
}

TEST_CASE("rope: a token's angles are its own, whatever the last token's were", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const OwnedTable table(kD, 0, RopePairing::half, 1.5);
  const auto x = random_rows(DType::f32, 17);
  const std::vector<std::int32_t> numbers{0, 5, 5, -5, 0, 5};
  const auto applied = empty_rows(DType::f32), shifted = empty_rows(DType::f32);
  apply(on, x, applied, numbers, table.get());
  shift(on, x, shifted, numbers, table.get());
  for (std::int64_t t = 0; t < kTokens; ++t) {
    CAPTURE(t);
    const auto token = [t](TensorView<3> view) {
      view.data = view.ptr(t);
      view.shape[0] = 1;
      return view;
    };
    const Span<const std::int32_t> number(&numbers[static_cast<std::size_t>(t)], 1);
    const auto a = empty_rows(DType::f32), s = empty_rows(DType::f32);
    REQUIRE(rope_apply(on.context, {token(x.view()), token(a.view()), number, table.get()}).ok());
    REQUIRE(rope_shift(on.context, {token(x.view()), token(s.view()), number, table.get()}).ok());
    CHECK(testing::same_bits(token(a.view()), token(applied.view())));
    CHECK(testing::same_bits(token(s.view()), token(shifted.view())));
  }
}

TEST_CASE("rope: a large output past the caches has the bits of a small one", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  constexpr std::int64_t kMany = 4200, kHeads16 = 16, kWide = 128, kSlice = 1000;  // 17 MB in 16 bits
  std::vector<std::uint16_t> memory(3 * kMany * kHeads16 * kWide + 32);
  auto* aligned = reinterpret_cast<std::uint16_t*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 63) / 64 * 64);
  testing::Random random(18);
  for (std::int64_t i = 0; i < kMany * kHeads16 * kWide; ++i) {
    aligned[i] = static_cast<std::uint16_t>(random.next() & 0xbfffu);  // no infinity, no NaN
  }
  const auto rows = [&](DType type, std::int64_t which, std::int64_t first, std::int64_t count) {
    TensorView<3> view = make_view(reinterpret_cast<Float16*>(aligned) + (which * kMany + first) * kHeads16 * kWide,
                                   {count, kHeads16, kWide});
    view.dtype = type;
    return view;
  };
  struct Case {
    DType type;
    RopePairing pairing;
    std::int32_t dim, delta;
  };
  for (const Case c : {Case{DType::bf16, RopePairing::half, 128, 7}, Case{DType::bf16, RopePairing::interleaved, 64, 7},
                       Case{DType::f16, RopePairing::half, 64, 7}, Case{DType::bf16, RopePairing::half, 128, 0}}) {
    CAPTURE(to_string(c.type), static_cast<int>(c.pairing), c.dim, c.delta);
    const OwnedTable table(c.dim, 128 - c.dim, c.pairing);
    const auto run = [&](std::int64_t which, std::int64_t first, std::int64_t count) {
      const TensorView<3> x = rows(c.type, 0, first, count), out = rows(c.type, which, first, count);
      on.call(rope_shift, &Context::rope_shift, RopeShift{x, out, {&c.delta, 1}, table.get()}, false);
    };
    run(1, 0, kMany);
    for (std::int64_t first = 0; first < kMany; first += kSlice) run(2, first, std::min(kSlice, kMany - first));
    CHECK(testing::same_bits(rows(c.type, 1, 0, kMany), rows(c.type, 2, 0, kMany)));
  }
}

TEST_CASE("rope: dims outside the table pass bit for bit, NaN included", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : tests::kAllDTypes) {
    auto x = random_rows(type, 3);
    const std::int64_t kLast = kD - 1;
    x.set(kLast, std::numeric_limits<double>::quiet_NaN());
    const OwnedTable table(8, 4, RopePairing::half, 2);
    const auto out = empty_rows(type);
    apply(on, x, out, kPositions, table.get());
    for (const std::int64_t first : {std::int64_t{0}, std::int64_t{12}}) {
      TensorView<3> a = x.view(), b = out.view();
      a.data = a.ptr(0, 0, first);
      b.data = b.ptr(0, 0, first);
      a.shape[2] = b.shape[2] = first == 0 ? 4 : 12;
      CHECK(testing::same_bits(a, b));
    }
  }
}

TEST_CASE("rope: explicit frequencies, zeros leave a pair alone", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  OwnedTable table(8, 0, RopePairing::half);
  table.inv_freq = {0.3, 0, 2, 0};
  const auto x = random_rows(DType::f32, 4);
  const auto out = empty_rows(DType::f32);
  shift(on, x, out, kPositions, table.get());
  const std::vector<double> before = testing::to_doubles(x.view()), after = testing::to_doubles(out.view());
  for (std::size_t row = 0; row < kTokens * kHeads; ++row) {
    for (const std::size_t d : {1u, 3u, 5u, 7u}) CHECK(before[row * kD + d] == after[row * kD + d]);
  }
  const auto want = rotated(before, kHeads, kD, table.get(), kPositions, 1);
  CHECK(close(out.view(), want, testing::rope_tolerance(DType::f32, 2 * max_position(kPositions))).ok);
}

TEST_CASE("rope_shift: delta 0 copies bit for bit, for one delta and for many", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : tests::kAllDTypes) {
    auto x = random_rows(type, 5);
    x.set(3, std::numeric_limits<double>::quiet_NaN());
    x.set(4, -0.0);
    const OwnedTable table(kD, 0, RopePairing::half, 1.5);
    const auto one = empty_rows(type), many = empty_rows(type);
    shift(on, x, one, {0}, table.get());
    shift(on, x, many, std::vector<std::int32_t>(kTokens, 0), table.get());
    CHECK(testing::same_bits(x.view(), one.view()));
    CHECK(testing::same_bits(x.view(), many.view()));
    CHECK(one.guards_intact());
  }
}

TEST_CASE("rope_shift: one delta serves all tokens", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const OwnedTable table(kD, 0, RopePairing::interleaved);
  const auto x = random_rows(DType::f32, 6);
  const auto one = empty_rows(DType::f32), many = empty_rows(DType::f32);
  shift(on, x, one, {-77}, table.get());
  shift(on, x, many, std::vector<std::int32_t>(kTokens, -77), table.get());
  CHECK(testing::same_bits(one.view(), many.view()));
}

TEST_CASE("rope_shift: a then b is a + b, and norms are kept", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : {DType::f64, DType::f32}) {
    for (const RopePairing pairing : kPairings) {
      const OwnedTable table(kD, 0, pairing);
      testing::Random random(7);
      const auto x = random_rows(type, 8);
      for (int trial = 0; trial < 10; ++trial) {
        const std::int32_t a = random.between(-8191, 8191), b = random.between(-8191, 8191);
        const auto first = empty_rows(type), second = empty_rows(type), both = empty_rows(type);
        shift(on, x, first, {a}, table.get());
        shift(on, first, second, {b}, table.get());
        shift(on, x, both, {a + b}, table.get());
        const double bound = testing::rope_tolerance(type, 2 * 8191);
        CHECK(close(second.view(), testing::to_doubles(both.view()), bound).ok);
        double before = 0, after = 0;
        for (const double v : testing::to_doubles(x.view())) before += v * v;
        for (const double v : testing::to_doubles(both.view())) after += v * v;
        CHECK(std::abs(after / before - 1) <= 2 * bound);
      }
    }
  }
}

TEST_CASE("rope_shift: never applies mscale, so that moved keys equal keys made there", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : {DType::f64, DType::f32}) {
    const OwnedTable table(16, 8, RopePairing::half, 1.3689);
    const auto x = random_rows(type, 9);
    const auto here = empty_rows(type), moved = empty_rows(type), there = empty_rows(type);
    const std::vector<std::int32_t> positions{0, 5, 100, 2000, 7, 9}, deltas{3, -5, 1000, -1999, 0, 1};
    std::vector<std::int32_t> targets(positions.size());
    for (std::size_t i = 0; i < targets.size(); ++i) targets[i] = positions[i] + deltas[i];
    apply(on, x, here, positions, table.get());
    shift(on, here, moved, deltas, table.get());
    apply(on, x, there, targets, table.get());
    CHECK(close(moved.view(), testing::to_doubles(there.view()), testing::rope_tolerance(type, 2000)).ok);
  }
}

TEST_CASE("rope: q . k depends on the difference of positions only", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const RopePairing pairing : kPairings) {
    const OwnedTable table(kD, 0, pairing);
    const auto q = random_rows(DType::f64, 10), k = random_rows(DType::f64, 11);
    std::vector<double> scores;
    for (const std::int32_t start : {0, 17, -40, 4000}) {
      const auto turned_q = empty_rows(DType::f64), turned_k = empty_rows(DType::f64);
      apply(on, q, turned_q, std::vector<std::int32_t>(kTokens, start + 12), table.get());
      apply(on, k, turned_k, std::vector<std::int32_t>(kTokens, start), table.get());
      const auto a = testing::to_doubles(turned_q.view()), b = testing::to_doubles(turned_k.view());
      double score = 0, a2 = 0, b2 = 0;
      for (std::size_t d = 0; d < kD; ++d) {
        score += a[d] * b[d];
        a2 += a[d] * a[d];
        b2 += b[d] * b[d];
      }
      scores.push_back(score / std::sqrt(a2 * b2));
      CHECK(std::abs(scores.back() - scores.front()) <= kD * testing::rope_tolerance(DType::f64, 4012));
    }
  }
}

TEST_CASE("rope: in place gives the same bits", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : tests::kAllDTypes) {
    for (const RopePairing pairing : kPairings) {
      const OwnedTable table(14, 3, pairing, 0.7);
      auto x = random_rows(type, 12);
      const auto applied = empty_rows(type), shifted = empty_rows(type);
      apply(on, x, applied, kPositions, table.get());
      shift(on, applied, shifted, kPositions, table.get());
      apply(on, x, x, kPositions, table.get());
      CHECK(testing::same_bits(x.view(), applied.view()));
      shift(on, x, x, kPositions, table.get());
      CHECK(testing::same_bits(x.view(), shifted.view()));
      CHECK(x.guards_intact());
    }
  }
}

TEST_CASE("rope: a NaN stays in its pair", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  auto x = random_rows(DType::f32, 13);
  x.set(2, std::numeric_limits<double>::quiet_NaN());
  const OwnedTable table(kD, 0, RopePairing::interleaved);
  const auto out = empty_rows(DType::f32);
  apply(on, x, out, kPositions, table.get());
  const auto y = testing::to_doubles(out.view());
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i == 2 || i == 3));
}

TEST_CASE("rope: zero tokens, heads and dims are legal", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const OwnedTable table(0, 0, RopePairing::half);
  for (const auto& shape : {std::array<std::int64_t, 3>{0, 3, 4}, {2, 0, 4}, {2, 3, 0}}) {
    const testing::Tensor<3> x(DType::f32, shape), out(DType::f32, shape);
    apply(on, x, out, std::vector<std::int32_t>(static_cast<std::size_t>(shape[0]), 1), table.get());
    shift(on, x, out, {5}, table.get());
    CHECK(out.guards_intact());
  }
}

TEST_CASE("rope: parts 1, 2, 3, 8, 64 give the same bits", "[rope]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const OwnedTable table(16, 4, RopePairing::half, 1.1);
  const auto x = random_rows(DType::bf16, 14);
  const auto applied = empty_rows(DType::bf16), shifted = empty_rows(DType::bf16);
  apply(on, x, applied, kPositions, table.get());
  shift(on, x, shifted, kPositions, table.get());
  for (const std::int32_t n : tests::kPartCounts) {
    const auto a = empty_rows(DType::bf16), s = empty_rows(DType::bf16);
    tests::run_parts(on.context.rope_apply.entries[0].part, RopeApply{x.view(), a.view(), kPositions, table.get()}, n);
    tests::run_parts(on.context.rope_shift.entries[0].part, RopeShift{x.view(), s.view(), kPositions, table.get()}, n);
    CHECK(testing::same_bits(a.view(), applied.view()));
    CHECK(testing::same_bits(s.view(), shifted.view()));
  }
}

namespace {

/// Faults that both operators share; Args is RopeApply or RopeShift.
template <class Args>
std::vector<Fault<Args>> shared_faults() {
  return {
      {"x", "data", [](Args* a) { a->x.data = nullptr; }},
      {"x", "shape[1]", [](Args* a) { a->x.shape[1] = -2; }},
      {"x", "stride[2]", [](Args* a) { a->x.stride[2] = -1; }},
      {"x", "stride[0]", [](Args* a) { a->x.stride[0] = 0; }},
      {"x", "stride[0]", [](Args* a) { a->x.stride[0] = std::int64_t{1} << 62; }},
      {"x", "dtype", [](Args* a) { a->x.dtype = static_cast<DType>(8); }},
      {"x", "space", [](Args* a) { a->x.space = MemorySpace::device; }, -1, StatusCode::backend_unavailable},
      {"out", "data", [](Args* a) { a->out.data = nullptr; }},
      {"out", "shape[0]", [](Args* a) { a->out.shape[0] = 5; }},
      {"out", "shape[2]", [](Args* a) { a->out.shape[2] = 20; }},
      {"out", "stride[1]", [](Args* a) { a->out.stride[1] = 0; }},
      {"out", "stride", [](Args* a) { a->out.stride[1] = kD - 1; }},
      {"out", "dtype", [](Args* a) { a->out.dtype = DType::f16; }},
      {"out", "space", [](Args* a) { a->out.space = MemorySpace::device; }, -1, StatusCode::backend_unavailable},
      {"out", "overlap", [](Args* a) { a->out.data = static_cast<float*>(a->x.data) + 1; }},
      {"out", "overlap", [](Args* a) { a->out.data = a->x.data; }},  // same start, other strides
      {"table", "dim % 2", [](Args* a) { a->table.dim = 7; }},
      {"table", "dim", [](Args* a) { a->table.dim = -8; }},
      {"table", "offset", [](Args* a) { a->table.offset = -1; }},
      {"table", "offset + dim", [](Args* a) { a->table.offset = 17; }},
      {"table", "inv_freq.size", [](Args* a) { a->table.inv_freq = {}; }},
      {"table", "inv_freq.data",
       [](Args* a) {
         a->table.inv_freq = {nullptr, 4};
       }},
      {"table", "pairing", [](Args* a) { a->table.pairing = static_cast<RopePairing>(2); }},
      {"table", "isfinite(mscale)", [](Args* a) { a->table.mscale = std::numeric_limits<double>::infinity(); }},
  };
}

}  // namespace

TEST_CASE("rope: every error is named and nothing is written", "[rope][errors]") {
  const OwnedTable table(8, 0, RopePairing::half);
  const auto x = random_rows(DType::f32, 15);
  const auto applied = empty_rows(DType::f32), shifted = empty_rows(DType::f32);
  auto apply_faults = shared_faults<RopeApply>();
  apply_faults.push_back({"positions", "size", [](RopeApply* a) { a->positions = a->positions.subspan(0, 5); }});
  apply_faults.push_back({"positions", "data", [](RopeApply* a) { a->positions = {nullptr, kTokens}; }});
  tests::check_faults("rope_apply", RopeApply{x.view(), applied.view(), kPositions, table.get()}, apply_faults,
                      portable::rope_apply, [&] { return applied.poisoned(0, kTokens * kHeads * kD); });
  auto shift_faults = shared_faults<RopeShift>();
  shift_faults.push_back({"deltas", "size", [](RopeShift* a) { a->deltas = a->deltas.subspan(0, 2); }});
  shift_faults.push_back({"deltas", "size", [](RopeShift* a) { a->deltas = {}; }});
  shift_faults.push_back({"deltas", "data", [](RopeShift* a) { a->deltas = {nullptr, 1}; }});
  tests::check_faults("rope_shift", RopeShift{x.view(), shifted.view(), kPositions, table.get()}, shift_faults,
                      portable::rope_shift, [&] { return shifted.poisoned(0, kTokens * kHeads * kD); });
}
