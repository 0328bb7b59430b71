// SPDX-License-Identifier: Apache-2.0
// Conformance: every kernel and instantiation, on shapes and options that meet in pairs, against the oracle.
#include "gpu/conformance.hpp"

#include <cstring>

#include "prefixshare/testing/plan_checker.hpp"

namespace prefixshare::gpu {

namespace {

/// A problem, its place on the target, its plan.
struct Setup {
  testing::Problem problem;
  std::unique_ptr<ProblemThere> there;
  std::unique_ptr<PlannedCall> call;
  std::string wrong;  ///< why there is none of it

  Setup(const Target& target, const AttentionCase& c) {
    throw_if_error(make_problem(c.topology, c.options, &problem));
    if (c.options.bias) tests::hide_with_bias(&problem);
    target_ = std::make_unique<Target>(target);
    if (c.plan.cost.item != CostModel{}.item) set_costs(c.plan.cost);
    problem.poison_outputs();
    there = std::make_unique<ProblemThere>(*target_, &problem);
    call = std::make_unique<PlannedCall>(*target_, problem.forest, c.options.kind, c.plan);
    testing::check_plan(problem.forest, call->plan, &wrong);
  }

  /// Outputs poisoned, the call made, its outputs fetched.
  Status run(const std::function<Status()>& make_call) {
    problem.poison_outputs();
    there->send_outputs();
    const Status s = make_call();
    there->fetch_outputs();
    return s;
  }
  std::string implementation() const {
    const PlanHeader& h = call->plan.header;
    return h.backward ? h.backward_implementation : h.implementation;
  }

 private:
  /// For every implementation, which each keeps how it works.
  void set_costs(CostModel cost) {
    const auto& list = target_->context.tree_attention;
    for (std::int32_t i = 0; i < list.count; ++i) {
      const CostModel& how = list.entries[i].cost;
      cost.row_step = how.row_step, cost.few_rows = how.few_rows, cost.by_head = how.by_head;
      throw_if_error(set_cost(&target_->context, list.entries[i].name, cost));
    }
  }
  std::unique_ptr<Target> target_;  // ProblemThere and PlannedCall refer to it
};

template <class Problem, class Call>
bool takes(const ImplementationList<Problem, Call>& list, const char* name, const AttentionProblem& problem) {
  const auto* entry = detail::find(list, name);
  return entry != nullptr && (entry->accepts == nullptr || entry->accepts(problem).ok());
}

Result forward_of_one(const Target& target, const AttentionCase& c);
Result backward_of_one(const Target& target, const AttentionCase& c);

}  // namespace

std::vector<Target> implementations(const Target& target, const AttentionCase& c) {
  const AttentionProblem problem{c.options.kind, c.plan.mode, target.space};
  const Context& context = target.context;
  std::vector<Target> list;
  for (std::int32_t i = 0; i < context.tree_attention.count; ++i) {
    const auto& entry = context.tree_attention.entries[i];
    const char* forced = context.tree_attention.forced;
    if (entry.space != target.space || (forced[0] != 0 && std::strcmp(forced, entry.name) != 0)) continue;
    if (!takes(context.tree_attention, entry.name, problem)) continue;
    Target one = target;
    if (forced[0] == 0 && c.plan.backward && !takes(context.tree_attention_backward, entry.name, problem)) continue;
    if (forced[0] == 0) throw_if_error(force_implementation(&one.context, entry.name));
    list.push_back(std::move(one));
  }
  return list;
}

Result on_each(const Target& target, const AttentionCase& c,
               const std::function<Result(const Target&, const AttentionCase&)>& run) {
  Result first = Result::failure("no implementation takes it");
  std::string names;
  for (const Target& one : implementations(target, c)) {
    const std::string name = one.context.tree_attention.forced;
    const Result r = run(one, c);
    if (r.outcome == Outcome::failed) return Result::failure(name + ": " + r.text);
    if (names.empty()) first = r;
    names += (names.empty() ? "" : " ") + name;
  }
  first.figures.add("implementations", names);
  return first;
}

Result forward_result(const Target& target, const AttentionCase& c) { return on_each(target, c, forward_of_one); }
Result backward_result(const Target& target, const AttentionCase& c) { return on_each(target, c, backward_of_one); }

Result judged_forward(const Forest& forest, testing::Problem* p, const std::string& implementation) {
  const Attend args = p->attend();
  return judged(testing::check_forward(testing::answer_forward(forest, p->options.kind, args), args), implementation);
}

namespace {

Result forward_of_one(const Target& target, const AttentionCase& c) {
  constexpr int kRepeats = 3;
  Setup s(target, c);
  if (!s.wrong.empty()) return Result::failure("the plan: " + s.wrong);
  const testing::Answer answer = testing::answer_forward(s.problem.forest, c.options.kind, s.problem.attend());
  std::vector<unsigned char> bits;
  Result result;
  for (int n = 0; n < kRepeats; ++n) {
    if (Status status = s.run([&] { return s.call->forward(s.there->attend()); }); !status.ok()) return failed(status);
    if (!s.problem.guards_intact()) return Result::failure("it wrote beside its outputs");
    if (n == 0) result = judged(testing::check_forward(answer, s.problem.attend()), s.implementation());
    if (result.outcome != Outcome::passed) return result;
    if (n == 0) bits = output_bytes(&s.problem);
    if (bits != output_bytes(&s.problem)) return Result::failure("other bits in run " + std::to_string(n + 1));
  }
  return result;
}

Result backward_of_one(const Target& target, const AttentionCase& c) {
  constexpr int kRepeats = 3;
  Setup s(target, c);
  if (!s.wrong.empty()) return Result::failure("the plan: " + s.wrong);
  if (Status status = s.run([&] { return s.call->forward(s.there->attend()); }); !status.ok()) return failed(status);
  const testing::Answer answer = testing::answer_backward(s.problem.forest, c.options.kind, s.problem.attend_grad());
  const testing::Tensor<3> o = s.problem.o;
  const testing::Tensor<2> lse = s.problem.lse;
  std::vector<unsigned char> bits;
  Result result;
  for (int n = 0; n < kRepeats; ++n) {
    s.problem.poison_outputs();
    s.problem.o = o, s.problem.lse = lse;  // the answer starts from these
    s.there->send_outputs();
    const Status status = s.call->backward(s.there->attend_grad());
    s.there->fetch_outputs();
    if (!status.ok()) return failed(status);
    if (!s.problem.guards_intact()) return Result::failure("it wrote beside its outputs");
    if (n == 0) result = judged(testing::check_backward(answer, s.problem.attend_grad()), s.implementation());
    if (result.outcome != Outcome::passed) return result;
    if (n == 0) bits = output_bytes(&s.problem);
    if (bits != output_bytes(&s.problem)) return Result::failure("other bits in run " + std::to_string(n + 1));
  }
  return result;
}

}  // namespace

void add_conformance_cases(const CaseOptions& options, std::vector<Case>* cases) {
  add_forward_cases(options, cases);
  add_row_cases(options, cases);
  add_backward_cases(options, cases);
  add_order_cases(options, cases);
}

}  // namespace prefixshare::gpu
