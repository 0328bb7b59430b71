// SPDX-License-Identifier: Apache-2.0
// merge_states on CUDA, forward and backward, in the emulator: against the reference in f64 and against cpu:portable.
#include "prefixshare/cuda/merge_states.cuh"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "prefixshare/portable/merge_states.hpp"
#include "prefixshare/reference/merge_states.hpp"
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

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// How the tensors of a state lie: rows right after each other, apart by whole chunks, or so that no row but the first
/// is aligned and the view starts at the second; lse as [rows, heads] or as [heads, rows].
struct Layout {
  std::int64_t pad = 0;
  bool skip = false;
  bool transposed = false;
};

struct Size {
  std::int64_t rows, heads, Dv;
};

/// A state that owns its memory, full of poison.
class OwnedState {
 public:
  OwnedState(Size size, DType type, Layout layout = {}, DType lse_type = DType::f32)
      : skip_(layout.skip),
        o_(type, {size.rows + skip_, size.heads, size.Dv}, {layout.pad, false}),
        lse_(lse_type,
             layout.transposed ? std::array<std::int64_t, 2>{size.heads, size.rows}
                               : std::array<std::int64_t, 2>{size.rows, size.heads},
             {layout.pad, false}),
        transposed_(layout.transposed) {}

  State state() const {
    TensorView<3> o = o_.view();
    o.shape[0] -= skip_;
    o.data = o.ptr(skip_ ? 1 : 0);
    TensorView<2> lse = lse_.view();
    if (transposed_) {
      std::swap(lse.shape[0], lse.shape[1]);
      std::swap(lse.stride[0], lse.stride[1]);
    }
    return {o, lse};
  }
  void fill(testing::Random* random) {
    for (std::int64_t i = 0; i < pairs(); ++i) {
      fill_pair(i, random);
      set_lse(i, 3 * random->normal());
    }
  }
  void fill_pair(std::int64_t pair, testing::Random* random) {
    for (std::int64_t d = 0; d < Dv(); ++d) set_o(pair, d, random->normal());
  }
  std::int64_t pairs() const { return state().o.shape[0] * state().o.shape[1]; }
  std::int64_t Dv() const { return o_.view().shape[2]; }
  void set_o(std::int64_t pair, std::int64_t d, double x) {
    o_.set((pair + (skip_ ? o_.view().shape[1] : 0)) * Dv() + d, x);
  }
  void set_lse(std::int64_t pair, double x) {
    const std::int64_t heads = o_.view().shape[1], rows = pairs() / heads;
    lse_.set(transposed_ ? pair % heads * rows + pair / heads : pair, x);
  }
  /// Without keys; o is NaN.
  void make_empty(std::int64_t pair) {
    set_lse(pair, -kInf);
    for (std::int64_t d = 0; d < Dv(); ++d) set_o(pair, d, kNaN);
  }
  std::vector<double> o() const { return testing::to_doubles(state().o); }
  std::vector<double> lse() const { return testing::to_doubles(state().lse); }
  bool guards_intact() const {
    return o_.guards_intact() && lse_.guards_intact() && (!skip_ || o_.poisoned(0, o_.view().shape[1] * Dv()));
  }
  /// The same numbers in f64.
  OwnedState in_f64() const {
    const TensorView<3> view = state().o;
    OwnedState wide({view.shape[0], view.shape[1], Dv()}, DType::f64, {}, DType::f64);
    const std::vector<double> values = o(), numbers = lse();
    for (std::int64_t i = 0; i < pairs(); ++i) {
      wide.set_lse(i, numbers[static_cast<std::size_t>(i)]);
      for (std::int64_t d = 0; d < Dv(); ++d) wide.set_o(i, d, values[static_cast<std::size_t>(i * Dv() + d)]);
    }
    return wide;
  }

 private:
  bool skip_;
  testing::Tensor<3> o_;
  testing::Tensor<2> lse_;
  bool transposed_;
};

std::vector<State> states_of(const std::vector<OwnedState>& owned) {
  std::vector<State> states;
  for (const OwnedState& s : owned) states.push_back(s.state());
  return states;
}
std::vector<OwnedState> in_f64(const std::vector<OwnedState>& owned) {
  std::vector<OwnedState> wide;
  for (const OwnedState& s : owned) wide.push_back(s.in_f64());
  return wide;
}
bool same(const OwnedState& a, const OwnedState& b) {
  return testing::same_bits(a.state().o, b.state().o) && testing::same_bits(a.state().lse, b.state().lse);
}

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};
constexpr Layout kLayouts[] = {{}, {8, false, true}, {5, true, false}};

/// Parts of one type, or of all (type 3); some pairs are empty in some parts, one in all.
std::vector<OwnedState> random_parts(std::size_t count, Size size, std::size_t type, Layout layout,
                                     std::uint64_t seed) {
  testing::Random random(seed);
  std::vector<OwnedState> parts;
  for (std::size_t p = 0; p < count; ++p) {
    parts.emplace_back(size, kTypes[type < 3 ? type : p % 3], layout);
    parts.back().fill(&random);
    for (std::int64_t i = 0; i < parts.back().pairs(); ++i) {
      if (i == 1 || random.chance(0.2)) parts.back().make_empty(i);
    }
  }
  return parts;
}

/// Runs validated arguments as a device would, which the host stands for; the launches are those of `on`.
State on_device(State state) {
  state.o.space = state.lse.space = MemorySpace::device;
  return state;
}
std::vector<State> on_device(Span<const State> states) {
  std::vector<State> moved;
  for (const State& state : states) moved.push_back(on_device(state));
  return moved;
}
void run(MergeStates args, Emulator* on) {
  const std::vector<State> parts = on_device(args.parts);
  args.parts = parts;
  args.out = on_device(args.out);
  REQUIRE(to_string(prefixshare::detail::validate(args, MemorySpace::device)) == "ok");
  REQUIRE(to_string(cuda::launch_merge_states(args, *on)) == "ok");
}
void run(MergeStatesGrad args, Emulator* on) {
  const std::vector<State> parts = on_device(args.parts), dparts = on_device(args.dparts);
  args.parts = parts;
  args.dparts = dparts;
  args.out = on_device(args.out);
  args.dout.space = args.dlse.space = MemorySpace::device;
  REQUIRE(to_string(prefixshare::detail::validate(args, MemorySpace::device)) == "ok");
  REQUIRE(to_string(cuda::launch_merge_states_backward(args, *on)) == "ok");
}
template <class Args>
void run(const Args& args, const simt::Options& options = {}) {
  Emulator emulator(options);
  run(args, &emulator);
}

/// Against the reference in f64, and bit for bit against cpu:portable, which sums in the same order.
void check_merge(const std::vector<OwnedState>& parts, const OwnedState& out, Size size) {
  const std::vector<OwnedState> wide = in_f64(parts);
  const OwnedState exact(size, DType::f64, {}, DType::f64), portable(size, out.state().o.dtype);
  const std::vector<State> wide_states = states_of(wide), states = states_of(parts);
  REQUIRE(reference::merge_states({wide_states, exact.state()}).ok());
  REQUIRE(portable::merge_states({states, portable.state()}).ok());
  const auto o = close(out.state().o, exact.o(), testing::kMergeTolerance);
  const auto lse = close(out.state().lse, exact.lse(), testing::kMergeTolerance, 1);
  CAPTURE(o.text, lse.text);
  CHECK(o.ok);
  CHECK(lse.ok);
  CHECK(same(out, portable));
  CHECK(out.guards_intact());
}

constexpr std::size_t kCounts[] = {0, 1, 2, 3, 6, 64};
constexpr Size kSizes[] = {{3, 5, 1}, {7, 3, 20}, {2, 70, 8}, {5, 1, 129}, {4, 2, 512}, {3, 32, 64}, {1, 1, 260}};

}  // namespace

TEST_CASE("cuda merge_states: any number of parts, type, size and layout", "[cuda][merge_states]") {
  const std::size_t seeds = tests::test_all() ? 12 : 1;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    for (const auto& row : tests::pairwise({6, 4, 3, 7, 3, 3}, seed)) {
      const std::vector<std::size_t> c(row.begin(), row.end());
      const Size size = kSizes[c[3]];
      CAPTURE(seed, kCounts[c[0]], c[1], c[2], size.rows, size.heads, size.Dv, c[4], c[5]);
      const auto parts = random_parts(kCounts[c[0]], size, c[1], kLayouts[c[4]], 7 * seed);
      const OwnedState out(size, kTypes[c[2]], kLayouts[c[5]]);
      const std::vector<State> states = states_of(parts);
      run(MergeStates{states, out.state()});
      check_merge(parts, out, size);
    }
  }
}

TEST_CASE("cuda merge_states: chunks are as wide as addresses, strides and lengths allow", "[cuda][merge_states]") {
  const auto width_of = [](DType type, std::int64_t Dv, Layout layout) {
    const OwnedState state({3, 2, Dv}, type, layout);
    cuda::ChunkWidth chunk;
    chunk.fit(state.state().o);
    return chunk.width();
  };
  CHECK(width_of(DType::bf16, 64, {}) == 8);
  CHECK(width_of(DType::f16, 64, {8}) == 8);
  CHECK(width_of(DType::f16, 64, {4}) == 4);
  CHECK(width_of(DType::f16, 60, {}) == 4);
  CHECK(width_of(DType::f32, 64, {}) == 4);
  CHECK(width_of(DType::f32, 64, {1}) == 1);
  CHECK(width_of(DType::bf16, 62, {2}) == 1);
  CHECK(width_of(DType::bf16, 64, {5, true}) == 1);
}

TEST_CASE("cuda merge_states: in place, whichever part it is, same bits as apart", "[cuda][merge_states]") {
  for (const std::int64_t Dv : {64, 700, 33}) {
    const Size size{5, 3, Dv};
    const auto parts = random_parts(7, size, 0, {}, 11);
    const OwnedState apart(size, DType::f32);
    const std::vector<State> states = states_of(parts);
    run(MergeStates{states, apart.state()});
    for (std::size_t p = 0; p < parts.size(); ++p) {
      auto owned = parts;
      const std::vector<State> own = states_of(owned);
      run(MergeStates{own, owned[p].state()});
      CHECK(same(owned[p], apart));
      CHECK(owned[p].guards_intact());
    }
  }
}

TEST_CASE("cuda merge_states: two parts commute, and an empty one is neutral bit for bit", "[cuda][merge_states]") {
  for (const DType type : kTypes) {
    const Size size{4, 3, 40};
    testing::Random random(3);
    OwnedState a(size, type), b(size, type), empty(size, type);
    const OwnedState ab(size, type), ba(size, type);
    a.fill(&random);
    b.fill(&random);
    a.set_lse(0, -0.0);
    a.set_o(0, 0, -0.0);
    a.set_lse(2, 1e4);
    for (std::int64_t i = 0; i < empty.pairs(); ++i) empty.make_empty(i);
    const std::vector<State> forth{a.state(), b.state()}, back{b.state(), a.state()};
    run(MergeStates{forth, ab.state()});
    run(MergeStates{back, ba.state()});
    CHECK(same(ab, ba));
    for (const auto& order : {std::vector<State>{a.state(), empty.state()},
                              std::vector<State>{empty.state(), a.state(), empty.state(), empty.state()}}) {
      const OwnedState out(size, type);
      run(MergeStates{order, out.state()});
      CHECK(same(out, a));
    }
  }
}

TEST_CASE("cuda merge_states: NaN and infinity stay in their row and head", "[cuda][merge_states]") {
  const Size size{5, 3, 24};
  testing::Random random(4);
  const std::int64_t hit = 7;
  for (const double lse : {kNaN, kInf, 0.0}) {  // 0: the NaN is in o
    for (std::size_t p = 0; p < 3; ++p) {
      std::vector<OwnedState> parts;
      for (int i = 0; i < 3; ++i) {
        parts.emplace_back(size, DType::f32);
        parts.back().fill(&random);
      }
      parts[p].set_lse(hit, lse);
      if (lse == 0) parts[p].set_o(hit, 5, kNaN);
      const OwnedState out(size, DType::f32);
      const std::vector<State> states = states_of(parts);
      run(MergeStates{states, out.state()});
      const std::vector<double> o = out.o(), got = out.lse();
      for (std::int64_t i = 0; i < out.pairs() * size.Dv; ++i) {
        const bool in_pair = i / size.Dv == hit;
        CHECK(std::isnan(o[static_cast<std::size_t>(i)]) == (in_pair && (lse != 0 || i % size.Dv == 5)));
        CHECK(std::isnan(got[static_cast<std::size_t>(i / size.Dv)]) == (in_pair && lse != 0));
      }
    }
  }
}

TEST_CASE("cuda merge_states: more parts than parameters hold are refused by name", "[cuda][merge_states]") {
  const Size size{2, 2, 8};
  const auto parts = random_parts(65, size, 0, {}, 5);
  const OwnedState out(size, DType::f32);
  const std::vector<State> states = states_of(parts);
  CHECK(to_string(cuda::accepts_parts({states, out.state()})) ==
        "merge_states: parts.size got 65, want <= 64 (unsupported)");
  CHECK(cuda::accepts_parts({{states.data(), 64}, out.state()}).ok());
}

TEST_CASE("cuda merge_states: no rows, heads or dims are legal", "[cuda][merge_states]") {
  for (const Size size : {Size{0, 3, 8}, Size{2, 0, 8}, Size{2, 3, 0}}) {
    testing::Random random(6);
    OwnedState a(size, DType::f32), b(size, DType::f32);
    for (std::int64_t i = 0; i < a.pairs(); ++i) a.set_lse(i, 1), b.set_lse(i, 1);
    const OwnedState out(size, DType::f32);
    const std::vector<State> states{a.state(), b.state()}, grads{out.state(), OwnedState(size, DType::f32).state()};
    run(MergeStates{states, out.state()});
    for (const double lse : out.lse()) CHECK(std::abs(lse - 1 - std::log(2.0)) <= testing::kMergeTolerance);
    CHECK(out.guards_intact());
  }
}

namespace {

/// A problem of the backward with its memory.
struct Backward {
  std::vector<OwnedState> parts, dparts;
  OwnedState out, dout;
  bool with_dlse;

  Backward(std::size_t count, Size size, std::size_t type, DType grad, Layout layout, bool dlse, std::uint64_t seed)
      : parts(random_parts(count, size, type, layout, seed)),
        out(size, DType::f32, layout),
        dout(size, grad, layout),
        with_dlse(dlse) {
    testing::Random random(seed + 1);
    dout.fill(&random);
    for (std::size_t p = 0; p < count; ++p) dparts.emplace_back(size, grad, layout);
    const std::vector<State> states = states_of(parts);
    REQUIRE(portable::merge_states({states, out.state()}).ok());
  }
};

template <class F>
void with_args(const std::vector<OwnedState>& parts, const OwnedState& out, const OwnedState& dout, bool with_dlse,
               const std::vector<OwnedState>& dparts, F&& f) {
  const std::vector<State> states = states_of(parts), grads = states_of(dparts);
  MergeStatesGrad args;
  args.parts = states;
  args.out = out.state();
  args.dout = dout.state().o;
  if (with_dlse) args.dlse = dout.state().lse;
  args.dparts = grads;
  f(args);
}

void check_backward(const Backward& b, Size size) {
  std::vector<OwnedState> exact;
  for (std::size_t p = 0; p < b.parts.size(); ++p) exact.emplace_back(size, DType::f64, Layout{}, DType::f64);
  with_args(in_f64(b.parts), b.out.in_f64(), b.dout.in_f64(), b.with_dlse, exact,
            [](const MergeStatesGrad& args) { REQUIRE(reference::merge_states_backward(args).ok()); });
  for (std::size_t p = 0; p < b.parts.size(); ++p) {
    const double bound = testing::gradient_tolerance(DType::f32, 0);
    const auto o = close(b.dparts[p].state().o, exact[p].o(), bound, 1);
    const auto lse = close(b.dparts[p].state().lse, exact[p].lse(), bound, 1);
    CAPTURE(p, o.text, lse.text);
    CHECK(o.ok);
    CHECK(lse.ok);
    CHECK(b.dparts[p].guards_intact());
  }
}

}  // namespace

TEST_CASE("cuda merge_states_backward: any number of parts, type, size and layout", "[cuda][merge_states]") {
  constexpr std::size_t counts[] = {0, 1, 2, 5, 24, 50};
  const std::size_t seeds = tests::test_all() ? 12 : 1;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    for (const auto& row : tests::pairwise({6, 4, 3, 7, 3, 2}, seed)) {
      const std::vector<std::size_t> c(row.begin(), row.end());
      const Size size = kSizes[c[3]];
      CAPTURE(seed, counts[c[0]], c[1], c[2], size.rows, size.heads, size.Dv, c[4], c[5]);
      const Backward b(counts[c[0]], size, c[1], kTypes[c[2]], kLayouts[c[4]], c[5] == 1, 13 * seed);
      Emulator emulator;
      with_args(b.parts, b.out, b.dout, b.with_dlse, b.dparts,
                [&](const MergeStatesGrad& args) { run(args, &emulator); });
      check_backward(b, size);
      CHECK(emulator.launches.size() == (counts[c[0]] + 23) / 24);
    }
  }
}

TEST_CASE("cuda merge_states: bits do not depend on the order of threads and blocks", "[cuda][merge_states]") {
  const Size size{9, 5, 72};
  const auto parts = random_parts(5, size, 3, {}, 21);
  const std::vector<State> states = states_of(parts);
  const OwnedState first(size, DType::bf16);
  run(MergeStates{states, first.state()});
  const Backward b(5, size, 2, DType::bf16, {}, true, 22);
  with_args(b.parts, b.out, b.dout, true, b.dparts, [](const MergeStatesGrad& args) { run(args); });
  for (const simt::Options& options : tests::simt_modes()) {
    CAPTURE(tests::to_string(options));
    const OwnedState out(size, DType::bf16);
    run(MergeStates{states, out.state()}, options);
    CHECK(same(out, first));
    const Backward again(5, size, 2, DType::bf16, {}, true, 22);
    with_args(again.parts, again.out, again.dout, true, again.dparts,
              [&](const MergeStatesGrad& args) { run(args, options); });
    for (std::size_t p = 0; p < 5; ++p) CHECK(same(again.dparts[p], b.dparts[p]));
  }
}
