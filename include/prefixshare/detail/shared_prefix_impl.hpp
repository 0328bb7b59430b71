// SPDX-License-Identifier: Apache-2.0
// The forest of prefix groups, and packed operands as a pool of one page.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr const char* kGroupsOp = "forest_from_groups";

inline Status check_groups(const PrefixGroups& g) noexcept {
  if (Status s = check_span(kGroupsOp, "prefix_len", g.prefix_len)) return s;
  const std::int64_t groups = g.prefix_len.size();
  if (Status s = check_array({kGroupsOp, "suffix_begin"}, g.suffix_begin, groups + 1)) return s;
  if (g.suffix_begin[0] != 0) return failure({kGroupsOp, "suffix_begin", 0}, "", g.suffix_begin[0], "==", 0);
  for (std::int64_t i = 0; i < groups; ++i) {
    if (g.prefix_len[i] < 0) return failure({kGroupsOp, "prefix_len", i}, "", g.prefix_len[i], ">=", 0);
    if (g.suffix_begin[i + 1] < g.suffix_begin[i]) {
      return failure({kGroupsOp, "suffix_begin", i + 1}, "", g.suffix_begin[i + 1], ">=", g.suffix_begin[i]);
    }
  }
  if (Status s = check_array({kGroupsOp, "suffix_len"}, g.suffix_len, g.suffix_begin[groups])) return s;
  for (std::int64_t i = 0; i < g.suffix_len.size(); ++i) {
    if (g.suffix_len[i] < 0) return failure({kGroupsOp, "suffix_len", i}, "", g.suffix_len[i], ">=", 0);
  }
  if (g.q_suffix_last < 0) return failure({kGroupsOp, "q_suffix_last"}, "", g.q_suffix_last, ">=", 0);
  std::int64_t tokens = 0;
  for (const std::int32_t n : g.prefix_len) tokens += n;
  for (const std::int32_t n : g.suffix_len) tokens += n;
  return tokens <= INT32_MAX ? Status{}
                             : failure({kGroupsOp, "suffix_len"}, "sum", tokens, "<=", INT32_MAX, StatusUnit::number,
                                       StatusCode::capacity_exceeded);
}

/// Nodes and sequences in packed order, so that the caller's rows are in it too.
inline Status build_groups(const PrefixGroups& g, Forest* forest) {
  std::vector<Node> nodes;
  std::vector<Sequence> sequences;
  std::int32_t tokens = 0;
  const auto add = [&](std::int32_t parent, std::int32_t length, std::int32_t q_len) {
    Node n;
    n.parent = parent;
    n.segment = 0;
    n.begin = tokens;
    n.length = length;
    tokens += length;
    nodes.push_back(n);
    Sequence s;
    s.node = static_cast<std::int32_t>(nodes.size()) - 1;
    s.q_len = q_len;
    if (parent >= 0 || q_len > 0) sequences.push_back(s);
    return s.node;
  };
  for (std::int64_t i = 0; i < g.prefix_len.size(); ++i) {
    const std::int32_t root = add(-1, g.prefix_len[i], g.q_suffix_last == 0 ? g.prefix_len[i] : 0);
    for (std::int32_t k = g.suffix_begin[i]; k < g.suffix_begin[i + 1]; ++k) {
      add(root, g.suffix_len[k], g.q_suffix_last == 0 ? g.suffix_len[k] : std::min(g.q_suffix_last, g.suffix_len[k]));
    }
  }
  const PoolShape pool{std::max(tokens, 1), tokens > 0 ? 1 : 0};
  const std::int32_t page = 0;
  const Segment segment{0, 0, 0, tokens};
  Status s = make_forest({{&pool, 1}, {&page, 1}, {&segment, 1}, nodes, sequences}, forest);
  if (!s.ok()) s.op = kGroupsOp;
  return s;
}

/// [tokens, H, D] as the one page of a pool; without tokens, as a pool without pages.
inline TensorView<4> as_page(const TensorView<3>& x) noexcept {
  TensorView<4> page;
  page.data = x.data;
  page.dtype = x.dtype;
  page.space = x.space;
  for (int d = 0; d < 3; ++d) {
    page.shape[d + 1] = x.shape[d];
    page.stride[d + 1] = x.stride[d];
  }
  page.shape[0] = x.shape[0] > 0 ? 1 : 0;
  page.shape[1] = std::max<std::int64_t>(x.shape[0], 1);
  return page;
}
inline KvPool as_pool(const SharedPrefixAttend& args) noexcept {
  KvPool pool;
  pool.k = as_page(args.k);
  pool.v = as_page(args.v);
  return pool;
}
/// The wrapped call; `pool` must outlive it.
inline Attend as_attend(const SharedPrefixAttend& args, const KvPool& pool) noexcept {
  Attend a;
  a.q = args.q;
  a.kv = {&pool, 1};
  a.o = args.o;
  a.lse = args.lse;
  a.scale = args.scale;
  a.softcap = args.softcap;
  a.sinks = args.sinks;
  a.workspace = args.workspace;
  a.device_plan = args.device_plan;
  a.stream = args.stream;
  return a;
}

/// The plan of a forest of groups: one pool of at most one page, no lengths or turns that only an Attend could give.
inline Status check_packed_plan(const char* op, const PlanView& plan) noexcept {
  const Where at{op, "plan"};
  if (plan.pools.size() != 1) return failure(at, "pools", plan.pools.size(), "==", 1);
  if (plan.pools[0].num_pages > 1) return failure(at, "pages", plan.pools[0].num_pages, "<=", 1);
  if (plan.header.length_slots > 0) return failure(at, "length_slots", plan.header.length_slots, "==", 0);
  return plan.deltas.size() > 1 ? failure(at, "deltas", plan.deltas.size(), "==", 1) : Status{};
}
/// Shape and strides of a packed operand, so that its page can stand for it. The wrapped call checks the rest.
inline Status check_packed_view(Where at, const TensorView<3>& x, const PlanView& plan, std::int64_t width,
                                bool gradient) noexcept {
  const std::int64_t tokens = std::int64_t{plan.pools[0].page_size} * plan.pools[0].num_pages;
  ViewRule rule;
  rule.required = !gradient;
  rule.output = gradient;
  rule.space = x.space;
  return check_view(at, x, {{tokens, plan.header.kind.Hkv, width}}, rule);
}
inline Status check_packed(const char* op, const PlanView& plan, const SharedPrefixAttend& args) noexcept {
  if (Status s = check_packed_plan(op, plan)) return s;
  if (Status s = check_packed_view({op, "k"}, args.k, plan, plan.header.kind.D, false)) return s;
  return check_packed_view({op, "v"}, args.v, plan, plan.header.kind.Dv, false);
}
inline Status check_packed(const char* op, const PlanView& plan, const SharedPrefixAttendGrad& args) noexcept {
  if (Status s = check_packed(op, plan, args.fwd)) return s;
  if (Status s = check_packed_view({op, "dk"}, args.dk, plan, plan.header.kind.D, true)) return s;
  return check_packed_view({op, "dv"}, args.dv, plan, plan.header.kind.Dv, true);
}
/// A refusal of the wrapped call with the wrapper's names: kv.k[0] is k.
inline Status in_packed_words(const char* op, Status s) noexcept {
  if (s.ok()) return s;
  s.op = op;
  for (const char* prefix : {"kv.", "dkv."}) {
    const std::size_t length = std::strlen(prefix);
    if (std::strncmp(s.argument, prefix, length) != 0) continue;
    s.argument += length;
    s.index = -1;
  }
  return s;
}

}  // namespace detail

inline Status forest_from_groups(const PrefixGroups& groups, Forest* forest) noexcept {
  if (Status s = detail::check_pointer(detail::kGroupsOp, "forest", forest)) return s;
  if (Status s = detail::check_groups(groups)) return s;
  try {
    return detail::build_groups(groups, forest);
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(detail::kGroupsOp, "forest");
  }
}

}  // namespace v0_1
}  // namespace prefixshare
