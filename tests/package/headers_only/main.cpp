// SPDX-License-Identifier: Apache-2.0
// Two token sequences with three tokens in common, one decode step by the typed operator. Queries of zero see every key
// alike, so that each output is the mean of the visible values and lse is the log of their number.
#include <cmath>
#include <cstdint>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/portable/tree_attention.hpp"

namespace ps = prefixshare;

int main() {
  const std::vector<std::int32_t> tokens = {1, 2, 3, 4, 9, 1, 2, 3, 7};
  const std::vector<std::int64_t> offsets = {0, 5, 9};
  ps::TokenSequences sequences;
  sequences.tokens = tokens;
  sequences.offsets = offsets;

  ps::Forest forest;
  ps::Plan plan;
  ps::LayerKind kind;
  kind.D = kind.Dv = 4;
  ps::throw_if_error(ps::forest_from_tokens(sequences, &forest));
  ps::throw_if_error(ps::make_plan(forest, kind, {}, &plan));

  constexpr std::int64_t kRows = 2;
  constexpr std::int64_t kSlots = 6;  // 1 2 3, then 4 9, then 7
  constexpr std::int64_t kDim = 4;
  std::vector<float> q(kRows * kDim), k(kSlots * kDim, 1.0f), v(kSlots * kDim), o(kRows * kDim), lse(kRows);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>((i / kDim) * (i / kDim));

  const ps::PlanLimits limits = ps::limits_of(plan, 1);
  std::int64_t bytes = 0;
  ps::throw_if_error(ps::forward_workspace(kind, limits, &bytes));
  std::vector<char> memory(static_cast<std::size_t>(bytes) + 256);
  char* aligned = memory.data() + (256 - reinterpret_cast<std::uintptr_t>(memory.data()) % 256) % 256;

  const ps::KvPool pool = {
      ps::make_view(k.data(), {1, kSlots, 1, kDim}), ps::make_view(v.data(), {1, kSlots, 1, kDim}), {}, {}, {}};
  ps::Attend args;
  args.q = ps::make_view(q.data(), {kRows, 1, kDim});
  args.kv = {&pool, 1};
  args.o = ps::make_view(o.data(), {kRows, 1, kDim});
  args.lse = ps::make_view(lse.data(), {kRows, 1});
  ps::throw_if_error(ps::init_workspace(kind, limits, aligned, bytes, &args.workspace));
  ps::throw_if_error(ps::portable::tree_attention(plan, args));

  const auto near = [](double got, double want) { return std::abs(got - want) < 1e-5; };
  const bool right =
      near(o[0], 6.0) && near(o[kDim], 7.5) && near(lse[0], std::log(5.0)) && near(lse[1], std::log(4.0));
  return right ? 0 : 1;
}
