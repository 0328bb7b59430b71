// SPDX-License-Identifier: Apache-2.0
// shared_prefix_attention, forward and backward: packed operands of one group.
#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/counters.hpp"
#include "prefixshare/testing/oracle.hpp"
#include "prefixshare/testing/problem.hpp"
#include "prefixshare/testing/sampled_answer.hpp"
#include "support/attention_input.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

/// The group of a workload: its first node is the prefix, the others are suffixes.
Forest group_of(const Problem& p) {
  const testing::Topology t = testing::workload_topology(*p.workload, p.scale);
  const std::vector<std::int32_t> prefix = {t.segments[0]};
  const std::vector<std::int32_t> own(t.segments.begin() + 1, t.segments.end());
  const std::vector<std::int32_t> begin = {0, static_cast<std::int32_t>(own.size())};
  PrefixGroups groups;
  groups.prefix_len = prefix;
  groups.suffix_begin = begin;
  groups.suffix_len = own;
  const bool training = p.workload->task == testing::Task::training;
  groups.q_suffix_last = training ? 0 : testing::detail::scaled(p.workload->rows, p.scale);
  Forest forest;
  throw_if_error(forest_from_groups(groups, &forest));
  return forest;
}

/// The only page of a pool, as packed rows.
TensorView<3> packed(const TensorView<4>& page) {
  TensorView<3> v;
  v.data = page.data;
  v.dtype = page.dtype;
  for (std::size_t d = 0; d < 3; ++d) v.shape[d] = page.shape[d + 1], v.stride[d] = page.stride[d + 1];
  return v;
}

SharedPrefixAttend forward_args(const Attend& a) {
  SharedPrefixAttend args;
  args.q = a.q;
  args.k = packed(a.kv[0].k);
  args.v = packed(a.kv[0].v);
  args.o = a.o;
  args.lse = a.lse;
  args.workspace = a.workspace;
  return args;
}

SharedPrefixAttendGrad backward_args(const AttendGrad& g) {
  SharedPrefixAttendGrad args;
  args.fwd = forward_args(g.fwd);
  args.dout = g.dout;
  args.dlse = g.dlse;
  args.dq = g.dq;
  args.dk = packed(g.dkv[0].dk);
  args.dv = packed(g.dkv[0].dv);
  args.workspace = g.workspace;
  return args;
}

Work work_of(const AttentionInput& input, const Counters& n) {
  Work work;
  work.distinct_bytes = input.distinct_bytes() + static_cast<double>(n.partial_bytes) / 2;
  work.bytes = static_cast<double>(n.kv_bytes + n.q_bytes + n.partial_bytes);
  work.flops = static_cast<double>(n.flops_forward);
  work.exponentials = static_cast<double>(n.exps);
  work.storage = input.kind().kv_dtype;
  return work;
}

void run_forward(Session* session, const Problem& p, const Runner& runner, benchmark::State* state) {
  const AttentionInput input(group_of(p), p.kind);
  const Context context = session->context_for(runner);
  const PlannedCall planned(context, input, Sharing::automatic);
  const auto call = [&] {
    Attend a = input.attend();
    a.workspace = planned.workspace;
    return shared_prefix_attention(context, planned.plan, forward_args(a));
  };
  const testing::Answer answer = testing::sampled_answer(input.forest(), p.kind, input.attend());
  if (!is_right(session, state, call, [&] { return testing::check_forward(answer, input.attend()); })) return;
  const auto times = quietly([&] {
    return time_calls(
        *session, [] {}, call);
  });
  report_time(state, times.result, times.busy);
  report_work(state, work_of(input, count(planned.plan)), session->ceilings(runner.team), times.result.median);
}

void run_backward(Session* session, const Problem& p, const Runner& runner, benchmark::State* state) {
  testing::ProblemOptions options;
  options.kind = p.kind;
  options.backward = true;
  testing::Problem problem;
  testing::make_problem(group_of(p), options, &problem);
  const Context context = session->context_for(runner);
  PlanOptions plan_options;
  plan_options.backward = true;
  plan_options.target_parallelism = context.executor.concurrency;
  Plan plan;
  throw_if_error(make_plan(context, problem.forest, p.kind, plan_options, &plan));
  throw_if_error(problem.bind_workspace(plan, context.executor.concurrency));
  const auto call = [&] {
    return shared_prefix_attention_backward(context, plan, backward_args(problem.attend_grad()));
  };
  const auto first = [&] {
    const Status s = shared_prefix_attention(context, plan, forward_args(problem.attend()));
    return s.ok() ? call() : s;
  };
  const auto judge = [&] {
    const AttendGrad args = problem.attend_grad();
    return testing::check_backward(testing::answer_backward(problem.forest, p.kind, args), args);
  };
  if (!is_right(session, state, first, judge)) return;
  const auto times = quietly([&] {
    return time_calls(
        *session, [] {}, call);
  });
  report_time(state, times.result, times.busy);
  Work work;
  work.flops = static_cast<double>(count(plan).flops_backward);
  work.exponentials = static_cast<double>(count(plan).exps);
  work.storage = p.kind.kv_dtype;
  report_work(state, work, session->ceilings(runner.team), times.result.median);
}

}  // namespace

void register_shared_prefix_attention(Session* session) {
  const auto add = [session](const char* op, const auto& list, auto run) {
    for (const Problem& p : session->problems(op)) {
      const auto takes = [&](const auto& entry) { return takes_kind(entry, p.kind); };
      for (const Runner& runner : session->runners(list, p, takes)) {
        session->add(op, p, runner, [=](benchmark::State& state) { run(session, p, runner, &state); });
      }
    }
  };
  add("shared_prefix_attention", session->context.tree_attention, &run_forward);
  add("shared_prefix_attention_backward", session->context.tree_attention_backward, &run_backward);
}

}  // namespace prefixshare::bench
