// SPDX-License-Identifier: Apache-2.0
// make_plan: every plan is proved by brute force; sharing never loses; sizes stay within their bounds.
#include "prefixshare/plan.hpp"

#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/testing/plan_checker.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

namespace {

using namespace prefixshare;
using testing::check_plan;
using testing::Random;
using testing::Topology;

Forest place(const Topology& topology, std::int32_t page_size = 0, std::uint64_t seed = 1, bool alias = false) {
  testing::ProblemOptions options;
  options.page_size = page_size;
  options.pools = 2;
  options.alias_segments = alias;
  Random random(seed);
  Forest forest;
  REQUIRE(testing::detail::place_forest(topology, options, &random, &forest).ok());
  return forest;
}

LayerKind kind_of(std::int32_t Hq, std::int32_t Hkv, std::int32_t window = -1) {
  LayerKind kind;
  kind.Hq = Hq;
  kind.Hkv = Hkv;
  kind.D = kind.Dv = 8;
  kind.window = window;
  return kind;
}

/// Constants that make sharing and cutting attractive even in small forests.
PlanOptions eager(std::int32_t parallelism = 8) {
  PlanOptions options;
  options.cost.item = 1;
  options.cost.kv_element = 1e4;
  options.cost.partial = 1e-3;
  options.target_parallelism = parallelism;
  return options;
}

}  // namespace

TEST_CASE("make_plan: every plan of a random forest covers each visible pair exactly once", "[plan]") {
  const std::int32_t windows[] = {-1, -1, 1, 5, 17};
  const Sharing sharings[] = {Sharing::automatic, Sharing::always, Sharing::never};
  for (std::uint64_t seed = 0; seed < 1500; ++seed) {
    Random random(seed);
    testing::RandomForest limits;
    limits.length_slots = random.chance(0.3);
    if (seed % 10 == 0) {  // paths of several chunks
      limits.max_nodes = 10;
      limits.max_length = 700;
    }
    const bool backward = random.chance(0.5);
    const Topology topology = random_topology(&random, limits);
    const std::int32_t pages[] = {0, 1, 5, 16};
    const Forest forest = place(topology, pages[random.between(0, 3)], seed, !backward);
    const std::int32_t heads[][2] = {{1, 1}, {4, 2}, {8, 1}, {71, 1}, {3, 3}};
    const auto& h = heads[random.between(0, 4)];
    const LayerKind kind = kind_of(h[0], h[1], windows[random.between(0, 4)]);
    PlanOptions options = random.chance(0.5) ? eager(random.between(1, 64)) : PlanOptions{};
    options.mode = random.chance(0.3) ? Mode::batch_invariant : Mode::fast;
    options.sharing = sharings[random.between(0, 2)];
    options.backward = backward;
    options.cost.by_head = seed % 5 == 0;
    Plan plan;
    INFO("seed " << seed);
    const Status made = make_plan(forest, kind, options, &plan);
    INFO(to_string(made));
    REQUIRE(made.ok());
    std::string why;
    const bool right = check_plan(forest, plan, &why);
    INFO(why);
    REQUIRE(right);
    std::vector<std::int32_t> actual;
    for (std::int32_t capacity : plan.slot_capacity) actual.push_back(random.between(0, capacity));
    const bool right_at_actual = actual.empty() || check_plan(forest, plan, &why, actual);
    INFO("actual lengths: " << why);
    REQUIRE(right_at_actual);
  }
}

TEST_CASE("make_plan: sharing never loses: with nothing to gain the plan is the unshared one", "[plan]") {
  // Default costs, decode: chains that nobody shares, and forests in which no node has two readers.
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    Topology topology;
    for (std::int32_t s = random.between(1, 12); s > 0; --s) {
      std::int32_t node = -1;
      for (std::int32_t level = random.between(1, 4); level > 0; --level) {
        node = topology.add_node(node, random.between(0, 600));
      }
      topology.add_sequence(node, random.between(0, 3));
    }
    const Forest forest = place(topology, 16, seed);
    PlanOptions options;
    Plan shared, unshared;
    REQUIRE(make_plan(forest, kind_of(8, 2), options, &shared).ok());
    options.sharing = Sharing::never;
    REQUIRE(make_plan(forest, kind_of(8, 2), options, &unshared).ok());
    INFO("seed " << seed);
    CHECK(shared == unshared);
  }
}

TEST_CASE("make_plan: by head, keys are cut only where heads and rows are not enough", "[plan]") {
  PlanOptions options;
  options.cost.by_head = true;
  options.cost.row_step = 64;
  options.cost.min_item = 1;
  const auto plan_for = [&](std::int32_t parallelism, std::int32_t rows, std::int32_t Hq, std::int32_t Hkv) {
    Topology t;
    t.add_sequence(t.add_node(-1, 8192), rows);
    options.target_parallelism = parallelism;
    Plan plan;
    REQUIRE(make_plan(place(t), kind_of(Hq, Hkv), options, &plan).ok());
    for (const Item& item : plan.items) CHECK(item.head_end == item.head_begin + 1);
    return plan;
  };
  CHECK(plan_for(4, 1, 8, 8).items.size() == 8);  // 1.5 items for each worker are wanted, and there are 8 heads
  CHECK(plan_for(4, 1, 8, 8).header.partial_rows == 0);
  CHECK(plan_for(16, 1, 8, 8).items.size() == 4 * 8);    // 25 wanted
  CHECK(plan_for(16, 32, 32, 8).items.size() == 2 * 8);  // of two pieces of 64 packed rows each
  CHECK(plan_for(264, 1, 8, 8).items.size() == 50 * 8);
  CHECK(plan_for(2000, 1, 8, 8).items.size() == 8192 / 64 * 8);
  options.cost.min_item = 1e8;
  CHECK(plan_for(264, 1, 8, 8).items.size() == 8);
  options.cost.by_head = false;
  Plan whole;
  Topology t;
  t.add_sequence(t.add_node(-1, 8192), 1);
  REQUIRE(make_plan(place(t), kind_of(8, 8), options, &whole).ok());
  CHECK(whole.items.size() == 1);
}

TEST_CASE("make_plan: equality sees every field that changes work", "[plan]") {
  const Forest forest = place(testing::prefix_group(40, std::vector<std::int32_t>{5, 9}, true));
  Plan a, b;
  REQUIRE(make_plan(forest, kind_of(2, 1), eager(), &a).ok());
  REQUIRE(make_plan(forest, kind_of(2, 1), eager(), &b).ok());
  CHECK(a == b);
  ++b.header.fingerprint;
  b.header.sharing = Sharing::always;
  CHECK(a == b);
  ++b.runs[0].token;
  CHECK(a != b);
  b = a;
  b.header.kind.window = 3;
  CHECK(a != b);
}

TEST_CASE("make_plan: a plan's memory is reused and the plan is a function of its arguments", "[plan]") {
  const Forest small = place(testing::prefix_group(3, std::vector<std::int32_t>{1, 2}, true));
  const Forest large = place(testing::prefix_group(400, std::vector<std::int32_t>{50, 60, 70}, true));
  PlanOptions options = eager();
  options.backward = true;
  Plan fresh, reused;
  REQUIRE(make_plan(large, kind_of(4, 2), options, &reused).ok());
  REQUIRE(make_plan(small, kind_of(4, 2), options, &reused).ok());
  REQUIRE(make_plan(small, kind_of(4, 2), options, &fresh).ok());
  CHECK(fresh == reused);
  CHECK(fresh.header.fingerprint == reused.header.fingerprint);
}

TEST_CASE("make_plan: a chain of 100,000 nodes does not use up the stack", "[plan]") {
  Topology topology;
  std::int32_t node = -1;
  for (std::int32_t n = 0; n < 100000; ++n) node = topology.add_node(node, n % 50 == 0);
  topology.add_sequence(node, 2);
  topology.add_sequence(node / 2, 2);
  const Forest forest = place(topology);
  Plan plan;
  REQUIRE(make_plan(forest, kind_of(4, 2), eager(), &plan).ok());
  std::string why;
  const bool right = check_plan(forest, plan, &why);
  INFO(why);
  CHECK(right);
}

TEST_CASE("make_plan: a draft tree becomes one run with ancestor bits", "[plan]") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    const std::int32_t nodes = random.between(3, 64);
    std::vector<std::int32_t> parents, lengths = {random.between(1, 40)}, q_len = {random.between(0, 2)};
    parents.push_back(-1);
    for (std::int32_t n = 1; n <= nodes; ++n) {
      parents.push_back(random.between(0, n - 1));
      lengths.push_back(1);
      q_len.push_back(1);
    }
    ParentArray input;
    input.parents = parents;
    input.lengths = lengths;
    input.q_len = q_len;
    Forest forest;
    REQUIRE(forest_from_parents(input, &forest).ok());
    for (const std::int32_t window : {-1, 7}) {
      Plan plan;
      REQUIRE(make_plan(forest, kind_of(4, 2, window), {}, &plan).ok());
      std::string why;
      const bool right = check_plan(forest, plan, &why);
      INFO("seed " << seed << ": " << why);
      CHECK(right);
      CHECK(plan.runs.back().mask == MaskKind::bits);
      CHECK(plan.runs.size() <= 2 * plan.tiles.size());
    }
  }
}

TEST_CASE("make_plan: rectangles of any kind are covered exactly once", "[plan]") {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    Random random(seed);
    const PoolShape pools[] = {{4, 40}};
    std::vector<std::int32_t> pages(40);
    for (std::int32_t p = 0; p < 40; ++p) pages[static_cast<std::size_t>(p)] = p;
    random.shuffle(&pages);
    const std::vector<Segment> segments = {{0, 0, 1, 70}, {0, 18, 0, 60}};
    std::vector<RowInstance> rows;
    std::vector<Rectangle> rectangles;
    std::vector<std::uint64_t> words;
    const std::int32_t q_rows = random.between(1, 9);
    for (std::int32_t r = random.between(0, 6); r > 0; --r) {
      Rectangle rect;
      rect.first_row = static_cast<std::int32_t>(rows.size());
      rect.row_count = random.between(0, q_rows);
      for (std::int32_t i = 0; i < rect.row_count; ++i) {
        RowInstance row;
        row.row = (i + static_cast<std::int32_t>(seed)) % q_rows;
        row.order = random.between(-5, 90);
        row.position = random.between(0, 90);
        row.delta = random.between(-3, 3);
        rows.push_back(row);
      }
      rect.segment = random.between(0, 1);
      rect.token = random.between(0, 20);
      rect.length = random.between(0, 40);
      rect.position = random.between(0, 30);
      rect.mask = static_cast<MaskKind>(random.between(0, 2));
      rect.first_word = static_cast<std::int64_t>(words.size());
      if (rect.mask == MaskKind::bits) {
        for (std::int32_t w = 0; w < rect.row_count; ++w) words.push_back(random.next());
      }
      rectangles.push_back(rect);
    }
    RectangleInput input;
    input.pools = {pools, 1};
    input.pages = pages;
    input.segments = segments;
    input.rows = rows;
    input.rectangles = rectangles;
    input.words = words;
    input.q_rows = q_rows;
    PlanOptions options = eager(random.between(1, 16));
    options.backward = random.chance(0.5);
    Plan plan;
    const Status made = make_plan(input, kind_of(4, 2, random.chance(0.3) ? 20 : -1), options, &plan);
    INFO("seed " << seed << ": " << to_string(made));
    REQUIRE(made.ok());
    std::string why;
    const bool right = check_plan(input, plan, &why);
    INFO(why);
    CHECK(right);
  }
}

TEST_CASE("workspaces: sizes grow with every limit and hold every plan within the limits", "[plan][workspace]") {
  const LayerKind kind = kind_of(8, 2);
  for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      Random random(seed);
      PlanLimits limits;
      limits.space = seed % 2 == 0 ? MemorySpace::host : MemorySpace::device;
      limits.rows = random.between(0, 3000);
      limits.max_context = random.between(0, 20000);
      limits.parts = random.between(1, 32);
      limits.mode = mode;
      std::int64_t bytes = 0, more = 0;
      REQUIRE(forward_workspace(kind, limits, &bytes).ok());
      for (int member = 0; member < 3; ++member) {
        PlanLimits larger = limits;
        if (member == 0) larger.rows += random.between(1, 500);
        if (member == 1) larger.max_context += random.between(1, 5000);
        if (member == 2) larger.parts += random.between(1, 5);
        REQUIRE(forward_workspace(kind, larger, &more).ok());
        CHECK(more >= bytes);
        std::int64_t backward = 0, backward_more = 0;
        REQUIRE(backward_workspace(kind, limits, &backward).ok());
        REQUIRE(backward_workspace(kind, larger, &backward_more).ok());
        CHECK(backward_more >= backward);
      }
    }
  }
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Random random(seed);
    testing::RandomForest shape;
    shape.max_length = 900;
    const Forest forest = place(testing::random_topology(&random, shape));
    PlanOptions options = eager(random.between(1, 64));
    options.mode = random.chance(0.5) ? Mode::batch_invariant : Mode::fast;
    Plan plan;
    REQUIRE(make_plan(forest, kind, options, &plan).ok());
    ForestStats stats;
    REQUIRE(forest_stats(forest, &stats).ok());
    PlanLimits limits;
    limits.rows = forest.rows();
    limits.max_context = stats.max_path;
    limits.parts = 3;
    limits.mode = options.mode;
    std::int64_t enough = 0, exact = 0;
    REQUIRE(forward_workspace(kind, limits, &enough).ok());
    REQUIRE(forward_workspace(kind, limits_of(plan, 3), &exact).ok());
    INFO("seed " << seed);
    CHECK(exact <= enough);
  }
}
