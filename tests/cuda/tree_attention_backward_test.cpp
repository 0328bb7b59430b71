// SPDX-License-Identifier: Apache-2.0
// The backward of tree_attention on CUDA, emulated, against the oracle.
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "prefixshare/cuda/accepts.hpp"
#include "support/attention.hpp"
#include "support/data.hpp"
#include "support/simt_device.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using prefixshare::testing::answer_backward;
using prefixshare::testing::check_backward;
using prefixshare::testing::to_doubles;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct BackwardCase {
  Topology topology;
  ProblemOptions options;
  PlanOptions plan;
  std::int32_t blocks = 3;
  BackwardCase() {
    options.backward = plan.backward = true;
    plan.cost = eager_cost();
  }
};

/// o and lse of the forward in plain C++: what a backward starts from.
void run_host_forward(Problem* p, const PlanOptions& options) {
  const NamedContext host = portable_context();
  run_forward(host.context, proved_plan(host, p->forest, p->options.kind, options), p);
}

Context forced_context(const char* name, const CostModel& cost, std::int32_t blocks) {
  Context context = emulated_context(cost);
  stand_in().state.blocks = blocks;
  require_ok(context.tree_attention.force(name));
  require_ok(context.tree_attention_backward.force(name));
  return context;
}

/// The backward of a problem that has o and lse, by an implementation, into poisoned gradients.
void run_device_backward(const char* name, const BackwardCase& c, Problem* p) {
  p->dq.poison();
  for (Problem::Pool& pool : p->pools) pool.dk.poison(), pool.dv.poison();
  for (float& x : p->dsinks) x = std::numeric_limits<float>::quiet_NaN();
  DeviceCall call(forced_context(name, c.plan.cost, c.blocks), *p, c.plan);
  const Status status = call.backward();
  rethrow_emulated();
  require_ok(status);
  CHECK(p->guards_intact());
}

/// Every implementation that takes the case, judged.
void run_case(const BackwardCase& c) {
  Problem p;
  require_ok(make_problem(c.topology, c.options, &p));
  run_host_forward(&p, c.plan);
  const testing::Answer answer = answer_backward(p.forest, c.options.kind, p.attend_grad());
  for (const char* name : {"cuda:mma-sm80", "cuda:simt"}) {
    if (std::string(name) == "cuda:mma-sm80") {
      if (!cuda::accepts_mma_backward("test", c.options.kind).ok() || p.dout.view().dtype != c.options.kind.q_dtype)
        continue;
    }
    INFO(name);
    run_device_backward(name, c, &p);
    check_comparison(check_backward(answer, p.attend_grad()));
  }
}

enum Factor { kTypes, kHeads, kDims, kPages, kShape, kOptions, kScales, kRotation, kSharing, kWindow, kHow };
const std::vector<std::int32_t> kLevels = {5, 4, 6, 3, 6, 5, 5, 5, 3, 3, 6};

Topology topology_of(std::int32_t shape, std::uint64_t seed) {
  Random random(seed);
  testing::RandomForest limits;
  limits.max_nodes = 10;
  limits.max_rows = 3;
  limits.length_slots = shape == 1;
  switch (shape) {
    case 0:
    case 1: return testing::random_topology(&random, limits);
    case 2: return testing::prefix_group(70, std::vector<std::int32_t>{0, 1, 17, 3}, true);
    case 3: return testing::prefix_group(40, std::vector<std::int32_t>{5, 1}, false);
    case 4: return draft_tree(20, 9, &random);
    default: return testing::chain(std::vector<std::int32_t>{30, 0, 7, 20}, 12);
  }
}

BackwardCase backward_case(const std::vector<std::int32_t>& row, std::uint64_t seed) {
  constexpr DType f32 = DType::f32, f16 = DType::f16, bf16 = DType::bf16;
  const std::pair<DType, DType> types[] = {{bf16, bf16}, {f16, f16}, {f32, f32}, {f32, bf16}, {f16, f32}};
  const std::pair<std::int32_t, std::int32_t> heads[] = {{2, 2}, {4, 1}, {5, 1}, {16, 2}};
  const std::pair<std::int32_t, std::int32_t> dims[] = {{64, 64},   {96, 96},   {128, 128},
                                                        {192, 128}, {256, 256}, {20, 9}};
  const std::int32_t pages[] = {0, 1, 16}, windows[] = {-1, 1, 9};
  BackwardCase c;
  c.topology = topology_of(row[kShape], seed);
  ProblemOptions& o = c.options;
  std::tie(o.kind.q_dtype, o.kind.kv_dtype) = types[row[kTypes]];
  std::tie(o.kind.Hq, o.kind.Hkv) = heads[row[kHeads]];
  std::tie(o.kind.D, o.kind.Dv) = dims[row[kDims]];
  o.kind.window = windows[row[kWindow]];
  o.seed = seed;
  o.page_size = pages[row[kPages]];
  o.strided = row[kOptions] == 1;
  o.softcap = row[kOptions] >= 2 ? 3.0 : 0.0;
  o.sinks = row[kOptions] >= 3;
  o.bias = row[kOptions] == 2 || row[kOptions] == 4;
  o.wide_outputs = row[kOptions] == 3;
  o.dlse = row[kOptions] != 1;
  o.k_scale = static_cast<ScaleGranularity>(row[kScales]);
  o.v_scale = static_cast<ScaleGranularity>((row[kScales] * 3) % 5);
  o.q_rotated = row[kRotation] <= 1;
  o.rope = row[kRotation] >= 1;
  o.pairing = row[kRotation] % 2 == 0 ? RopePairing::interleaved : RopePairing::half;
  if (row[kRotation] >= 3) {
    o.rope_dim = o.kind.D / 4 * 2;
    o.rope_offset = row[kRotation] == 4 ? o.kind.D - o.rope_dim : 0;
    o.mscale = 1.25;
  }
  if (row[kRotation] == 1 && row[kShape] >= 2) c.topology.nodes.back().delta = 5;
  c.plan.sharing = static_cast<Sharing>(row[kSharing]);
  c.blocks = 1 + static_cast<std::int32_t>(seed % 4);
  return c;
}

simt::Options how_to_run(std::int32_t how, std::uint64_t seed) {
  simt::Options options;
  options.order = static_cast<simt::Order>(how % 4);
  options.async = static_cast<simt::Async>(how % 3);
  options.resident = 1 + how % 2;
  options.misalign = how % 2 == 1;
  options.shuffle_blocks = how >= 3;
  options.seed = seed;
  return options;
}

}  // namespace

TEST_CASE("CUDA backward: types, heads, dims, pages, masks, options and orders agree with the oracle",
          "[cuda][backward]") {
  std::vector<std::vector<std::int32_t>> rows = pairwise(kLevels);
  for (std::uint64_t more = 2; test_all() && more < 10; ++more) {
    for (auto& row : pairwise(kLevels, more)) rows.push_back(std::move(row));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    INFO("row " << i << ": " << ::Catch::Detail::stringify(rows[i]));
    emulator() = Emulator(how_to_run(rows[i][kHow], i + 1));
    run_case(backward_case(rows[i], i + 1));
  }
}

TEST_CASE("CUDA backward: the same bits twice, and whatever the order of blocks and threads", "[cuda][backward]") {
  for (const char* name : {"cuda:mma-sm80", "cuda:simt"}) {
    INFO(name);
    BackwardCase c;
    c.topology = testing::prefix_group(100, std::vector<std::int32_t>{9, 20}, true);
    c.options.kind.Hq = 4;
    c.options.kind.Hkv = 2;
    c.options.kind.q_dtype = c.options.kind.kv_dtype = DType::bf16;
    c.options.sinks = true;
    Problem p;
    require_ok(make_problem(c.topology, c.options, &p));
    run_host_forward(&p, c.plan);
    emulator() = Emulator();
    run_device_backward(name, c, &p);
    const Outputs once = outputs_of(p);
    for (std::int32_t how = 1; how < 6; ++how) {
      emulator() = Emulator(how_to_run(how, 7));
      run_device_backward(name, c, &p);
      CHECK(outputs_of(p) == once);
    }
  }
}

TEST_CASE("CUDA backward: what is not finite reaches those that see it and nobody else", "[cuda][backward]") {
  for (const double odd : {kNaN, std::numeric_limits<double>::infinity()}) {
    for (std::int32_t which = 0; which < 4; ++which) {
      INFO("tensor " << which << ": " << odd);
      if (which < 2 && !std::isnan(odd)) continue;  // infinite logits leave 0 * infinity to the order of sums
      BackwardCase c;
      c.topology = testing::prefix_group(40, std::vector<std::int32_t>{9, 30}, true);
      c.options.kind.q_dtype = c.options.kind.kv_dtype = DType::f16;
      Problem p;
      require_ok(make_problem(c.topology, c.options, &p));
      const std::int64_t row = 45, key = p.forest.segments[2].offset + 20, D = 64;
      if (which == 0) p.q.set(row * D + 3, odd);
      if (which == 1) p.pools[0].k.set(key * D + 3, odd);
      if (which == 2) p.dout.set(row * D + 3, odd);
      if (which == 3) p.pools[0].v.set(key * D + 3, odd);
      run_host_forward(&p, c.plan);
      const testing::Answer answer = answer_backward(p.forest, c.options.kind, p.attend_grad());
      for (const char* name : {"cuda:mma-sm80", "cuda:simt"}) {
        INFO(name);
        emulator() = Emulator();
        run_device_backward(name, c, &p);
        check_comparison(check_backward(answer, p.attend_grad()));
      }
    }
  }
}

TEST_CASE("CUDA backward: accumulate adds once, and gradients may be absent", "[cuda][backward]") {
  for (const char* name : {"cuda:mma-sm80", "cuda:simt"}) {
    INFO(name);
    BackwardCase c;
    c.topology = testing::prefix_group(30, std::vector<std::int32_t>{3, 0, 5}, true);
    c.options.kind.q_dtype = c.options.kind.kv_dtype = DType::bf16;
    c.options.kind.Hq = 2;
    c.options.sinks = true;
    Problem p;
    require_ok(make_problem(c.topology, c.options, &p));
    run_host_forward(&p, c.plan);
    testing::Answer answer = answer_backward(p.forest, c.options.kind, p.attend_grad());
    emulator() = Emulator();
    run_device_backward(name, c, &p);
    {
      DeviceCall again(forced_context(name, c.plan.cost, c.blocks), p, c.plan);
      again.grad.accumulate = true;
      require_ok(again.backward());
    }
    for (testing::AttentionExpectation* e : {&answer.exact, &answer.dense}) {
      for (testing::Expected* x : {&e->dq, &e->dk[0], &e->dv[0], &e->dsinks}) {
        for (double& value : x->value) value *= 2;
        for (double& magnitude : x->magnitude) magnitude *= 2;
      }
    }
    check_comparison(check_backward(answer, p.attend_grad()));
    const std::vector<double> dk = to_doubles(p.dkv[0].dk), dq = to_doubles(p.dq.view());
    {
      DeviceCall only_dv(forced_context(name, c.plan.cost, c.blocks), p, c.plan);
      only_dv.grads[0].dk = {};
      only_dv.grad.dkv = only_dv.grads;
      only_dv.grad.dq = {};
      only_dv.grad.dsinks = {};
      require_ok(only_dv.backward());
    }
    CHECK(std::equal(dk.begin(), dk.end(), to_doubles(p.dkv[0].dk).begin(),
                     [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }));
    CHECK(to_doubles(p.dq.view()) == dq);
  }
}
