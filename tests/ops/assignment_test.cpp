// SPDX-License-Identifier: Apache-2.0
// Published decode trees under every assignment of sharing: which nodes are read once never changes a result.
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "prefixshare/testing/catalogue.hpp"
#include "prefixshare/testing/sampled_rows.hpp"
#include "support/attention.hpp"
#include "support/data.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using testing::Expected;
using testing::Workload;

constexpr std::int32_t kSampledRows = 6;

/// The 15 trees of FastTree and the 20 of PAT.
std::vector<const Workload*> decode_trees() {
  std::vector<const Workload*> trees;
  for (const Workload& w : testing::catalogue()) {
    const bool tree = w.name.rfind("fasttree/", 0) == 0 || w.name.rfind("pat/", 0) == 0;
    if (tree && w.kind.Hq == 32 && w.kind.Hkv == 8) trees.push_back(&w);  // heads are the test's own
  }
  return trees;
}

LayerKind kind_of(const std::array<std::int32_t, 2>& heads, std::int32_t D) {
  LayerKind kind;
  kind.Hq = heads[0];
  kind.Hkv = heads[1];
  kind.D = kind.Dv = D;
  return kind;
}

/// Brute force, of a few rows.
testing::Answer sampled_answer(Problem* p) {
  const LayerKind& kind = p->options.kind;
  const testing::SampledRows sample(p->forest, kSampledRows);
  testing::Answer answer = testing::answer_forward(sample.input(p->forest), kind, p->attend());
  sample.keep_only_these(kind.Hq, &answer.exact.o);
  sample.keep_only_these(kind.Hq, &answer.exact.lse);
  return answer;
}

/// What a call wrote as the reference of another: each vector is a block, whose terms are no smaller than those of the
/// blocks that were answered.
Expected expected_of(const std::vector<double>& values, std::int64_t width, const Expected& answered) {
  Expected e;
  e.width = width;
  e.value = values;
  double least = std::numeric_limits<double>::infinity();
  for (const std::int32_t b : answered.block) {
    if (b >= 0) least = std::min(least, answered.magnitude[static_cast<std::size_t>(b)]);
  }
  for (std::size_t v = 0; v < values.size() / static_cast<std::size_t>(width); ++v) {
    e.block.push_back(static_cast<std::int32_t>(v));
  }
  e.magnitude.assign(e.block.size(), least);
  return e;
}

/// never, always, automatic and `given` random assignments: right on the sampled rows, and alike on all of them.
void check_assignments(const NamedContext& c, Problem* p, std::uint64_t given, const testing::Answer& answer) {
  INFO(c.name);
  const LayerKind& kind = p->options.kind;
  Expected o, lse;
  std::vector<Plan> done;
  Random random(given);
  for (std::uint64_t i = 0; i < 3 + given; ++i) {
    const Sharing sharings[] = {Sharing::never, Sharing::always, Sharing::automatic};
    std::vector<std::uint8_t> shared;
    PlanOptions options;
    options.sharing = i < 3 ? sharings[i] : Sharing::given;
    const double part = random.uniform();
    for (std::size_t n = 0; i >= 3 && n < p->forest.nodes.size(); ++n) shared.push_back(random.chance(part));
    options.shared = shared;
    Plan plan;
    require_ok(make_plan(c.context, p->forest, kind, options, &plan));
    if (std::find(done.begin(), done.end(), plan) != done.end()) continue;  // the same work, so the same bits
    done.push_back(plan);
    INFO("assignment " << i);
    run_forward(c.context, plan, p, 2);
    check_comparison(check_forward(answer, p->attend()));
    const std::vector<double> got_o = testing::to_doubles(p->o.view()), got_lse = testing::to_doubles(p->lse.view());
    if (i == 0) {
      o = expected_of(got_o, kind.Dv, answer.exact.o);
      lse = expected_of(got_lse, 1, answer.exact.lse);
    }
    const double bound = 2 * testing::forward_tolerance(kind.acc_dtype(), answer.exact.a);  // both are so far off
    check_comparison(testing::compare(got_o, o, bound, DType::f64));
    check_comparison(testing::compare(got_lse, lse, bound, DType::f64));
  }
}

/// One tree, its lengths divided by `scale`.
void check_tree(const std::vector<NamedContext>& contexts, const Workload& workload, std::int32_t scale,
                const LayerKind& kind, std::uint64_t given) {
  INFO(workload.name << " / " << scale << ", heads " << kind.Hq << "/" << kind.Hkv);
  ProblemOptions options;
  options.kind = kind;
  Problem p;
  require_ok(make_problem(workload_topology(workload, scale), options, &p));
  const testing::Answer answer = sampled_answer(&p);
  for (const NamedContext& c : contexts) check_assignments(c, &p, given, answer);
}

constexpr std::array<std::int32_t, 2> kHeads[] = {{16, 1}, {32, 8}, {32, 32}};

}  // namespace

TEST_CASE("assignments: every decode tree is right however it is shared", "[sharing]") {
  const std::vector<const Workload*> trees = decode_trees();
  REQUIRE(trees.size() == 35);
  std::vector<NamedContext> fastest = attention_contexts();
  const NamedContext portable = portable_context();
  fastest.resize(1);
  for (std::size_t i = 0; i < trees.size(); ++i) {
    if (test_all()) {
      check_tree(fastest, *trees[i], 4, kind_of(kHeads[i % 3], 128), 1);
      for (const auto& heads : kHeads) check_tree(fastest, *trees[i], 4, kind_of(heads, 16), 3);
    } else {
      check_tree(fastest, *trees[i], 32, kind_of(kHeads[i % 3], 16), 1);
    }
  }
  for (const auto& heads : kHeads) {
    check_tree({portable}, *testing::find_workload("fasttree/1,10|4000,400"), 16, kind_of(heads, 16), 2);
  }
}
