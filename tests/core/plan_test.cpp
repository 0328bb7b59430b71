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
