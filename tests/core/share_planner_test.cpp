// SPDX-License-Identifier: Apache-2.0
// Where a plan shares: the cheapest assignment under the cost model, what the plan says about it, and the topologies at
// which there is nothing to decide.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/testing/catalogue.hpp"
#include "prefixshare/testing/plan_checker.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

namespace {

using namespace prefixshare;
using testing::Random;
using testing::Topology;
using Reading = NodeDecision::Reading;
using Reason = NodeDecision::Reason;

Forest place(const Topology& topology) {
  testing::ProblemOptions options;
  Random random(1);
  Forest forest;
  REQUIRE(testing::detail::place_forest(topology, options, &random, &forest).ok());
  return forest;
}

LayerKind kind_of(std::int32_t Hq, std::int32_t Hkv, std::int32_t D = 16) {
  LayerKind kind;
  kind.Hq = Hq;
  kind.Hkv = Hkv;
  kind.D = kind.Dv = D;
  return kind;
}

PlanOptions options_of(Sharing sharing, const CostModel& cost = {}) {
  PlanOptions options;
  options.sharing = sharing;
  options.cost = cost;
  return options;
}

Plan plan_of(const Forest& forest, const LayerKind& kind, const PlanOptions& options) {
  Plan plan;
  const Status made = make_plan(forest, kind, options, &plan);
  INFO(to_string(made));
  REQUIRE(made.ok());
  return plan;
}

void check_proved(const Forest& forest, const Plan& plan) {
  std::string why;
  const bool proved = testing::check_plan(forest, plan, &why);
  INFO(why);
  CHECK(proved);
}

/// What a tile of packed rows takes before its first key.
double start_of_tile(const LayerKind& kind, const CostModel& cost, std::int32_t packed) {
  return cost.item * (cost.by_head ? kind.Hkv * ((packed + cost.row_step - 1) / cost.row_step) : 1);
}

/// The cost model as plan.hpp and share_planner.hpp tell it, over the nodes that a plan's decisions name.
class Model {
 public:
  Model(const Plan& plan, const CostModel& cost)
      : decisions_(plan.decisions), kind_(plan.header.kind), mode_(plan.header.mode), cost_(cost) {
    std::vector<std::size_t> path;
    std::vector<std::int32_t> left;  // rows below each node of the path that no child has yet
    for (std::size_t i = 0; i < decisions_.size(); ++i) {
      while (!left.empty() && left.back() == 0) path.pop_back(), left.pop_back();
      parent_.push_back(path.empty() ? -1 : static_cast<std::int32_t>(path.back()));
      if (!left.empty()) left.back() -= decisions_[i].all_rows;
      path.push_back(i);
      left.push_back(decisions_[i].all_rows - decisions_[i].own_rows);
    }
  }

  /// Predicted nanoseconds on one thread if just these are shared.
  double cost(const std::vector<char>& shared) const {
    std::vector<std::int32_t> start(decisions_.size());  // where the reading of the children starts
    double ns = 0;
    for (std::size_t i = 0; i < decisions_.size(); ++i) {
      const NodeDecision& d = decisions_[i];
      const std::int32_t x = parent_[i] < 0 ? 0 : start[static_cast<std::size_t>(parent_[i])];
      start[i] = x;
      if (!shared[i] || shared_end(d) <= x) {
        ns += alone(d.own_rows, x, d.end);
        continue;
      }
      start[i] = shared_end(d);
      ns += share(d, x);
    }
    return ns;
  }
  double cost_of_plan() const {
    std::vector<char> shared;
    for (const NodeDecision& d : decisions_) shared.push_back(d.reading == Reading::shared);
    return cost(shared);
  }
  /// Per decision: that of the node above, or -1.
  const std::vector<std::int32_t>& parents() const { return parent_; }

 private:
  std::int32_t shared_end(const NodeDecision& d) const {
    return mode_ == Mode::batch_invariant ? d.end / kInvariantChunk * kInvariantChunk : d.end;
  }
  std::int32_t limit() const { return std::max(1, kTileRows / kind_.group()); }

  double tile(std::int32_t rows, std::int32_t keys) const {
    const double elements = static_cast<double>(keys) * kind_.Hkv * (kind_.D + kind_.Dv);
    const std::int32_t packed = rows * kind_.group(), step = cost_.row_step;
    const double start = start_of_tile(kind_, cost_, packed);
    if (mode_ == Mode::fast && packed <= cost_.few_rows) {
      return start + elements * (cost_.few_kv_element + packed * cost_.few_mac);
    }
    return start + elements * (cost_.kv_element + (packed + step - 1) / step * step * cost_.mac);
  }
  double tiles(std::int32_t rows, std::int32_t keys) const {
    double ns = 0;
    for (; rows > 0; rows -= limit()) ns += tile(std::min(rows, limit()), keys);
    return ns;
  }
  double partials(std::int32_t rows) const { return cost_.partial * kind_.Hq * (kind_.Dv + 1) * rows; }

  double alone(std::int32_t rows, std::int32_t x, std::int32_t end) const {
    return tiles(rows, std::max(end - x, 0)) + (x > 0 ? partials(rows) : 0);
  }
  double share(const NodeDecision& d, std::int32_t x) const {
    const std::int32_t end = shared_end(d), below = d.all_rows - d.own_rows;
    if (d.all_rows > limit()) return alone(d.own_rows, x, d.end) + tiles(below, end - x) + partials(below);
    const double rest = end < d.end ? alone(d.own_rows, end, d.end) : 0;
    return tiles(d.all_rows, end - x) + partials(d.all_rows) + rest;
  }

  std::vector<NodeDecision> decisions_;
  LayerKind kind_;
  Mode mode_;
  CostModel cost_;
  std::vector<std::int32_t> parent_;
};

/// The same from the tiles that a plan has, whose keys end at what its rows can see.
double cost_of_tiles(const Plan& plan, const CostModel& cost) {
  const LayerKind& kind = plan.header.kind;
  std::vector<std::int32_t> tiles_of_row(static_cast<std::size_t>(plan.header.rows), 0);
  const auto row_of = [&plan](const RowTile& t, std::int32_t i) {
    return static_cast<std::size_t>(plan.instances[static_cast<std::size_t>(t.first + i)].row);
  };
  for (const RowTile& t : plan.tiles) {
    for (std::int32_t i = 0; i < t.count; ++i) ++tiles_of_row[row_of(t, i)];
  }
  double ns = 0;
  for (const RowTile& t : plan.tiles) {
    if (t.run_count == 0) continue;  // rows of empty paths
    const std::int32_t packed = t.count * kind.group();
    const bool few = plan.header.mode == Mode::fast && packed <= cost.few_rows;
    const double padded = (packed + cost.row_step - 1) / cost.row_step * cost.row_step;
    const double element = few ? cost.few_kv_element + packed * cost.few_mac : cost.kv_element + padded * cost.mac;
    double keys = 0;
    for (std::int32_t r = 0; r < t.run_count; ++r) keys += plan.runs[static_cast<std::size_t>(t.first_run + r)].length;
    ns += start_of_tile(kind, cost, packed) + keys * kind.Hkv * (kind.D + kind.Dv) * element;
    bool merged = false;
    for (std::int32_t i = 0; i < t.count; ++i) merged = merged || tiles_of_row[row_of(t, i)] > 1;
    if (merged) ns += cost.partial * kind.Hq * (kind.Dv + 1) * t.count;
  }
  return ns;
}

/// Every constant between worthless and overwhelming.
CostModel random_cost(Random* random) {
  const auto around = [random](double ns) { return ns * std::exp(2 * random->normal()); };
  CostModel cost;
  cost.item = around(500);
  cost.kv_element = around(0.15);
  cost.mac = around(0.03);
  cost.partial = around(1.4);
  const std::int32_t steps[] = {1, 4, 6, 16};
  cost.row_step = steps[random->between(0, 3)];
  if (random->chance(0.5)) return cost;
  cost.few_rows = random->between(1, 16);
  cost.few_kv_element = around(0.1);
  cost.few_mac = around(0.05);
  return cost;
}

/// A forest of few nodes, short and long, with rows at any of them.
Topology random_small_topology(Random* random) {
  Topology t;
  const std::int32_t nodes = random->between(5, 20);
  const std::int32_t lengths[] = {0, 3, 40, 300, 700, 2000};
  for (std::int32_t n = 0; n < nodes; ++n) {
    const std::int32_t parent = n == 0 || random->chance(0.1) ? -1 : random->between(std::max(0, n - 5), n - 1);
    const std::int32_t longest = lengths[random->between(0, 5)];
    t.add_node(parent, random->between(std::min(longest, 1), longest));
  }
  for (std::int32_t n = 0; n < nodes; ++n) {
    for (std::int32_t s = random->between(0, 2); s > 0; --s) t.add_sequence(n, random->between(1, 5));
  }
  if (t.sequences.empty()) t.add_sequence(nodes - 1, 1);
  return t;
}

const std::int32_t kHeads[][2] = {{1, 1}, {8, 2}, {16, 1}, {64, 1}, {4, 4}};

/// A spine of nodes, each with rows of its own, and at each node, if asked for, a leaf beside it.
Topology caterpillar(std::int32_t levels, std::int32_t tokens, std::int32_t rows, std::int32_t leaf) {
  Topology t;
  std::int32_t node = -1;
  for (std::int32_t level = 0; level < levels; ++level) {
    node = t.add_node(node, tokens);
    if (rows > 0) t.add_sequence(node, rows);
    if (leaf > 0) t.add_sequence(t.add_node(node, leaf), 1);
  }
  if (t.sequences.empty() || leaf == 0) t.add_sequence(node, 1);
  return t;
}

std::int64_t count_of(const Plan& plan, Reading reading) {
  return std::count_if(plan.decisions.begin(), plan.decisions.end(),
                       [reading](const NodeDecision& d) { return d.reading == reading; });
}

constexpr double kRounding = 1 + 1e-9;

}  // namespace

TEST_CASE("Sharing::automatic: no assignment is cheaper under the cost model", "[plan][sharing]") {
  std::int64_t compared = 0, made = 0, exact = 0, shared = 0, folded = 0;
  for (std::uint64_t seed = 0; seed < 800; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const Forest forest = place(random_small_topology(&random));
    const auto& heads = kHeads[random.between(0, 4)];
    const LayerKind kind = kind_of(heads[0], heads[1]);
    PlanOptions options = options_of(Sharing::automatic, random_cost(&random));
    options.cost.by_head = seed % 4 == 0;
    options.mode = random.chance(0.3) ? Mode::batch_invariant : Mode::fast;
    options.target_parallelism = 1;
    const Plan plan = plan_of(forest, kind, options);
    const Model model(plan, options.cost);
    std::vector<std::size_t> open;
    for (std::size_t i = 0; i < plan.decisions.size(); ++i) {
      if (plan.decisions[i].reason == Reason::cost) open.push_back(i);
      if (plan.decisions[i].reason == Reason::cost) ++(plan.decisions[i].reading == Reading::shared ? shared : folded);
    }
    if (open.empty() || open.size() > 10) continue;
    const double planned = model.cost_of_plan();
    double best = std::numeric_limits<double>::infinity();
    std::vector<std::uint8_t> given(forest.nodes.size());
    for (std::uint32_t bits = 0; bits < 1u << open.size(); ++bits, ++compared) {
      std::vector<char> assignment(plan.decisions.size(), 0);
      for (std::size_t k = 0; k < open.size(); ++k) assignment[open[k]] = bits >> k & 1;
      const double cost = model.cost(assignment);
      best = std::min(best, cost);
      if (bits % 37 != seed % 37) continue;  // the plan itself: it is what was given, and costs what the model says
      for (std::size_t k = 0; k < open.size(); ++k) {
        given[static_cast<std::size_t>(plan.decisions[open[k]].node)] = assignment[open[k]] != 0;
      }
      PlanOptions asked = options;
      asked.sharing = Sharing::given;
      asked.shared = given;
      const Plan other = plan_of(forest, kind, asked);
      REQUIRE(other.decisions.size() == plan.decisions.size());
      for (std::size_t k = 0; k < open.size(); ++k) {
        const NodeDecision& d = other.decisions[open[k]];
        if (d.reason == Reason::asked) CHECK((d.reading == Reading::shared) == (assignment[open[k]] != 0));
      }
      check_proved(forest, other);
      const double tiles = cost_of_tiles(other, options.cost);
      CHECK(tiles <= cost * kRounding);
      ++made;
      exact += tiles * kRounding >= cost;  // but where masks hide the last keys from all rows of a tile
    }
    CHECK(planned <= best * kRounding);
    CHECK(planned * kRounding >= best);
  }
  CHECK(compared > 4000);
  CHECK(exact > made / 2);
  CHECK(shared > 100);
  CHECK(folded > 100);
}

TEST_CASE("Sharing::automatic: the costs of a root's decision are those of the plan below it", "[plan][sharing]") {
  std::int64_t compared = 0;
  for (std::uint64_t seed = 1000; seed < 1200; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const Forest forest = place(random_small_topology(&random));
    PlanOptions options = options_of(Sharing::automatic, random_cost(&random));
    options.cost.by_head = seed % 4 == 0;
    const Plan plan = plan_of(forest, kind_of(8, 2), options);
    const Model model(plan, options.cost);
    const std::vector<std::int32_t>& parents = model.parents();
    if (std::count(parents.begin(), parents.end(), -1) != 1 || plan.decisions[0].reason != Reason::cost) continue;
    const NodeDecision& root = plan.decisions[0];
    const double better = std::min(root.shared_cost, root.folded_cost), planned = model.cost_of_plan();
    CHECK(better <= planned * kRounding);
    CHECK(better * kRounding >= planned);
    CHECK((root.reading == Reading::shared) == (root.shared_cost < root.folded_cost));
    ++compared;
  }
  CHECK(compared > 30);
}

TEST_CASE("Sharing::automatic: on deep trees it costs no more than sharing always or never", "[plan][sharing]") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const std::int32_t levels = random.between(33, 200), tokens = random.between(1, 60);
    const std::int32_t rows = random.between(0, 3), leaf = random.between(0, 40);
    const Forest forest = place(caterpillar(levels, tokens, rows, leaf));
    const auto& heads = kHeads[random.between(0, 4)];
    const LayerKind kind = kind_of(heads[0], heads[1]);
    const CostModel cost = random_cost(&random);
    const Plan plan = plan_of(forest, kind, options_of(Sharing::automatic, cost));
    const Model model(plan, cost);
    const Plan always = plan_of(forest, kind, options_of(Sharing::always, cost));
    const double planned = model.cost_of_plan();
    CHECK(planned <= model.cost(std::vector<char>(plan.decisions.size(), 0)) * kRounding);
    CHECK(planned <= Model(always, cost).cost_of_plan() * kRounding);
  }
}

TEST_CASE("Sharing::automatic: branches of a deep tree are decided alike", "[plan][sharing]") {
  Topology t;  // three deep caterpillars below ten levels of another, the first with more legs
  const std::int32_t levels = 60;
  std::int32_t node = -1;
  for (std::int32_t level = 0; level < 10; ++level) {
    node = t.add_node(node, 50);
    t.add_sequence(t.add_node(node, 7), 1);
  }
  for (std::int32_t branch = 0, above = node; branch < 3; ++branch) {
    node = above;
    for (std::int32_t level = 0; level < levels; ++level) {
      node = t.add_node(node, 20 + level % 7);
      for (std::int32_t legs = branch == 0 && level > 15 ? 8 : 1; legs > 0; --legs) {
        t.add_sequence(t.add_node(node, 5), 1);
      }
    }
  }
  const Forest forest = place(t);
  std::int64_t compared = 0;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const Plan plan = plan_of(forest, kind_of(8, 2), options_of(Sharing::automatic, random_cost(&random)));
    const bool short_of_room = std::any_of(plan.decisions.begin(), plan.decisions.end(),
                                           [](const NodeDecision& d) { return d.reason == Reason::budget; });
    if (short_of_room) continue;  // the last branch has less of it
    ++compared;
    const std::size_t of_branch = 2 * levels - 1;
    REQUIRE(plan.decisions.size() > 2 * of_branch);
    const std::size_t last = plan.decisions.size() - of_branch;
    for (std::size_t i = last; i < plan.decisions.size(); ++i) {
      const NodeDecision &d = plan.decisions[i], &other = plan.decisions[i - of_branch];
      CHECK(d.begin == other.begin);
      CHECK(d.from == other.from);
      CHECK(d.reading == other.reading);
      CHECK(d.shared_cost == other.shared_cost);
      CHECK(d.folded_cost == other.folded_cost);
    }
  }
  CHECK(compared > 20);
}

TEST_CASE("make_plan: 100,000 levels are planned in a number of entries that grows with them", "[plan][sharing]") {
  LayerKind kind = kind_of(4, 2);
  kind.window = 64;  // what a row reads is short, so that this is about the tree
  for (const std::int32_t leaf : {0, 2}) {
    const Forest forest = place(caterpillar(leaf > 0 ? 50000 : 100000, 1, leaf > 0 ? 0 : 1, leaf));
    const Plan plan = plan_of(forest, kind, options_of(Sharing::automatic));
    CHECK(plan.decisions.size() <= forest.nodes.size());
    CHECK(plan.tiles.size() <= 2 * static_cast<std::size_t>(forest.rows()));
    CHECK(plan.runs.size() <= plan.tiles.size() * 200);
  }
}

TEST_CASE("make_plan: rows along a spine fill tiles", "[plan][sharing]") {
  const std::int32_t combs[][2] = {{1, 1}, {3, 2}};
  for (const auto& [tokens, rows] : combs) {
    for (const auto& heads : kHeads) {
      const LayerKind kind = kind_of(heads[0], heads[1]);
      if (kind.group() < 4 || kind.group() > 16) continue;
      const std::int32_t limit = std::max(1, kTileRows / kind.group());
      for (const Sharing sharing : {Sharing::automatic, Sharing::always}) {
        INFO(tokens << " tokens, " << rows << " rows, group " << kind.group());
        const Forest large = place(caterpillar(5000, tokens, rows, 0));
        const Plan plan = plan_of(large, kind, options_of(sharing));
        const std::int64_t lists = 1 + count_of(plan, Reading::shared);  // each is cut into tiles by itself
        CHECK(lists <= 6);
        CHECK(static_cast<std::int64_t>(plan.tiles.size()) <= lists * (large.rows() / limit) + 8);
        const Forest small = place(caterpillar(200, tokens, rows, 0));
        check_proved(small, plan_of(small, kind, options_of(sharing)));
      }
    }
  }
}

TEST_CASE("make_plan: rows that see beyond their node do not go along the spine", "[plan][sharing]") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    Topology t;
    std::int32_t node = -1, end = 0;
    bool reaches = false;
    const std::int32_t levels = random.between(2, 12);
    for (std::int32_t level = 0; level < levels; ++level) {
      const std::int32_t length = random.between(1, 4), q_len = random.between(1, 3);
      node = t.add_node(node, length);
      end += length;
      const bool beyond = level + 1 < levels && random.chance(0.3);
      t.add_sequence(node, q_len, beyond ? end + random.between(0, 2) : Sequence::kLastTokens);
      reaches = reaches || beyond;
    }
    const Forest forest = place(t);
    for (const Sharing sharing : {Sharing::automatic, Sharing::always, Sharing::never}) {
      const Plan plan = plan_of(forest, kind_of(4, 2), options_of(sharing));
      check_proved(forest, plan);
      if (sharing == Sharing::automatic) CHECK((plan.decisions.size() > 1) == reaches);
    }
  }
}

TEST_CASE("make_plan: nodes without tokens add no work", "[plan][sharing]") {
  // Leaves: 32 sequences at the end of one prompt, which one tile holds.
  Topology leaves, together;
  const std::int32_t prompt = leaves.add_node(-1, 1000), alone = together.add_node(-1, 1000);
  for (int s = 0; s < 32; ++s) {
    leaves.add_sequence(leaves.add_node(prompt, 0), 1);
    together.add_sequence(alone, 1);
  }
  for (const Sharing sharing : {Sharing::automatic, Sharing::always}) {
    PlanOptions options = options_of(sharing);
    options.target_parallelism = 1;
    const Plan with = plan_of(place(leaves), kind_of(32, 32), options);
    const Plan without = plan_of(place(together), kind_of(32, 32), options);
    CHECK(with.tiles.size() == 1);
    CHECK(with.runs.size() == 1);
    CHECK(with.groups.size() == 1);
    CHECK(with.header.partial_rows == without.header.partial_rows);
    CHECK(with.header.total_cost == without.header.total_cost);
    CHECK(with.decisions.size() == 1);
  }
  PlanOptions options = options_of(Sharing::automatic);
  options.target_parallelism = 1;
  Topology brief;
  const std::int32_t few = brief.add_node(-1, 100);
  for (int s = 0; s < 32; ++s) brief.add_sequence(brief.add_node(few, 0), 1);
  CHECK(plan_of(place(brief), kind_of(8, 8), options).header.partial_rows == 0);
}

TEST_CASE("make_plan: taking nodes without tokens out of a forest leaves the work", "[plan][sharing]") {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const Topology plain = random_small_topology(&random);
    Topology padded;  // above each node of `plain`, and at times below it, nodes without tokens
    std::vector<std::int32_t> place_of;
    for (const Node& n : plain.nodes) {
      std::int32_t above = n.parent < 0 ? -1 : place_of[static_cast<std::size_t>(n.parent)];
      if (random.chance(0.4)) above = padded.add_node(above, 0);
      place_of.push_back(padded.add_node(above, n.length));
    }
    for (const Sequence& s : plain.sequences) {
      const std::int32_t node = place_of[static_cast<std::size_t>(s.node)];
      padded.add_sequence(random.chance(0.4) ? padded.add_node(node, 0) : node, s.q_len);
    }
    const Forest a = place(plain), b = place(padded);
    const CostModel cost = random_cost(&random);
    for (const Sharing sharing : {Sharing::automatic, Sharing::always}) {
      PlanOptions options = options_of(sharing, cost);
      options.target_parallelism = 1;
      const Plan before = plan_of(a, kind_of(4, 2), options), after = plan_of(b, kind_of(4, 2), options);
      check_proved(b, after);
      CHECK(before.tiles.size() == after.tiles.size());
      CHECK(before.header.partial_rows == after.header.partial_rows);
      CHECK(before.decisions.size() == after.decisions.size());
    }
  }
}

TEST_CASE("Sharing::given: what does not fit is refused by name", "[plan][sharing][malformed]") {
  const Forest forest = place(testing::prefix_group(40, std::vector<std::int32_t>{5, 9}, false));
  const LayerKind kind = kind_of(4, 2);
  const std::vector<std::uint8_t> shared(4, 1);
  const Plan good = plan_of(forest, kind, options_of(Sharing::always));
  Plan plan = good;
  const auto refused = [&](const PlanOptions& options, const char* field, std::int64_t got, std::int64_t want,
                           const char* argument = "options") {
    const Status s = make_plan(forest, kind, options, &plan);
    INFO(to_string(s));
    CHECK(s.code == StatusCode::invalid_argument);
    CHECK(std::string(s.op) == "make_plan");
    CHECK(std::string(s.argument) == argument);
    CHECK(std::string(s.field) == field);
    CHECK(s.got == got);
    CHECK(s.want == want);
    CHECK(plan == good);
  };
  PlanOptions given = options_of(Sharing::given);
  for (const std::int64_t size : {0, 2, 4}) {
    given.shared = {shared.data(), size};
    refused(given, "shared.size", size, 3);
  }
  given.shared = {nullptr, 3};
  CHECK(make_plan(forest, kind, given, &plan).code == StatusCode::invalid_argument);
  CHECK(plan == good);
  for (const Sharing sharing : {Sharing::automatic, Sharing::never, Sharing::always}) {
    PlanOptions options = options_of(sharing);
    options.shared = {shared.data(), 3};
    refused(options, "shared.size", 3, 0);
  }
  refused(options_of(static_cast<Sharing>(4)), "sharing", 4, 3);
  given.shared = {shared.data(), 3};
  const RectangleInput none;
  CHECK(make_plan(none, kind, given, &plan).code == StatusCode::invalid_argument);
  CHECK(std::string(make_plan(none, kind, given, &plan).field) == "sharing");
  CHECK(plan == good);
  CHECK(make_plan(forest, kind, given, &plan).ok());
}

TEST_CASE("make_plan: cost constants that are no times are refused by name", "[plan][sharing][malformed]") {
  const Forest forest = place(testing::prefix_group(40, std::vector<std::int32_t>{5, 9}, false));
  const LayerKind kind = kind_of(4, 2);
  const Plan good = plan_of(forest, kind, options_of(Sharing::automatic));
  Plan plan = good;
  const auto refused = [&](const CostModel& cost, const char* field, std::int64_t want) {
    const Status s = make_plan(forest, kind, options_of(Sharing::automatic, cost), &plan);
    INFO(to_string(s));
    CHECK(s.code == StatusCode::invalid_argument);
    CHECK(std::string(s.argument) == "options.cost");
    CHECK(std::string(s.field) == field);
    CHECK(s.want == want);
    CHECK(plan == good);
  };
  const std::pair<const char*, double CostModel::*> times[] = {{"item", &CostModel::item},
                                                               {"kv_element", &CostModel::kv_element},
                                                               {"mac", &CostModel::mac},
                                                               {"partial", &CostModel::partial},
                                                               {"few_kv_element", &CostModel::few_kv_element},
                                                               {"few_mac", &CostModel::few_mac},
                                                               {"min_item", &CostModel::min_item}};
  for (const auto& [name, time] : times) {
    for (const double bad : {-1.0, 1e9, std::numeric_limits<double>::quiet_NaN()}) {
      CostModel cost;
      cost.*time = bad;
      refused(cost, name, 0);
    }
  }
  CostModel cost;
  cost.row_step = 0;
  refused(cost, "row_step", 1);
  cost = {};
  cost.few_rows = -1;
  refused(cost, "few_rows", 0);
}

TEST_CASE("explain: every reading and reason of a plan is a line", "[plan][sharing]") {
  Topology t;  // a prompt with an answer of its own and two turns, one of them with two ends
  const std::int32_t prompt = t.add_node(-1, 1000), turn = t.add_node(prompt, 200), other = t.add_node(prompt, 64);
  t.add_sequence(prompt, 1);
  t.add_sequence(t.add_node(turn, 30), 1);
  t.add_sequence(t.add_node(turn, 40), 1);
  t.add_sequence(other, 2);
  const Forest forest = place(t);
  CostModel cost;
  cost.item = 1000;
  cost.kv_element = 1;
  cost.mac = 0.25;
  cost.partial = 10;
  PlanOptions options = options_of(Sharing::automatic, cost);
  options.target_parallelism = 1;
  const Plan plan = plan_of(forest, kind_of(1, 1, 8), options);
  const std::string total =
      "plan cpu:portable, 67.6 us predicted on one thread: 2 nodes shared, 0 folded, 3 read alone, 0 with draft trees; "
      "7 items, 21 partial rows\n";
  const std::string first =
      "  node 0: path [0, 1000), 1 of 5 rows its own: shared from 0 (shared 64.7 us, folded 112.0 us)\n"
      "  node 1: path [1000, 1200), 0 of 2 rows its own: shared from 1000 (shared 12.0 us, folded 17.2 us)\n";
  CHECK(explain(plan) == total + first +
                             "  node 2: path [1200, 1230), 1 of 1 rows its own: read alone from 1200 (one reader)\n"
                             "  node 3: path [1200, 1240), 1 of 1 rows its own: read alone from 1200 (one reader)\n"
                             "  node 4: path [1000, 1064), 2 of 2 rows its own: read alone from 1000 (one reader)\n");
  CHECK(explain(plan, 2) == total + first + "  and 3 nodes more\n");
  CHECK(explain(plan, 0) == total + "  and 5 nodes more\n");
  CHECK(explain(plan, -1) == explain(plan, 0));
  CHECK(explain(plan, 5) == explain(plan));
}

TEST_CASE("explain: what was asked for, folded, too short or too much says so", "[plan][sharing]") {
  const Forest group = place(testing::prefix_group(600, std::vector<std::int32_t>{5, 9}, false));
  const auto root_of = [](const Forest& forest, const PlanOptions& options) {
    const Plan plan = plan_of(forest, kind_of(4, 2), options);
    REQUIRE_FALSE(plan.decisions.empty());
    return std::make_pair(plan.decisions[0], explain(plan, 1));
  };
  const auto has = [](const std::string& text, const char* line) { return text.find(line) != std::string::npos; };
  {
    const auto [d, text] = root_of(group, options_of(Sharing::never));
    CHECK(d.reading == Reading::folded);
    CHECK(d.reason == Reason::asked);
    CHECK((d.shared_cost == 0 && d.folded_cost == 0));
    CHECK(has(text, "0 of 2 rows its own: folded into what is below from 0 (asked for)\n"));
  }
  {
    PlanOptions options = options_of(Sharing::always);
    CHECK(has(root_of(group, options).second, "shared from 0 (asked for)\n"));
    options.mode = Mode::batch_invariant;
    CHECK(has(root_of(group, options).second, "path [0, 600), 0 of 2 rows its own: shared from 0 (asked for)\n"));
    const auto [d, text] = root_of(place(testing::prefix_group(511, std::vector<std::int32_t>{5, 9}, false)), options);
    CHECK(d.reading == Reading::folded);
    CHECK(d.reason == Reason::chunk);
    CHECK(has(text, "folded into what is below from 0 (no whole chunk)\n"));
  }
  {
    Topology t;  // a context and a draft of three tokens
    t.add_node(-1, 50);
    t.segments.push_back(3);
    for (std::int32_t n = 0; n < 3; ++n) {
      t.nodes.push_back({n == 2 ? 0 : n, 1, n, 1, 0, -1});
      t.add_sequence(n + 1, 1);
    }
    const auto [d, text] = root_of(place(t), options_of(Sharing::automatic));
    CHECK(d.reading == Reading::draft);
    CHECK((d.own_rows == 3 && d.all_rows == 3));
    CHECK(has(text, "1 with draft trees"));
    CHECK(has(text, "3 of 3 rows its own: read with its draft tree from 0"));
  }
  const Plan deep = plan_of(place(caterpillar(200, 1, 0, 1)), kind_of(4, 2), options_of(Sharing::always));
  CHECK(explain(deep, 1000).find("(no room for partial states)\n") != std::string::npos);
  CHECK(std::any_of(deep.decisions.begin(), deep.decisions.end(),
                    [](const NodeDecision& d) { return d.reason == Reason::budget && d.reading == Reading::folded; }));
}

TEST_CASE("explain: a plan of rectangles has no nodes", "[plan][sharing]") {
  const RectangleInput none;
  Plan plan = plan_of(place(testing::prefix_group(40, std::vector<std::int32_t>{5, 9}, false)), kind_of(4, 2), {});
  REQUIRE(make_plan(none, kind_of(4, 2), {}, &plan).ok());
  CHECK(plan.decisions.empty());
  CHECK(explain(plan).find("0 nodes shared, 0 folded, 0 read alone, 0 with draft trees") != std::string::npos);
  CHECK(explain(plan).find("  node") == std::string::npos);
}

TEST_CASE("make_plan: where nothing can be gained the plan is the unshared one, for every implementation's constants",
          "[plan][sharing]") {
  std::vector<Forest> forests;
  for (const std::int32_t q_len : {1, 5, 300}) {  // one sequence, in one node and in several
    forests.push_back(place(testing::chain(std::vector<std::int32_t>{3000}, q_len)));
    forests.push_back(place(testing::chain(std::vector<std::int32_t>{64, 700, 1, 90}, q_len)));
  }
  for (const char* name : {"pat/256|1024", "pat/256|4096"}) {
    const testing::Workload* workload = testing::find_workload(name);
    REQUIRE(workload != nullptr);
    forests.push_back({});
    REQUIRE(testing::make_forest(*workload, 4, &forests.back()).ok());
  }
  for (const std::int32_t members : {2, 8, 32}) {  // prefixes that are too short
    forests.push_back(
        place(testing::prefix_group(1, std::vector<std::int32_t>(static_cast<std::size_t>(members), 1000), false)));
  }
  Context context;
  REQUIRE(create_context(&context).ok());
  REQUIRE(context.tree_attention.count > 0);
  for (std::int32_t i = 0; i < context.tree_attention.count; ++i) {
    const auto& entry = context.tree_attention.entries[i];
    for (const auto& heads : {std::array<std::int32_t, 2>{32, 8}, {32, 32}, {16, 1}}) {
      for (std::size_t f = 0; f < forests.size(); ++f) {
        INFO(entry.name << ", forest " << f << ", heads " << heads[0] << "/" << heads[1]);
        const LayerKind kind = kind_of(heads[0], heads[1], 128);
        const Plan automatic = plan_of(forests[f], kind, options_of(Sharing::automatic, entry.cost));
        CHECK(automatic == plan_of(forests[f], kind, options_of(Sharing::never, entry.cost)));
      }
    }
  }
}

TEST_CASE("make_plan: workers get the same mix of items, and every other one reads first", "[plan][sharing]") {
  Topology two;
  const std::int32_t prompt = two.add_node(-1, 3000);
  for (int s = 0; s < 40; ++s) two.add_sequence(two.add_node(prompt, 500), 1);
  Forest deep;
  const testing::Workload* workload = testing::find_workload("fasttree/1,4,16,512|1024,256,128,32");
  REQUIRE(workload != nullptr);
  REQUIRE(testing::make_forest(*workload, 4, &deep).ok());
  CostModel cost;
  cost.few_rows = 4;
  cost.few_kv_element = 2;
  cost.few_mac = cost.mac;
  for (const Forest& forest : {place(two), deep}) {
    for (const std::int32_t workers : {1, 2, 3, 4}) {
      INFO(workers << " workers");
      const LayerKind kind = kind_of(32, 8);
      PlanOptions options = options_of(Sharing::automatic, cost);
      options.target_parallelism = workers;
      const Plan plan = plan_of(forest, kind, options);
      check_proved(forest, plan);
      std::vector<std::array<double, 2>> share(static_cast<std::size_t>(workers), {0.0, 0.0});
      double total[2] = {0, 0}, largest = 0;
      std::int32_t turns = 0;
      bool last = false;  // worker 0 computes first
      for (std::size_t i = 0; i < plan.items.size(); ++i) {
        const Item& item = plan.items[i];
        const std::int64_t next = i + 1 < plan.items.size() ? plan.items[i + 1].cost : plan.header.total_cost;
        const std::int32_t packed = plan.tiles[static_cast<std::size_t>(item.tile)].count * kind.group();
        const bool reads = packed <= cost.few_rows || (packed + 3) / 4 * 4 * cost.mac < cost.kv_element;
        const auto ns = static_cast<double>(next - item.cost);
        const auto worker = static_cast<std::size_t>(detail::owner(item.cost, plan.header.total_cost, workers));
        share[worker][reads] += ns;
        total[reads] += ns;
        largest = std::max(largest, ns);
        turns += reads != last;
        last = reads;
      }
      REQUIRE(total[0] > 0);
      REQUIRE(total[1] > 0);
      CHECK(turns <= workers);
      for (const auto& mine : share) {
        CHECK(std::abs(mine[0] - total[0] / workers) <= 2 * largest);
        CHECK(std::abs(mine[1] - total[1] / workers) <= 2 * largest);
      }
    }
  }
}
