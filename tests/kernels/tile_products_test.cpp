// SPDX-License-Identifier: Apache-2.0
// cpu:amx-bf16 and cpu:avx512-bf16 by their names, where the machine has what they take, and the forward with emulated
// tiles, as an implementation of its own.
#define PREFIXSHARE_REGION emulated
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "cpu/attend_body.hpp"
#include "cpu/attend_tiles.hpp"
#include "cpu/float_control.hpp"
#include "kernels/emulated_tiles.hpp"
#include "kernels/tile_contexts.hpp"
#include "support/packed.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using prefixshare::testing::Answer;
using prefixshare::testing::answer_forward;
using prefixshare::testing::check_forward;

Status emulated_part(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept {
  using Many = cpu::emulated::AttendTiles<cpu::emulated::TileMultiplier<cpu::emulated::EmulatedTiles>>;
  detail::AttendForward<cpu::emulated::AttendBody<Many>>(call.plan, call.args, part, parts).run();
  return Status{};
}

constexpr const char* kImplementations[] = {"cpu:amx-bf16", "cpu:avx512-bf16"};

/// The emulation, and the implementations themselves on a machine that can run them.
std::vector<NamedContext> tile_contexts() {
  std::vector<NamedContext> contexts;
  Context base;
  require_ok(create_context(&base));
  for (const char* name : kImplementations) {
    if (hardware_verdict(name).ok()) contexts.push_back(forced_context(base, name));
  }
  if (!can_emulate_tiles()) return contexts;
  Implementation<AttentionProblem, AttendCall> entry;
  entry.name = "cpu:amx-bf16-emulated";
  entry.part = &cpu::controlled<&emulated_part, AttendCall>;
  require_ok(base.tree_attention.add(entry));
  Implementation<AttentionProblem, PackSegmentCall> pack;
  pack.name = entry.name;
  pack.part = &cpu::pack_tiles_part;
  require_ok(base.pack_segment.add(pack));
  contexts.push_back(forced_context(base, entry.name));
  return contexts;
}

LayerKind bf16_kind(std::int32_t Hq, std::int32_t Hkv, std::int32_t D, std::int32_t Dv) {
  LayerKind kind;
  kind.Hq = Hq;
  kind.Hkv = Hkv;
  kind.D = D;
  kind.Dv = Dv;
  kind.q_dtype = kind.kv_dtype = DType::bf16;
  return kind;
}

LayerKind random_kind(Random* random) {
  const std::pair<std::int32_t, std::int32_t> heads[] = {{3, 3}, {32, 2}, {5, 1}, {16, 2}, {71, 1}};
  const std::pair<std::int32_t, std::int32_t> dims[] = {{16, 16},   {64, 64},   {80, 80}, {96, 96}, {128, 128},
                                                        {192, 128}, {576, 512}, {8, 8},   {20, 17}};
  const auto& [Hq, Hkv] = heads[random->between(0, 4)];
  const auto& [D, Dv] = dims[random->between(0, 8)];
  LayerKind kind = bf16_kind(Hq, Hkv, D, Dv);
  if (random->chance(0.2)) kind.q_dtype = random->chance(0.5) ? DType::f32 : DType::f16;
  if (random->chance(0.3)) kind.window = random->between(1, 40);
  return kind;
}

ProblemOptions random_options(const LayerKind& kind, Random* random) {
  ProblemOptions o;
  o.kind = kind;
  o.seed = random->next();
  o.page_size = random->between(0, 1) * random->between(1, 20);
  o.pools = random->between(1, 2);
  o.v_in_k = kind.D == 576;
  o.strided = random->chance(0.3);
  o.softcap = random->chance(0.2) ? 3.0 : 0.0;
  o.sinks = random->chance(0.3);
  o.bias = random->chance(0.2);
  o.wide_outputs = random->chance(0.2);
  o.alias_segments = random->chance(0.3);
  if (random->chance(0.3)) {
    o.k_scale = static_cast<ScaleGranularity>(random->between(0, 4));
    o.v_scale = static_cast<ScaleGranularity>(random->between(0, 4));
  }
  o.rope = random->chance(0.4);
  o.q_rotated = !o.rope || random->chance(0.5);
  return o;
}

}  // namespace

TEST_CASE("tiles: random forests of every shape and option agree with the oracle", "[attention][tiles]") {
  const std::vector<NamedContext> contexts = tile_contexts();
  for (std::uint64_t seed = 1; seed <= (test_all() ? 600u : 120u); ++seed) {
    Random random(seed);
    testing::RandomForest limits;
    limits.max_nodes = 12;
    limits.max_length = random.chance(0.5) ? 9 : 40;
    limits.length_slots = random.chance(0.3);
    ForwardCase c;
    c.topology = testing::random_topology(&random, limits);
    c.options = random_options(random_kind(&random), &random);
    c.plan.sharing = static_cast<Sharing>(random.between(0, 2));
    if (random.chance(0.5)) c.plan.cost = eager_cost();
    if (random.chance(0.3)) c.plan.mode = Mode::batch_invariant;
    INFO("seed " << seed);
    run_case(contexts, c);
  }
}

TEST_CASE("tiles: every number of packed rows and of keys agrees with the oracle", "[attention][tiles]") {
  const std::vector<NamedContext> contexts = tile_contexts();
  for (std::int32_t n = 1; n <= 130; n += test_all() ? 1 : 3) {
    for (const bool many_rows : {false, true}) {
      ForwardCase c;
      const std::vector<std::int32_t> tokens = {many_rows ? 150 : n};
      c.topology = testing::chain(tokens, many_rows ? n : 1);
      c.options.kind = bf16_kind(many_rows ? 1 : 20, 1, 64, 64);
      c.options.page_size = n % 2 == 0 ? 16 : 0;
      INFO((many_rows ? "rows " : "keys ") << n);
      run_case(contexts, c);
    }
  }
}

TEST_CASE("tiles: long paths are cut into parts and merged, with draft trees behind them", "[attention][tiles]") {
  const std::vector<NamedContext> contexts = tile_contexts();
  for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
    ForwardCase c;
    std::vector<std::int32_t> own(40, 3);
    own[7] = 600;
    c.topology = testing::prefix_group(1500, own, false);
    c.topology.add_sequence(0, 5);
    c.options.kind = bf16_kind(8, 2, 32, 48);
    c.options.page_size = 16;
    c.plan.mode = mode;
    c.plan.cost = eager_cost();
    c.plan.target_parallelism = 64;
    run_case(contexts, c);
    Random random(3);
    c.topology = draft_tree(700, 60, &random);
    run_case(contexts, c);
  }
}

TEST_CASE("tiles: any number of parts, in any order, on one thread or many, gives the same bits",
          "[attention][tiles]") {
  for (const NamedContext& c : tile_contexts()) {
    INFO(c.name);
    for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
      std::vector<std::int32_t> own(30, 4);
      own[3] = 700;
      ProblemOptions options;
      options.kind = bf16_kind(18, 3, 16, 16);
      Problem p;
      require_ok(make_problem(testing::prefix_group(900, own, false), options, &p));
      PlanOptions plan_options;
      plan_options.mode = mode;
      plan_options.cost = eager_cost();
      plan_options.target_parallelism = 16;
      const Plan plan = proved_plan(c, p.forest, options.kind, plan_options);
      run_forward(c.context, plan, &p);
      const Outputs one = outputs_of(p);
      for (const std::int32_t parts : {2, 3, 8}) {
        run_forward(c.context, plan, &p, parts, 7);
        CHECK(outputs_of(p) == one);
        require_ok(p.bind_workspace(plan, parts));
        p.poison_outputs();
        run_on_threads(parts,
                       [&](std::int32_t i) { return tree_attention_part(c.context, plan, p.attend(), i, parts); });
        CHECK(outputs_of(p) == one);
      }
    }
  }
}

namespace {

/// One sequence of a problem's forest alone, into its rows of the outputs.
void run_alone(const NamedContext& c, Problem* p, std::size_t sequence, std::int64_t first_row, PlanOptions options) {
  ForestInput input;
  input.pools = p->forest.pools;
  input.pages = p->forest.pages;
  input.segments = p->forest.segments;
  input.nodes = p->forest.nodes;
  input.sequences = {&p->forest.sequences[sequence], 1};
  Forest alone;
  require_ok(make_forest(input, &alone));
  const Plan plan = proved_plan(c, alone, p->options.kind, options);
  require_ok(p->bind_workspace(plan, 1));
  Attend args = p->attend();
  args.fingerprint = 0;
  const std::int64_t rows = input.sequences[0].q_len;
  const auto cut = [&](auto* view) {
    view->data = static_cast<char*>(view->data) + first_row * view->stride[0] * size_of(view->dtype);
    view->shape[0] = rows;
  };
  cut(&args.q), cut(&args.o), cut(&args.lse);
  require_ok(tree_attention(c.context, plan, args));
}

}  // namespace

TEST_CASE("tiles: in batch_invariant mode a sequence's bits are those it has alone", "[attention][tiles]") {
  for (const NamedContext& c : tile_contexts()) {
    INFO(c.name);
    for (const std::int32_t window : {-1, 77}) {
      Topology t;
      const std::int32_t common = t.add_node(-1, 600), more = t.add_node(common, 530);
      for (std::int32_t i = 0; i < 12; ++i) {
        t.add_sequence(t.add_node(i % 3 == 0 ? common : more, 1 + 37 * i), std::min(1 + 37 * i, 1 + i % 5));
      }
      ProblemOptions options;
      options.kind = bf16_kind(4, 2, 32, 32);
      options.kind.window = window;
      Problem p;
      require_ok(make_problem(t, options, &p));
      PlanOptions plan_options;
      plan_options.mode = Mode::batch_invariant;
      plan_options.sharing = Sharing::always;
      run_forward(c.context, proved_plan(c, p.forest, options.kind, plan_options), &p);
      const Outputs together = outputs_of(p);
      p.poison_outputs();
      std::int64_t row = 0;
      for (std::size_t s = 0; s < p.forest.sequences.size(); ++s) {
        run_alone(c, &p, s, row, plan_options);
        row += p.forest.sequences[s].q_len;
      }
      CHECK(outputs_of(p) == together);
    }
  }
}

TEST_CASE("tiles: what is not finite reaches the rows and heads that see it, and leaves the bits of all others",
          "[attention][tiles]") {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (const NamedContext& c : tile_contexts()) {
    INFO(c.name);
    for (const ScaleGranularity scales : {ScaleGranularity::none, ScaleGranularity::token}) {
      for (int what = 0; what < 6; ++what) {
        INFO("what " << what);
        ProblemOptions options;
        options.kind = bf16_kind(40, 2, 32, 40);
        options.v_scale = scales;
        if (scales != ScaleGranularity::none) options.kind.q_dtype = DType::f32;
        Problem p;
        require_ok(make_problem(testing::prefix_group(9, std::vector<std::int32_t>{4, 5}, true), options, &p));
        PlanOptions plan_options;
        plan_options.cost = eager_cost();
        const Plan plan = proved_plan(c, p.forest, options.kind, plan_options);
        run_forward(c.context, plan, &p);
        const std::vector<double> clean = testing::to_doubles(p.o.view());
        const std::int64_t token = p.forest.segments[1].offset + 2;  // of the first suffix
        const double odd = what < 3 ? std::nan("") : kInf;
        if (what % 3 == 0) p.q.set((3 * 40 + 1) * 32 + 2, odd);
        if (what % 3 == 1) p.pools[0].k.set((token * 2 + 1) * 32, odd);
        if (what % 3 == 2) p.pools[0].v.set((token * 2 + 1) * 40 + 5, odd);
        const Answer answer = answer_forward(p.forest, options.kind, p.attend());
        run_forward(c.context, plan, &p);
        check_comparison(check_forward(answer, p.attend()));
        const std::vector<double> o = testing::to_doubles(p.o.view());
        for (std::int32_t row = 0; row < p.forest.rows(); ++row) {
          for (std::int32_t h = 0; h < 40; ++h) {
            const bool sees = row == 11 || row == 12;  // rows 2 and 3 of the first suffix
            if (what % 3 == 0 ? row == 3 && h == 1 : sees && h >= 20) continue;
            const std::size_t at = static_cast<std::size_t>(row * 40 + h) * 40;
            CHECK(std::memcmp(&o[at], &clean[at], 40 * sizeof(double)) == 0);
          }
        }
      }
    }
  }
}

TEST_CASE("tiles: a value's scale that is not finite reaches the rows that see it", "[attention][tiles]") {
  for (const NamedContext& c : tile_contexts()) {
    ProblemOptions options;
    options.kind = bf16_kind(40, 2, 32, 32);
    options.v_scale = ScaleGranularity::token;
    Problem p;
    require_ok(make_problem(testing::prefix_group(9, std::vector<std::int32_t>{4, 5}, true), options, &p));
    p.pools[0].v_scale[static_cast<std::size_t>(p.forest.segments[1].offset + 2) * 2] = std::nanf("");
    const Answer answer = answer_forward(p.forest, options.kind, p.attend());
    run_forward(c.context, proved_plan(c, p.forest, options.kind, {}), &p);
    check_comparison(check_forward(answer, p.attend()));
  }
}

namespace {

PackSegment packing(const Problem& p, std::int32_t tokens, PackedMemory* memory) {
  PackSegment args;
  args.tokens = tokens;
  args.pool = p.kv[0];
  args.out = memory->data();
  args.bytes = memory->bytes();
  return args;
}

}  // namespace

TEST_CASE("tiles: a packed prefix is read from the copy, and agrees with the oracle", "[pack][tiles]") {
  for (const NamedContext& c : tile_contexts()) {
    INFO(c.name);
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
      Random random(seed);
      const std::int32_t tokens = random.chance(0.5) ? 301 : random.between(0, 301);
      ProblemOptions options = random_options(random_kind(&random), &random);
      options.pools = 1;
      options.alias_segments = false;
      INFO("seed " << seed << ", tokens " << tokens);
      Problem p;
      require_ok(make_problem(testing::prefix_group(301, std::vector<std::int32_t>(30, 3), false), options, &p));
      PlanOptions plan_options;
      plan_options.cost = eager_cost();
      if (random.chance(0.3)) plan_options.mode = Mode::batch_invariant;
      const Plan plan = proved_plan(c, p.forest, options.kind, plan_options);
      if (random.chance(0.3) && !options.v_in_k) {
        const detail::TokenPlace at = detail::place_of(plan.view(), p.forest.segments[0], random.between(0, 300));
        p.pools[0].v.set((at.page * p.forest.pools[0].page_size + at.slot) * options.kind.Hkv * options.kind.Dv,
                         std::nan(""));
      }
      const Answer answer = answer_forward(p.forest, options.kind, p.attend());
      PackedMemory memory(options.kind, tokens), again(options.kind, tokens);
      require_ok(pack_segment(c.context, plan, packing(p, tokens, &memory)));
      const auto* entry = detail::find(c.context.pack_segment, c.name.c_str());
      for (const std::int32_t part : {2, 0, 1}) {
        require_ok(entry->part({plan.view(), packing(p, tokens, &again)}, part, 3));
      }
      CHECK(std::memcmp(memory.data(), again.data(), static_cast<std::size_t>(memory.bytes())) == 0);
      const PackedSegment packed{0, tokens, memory.data()};
      p.kv[0].packed = {&packed, 1};
      run_forward(c.context, plan, &p, 2);
      check_comparison(check_forward(answer, p.attend()));
    }
  }
}

TEST_CASE("tiles: a pool that has forgotten what is packed changes nothing", "[pack][tiles]") {
  for (const NamedContext& c : tile_contexts()) {
    ProblemOptions options;
    options.kind = bf16_kind(40, 2, 32, 48);
    options.v_scale = ScaleGranularity::token;
    Problem p;
    require_ok(make_problem(testing::prefix_group(256, std::vector<std::int32_t>(30, 3), false), options, &p));
    const Plan plan = proved_plan(c, p.forest, options.kind, {});
    PackedMemory memory(options.kind, 256);
    require_ok(pack_segment(c.context, plan, packing(p, 256, &memory)));
    const PackedSegment packed{0, 256, memory.data()};
    p.kv[0].packed = {&packed, 1};
    run_forward(c.context, plan, &p);
    const Outputs before = outputs_of(p);
    const std::int64_t first = p.forest.segments[0].offset * 2;
    for (std::int64_t i = first * 32; i < (first + 256 * 2) * 32; ++i) p.pools[0].k.set(i, 1e3);
    for (std::int64_t i = first * 48; i < (first + 256 * 2) * 48; ++i) p.pools[0].v.set(i, 1e3);
    run_forward(c.context, plan, &p);
    CHECK(outputs_of(p) == before);
  }
}

TEST_CASE("tiles: implementations run what they accept, and else say what is missing", "[attention][tiles]") {
  for (const char* name : kImplementations) {
    const bool runs = hardware_verdict(name).ok();
    Context context;
    require_ok(create_context(&context));
    require_ok(force_implementation(&context, name));
    for (const DType type : {DType::bf16, DType::f32, DType::f64}) {
      ProblemOptions options;
      options.kind.q_dtype = options.kind.kv_dtype = type;
      Problem p;
      require_ok(make_problem(testing::chain(std::vector<std::int32_t>{5}, 2), options, &p));
      Plan plan;
      const Status s = make_plan(context, p.forest, options.kind, {}, &plan);
      INFO(name << ": " << to_string(s));
      CHECK(s.ok() == (runs && type == DType::bf16));
      if (s.ok()) continue;
      CHECK(s.code == StatusCode::unsupported);
      CHECK((std::string(s.field).find("dtype") != std::string::npos) == runs);
    }
  }
}
