// SPDX-License-Identifier: Apache-2.0
// tree_attention backward: one training step, against the batch of whole sequences with keys and values of their own.
#include <memory>
#include <string>
#include <vector>

#include "prefixshare/counters.hpp"
#include "prefixshare/testing/oracle.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/attention_input.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

/// One whole causal sequence per leaf.
testing::Topology repeat_paths(const testing::Topology& tree) {
  std::vector<std::int32_t> tokens(tree.nodes.size());
  std::vector<char> inner(tree.nodes.size(), 0);
  for (std::size_t n = 0; n < tree.nodes.size(); ++n) {  // the catalogue puts parents first
    const Node& node = tree.nodes[n];
    tokens[n] = node.length;
    if (node.parent < 0) continue;
    tokens[n] += tokens[static_cast<std::size_t>(node.parent)];
    inner[static_cast<std::size_t>(node.parent)] = 1;
  }
  testing::Topology repeated;
  for (std::size_t n = 0; n < tree.nodes.size(); ++n) {
    if (!inner[n]) repeated.add_sequence(repeated.add_node(-1, tokens[n]), tokens[n]);
  }
  return repeated;
}

/// A batch whose gradients are asked for, and the answer as far as it is needed.
class Step {
 public:
  Step(const testing::Topology& topology, const LayerKind& kind) : kind_(kind) {
    testing::ProblemOptions options;
    options.kind = kind;
    options.backward = true;
    throw_if_error(testing::make_problem(topology, options, &problem_));
  }

  void plan(const Context& context) {
    PlanOptions options;
    options.backward = true;
    options.target_parallelism = context.executor.concurrency;
    throw_if_error(make_plan(context, problem_.forest, kind_, options, &plan_));
    throw_if_error(problem_.bind_workspace(plan_, context.executor.concurrency));
    problem_.poison_outputs();
  }
  Status forward(const Context& context) { return tree_attention(context, plan_, problem_.attend()); }
  Status backward(const Context& context) { return tree_attention_backward(context, plan_, problem_.attend_grad()); }
  testing::Comparison judge() {
    const AttendGrad args = problem_.attend_grad();
    return testing::check_backward(testing::answer_backward(problem_.forest, kind_, args), args);
  }
  const Plan& plan() const { return plan_; }

 private:
  LayerKind kind_;
  testing::Problem problem_;
  Plan plan_;
};

/// Reads of K, V, q, o, dO and lse and writes of dQ, dK and dV, each once: the least that a step moves.
Work work_of(const Step& step, const LayerKind& kind, const Forest& forest) {
  ForestStats stats;
  throw_if_error(forest_stats(forest, &stats));
  const Counters n = count(step.plan());
  const double width = kind.D + kind.Dv;
  Work work;
  work.bytes = static_cast<double>(2 * stats.unique_tokens * kind.Hkv * size_of(kind.kv_dtype)) * width +
               static_cast<double>(2 * stats.rows * kind.Hq * size_of(kind.q_dtype)) * width;
  work.distinct_bytes = work.bytes;
  work.flops = static_cast<double>(n.flops_backward);
  work.exponentials = static_cast<double>(n.exps);
  work.storage = kind.kv_dtype;
  return work;
}

void run(Session* session, const Problem& p, const Runner& runner, benchmark::State* state) {
  const testing::Topology tree = testing::workload_topology(*p.workload, p.scale);
  const Context context = session->context_for(runner);
  Step shared(tree, p.kind), unshared(repeat_paths(tree), p.kind);
  for (Step* step : {&unshared, &shared}) {
    step->plan(context);
    const auto first = [&] {
      const Status s = step->forward(context);
      return s.ok() ? step->backward(context) : s;
    };
    if (!is_right(session, state, first, [&] { return step->judge(); })) return;
  }
  struct Times {
    testing::CallTimes unshared, shared;
  };
  const Observed<Times> times = quietly([&] {
    const auto time = [&](Step& step) {
      return time_calls(
          *session, [] {}, [&] { return step.backward(context); });
    };
    Times t;
    t.unshared = time(unshared);
    t.shared = time(shared);
    return t;
  });
  report_time(state, times.result.shared, times.busy);
  report_work(state, work_of(shared, p.kind, forest_of(*p.workload, p.scale)), session->ceilings(runner.team),
              times.result.shared.median);
  report_unshared(state, times.result.unshared, times.result.shared);
}

}  // namespace

void register_tree_attention_backward(Session* session) {
  for (const Problem& p : session->problems("tree_attention_backward")) {
    const auto takes = [&](const auto& entry) { return takes_kind(entry, p.kind); };
    for (const Runner& runner : session->runners(session->context.tree_attention_backward, p, takes)) {
      session->add("tree_attention_backward", p, runner,
                   [=](benchmark::State& state) { run(session, p, runner, &state); });
    }
  }
}

}  // namespace prefixshare::bench
