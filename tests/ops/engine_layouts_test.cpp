// SPDX-License-Identifier: Apache-2.0
// Attention on other engines' caches in place: what the same step gives in pages of ours.
#include <cstdint>
#include <vector>

#include "support/attention.hpp"
#include "support/engines.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

/// Every key and value of the step from the problem's pool to where the engine has it.
void fill_engine(const Batch& b, const Problem& p, FakeEngine* e) {
  const KvPool& pool = p.kv[0];
  for (std::int64_t page = 0; page < b.num_pages; ++page) {
    for (std::int64_t slot = 0; slot < b.page_size; ++slot) {
      if (!p.pools[0].named[static_cast<std::size_t>(page * b.page_size + slot)]) continue;
      for (std::int64_t h = 0; h < pool.k.shape[2]; ++h) {
        const float* k = pool.k.at<float>(page, slot, h);
        const float* v = pool.v.at<float>(page, slot, h);
        std::copy(k, k + pool.k.shape[3], e->memory.begin() + e->address(false, page, slot, h));
        std::copy(v, v + pool.v.shape[3], e->memory.begin() + e->address(true, page, slot, h));
      }
    }
  }
}

}  // namespace

TEST_CASE("engine_layouts: attention on an engine's cache agrees with the oracle on our own pages",
          "[attention][engines]") {
  testing::Random random(5);
  const Batch b = random_batch(&random, 4, 6, 40);
  const std::vector<std::int32_t> ids = b.table<std::int32_t>(0, -1);
  Forest forest;
  require_ok(
      forest_from_block_tables(BlockTables{ids, b.longest(), b.kv_len, b.q_len, {b.page_size, b.num_pages}}, &forest));
  ProblemOptions options;
  options.kind.Hq = 4;
  options.kind.Hkv = 2;
  options.kind.D = options.kind.Dv = 16;
  Problem p;
  make_problem(forest, options, &p);
  const testing::Answer answer = testing::answer_forward(p.forest, options.kind, p.attend());

  std::vector<FakeEngine> engines = fake_engines(b, {2, 16, 16});
  const std::vector<NamedContext> contexts = attention_contexts();
  for (FakeEngine& e : engines) {
    fill_engine(b, p, &e);
    Problem own;  // the same queries, on the engine's cache
    make_problem(forest, options, &own);
    require_ok(forest_from_block_tables(e.tables.view(), &own.forest));
    own.kv = {e.pool};
    for (const NamedContext& c : contexts) {
      INFO(e.name << ", " << c.name);
      run_forward(c.context, proved_plan(c, own.forest, options.kind, {}), &own);
      check_comparison(check_forward(answer, own.attend()));
    }
  }
}
