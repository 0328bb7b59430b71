// SPDX-License-Identifier: Apache-2.0
// merge_states: the laws of the state algebra, the backward against its formula and central differences, every error.
#include "prefixshare/portable/merge_states.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "support/catch.hpp"
#include "support/ops.hpp"

using namespace prefixshare;
using tests::close;
using tests::Fault;
using tests::Rows;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Size {
  std::int64_t rows, heads, Dv;
};

/// A state that owns its memory, full of poison. Transposed: lse lies as [heads, rows].
class OwnedState {
 public:
  OwnedState(Size size, DType o_type, DType lse_type, bool transposed = false, std::int64_t pad = 0)
      : o_(o_type, {size.rows, size.heads, size.Dv}, {pad, false}),
        lse_(lse_type,
             transposed ? std::array<std::int64_t, 2>{size.heads, size.rows}
                        : std::array<std::int64_t, 2>{size.rows, size.heads},
             {pad, false}),
        transposed_(transposed) {}

  State state() const {
    TensorView<2> lse = lse_.view();
    if (transposed_) {
      std::swap(lse.shape[0], lse.shape[1]);
      std::swap(lse.stride[0], lse.stride[1]);
    }
    return {o_.view(), lse};
  }
  void fill(testing::Random* random) {
    o_.fill_normal(random);
    for (std::int64_t i = 0; i < rows() * heads(); ++i) lse_.set(i, 3 * random->normal());
  }
  std::int64_t rows() const { return o_.view().shape[0]; }
  std::int64_t heads() const { return o_.view().shape[1]; }
  std::int64_t Dv() const { return o_.view().shape[2]; }
  void set_lse(std::int64_t row, std::int64_t head, double x) {
    lse_.set(transposed_ ? head * rows() + row : row * heads() + head, x);
  }
  void set_o(std::int64_t row, std::int64_t head, double x) {
    for (std::int64_t d = 0; d < Dv(); ++d) o_.set((row * heads() + head) * Dv() + d, x);
  }
  /// No keys at all; o holds NaN.
  void make_empty() {
    for (std::int64_t r = 0; r < rows(); ++r) {
      for (std::int64_t h = 0; h < heads(); ++h) {
        set_lse(r, h, -kInf);
        set_o(r, h, kNaN);
      }
    }
  }
  std::vector<double> o() const { return testing::to_doubles(o_.view()); }
  std::vector<double> lse() const { return testing::to_doubles(state().lse); }
  bool guards_intact() const { return o_.guards_intact() && lse_.guards_intact(); }
  bool poisoned() const { return o_.poisoned(0, rows() * heads() * Dv()) && lse_.poisoned(0, rows() * heads()); }

 private:
  testing::Tensor<3> o_;
  testing::Tensor<2> lse_;
  bool transposed_;
};

std::vector<State> states_of(const std::vector<OwnedState>& owned) {
  std::vector<State> states;
  for (const OwnedState& s : owned) states.push_back(s.state());
  return states;
}

std::vector<OwnedState> random_states(std::size_t count, Size size, DType o, DType lse, std::uint64_t seed) {
  testing::Random random(seed);
  std::vector<OwnedState> owned;
  for (std::size_t i = 0; i < count; ++i) {
    owned.emplace_back(size, o, lse, i % 2 == 1, static_cast<std::int64_t>(i % 3));
    owned.back().fill(&random);
  }
  return owned;
}

/// The merge in f64, straight from the definition. Parts without keys are left out.
struct Exact {
  std::vector<double> o;
  std::vector<double> lse;
};
Exact exact_merge(const std::vector<OwnedState>& parts, Size size) {
  const std::size_t rows = static_cast<std::size_t>(size.rows * size.heads);
  const std::size_t Dv = static_cast<std::size_t>(size.Dv);
  Exact exact{std::vector<double>(rows * Dv, 0.0), std::vector<double>(rows, 0.0)};
  for (const OwnedState& part : parts) {
    const std::vector<double> lse = part.lse();
    for (std::size_t i = 0; i < rows; ++i) exact.lse[i] += std::exp(lse[i]);
  }
  for (double& lse : exact.lse) lse = std::log(lse);
  for (const OwnedState& part : parts) {
    const std::vector<double> o = part.o(), lse = part.lse();
    for (std::size_t i = 0; i < rows * Dv; ++i) {
      if (lse[i / Dv] != -kInf) exact.o[i] += std::exp(lse[i / Dv] - exact.lse[i / Dv]) * o[i];
    }
  }
  return exact;
}

bool is_f64(const State& s) { return s.o.dtype == DType::f64 || s.lse.dtype == DType::f64; }

void merge(const Rows& on, const std::vector<State>& parts, const State& out) {
  const bool f64 = is_f64(out) || std::any_of(parts.begin(), parts.end(), is_f64);
  on.call(merge_states, &Context::merge_states, MergeStates{parts, out}, f64);
}

void check_against(const OwnedState& out, const Exact& exact, double bound) {
  const auto o = close(out.state().o, exact.o, bound);
  const auto lse = close(out.state().lse, exact.lse, bound, 1);
  CAPTURE(o.text, lse.text);
  CHECK(o.ok);
  CHECK(lse.ok);
  CHECK(out.guards_intact());
}

bool same(const OwnedState& a, const OwnedState& b) {
  return testing::same_bits(a.state().o, b.state().o) && testing::same_bits(a.state().lse, b.state().lse);
}

constexpr Size kSize{5, 3, 40};
/// Pairs of row and head that fill 16 lanes, or do not; columns that fill vectors, or do not.
constexpr Size kSizes[] = {{1, 1, 1}, {7, 5, 129}, {3, 16, 64}, {16, 1, 80}, {2, 32, 128}, {9, 3, 15}, {33, 1, 23}};

}  // namespace

TEST_CASE("merge_states: equals the definition, for 0 to 64 parts", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const std::size_t n : {0u, 1u, 2u, 3u, 7u, 64u}) {
    CAPTURE(n);
    for (const DType type : {DType::f64, DType::f32}) {
      const auto parts = random_states(n, kSize, type, type, 100 + n);
      OwnedState out(kSize, type, type);
      merge(on, states_of(parts), out.state());
      const double bound = type == DType::f64 ? testing::forward_tolerance(type, 0) : testing::kMergeTolerance;
      check_against(out, exact_merge(parts, kSize), bound);
    }
  }
}

TEST_CASE("merge_states: any shape and layout", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const Size size : kSizes) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      CAPTURE(size.rows, size.heads, size.Dv, to_string(type));
      auto parts = random_states(3, size, type, DType::f32, 110);
      parts[2].set_lse(size.rows - 1, size.heads - 1, -kInf);
      parts[2].set_o(size.rows - 1, size.heads - 1, kNaN);
      for (const bool transposed : {false, true}) {
        OwnedState out(size, type, DType::f32, transposed, transposed ? 3 : 0);
        merge(on, states_of(parts), out.state());
        check_against(out, exact_merge(parts, size), testing::kMergeTolerance);
      }
    }
  }
}

TEST_CASE("merge_states: more parts than one implementation takes run on the next", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const Size size{2, 2, 20};
  for (const std::size_t n : {128u, 129u}) {
    CAPTURE(n);
    const auto parts = random_states(n, size, DType::f32, DType::f32, 111);
    const auto states = states_of(parts);
    OwnedState out(size, DType::f32, DType::f32);
    const MergeStates args{states, out.state()};
    const bool runs = n == 128 || on.name == "cpu:portable";
    const std::vector<Verdict> verdicts = explain(on.context.merge_states, args);
    CHECK(verdicts[0].runs == runs);
    if (!runs) CHECK(to_string(verdicts[0].status) == "merge_states: parts.size got 129, want <= 128 (unsupported)");
    REQUIRE(merge_states(on.context, args).ok());
    check_against(out, exact_merge(parts, size), testing::kMergeTolerance);
  }
}

TEST_CASE("merge_states: an implementation says that it does not compute in f64", "[merge_states]") {
  for (const Rows& on : tests::all_rows()) {
    const auto parts = random_states(2, kSize, DType::f64, DType::f64, 112);
    const auto states = states_of(parts);
    const Status s = explain(on.context.merge_states, MergeStates{states, parts[0].state()})[0].status;
    const char* why = "merge_states: implementation.arithmetic dtype got f64, want == f32 (unsupported)";
    CHECK(to_string(s) == (on.name == "cpu:portable" ? "ok" : why));
  }
}

TEST_CASE("merge_states: no part at all gives o = 0, lse = -inf", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  OwnedState out(kSize, DType::f16, DType::f32);
  merge(on, {}, out.state());
  for (const double x : out.o()) CHECK(x == 0);
  for (const double x : out.lse()) CHECK(x == -kInf);
  CHECK(out.guards_intact());
}

TEST_CASE("merge_states: two parts commute bit for bit", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : tests::kAllDTypes) {
    const DType lse = type == DType::f64 ? DType::f64 : DType::f32;
    const auto parts = random_states(2, kSize, type, lse, 1);
    OwnedState ab(kSize, type, lse), ba(kSize, type, lse);
    merge(on, {parts[0].state(), parts[1].state()}, ab.state());
    merge(on, {parts[1].state(), parts[0].state()}, ba.state());
    CHECK(same(ab, ba));
  }
}

TEST_CASE("merge_states: any order and grouping agrees", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  constexpr std::size_t kParts = 9;
  auto parts = random_states(kParts, kSize, DType::f32, DType::f32, 2);
  parts[4].make_empty();
  const Exact exact = exact_merge(parts, kSize);
  testing::Random random(3);
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<OwnedState> pool = parts;
    while (pool.size() > 1) {  // merge random neighbours of a random order until one is left
      random.shuffle(&pool);
      const auto count =
          static_cast<std::size_t>(random.between(2, static_cast<std::int32_t>(std::min<std::size_t>(pool.size(), 4))));
      const std::vector<OwnedState> group(pool.end() - static_cast<std::ptrdiff_t>(count), pool.end());
      pool.erase(pool.end() - static_cast<std::ptrdiff_t>(count), pool.end());
      OwnedState merged(kSize, DType::f32, DType::f32);
      merge(on, states_of(group), merged.state());
      pool.push_back(merged);
    }
    check_against(pool[0], exact, testing::kMergeTolerance);
  }
}

TEST_CASE("merge_states: an empty part is neutral bit for bit, even with NaN in its o", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : tests::kAllDTypes) {
    const DType lse = type == DType::f64 ? DType::f64 : DType::f32;
    auto parts = random_states(1, kSize, type, lse, 4);
    parts[0].set_o(0, 0, -0.0);
    parts[0].set_lse(0, 0, -0.0);
    parts[0].set_lse(1, 1, 1e4);
    OwnedState empty(kSize, type, lse);
    empty.make_empty();
    for (const auto& order :
         {std::vector<State>{parts[0].state(), empty.state()}, std::vector<State>{empty.state(), parts[0].state()},
          std::vector<State>{empty.state(), parts[0].state(), empty.state(), empty.state()}}) {
      OwnedState out(kSize, type, lse);
      merge(on, order, out.state());
      CHECK(same(out, parts[0]));
    }
    OwnedState out(kSize, type, lse);
    merge(on, {empty.state(), empty.state()}, out.state());
    for (const double x : out.o()) CHECK(x == 0);
    for (const double x : out.lse()) CHECK(x == -kInf);
  }
}

TEST_CASE("merge_states: a sink logit is one more state", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  auto parts = random_states(2, kSize, DType::f64, DType::f64, 5);
  for (std::int64_t r = 0; r < kSize.rows; ++r) {
    for (std::int64_t h = 0; h < kSize.heads; ++h) parts[1].set_o(r, h, 0);
  }
  OwnedState out(kSize, DType::f64, DType::f64);
  merge(on, states_of(parts), out.state());
  for (std::size_t i = 0; i < out.lse().size(); ++i) {
    const double keys = std::exp(parts[0].lse()[i]);
    const double share = keys / (keys + std::exp(parts[1].lse()[i]));
    CHECK(std::abs(out.o()[i * 40] - share * parts[0].o()[i * 40]) <= testing::forward_tolerance(DType::f64, 0));
  }
}

TEST_CASE("merge_states: NaN stays in its row and head", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const auto clean = random_states(3, kSize, DType::f32, DType::f32, 6);
  OwnedState expected(kSize, DType::f32, DType::f32);
  merge(on, states_of(clean), expected.state());
  for (const bool in_lse : {false, true}) {
    for (std::size_t p = 0; p < 3; ++p) {
      auto parts = clean;
      in_lse ? parts[p].set_lse(2, 1, kNaN) : parts[p].set_o(2, 1, kNaN);
      OwnedState out(kSize, DType::f32, DType::f32);
      merge(on, states_of(parts), out.state());
      const std::vector<double> o = out.o(), lse = out.lse(), want = expected.o();
      for (std::size_t i = 0; i < lse.size(); ++i) {
        const bool hit = i == 2 * 3 + 1;
        CHECK(std::isnan(o[i * 40 + 7]) == hit);
        CHECK(std::isnan(lse[i]) == (hit && in_lse));
        if (!hit) CHECK(o[i * 40 + 7] == want[i * 40 + 7]);
      }
    }
  }
}

TEST_CASE("merge_states: NaN beside an empty part is not an empty row", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const bool swapped : {false, true}) {
    auto parts = random_states(2, {1, 1, 4}, DType::f32, DType::f32, 7);
    parts[swapped ? 1 : 0].set_lse(0, 0, kNaN);
    parts[swapped ? 0 : 1].set_lse(0, 0, -kInf);
    OwnedState out({1, 1, 4}, DType::f32, DType::f32);
    merge(on, states_of(parts), out.state());
    CHECK(std::isnan(out.lse()[0]));
    for (const double x : out.o()) CHECK(std::isnan(x));
  }
  auto parts = random_states(2, {1, 1, 4}, DType::f32, DType::f32, 8);
  parts[0].set_lse(0, 0, kInf);
  OwnedState out({1, 1, 4}, DType::f32, DType::f32);
  merge(on, states_of(parts), out.state());
  CHECK(std::isnan(out.lse()[0]));
}

TEST_CASE("merge_states: large logits stay finite and exact for a lone part", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  auto parts = random_states(2, {2, 1, 4}, DType::f32, DType::f32, 9);
  parts[0].set_lse(0, 0, 1e4);
  parts[1].set_lse(0, 0, -1e4);
  parts[0].set_lse(1, 0, -3e38);
  parts[1].set_lse(1, 0, 3e38);
  OwnedState out({2, 1, 4}, DType::f32, DType::f32);
  merge(on, states_of(parts), out.state());
  for (std::size_t d = 0; d < 4; ++d) {
    CHECK(out.o()[d] == parts[0].o()[d]);
    CHECK(out.o()[4 + d] == parts[1].o()[4 + d]);
  }
  CHECK(out.lse()[0] == 1e4);
}

TEST_CASE("merge_states: in place, whichever part it is, same bits as apart", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  constexpr Size kWide{3, 2, 700};  // several chunks of columns
  const auto parts = random_states(3, kWide, DType::f32, DType::f32, 10);
  OwnedState apart(kWide, DType::f32, DType::f32);
  merge(on, states_of(parts), apart.state());
  for (std::size_t p = 0; p < 3; ++p) {
    auto owned = parts;
    merge(on, states_of(owned), owned[p].state());
    CHECK(same(owned[p], apart));
    CHECK(owned[p].guards_intact());
  }
}

TEST_CASE("merge_states: a row slice is a view", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  auto parts = random_states(2, kSize, DType::f32, DType::f32, 11);
  const auto slice = [](State s) {
    s.o.data = s.o.ptr(2);
    s.lse.data = s.lse.ptr(2);
    s.o.shape[0] = s.lse.shape[0] = 2;
    return s;
  };
  OwnedState whole(kSize, DType::f32, DType::f32), out(kSize, DType::f32, DType::f32);
  merge(on, states_of(parts), whole.state());
  merge(on, {slice(parts[0].state()), slice(parts[1].state())}, slice(out.state()));
  CHECK(testing::same_bits(slice(out.state()).o, slice(whole.state()).o));
  CHECK(testing::same_bits(slice(out.state()).lse, slice(whole.state()).lse));
  CHECK(std::isnan(out.o()[0]));
  CHECK(std::isnan(out.o().back()));
}

TEST_CASE("merge_states: storage types mix, one rounding at the end", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType part_type : tests::kAllDTypes) {
    for (const DType out_type : tests::kAllDTypes) {
      CAPTURE(to_string(part_type), to_string(out_type));
      const auto parts = random_states(3, kSize, part_type, DType::f32, 12);
      const DType lse = part_type == DType::f64 ? DType::f64 : DType::f32;
      OwnedState out(kSize, out_type, lse, true, 2);
      merge(on, states_of(parts), out.state());
      const bool f64 = part_type == DType::f64 || out_type == DType::f64;
      const double bound =
          f64 && lse == DType::f64 ? testing::forward_tolerance(DType::f64, 0) : testing::kMergeTolerance;
      check_against(out, exact_merge(parts, kSize), bound);
    }
  }
}

namespace {

/// One row of f32 bits through a merge of one part, whose weight is 1, into 16-bit storage.
template <class Storage, class Convert>
std::int64_t wrong_conversions(const Rows& on, std::vector<float>& x, Convert convert) {
  const auto count = static_cast<std::int64_t>(x.size());
  std::vector<Storage> y(x.size());
  float lse = 0, lse_out = 0;
  const State part{make_view(x.data(), {1, 1, count}), make_view(&lse, {1, 1})};
  merge(on, {part}, {make_view(y.data(), {1, 1, count}), make_view(&lse_out, {1, 1})});
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) wrong += y[i].bits != convert(x[i]).bits;
  return wrong;
}

}  // namespace

TEST_CASE("merge_states: every f32 is rounded to 16 bits as dtype.hpp does, every 16-bit number read",
          "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  // 13 bits are cut off at least: all that can stand above them, with the midpoint below and its neighbours.
  std::vector<float> x;
  for (std::uint32_t high = 0; high < 1u << 19; ++high) {
    for (const std::uint32_t low : {0x0u, 0x1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
      x.push_back(prefixshare::detail::bit_cast<float>(high << 13 | low));
    }
  }
  CHECK(wrong_conversions<Float16>(on, x, to_float16) == 0);
  CHECK(wrong_conversions<BFloat16>(on, x, to_bfloat16) == 0);
  std::vector<std::uint16_t> bits(1 << 16);
  std::iota(bits.begin(), bits.end(), std::uint16_t{0});
  for (const DType type : {DType::f16, DType::bf16}) {
    std::vector<float> y(bits.size());
    float lse = 0, lse_out = 0;
    State part{make_view(y.data(), {1, 1, 1 << 16}), make_view(&lse, {1, 1})};
    part.o.data = bits.data();
    part.o.dtype = type;
    merge(on, {part}, {make_view(y.data(), {1, 1, 1 << 16}), make_view(&lse_out, {1, 1})});
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const float want = type == DType::f16 ? to_float(Float16{bits[i]}) : to_float(BFloat16{bits[i]});
      wrong += std::isnan(want) ? !std::isnan(y[i]) : std::memcmp(&y[i], &want, sizeof want) != 0;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("merge_states: a large output past the caches has the bits of a small one", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  constexpr std::int64_t kRows = 1100, kHeads = 32, kDv = 128, kSlice = 300;  // 18 MB in f32
  std::vector<float> memory(4 * kRows * kHeads * kDv + 16), lse(4 * kRows * kHeads);
  auto* aligned = reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 63) / 64 * 64);
  testing::Random random(18);
  for (float& x : lse) x = static_cast<float>(random.normal());
  for (std::int64_t i = 0; i < 2 * kRows * kHeads * kDv; ++i) aligned[i] = static_cast<float>(random.uniform());
  const auto state = [&](std::int64_t i, std::int64_t first, std::int64_t rows) {
    return State{make_view(aligned + (i * kRows + first) * kHeads * kDv, {rows, kHeads, kDv}),
                 make_view(lse.data() + (i * kRows + first) * kHeads, {rows, kHeads})};
  };
  merge(on, {state(0, 0, kRows), state(1, 0, kRows)}, state(2, 0, kRows));
  for (std::int64_t first = 0; first < kRows; first += kSlice) {
    const std::int64_t rows = std::min(kSlice, kRows - first);
    merge(on, {state(0, first, rows), state(1, first, rows)}, state(3, first, rows));
  }
  CHECK(testing::same_bits(state(2, 0, kRows).o, state(3, 0, kRows).o));
  CHECK(testing::same_bits(state(2, 0, kRows).lse, state(3, 0, kRows).lse));
}

TEST_CASE("merge_states: zero rows, heads and columns are legal", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const Size size : {Size{0, 3, 4}, Size{3, 0, 4}, Size{3, 2, 0}}) {
    const auto parts = random_states(2, size, DType::f32, DType::f32, 13);
    OwnedState out(size, DType::f32, DType::f32);
    merge(on, states_of(parts), out.state());
    CHECK(out.guards_intact());
    for (const double x : out.lse()) CHECK(std::isfinite(x));
  }
  MergeStates nothing;  // no memory at all
  nothing.out.o.shape[1] = nothing.out.lse.shape[1] = 3;
  CHECK(merge_states(on.context, nothing).ok());
}

TEST_CASE("merge_states: parts 1, 2, 3, 8, 64 give the same bits", "[merge_states]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const auto parts = random_states(4, kSize, DType::f32, DType::f32, 14);
  const auto states = states_of(parts);
  OwnedState whole(kSize, DType::bf16, DType::f32);
  merge(on, states, whole.state());
  for (const std::int32_t n : tests::kPartCounts) {
    OwnedState out(kSize, DType::bf16, DType::f32);
    tests::run_parts(on.context.merge_states.entries[0].part, MergeStates{states, out.state()}, n);
    CHECK(same(out, whole));
  }
}

TEST_CASE("merge_states: conversions of foreign lse conventions", "[merge_states]") {
  CHECK(lse_from_base2(1) == std::log(2.0));
  CHECK(std::abs(lse_to_base2(lse_from_base2(12.345)) - 12.345) <= testing::forward_tolerance(DType::f64, 0));
  CHECK(lse_from_base2(-kInf) == -kInf);
  CHECK(lse_to_base2(-kInf) == -kInf);
  CHECK(lse_from_inf_empty(kInf) == -kInf);
  CHECK(lse_to_inf_empty(-kInf) == kInf);
  CHECK(lse_from_inf_empty(2.5) == 2.5);
  CHECK(lse_to_inf_empty(2.5) == 2.5);
  CHECK(std::isnan(lse_from_inf_empty(kNaN)));
}

TEST_CASE("merge_states: every error is named and nothing is written", "[merge_states][errors]") {
  const auto parts = random_states(2, kSize, DType::f32, DType::f32, 15);
  const auto states = states_of(parts);
  const OwnedState out(kSize, DType::f32, DType::f32);
  std::vector<State> bad;  // what a fault spoils
  using F = Fault<MergeStates>;
  const auto spoil = [&](MergeStates* a) {
    bad = states;
    a->parts = bad;
    return &bad[1];
  };
  const std::vector<F> faults = {
      {"out.o", "data", [&](MergeStates* a) { a->out.o.data = nullptr; }},
      {"out.lse", "data", [&](MergeStates* a) { a->out.lse.data = nullptr; }},
      {"out.o", "shape[0]", [&](MergeStates* a) { a->out.o.shape[0] = -1; }},
      {"out.o", "shape[2]", [&](MergeStates* a) { a->out.o.shape[2] = std::int64_t{1} << 61; }},
      {"out.lse", "shape[0]", [&](MergeStates* a) { a->out.lse.shape[0] = 4; }},
      {"out.lse", "shape[1]", [&](MergeStates* a) { a->out.lse.shape[1] = 4; }},
      {"out.o", "stride[2]", [&](MergeStates* a) { a->out.o.stride[2] = 2; }},
      {"out.o", "stride[0]", [&](MergeStates* a) { a->out.o.stride[0] = 0; }},
      {"out.o", "stride[0]", [&](MergeStates* a) { a->out.o.stride[0] = std::int64_t{1} << 61; }},
      {"out.lse", "stride[1]", [&](MergeStates* a) { a->out.lse.stride[1] = 0; }},
      {"out.lse", "stride[1]", [&](MergeStates* a) { a->out.lse.stride[1] = -1; }},
      {"out.o", "dtype", [&](MergeStates* a) { a->out.o.dtype = static_cast<DType>(9); }},
      {"out.lse", "dtype", [&](MergeStates* a) { a->out.lse.dtype = DType::f16; }},
      {"out.o", "space", [&](MergeStates* a) { a->out.o.space = MemorySpace::device; }, -1,
       StatusCode::backend_unavailable},
      {"parts", "data",
       [&](MergeStates* a) {
         a->parts = {nullptr, 2};
       }},
      {"parts", "size",
       [&](MergeStates* a) {
         a->parts = {states.data(), -1};
       }},
      {"parts.o", "data", [&](MergeStates* a) { spoil(a)->o.data = nullptr; }, 1},
      {"parts.o", "shape[1]", [&](MergeStates* a) { spoil(a)->o.shape[1] = 2; }, 1},
      {"parts.o", "shape[2]", [&](MergeStates* a) { spoil(a)->o.shape[2] = 39; }, 1},
      {"parts.o", "stride[1]", [&](MergeStates* a) { spoil(a)->o.stride[1] = -40; }, 1},
      {"parts.o", "alignment",
       [&](MergeStates* a) {
         State* s = spoil(a);
         s->o.data = static_cast<char*>(s->o.data) + 2;
       },
       1},
      {"parts.lse", "data", [&](MergeStates* a) { spoil(a)->lse.data = nullptr; }, 1},
      {"parts.lse", "shape[0]", [&](MergeStates* a) { spoil(a)->lse.shape[0] = 1; }, 1},
      {"parts.lse", "stride[0]", [&](MergeStates* a) { spoil(a)->lse.stride[0] = -1; }, 1},
      {"parts.lse", "dtype", [&](MergeStates* a) { spoil(a)->lse.dtype = DType::bf16; }, 1},
      {"parts.lse", "space", [&](MergeStates* a) { spoil(a)->lse.space = MemorySpace::device; }, 1,
       StatusCode::backend_unavailable},
      {"out.lse", "overlap", [&](MergeStates* a) { a->out.lse.data = a->out.o.data; }},
      {"parts.o", "overlap", [&](MergeStates* a) { spoil(a)->o = a->out.o; }, 1},  // o in place, lse not
      {"parts.o", "overlap",
       [&](MergeStates* a) {
         State* s = spoil(a);
         *s = a->out;
         s->o.data = s->o.ptr(0, 0, 1);
       },
       1},
      {"parts.lse", "overlap", [&](MergeStates* a) { spoil(a)->lse.data = a->out.lse.data; }, 1},
      {"parts.lse", "overlap", [&](MergeStates* a) { spoil(a)->lse.data = a->out.o.data; }, 1},
  };
  tests::check_faults("merge_states", MergeStates{states, out.state()}, faults, portable::merge_states,
                      [&] { return out.poisoned(); });
  CHECK(out.guards_intact());
}

// ---- Backward ------------------------------------------------------------------------------------------------------

namespace {

/// A backward problem: parts, their merge, and random dout and dlse.
struct Gradients {
  Rows on;
  Size size;
  std::vector<OwnedState> parts;
  OwnedState out;
  OwnedState dout;  ///< o: dout, lse: dlse
  std::vector<OwnedState> dparts;
  std::vector<State> states, dstates;

  Gradients(const Rows& rows, std::size_t n, Size s, DType o, DType lse, std::uint64_t seed)
      : on(rows), size(s), parts(random_states(n, s, o, lse, seed)), out(s, o, lse), dout(s, o, lse) {
    testing::Random random(seed + 1000);
    dout.fill(&random);
    for (std::size_t p = 0; p < n; ++p) dparts.emplace_back(s, o, lse, p % 2 == 0, 1);
    update();
  }
  void update() {
    states = states_of(parts);
    dstates = states_of(dparts);
    merge(on, states, out.state());
  }
  MergeStatesGrad args() const { return {states, out.state(), dout.state().o, dout.state().lse, dstates}; }
  /// L = dout . o + dlse . lse of the merge of `parts`.
  double loss() const {
    const Exact exact = exact_merge(parts, size);
    const std::vector<double> o_weight = dout.o(), lse_weight = dout.lse();
    double sum = 0;
    for (std::size_t i = 0; i < exact.o.size(); ++i) sum += exact.o[i] * o_weight[i];
    for (std::size_t i = 0; i < exact.lse.size(); ++i) sum += exact.lse[i] * lse_weight[i];
    return sum;
  }
};

void run_backward(const Gradients& g, const MergeStatesGrad& args) {
  g.on.call(merge_states_backward, &Context::merge_states_backward, args, is_f64(args.out));
}
void run_backward(const Gradients& g) { run_backward(g, g.args()); }

/// do_p and dlse_p from the formula, in f64.
Exact exact_gradient(const Gradients& g, std::size_t p, bool with_dlse = true) {
  const Exact out = exact_merge(g.parts, g.size);
  const std::size_t Dv = static_cast<std::size_t>(g.size.Dv);
  Exact grad{std::vector<double>(out.o.size(), 0.0), std::vector<double>(out.lse.size(), 0.0)};
  const auto dout = g.dout.o(), dlse = g.dout.lse(), o = g.parts[p].o(), lse = g.parts[p].lse();
  for (std::size_t i = 0; i < out.lse.size(); ++i) {
    if (lse[i] == -kInf) continue;
    const double weight = std::exp(lse[i] - out.lse[i]);
    double dot = with_dlse ? dlse[i] : 0;
    for (std::size_t d = 0; d < Dv; ++d) {
      dot += dout[i * Dv + d] * (o[i * Dv + d] - out.o[i * Dv + d]);
      grad.o[i * Dv + d] = weight * dout[i * Dv + d];
    }
    grad.lse[i] = weight * dot;
  }
  return grad;
}

}  // namespace

TEST_CASE("merge_states_backward: equals the formula", "[merge_states][backward]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : {DType::f64, DType::f32}) {
    for (const std::size_t n : {0u, 1u, 3u, 16u}) {
      const Gradients g(on, n, {4, 2, 300}, type, type, 20 + n);
      run_backward(g);
      for (std::size_t p = 0; p < n; ++p)
        check_against(g.dparts[p], exact_gradient(g, p), testing::gradient_tolerance(type, 0));
    }
  }
}

TEST_CASE("merge_states_backward: any shape and layout", "[merge_states][backward]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const Size size : kSizes) {
    CAPTURE(size.rows, size.heads, size.Dv);
    Gradients g(on, 5, size, DType::f32, DType::f32, 27);
    g.parts[3].set_lse(size.rows - 1, 0, -kInf);
    g.parts[3].set_o(size.rows - 1, 0, kNaN);
    g.update();
    run_backward(g);
    for (std::size_t p = 0; p < 5; ++p) {
      check_against(g.dparts[p], exact_gradient(g, p), testing::gradient_tolerance(DType::f32, 0));
    }
  }
}

TEST_CASE("merge_states_backward: 16-bit o, f32 lse", "[merge_states][backward]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : {DType::f16, DType::bf16}) {
    const Gradients g(on, 3, kSize, type, DType::f32, 21);
    run_backward(g);
    for (std::size_t p = 0; p < 3; ++p) {
      const Exact exact = exact_gradient(g, p);
      CHECK(close(g.dparts[p].state().o, exact.o, testing::gradient_tolerance(DType::f32, 0)).ok);
      // o was rounded to its storage type: dout . o is known to no more than that.
      const double bound = testing::gradient_tolerance(DType::f32, 0) + 40 * testing::unit_roundoff(type);
      CHECK(close(g.dparts[p].state().lse, exact.lse, bound, 1).ok);
    }
  }
}

TEST_CASE("merge_states_backward: central differences", "[merge_states][backward]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  Gradients g(on, 3, {2, 2, 5}, DType::f64, DType::f64, 22);
  g.parts[1].set_lse(1, 0, -kInf);
  g.update();
  run_backward(g);
  constexpr double kStep = 1e-5;
  for (std::size_t p = 0; p < 3; ++p) {
    const std::vector<double> lse = g.parts[p].lse();
    const std::vector<double> dlse = g.dparts[p].lse();
    const TensorView<3> o = g.parts[p].state().o;
    for (std::int64_t r = 0; r < 2; ++r) {
      for (std::int64_t h = 0; h < 2; ++h) {
        const std::size_t i = static_cast<std::size_t>(2 * r + h);
        double* x = o.at<double>(r, h, 3);
        const double kept = *x;
        *x = kept + kStep;
        const double up = g.loss();
        *x = kept - kStep;
        const double down = g.loss();
        *x = kept;
        CHECK(std::abs((up - down) / (2 * kStep) - g.dparts[p].o()[i * 5 + 3]) <= testing::kFiniteDifferenceTolerance);
        if (lse[i] == -kInf) {
          CHECK(dlse[i] == 0);
          continue;
        }
        g.parts[p].set_lse(r, h, lse[i] + kStep);
        const double above = g.loss();
        g.parts[p].set_lse(r, h, lse[i] - kStep);
        const double below = g.loss();
        g.parts[p].set_lse(r, h, lse[i]);
        CHECK(std::abs((above - below) / (2 * kStep) - dlse[i]) <= testing::kFiniteDifferenceTolerance);
      }
    }
  }
}

TEST_CASE("merge_states_backward: parts without keys get zeros, whatever they and dout hold",
          "[merge_states][backward]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  Gradients g(on, 3, kSize, DType::f32, DType::f32, 23);
  g.parts[1].make_empty();
  g.update();
  g.dout.set_o(2, 1, kNaN);
  run_backward(g);
  for (const double x : g.dparts[1].o()) CHECK(x == 0);
  for (const double x : g.dparts[1].lse()) CHECK(x == 0);
  CHECK(std::isnan(g.dparts[0].o()[(2 * 3 + 1) * 40]));
  CHECK(std::isfinite(g.dparts[0].o()[0]));
  for (OwnedState& part : g.parts) part.make_empty();
  g.update();
  run_backward(g);
  for (const OwnedState& part : g.dparts) {
    for (const double x : part.o()) CHECK(x == 0);
  }
}

TEST_CASE("merge_states_backward: without dlse it is zero", "[merge_states][backward]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  for (const DType type : {DType::f64, DType::f32}) {
    const Gradients g(on, 2, kSize, type, type, 24);
    MergeStatesGrad args = g.args();
    args.dlse = {};
    run_backward(g, args);
    for (std::size_t p = 0; p < 2; ++p) {
      check_against(g.dparts[p], exact_gradient(g, p, false), testing::gradient_tolerance(type, 0));
    }
  }
}

TEST_CASE("merge_states_backward: parts 1, 2, 3, 8, 64 give the same bits", "[merge_states][backward]") {
  const Rows on = tests::each_rows();
  CAPTURE(on.name);
  const Gradients g(on, 3, kSize, DType::f32, DType::f32, 25);
  run_backward(g);
  for (const std::int32_t n : tests::kPartCounts) {
    std::vector<OwnedState> again;
    for (int p = 0; p < 3; ++p) again.emplace_back(kSize, DType::f32, DType::f32);
    const auto states = states_of(again);
    MergeStatesGrad args = g.args();
    args.dparts = states;
    tests::run_parts(on.context.merge_states_backward.entries[0].part, args, n);
    for (std::size_t p = 0; p < 3; ++p) CHECK(same(again[p], g.dparts[p]));
  }
}

TEST_CASE("merge_states_backward: every error is named and nothing is written", "[merge_states][errors]") {
  const Gradients g(tests::all_rows().back(), 2, kSize, DType::f32, DType::f32, 26);
  std::vector<State> bad;  // what a fault spoils
  using A = MergeStatesGrad;
  const auto spoil = [&](A* a) {
    bad = g.dstates;
    a->dparts = bad;
    return &bad[1];
  };
  const std::vector<Fault<A>> faults = {
      {"out.o", "data", [&](A* a) { a->out.o.data = nullptr; }},
      {"out.lse", "shape[1]", [&](A* a) { a->out.lse.shape[1] = 1; }},
      {"parts", "data",
       [&](A* a) {
         a->parts = {nullptr, 2};
       }},
      {"dout", "data", [&](A* a) { a->dout.data = nullptr; }},
      {"dout", "shape[0]", [&](A* a) { a->dout.shape[0] = 4; }},
      {"dout", "stride[2]", [&](A* a) { a->dout.stride[2] = 3; }},
      {"dout", "dtype", [&](A* a) { a->dout.dtype = static_cast<DType>(4); }},
      {"dout", "space", [&](A* a) { a->dout.space = MemorySpace::device; }, -1, StatusCode::backend_unavailable},
      {"dlse", "shape[0]", [&](A* a) { a->dlse.shape[0] = 4; }},
      {"dlse", "dtype", [&](A* a) { a->dlse.dtype = DType::f16; }},
      {"dparts", "size", [&](A* a) { a->dparts = a->dparts.subspan(0, 1); }},
      {"dparts", "data",
       [&](A* a) {
         a->dparts = {nullptr, 2};
       }},
      {"dparts.o", "data", [&](A* a) { spoil(a)->o.data = nullptr; }, 1},
      {"dparts.o", "shape[2]", [&](A* a) { spoil(a)->o.shape[2] = 41; }, 1},
      {"dparts.o", "stride[1]", [&](A* a) { spoil(a)->o.stride[1] = 0; }, 1},
      {"dparts.lse", "stride[0]", [&](A* a) { spoil(a)->lse.stride[0] = 0; }, 1},
      {"dparts.lse", "dtype", [&](A* a) { spoil(a)->lse.dtype = DType::f16; }, 1},
      {"dparts.o", "overlap", [&](A* a) { spoil(a)->o = a->parts[0].o; }, 1},
      {"dparts.o", "overlap", [&](A* a) { spoil(a)->o = a->out.o; }, 1},
      {"dparts.o", "overlap", [&](A* a) { spoil(a)->o = a->dout; }, 1},
      {"dparts.o", "overlap", [&](A* a) { spoil(a)->o = g.dstates[0].o; }, 1},
      {"dparts.lse", "overlap", [&](A* a) { spoil(a)->lse = a->dlse; }, 1},
      {"dparts.lse", "overlap",
       [&](A* a) {
         State* s = spoil(a);
         s->lse.data = s->o.data;
       },
       1},
  };
  tests::check_faults("merge_states_backward", g.args(), faults, portable::merge_states_backward,
                      [&] { return g.dparts[0].poisoned() && g.dparts[1].poisoned(); });
}
