// SPDX-License-Identifier: Apache-2.0
// tree_attention, forward and backward: every implementation, with and without sharing, over the catalogue.
#include <memory>
#include <string>
#include <utility>

#include "prefixshare/counters.hpp"
#include "prefixshare/tree_attention.hpp"
#include "support/answers.hpp"
#include "support/session.hpp"
#include "support/workloads.hpp"

namespace prefixshare::bench {
namespace {

struct Case {
  Batch batch;
  LayerKind kind;  ///< of the batch, in the storage types of the case
  bool backward = false;
  Sharing sharing = Sharing::automatic;
  std::string implementation;
  Team team;
  bool checked = false;

  /// Of the same memory and answer.
  std::string problem_key() const {
    const bool repeated = &batch.topology(sharing) == &batch.repeated;
    return join({op(), to_string(kind.q_dtype), batch.name, repeated ? "repeated" : "once"});
  }
  std::string name() const { return name_of(sharing == Sharing::never ? "unshared" : "shared"); }
  std::string unshared_name() const { return name_of("unshared"); }

 private:
  const char* op() const { return backward ? "tree_attention_backward" : "tree_attention"; }
  std::string name_of(const char* way) const {
    return join({op(), implementation, to_string(kind.q_dtype), batch.name, way, team.name});
  }
};

/// The problem of the case that runs and its forward's answer: one at a time, since they are large.
class Workbench {
 public:
  testing::Problem& problem(const Case& c) {
    if (key_ == c.problem_key()) return problem_;
    testing::ProblemOptions options;
    options.kind = c.kind;
    options.backward = c.backward;
    throw_if_error(testing::make_problem(c.batch.topology(c.sharing), options, &problem_));
    if (!c.backward) answer_ = answer(&problem_);
    key_ = c.problem_key();
    return problem_;
  }
  /// Whether what the outputs now hold is right. A backward is judged from the o and lse that it started from.
  testing::Comparison judge(const Case& c) {
    if (!c.backward) return testing::check_forward(answer_, problem_.attend());
    const AttendGrad grad = problem_.attend_grad();
    return testing::check_backward(testing::answer_backward(problem_.forest, c.kind, grad), grad);
  }

 private:
  std::string key_;
  testing::Problem problem_;
  testing::Answer answer_;
};

Plan plan_case(const Case& c, const Context& context, const Forest& forest) {
  PlanOptions options;
  options.sharing = c.sharing;
  options.backward = c.backward;
  Plan plan;
  throw_if_error(make_plan(context, forest, c.kind, options, &plan));
  return plan;
}

/// Counters from the median iteration and the exact work of the plan.
void report(Session* session, const Case& c, const Plan& plan, double seconds, benchmark::State* state) {
  const Counters n = count(plan);
  const std::int64_t flops = c.backward ? n.flops_backward : n.flops_forward;
  const std::int64_t bytes = n.kv_bytes + n.q_bytes + n.partial_bytes;
  state->counters["pairs"] = static_cast<double>(n.pairs);
  state->counters["kv_rows"] = static_cast<double>(n.kv_rows);
  state->counters["GFLOP/s"] = static_cast<double>(flops) / seconds * 1e-9;
  if (!c.backward) state->counters["GB/s"] = static_cast<double>(bytes) / seconds * 1e-9;
  if (c.sharing == Sharing::never) session->unshared_seconds[c.name()] = seconds;
  const auto unshared = session->unshared_seconds.find(c.unshared_name());
  if (unshared != session->unshared_seconds.end()) state->counters["speedup"] = unshared->second / seconds;
}

void run(Session* session, Workbench* bench, Case* c, benchmark::State* state) {
  testing::Problem& problem = bench->problem(*c);
  const Context context = session->context_for(c->implementation, c->team);
  const Plan plan = plan_case(*c, context, problem.forest);
  throw_if_error(problem.bind_workspace(plan, c->team.executor.concurrency));
  const Attend forward = problem.attend();
  const AttendGrad backward = problem.attend_grad();
  const auto call = [&] {
    return c->backward ? tree_attention_backward(context, plan, backward) : tree_attention(context, plan, forward);
  };
  if (!c->checked) {
    problem.poison_outputs();
    const auto first_call = [&] {
      const Status s = tree_attention(context, plan, forward);
      return s.ok() && c->backward ? call() : s;
    };
    if (!is_right(session, state, first_call, [&] { return bench->judge(*c); })) return;
    c->checked = true;
  }
  report(session, *c, plan, time_calls(state, call), state);
}

/// The unshared way comes first: the shared one reports its speed-up over it.
template <class List>
void register_batch(Session* session, const std::shared_ptr<Workbench>& bench, const List& list, Case c) {
  for (std::int32_t i = 0; i < list.count; ++i) {
    const auto& entry = list.entries[i];
    if (entry.space != MemorySpace::host) continue;
    if (entry.accepts && !entry.accepts({c.kind, Mode::fast, MemorySpace::host}).ok()) continue;
    c.implementation = entry.name;
    for (const Team& team : session->teams) {
      for (const Sharing sharing : {Sharing::never, Sharing::automatic}) {
        c.team = team;
        c.sharing = sharing;
        const auto shared_case = std::make_shared<Case>(c);
        add_case(c.name(), [session, bench, shared_case](benchmark::State& state) {
          run(session, bench.get(), shared_case.get(), &state);
        });
      }
    }
  }
}

}  // namespace

void register_tree_attention(Session* session) {
  const auto bench = std::make_shared<Workbench>();
  for (const Batch& batch : batches(session->quick)) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Case c;
      c.batch = batch;
      c.kind = batch.kind;
      c.kind.q_dtype = c.kind.kv_dtype = dtype;
      register_batch(session, bench, session->context.tree_attention, c);
      c.backward = batch.training;
      if (c.backward) register_batch(session, bench, session->context.tree_attention_backward, c);
    }
  }
}

}  // namespace prefixshare::bench
