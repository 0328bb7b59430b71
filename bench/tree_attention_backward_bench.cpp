// SPDX-License-Identifier: Apache-2.0
// tree_attention backward: one training step, against the batch of whole sequences with keys and values of their own.
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/counters.hpp"
#include "prefixshare/testing/catalogue.hpp"
#include "prefixshare/testing/oracle.hpp"
#include "prefixshare/testing/problem.hpp"
#include "prefixshare/tree_attention.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

/// One registered benchmark: a workload of the catalogue, its lengths divided by `scale`.
struct Variant {
  std::string workload;
  std::int32_t scale = 1;
  DType dtype = DType::f32;
  bool shared = false;  ///< else every sequence is whole, prefix rows included
  Team team;
  std::string implementation;

  std::string name_of(const char* way) const {
    return join(
        {"tree_attention_backward", workload, label("scale", scale), way, to_string(dtype), team.name, implementation});
  }
  LayerKind kind() const {
    LayerKind k = testing::find_workload(workload)->kind;
    k.q_dtype = k.kv_dtype = dtype;
    return k;
  }
};

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

testing::Problem make_problem(const Variant& v) {
  const testing::Topology tree = testing::workload_topology(*testing::find_workload(v.workload), v.scale);
  testing::ProblemOptions options;
  options.kind = v.kind();
  options.backward = true;
  testing::Problem problem;
  throw_if_error(testing::make_problem(v.shared ? tree : repeat_paths(tree), options, &problem));
  return problem;
}

/// The unshared way runs first: the shared one reports its speed-up over it.
void run(Session* session, std::map<std::string, double>* unshared, const Variant& v, benchmark::State* state) {
  testing::Problem problem = make_problem(v);
  const Context context = session->context_for(v.implementation, v.team);
  PlanOptions options;
  options.backward = true;
  options.target_parallelism = context.executor.concurrency;
  Plan plan;
  throw_if_error(make_plan(context, problem.forest, v.kind(), options, &plan));
  throw_if_error(problem.bind_workspace(plan, context.executor.concurrency));
  const AttendGrad args = problem.attend_grad();
  const auto call = [&] { return tree_attention_backward(context, plan, args); };
  const auto first = [&] {
    const Status s = tree_attention(context, plan, problem.attend());
    return s.ok() ? call() : s;
  };
  const auto judge = [&] {
    return testing::check_backward(testing::answer_backward(problem.forest, v.kind(), args), args);
  };
  problem.poison_outputs();
  if (!is_right(session, state, first, judge)) return;

  const double seconds = time_calls(state, call);
  if (!v.shared) (*unshared)[v.name_of("unshared")] = seconds;
  const auto without = unshared->find(v.name_of("unshared"));
  if (without != unshared->end()) state->counters["vs_unshared"] = without->second / seconds;
  state->counters["FLOP/s"] = static_cast<double>(count(plan).flops_backward) / seconds;
}

}  // namespace

void register_tree_attention_backward(Session* session) {
  const auto unshared = std::make_shared<std::map<std::string, double>>();
  const auto& list = session->context.tree_attention_backward;
  const std::int32_t shorter = session->quick ? 4 : 1;
  for (const auto& [workload, scale] : {std::pair("train/512x8x64", 2), std::pair("train/1024x8x1024", 16)}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const Team& team : session->teams) {
        for (std::int32_t i = 0; i < list.count; ++i) {
          for (const bool shared : {false, true}) {
            const Variant v{workload, scale * shorter, dtype, shared, team, list.entries[i].name};
            if (list.entries[i].space != MemorySpace::host) continue;
            add_case(v.name_of(shared ? "shared" : "unshared"),
                     [session, unshared, v](benchmark::State& state) { run(session, unshared.get(), v, &state); });
          }
        }
      }
    }
  }
}

}  // namespace prefixshare::bench
