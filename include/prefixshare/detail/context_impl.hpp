// SPDX-License-Identifier: Apache-2.0
// Choosing an implementation, running its parts, and the entries that need no compiled code of their own.
#pragma once

#include <atomic>
#include <cstdio>
#include <cstring>

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline Status list_error(const char* argument, const char* field, std::int64_t got, const char* relation,
                         std::int64_t want, StatusCode code) noexcept {
  return failure({"context", argument}, field, got, relation, want, StatusUnit::number, code);
}

template <class Problem, class Call>
const Implementation<Problem, Call>* find(const ImplementationList<Problem, Call>& list, const char* name) noexcept {
  for (std::int32_t i = 0; i < list.count; ++i) {
    if (std::strcmp(list.entries[i].name, name) == 0) return &list.entries[i];
  }
  return nullptr;
}

/// Whether one implementation takes a problem, and why not.
template <class Problem, class Call>
Status verdict(const char* op, const Implementation<Problem, Call>& entry, const Problem& problem,
               MemorySpace space) noexcept {
  if (entry.space != space) {
    return failure({op, "space"}, "", static_cast<int>(space), "==", static_cast<int>(entry.space), StatusUnit::space,
                   StatusCode::backend_unavailable);
  }
  return entry.accepts == nullptr ? Status{} : entry.accepts(problem);
}

/// The forced implementation, or the first that accepts; null with the reason in `why`: of one that runs in this space,
/// if there is any.
template <class Problem, class Call>
const Implementation<Problem, Call>* choose(const char* op, const ImplementationList<Problem, Call>& list,
                                            const Problem& problem, MemorySpace space, Status* why) noexcept {
  *why = failure({op, "space"}, "implementations", 0, ">=", 1, StatusUnit::number, StatusCode::backend_unavailable);
  bool near = false;
  for (std::int32_t i = 0; i < list.count; ++i) {
    const Implementation<Problem, Call>& entry = list.entries[i];
    if (*list.forced != '\0' && std::strcmp(list.forced, entry.name) != 0) continue;
    const Status s = verdict(op, entry, problem, space);
    if (s.ok()) return &entry;
    if (entry.space == space || !near) *why = s;
    near = near || entry.space == space;
  }
  return nullptr;
}

inline std::int32_t part_count(const Executor& e) noexcept {
  return e.parallel_for == nullptr || e.concurrency < 1 ? 1 : e.concurrency;
}
/// Parts of a call that the executor runs; a call on a device is whole.
inline std::int32_t part_count(const Executor& e, MemorySpace space) noexcept {
  return space == MemorySpace::host ? part_count(e) : 1;
}

/// Runs every part of a call; the first Status that is not ok comes back.
template <class Call>
Status run_parts(const Executor& executor, Status (*part)(const Call&, std::int32_t, std::int32_t) noexcept,
                 const Call& call) noexcept {
  struct Job {
    Status (*part)(const Call&, std::int32_t, std::int32_t) noexcept;
    const Call* call;
    std::int32_t parts;
    std::atomic<bool> failed{false};
    Status status;
  };
  Job job{part, &call, part_count(executor), {false}, {}};
  if (job.parts == 1) return part(call, 0, 1);
  executor.parallel_for(
      executor.user, job.parts,
      [](void* argument, std::int32_t i) {
        Job& j = *static_cast<Job*>(argument);
        const Status s = j.part(*j.call, i, j.parts);
        if (!s.ok() && !j.failed.exchange(true)) j.status = s;
      },
      &job);
  return job.status;
}

template <class Problem, class Call>
Status check_entry(const ImplementationList<Problem, Call>& list, const Implementation<Problem, Call>& e) noexcept {
  constexpr StatusCode kInvalid = StatusCode::invalid_argument;
  const std::int64_t length = e.name == nullptr ? 0 : static_cast<std::int64_t>(std::strlen(e.name));
  if (length == 0) return list_error("implementation", "name", length, ">", 0, kInvalid);
  if (length >= kNameCapacity) return list_error("implementation", "name", length, "<", kNameCapacity, kInvalid);
  if (find(list, e.name) != nullptr) return list_error("implementation", "name (taken)", 1, "==", 0, kInvalid);
  if (e.part == nullptr) return failure({"context", "implementation"}, "part", 0, "!=", 0, StatusUnit::pointer);
  const std::int32_t capacity = ImplementationList<Problem, Call>::kCapacity;
  if (list.count == capacity) {
    return list_error("implementations", "count", list.count, "<", capacity, StatusCode::capacity_exceeded);
  }
  return {};
}

/// Calls f(list) for every operator's list.
template <class F>
void for_each_list(Context* c, F&& f) {
  f(c->tree_attention);
  f(c->tree_attention_backward);
  f(c->pack_segment);
  f(c->merge_states);
  f(c->merge_states_backward);
  f(c->rope_apply);
  f(c->rope_shift);
  f(c->rope_rebase);
  f(c->kv_append);
  f(c->draft_tree_from_parents);
}

inline void copy_name(char (&to)[kNameCapacity], const char* from) noexcept {
  std::memset(to, 0, sizeof to);
  for (int i = 0; i + 1 < kNameCapacity && from[i] != '\0'; ++i) to[i] = from[i];
}

/// Chooses both directions and plans; names and constants go into the plan.
template <class Input>
Status plan_with(const Context& context, const Input& input, const LayerKind& kind, PlanOptions options, Plan* plan,
                 MemorySpace space) noexcept {
  if (Status s = validate(kind, kPlanOp); !s.ok()) return s;
  const AttentionProblem problem{kind, options.mode, space};
  Status why;
  const auto* forward = choose(kPlanOp, context.tree_attention, problem, space, &why);
  if (forward == nullptr) return why;
  const auto* backward =
      options.backward ? choose(kPlanOp, context.tree_attention_backward, problem, space, &why) : nullptr;
  if (options.backward && backward == nullptr) return why;
  options.cost = forward->cost;
  if (space == MemorySpace::device && context.device.measured_cost != nullptr) {
    options.cost = context.device.measured_cost(forward->name, forward->cost);
  }
  if (Status s = make_plan(input, kind, options, plan); !s.ok()) return s;
  plan->header.space = space;
  copy_name(plan->header.implementation, forward->name);
  copy_name(plan->header.backward_implementation, backward == nullptr ? "" : backward->name);
  return {};
}

inline Status check_part(const char* op, std::int32_t part, std::int32_t parts) noexcept {
  if (parts < 1) return failure({op, "parts"}, "", parts, ">=", 1);
  if (part < 0) return failure({op, "part"}, "", part, ">=", 0);
  return part < parts ? Status{} : failure({op, "part"}, "", part, "<", parts);
}

/// The compiled entries: plain data crosses, no container does. `part` -1 runs every part through the executor.
PREFIXSHARE_API Status run(const Context& context, const AttendCall& call, std::int32_t part,
                           std::int32_t parts) noexcept;
PREFIXSHARE_API Status run(const Context& context, const AttendGradCall& call, std::int32_t part,
                           std::int32_t parts) noexcept;
PREFIXSHARE_API Status run(const Context& context, const PackSegmentCall& call) noexcept;

template <class Problem, class Call>
void explain_into(std::vector<Verdict>* out, const char* op, const ImplementationList<Problem, Call>& list,
                  const Problem& problem, MemorySpace space) {
  Status why;
  const auto* chosen = choose(op, list, problem, space, &why);
  for (std::int32_t i = 0; i < list.count; ++i) {
    Verdict v;
    v.name = list.entries[i].name;
    v.status = verdict(op, list.entries[i], problem, space);
    v.runs = &list.entries[i] == chosen;
    out->push_back(v);
  }
}

}  // namespace detail

template <class Problem, class Call>
Status ImplementationList<Problem, Call>::add(const Implementation<Problem, Call>& entry, bool in_front) noexcept {
  if (Status s = detail::check_entry(*this, entry); !s.ok()) return s;
  std::int32_t at = in_front ? 0 : count;
  for (std::int32_t i = count; i > at; --i) entries[i] = entries[i - 1];
  entries[at] = entry;
  ++count;
  return {};
}

template <class Problem, class Call>
Status ImplementationList<Problem, Call>::force(const char* name) noexcept {
  if (Status s = detail::check_result("context", "name", name)) return s;
  if (*name != '\0' && detail::find(*this, name) == nullptr) {
    return detail::list_error("name", "implementations", 0, ">=", 1, StatusCode::invalid_argument);
  }
  detail::copy_name(forced, name);
  return {};
}

inline Status force_implementation(Context* context, const char* name) noexcept {
  if (Status s = detail::check_result("context", "context", context)) return s;
  if (Status s = detail::check_result("context", "name", name)) return s;
  std::int64_t found = 0;
  detail::for_each_list(context, [&](auto& list) { found += *name == '\0' || detail::find(list, name) != nullptr; });
  if (found == 0) return detail::list_error("name", "implementations", 0, ">=", 1, StatusCode::invalid_argument);
  detail::for_each_list(context, [&](auto& list) {
    if (*name == '\0' || detail::find(list, name) != nullptr) detail::copy_name(list.forced, name);
  });
  return {};
}

inline Status set_cost(Context* context, const char* implementation, const CostModel& cost) noexcept {
  constexpr const char* kOp = "set_cost";
  if (Status s = detail::check_result(kOp, "context", context)) return s;
  if (Status s = detail::check_result(kOp, "implementation", implementation)) return s;
  if (Status s = detail::check_cost({kOp, "cost"}, cost)) return s;
  for (std::int32_t i = 0; i < context->tree_attention.count; ++i) {
    auto& entry = context->tree_attention.entries[i];
    if (std::strcmp(entry.name, implementation) != 0) continue;
    entry.cost = cost;
    return {};
  }
  return detail::failure({kOp, "implementation"}, "entries of tree_attention", 0, ">=", 1);
}

inline Status pack_segment(const Context& context, const Plan& plan, const PackSegment& args) noexcept {
  return detail::run(context, PackSegmentCall{plan.view(), args});
}

inline Status make_plan(const Context& context, const Forest& forest, const LayerKind& kind, PlanOptions options,
                        Plan* plan, MemorySpace space) noexcept {
  return detail::plan_with(context, forest, kind, options, plan, space);
}
inline Status make_plan(const Context& context, const RectangleInput& input, const LayerKind& kind, PlanOptions options,
                        Plan* plan, MemorySpace space) noexcept {
  return detail::plan_with(context, input, kind, options, plan, space);
}

inline Status tree_attention(const Context& context, const Plan& plan, const Attend& args) noexcept {
  return detail::run(context, AttendCall{plan.view(), args}, -1,
                     detail::part_count(context.executor, plan.header.space));
}
inline Status tree_attention_backward(const Context& context, const Plan& plan, const AttendGrad& args) noexcept {
  return detail::run(context, AttendGradCall{plan.view(), args}, -1,
                     detail::part_count(context.executor, plan.header.space));
}
inline Status tree_attention_part(const Context& context, const Plan& plan, const Attend& args, std::int32_t part,
                                  std::int32_t parts) noexcept {
  if (Status s = detail::check_part(detail::kAttendOp, part, parts)) return s;
  return detail::run(context, AttendCall{plan.view(), args}, part, parts);
}
inline Status tree_attention_backward_part(const Context& context, const Plan& plan, const AttendGrad& args,
                                           std::int32_t part, std::int32_t parts) noexcept {
  if (Status s = detail::check_part(detail::kAttendGradOp, part, parts)) return s;
  return detail::run(context, AttendGradCall{plan.view(), args}, part, parts);
}

inline Status shared_prefix_attention(const Context& context, const Plan& plan,
                                      const SharedPrefixAttend& args) noexcept {
  constexpr const char* kOp = "shared_prefix_attention";
  if (Status s = detail::check_packed(kOp, plan.view(), args); !s.ok()) return s;
  const KvPool pool = detail::as_pool(args);
  return detail::in_packed_words(kOp, tree_attention(context, plan, detail::as_attend(args, pool)));
}
inline Status shared_prefix_attention_backward(const Context& context, const Plan& plan,
                                               const SharedPrefixAttendGrad& args) noexcept {
  constexpr const char* kOp = "shared_prefix_attention_backward";
  if (Status s = detail::check_packed(kOp, plan.view(), args); !s.ok()) return s;
  const KvPool pool = detail::as_pool(args.fwd);
  const KvGrad grad{detail::as_page(args.dk), detail::as_page(args.dv)};
  AttendGrad g;
  g.fwd = detail::as_attend(args.fwd, pool);
  g.dout = args.dout;
  g.dlse = args.dlse;
  g.dq = args.dq;
  g.dkv = {&grad, 1};
  g.dsinks = args.dsinks;
  g.accumulate = args.accumulate;
  g.workspace = args.workspace;
  return detail::in_packed_words(kOp, tree_attention_backward(context, plan, g));
}

template <class Problem, class Call>
std::vector<Verdict> explain(const ImplementationList<Problem, Call>& list, const Problem& problem, MemorySpace space) {
  std::vector<Verdict> verdicts;
  detail::explain_into(&verdicts, "explain", list, problem, space);
  return verdicts;
}

inline std::vector<Verdict> explain(const Context& context, const Plan& plan) {
  const AttentionProblem problem{plan.header.kind, plan.header.mode, plan.header.space};
  std::vector<Verdict> verdicts = explain(context.tree_attention, problem, plan.header.space);
  for (Verdict& v : verdicts) v.runs = v.name == plan.header.implementation;
  return verdicts;
}

inline std::string to_string(const std::vector<Verdict>& verdicts) {
  std::string text;
  for (const Verdict& v : verdicts) {
    text += v.name + "  " + (v.runs ? "runs" : v.status.ok() ? "could run" : to_string(v.status)) + "\n";
  }
  return text;
}

}  // namespace v0_1
}  // namespace prefixshare
