// SPDX-License-Identifier: Apache-2.0
// What the tests of attention share: a context per implementation, runs in parts.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/testing/oracle.hpp"
#include "prefixshare/testing/plan_checker.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/pairwise.hpp"

namespace prefixshare::testing {

// Compiled once, in attention.cpp: these are most of what a test would compile.
extern template Answer answer_forward(const Forest&, const LayerKind&, const Attend&);
extern template Answer answer_backward(const Forest&, const LayerKind&, const AttendGrad&);
extern template Answer answer_forward(const RectangleInput&, const LayerKind&, const Attend&);
extern template Answer answer_backward(const RectangleInput&, const LayerKind&, const AttendGrad&);

}  // namespace prefixshare::testing

namespace prefixshare::tests {

/// REQUIREs that a call went well, and shows why it did not.
inline void require_ok(const Status& status) {
  INFO(to_string(status));
  REQUIRE(status.ok());
}
inline void check_comparison(const prefixshare::testing::Comparison& c) {
  INFO(c.text);
  CHECK(c.ok);
}

/// A context in which one implementation of the forward is forced.
struct NamedContext {
  std::string name;
  std::string backward;       ///< what runs the backward: the same, where it has one
  DType widest = DType::f64;  ///< of the arithmetic that it does
  Context context;

  bool takes(const LayerKind& kind) const noexcept;
};

/// A context for each implementation of attention that this machine can run for q, K and V in `storage`, the reference
/// among them. What runs f32 or f64 runs every other storage, too.
std::vector<NamedContext> attention_contexts(DType storage = DType::f32);

/// cpu:portable, for tests that are of plans alone.
inline NamedContext portable_context() {
  NamedContext c;
  c.name = c.backward = "cpu:portable";
  require_ok(create_context(&c.context));
  require_ok(force_implementation(&c.context, c.name.c_str()));
  return c;
}

/// A proved plan of a forest or of rectangles from the context, made for the implementation that is forced. Constants
/// in `options` that are not the default count for it, too.
template <class Input>
Plan proved_plan(const NamedContext& c, const Input& input, const LayerKind& kind, const PlanOptions& options) {
  Context context = c.context;
  if (options.cost.item != CostModel{}.item) {
    require_ok(set_cost(&context, c.name.c_str(), options.cost));
  }
  Plan plan;
  require_ok(make_plan(context, input, kind, options, &plan));
  REQUIRE(plan.header.implementation == c.name);
  if (options.backward) REQUIRE(plan.header.backward_implementation == c.backward);
  std::string why;
  const bool proved = prefixshare::testing::check_plan(input, plan, &why);
  INFO(why);
  REQUIRE(proved);
  return plan;
}

/// The forward in `parts`, in the order of a shuffled list, into poisoned outputs.
inline void run_forward(const Context& context, const Plan& plan, Problem* problem, std::int32_t parts = 1,
                        std::uint64_t order = 0) {
  require_ok(problem->bind_workspace(plan, parts));
  problem->poison_outputs();
  std::vector<std::int32_t> list;
  for (std::int32_t i = 0; i < parts; ++i) list.push_back(i);
  Random random(order);
  if (order > 0) random.shuffle(&list);
  for (std::int32_t i : list) require_ok(tree_attention_part(context, plan, problem->attend(), i, parts));
  CHECK(problem->guards_intact());
}

/// The backward, after the forward, in the same way.
inline void run_backward(const Context& context, const Plan& plan, Problem* problem, std::int32_t parts = 1,
                         std::uint64_t order = 0) {
  std::vector<std::int32_t> list;
  for (std::int32_t i = 0; i < parts; ++i) list.push_back(i);
  Random random(order);
  if (order > 0) random.shuffle(&list);
  for (std::int32_t i : list) {
    require_ok(tree_attention_backward_part(context, plan, problem->attend_grad(), i, parts));
  }
  CHECK(problem->guards_intact());
}

struct ForwardCase {
  Topology topology;
  ProblemOptions options;
  PlanOptions plan;
};

/// Runs a problem on every implementation that takes it, and judges it.
void run_problem(const std::vector<NamedContext>& contexts, const PlanOptions& plan_options, Problem* p);
/// The same of a case. If it has a bias, some of it is -inf.
void run_case(const std::vector<NamedContext>& contexts, const ForwardCase& c);

/// The o and lse of a problem, kept so that every backward starts from the same ones as the answer.
class SavedState {
 public:
  explicit SavedState(const Problem& p) : o_(p.o), lse_(p.lse) {}
  void restore(Problem* p) const { p->o = o_, p->lse = lse_; }

 private:
  prefixshare::testing::Tensor<3> o_;
  prefixshare::testing::Tensor<2> lse_;
};

/// All parts of a call at once, a thread each.
template <class Part>
void run_on_threads(std::int32_t parts, Part part) {
  std::vector<Status> status(static_cast<std::size_t>(parts));
  std::vector<std::thread> threads;
  for (std::int32_t i = 0; i < parts; ++i) {
    threads.emplace_back([&, i] { status[static_cast<std::size_t>(i)] = part(i); });
  }
  for (std::thread& t : threads) t.join();
  for (const Status& s : status) require_ok(s);
}

/// Copies of every output's elements, to compare bits between runs.
struct Outputs {
  std::vector<std::vector<double>> values;
  bool operator==(const Outputs& other) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::size_t bytes = values[i].size() * sizeof(double);
      if (values[i].size() != other.values[i].size()) return false;
      if (bytes > 0 && std::memcmp(values[i].data(), other.values[i].data(), bytes) != 0) return false;
    }
    return values.size() == other.values.size();
  }
};
inline Outputs outputs_of(const Problem& p) {
  using prefixshare::testing::to_doubles;
  Outputs out;
  out.values = {to_doubles(p.o.view()), to_doubles(p.lse.view())};
  if (!p.dq) return out;
  out.values.push_back(to_doubles(p.dq.view()));
  out.values.push_back(to_doubles(Span<const float>(p.dsinks)));
  for (const Problem::Pool& pool : p.pools) {
    out.values.push_back(to_doubles(pool.dk.view()));
    out.values.push_back(to_doubles(pool.dv.view()));
  }
  return out;
}

}  // namespace prefixshare::tests
