// SPDX-License-Identifier: Apache-2.0
// tree_attention, forward: matrices of shapes and options, every implementation against the oracle. Kernels have ways
// of their own for few packed rows (rows of a tile x heads of a group) and for many: a matrix for each.
#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "support/attention.hpp"
#include "support/data.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using testing::all_levels;
using testing::describe;
using testing::kMostPackedRows;
using testing::Levels;
using testing::make_packed_case;
using testing::PackedRows;
using testing::pairwise_levels;

void run_matrix(PackedRows packed) {
  const std::vector<NamedContext> contexts = attention_contexts(DType::bf16);
  std::vector<Levels> rows = pairwise_levels(all_levels());
  for (std::uint64_t more = 2; test_all() && more < 12; ++more) {
    for (auto& row : pairwise_levels(all_levels(), more)) rows.push_back(std::move(row));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    INFO("row " << i << ": " << describe(rows[i]));
    run_case(contexts, make_case(packed, rows[i], i + 1));
  }
}

constexpr std::int32_t kGroups[] = {1, 2, 4, 5, 8, 16, 71};

}  // namespace

TEST_CASE("tree_attention: types, heads, dims, pages, masks and options agree with the oracle for few packed rows",
          "[attention]") {
  run_matrix(PackedRows::few);
}

TEST_CASE("tree_attention: types, heads, dims, pages, masks and options agree with the oracle for many packed rows",
          "[attention]") {
  run_matrix(PackedRows::many);
}

TEST_CASE("tree_attention: every number of packed rows, against all remainders of keys, agrees with the oracle",
          "[attention]") {
  const std::vector<NamedContext> contexts = attention_contexts(DType::bf16);
  std::int32_t i = 0;
  Levels levels;
  for (const std::int32_t group : kGroups) {
    for (std::int32_t rows = 1; rows <= std::max(kMostPackedRows / group, 2); ++rows) {
      for (std::int32_t repeat = 0; repeat < (test_all() ? 20 : 1); ++repeat, ++i) {
        const ForwardCase c = make_packed_case(all_levels(), group, rows, i, &levels);
        INFO("group " << group << ", rows " << rows << ", case " << i << ": " << describe(levels));
        run_case(contexts, c);
      }
    }
  }
}

TEST_CASE(
    "tree_attention: these matrices meet every number of packed rows in a tile, and every number of keys in a block",
    "[attention]") {
  std::set<std::int32_t> packed, keys;
  std::int32_t i = 0;
  const NamedContext portable = portable_context();
  Levels levels;
  for (const std::int32_t group : kGroups) {
    for (std::int32_t rows = 1; rows <= std::max(kMostPackedRows / group, 2); ++rows, ++i) {
      const ForwardCase c = make_packed_case(all_levels(), group, rows, i, &levels);
      Problem p;
      require_ok(make_problem(c.topology, c.options, &p));
      const Plan plan = proved_plan(portable, p.forest, c.options.kind, c.plan);
      for (const RowTile& tile : plan.tiles) packed.insert(tile.count * group);
      for (const KeyRun& run : plan.runs) keys.insert(run.length % detail::kBlockKeys);
    }
  }
  for (std::int32_t n = 1; n <= kTileRows; ++n) CHECK(packed.count(n) == 1);
  CHECK(keys.size() == detail::kBlockKeys);
}
