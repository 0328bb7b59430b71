// SPDX-License-Identifier: Apache-2.0
// tree_attention, forward: each instantiation, a pairwise matrix of shapes and options, work for the whole device.
#include <algorithm>
#include <tuple>

#include "gpu/conformance.hpp"

namespace prefixshare::gpu {
namespace {

using tests::Problem;
using tests::Random;
using tests::Topology;

void add(const CaseOptions& options, const std::string& name, const AttentionCase& c, std::vector<Case>* cases) {
  cases->push_back({name, [=] { return forward_result(target_of(options.target), c); }, kSecondsEach});
}

LayerKind kind_of(DType type, std::int32_t Hq, std::int32_t Hkv, std::int32_t D, std::int32_t Dv) {
  LayerKind kind;
  kind.q_dtype = kind.kv_dtype = type;
  kind.Hq = Hq, kind.Hkv = Hkv;
  kind.D = D, kind.Dv = Dv;
  return kind;
}

// ---- Instantiations: type x head dims x body, and whether queries turn or logits are capped

void add_instantiations(const CaseOptions& options, std::vector<Case>* cases) {
  const std::pair<std::int32_t, std::int32_t> dims[] = {{64, 64},   {96, 96},   {128, 128},
                                                        {192, 128}, {256, 256}, {80, 80}};
  const std::vector<std::int32_t> own = {0, 1, 7, 33, 64, 65}, packed = {40, 1, 0, 77}, few = {3, 0, 18};
  for (const DType type : {DType::bf16, DType::f16, DType::f32}) {
    for (const auto& [D, Dv] : dims) {
      for (const bool wide : {false, true}) {
        for (const std::string extra : {"", " softcap", " turning"}) {
          AttentionCase c;
          c.options.kind = wide ? kind_of(type, 8, 2, D, Dv) : kind_of(type, 4, 4, D, Dv);
          c.options.softcap = extra == " softcap" ? 2.0 : 0.0;
          c.options.rope = extra == " turning";
          c.options.q_rotated = !c.options.rope;
          c.options.page_size = 16;
          c.topology = wide ? testing::prefix_group(150, packed, true) : testing::prefix_group(300, own, false);
          if (options.small) c.topology = testing::prefix_group(wide ? 20 : 70, few, wide);
          add(options,
              "instantiation/" + std::string(to_string(type)) + " D:" + std::to_string(D) + "/" + std::to_string(Dv) +
                  (wide ? " wide" : " narrow") + extra,
              c, cases);
        }
      }
    }
  }
}

// ---- The matrix

enum Factor { kTypes, kHeads, kDims, kPages, kShape, kOptions, kScales, kRotation, kSharing, kWindow, kMode };
const std::vector<std::int32_t> kLevels = {6, 5, 6, 4, 7, 6, 5, 4, 3, 4, 2};

void choose_kind(const std::vector<std::int32_t>& row, LayerKind* kind) {
  const std::pair<DType, DType> types[] = {{DType::bf16, DType::bf16}, {DType::f16, DType::f16},
                                           {DType::f32, DType::f32},   {DType::bf16, DType::f16},
                                           {DType::f32, DType::bf16},  {DType::f16, DType::f32}};
  const std::pair<std::int32_t, std::int32_t> heads[] = {{3, 3}, {8, 2}, {5, 1}, {16, 2}, {71, 1}};
  const std::pair<std::int32_t, std::int32_t> dims[] = {{64, 64},   {128, 128}, {192, 128},
                                                        {256, 256}, {80, 80},   {20, 17}};
  const std::int32_t windows[] = {-1, 1, 6, 90};
  std::tie(kind->q_dtype, kind->kv_dtype) = types[row[kTypes]];
  std::tie(kind->Hq, kind->Hkv) = heads[row[kHeads]];
  std::tie(kind->D, kind->Dv) = dims[row[kDims]];
  kind->window = windows[row[kWindow]];
}

void choose_options(const std::vector<std::int32_t>& row, testing::ProblemOptions* o) {
  const std::int32_t pages[] = {0, 1, 5, 16};
  o->page_size = pages[row[kPages]];
  o->pools = row[kPages] == 2 ? 2 : 1;
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
  if (row[kRotation] >= 2) {
    o->rope_dim = o->kind.D / 4 * 2;
    o->rope_offset = row[kRotation] == 3 ? o->kind.D - o->rope_dim : 0;
    o->mscale = 1.25;
  }
}

/// Random trees, the same with lengths known at the call, draft trees of one and of several words, a prefix's decode
/// and training, the end of a long path.
Topology choose_topology(std::int32_t shape, const LayerKind& kind, Random* random) {
  testing::RandomForest limits;
  limits.max_nodes = 14;
  limits.max_length = 30;
  limits.length_slots = shape == 1;
  if (shape <= 1) return testing::random_topology(random, limits);
  const std::int32_t most = 2'000'000 / (kind.Hq * (kind.D + kind.Dv));  // pairs that the oracle does in no time
  const std::int32_t keys = random->between(1, 300), rows = random->between(1, std::max(1, most / 150));
  if (shape == 2) return tests::draft_tree(keys, std::min(rows, 60), random);
  if (shape == 3) return tests::draft_tree(random->between(0, 40), std::min(rows + 65, 150), random);
  if (shape == 4) return testing::chain(std::vector<std::int32_t>{keys, rows}, rows);
  std::vector<std::int32_t> own = {0, 1, 7, 3, 65};
  if (shape == 5) return testing::prefix_group(random->between(0, 70), own, true);
  own.resize(static_cast<std::size_t>(std::min(rows, 90)), 2);
  return testing::prefix_group(keys, own, false);
}

AttentionCase matrix_case(const std::vector<std::int32_t>& row, std::uint64_t seed) {
  AttentionCase c;
  choose_kind(row, &c.options.kind);
  choose_options(row, &c.options);
  c.options.seed = seed;
  Random random(seed);
  c.topology = choose_topology(row[kShape], c.options.kind, &random);
  c.plan.sharing = static_cast<Sharing>(row[kSharing]);
  if (row[kSharing] == 0) c.plan.cost = tests::eager_cost();
  c.plan.mode = row[kMode] == 0 ? Mode::fast : Mode::batch_invariant;
  return c;
}

std::string row_name(const std::vector<std::int32_t>& row) {
  std::string name;
  for (const std::int32_t level : row) name += (name.empty() ? "" : "-") + std::to_string(level);
  return name;
}

void add_matrix(const CaseOptions& options, std::vector<Case>* cases) {
  for (int seed = 1; seed <= options.seeds; ++seed) {
    const auto rows = tests::pairwise(kLevels, static_cast<std::uint64_t>(seed));
    for (std::size_t i = 0; i < rows.size(); i += options.small ? 4 : 1) {
      const auto problem_seed = 1000 * static_cast<std::uint64_t>(seed) + i;
      add(options, "matrix/" + std::to_string(problem_seed) + " " + row_name(rows[i]),
          matrix_case(rows[i], problem_seed), cases);
    }
  }
}

// ---- Work for every block: split keys, states merged by the last arriver and by the kernel that follows

void add_large(const CaseOptions& options, std::vector<Case>* cases) {
  if (options.small) return;
  const auto one = [&](const std::string& name, const LayerKind& kind, Topology topology, Mode mode = Mode::fast) {
    AttentionCase c;
    c.options.kind = kind;
    c.options.page_size = 16;
    c.topology = std::move(topology);
    c.plan.mode = mode;
    add(options, "large/" + name, c, cases);
  };
  const LayerKind tensor_parallel = kind_of(DType::bf16, 8, 1, 128, 128),
                  grouped = kind_of(DType::bf16, 8, 2, 128, 128);
  one("one long sequence", tensor_parallel, testing::chain(std::vector<std::int32_t>{20000}, 1));
  one("one long sequence, invariant", tensor_parallel, testing::chain(std::vector<std::int32_t>{20000}, 1),
      Mode::batch_invariant);
  one("48 sequences on a long prefix", grouped, testing::prefix_group(3000, std::vector<std::int32_t>(48, 50), false));
  one("48 sequences on a long prefix, invariant", grouped,
      testing::prefix_group(3000, std::vector<std::int32_t>(48, 50), false), Mode::batch_invariant);
  one("training", grouped, testing::prefix_group(700, std::vector<std::int32_t>{130, 1, 200}, true));
  one("many short sequences", grouped, testing::prefix_group(0, std::vector<std::int32_t>(700, 19), false));
}

void add_odd(const CaseOptions& options, std::vector<Case>* cases) {
  AttentionCase c;
  c.options.kind = kind_of(DType::bf16, 8, 2, 128, 128);
  c.topology.add_node(-1, 5);
  add(options, "odd/no rows", c, cases);
  c.topology.add_sequence(-1, 3);
  add(options, "odd/rows without keys", c, cases);
  c.options.sinks = true;
  add(options, "odd/sinks without keys", c, cases);
}

}  // namespace

void add_forward_cases(const CaseOptions& options, std::vector<Case>* cases) {
  add_odd(options, cases);
  add_instantiations(options, cases);
  add_matrix(options, cases);
  add_large(options, cases);
}

}  // namespace prefixshare::gpu
