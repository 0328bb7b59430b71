// SPDX-License-Identifier: Apache-2.0
// tree_attention, forward: every implementation against the brute-force oracle. Matrices of shapes and options:
// tree_attention_matrix_test.cpp. Odd numbers: tree_attention_numbers_test.cpp.
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "support/attention.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;
using prefixshare::testing::check_forward;

TEST_CASE("tree_attention: 1,000 random forests in f64 and 1,000 in f32 agree with the oracle", "[attention]") {
  const std::vector<NamedContext> contexts = attention_contexts();
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
    ForwardCase c;
    Random random(seed);
    testing::RandomForest limits;
    limits.length_slots = random.chance(0.3);
    c.topology = testing::random_topology(&random, limits);
    LayerKind& kind = c.options.kind;
    kind.Hq = random.between(1, 2) * 2;
    kind.Hkv = 2;
    kind.D = seed <= 1000 || random.chance(0.3) ? 4 : 16;
    kind.Dv = random.chance(0.5) ? kind.D : kind.D - 1;
    kind.window = random.chance(0.3) ? random.between(1, 20) : -1;
    kind.q_dtype = kind.kv_dtype = seed <= 1000 ? DType::f64 : DType::f32;
    c.options.seed = seed;
    c.options.page_size = random.between(0, 5);
    c.options.alias_segments = random.chance(0.3);
    c.options.sinks = random.chance(0.3);
    c.options.q_rotated = random.chance(0.7);
    c.plan.sharing = static_cast<Sharing>(random.between(0, 2));
    if (random.chance(0.5)) c.plan.cost = eager_cost();
    if (random.chance(0.2)) c.plan.mode = Mode::batch_invariant;
    INFO("seed " << seed);
    run_case(contexts, c);
  }
}

TEST_CASE("tree_attention: long paths are cut into parts and merged", "[attention]") {
  const std::vector<NamedContext> contexts = attention_contexts(DType::bf16);
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
      ForwardCase c;
      std::vector<std::int32_t> own(40, 3);
      own[7] = 600;
      c.topology = testing::prefix_group(1500, own, false);
      c.topology.add_sequence(0, 5);
      c.options.kind.Hq = 4;
      c.options.kind.Hkv = 2;
      c.options.kind.D = c.options.kind.Dv = 16;
      c.options.kind.q_dtype = c.options.kind.kv_dtype = type;
      c.options.page_size = 16;
      c.plan.mode = mode;
      c.plan.cost = eager_cost();
      c.plan.target_parallelism = 64;
      run_case(contexts, c);
    }
  }
}

TEST_CASE("tree_attention: any number of parts, in any order, on one thread or many, gives the same bits",
          "[attention]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
      std::vector<std::int32_t> own(30, 4);
      own[3] = 700;
      ProblemOptions options;
      options.kind.Hq = 6;
      options.kind.Hkv = 3;
      options.kind.D = options.kind.Dv = 16;
      options.sinks = true;
      Problem p;
      require_ok(make_problem(testing::prefix_group(900, own, false), options, &p));
      PlanOptions plan_options;
      plan_options.mode = mode;
      plan_options.cost = eager_cost();
      plan_options.target_parallelism = 16;
      const Plan plan = proved_plan(c, p.forest, options.kind, plan_options);
      REQUIRE(plan.header.partial_rows > 0);
      run_forward(c.context, plan, &p);
      const Outputs one = outputs_of(p);
      for (const std::int32_t parts : {1, 2, 3, 8, 64}) {
        for (std::uint64_t order = 0; order < 4; ++order) {
          run_forward(c.context, plan, &p, parts, order);
          CHECK(outputs_of(p) == one);
        }
      }
      for (const std::int32_t parts : {2, 8}) {
        require_ok(p.bind_workspace(plan, parts));
        p.poison_outputs();
        run_on_threads(parts,
                       [&](std::int32_t i) { return tree_attention_part(c.context, plan, p.attend(), i, parts); });
        CHECK(outputs_of(p) == one);
      }
    }
  }
}

TEST_CASE("tree_attention: a workspace serves call after call", "[attention][memcheck]") {
  for (const NamedContext& c : attention_contexts()) {
    std::vector<std::int32_t> own(9, 4);
    ProblemOptions options;
    options.kind.D = options.kind.Dv = 8;
    Problem p;
    require_ok(make_problem(testing::prefix_group(300, own, false), options, &p));
    PlanOptions plan_options;
    plan_options.cost = eager_cost();
    const Plan plan = proved_plan(c, p.forest, options.kind, plan_options);
    run_forward(c.context, plan, &p, 3);
    const Outputs first = outputs_of(p);
    for (int call = 0; call < 3; ++call) {
      p.poison_outputs();
      for (std::int32_t i = 0; i < 3; ++i) require_ok(tree_attention_part(c.context, plan, p.attend(), i, 3));
      CHECK(outputs_of(p) == first);
    }
  }
}

TEST_CASE("tree_attention: only lse, or no lse, changes no bit of what is left", "[attention][memcheck]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    std::vector<std::int32_t> own = {0, 5, 9};
    ProblemOptions options;
    options.kind.Hq = 2;
    options.kind.D = options.kind.Dv = 8;
    Problem p;
    require_ok(make_problem(testing::prefix_group(20, own, true), options, &p));
    PlanOptions plan_options;
    plan_options.cost = eager_cost();
    const Plan plan = proved_plan(c, p.forest, options.kind, plan_options);
    run_forward(c.context, plan, &p);
    const Outputs both = outputs_of(p);
    p.poison_outputs();
    Attend only = p.attend();
    only.o = {};
    require_ok(tree_attention(c.context, plan, only));
    CHECK(p.o.poisoned(0, testing::count_of(p.o.view())));
    CHECK(testing::to_doubles(p.lse.view()) == both.values[1]);
    p.poison_outputs();
    only = p.attend();
    only.lse = {};
    require_ok(tree_attention(c.context, plan, only));
    CHECK(p.lse.poisoned(0, testing::count_of(p.lse.view())));
    CHECK(testing::to_doubles(p.o.view()) == both.values[0]);
  }
}

TEST_CASE("tree_attention: no rows, no nodes, no tokens", "[attention]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    for (int what = 0; what < 4; ++what) {
      Topology t;
      if (what >= 1) t.add_node(-1, what == 3 ? 0 : 4);
      if (what == 1) t.add_sequence(0, 0);
      if (what == 2) t.add_sequence(-1, 3);
      if (what == 3) t.add_sequence(0, 2);
      ProblemOptions options;
      options.kind.D = options.kind.Dv = 8;
      Problem p;
      require_ok(make_problem(t, options, &p));
      const Plan plan = proved_plan(c, p.forest, options.kind, {});
      run_forward(c.context, plan, &p, 3);
      for (double x : testing::to_doubles(p.o.view())) CHECK(x == 0);
      for (double x : testing::to_doubles(p.lse.view())) CHECK(x == -std::numeric_limits<double>::infinity());
    }
  }
}

// ---- Explicit rectangles
// ---------------------------------------------------------------------------------------------

namespace {

/// Rectangles over the memory of a problem: its pools, segments and query rows; its forest is not used.
struct Rectangles {
  Problem problem;
  std::vector<RowInstance> rows;
  std::vector<Rectangle> rectangles;
  std::vector<std::uint64_t> words;

  /// Segments of the given lengths and `q_rows` query rows.
  Rectangles(const std::vector<std::int32_t>& segments, std::int32_t q_rows, ProblemOptions options) {
    Topology t;
    for (std::int32_t length : segments) t.add_node(-1, length);
    t.add_sequence(-1, q_rows);
    options.rope = true;
    options.page_size = 4;
    options.backward = true;
    require_ok(make_problem(t, options, &problem));
  }
  void add_row(std::int32_t row, std::int32_t order, std::int32_t position, std::int32_t delta) {
    RowInstance r;
    r.row = row;
    r.order = order;
    r.position = position;
    r.delta = delta;
    rows.push_back(r);
  }
  /// Against the last `count` rows that were added.
  Rectangle* add(std::int32_t count, std::int32_t segment, std::int32_t position, MaskKind mask) {
    Rectangle r;
    r.first_row = static_cast<std::int32_t>(rows.size()) - count;
    r.row_count = count;
    r.segment = segment;
    r.length = problem.forest.segments[static_cast<std::size_t>(segment)].length;
    r.position = position;
    r.mask = mask;
    rectangles.push_back(r);
    return &rectangles.back();
  }
  RectangleInput input() const {
    RectangleInput in;
    in.pools = problem.forest.pools;
    in.pages = problem.forest.pages;
    in.segments = problem.forest.segments;
    in.rows = rows;
    in.rectangles = rectangles;
    in.words = words;
    in.q_rows = problem.forest.rows();
    return in;
  }

  /// Forward and backward on every implementation that takes the kind, against the oracle.
  void run() {
    const LayerKind& kind = problem.options.kind;
    problem.forest.fingerprint = 0;  // the plan is not of this forest
    for (const NamedContext& c : attention_contexts()) {
      if (!c.takes(kind)) continue;
      INFO(c.name << ", " << to_string(kind.q_dtype) << ", D " << kind.D);
      PlanOptions options;
      options.backward = true;
      options.cost = eager_cost();
      const Plan plan = proved_plan(c, input(), kind, options);
      run_forward(c.context, plan, &problem, 3, 1);
      const testing::Answer answer = testing::answer_backward(input(), kind, problem.attend_grad());
      run_backward(c.context, plan, &problem, 3, 1);
      check_comparison(check_forward(answer, problem.attend()));
      check_comparison(testing::check_backward(answer, problem.attend_grad()));
    }
  }
};

/// f64, and f32 with head dims that fill vectors and that do not, with many packed rows and with few.
std::vector<ProblemOptions> rectangle_options(bool q_rotated) {
  const std::tuple<DType, std::int32_t, std::int32_t> kinds[] = {
      {DType::f64, 4, 8}, {DType::f32, 4, 8}, {DType::f32, 4, 16}, {DType::f32, 2, 16}};
  std::vector<ProblemOptions> list;
  for (const auto& [type, Hq, D] : kinds) {
    ProblemOptions options;
    options.kind.Hq = Hq;
    options.kind.Hkv = 2;
    options.kind.D = options.kind.Dv = D;
    options.kind.q_dtype = options.kind.kv_dtype = type;
    options.q_rotated = q_rotated;
    list.push_back(options);
  }
  return list;
}

/// Hogwild: each worker sees the prompt, then the other workers' fragments, then its own, at positions of its own
/// choice.
void run_workers(const ProblemOptions& options) {
  const std::vector<std::int32_t> lengths = {11, 5, 6, 4};  // prompt, fragments of three workers
  Rectangles r(lengths, 6, options);
  for (std::int32_t fragment = 0; fragment < 4; ++fragment) {
    for (std::int32_t worker = 0; worker < 3; ++worker) {
      for (std::int32_t row = 0; row < 2; ++row) {
        std::int32_t before = fragment == 0 ? 0 : 11;  // where this worker has the fragment
        for (std::int32_t other = 1; other < 4; ++other) {
          const bool earlier = other != worker + 1 && (fragment == worker + 1 || other < fragment);
          if (fragment > 0 && earlier) before += lengths[static_cast<std::size_t>(other)];
        }
        const bool own = fragment == worker + 1;
        const std::int32_t last = lengths[static_cast<std::size_t>(fragment)] - 1;
        const std::int32_t order = own ? last - 1 + row : last;  // the own fragment is causal
        r.add_row(worker * 2 + row, order, 24 + row, before);
      }
    }
    r.add(6, fragment, 0, MaskKind::interval);
  }
  r.run();
}

/// A tree of 70 draft tokens, more than a word of bits, behind a full context; the last `rows` of them are queries.
void run_draft_tree(const ProblemOptions& options, std::int32_t rows) {
  constexpr std::int32_t kTokens = 70;
  Random random(3);
  std::vector<std::int32_t> parents = {-1};
  for (std::int32_t n = 1; n < kTokens; ++n) parents.push_back(random.between(0, n - 1));
  Rectangles r({20, kTokens}, rows, options);
  for (std::int32_t n = kTokens - rows; n < kTokens; ++n) {
    std::uint64_t words[2] = {};
    std::int32_t depth = 0;
    for (std::int32_t a = n; a >= 0; a = parents[static_cast<std::size_t>(a)], ++depth) {
      words[a / 64] |= std::uint64_t{1} << (a % 64);
    }
    r.words.insert(r.words.end(), words, words + 2);
    r.add_row(n - (kTokens - rows), 0, 20 + depth - 1, n % 2);
  }
  r.add(rows, 0, 0, MaskKind::full);
  r.add(rows, 1, 20, MaskKind::bits);
  r.run();
}

}  // namespace

TEST_CASE("tree_attention: rectangles: workers on each other's fragments, a delta and an order per (row, fragment)",
          "[attention][rectangles]") {
  for (const bool q_rotated : {true, false}) {
    for (const ProblemOptions& options : rectangle_options(q_rotated)) run_workers(options);
  }
}

TEST_CASE("tree_attention: rectangles: block-causal rows see their whole block", "[attention][rectangles]") {
  for (const ProblemOptions& options : rectangle_options(true)) {
    Rectangles r({12}, 12, options);
    for (std::int32_t row = 0; row < 12; ++row) r.add_row(row, row / 4 * 4 + 3, row, 0);
    r.add(12, 0, 0, MaskKind::interval);
    r.run();
  }
}

TEST_CASE("tree_attention: rectangles: a draft tree as bits behind a full context",
          "[attention][rectangles][memcheck]") {
  for (const ProblemOptions& options : rectangle_options(false)) {
    for (const std::int32_t rows : {70, 7}) run_draft_tree(options, rows);
  }
}

TEST_CASE("tree_attention: draft trees of a forest agree with the oracle", "[attention][memcheck]") {
  const std::vector<NamedContext> contexts = attention_contexts();
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    ForwardCase c;
    c.topology = draft_tree(30, seed % 2 == 0 ? 40 : 4, &random);  // many packed rows, or few
    c.options.kind.Hq = 4;
    c.options.kind.Hkv = 2;
    c.options.kind.D = c.options.kind.Dv = 16;
    c.options.kind.window = seed % 3 == 0 ? 6 : -1;
    c.options.seed = seed;
    Problem p;
    require_ok(make_problem(c.topology, c.options, &p));
    Plan plan;
    require_ok(make_plan(contexts[0].context, p.forest, c.options.kind, {}, &plan));
    CHECK(plan.runs.back().mask == MaskKind::bits);
    INFO("seed " << seed);
    run_case(contexts, c);
  }
}
