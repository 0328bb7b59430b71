// SPDX-License-Identifier: Apache-2.0
// The reference against closed forms and finite differences, on plans written by hand: it depends on no planner.
#include "prefixshare/reference/reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "prefixshare/testing/compare.hpp"
#include "support/catch.hpp"

using namespace prefixshare;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
const double kLn2 = std::log(2.0);
const double kLn3 = std::log(3.0);

/// |got - want| within the f64 tolerance of logits up to 10, NaN for NaN and infinity for infinity.
bool near(double got, double want) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want)) return got == want;
  return std::abs(got - want) <= testing::forward_tolerance(DType::f64, 10) * std::max(1.0, std::abs(want));
}

bool near(const std::vector<double>& got, const std::vector<double>& want) {
  bool ok = got.size() == want.size();
  for (std::size_t i = 0; ok && i < got.size(); ++i) ok = near(got[i], want[i]);
  return ok;
}

std::vector<double> random_values(std::int64_t count, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(static_cast<std::size_t>(count));
  for (double& value : x) value = normal(engine);
  return x;
}

struct Run {
  std::int32_t token = 0;
  std::int32_t length = 0;
  std::int32_t position = 0;
  std::int32_t delta = 0;
  MaskKind mask = MaskKind::interval;
};

/// A plan of one tile: row r has order orders[r] and meets every run; one contiguous pool; blocks of two keys.
Plan one_tile_plan(const LayerKind& kind, const std::vector<std::int32_t>& orders, std::int32_t tokens,
                   const std::vector<Run>& runs) {
  const auto rows = static_cast<std::int32_t>(orders.size());
  const auto run_count = static_cast<std::int32_t>(runs.size());
  Plan plan;
  plan.header.kind = kind;
  plan.header.rows = rows;
  plan.header.tile_rows = rows;
  plan.header.backward = true;
  plan.header.fingerprint = 1;
  plan.pools = {{tokens, 1}};
  plan.pages = {0};
  plan.segments = {{0, 0, 0, tokens}};
  plan.deltas = {0};
  const auto add_instances = [&](std::int32_t delta) {
    const auto index = std::find(plan.deltas.begin(), plan.deltas.end(), delta) - plan.deltas.begin();
    if (index == static_cast<std::ptrdiff_t>(plan.deltas.size())) plan.deltas.push_back(delta);
    for (std::int32_t r = 0; r < rows; ++r) {
      const std::int32_t order = orders[static_cast<std::size_t>(r)];
      plan.instances.push_back({r, order, order, static_cast<std::int32_t>(index), -1});
    }
  };
  add_instances(0);
  for (const Run& run : runs) {
    add_instances(run.delta);
    KeyRun key_run;
    key_run.token = run.token;
    key_run.length = run.length;
    key_run.position = run.position;
    key_run.first_instance = static_cast<std::int32_t>(plan.instances.size()) - rows;
    key_run.mask = run.mask;
    plan.runs.push_back(key_run);
  }
  plan.tiles = {{0, rows, 0, run_count, 0, 1}};
  plan.groups = {{0, rows, 0, 0, 0, 0, 1}};
  plan.group_tiles = {{0, 0}};
  plan.tile_groups = {0};
  for (std::int32_t r = 0; r < rows; ++r) plan.group_rows.push_back(r);
  for (std::int32_t token = 0; token < tokens; token += 2) {
    KeyBlock block{0, token, std::min(2, tokens - token), static_cast<std::int32_t>(plan.block_runs.size()), 0, 0};
    for (std::int32_t r = 0; r < run_count; ++r) {
      const KeyRun& run = plan.runs[static_cast<std::size_t>(r)];
      if (run.token < token + block.length && token < run.token + run.length) plan.block_runs.push_back(r);
    }
    block.run_count = static_cast<std::int32_t>(plan.block_runs.size()) - block.first_run;
    plan.blocks.push_back(block);
  }
  return plan;
}

LayerKind f64_kind(std::int32_t Hq, std::int32_t Hkv, std::int32_t D, std::int32_t Dv) {
  LayerKind kind;
  kind.Hq = Hq;
  kind.Hkv = Hkv;
  kind.D = D;
  kind.Dv = Dv;
  kind.q_dtype = kind.kv_dtype = DType::f64;
  return kind;
}

/// A problem in f64 with its memory; outputs start as NaN.
struct Problem {
  Plan plan;
  std::vector<double> q, k, v, o, lse, bias;
  std::vector<float> sinks;
  KvPool pool;
  Attend args;

  explicit Problem(Plan p) : plan(std::move(p)) {
    const LayerKind& kind = plan.header.kind;
    const std::int64_t rows = plan.header.rows;
    const std::int64_t tokens = std::int64_t{plan.pools[0].page_size} * plan.pools[0].num_pages;
    q = random_values(rows * kind.Hq * kind.D, 1);
    k = random_values(tokens * kind.Hkv * kind.D, 2);
    v = random_values(tokens * kind.Hkv * kind.Dv, 3);
    o.assign(static_cast<std::size_t>(rows * kind.Hq * kind.Dv), kNaN);
    lse.assign(static_cast<std::size_t>(rows * kind.Hq), kNaN);
    args.scale = 1;
  }

  Attend& bind() {
    const LayerKind& kind = plan.header.kind;
    const PoolShape& shape = plan.pools[0];
    pool.k = make_view(k.data(), {shape.num_pages, shape.page_size, kind.Hkv, kind.D});
    pool.v = make_view(v.data(), {shape.num_pages, shape.page_size, kind.Hkv, kind.Dv});
    if (!bias.empty()) pool.bias = make_view(bias.data(), {shape.num_pages, shape.page_size, kind.Hq});
    args.q = make_view(q.data(), {plan.header.rows, kind.Hq, kind.D});
    args.o = make_view(o.data(), {plan.header.rows, kind.Hq, kind.Dv});
    args.lse = make_view(lse.data(), {plan.header.rows, kind.Hq});
    args.kv = {&pool, 1};
    args.sinks = sinks;
    return args;
  }

  void run() {
    const Status s = reference::tree_attention(plan, bind());
    INFO(to_string(s));
    REQUIRE(s.ok());
  }
};

/// One row of order `order`, one head of one dim, `keys.size()` keys at positions 0, 1, ...; q = 1 so that logits are
/// the keys.
Problem scalar_problem(const std::vector<double>& keys, const std::vector<double>& values, std::int32_t order,
                       std::int32_t window = -1) {
  const auto n = static_cast<std::int32_t>(keys.size());
  LayerKind kind = f64_kind(1, 1, 1, 1);
  kind.window = window;
  Problem p(one_tile_plan(kind, {order}, n, {{0, n, 0, 0, MaskKind::interval}}));
  p.q = {1};
  p.k = keys;
  p.v = values;
  return p;
}

/// Two pairs of rotary dims whose first turns by a quarter per position.
struct QuarterTurns {
  std::vector<double> inv_freq = {std::acos(0.0), 0};
  RopeTable table;
  QuarterTurns() {
    table.inv_freq = inv_freq;
    table.dim = 4;
  }
};

}  // namespace

TEST_CASE("reference tree_attention: one key gives its value and its logit", "[reference][tree_attention]") {
  Problem p(one_tile_plan(f64_kind(1, 1, 2, 3), {0}, 1, {{0, 1, 0, 0, MaskKind::full}}));
  p.q = {2, 3};
  p.k = {5, 7};
  p.v = {1, -2, 4};
  p.args.scale = 0.25;
  p.run();
  CHECK(near(p.o, {1, -2, 4}));
  CHECK(near(p.lse, {31 * 0.25}));
}

TEST_CASE("reference tree_attention: scale 0 means 1 / sqrt(D)", "[reference][tree_attention]") {
  Problem p(one_tile_plan(f64_kind(1, 1, 4, 1), {0}, 1, {{0, 1, 0, 0, MaskKind::full}}));
  p.q = {1, 1, 1, 1};
  p.k = {1, 2, 3, 4};
  p.args.scale = 0;
  p.run();
  CHECK(near(p.lse, {5}));
}

TEST_CASE("reference tree_attention: two keys weigh 1 to 3", "[reference][tree_attention]") {
  Problem p = scalar_problem({0, kLn3}, {8, 16}, 1);
  p.run();
  CHECK(near(p.o, {14}));
  CHECK(near(p.lse, {2 * kLn2}));
}

TEST_CASE("reference tree_attention: a sink takes weight and nothing else", "[reference][tree_attention]") {
  Problem p = scalar_problem({0, kLn3}, {8, 16}, 1);
  p.sinks = {0};  // weights 1 : 3 : 1
  p.run();
  CHECK(near(p.o, {(8 + 3 * 16) / 5.0}));
  CHECK(near(p.lse, {std::log(5.0)}));
  p.sinks = {-std::numeric_limits<float>::infinity()};
  p.run();
  CHECK(near(p.o, {14}));
  CHECK(near(p.lse, {2 * kLn2}));
}

TEST_CASE("reference tree_attention: soft cap before bias", "[reference][tree_attention]") {
  // 2 tanh(x / 2) is 1 at x = 2 atanh(1/2) = ln 3; the bias of ln 3 - 1 lifts it to ln 3.
  Problem p = scalar_problem({0, kLn3}, {8, 16}, 1);
  p.args.softcap = 2;
  p.bias = {0, kLn3 - 1};
  p.run();
  CHECK(near(p.o, {14}));
  CHECK(near(p.lse, {2 * kLn2}));
}

TEST_CASE("reference tree_attention: interval masks follow order and window", "[reference][tree_attention]") {
  struct Case {
    std::int32_t order, window;
    double o, lse;
  };
  const Case cases[] = {{0, -1, 1, 0},    {1, -1, 1.5, kLn2}, {9, -1, 7.0 / 3, kLn3},
                        {2, 1, 4, 0},     {2, 2, 3, kLn2},    {3, 2, 4, 0},
                        {4, 2, 0, -kInf}, {-1, -1, 0, -kInf}, {INT32_MAX, 1, 0, -kInf}};
  for (const Case& c : cases) {
    Problem p = scalar_problem({0, 0, 0}, {1, 2, 4}, c.order, c.window);
    p.run();
    INFO("order " << c.order << " window " << c.window);
    CHECK(near(p.o, {c.o}));
    CHECK(near(p.lse, {c.lse}));
  }
}

TEST_CASE("reference tree_attention: bits choose keys per row", "[reference][tree_attention]") {
  Plan plan = one_tile_plan(f64_kind(1, 1, 1, 1), {0, 0}, 70, {{0, 70, 0, 0, MaskKind::bits}});
  plan.words = {std::uint64_t{1} << 3, std::uint64_t{1} << 5, 0, std::uint64_t{1} << 0};  // row 0: 3, 69; row 1: 64
  Problem p(plan);
  p.q = {0, 0};
  for (std::size_t j = 0; j < 70; ++j) p.v[j] = static_cast<double>(j);
  p.run();
  CHECK(near(p.o, {36, 64}));
  CHECK(near(p.lse, {kLn2, 0}));
}

TEST_CASE("reference tree_attention: an empty row is 0 and -inf, its sink alone with one",
          "[reference][tree_attention]") {
  Problem p = scalar_problem({0, 0}, {1, 2}, -1);
  p.run();
  CHECK(near(p.o, {0}));
  CHECK(near(p.lse, {-kInf}));
  p.sinks = {0.5F};
  p.run();
  CHECK(near(p.o, {0}));
  CHECK(near(p.lse, {0.5}));
}

TEST_CASE("reference tree_attention: NaN and infinity reach exactly the rows that see them",
          "[reference][tree_attention]") {
  const LayerKind kind = f64_kind(2, 2, 2, 2);
  const Plan plan = one_tile_plan(kind, {0, 1}, 3, {{0, 3, 0, 0, MaskKind::interval}});
  Problem clean(plan);
  clean.run();
  const auto poisoned = [&](const std::function<void(Problem&)>& poison) {
    Problem p(plan);
    poison(p);
    p.run();
    std::vector<bool> bad;  // per (row, head)
    for (std::size_t i = 0; i < 4; ++i) {
      const bool same =
          p.lse[i] == clean.lse[i] && p.o[2 * i] == clean.o[2 * i] && p.o[2 * i + 1] == clean.o[2 * i + 1];
      if (!same) CHECK((std::isnan(p.o[2 * i]) || std::isnan(p.o[2 * i + 1])));
      bad.push_back(!same);
    }
    return bad;
  };
  using Bad = std::vector<bool>;
  CHECK(poisoned([](Problem& p) { p.q[2] = kNaN; }) == Bad{false, true, false, false});  // row 0, head 1
  CHECK(poisoned([](Problem& p) { p.k[0] = kNaN; }) == Bad{true, false, true, false});   // key 0, head 0
  CHECK(poisoned([](Problem& p) { p.k[6] = kNaN; }) == Bad{false, false, false, true});  // key 1, head 1
  CHECK(poisoned([](Problem& p) { p.v[4] = kNaN; }) == Bad{false, false, true, false});  // value 1, head 0, one dim
  CHECK(poisoned([](Problem& p) { p.k[8] = p.v[8] = kNaN; }) == Bad{false, false, false, false});  // nobody sees key 2
  CHECK(poisoned([](Problem& p) { p.q[0] = p.k[0] = kInf; })[0]);
  Problem infinite = scalar_problem({0, kInf}, {1, 2}, 1);
  infinite.run();
  CHECK(near(infinite.o, {kNaN}));
  CHECK(near(infinite.lse, {kNaN}));
}

TEST_CASE("reference tree_attention: a bias of -inf hides a key, on all keys it empties the row",
          "[reference][tree_attention]") {
  Problem p = scalar_problem({0, 0, 0}, {1, 2, 4}, 2);
  p.bias = {0, -kInf, 0};
  p.run();
  CHECK(near(p.o, {2.5}));
  p.bias = {-kInf, -kInf, -kInf};
  p.run();
  CHECK(near(p.o, {0}));
  CHECK(near(p.lse, {-kInf}));
}

TEST_CASE("reference tree_attention: KV scales multiply stored keys and values", "[reference][tree_attention]") {
  const LayerKind kind = f64_kind(4, 2, 3, 2);
  const Plan plan = one_tile_plan(kind, {0, 2}, 3, {{0, 3, 0, 0, MaskKind::interval}});
  const std::vector<float> scales = {0.5F, 2, 3, 0.25F, 1.5F, 4};
  const std::pair<ScaleGranularity, std::function<std::size_t(std::size_t, std::size_t)>> cases[] = {
      {ScaleGranularity::tensor, [](std::size_t, std::size_t) { return std::size_t{0}; }},
      {ScaleGranularity::head, [](std::size_t, std::size_t h) { return h; }},
      {ScaleGranularity::token, [](std::size_t t, std::size_t h) { return 2 * t + h; }},
      {ScaleGranularity::page, [](std::size_t, std::size_t h) { return h; }}};  // there is one page
  for (const auto& [granularity, index] : cases) {
    Problem scaled(plan), plain(plan);
    scaled.pool.k_scale = scaled.pool.v_scale = {scales.data(), granularity};
    for (std::size_t t = 0; t < 3; ++t) {
      for (std::size_t h = 0; h < 2; ++h) {
        const double scale = scales[index(t, h)];
        for (std::size_t d = 0; d < 3; ++d) plain.k[(2 * t + h) * 3 + d] *= scale;
        for (std::size_t d = 0; d < 2; ++d) plain.v[(2 * t + h) * 2 + d] *= scale;
      }
    }
    scaled.run();
    plain.run();
    CHECK(near(scaled.o, plain.o));
    CHECK(near(scaled.lse, plain.lse));
  }
}

TEST_CASE("reference tree_attention: pages and offsets say where a token is", "[reference][tree_attention]") {
  Plan plan = one_tile_plan(f64_kind(1, 1, 1, 1), {2}, 3, {{0, 3, 0, 0, MaskKind::interval}});
  plan.pools = {{2, 3}};
  plan.pages = {2, 0};
  plan.segments = {{0, 0, 1, 3}};  // slots 5, 0, 1 of the pool
  Problem p(plan);
  p.q = {1};
  p.k = {kLn3, 0, kNaN, kNaN, kNaN, kLn2};
  p.v = {6, 12, kNaN, kNaN, kNaN, 18};
  p.run();
  CHECK(near(p.o, {(6 * 3 + 12 + 18 * 2) / 6.0}));
  CHECK(near(p.lse, {std::log(6.0)}));
}

TEST_CASE("reference tree_attention: a length slot drops keys and lowers the order", "[reference][tree_attention]") {
  Plan plan = one_tile_plan(f64_kind(1, 1, 1, 1), {3, 2}, 4, {{0, 4, 0, 0, MaskKind::interval}});
  plan.slot_capacity = {4};
  plan.header.length_slots = 1;
  plan.runs[0].length_slot = 0;
  for (RowInstance& instance : plan.instances) instance.length_slot = 0;
  Problem p(plan);
  p.q = {0, 0};
  p.v = {1, 2, 4, 8};
  const std::vector<std::int32_t> full = {4}, three = {3}, none = {0};
  p.args.actual_lengths = full;
  p.run();
  CHECK(near(p.o, {15.0 / 4, 7.0 / 3}));
  p.args.actual_lengths = three;
  p.run();
  CHECK(near(p.o, {7.0 / 3, 1.5}));
  p.args.actual_lengths = none;
  p.run();
  CHECK(near(p.lse, {-kInf, -kInf}));
}

TEST_CASE("reference tree_attention: the query turns by minus the delta of the run", "[reference][tree_attention]") {
  // Key 1 lies a quarter turn behind: turned forward it is (0, 1) in the first pair, so the logits are 0 and ln 3.
  const QuarterTurns rope;
  const Plan plan =
      one_tile_plan(f64_kind(1, 1, 4, 1), {1}, 2, {{0, 1, 0, 0, MaskKind::full}, {1, 1, 1, 1, MaskKind::full}});
  Problem p(plan);
  p.q = {0, 0, 1, 0};  // pairing half: dims 0 and 2 are a pair
  p.k = {kLn3, 0, 0, 0, kLn3, 0, 0, 0};
  p.v = {8, 16};
  p.args.rope = &rope.table;
  p.run();
  CHECK(near(p.o, {14}));
  CHECK(near(p.lse, {2 * kLn2}));
}

TEST_CASE("reference tree_attention: an unrotated query is turned to its position, times mscale",
          "[reference][tree_attention]") {
  QuarterTurns rope;
  rope.table.mscale = 2;
  rope.table.dim = 2;  // the other dims neither turn nor scale
  rope.table.inv_freq = {rope.inv_freq.data(), 1};
  Problem p(one_tile_plan(f64_kind(1, 1, 4, 1), {1}, 1, {{0, 1, 0, 0, MaskKind::full}}));
  p.q = {3, 0, 5, 0};
  p.k = {0, 1, 1, 0};  // turned, the query is (0, 2 * 3, 5, 0)
  p.args.rope = &rope.table;
  p.args.q_rotated = false;
  p.run();
  CHECK(near(p.lse, {3 * 2 + 5}));
}

TEST_CASE("reference tree_attention: outputs may be absent or rounded once to f32", "[reference][tree_attention]") {
  const Plan plan = one_tile_plan(f64_kind(2, 1, 4, 3), {1, 2}, 4, {{0, 4, 0, 0, MaskKind::interval}});
  Problem p(plan);
  p.run();
  std::vector<float> o(p.o.size(), NAN);
  std::vector<double> lse(p.lse.size(), kNaN);
  Attend args = p.bind();
  args.o = make_view(o.data(), {2, 2, 3});
  args.lse = {};
  REQUIRE(reference::tree_attention(plan, args).ok());
  for (std::size_t i = 0; i < o.size(); ++i) CHECK(o[i] == static_cast<float>(p.o[i]));
  args.o = {};
  args.lse = make_view(lse.data(), {2, 2});
  REQUIRE(reference::tree_attention(plan, args).ok());
  CHECK(lse == p.lse);
}

TEST_CASE("reference tree_attention: chosen rows alone are those of the whole call", "[reference][tree_attention]") {
  const Plan plan = one_tile_plan(f64_kind(2, 1, 4, 3), {1, 2, 3}, 4, {{0, 4, 0, 0, MaskKind::interval}});
  Problem all(plan), some(plan);
  all.run();
  const std::vector<std::int32_t> rows = {1};
  REQUIRE(reference::tree_attention_rows(plan, some.bind(), rows).ok());
  for (std::size_t i = 0; i < all.lse.size(); ++i) CHECK(near(some.lse[i], i / 2 == 1 ? all.lse[i] : kNaN));
  for (std::size_t i = 0; i < all.o.size(); ++i) CHECK(near(some.o[i], i / 6 == 1 ? all.o[i] : kNaN));
}

namespace {

/// A problem with everything on: GQA, window, soft cap, bias, sinks, a shared run met with a delta, rotated queries;
/// and its gradients.
struct GradProblem : Problem {
  QuarterTurns rope;
  std::vector<double> dout, dlse, dq, dk, dv;
  std::vector<float> dsinks;
  KvGrad dkv;
  AttendGrad grad;

  static Plan make_plan() {
    LayerKind kind = f64_kind(4, 2, 6, 3);
    kind.window = 5;
    return one_tile_plan(kind, {2, 3, -1, 7}, 7,
                         {{0, 3, 0, 0, MaskKind::interval},
                          {3, 2, 3, 3, MaskKind::interval},
                          {1, 3, 5, -2, MaskKind::interval}});  // tokens 1 and 2 occur twice in the path; 5, 6 never
  }

  explicit GradProblem(bool q_rotated) : Problem(make_plan()) {
    rope.inv_freq = {1, 0.3};
    rope.table.inv_freq = rope.inv_freq;
    rope.table.offset = 1;
    rope.table.mscale = 1.25;
    args.scale = 0.4;
    args.softcap = 3;
    args.q_rotated = q_rotated;
    args.rope = &rope.table;
    sinks = {0.25F, -kInf32(), -1, 0.5F};
    bias = random_values(7 * 4, 4);
    dout = random_values(static_cast<std::int64_t>(o.size()), 5);
    dlse = random_values(static_cast<std::int64_t>(lse.size()), 6);
    dq.assign(q.size(), kNaN);
    dk.assign(k.size(), kNaN);
    dv.assign(v.size(), kNaN);
    dsinks.assign(sinks.size(), NAN);
  }
  static float kInf32() { return std::numeric_limits<float>::infinity(); }

  AttendGrad& bind_grad() {
    grad.fwd = bind();
    grad.dout = args.o;
    grad.dout.data = dout.data();
    grad.dlse = args.lse;
    grad.dlse.data = dlse.data();
    grad.dq = args.q;
    grad.dq.data = dq.data();
    dkv = {pool.k, pool.v};
    dkv.dk.data = dk.data();
    dkv.dv.data = dv.data();
    grad.dkv = {&dkv, 1};
    grad.dsinks = dsinks;
    return grad;
  }
  void run_backward() {
    run();
    const Status s = reference::tree_attention_backward(plan, bind_grad());
    INFO(to_string(s));
    REQUIRE(s.ok());
  }
  /// sum dout . o + dlse . lse, whose gradients the backward computes.
  double loss() {
    run();
    double sum = 0;
    for (std::size_t i = 0; i < o.size(); ++i) sum += dout[i] * o[i];
    for (std::size_t i = 0; i < lse.size(); ++i) {
      if (std::isfinite(lse[i])) sum += dlse[i] * lse[i];
    }
    return sum;
  }
  /// Fourth-order central difference along one input; steps h and 2h cancel the leading truncation error.
  template <class T>
  double difference(T* x, T h) {
    const T at = *x;
    const auto step = [&](T offset) {
      *x = at + offset;
      return loss();
    };
    const double near_step = step(h) - step(-h);
    const double far_step = step(2 * h) - step(-2 * h);
    *x = at;
    return (8 * near_step - far_step) / (12 * static_cast<double>(h));
  }
};

template <class T>
void check_gradient(GradProblem* p, std::vector<T>* x, const std::vector<T>& gradient, const char* name) {
  for (std::size_t i = 0; i < x->size(); ++i) {
    INFO(name << "[" << i << "]");
    const double want = std::isfinite((*x)[i]) ? p->difference(&(*x)[i], static_cast<T>(0x1p-9)) : 0;
    const double got = gradient[i];
    const double storage = testing::unit_roundoff(dtype_of<T>) * std::abs(want);
    CHECK(std::abs(got - want) <= testing::kFiniteDifferenceTolerance * std::max(1.0, std::abs(want)) + storage);
  }
}

}  // namespace

TEST_CASE("reference tree_attention_backward: gradients equal central differences", "[reference][backward]") {
  for (const bool q_rotated : {true, false}) {
    GradProblem p(q_rotated);
    p.run_backward();
    INFO("q_rotated " << q_rotated);
    check_gradient(&p, &p.q, p.dq, "dq");
    check_gradient(&p, &p.k, p.dk, "dk");
    check_gradient(&p, &p.v, p.dv, "dv");
    check_gradient(&p, &p.sinks, p.dsinks, "dsinks");
  }
}

TEST_CASE("reference tree_attention_backward: KV scales give gradients of the stored values", "[reference][backward]") {
  GradProblem p(true);
  std::vector<float> scales;
  for (const double x : random_values(7 * 2, 7)) scales.push_back(static_cast<float>(x));
  p.pool.k_scale = {scales.data(), ScaleGranularity::token};
  p.pool.v_scale = {scales.data() + 1, ScaleGranularity::head};
  p.run_backward();
  check_gradient(&p, &p.k, p.dk, "dk");
  check_gradient(&p, &p.v, p.dv, "dv");
}

TEST_CASE("reference tree_attention_backward: rows without keys and keys without rows get zeros",
          "[reference][backward]") {
  GradProblem p(true);
  p.run_backward();
  for (std::size_t i = 2 * 4 * 6; i < 3 * 4 * 6; ++i) CHECK(p.dq[i] == 0);  // row 2 has order -1
  for (std::size_t i = 5 * 2 * 6; i < p.dk.size(); ++i) CHECK(p.dk[i] == 0);
  for (std::size_t i = 5 * 2 * 3; i < p.dv.size(); ++i) CHECK(p.dv[i] == 0);
}

TEST_CASE("reference tree_attention_backward: accumulate adds", "[reference][backward]") {
  GradProblem once(true), twice(true);
  once.run_backward();
  twice.run_backward();
  twice.grad.accumulate = true;
  REQUIRE(reference::tree_attention_backward(twice.plan, twice.grad).ok());
  for (std::size_t i = 0; i < once.dq.size(); ++i) CHECK(twice.dq[i] == 2 * once.dq[i]);
  for (std::size_t i = 0; i < once.dk.size(); ++i) CHECK(twice.dk[i] == 2 * once.dk[i]);
  for (std::size_t i = 0; i < once.dv.size(); ++i) CHECK(twice.dv[i] == 2 * once.dv[i]);
  for (std::size_t i = 0; i < once.dsinks.size(); ++i) CHECK(near(twice.dsinks[i], 2 * once.dsinks[i]));
}

TEST_CASE("reference tree_attention: bits do not depend on the parts", "[reference][tree_attention][backward]") {
  GradProblem want(true);
  want.run_backward();
  for (const std::int32_t n : {2, 3, 8, 64}) {
    GradProblem got(true);
    const AttendCall forward{got.plan.view(), got.bind()};
    for (std::int32_t i = n; i-- > 0;) REQUIRE(reference::tree_attention_part(forward, i, n).ok());
    const AttendGradCall backward{got.plan.view(), got.bind_grad()};
    for (std::int32_t i = n; i-- > 0;) REQUIRE(reference::tree_attention_backward_part(backward, i, n).ok());
    CHECK(got.o == want.o);
    CHECK(got.lse == want.lse);
    CHECK(got.dq == want.dq);
    CHECK(got.dk == want.dk);
    CHECK(got.dv == want.dv);
    CHECK(got.dsinks == want.dsinks);
  }
}

namespace {

/// `count` states of [rows, heads] with values of width `dim`, and room for a merged one.
struct StateMemory {
  std::vector<double> o, lse;
  State state;
  StateMemory(std::int64_t rows, std::int64_t heads, std::int64_t dim, std::uint32_t seed)
      : o(random_values(rows * heads * dim, seed)), lse(random_values(rows * heads, seed + 100)) {
    state = {make_view(o.data(), {rows, heads, dim}), make_view(lse.data(), {rows, heads})};
  }
  StateMemory(const StateMemory&) = delete;
  StateMemory& operator=(const StateMemory&) = delete;
};

}  // namespace

TEST_CASE("reference merge_states: equal weights average, unequal ones weigh", "[reference][merge_states]") {
  StateMemory a(2, 1, 2, 1), b(2, 1, 2, 2), out(2, 1, 2, 3);
  a.o = {1, 2, 4, 8};
  b.o = {3, 6, 8, 16};
  a.lse = {5, 0};
  b.lse = {5, kLn3};
  const State parts[] = {a.state, b.state};
  REQUIRE(reference::merge_states({{parts, 2}, out.state}).ok());
  CHECK(near(out.o, {2, 4, 7, 14}));
  CHECK(near(out.lse, {5 + kLn2, 2 * kLn2}));
}

TEST_CASE("reference merge_states: the empty state is neutral bit for bit", "[reference][merge_states]") {
  StateMemory a(1, 2, 3, 1), empty(1, 2, 3, 2), out(1, 2, 3, 3);
  a.o[1] = -0.0;
  empty.o.assign(6, kNaN);
  empty.lse.assign(2, -kInf);
  const State parts[] = {empty.state, a.state, empty.state};
  for (const Span<const State> some : {Span<const State>{parts, 3}, {parts, 2}, {parts + 1, 2}, {parts + 1, 1}}) {
    out.o.assign(6, kNaN);
    REQUIRE(reference::merge_states({some, out.state}).ok());
    CHECK(std::memcmp(out.o.data(), a.o.data(), 6 * sizeof(double)) == 0);
    CHECK(out.lse == a.lse);
  }
  for (const Span<const State> none : {Span<const State>{}, {parts, 1}}) {
    out.o.assign(6, kNaN);
    REQUIRE(reference::merge_states({none, out.state}).ok());
    CHECK(out.o == std::vector<double>(6, 0.0));
    CHECK(out.lse == std::vector<double>(2, -kInf));
  }
}

TEST_CASE("reference merge_states: NaN stays in its row and head, two parts commute, in place works",
          "[reference][merge_states]") {
  StateMemory a(2, 2, 3, 1), b(2, 2, 3, 2), ab(2, 2, 3, 3), ba(2, 2, 3, 4);
  a.lse[2] = kNaN;
  b.lse[2] = -kInf;
  const State forward[] = {a.state, b.state}, reverse[] = {b.state, a.state};
  REQUIRE(reference::merge_states({{forward, 2}, ab.state}).ok());
  REQUIRE(reference::merge_states({{reverse, 2}, ba.state}).ok());
  REQUIRE(reference::merge_states({{forward, 2}, b.state}).ok());
  CHECK(std::memcmp(ab.o.data(), ba.o.data(), 12 * sizeof(double)) == 0);
  CHECK(std::memcmp(ab.o.data(), b.o.data(), 12 * sizeof(double)) == 0);
  for (std::size_t i = 0; i < 4; ++i) CHECK(std::isnan(ab.lse[i]) == (i == 2));
  for (std::size_t i = 0; i < 12; ++i) CHECK(std::isnan(ab.o[i]) == (i / 3 == 2));
}

TEST_CASE("reference merge_states_backward: gradients equal central differences", "[reference][merge_states]") {
  StateMemory a(1, 2, 3, 1), b(1, 2, 3, 2), c(1, 2, 3, 3), out(1, 2, 3, 4), d(1, 2, 3, 5);
  StateMemory da(1, 2, 3, 6), db(1, 2, 3, 7), dc(1, 2, 3, 8);
  c.lse[1] = -kInf;
  const State parts[] = {a.state, b.state, c.state}, dparts[] = {da.state, db.state, dc.state};
  const auto loss = [&] {
    REQUIRE(reference::merge_states({{parts, 3}, out.state}).ok());
    double sum = 0;
    for (std::size_t i = 0; i < 6; ++i) sum += d.o[i] * out.o[i];
    for (std::size_t i = 0; i < 2; ++i) sum += d.lse[i] * out.lse[i];
    return sum;
  };
  loss();
  REQUIRE(reference::merge_states_backward({{parts, 3}, out.state, d.state.o, d.state.lse, {dparts, 3}}).ok());
  const auto check = [&](std::vector<double>& x, const std::vector<double>& gradient) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::isinf(x[i])) {
        CHECK(gradient[i] == 0);
        continue;
      }
      const double at = x[i], h = 0x1p-9;
      double f[4];
      const double offsets[] = {h, -h, 2 * h, -2 * h};
      for (std::size_t s = 0; s < 4; ++s) {
        x[i] = at + offsets[s];
        f[s] = loss();
      }
      x[i] = at;
      const double want = (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h);
      CHECK(std::abs(gradient[i] - want) <= testing::kFiniteDifferenceTolerance);
    }
  };
  for (const auto& [part, gradient] : {std::pair{&a, &da}, {&b, &db}, {&c, &dc}}) {
    check(part->o, gradient->o);
    check(part->lse, gradient->lse);
  }
}

TEST_CASE("reference rope: quarter turns in both pairings, partial dims and mscale", "[reference][rope]") {
  QuarterTurns rope;
  const std::vector<std::int32_t> positions = {1, 2};
  std::vector<double> x = {1, 2, 3, 4, 5, 1, 2, 3, 4, 5}, out(10, kNaN);
  const auto apply = [&] {
    RopeApply args{make_view(x.data(), {2, 1, 5}), make_view(out.data(), {2, 1, 5}), positions, rope.table};
    REQUIRE(reference::rope_apply(args).ok());
    return out;
  };
  CHECK(near(apply(), {-3, 2, 1, 4, 5, -1, 2, -3, 4, 5}));  // half: dims (0, 2) turn, (1, 3) have frequency 0
  rope.table.pairing = RopePairing::interleaved;
  CHECK(near(apply(), {-2, 1, 3, 4, 5, -1, -2, 3, 4, 5}));
  rope.table.offset = 1;  // trailing
  rope.table.mscale = 2;
  CHECK(near(apply(), {1, -6, 4, 8, 10, 1, -4, -6, 8, 10}));
}

TEST_CASE("reference rope_shift: without mscale, delta 0 keeps the bits, in place", "[reference][rope]") {
  QuarterTurns rope;
  rope.table.mscale = 2;
  const std::vector<std::int32_t> deltas = {0, -1};
  std::vector<double> x = {kNaN, 2, -0.0, 4, 1, 2, 3, 4}, out(8, 7);
  std::vector<double> copy = x;
  RopeShift args{make_view(x.data(), {2, 1, 4}), make_view(out.data(), {2, 1, 4}), deltas, rope.table};
  REQUIRE(reference::rope_shift(args).ok());
  CHECK(std::memcmp(out.data(), x.data(), 4 * sizeof(double)) == 0);
  CHECK(near(out[4], 3));
  CHECK(near(out[6], -1));
  args.out = args.x;
  REQUIRE(reference::rope_shift(args).ok());
  CHECK(std::memcmp(out.data(), x.data(), 8 * sizeof(double)) == 0);
  const std::vector<std::int32_t> all = {1};
  args.deltas = all;
  REQUIRE(reference::rope_shift(args).ok());
  CHECK(near(x[4], copy[4]));
  CHECK(near(x[6], copy[6]));
}

TEST_CASE("reference kv_append: rotates, divides by the scale and touches only named slots", "[reference][kv_append]") {
  QuarterTurns rope;
  rope.table.mscale = 3;
  std::vector<double> k = {1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9}, v = {10, 20, 30};
  std::vector<float> pool_k(16, -1), pool_v(4, -1);
  const std::vector<float> k_scale = {2, 4}, v_scale = {5};  // pages 0 and 1
  const std::vector<std::int64_t> slots = {3, 0, -1};
  const std::vector<std::int32_t> positions = {1, 0, 5};
  KvAppend args;
  args.k = make_view(k.data(), {3, 1, 4});
  args.v = make_view(v.data(), {3, 1, 1});
  args.pool.k = make_view(pool_k.data(), {2, 2, 1, 4});
  args.pool.v = make_view(pool_v.data(), {2, 2, 1, 1});
  args.pool.k_scale = {k_scale.data(), ScaleGranularity::page};
  args.pool.v_scale = {v_scale.data(), ScaleGranularity::tensor};
  args.slots = slots;
  args.positions = positions;
  args.rope = &rope.table;
  REQUIRE(reference::kv_append(args).ok());
  CHECK(pool_k == std::vector<float>{7.5F, 9, 10.5F, 12, -1, -1, -1, -1, -1, -1, -1, -1, -2.25F, 1.5F, 0.75F, 3});
  CHECK(pool_v == std::vector<float>{4, -1, -1, 2});
}

TEST_CASE("reference: registers behind what is there and runs when forced", "[reference][context]") {
  Context context;
  REQUIRE(reference::add_to(&context).ok());
  CHECK(context.tree_attention.count == 1);
  CHECK(context.kv_append.count == 1);
  CHECK(reference::add_to(&context).code == StatusCode::invalid_argument);  // the name is taken
  CHECK(force_implementation(&context, reference::kName).ok());
  CHECK(std::string(context.rope_shift.forced) == reference::kName);
}
