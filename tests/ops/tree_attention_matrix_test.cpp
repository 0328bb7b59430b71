// SPDX-License-Identifier: Apache-2.0
// tree_attention, forward: matrices of shapes and options, every implementation against the oracle. Kernels have ways
// of their own for few packed rows (rows of a tile x heads of a group) and for many: a matrix for each.
#include <algorithm>
#include <cstdint>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "support/attention.hpp"
#include "support/data.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

enum class PackedRows { few, many };
constexpr std::int32_t kFewRows = detail::kStreamRows;

const std::vector<std::pair<DType, DType>> kTypePairs = {
    {DType::f32, DType::f32},  {DType::f16, DType::f16},  {DType::bf16, DType::bf16},
    {DType::f32, DType::bf16}, {DType::bf16, DType::f32}, {DType::f16, DType::bf16},
    {DType::f32, DType::f16},  {DType::f64, DType::f64},  {DType::f64, DType::bf16}};

/// What a matrix varies, as indices into the lists of `matrix_case`.
enum Factor { kTypes, kHeads, kDims, kPages, kShape, kOptions, kScales, kRotation, kSharing, kWindow };
const std::vector<std::int32_t> kLevels = {9, 5, 10, 5, 6, 6, 5, 4, 3, 4};

void choose_kind(PackedRows packed, const std::vector<std::int32_t>& row, LayerKind* kind) {
  const std::pair<std::int32_t, std::int32_t> many_heads[] = {{3, 3}, {32, 2}, {5, 1}, {16, 2}, {71, 1}};
  const std::pair<std::int32_t, std::int32_t> few_heads[] = {{3, 3}, {8, 2}, {5, 1}, {16, 8}, {8, 1}};
  const std::pair<std::int32_t, std::int32_t> dims[] = {{16, 16},   {64, 64},   {80, 80},   {96, 96}, {128, 128},
                                                        {192, 128}, {256, 256}, {576, 512}, {8, 8},   {20, 17}};
  const std::int32_t windows[] = {-1, 1, 6, 90};
  std::tie(kind->q_dtype, kind->kv_dtype) = kTypePairs[static_cast<std::size_t>(row[kTypes])];
  std::tie(kind->Hq, kind->Hkv) = (packed == PackedRows::few ? few_heads : many_heads)[row[kHeads]];
  std::tie(kind->D, kind->Dv) = dims[row[kDims]];
  kind->window = windows[row[kWindow]];
}

void choose_options(const std::vector<std::int32_t>& row, ProblemOptions* o) {
  const std::int32_t pages[] = {0, 1, 5, 16, 64};
  o->page_size = pages[row[kPages]];
  o->pools = row[kPages] == 2 ? 2 : 1;
  o->v_in_k = o->kind.D == 576;
  o->strided = row[kOptions] == 1 || row[kOptions] == 4;
  o->softcap = row[kOptions] >= 2 && row[kOptions] <= 4 ? 3.0 : 0.0;
  o->sinks = row[kOptions] == 3 || row[kOptions] == 4;
  o->bias = row[kOptions] == 2 || row[kOptions] >= 4;
  o->wide_outputs = row[kOptions] == 3 || row[kOptions] == 5;
  o->scale = row[kOptions] == 4 ? 0.3 : 0.0;
  o->alias_segments = row[kOptions] == 0;
  o->k_scale = static_cast<ScaleGranularity>(row[kScales]);
  o->v_scale = static_cast<ScaleGranularity>((row[kScales] * 3) % 5);
  o->q_rotated = row[kRotation] <= 1;
  o->rope = row[kRotation] >= 1;
  o->pairing = row[kRotation] == 2 ? RopePairing::interleaved : RopePairing::half;
  if (row[kRotation] >= 2) {  // partial: leading, then trailing
    o->rope_dim = o->kind.D / 4 * 2;
    o->rope_offset = row[kRotation] == 3 ? o->kind.D - o->rope_dim : 0;
    o->mscale = 1.25;
  }
}

/// Rows against `keys` keys: at most `most`, and no more than the oracle does in some ten milliseconds.
std::int32_t choose_rows(const LayerKind& kind, std::int32_t keys, std::int32_t most, Random* random) {
  constexpr std::int32_t kMultiplyAdds = 4'000'000;
  const std::int32_t affordable = kMultiplyAdds / (kind.Hq * (kind.D + kind.Dv) * std::max(keys, 1));
  return random->between(1, std::max(1, std::min(most, affordable)));
}

/// Random trees, the same with lengths known at the call, a prefix's decode and training, the end of a long path, a
/// draft tree.
Topology choose_topology(PackedRows packed, std::int32_t shape, const LayerKind& kind, Random* random) {
  const bool few = packed == PackedRows::few;
  testing::RandomForest limits;
  limits.max_nodes = 12;
  limits.max_length = 7;
  limits.max_rows = 3;
  limits.length_slots = shape == 1;
  if (shape <= 1) return testing::random_topology(random, limits);
  const std::int32_t keys = random->between(1, 150);
  const std::int32_t rows = choose_rows(kind, keys, few ? kFewRows / kind.group() : 140, random);
  if (shape == 4) return testing::chain(std::vector<std::int32_t>{keys, rows}, rows);
  if (shape == 5) return draft_tree(keys, rows, random);
  std::vector<std::int32_t> own = {0, 1, 7, 3};
  if (shape == 3) return testing::prefix_group(few ? 1 : 5, own, true);
  own.resize(static_cast<std::size_t>(rows), 2);
  return testing::prefix_group(keys, own, false);
}

ForwardCase matrix_case(PackedRows packed, const std::vector<std::int32_t>& row, std::uint64_t seed) {
  ForwardCase c;
  choose_kind(packed, row, &c.options.kind);
  choose_options(row, &c.options);
  c.options.seed = seed;
  Random random(seed);
  c.topology = choose_topology(packed, row[kShape], c.options.kind, &random);
  c.plan.sharing = static_cast<Sharing>(row[kSharing]);
  if (row[kSharing] == 0) c.plan.cost = eager_cost();
  return c;
}

void run_matrix(PackedRows packed) {
  const std::vector<NamedContext> contexts = attention_contexts(DType::bf16);
  std::vector<std::vector<std::int32_t>> rows = pairwise(kLevels);
  for (std::uint64_t more = 2; test_all() && more < 12; ++more) {
    for (auto& row : pairwise(kLevels, more)) rows.push_back(std::move(row));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    INFO("row " << i << ": " << ::Catch::Detail::stringify(rows[i]));
    run_case(contexts, matrix_case(packed, rows[i], i + 1));
  }
}

// ---- Every number of packed rows
// -------------------------------------------------------------------------------------

constexpr std::int32_t kGroups[] = {1, 2, 4, 5, 8, 16, 71};
constexpr std::int32_t kMostPacked = 140;  ///< more than a tile of them
constexpr std::int32_t kMostKeys = 150;    ///< more than two blocks of them

/// Case `i` of `rows` rows in groups of `group`. Dims, types, masks, scales and keys go round with `i`, at paces of
/// their own. Even: rows at the end of a path. Odd: a prefix that as many sequences share.
ForwardCase packed_case(std::int32_t group, std::int32_t rows, std::int32_t i) {
  const std::pair<std::int32_t, std::int32_t> dims[] = {{16, 16}, {32, 48}, {20, 24}, {64, 16},
                                                        {8, 8},   {80, 80}, {48, 33}};
  const std::int32_t keys = i * 41 % kMostKeys + 1;
  ForwardCase c;
  ProblemOptions& o = c.options;
  o.kind.Hkv = i % 3 == 0 ? 2 : 1;
  o.kind.Hq = group * o.kind.Hkv;
  std::tie(o.kind.D, o.kind.Dv) = dims[i % 7];
  std::tie(o.kind.q_dtype, o.kind.kv_dtype) = kTypePairs[static_cast<std::size_t>(i % 8)];
  o.kind.window = i % 5 == 0 ? i % 70 + 1 : -1;
  o.page_size = i % 4 == 0 ? 7 : 0;
  o.softcap = i % 6 == 0 ? 3.0 : 0.0;
  o.bias = i % 9 == 0;
  o.k_scale = static_cast<ScaleGranularity>(i / 2 % 5);
  o.v_scale = static_cast<ScaleGranularity>(i / 3 % 5);
  o.seed = static_cast<std::uint64_t>(i);
  c.topology = i % 2 == 0
                   ? testing::chain(std::vector<std::int32_t>{keys, rows}, rows)
                   : testing::prefix_group(keys, std::vector<std::int32_t>(static_cast<std::size_t>(rows), 1), false);
  c.plan.sharing = Sharing::always;
  return c;
}

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
  for (const std::int32_t group : kGroups) {
    for (std::int32_t rows = 1; rows <= std::max(kMostPacked / group, 2); ++rows) {
      for (std::int32_t repeat = 0; repeat < (test_all() ? 20 : 1); ++repeat, ++i) {
        INFO("group " << group << ", rows " << rows << ", case " << i);
        run_case(contexts, packed_case(group, rows, i));
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
  for (const std::int32_t group : kGroups) {
    for (std::int32_t rows = 1; rows <= std::max(kMostPacked / group, 2); ++rows, ++i) {
      const ForwardCase c = packed_case(group, rows, i);
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
