// SPDX-License-Identifier: Apache-2.0
// Steps of an engine with a paged cache: decode, verification and chunks of prompts in one call, on every
// implementation, against the oracle. Pages are shuffled and shared to different lengths; unused slots hold NaN.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "support/attention.hpp"
#include "support/data.hpp"
#include "support/paged_batch.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

constexpr std::int32_t kPageSizes[] = {1, 5, 16, 64}, kGroups[] = {1, 4, 8}, kWindows[] = {-1, 37};
constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16};

/// The forest of a step from tables whose ids are of one type, with garbage behind each sequence's pages.
template <class Id>
Forest forest_of(const Batch& b) {
  const std::vector<Id> ids = b.table<Id>(1, -1);
  Forest forest;
  require_ok(forest_from_block_tables(
      BasicBlockTables<Id>{ids, b.longest() + 1, b.kv_len, b.q_len, {b.page_size, b.num_pages}}, &forest));
  return forest;
}

struct Case {
  std::int32_t page_size, ids, group, type, plan, window;  // levels
};

/// Runs a step and returns what it was.
ForestStats run_step(const Case& c, std::uint64_t seed) {
  testing::Random random(seed);
  const Batch b = random_batch(&random, kPageSizes[c.page_size], 8, 150);
  ProblemOptions options;
  options.seed = seed;
  options.kind.Hkv = 2;
  options.kind.Hq = 2 * kGroups[c.group];
  options.kind.D = options.kind.Dv = 32;
  options.kind.window = kWindows[c.window];
  options.kind.q_dtype = options.kind.kv_dtype = kTypes[c.type];
  PlanOptions plan;
  if (c.plan >= 1) plan.cost = eager_cost();  // sharing and cutting pay
  if (c.plan == 2) plan.mode = Mode::batch_invariant;
  Problem p;
  make_problem(c.ids == 0 ? forest_of<std::int32_t>(b) : forest_of<std::int64_t>(b), options, &p);
  INFO("page size " << b.page_size << ", group " << options.kind.group() << ", " << to_string(kTypes[c.type])
                    << ", plan " << c.plan << ", window " << options.kind.window);
  run_problem(attention_contexts(kTypes[c.type]), plan, &p);
  ForestStats stats;
  require_ok(forest_stats(p.forest, &stats));
  return stats;
}

/// All combinations of levels.
std::vector<std::vector<std::int32_t>> product(const std::vector<std::int32_t>& levels) {
  std::vector<std::vector<std::int32_t>> rows = {{}};
  for (std::int32_t count : levels) {
    std::vector<std::vector<std::int32_t>> longer;
    for (const auto& row : rows) {
      for (std::int32_t i = 0; i < count; ++i) {
        longer.push_back(row);
        longer.back().push_back(i);
      }
    }
    rows = longer;
  }
  return rows;
}

}  // namespace

TEST_CASE("paged step: decode, verification and prompts in one call agree with the oracle", "[attention][paged]") {
  const std::vector<std::int32_t> levels = {4, 2, 3, 3, 3, 2};
  std::uint64_t seed = 100;
  std::int64_t deepest = 0, most_rows = 0;
  for (const auto& row : test_all() ? product(levels) : pairwise(levels)) {
    const ForestStats stats = run_step({row[0], row[1], row[2], row[3], row[4], row[5]}, ++seed);
    deepest = std::max(deepest, stats.depth);
    most_rows = std::max(most_rows, stats.rows);
  }
  CHECK(deepest >= 4);
  CHECK(most_rows > 64);
}
