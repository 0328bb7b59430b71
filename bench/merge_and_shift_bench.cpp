// SPDX-License-Identifier: Apache-2.0
// C6: merging two states and shifting keys, which only move memory, beside memcpy of the same bytes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "prefixshare/merge_states.hpp"
#include "prefixshare/reference/merge_states.hpp"
#include "prefixshare/reference/rope.hpp"
#include "prefixshare/rope.hpp"
#include "support/attention_input.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

constexpr std::int32_t kDim = 128;
constexpr std::int64_t kCheckedRows = 64;

/// The first rows of a tensor of vectors against the f64 reference's.
testing::Comparison compare_rows(const TensorView<3>& got, const std::vector<double>& exact, double tolerance) {
  testing::Expected expected;
  expected.width = kDim;
  expected.value = exact;
  for (std::size_t v = 0; v < exact.size() / kDim; ++v) expected.block.push_back(static_cast<std::int32_t>(v));
  expected.magnitude.assign(expected.block.size(), 1);
  return compare(testing::to_doubles(got), expected, tolerance, got.dtype);
}

template <int Rank>
TensorView<Rank> first_rows(TensorView<Rank> x) {
  x.shape[0] = std::min(x.shape[0], kCheckedRows);
  return x;
}

/// Two states of 32 heads in f32, and their merge.
class MergeTwo {
 public:
  static constexpr std::int64_t kHeads = 32;
  static constexpr const char* kName = "merge";
  static constexpr DType kStorage = DType::f32;

  explicit MergeTwo(std::int64_t rows) {
    for (int p = 0; p < 3; ++p) {
      o_[p] = Buffer(rows * kHeads * kDim * size_of(kStorage));
      lse_[p] = Buffer(rows * kHeads * size_of(kStorage));
      const auto seed = static_cast<std::uint64_t>(p);
      if (p < 2) NormalVectors(seed, kStorage, kDim).fill(o_[p].data(), rows * kHeads);
      if (p < 2) NormalVectors(seed + 2, kStorage, kHeads).fill(lse_[p].data(), rows);
      states_[p] = {make_view(o_[p].as<float>(), {rows, kHeads, kDim}), make_view(lse_[p].as<float>(), {rows, kHeads})};
    }
  }
  Status run(const Context& context) const { return merge_states(context, {{states_, 2}, states_[2]}); }
  testing::Comparison check() const {
    State parts[3];
    for (int p = 0; p < 3; ++p) parts[p] = {first_rows(states_[p].o), first_rows(states_[p].lse)};
    const testing::Tensor<3> o(DType::f64, {parts[2].o.shape[0], kHeads, kDim});
    const testing::Tensor<2> lse(DType::f64, {parts[2].o.shape[0], kHeads});
    throw_if_error(reference::merge_states({{parts, 2}, {o.view(), lse.view()}}));
    return compare_rows(parts[2].o, testing::to_doubles(o.view()), testing::kMergeTolerance);
  }
  std::int64_t bytes() const { return 3 * states_[2].o.shape[0] * kHeads * (kDim + 1) * size_of(kStorage); }

 private:
  Buffer o_[3], lse_[3];
  State states_[3];
};

/// Keys of 8 heads in bf16, moved by one delta.
class ShiftKeys {
 public:
  static constexpr std::int64_t kHeads = 8;
  static constexpr const char* kName = "rope_shift";
  static constexpr DType kStorage = DType::bf16;

  explicit ShiftKeys(std::int64_t tokens)
      : x_(tokens * kHeads * kDim * size_of(kStorage)), out_(tokens * kHeads * kDim * size_of(kStorage)) {
    NormalVectors(1, kStorage, kDim).fill(x_.data(), tokens * kHeads);
    for (int i = 0; i < kDim / 2; ++i) inv_freq_.push_back(std::pow(500000.0, -2.0 * i / kDim));
    args_.x = make_view(x_.as<BFloat16>(), {tokens, kHeads, kDim});
    args_.out = make_view(out_.as<BFloat16>(), {tokens, kHeads, kDim});
    args_.deltas = {&kDelta, 1};
    args_.table.inv_freq = inv_freq_;
    args_.table.dim = kDim;
  }
  ShiftKeys(const ShiftKeys&) = delete;
  ShiftKeys& operator=(const ShiftKeys&) = delete;

  Status run(const Context& context) const { return rope_shift(context, args_); }
  testing::Comparison check() const {
    const TensorView<3> x = first_rows(args_.x);
    std::vector<double> exact = testing::to_doubles(x);
    RopeShift in_f64 = args_;
    in_f64.x = in_f64.out = make_view(exact.data(), {x.shape[0], kHeads, kDim});
    throw_if_error(reference::rope_shift(in_f64));
    return compare_rows(first_rows(args_.out), exact, testing::rope_tolerance(DType::f32, kDelta));
  }
  std::int64_t bytes() const { return 2 * args_.x.shape[0] * kHeads * kDim * size_of(kStorage); }

 private:
  static constexpr std::int32_t kDelta = 1000;
  Buffer x_, out_;
  std::vector<double> inv_freq_;
  RopeShift args_;
};

/// memcpy that reads and writes `bytes` together, cut among the team.
class Copy {
 public:
  explicit Copy(std::int64_t bytes) : from_(bytes / 2), to_(bytes / 2), half_(bytes / 2) {}
  void run(const Executor& team) {
    parts_ = team.concurrency;
    if (team.parallel_for == nullptr) return part(0);
    team.parallel_for(
        team.user, parts_, [](void* self, std::int32_t i) { static_cast<Copy*>(self)->part(i); }, this);
  }

 private:
  void part(std::int32_t i) {
    const std::int64_t begin = half_ * i / parts_, end = half_ * (i + 1) / parts_;
    std::memcpy(to_.as<char>() + begin, from_.as<char>() + begin, static_cast<std::size_t>(end - begin));
  }

  Buffer from_, to_;
  std::int64_t half_;
  std::int32_t parts_ = 1;
};

struct Times {
  double copy = 0;
  double call = 0;
};

template <class Problem>
void run(Session* session, std::int64_t size, const std::string& implementation, const Team& team,
         benchmark::State* state) {
  const Problem problem(size);
  const Context context = session->context_for(implementation, team);
  const auto call = [&] { return problem.run(context); };
  if (!is_right(session, state, call, [&] { return problem.check(); })) return;
  Copy copy(problem.bytes());
  const Observed<Times> times = quietly([&] {
    const auto copies = [&] { return copy.run(team.executor), Status{}; };
    Times t;
    t.copy = median_seconds([] {}, copies);
    t.call = median_seconds([] {}, call);
    return t;
  });
  report_time(state, times.result.call, times.busy);
  const Ceilings& c = session->ceilings(team);
  const auto bytes = static_cast<double>(problem.bytes());
  const Floor floor{bytes / std::max({c.copy, c.stream_copy, c.read_rate(bytes)}), "memory"};
  report_floor(state, floor, c, times.result.call);
  state->counters["memcpy_ms"] = 1e3 * times.result.copy;
  state->counters["vs_memcpy"] = times.result.copy / times.result.call;
  state->counters["B/s"] = bytes / times.result.call;
}

template <class Problem, class List>
void register_operator(Session* session, const List& list, std::int64_t size) {
  if (session->quick) size /= 8;
  for (const Team& team : session->teams) {
    for (std::int32_t i = 0; i < list.count; ++i) {
      if (list.entries[i].space != MemorySpace::host) continue;
      const std::string implementation = list.entries[i].name;
      const std::string problem = join({"C6", Problem::kName}) + (session->quick ? "/scale:8" : "");
      add_case(join({problem, to_string(Problem::kStorage), team.name, implementation}),
               [=](benchmark::State& state) { run<Problem>(session, size, implementation, team, &state); });
    }
  }
}

}  // namespace

void register_merge_and_shift(Session* session) {
  register_operator<MergeTwo>(session, session->context.merge_states, 4096);
  register_operator<ShiftKeys>(session, session->context.rope_shift, 16384);
}

}  // namespace prefixshare::bench
