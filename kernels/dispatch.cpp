// SPDX-License-Identifier: Apache-2.0
// The dispatch interface: which implementations this build has, in order, and the compiled entry of every operator. The
// only file that knows what was built in.
#include "prefixshare/context.hpp"
#include "prefixshare/detail/validate_ops.hpp"
#include "prefixshare/portable/kv_append.hpp"
#include "prefixshare/portable/merge_states.hpp"
#include "prefixshare/portable/rope.hpp"
#include "prefixshare/portable/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace {

constexpr const char* kPortable = "cpu:portable";

/// Measured on an x86-64 core at the SSE2 baseline; docs/performance.md.
constexpr CostModel portable_cost() noexcept { return CostModel{}; }

/// cpu:portable, last and total.
template <class Problem, class Call>
Status add_portable(ImplementationList<Problem, Call>* list,
                    Status (*part)(const Call&, std::int32_t, std::int32_t) noexcept) noexcept {
  Implementation<Problem, Call> entry;
  entry.name = kPortable;
  entry.part = part;
  entry.cost = portable_cost();
  return list->add(entry, false);
}

/// Validates, chooses and runs an operator whose arguments are its problem. Without an implementation for the space of
/// the output, host rules validate, and name what is elsewhere.
template <class Args>
Status run_operator(const char* op, const Executor& executor, const ImplementationList<Args, Args>& list,
                    const Args& args, MemorySpace space) noexcept {
  bool known = false;
  for (std::int32_t i = 0; i < list.count; ++i) known = known || list.entries[i].space == space;
  if (!known) space = MemorySpace::host;
  if (Status s = detail::validate(args, space); !s.ok()) return s;
  Status why;
  const auto* entry = detail::choose(op, list, args, space, &why);
  return entry == nullptr ? why : detail::run_parts(executor, entry->part, args);
}

/// Runs the implementation that the plan names, never another.
template <class Call>
Status run_attention(const char* op, const Executor& executor, const ImplementationList<AttentionProblem, Call>& list,
                     const char* name, const Call& call, std::int32_t part, std::int32_t parts) noexcept {
  const auto* entry = detail::find(list, name);
  const MemorySpace space = entry == nullptr ? MemorySpace::host : entry->space;
  if (Status s = detail::validate(call.plan, call.args, parts, space); !s.ok()) return s;
  if (entry == nullptr) {
    return detail::failure({op, "plan"}, "implementation (in the context)", 0, "==", 1, StatusUnit::number,
                           StatusCode::unsupported);
  }
  return part < 0 ? detail::run_parts(executor, entry->part, call) : entry->part(call, part, parts);
}

}  // namespace

Status create_context(Context* context) noexcept {
  if (Status s = detail::check_result("create_context", "context", context)) return s;
  *context = Context{};
  if (Status s = add_portable(&context->tree_attention, &portable::tree_attention_part)) return s;
  if (Status s = add_portable(&context->tree_attention_backward, &portable::tree_attention_backward_part)) return s;
  if (Status s = add_portable(&context->merge_states, &portable::merge_states_part)) return s;
  if (Status s = add_portable(&context->merge_states_backward, &portable::merge_states_backward_part)) return s;
  if (Status s = add_portable(&context->rope_apply, &portable::rope_apply_part)) return s;
  if (Status s = add_portable(&context->rope_shift, &portable::rope_shift_part)) return s;
  return add_portable(&context->kv_append, &portable::kv_append_part);
}

Status detail::run(const Context& context, const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept {
  return run_attention(kAttendOp, context.executor, context.tree_attention, call.plan.header.implementation, call, part,
                       parts);
}
Status detail::run(const Context& context, const AttendGradCall& call, std::int32_t part, std::int32_t parts) noexcept {
  return run_attention(kAttendGradOp, context.executor, context.tree_attention_backward,
                       call.plan.header.backward_implementation, call, part, parts);
}

Status merge_states(const Context& context, const MergeStates& args) noexcept {
  return run_operator("merge_states", context.executor, context.merge_states, args, args.out.o.space);
}
Status merge_states_backward(const Context& context, const MergeStatesGrad& args) noexcept {
  return run_operator("merge_states_backward", context.executor, context.merge_states_backward, args, args.dout.space);
}
Status rope_apply(const Context& context, const RopeApply& args) noexcept {
  return run_operator("rope_apply", context.executor, context.rope_apply, args, args.out.space);
}
Status rope_shift(const Context& context, const RopeShift& args) noexcept {
  return run_operator("rope_shift", context.executor, context.rope_shift, args, args.out.space);
}
Status kv_append(const Context& context, const KvAppend& args) noexcept {
  return run_operator("kv_append", context.executor, context.kv_append, args, args.pool.k.space);
}

}  // namespace v0_1
}  // namespace prefixshare
