// SPDX-License-Identifier: Apache-2.0
// A decode step: eight sequences continue one prompt. Its keys and values are read once instead of eight times.
#include <cstdio>

#include "example.hpp"

using namespace prefixshare;

int main() {
  // Packed tokens: the prompt's 1,000, then what each sequence has written since.
  const std::vector<std::int32_t> prefix_len = {1000}, suffix_begin = {0, 8};
  const std::vector<std::int32_t> suffix_len = {3, 17, 40, 1, 8, 25, 60, 12};
  Forest forest;
  throw_if_error(forest_from_groups({prefix_len, suffix_begin, suffix_len, 1}, &forest));
  const std::int64_t tokens = forest.pools[0].page_size, rows = forest.rows();  // one query row per sequence

  LayerKind kind;
  kind.Hq = 8;
  kind.Hkv = 2;
  Context context;
  throw_if_error(create_context(&context));

  std::vector<float> q = example::random<float>(rows * 8 * 64, 1);
  std::vector<float> k = example::random<float>(tokens * 2 * 64, 2), v = example::random<float>(tokens * 2 * 64, 3);
  std::vector<float> o[2];
  std::int64_t kv_rows[2];
  for (int shared = 0; shared < 2; ++shared) {
    PlanOptions options;
    options.sharing = shared ? Sharing::automatic : Sharing::never;
    Plan plan;  // once per step; every layer of this kind uses it
    throw_if_error(make_plan(context, forest, kind, options, &plan));
    kv_rows[shared] = count(plan).kv_rows;

    o[shared].assign(q.size(), NAN);
    const example::WorkspaceMemory memory(plan);
    SharedPrefixAttend args;
    args.q = make_view(q.data(), {rows, 8, 64});
    args.k = make_view(k.data(), {tokens, 2, 64});
    args.v = make_view(v.data(), {tokens, 2, 64});
    args.o = make_view(o[shared].data(), {rows, 8, 64});
    args.workspace = memory.workspace();
    throw_if_error(shared_prefix_attention(context, plan, args));
  }
  const double off = example::distance(o[0], o[1]);
  std::printf("key rows read: %lld alone, %lld shared; outputs differ by %.1e\n", static_cast<long long>(kv_rows[0]),
              static_cast<long long>(kv_rows[1]), off);
  return off < 1e-5 && kv_rows[1] < kv_rows[0] ? 0 : 1;
}
