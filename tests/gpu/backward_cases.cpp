// SPDX-License-Identifier: Apache-2.0
// tree_attention, backward: each instantiation, a pairwise matrix of shapes and options, work for the whole device.
#include <tuple>

#include "gpu/conformance.hpp"

namespace prefixshare::gpu {
namespace {

using tests::Random;
using tests::Topology;

void add(const CaseOptions& options, const std::string& name, AttentionCase c, std::vector<Case>* cases) {
  c.options.backward = c.plan.backward = true;
  c.options.alias_segments = false;
  cases->push_back({name, [=] { return backward_result(target_of(options.target), c); }, kSecondsEach});
}

void add_instantiations(const CaseOptions& options, std::vector<Case>* cases) {
  const std::pair<std::int32_t, std::int32_t> dims[] = {{64, 64},   {96, 96},   {128, 128},
                                                        {192, 128}, {256, 256}, {80, 80}};
  const std::vector<std::int32_t> packed = {40, 1, 0, 77}, few = {3, 0, 18};
  for (const DType type : {DType::bf16, DType::f16, DType::f32}) {
    for (const auto& [D, Dv] : dims) {
      AttentionCase c;
      LayerKind& kind = c.options.kind;
      kind.q_dtype = kind.kv_dtype = type;
      kind.Hq = 4, kind.Hkv = 2;
      kind.D = D, kind.Dv = Dv;
      c.options.page_size = 16;
      c.topology = options.small ? testing::prefix_group(20, few, true) : testing::prefix_group(90, packed, true);
      add(options,
          "backward instantiation/" + std::string(to_string(type)) + " D:" + std::to_string(D) + "/" +
              std::to_string(Dv),
          c, cases);
    }
  }
}

enum Factor { kTypes, kHeads, kDims, kPages, kShape, kOptions, kScales, kRotation, kSharing, kWindow };
const std::vector<std::int32_t> kLevels = {6, 4, 5, 4, 5, 5, 5, 4, 3, 3};

AttentionCase matrix_case(const std::vector<std::int32_t>& row, std::uint64_t seed) {
  const std::pair<DType, DType> types[] = {{DType::bf16, DType::bf16}, {DType::f16, DType::f16},
                                           {DType::f32, DType::f32},   {DType::bf16, DType::f16},
                                           {DType::f32, DType::bf16},  {DType::f16, DType::f32}};
  const std::pair<std::int32_t, std::int32_t> heads[] = {{3, 3}, {8, 2}, {5, 1}, {8, 1}};
  const std::pair<std::int32_t, std::int32_t> dims[] = {{64, 64}, {128, 128}, {192, 128}, {80, 80}, {20, 17}};
  const std::int32_t pages[] = {0, 1, 5, 16}, windows[] = {-1, 1, 6};
  AttentionCase c;
  testing::ProblemOptions& o = c.options;
  std::tie(o.kind.q_dtype, o.kind.kv_dtype) = types[row[kTypes]];
  std::tie(o.kind.Hq, o.kind.Hkv) = heads[row[kHeads]];
  std::tie(o.kind.D, o.kind.Dv) = dims[row[kDims]];
  o.kind.window = windows[row[kWindow]];
  o.page_size = pages[row[kPages]];
  o.strided = row[kOptions] == 1 || row[kOptions] == 4;
  o.softcap = row[kOptions] >= 2 ? 3.0 : 0.0;
  o.sinks = row[kOptions] >= 3;
  o.bias = row[kOptions] == 2 || row[kOptions] == 4;
  o.wide_outputs = row[kOptions] == 3;
  o.dlse = row[kOptions] != 1;
  o.k_scale = static_cast<ScaleGranularity>(row[kScales]);
  o.v_scale = static_cast<ScaleGranularity>((row[kScales] * 3) % 5);
  o.q_rotated = row[kRotation] <= 1;
  o.rope = row[kRotation] >= 1;
  o.pairing = row[kRotation] == 2 ? RopePairing::interleaved : RopePairing::half;
  if (row[kRotation] >= 2) {
    o.rope_dim = o.kind.D / 4 * 2;
    o.rope_offset = row[kRotation] == 3 ? o.kind.D - o.rope_dim : 0;
    o.mscale = 1.25;
  }
  o.seed = seed;
  Random random(seed);
  testing::RandomForest limits;
  limits.max_nodes = 10;
  limits.max_length = 12;
  limits.length_slots = row[kShape] == 1;
  const std::vector<std::int32_t> own = {0, 1, 7, 3};
  c.topology = row[kShape] <= 1   ? testing::random_topology(&random, limits)
               : row[kShape] == 2 ? testing::prefix_group(random.between(1, 140), own, false)
               : row[kShape] == 3 ? testing::prefix_group(random.between(1, 40), own, true)
                                  : tests::draft_tree(random.between(0, 30), random.between(2, 70), &random);
  c.plan.sharing = static_cast<Sharing>(row[kSharing]);
  if (row[kSharing] == 0) c.plan.cost = tests::eager_cost();
  return c;
}

void add_matrix(const CaseOptions& options, std::vector<Case>* cases) {
  for (int seed = 1; seed <= options.seeds; ++seed) {
    const auto rows = tests::pairwise(kLevels, static_cast<std::uint64_t>(seed));
    for (std::size_t i = 0; i < rows.size(); i += options.small ? 4 : 1) {
      const auto problem_seed = 1000 * static_cast<std::uint64_t>(seed) + i;
      std::string name = "backward matrix/" + std::to_string(problem_seed);
      for (const std::int32_t level : rows[i]) name += "-" + std::to_string(level);
      add(options, name, matrix_case(rows[i], problem_seed), cases);
    }
  }
}

void add_large(const CaseOptions& options, std::vector<Case>* cases) {
  if (options.small) return;
  AttentionCase c;
  c.options.kind.q_dtype = c.options.kind.kv_dtype = DType::bf16;
  c.options.kind.Hq = 4, c.options.kind.Hkv = 1;
  c.options.kind.D = c.options.kind.Dv = 128;
  c.topology = testing::prefix_group(500, std::vector<std::int32_t>{130, 1, 140}, true);
  add(options, "backward large/training", c, cases);
}

}  // namespace

void add_backward_cases(const CaseOptions& options, std::vector<Case>* cases) {
  add_instantiations(options, cases);
  add_matrix(options, cases);
  add_large(options, cases);
}

}  // namespace prefixshare::gpu
