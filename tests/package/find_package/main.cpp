// SPDX-License-Identifier: Apache-2.0
// Two answers to one question, one decode step through the dispatch. Queries of zero see every key alike, so that each
// output is the mean of the visible values and lse is the log of their number.
#include <cmath>
#include <cstdint>
#include <vector>

#include "prefixshare/prefixshare.hpp"

namespace ps = prefixshare;

int main() {
  const std::vector<std::int32_t> prefix_len = {5};
  const std::vector<std::int32_t> suffix_begin = {0, 2};
  const std::vector<std::int32_t> suffix_len = {2, 3};
  ps::PrefixGroups groups;
  groups.prefix_len = prefix_len;
  groups.suffix_begin = suffix_begin;
  groups.suffix_len = suffix_len;
  groups.q_suffix_last = 1;

  ps::Context context;
  ps::Forest forest;
  ps::Plan plan;
  ps::LayerKind kind;
  kind.D = kind.Dv = 8;
  ps::throw_if_error(ps::create_context(&context));
  ps::throw_if_error(ps::forest_from_groups(groups, &forest));
  ps::throw_if_error(ps::make_plan(context, forest, kind, {}, &plan));

  constexpr std::int64_t kRows = 2;
  constexpr std::int64_t kTokens = 10;
  constexpr std::int64_t kDim = 8;
  std::vector<float> q(kRows * kDim), k(kTokens * kDim, 1.0f), v(kTokens * kDim), o(kRows * kDim), lse(kRows);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i / kDim);

  const ps::PlanLimits limits = ps::limits_of(plan, 1);
  std::int64_t bytes = 0;
  ps::throw_if_error(ps::forward_workspace(kind, limits, &bytes));
  std::vector<char> memory(static_cast<std::size_t>(bytes) + 256);
  char* aligned = memory.data() + (256 - reinterpret_cast<std::uintptr_t>(memory.data()) % 256) % 256;

  ps::KvPool pool;
  pool.k = ps::make_view(k.data(), {1, kTokens, 1, kDim});
  pool.v = ps::make_view(v.data(), {1, kTokens, 1, kDim});
  ps::Attend args;
  args.q = ps::make_view(q.data(), {kRows, 1, kDim});
  args.kv = {&pool, 1};
  args.o = ps::make_view(o.data(), {kRows, 1, kDim});
  args.lse = ps::make_view(lse.data(), {kRows, 1});
  ps::throw_if_error(ps::init_workspace(kind, limits, aligned, bytes, &args.workspace));
  ps::throw_if_error(ps::tree_attention(context, plan, args));

  const auto near = [](double got, double want) { return std::abs(got - want) < 1e-5; };
  const bool right =
      near(o[0], 3.0) && near(o[kDim], 4.25) && near(lse[0], std::log(7.0)) && near(lse[1], std::log(8.0));
  return right ? 0 : 1;
}
