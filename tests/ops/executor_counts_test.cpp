// SPDX-License-Identifier: Apache-2.0
// Rows of K and V that an executor reads: those that a plan predicts, and with sharing each token once.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "prefixshare/counters.hpp"
#include "prefixshare/portable/tree_attention.hpp"
#include "prefixshare/testing/catalogue.hpp"
#include "support/attention.hpp"
#include "support/data.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

/// Keys that the running call absorbed: [run, KV head]. Parts run one after the other here.
std::vector<std::int64_t>* absorbed = nullptr;

/// The portable body, which also notes what it is given.
class CountingBody : public portable::ForwardBody<float> {
 public:
  CountingBody(const detail::AttendView& view, detail::Arena* arena) noexcept
      : portable::ForwardBody<float>(view, arena), view_(view) {}

  void absorb(const detail::Piece* pieces, std::int32_t count, std::int32_t head, std::int32_t heads) noexcept {
    for (std::int32_t p = 0; p < count; ++p) {
      const std::int64_t run = pieces[p].run - view_.plan.runs.data();
      for (std::int32_t h = head; h < head + heads; ++h) {
        absorbed->data()[run * view_.kind().Hkv + h] += pieces[p].end - pieces[p].begin;
      }
    }
    portable::ForwardBody<float>::absorb(pieces, count, head, heads);
  }

 private:
  const detail::AttendView& view_;
};

NamedContext counting_context() {
  NamedContext c;
  require_ok(create_context(&c.context));
  c.name = "test:counting";
  c.backward = "cpu:portable";
  Implementation<AttentionProblem, AttendCall> counting;
  counting.name = "test:counting";
  counting.part = [](const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept {
    detail::AttendForward<CountingBody>(call.plan, call.args, part, parts).run();
    return Status{};
  };
  require_ok(c.context.tree_attention.add(counting));
  require_ok(force_implementation(&c.context, c.name.c_str()));
  return c;
}

/// Every run is read by each KV head once, over its actual length, and the sum is the prediction.
void check_counts(const NamedContext& c, const Plan& plan, Problem* p, std::int32_t parts) {
  const std::int64_t heads = plan.header.kind.Hkv;
  std::vector<std::int64_t> keys(plan.runs.size() * static_cast<std::size_t>(heads), 0);
  absorbed = &keys;
  run_forward(c.context, plan, p, parts, 1);
  absorbed = nullptr;
  std::int64_t read = 0;
  bool each = true;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const KeyRun& run = plan.runs[i / static_cast<std::size_t>(heads)];
    const std::int64_t actual =
        run.length_slot < 0 ? run.length : p->actual_lengths[static_cast<std::size_t>(run.length_slot)];
    const std::int64_t want =
        run.length_slot < 0 ? actual : std::clamp<std::int64_t>(actual - run.length_origin, 0, run.length);
    each = each && keys[i] == want;
    read += keys[i];
  }
  CHECK(each);
  CHECK(read == count(plan, p->actual_lengths).kv_rows * heads);
}

/// Whether the rows at and below every node fit one tile.
bool one_tile_each(const Forest& forest, const LayerKind& kind) {
  bool fits = true;
  for (std::size_t n = 0; n < forest.nodes.size(); ++n) {
    fits = fits && forest.row_end[n] - forest.row_begin[n] <= std::max(1, kTileRows / kind.group());
  }
  return fits;
}

std::int64_t tokens_of(const Forest& forest) {
  std::int64_t tokens = 0;
  for (const Node& n : forest.nodes) tokens += n.length;
  return tokens;
}

LayerKind kind_of(std::int32_t Hq, std::int32_t Hkv, std::int32_t D) {
  LayerKind kind;
  kind.Hq = Hq;
  kind.Hkv = Hkv;
  kind.D = kind.Dv = D;
  return kind;
}

}  // namespace

TEST_CASE("counts: an executor reads as many rows of K and V as the plan predicts", "[counts]") {
  const NamedContext counting = counting_context();
  const std::int32_t heads[][2] = {{1, 1}, {4, 2}, {8, 1}, {64, 1}, {3, 3}};
  const Sharing sharings[] = {Sharing::automatic, Sharing::never, Sharing::always, Sharing::given};
  const std::int32_t windows[] = {-1, -1, 1, 9, 200};
  const std::uint64_t seeds = test_all() ? 1500 : 150;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    testing::RandomForest limits;
    limits.length_slots = random.chance(0.5);
    if (seed % 4 == 0) {  // paths of several chunks
      limits.max_nodes = 8;
      limits.max_length = 700;
    }
    ForwardCase c;
    c.topology = random_topology(&random, limits);
    const auto& h = heads[random.between(0, 4)];
    c.options.kind = kind_of(h[0], h[1], 4);
    c.options.kind.window = windows[random.between(0, 4)];
    c.options.seed = seed;
    c.options.page_size = random.chance(0.5) ? 5 : 0;
    if (random.chance(0.7)) c.plan.cost = eager_cost();
    c.plan.mode = random.chance(0.4) ? Mode::batch_invariant : Mode::fast;
    c.plan.sharing = sharings[seed % 4];
    Problem p;
    require_ok(make_problem(c.topology, c.options, &p));
    std::vector<std::uint8_t> shared;
    for (std::size_t n = 0; n < p.forest.nodes.size(); ++n) shared.push_back(random.chance(0.5));
    if (c.plan.sharing == Sharing::given) c.plan.shared = shared;
    const Plan plan = proved_plan(counting, p.forest, c.options.kind, c.plan);
    for (const std::int32_t parts : {1, 3}) check_counts(counting, plan, &p, parts);
  }
}

TEST_CASE("counts: with one tile of rows per node, sharing always reads each token once", "[counts]") {
  PlanOptions options;
  options.sharing = Sharing::always;
  std::int64_t named = 0;
  for (const testing::Workload& workload : testing::catalogue()) {
    const bool tree = workload.name.rfind("fasttree/", 0) == 0 || workload.name.rfind("pat/", 0) == 0;
    Forest forest;
    if (!tree || workload.kind.Hq != 32 || workload.kind.Hkv != 8) continue;  // heads are the test's own
    require_ok(make_forest(workload, 1, &forest));
    for (const auto& heads : {std::array<std::int32_t, 2>{16, 1}, {32, 8}, {32, 32}}) {
      const LayerKind kind = kind_of(heads[0], heads[1], 128);
      if (!one_tile_each(forest, kind)) continue;
      INFO(workload.name << ", heads " << heads[0] << "/" << heads[1]);
      Plan plan;
      require_ok(make_plan(forest, kind, options, &plan));
      CHECK(100 * count(plan).kv_rows <= 105 * tokens_of(forest));
      CHECK(count(plan).kv_rows >= tokens_of(forest));
      ++named;
    }
  }
  CHECK(named >= 10);

  std::int64_t random_trees = 0;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    testing::RandomForest limits;
    limits.max_length = 100;
    limits.shared_segments = false;
    Problem p;
    ProblemOptions problem;
    problem.kind = kind_of(1, 1, 1);
    require_ok(make_problem(random_topology(&random, limits), problem, &p));
    if (!one_tile_each(p.forest, problem.kind)) continue;
    Plan plan;
    require_ok(make_plan(p.forest, problem.kind, options, &plan));
    CHECK(100 * count(plan).kv_rows <= 105 * tokens_of(p.forest));
    ++random_trees;
  }
  CHECK(random_trees > 300);
}
