// SPDX-License-Identifier: Apache-2.0
// merge_states: every implementation, over batches of a decode step and of a prefill.
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "prefixshare/merge_states.hpp"
#include "prefixshare/reference/merge_states.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

constexpr std::int64_t kHeads = 32;
constexpr std::int64_t kDim = 128;

/// States of random parts, and the f64 merge of the reference.
struct MergeProblem {
  MergeProblem(DType dtype, std::int64_t rows, std::int64_t count) {
    testing::Random random(1);
    o.resize(static_cast<std::size_t>(count) + 1);
    lse.resize(o.size());
    for (std::size_t p = 0; p < o.size(); ++p) {
      o[p] = testing::Tensor<3>(dtype, {rows, kHeads, kDim});
      lse[p] = testing::Tensor<2>(DType::f32, {rows, kHeads});
      if (p + 1 < o.size()) o[p].fill_normal(&random), lse[p].fill_normal(&random);
      states.push_back({o[p].view(), lse[p].view()});
    }
    args.parts = {states.data(), count};
    args.out = states.back();
    answer();
  }

  testing::Comparison check() const {
    return compare(testing::to_doubles(args.out.o), expected, testing::kMergeTolerance, args.out.o.dtype);
  }
  /// Every part is read once, the result written once.
  std::int64_t bytes() const {
    const std::int64_t rows = args.out.o.shape[0];
    return (args.parts.size() + 1) * rows * kHeads * (kDim * size_of(args.out.o.dtype) + size_of(DType::f32));
  }

  std::vector<testing::Tensor<3>> o;
  std::vector<testing::Tensor<2>> lse;
  std::vector<State> states;
  testing::Expected expected;
  MergeStates args;

 private:
  void answer() {
    const std::int64_t rows = args.out.o.shape[0];
    const testing::Tensor<3> exact_o(DType::f64, {rows, kHeads, kDim});
    const testing::Tensor<2> exact_lse(DType::f64, {rows, kHeads});
    throw_if_error(reference::merge_states({args.parts, {exact_o.view(), exact_lse.view()}}));
    expected.width = kDim;
    expected.value = testing::to_doubles(exact_o.view());
    expected.block.resize(static_cast<std::size_t>(rows * kHeads));
    std::iota(expected.block.begin(), expected.block.end(), 0);
    expected.magnitude.assign(expected.block.size(), 1);
  }
};

struct Case {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t parts = 0;
  std::string implementation;
  Team team;

  std::string name() const {
    return join(
        {"merge_states", implementation, to_string(dtype), label("rows", rows), label("parts", parts), team.name});
  }
};

void run(Session* session, const Case& c, benchmark::State* state) {
  const MergeProblem problem(c.dtype, c.rows, c.parts);
  const Context context = session->context_for(c.implementation, c.team);
  const auto call = [&] { return merge_states(context, problem.args); };
  if (!is_right(session, state, call, [&] { return problem.check(); })) return;
  const double seconds = time_calls(state, call);
  state->counters["GB/s"] = static_cast<double>(problem.bytes()) / seconds * 1e-9;
}

}  // namespace

void register_merge_states(Session* session) {
  const std::pair<std::int64_t, std::int64_t> sizes[] = {{64, 2}, {64, 8}, {2048, 2}, {2048, 8}};
  const auto& list = session->context.merge_states;
  for (const auto& [rows, parts] : sizes) {
    if (session->quick && rows > 64) continue;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (std::int32_t i = 0; i < list.count; ++i) {
        if (list.entries[i].space != MemorySpace::host) continue;
        for (const Team& team : session->teams) {
          const Case c{dtype, rows, parts, list.entries[i].name, team};
          add_case(c.name(), [session, c](benchmark::State& state) { run(session, c, &state); });
        }
      }
    }
  }
}

}  // namespace prefixshare::bench
