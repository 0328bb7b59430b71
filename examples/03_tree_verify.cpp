// SPDX-License-Identifier: Apache-2.0
// Speculative decoding: a tree of draft tokens behind a context is verified in one call; each token sees the context
// and its own ancestors. A branch of the tree gives what the same tokens give as a plain sequence.
#include <cstdio>

#include "example.hpp"

using namespace prefixshare;

namespace {

constexpr std::int64_t kHeads = 4, kDim = 64;

/// Attention of all rows of a forest of which row i is the token in slot kContext + i.
std::vector<float> attend(const Context& context, const Forest& forest, std::vector<float>& q, std::vector<float>& k,
                          std::vector<float>& v) {
  LayerKind kind;
  kind.Hq = kind.Hkv = kHeads;
  Plan plan;
  throw_if_error(make_plan(context, forest, kind, {}, &plan));
  const example::WorkspaceMemory memory(plan);
  const std::int64_t tokens = forest.pools[0].page_size, rows = forest.rows();
  std::vector<float> o(static_cast<std::size_t>(rows * kHeads * kDim), NAN);
  KvPool pool;
  pool.k = make_view(k.data(), {1, tokens, kHeads, kDim});
  pool.v = make_view(v.data(), {1, tokens, kHeads, kDim});
  Attend args;
  args.q = make_view(q.data(), {rows, kHeads, kDim});
  args.kv = {&pool, 1};
  args.o = make_view(o.data(), {rows, kHeads, kDim});
  args.workspace = memory.workspace();
  throw_if_error(tree_attention(context, plan, args));
  return o;
}

}  // namespace

int main() {
  // Node 0 is the context of 300 tokens, without query rows; the draft tokens 1 to 6 hang below it.
  const std::vector<std::int32_t> parents = {-1, 0, 0, 1, 1, 3, 2}, lengths = {300, 1, 1, 1, 1, 1, 1};
  const std::vector<std::int32_t> q_len = {0, 1, 1, 1, 1, 1, 1};
  Forest tree, chain;
  throw_if_error(forest_from_parents({parents, lengths, q_len}, &tree));
  Context context;
  throw_if_error(create_context(&context));
  const std::int64_t width = kHeads * kDim;
  std::vector<float> q = example::random<float>(6 * width, 1);
  std::vector<float> k = example::random<float>(306 * width, 2), v = example::random<float>(306 * width, 3);
  const std::vector<float> verified = attend(context, tree, q, k, v);

  // The branch 1 -> 3 -> 5 alone: draft rows 0, 2 and 4.
  const auto keep = [&](const std::vector<float>& x, std::int64_t first) {
    std::vector<float> kept(x.begin(), x.begin() + first * width);
    for (std::int64_t row : {0, 2, 4}) {
      kept.insert(kept.end(), x.begin() + (first + row) * width, x.begin() + (first + row + 1) * width);
    }
    return kept;
  };
  const std::vector<std::int32_t> line_parents = {-1, 0}, line_lengths = {300, 3}, line_q_len = {0, 3};
  throw_if_error(forest_from_parents({line_parents, line_lengths, line_q_len}, &chain));
  std::vector<float> q1 = keep(q, 0), k1 = keep(k, 300), v1 = keep(v, 300);
  const double off = example::distance(attend(context, chain, q1, k1, v1), keep(verified, 0));
  std::printf("6 draft tokens verified in one call; the branch 1-3-5 differs from the plain sequence by %.1e\n", off);
  return off < 1e-5 ? 0 : 1;
}
