// SPDX-License-Identifier: Apache-2.0
// The testing component: its measures, its problems, its oracle and its plan checker must be able to find fault.
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "prefixshare/testing/compare.hpp"
#include "prefixshare/testing/oracle.hpp"
#include "prefixshare/testing/plan_checker.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

namespace {

using namespace prefixshare;
using testing::Comparison;
using testing::Expected;
using testing::Random;
using testing::Topology;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

/// Two vectors of two elements, a block each.
Expected two_blocks() {
  Expected e;
  e.width = 2;
  e.value = {1, -4, 0.001, 0};
  e.block = {0, 1};
  e.magnitude = {8, 8};
  return e;
}

}  // namespace

TEST_CASE("compare: the error is relative to the block and to an eighth of its absolute sums", "[testing]") {
  const Expected e = two_blocks();
  const std::vector<double> off = {1.5, -4, 0.001, 0.25};
  const testing::Distance d = testing::distance(off, e);
  CHECK(d.inf == 0.25);  // 0.25 / (8 / 8), not 0.25 / 0.001; 0.5 / 4 is less
  CHECK(d.worst == 3);
  CHECK(d.l2 == Approx(std::sqrt((0.25 + 0.0625) / (17 + 1e-6))));
  CHECK(testing::compare(off, e, 0.25, DType::f64).ok);
  const Comparison c = testing::compare(off, e, 0.24, DType::f64);
  CHECK_FALSE(c.ok);
  CHECK(c.worst == 3);
  CHECK(c.text == "e_inf 0.25 > 0.24, worst at [1, 1]: got 0.25, want 0");
}

TEST_CASE("compare: what is not finite must be so in both", "[testing]") {
  Expected e = two_blocks();
  e.value = {kNaN, kInf, -kInf, 1};
  std::vector<double> x = {kNaN, kInf, -kInf, 1};
  CHECK(testing::compare(x, e, 0, DType::f64).ok);
  for (std::size_t i = 0; i < 4; ++i) {
    for (double wrong : {kNaN, kInf, -kInf, 1.0}) {
      std::vector<double> y = x;
      y[i] = wrong;
      const bool same = i == 0 ? std::isnan(wrong) : wrong == x[i];
      CHECK(testing::compare(y, e, 1, DType::f64).ok == same);
    }
  }
}

TEST_CASE("compare: what is no output is not compared, and a missing element is an error", "[testing]") {
  Expected e = two_blocks();
  e.block = {Expected::kNotCompared, 1};
  CHECK(testing::compare(std::vector<double>{kNaN, 7, 0.001, 0}, e, 0, DType::f64).ok);
  CHECK_FALSE(testing::compare(std::vector<double>{kNaN, 7, 0.001}, e, 0, DType::f64).ok);
}

TEST_CASE("compare: 16 bits are measured against the dense emulation, the rounding and f32", "[testing]") {
  Expected e;
  e.value = {1};
  e.block = {0};
  e.magnitude = {1};
  const std::vector<double> dense = {1 + 0x1p-8};
  const auto ok = [&](double x, double factor) {
    return testing::compare_16bit(std::vector<double>{x}, e, dense, factor, 0x1p-20, DType::bf16).ok;
  };
  CHECK(ok(1 + 0x1p-7, 2));
  CHECK_FALSE(ok(1 + 0x1p-7 + 0x1p-12, 2));
  CHECK(ok(1 + 0x1p-7 + 0x1p-12, 3));
  const std::vector<double> exact = {1};
  CHECK(testing::compare_16bit(std::vector<double>{1 + 0x1p-21}, e, exact, 2, 0x1p-20, DType::bf16).ok);
  CHECK_FALSE(testing::compare_16bit(std::vector<double>{1 + 0x1p-19}, e, exact, 2, 0x1p-20, DType::bf16).ok);
}

TEST_CASE("compare: tolerances stand where they were derived", "[testing]") {
  CHECK(testing::forward_tolerance(DType::f64, 10) == Approx(9.3e-13).epsilon(0.01));
  CHECK(testing::forward_tolerance(DType::f32, 10) == Approx(8.6e-6).epsilon(0.01));
  CHECK(testing::gradient_tolerance(DType::f32, 10) == Approx(4.0e-5).epsilon(0.01));
  CHECK(testing::rope_tolerance(DType::f64, 1024) == 0x1p-41);
}

TEST_CASE("problem: the same seed gives the same bits, another seed others", "[testing]") {
  testing::ProblemOptions options;
  Random random(3);
  const Topology t = testing::random_topology(&random);
  testing::Problem a, b, c;
  REQUIRE(make_problem(t, options, &a).ok());
  REQUIRE(make_problem(t, options, &b).ok());
  options.seed = 2;
  REQUIRE(make_problem(t, options, &c).ok());
  REQUIRE(a.forest.rows() > 0);
  CHECK(testing::same_bits(a.q.view(), b.q.view()));
  CHECK(testing::same_bits(a.pools[0].k.view(), b.pools[0].k.view()));
  CHECK_FALSE(testing::same_bits(a.q.view(), c.q.view()));
}

TEST_CASE("problem: guards see a write beside the outputs and to tokens that no node names", "[testing]") {
  testing::ProblemOptions options;
  options.page_size = 5;
  options.strided = true;
  options.backward = true;
  const std::vector<std::int32_t> own = {3, 4};
  testing::Problem p;
  REQUIRE(make_problem(testing::prefix_group(7, own, true), options, &p).ok());
  CHECK(p.guards_intact());
  p.o.set(0, 1.0);
  CHECK(p.guards_intact());
  const TensorView<3> o = p.o.view();
  o.at<float>(0, 0, 0)[o.shape[2]] = 0;  // padding after a vector
  CHECK_FALSE(p.guards_intact());
  p.poison_outputs();
  CHECK(p.guards_intact());
  for (std::size_t token = 0; token < p.pools[0].named.size(); ++token) {
    p.pools[0].dk.set(static_cast<std::int64_t>(token) * options.kind.D, 0.0);
    CHECK(p.guards_intact() == (p.pools[0].named[token] != 0));
    p.poison_outputs();
  }
}

TEST_CASE("problem: keys and values are NaN wherever no path has a token", "[testing]") {
  Random random(11);
  testing::RandomForest limits;
  limits.length_slots = true;
  const Topology t = testing::random_topology(&random, limits);
  testing::ProblemOptions options;
  options.page_size = 5;
  options.kind.D = options.kind.Dv = 2;
  testing::Problem p;
  REQUIRE(make_problem(t, options, &p).ok());
  const std::vector<double> k = testing::to_doubles(p.kv[0].k);
  std::size_t finite = 0;
  for (double x : k) finite += std::isfinite(x);
  std::set<std::vector<std::int32_t>> tokens;
  for (const Node& n : p.forest.nodes) {
    const std::int32_t length = testing::detail::node_tokens(n, p.actual_lengths);
    for (std::int32_t i = 0; i < length; ++i) {
      testing::VisibleKey key;
      testing::detail::locate(p.forest.pools, p.forest.pages, p.forest.segments, n.segment, n.begin + i, &key);
      tokens.insert({key.page, key.slot});
    }
  }
  CHECK(finite == tokens.size() * 2);
  CHECK(finite < k.size());
}

TEST_CASE("oracle: two keys by hand", "[testing]") {
  testing::ProblemOptions options;
  options.kind.D = options.kind.Dv = 1;
  options.kind.q_dtype = options.kind.kv_dtype = DType::f64;
  options.backward = true;
  options.sinks = true;
  options.scale = 0.5;
  const std::vector<std::int32_t> own = {1, 1};
  testing::Problem p;
  REQUIRE(make_problem(testing::chain(own, 1), options, &p).ok());
  p.sinks = {0.25f};
  const auto key = [&](std::size_t n) {
    const Segment& s = p.forest.segments[n];
    return testing::to_doubles(p.kv[0].k)[static_cast<std::size_t>(s.offset)];
  };
  const auto value = [&](std::size_t n) {
    const Segment& s = p.forest.segments[n];
    return testing::to_doubles(p.kv[0].v)[static_cast<std::size_t>(s.offset)];
  };
  const double q = testing::to_doubles(p.q.view())[0];
  const double w[] = {std::exp(0.5 * q * key(0)), std::exp(0.5 * q * key(1))}, sink = std::exp(0.25);
  const double sum = w[0] + w[1] + sink;
  const double o = (w[0] * value(0) + w[1] * value(1)) / sum;
  p.o.set(0, o);
  p.lse.set(0, std::log(sum));
  const auto e = testing::expect_backward(p.forest, options.kind, p.attend_grad());
  CHECK(e.o.value[0] == Approx(o).epsilon(1e-14));
  CHECK(e.lse.value[0] == Approx(std::log(sum)).epsilon(1e-14));
  const double g = testing::to_doubles(p.dout.view())[0];
  const double d = g * o - testing::to_doubles(p.dlse.view())[0];
  const double ds[] = {w[0] / sum * (g * value(0) - d), w[1] / sum * (g * value(1) - d)};
  CHECK(e.dq.value[0] == Approx(0.5 * (ds[0] * key(0) + ds[1] * key(1))).epsilon(1e-13));
  CHECK(e.dsinks.value[0] == Approx(-sink / sum * d).epsilon(1e-13));
  for (std::size_t n = 0; n < 2; ++n) {
    const std::size_t at = static_cast<std::size_t>(p.forest.segments[n].offset);
    CHECK(e.dk[0].value[at] == Approx(0.5 * ds[n] * q).epsilon(1e-13));
    CHECK(e.dv[0].value[at] == Approx(w[n] / sum * g).epsilon(1e-13));
  }

  // Another o is another input: D is taken from it.
  p.o.set(0, o + 0.5);
  const auto moved = testing::expect_backward(p.forest, options.kind, p.attend_grad());
  CHECK(moved.dsinks.value[0] == Approx(-sink / sum * (d + 0.5 * g)).epsilon(1e-13));
}

TEST_CASE("oracle: a rotation of query and key by the same angle changes nothing", "[testing]") {
  // A chain whose second node was cached 7 positions earlier: its key, turned to where it now stands, scores the same.
  testing::ProblemOptions options;
  options.kind.D = options.kind.Dv = 6;
  options.kind.q_dtype = options.kind.kv_dtype = DType::f64;
  options.rope = true;
  const std::vector<std::int32_t> own = {2, 3};
  Topology t = testing::chain(own, 2);
  testing::Problem plain, turned;
  REQUIRE(make_problem(t, options, &plain).ok());
  t.nodes[1].delta = 7;
  REQUIRE(make_problem(t, options, &turned).ok());
  const Segment& s = turned.forest.segments[1];
  for (std::int32_t i = 0; i < s.length; ++i) {
    std::vector<double> k(6);
    for (std::int32_t d = 0; d < 6; ++d)
      k[static_cast<std::size_t>(d)] = *plain.kv[0].k.at<double>(0, s.offset + i, 0, d);
    testing::detail::rotate(turned.rope, -7, 1, &k);
    for (std::int32_t d = 0; d < 6; ++d)
      *turned.kv[0].k.at<double>(0, s.offset + i, 0, d) = k[static_cast<std::size_t>(d)];
  }
  const auto a = testing::expect_forward(plain.forest, options.kind, plain.attend());
  const auto b = testing::expect_forward(turned.forest, options.kind, turned.attend());
  for (std::size_t i = 0; i < a.o.value.size(); ++i) CHECK(a.o.value[i] == Approx(b.o.value[i]).margin(1e-13));
}

namespace {

/// A plan with shared tiles, partial states, masks and key blocks, and the forest that it is for.
struct PlannedForest {
  Forest forest;
  Plan plan;
};
PlannedForest planned() {
  const std::vector<std::int32_t> own = {5, 3, 70};
  testing::ProblemOptions options;
  Random random(1);
  PlannedForest p;
  REQUIRE(testing::detail::place_forest(testing::prefix_group(40, own, true), options, &random, &p.forest).ok());
  LayerKind kind;
  kind.Hq = kind.Hkv = 2;
  kind.window = 30;
  PlanOptions plan_options;
  plan_options.backward = true;
  plan_options.sharing = Sharing::always;
  REQUIRE(make_plan(p.forest, kind, plan_options, &p.plan).ok());
  REQUIRE(p.plan.header.partial_rows > 0);
  return p;
}

using Mutation = void (*)(Plan*);

}  // namespace

TEST_CASE("plan_checker: every single fault is found", "[testing][plan]") {
  const PlannedForest p = planned();
  std::string why;
  REQUIRE(testing::check_plan(p.forest, p.plan, &why));
  const std::pair<const char*, Mutation> mutations[] = {
      {"rows", [](Plan* m) { ++m->header.rows; }},
      {"tile_rows", [](Plan* m) { --m->header.tile_rows; }},
      {"fingerprint", [](Plan* m) { ++m->header.fingerprint; }},
      {"instance order", [](Plan* m) { ++m->instances.front().order; }},
      {"instance position", [](Plan* m) { ++m->instances.front().position; }},
      {"instance row", [](Plan* m) { m->instances[0].row = m->instances[1].row; }},
      {"instance delta", [](Plan* m) { m->deltas[0] = 1; }},
      {"tile count", [](Plan* m) { --m->tiles[0].count; }},
      {"tile groups", [](Plan* m) { --m->tiles[0].group_count; }},
      {"run token", [](Plan* m) { ++m->runs[0].token; }},
      {"run length", [](Plan* m) { --m->runs[0].length; }},
      {"run position", [](Plan* m) { ++m->runs[0].position; }},
      {"run mask", [](Plan* m) { m->runs[0].mask = MaskKind::full; }},
      {"run instance", [](Plan* m) { ++m->runs[0].first_instance; }},
      {"run segment", [](Plan* m) { m->runs[0].segment ^= 1; }},
      {"item lost", [](Plan* m) { m->items.pop_back(); }},
      {"item twice", [](Plan* m) { m->items.push_back(m->items[0]); }},
      {"item heads", [](Plan* m) { --m->items[0].head_end; }},
      {"item runs", [](Plan* m) { --m->items[0].run_count; }},
      {"item cost", [](Plan* m) { m->items[0].cost = m->items.back().cost + 1; }},
      {"group row", [](Plan* m) { m->group_rows[0] = m->group_rows[1]; }},
      {"group rows swapped", [](Plan* m) { std::swap(m->group_rows[0], m->group_rows[1]); }},
      {"group lost", [](Plan* m) { m->groups.pop_back(); }},
      {"group arrivals", [](Plan* m) { ++m->groups.back().arrivals; }},
      {"group parts", [](Plan* m) { --m->groups.back().part_count; }},
      {"part", [](Plan* m) { ++m->parts.back(); }},
      {"parts out of order", [](Plan* m) { std::swap(m->parts.end()[-1], m->parts.end()[-2]); }},
      {"group tile", [](Plan* m) { ++m->group_tiles.back().offset; }},
      {"tile group", [](Plan* m) { m->tile_groups.back() = 0; }},
      {"block token", [](Plan* m) { ++m->blocks[0].token; }},
      {"block length", [](Plan* m) { --m->blocks[0].length; }},
      {"block runs", [](Plan* m) { --m->blocks[0].run_count; }},
      {"block lost", [](Plan* m) { m->blocks.pop_back(); }},
      {"block run", [](Plan* m) { std::swap(m->block_runs[0], m->block_runs.back()); }},
      {"slot overlap",
       [](Plan* m) {
         for (Item& i : m->items) i.slot = i.slot > 0 ? i.slot - 1 : i.slot;
       }},
  };
  for (const auto& [name, mutate] : mutations) {
    Plan broken = p.plan;
    mutate(&broken);
    INFO(name);
    CHECK_FALSE(testing::check_plan(p.forest, broken, &why));
  }
}
