// SPDX-License-Identifier: Apache-2.0
// The forest of prefix groups, and packed operands as a pool of one page.
#pragma once

#include <algorithm>
#include <new>
#include <vector>

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr const char* kGroupsOp = "forest_from_groups";

inline Status check_groups(const PrefixGroups& g) noexcept {
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
  const PoolShape pool{std::max(tokens, 1), 1};
  const std::int32_t page = 0;
  const Segment segment{0, 0, 0, tokens};
  return make_forest({{&pool, 1}, {&page, 1}, {&segment, 1}, nodes, sequences}, forest);
}

/// [tokens, H, D] as the one page of a pool.
inline TensorView<4> as_page(const TensorView<3>& x) noexcept {
  TensorView<4> page;
  page.data = x.data;
  page.dtype = x.dtype;
  page.space = x.space;
  page.shape[0] = 1;
  page.stride[0] = x.shape[0] * x.stride[0];
  for (int d = 0; d < 3; ++d) {
    page.shape[d + 1] = x.shape[d];
    page.stride[d + 1] = x.stride[d];
  }
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
  return a;
}

}  // namespace detail

inline Status forest_from_groups(const PrefixGroups& groups, Forest* forest) noexcept {
  if (Status s = detail::check_groups(groups)) return s;
  try {
    return detail::build_groups(groups, forest);
  } catch (const std::bad_alloc&) {
    return detail::failure({detail::kGroupsOp, "forest"}, "", 0, "==", 0, StatusUnit::number,
                           StatusCode::out_of_memory);
  }
}

}  // namespace v0_1
}  // namespace prefixshare
