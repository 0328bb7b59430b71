// SPDX-License-Identifier: Apache-2.0
// What this build has, what this machine can run of it, and how the library says so.
#include <cstring>
#include <string>
#include <vector>

#include "support/attention.hpp"
#include "support/data.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

AttentionProblem problem_of(DType q, DType kv) {
  AttentionProblem problem;
  problem.kind.q_dtype = q;
  problem.kind.kv_dtype = kv;
  return problem;
}
const std::pair<DType, DType> kTypes[] = {{DType::f64, DType::f64},
                                          {DType::f32, DType::f32},
                                          {DType::f16, DType::f16},
                                          {DType::bf16, DType::bf16},
                                          {DType::f32, DType::bf16}};

Context context_of_build() {
  Context context;
  require_ok(create_context(&context));
  return context;
}

/// Whether the machine can run an implementation at all; else why it declines what it would be best at.
Status usable(const Implementation<AttentionProblem, AttendCall>& entry) {
  Status why;
  for (const auto& [q, kv] : kTypes) {
    if (entry.accepts == nullptr || !(why = entry.accepts(problem_of(q, kv)))) return {};
  }
  return why;
}

Forest small_forest() {
  ProblemOptions options;
  Problem p;
  require_ok(make_problem(testing::chain(std::vector<std::int32_t>{9}, 2), options, &p));
  return p.forest;
}

}  // namespace

TEST_CASE("machine: each implementation of this build runs on this machine, or is skipped by name", "[kernels]") {
  const Context context = context_of_build();
  REQUIRE(context.tree_attention.count >= 1);
  for (std::int32_t i = 0; i < context.tree_attention.count; ++i) {
    const auto& entry = context.tree_attention.entries[i];
    if (const Status why = usable(entry)) skip(entry.name, to_string(why));
  }
}

TEST_CASE("machine: the last implementation is cpu:portable, which takes every kind", "[kernels]") {
  const Context context = context_of_build();
  const auto& last = context.tree_attention.entries[context.tree_attention.count - 1];
  CHECK(std::string(last.name) == "cpu:portable");
  CHECK(last.accepts == nullptr);
}

TEST_CASE("machine: explain lists every implementation, one that runs and a reason for each that declines",
          "[kernels]") {
  const Context context = context_of_build();
  const Forest forest = small_forest();
  for (const auto& [q, kv] : kTypes) {
    INFO(to_string(q) << ", " << to_string(kv));
    const AttentionProblem problem = problem_of(q, kv);
    Plan plan;
    require_ok(make_plan(context, forest, problem.kind, {}, &plan));
    const std::vector<Verdict> verdicts = explain(context, plan);
    REQUIRE(verdicts.size() == static_cast<std::size_t>(context.tree_attention.count));
    std::int32_t run = 0;
    bool found = false;  // an implementation that accepts: the first runs
    for (std::size_t i = 0; i < verdicts.size(); ++i) {
      const Verdict& v = verdicts[i];
      CHECK(v.name == context.tree_attention.entries[i].name);
      CHECK(v.runs == (!found && v.status.ok()));
      found = found || v.status.ok();
      run += v.runs;
      if (!v.status.ok()) {
        CHECK(v.status.code == StatusCode::unsupported);
        CHECK(to_string(v.status).size() > std::strlen("tree_attention: "));
      }
      CHECK(to_string(verdicts).find(v.name + "  ") != std::string::npos);
    }
    CHECK(run == 1);
  }
}

TEST_CASE("machine: a forced implementation that declines a kind is not replaced, and says what it wants",
          "[kernels]") {
  const Forest forest = small_forest();
  const AttentionProblem f64 = problem_of(DType::f64, DType::f64);
  Context context = context_of_build();
  for (std::int32_t i = 0; i < context.tree_attention.count; ++i) {
    const auto& entry = context.tree_attention.entries[i];
    if (entry.accepts == nullptr) continue;
    INFO(entry.name);
    require_ok(force_implementation(&context, entry.name));
    Plan plan;
    const Status s = make_plan(context, forest, f64.kind, {}, &plan);
    REQUIRE(!s.ok());
    CHECK(s.code == StatusCode::unsupported);
    CHECK(std::string(s.op) == "tree_attention");
    CHECK(std::string(s.argument) == "implementation");
    const std::string text = to_string(s);
    INFO(text);
    if (!usable(entry)) {  // the machine has it, the kind is wrong
      CHECK(std::string(s.field) == "arithmetic dtype");
      CHECK(text.find("got f64") != std::string::npos);
      CHECK(text.find("want == f32") != std::string::npos);
    } else {
      CHECK(std::string(s.field).find("in this machine") != std::string::npos);
      CHECK(text.find("want == 1") != std::string::npos);
    }
  }
}
