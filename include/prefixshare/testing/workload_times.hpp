// SPDX-License-Identifier: Apache-2.0
// workload_times: a kernel of one's own beside the others of a context, on workloads of the catalogue, without a
// benchmark library. Each case is checked before it is timed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/testing/sampled_answer.hpp"
#include "prefixshare/testing/timing.hpp"
#include "prefixshare/testing/workload.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

struct WorkloadTimesOptions {
  std::int32_t scale = 1;     ///< lengths are divided by it
  DType dtype = DType::bf16;  ///< of q, K and V
  TimingLimits limits;
};

/// One implementation on one workload. If it was not timed, `why` says the reason.
struct WorkloadTime {
  std::string workload;
  std::string implementation;
  CallTimes times;
  std::string why;
};

/// Times the forward of every implementation of the context's tree_attention on the host, in the order of the list, on
/// the context's executor. An implementation that declines, refuses or is wrong is not timed.
std::vector<WorkloadTime> time_workloads(const Context& context, const std::vector<const Workload*>& workloads,
                                         const WorkloadTimesOptions& options = {});
/// A line per case: milliseconds, quartiles, and how many times the first implementation's time that is.
std::string to_string(const std::vector<WorkloadTime>& times);

namespace detail {

inline WorkloadTime time_workload(const Context& context, const std::string& implementation, const Answer& answer,
                                  const WorkloadTimesOptions& options, Problem* problem) {
  WorkloadTime t;
  t.implementation = implementation;
  Context forced = context;
  throw_if_error(forced.tree_attention.force(implementation.c_str()));
  PlanOptions plan_options;
  plan_options.target_parallelism = prefixshare::detail::part_count(context.executor);
  Plan plan;
  Status s = make_plan(forced, problem->forest, problem->options.kind, plan_options, &plan);
  if (s.ok()) s = problem->bind_workspace(plan, plan_options.target_parallelism);
  problem->poison_outputs();
  const Attend args = problem->attend();
  if (s.ok()) s = tree_attention(forced, plan, args);
  if (!s.ok()) {
    t.why = to_string(s);
    return t;
  }
  const Comparison c = check_forward(answer, args);
  if (!c) {
    t.why = c.text;
    return t;
  }
  t.times = time_calls(
      options.limits, [] {}, [&] { return tree_attention(forced, plan, args); }, &s);
  throw_if_error(s);  // it went well a moment ago
  return t;
}

}  // namespace detail

inline std::vector<WorkloadTime> time_workloads(const Context& context, const std::vector<const Workload*>& workloads,
                                                const WorkloadTimesOptions& options) {
  std::vector<WorkloadTime> times;
  for (const Workload* w : workloads) {
    ProblemOptions problem_options;
    problem_options.kind = w->kind;
    problem_options.kind.q_dtype = problem_options.kind.kv_dtype = options.dtype;
    Forest forest;
    throw_if_error(make_forest(*w, options.scale, &forest));
    Problem problem;
    make_problem(forest, problem_options, &problem);
    const Answer answer = sampled_answer(problem.forest, problem_options.kind, problem.attend());
    for (std::int32_t i = 0; i < context.tree_attention.count; ++i) {
      const auto& entry = context.tree_attention.entries[i];
      if (entry.space != MemorySpace::host) continue;
      times.push_back(detail::time_workload(context, entry.name, answer, options, &problem));
      times.back().workload = w->name + (options.scale > 1 ? "/scale:" + std::to_string(options.scale) : "");
    }
  }
  return times;
}

inline std::string to_string(const std::vector<WorkloadTime>& times) {
  std::size_t width = 0;
  for (const WorkloadTime& t : times) width = std::max(width, t.workload.size());
  std::string text;
  const WorkloadTime* first = nullptr;
  for (const WorkloadTime& t : times) {
    if (first == nullptr || first->workload != t.workload) first = &t;
    char line[256];
    std::snprintf(line, sizeof line, "%-*s  %-16s", static_cast<int>(width), t.workload.c_str(),
                  t.implementation.c_str());
    text += line;
    if (t.times.calls == 0) {
      text += "  " + t.why + "\n";
      continue;
    }
    std::snprintf(line, sizeof line, "%10.3f ms  %8.3f to %8.3f", 1e3 * t.times.median, 1e3 * t.times.low,
                  1e3 * t.times.high);
    text += line;
    if (first->times.calls > 0) {
      std::snprintf(line, sizeof line, "  %6.2f x", t.times.median / first->times.median);
      text += line;
    }
    text += '\n';
  }
  return text;
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
