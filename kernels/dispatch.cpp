// SPDX-License-Identifier: Apache-2.0
// The dispatch interface: which implementations this build has, in order, and the compiled entry of every operator. The
// only file that knows what was built in.
#if defined(PREFIXSHARE_HAS_X86) || defined(PREFIXSHARE_WITH_CUDA)
#include "costs/measured.hpp"
#endif
#include "cpu/features.hpp"
#include "cpu/float_control.hpp"
#include "cpu/operators.hpp"
#if defined(PREFIXSHARE_WITH_CUDA)
#include "cuda/operators.hpp"
#include "prefixshare/cuda/accepts.hpp"
#endif
#include "prefixshare/context.hpp"
#include "prefixshare/detail/validate_ops.hpp"
#include "prefixshare/detail/validate_rebase.hpp"
#include "prefixshare/portable/draft_tree.hpp"
#include "prefixshare/portable/kv_append.hpp"
#include "prefixshare/portable/merge_states.hpp"
#include "prefixshare/portable/rope.hpp"
#include "prefixshare/portable/rope_rebase.hpp"
#include "prefixshare/portable/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace {

/// Adds an implementation behind those there are. Its parts run under FloatControl.
template <auto Part, class Problem, class Call>
Status add(ImplementationList<Problem, Call>* list, const char* name, const CostModel& cost,
           Status (*accepts)(const Problem&) noexcept = nullptr) noexcept {
  Implementation<Problem, Call> entry;
  entry.name = name;
  entry.accepts = accepts;
  entry.part = &cpu::controlled<Part, Call>;
  entry.cost = cost;
  return list->add(entry, false);
}

#if defined(PREFIXSHARE_HAS_X86) || defined(PREFIXSHARE_WITH_CUDA)

/// The constants of an implementation as measured on a machine, else `cost`, which also knows how it works.
CostModel measured_cost(const char* machine, const char* implementation, CostModel cost) noexcept {
  for (const costs::Measured& m : costs::kMeasured) {
    if (std::strcmp(m.machine, machine) != 0 || std::strcmp(m.implementation, implementation) != 0) continue;
    const CostModel how = cost;
    cost = m.cost;
    cost.row_step = how.row_step, cost.few_rows = how.few_rows, cost.by_head = how.by_head;
  }
  return cost;
}

#endif

#if defined(PREFIXSHARE_HAS_X86)

/// The measured machine that this one is; the last of the list, whose name is "default", if none.
const costs::Machine& this_machine() noexcept {
  const cpu::Identity id = cpu::identity();
  const costs::Machine* m = costs::kMachines;
  for (; *m->vendor != '\0'; ++m) {
    if (m->family == id.family && m->model == id.model && std::strcmp(m->vendor, id.vendor) == 0) break;
  }
  return *m;
}
const char* machine_name() noexcept {
  static const costs::Machine& machine = this_machine();
  return machine.name;
}

CostModel cost_here(const char* implementation, const CostModel& cost) noexcept {
  return measured_cost(machine_name(), implementation, cost);
}

/// For machines that nobody measured: nanoseconds as CostModel says, of a Zen 4; docs/performance.md.
CostModel avx512_cost() noexcept {
  return cost_here("cpu:avx512", {1500, 0.083, 0.0207, 1.1, 0.031, 0.028, 20000, 16, 8});
}
/// Few rows run the body of cpu:avx512. For machines that nobody measured: no faster than that.
CostModel avx512_bf16_cost() noexcept {
  return cost_here("cpu:avx512-bf16", {1500, 0.083, 0.0207, 1.1, 0.031, 0.028, 20000, 16, 8});
}
CostModel avx2_cost() noexcept { return cost_here("cpu:avx2", {1800, 0.105, 0.0219, 1.1, 0.038, 0.031, 20000, 16, 8}); }
/// Few rows run the same body as on AVX-512. The others: of an Emerald Rapids.
CostModel amx_bf16_cost() noexcept {
  return cost_here("cpu:amx-bf16", {2500, 0.09, 0.0045, 1.1, 0.031, 0.028, 20000, 16, 8});
}

const cpu::Features& features() noexcept {
  static const cpu::Features found = cpu::features();
  return found;
}

/// Asked for once per process, when the first context is created.
bool has_tiles() noexcept {
  static const bool permitted = features().amx_bf16 && cpu::request_tiles();
  return permitted;
}

/// What an implementation needs of the machine.
struct Need {
  bool met;
  const char* name;
};
Need needs_avx512() noexcept { return {features().avx512, "AVX-512 F, BW, DQ, VL (in this machine)"}; }
Need needs_avx512_bf16() noexcept { return {features().avx512_bf16, "AVX-512 F, BW, DQ, VL, BF16 (in this machine)"}; }
Need needs_avx2() noexcept { return {features().avx2, "AVX2, FMA, F16C (in this machine)"}; }

/// f64 has its own arithmetic, which these do not do.
Status accepts_f32(const char* op, DType arithmetic, Need need) noexcept {
  const detail::Where at{op, "implementation"};
  if (!need.met) return detail::failure(at, need.name, 0, "==", 1, StatusUnit::number, StatusCode::unsupported);
  if (arithmetic == DType::f32) return Status{};
  return detail::failure(at, "arithmetic dtype", static_cast<std::int64_t>(arithmetic),
                         "==", static_cast<std::int64_t>(DType::f32), StatusUnit::dtype, StatusCode::unsupported);
}
Status accepts_f32(const AttentionProblem& problem, Need need) noexcept {
  return accepts_f32("tree_attention", problem.kind.acc_dtype(), need);
}
Status accepts_kv_bf16(const AttentionProblem& problem) noexcept {
  if (problem.kind.kv_dtype == DType::bf16) return Status{};
  return detail::failure({"tree_attention", "implementation"}, "kv_dtype",
                         static_cast<std::int64_t>(problem.kind.kv_dtype), "==", static_cast<std::int64_t>(DType::bf16),
                         StatusUnit::dtype, StatusCode::unsupported);
}
Status accepts_avx512_bf16(const AttentionProblem& problem) noexcept {
  if (Status s = accepts_f32(problem, needs_avx512_bf16())) return s;
  return accepts_kv_bf16(problem);
}
Status accepts_amx_bf16(const AttentionProblem& problem) noexcept {
  const detail::Where at{"tree_attention", "implementation"};
  if (Status s = accepts_f32(problem, {features().amx_bf16, "AMX-BF16, AVX512-BF16 (in this machine)"})) return s;
  if (!has_tiles()) {
    return detail::failure(at, "permission to use AMX tiles (from the operating system)", 0, "==", 1,
                           StatusUnit::number, StatusCode::unsupported);
  }
  return accepts_kv_bf16(problem);
}
Status accepts_avx512(const AttentionProblem& problem) noexcept { return accepts_f32(problem, needs_avx512()); }
Status accepts_avx2(const AttentionProblem& problem) noexcept { return accepts_f32(problem, needs_avx2()); }

/// The forward of attention and its packed format.
template <auto Attend, auto Pack>
Status add_attention(Context* c, const char* name, const CostModel& cost,
                     Status (*accepts)(const AttentionProblem&) noexcept) noexcept {
  if (Status s = add<Attend>(&c->tree_attention, name, cost, accepts)) return s;
  return add<Pack>(&c->pack_segment, name, cost, accepts);
}
Status add_avx512_bf16(Context* c) noexcept {
  return add_attention<&cpu::tree_attention_avx512_bf16, &cpu::pack_segment_tiles>(
      c, "cpu:avx512-bf16", avx512_bf16_cost(), accepts_avx512_bf16);
}

/// The vector implementations of attention. The bf16 dot product is twice as fast as the multiply-add of f32 on some
/// machines and half as fast on others, so that it stands before cpu:avx512 only where it was measured.
Status add_x86(Context* c) noexcept {
  has_tiles();
  if (Status s = add_attention<&cpu::tree_attention_amx_bf16, &cpu::pack_segment_tiles>(
          c, "cpu:amx-bf16", amx_bf16_cost(), accepts_amx_bf16)) {
    return s;
  }
  const bool dots_first = avx512_bf16_cost().mac < avx512_cost().mac;
  if (Status s = dots_first ? add_avx512_bf16(c) : Status{}) return s;
  if (Status s = add_attention<&cpu::tree_attention_avx512, &detail::pack_rows_part>(c, "cpu:avx512", avx512_cost(),
                                                                                     accepts_avx512)) {
    return s;
  }
  if (Status s = dots_first ? Status{} : add_avx512_bf16(c)) return s;
  return add_attention<&cpu::tree_attention_avx2, &detail::pack_rows_part>(c, "cpu:avx2", avx2_cost(), accepts_avx2);
}

DType arithmetic_of(bool f64) noexcept { return f64 ? DType::f64 : DType::f32; }
Status accepts_parts(const char* op, std::int64_t parts) noexcept {
  if (parts <= cpu::kMaxMergeParts) return Status{};
  return detail::failure({op, "parts"}, "size", parts, "<=", cpu::kMaxMergeParts, StatusUnit::number,
                         StatusCode::unsupported);
}
Status accepts_rows(const MergeStates& args, Need need) noexcept {
  constexpr const char* kOp = "merge_states";
  if (Status s = accepts_f32(kOp, arithmetic_of(detail::merges_in_f64(args)), need)) return s;
  return accepts_parts(kOp, args.parts.size());
}
Status accepts_rows(const MergeStatesGrad& args, Need need) noexcept {
  constexpr const char* kOp = "merge_states_backward";
  if (Status s = accepts_f32(kOp, arithmetic_of(detail::merges_in_f64(args)), need)) return s;
  return accepts_parts(kOp, args.parts.size());
}
Status accepts_rows(const RopeApply& args, Need need) noexcept {
  return accepts_f32("rope_apply", arithmetic_of(args.x.dtype == DType::f64), need);
}
Status accepts_rows(const RopeShift& args, Need need) noexcept {
  return accepts_f32("rope_shift", arithmetic_of(args.x.dtype == DType::f64), need);
}
Status accepts_rows(const RopeRebase& args, Need need) noexcept {
  return accepts_f32("rope_rebase", arithmetic_of(detail::rebases_in_f64(args)), need);
}
Status accepts_rows(const KvAppend& args, Need need) noexcept {
  return accepts_f32("kv_append", arithmetic_of(detail::appends_in_f64(args)), need);
}

template <Need (*need)() noexcept, class Args>
Status accepts_rows(const Args& args) noexcept {
  return accepts_rows(args, need());
}

/// The operators on rows, for one instruction set.
template <Need (*need)() noexcept, auto Merge, auto MergeBackward, auto Apply, auto Shift, auto Rebase, auto Append>
Status add_rows(Context* c, const char* name, const CostModel& cost) noexcept {
  if (Status s = add<Merge>(&c->merge_states, name, cost, accepts_rows<need>)) return s;
  if (Status s = add<MergeBackward>(&c->merge_states_backward, name, cost, accepts_rows<need>)) return s;
  if (Status s = add<Apply>(&c->rope_apply, name, cost, accepts_rows<need>)) return s;
  if (Status s = add<Shift>(&c->rope_shift, name, cost, accepts_rows<need>)) return s;
  if (Status s = add<Rebase>(&c->rope_rebase, name, cost, accepts_rows<need>)) return s;
  return add<Append>(&c->kv_append, name, cost, accepts_rows<need>);
}
Status add_x86_rows(Context* c) noexcept {
  const Status s =
      add_rows<needs_avx512, &cpu::merge_states_avx512, &cpu::merge_states_backward_avx512, &cpu::rope_apply_avx512,
               &cpu::rope_shift_avx512, &cpu::rope_rebase_avx512, &cpu::kv_append_avx512>(c, "cpu:avx512",
                                                                                          avx512_cost());
  if (!s.ok()) return s;
  return add_rows<needs_avx2, &cpu::merge_states_avx2, &cpu::merge_states_backward_avx2, &cpu::rope_apply_avx2,
                  &cpu::rope_shift_avx2, &cpu::rope_rebase_avx2, &cpu::kv_append_avx2>(c, "cpu:avx2", avx2_cost());
}

#else

const char* machine_name() noexcept { return "default"; }
CostModel cost_here(const char*, const CostModel& cost) noexcept { return cost; }

#endif

#if defined(PREFIXSHARE_WITH_CUDA)

/// Adds an implementation that runs on a device behind those there are.
template <class Problem, class Call>
Status add_device(ImplementationList<Problem, Call>* list, const char* name,
                  Status (*part)(const Call&, std::int32_t, std::int32_t) noexcept,
                  Status (*accepts)(const Problem&) noexcept, const CostModel& cost = {}) noexcept {
  Implementation<Problem, Call> entry;
  entry.name = name;
  entry.space = MemorySpace::device;
  entry.accepts = accepts;
  entry.part = part;
  entry.cost = cost;
  return list->add(entry, false);
}

/// Whether there is a device, then whether the kernels take the layer kind.
template <Status (*accepts)(const char*, const LayerKind&) noexcept, bool backward>
Status accepts_on_device(const AttentionProblem& problem) noexcept {
  constexpr const char* kOp = backward ? "tree_attention_backward" : "tree_attention";
  if (Status s = cuda::check_device(kOp)) return s;
  return accepts(kOp, problem.kind);
}
Status add_cuda_attention(Context* c) noexcept {
  constexpr const char *kMma = "cuda:mma-sm80", *kSimt = "cuda:simt";
  auto* forward = &c->tree_attention;
  auto* backward = &c->tree_attention_backward;
  if (Status s = add_device(forward, kMma, cuda::tree_attention_mma, accepts_on_device<cuda::accepts_mma, false>,
                            cuda::kMmaCost)) {
    return s;
  }
  if (Status s = add_device(forward, kSimt, cuda::tree_attention_simt, accepts_on_device<cuda::accepts_simt, false>,
                            cuda::kSimtCost)) {
    return s;
  }
  if (Status s = add_device(backward, kMma, cuda::tree_attention_backward_mma,
                            accepts_on_device<cuda::accepts_mma_backward, true>, cuda::kMmaCost)) {
    return s;
  }
  return add_device(backward, kSimt, cuda::tree_attention_backward_simt, accepts_on_device<cuda::accepts_simt, true>,
                    cuda::kSimtCost);
}

Status accepts_rows_on_device(const char* op, bool f64) noexcept {
  if (Status s = cuda::check_device(op)) return s;
  return cuda::refuse_f64(op, f64 ? DType::f64 : DType::f32);
}
Status accepts_on_device(const MergeStates& args) noexcept {
  if (Status s = accepts_rows_on_device("merge_states", detail::merges_in_f64(args))) return s;
  return cuda::accepts_parts(args);
}
Status accepts_on_device(const MergeStatesGrad& args) noexcept {
  return accepts_rows_on_device("merge_states_backward", detail::merges_in_f64(args));
}
Status accepts_on_device(const RopeApply& args) noexcept {
  return accepts_rows_on_device("rope_apply", args.x.dtype == DType::f64);
}
Status accepts_on_device(const RopeShift& args) noexcept {
  return accepts_rows_on_device("rope_shift", args.x.dtype == DType::f64);
}
Status accepts_on_device(const RopeRebase& args) noexcept {
  return accepts_rows_on_device("rope_rebase", detail::rebases_in_f64(args));
}
Status accepts_on_device(const KvAppend& args) noexcept {
  return accepts_rows_on_device("kv_append", detail::appends_in_f64(args));
}
Status accepts_on_device(const DraftTreeBatch& args) noexcept {
  if (Status s = accepts_rows_on_device("draft_tree_from_parents", false)) return s;
  return cuda::accepts_words(args);
}
template <class Args>
Status add_device_rows(ImplementationList<Args, Args>* list,
                       Status (*part)(const Args&, std::int32_t, std::int32_t) noexcept) noexcept {
  return add_device<Args, Args>(list, "cuda:rows", part, accepts_on_device);
}
Status add_cuda_rows(Context* c) noexcept {
  if (Status s = add_device_rows(&c->merge_states, cuda::merge_states)) return s;
  if (Status s = add_device_rows(&c->merge_states_backward, cuda::merge_states_backward)) return s;
  if (Status s = add_device_rows(&c->rope_apply, cuda::rope_apply)) return s;
  if (Status s = add_device_rows(&c->rope_shift, cuda::rope_shift)) return s;
  if (Status s = add_device_rows(&c->rope_rebase, cuda::rope_rebase)) return s;
  if (Status s = add_device_rows(&c->kv_append, cuda::kv_append)) return s;
  return add_device_rows(&c->draft_tree_from_parents, cuda::draft_tree_from_parents);
}

bool same_times(const CostModel& a, const CostModel& b) noexcept {
  return a.item == b.item && a.kv_element == b.kv_element && a.mac == b.mac && a.partial == b.partial &&
         a.few_kv_element == b.few_kv_element && a.few_mac == b.few_mac && a.min_item == b.min_item;
}
/// As measured on the kind of device that the current one is, by its name. Looked up for each plan, so that contexts
/// are made without asking the driver, which a process that is to fork must not.
CostModel cost_on_device(const char* implementation, const CostModel& cost) noexcept {
  if (!same_times(cost, cuda::kMmaCost) && !same_times(cost, cuda::kSimtCost)) return cost;  // set_cost's
  const char* name = cuda::device_name();
  const costs::Device* device = costs::kDevices;
  while (*device->name != '\0' && std::strcmp(device->name, name) != 0) ++device;
  return measured_cost(device->machine, implementation, cost);
}

Status add_cuda(Context* c) noexcept {
  c->device = {cuda::device_state, cuda::device_owner, cuda::copy_to_device, cuda::clear_on_device, cost_on_device};
  if (Status s = add_cuda_attention(c)) return s;
  return add_cuda_rows(c);
}

#endif

/// Last and total.
Status add_portable(Context* c) noexcept {
  constexpr const char* kName = "cpu:portable";
  const CostModel cost = cost_here(kName, {});  // the default: an x86-64 core at the SSE2 baseline
  if (Status s = add<&portable::tree_attention_part>(&c->tree_attention, kName, cost)) return s;
  if (Status s = add<&portable::tree_attention_backward_part>(&c->tree_attention_backward, kName, cost)) return s;
  if (Status s = add<&portable::merge_states_part>(&c->merge_states, kName, cost)) return s;
  if (Status s = add<&portable::merge_states_backward_part>(&c->merge_states_backward, kName, cost)) return s;
  if (Status s = add<&portable::rope_apply_part>(&c->rope_apply, kName, cost)) return s;
  if (Status s = add<&portable::rope_shift_part>(&c->rope_shift, kName, cost)) return s;
  if (Status s = add<&portable::rope_rebase_part>(&c->rope_rebase, kName, cost)) return s;
  if (Status s = add<&portable::kv_append_part>(&c->kv_append, kName, cost)) return s;
  return add<&portable::draft_tree_from_parents_part>(&c->draft_tree_from_parents, kName, cost);
}

/// Validates, chooses and runs an operator whose arguments are its problem. Without an implementation for the space of
/// the output, host rules validate, and name what is elsewhere.
template <class Args>
Status run_operator(const char* op, const Context& context, const ImplementationList<Args, Args>& list,
                    const Args& args, MemorySpace space) noexcept {
  bool known = false;
  for (std::int32_t i = 0; i < list.count; ++i) known = known || list.entries[i].space == space;
  if (!known) space = MemorySpace::host;
  if (Status s = detail::validate(args, space); !s.ok()) return s;
  Status why;
  const auto* entry = detail::choose(op, list, args, space, &why);
  if (entry == nullptr) return why;
  if (space == MemorySpace::host) return detail::run_parts(context.executor, entry->part, args);
  if (Status s = detail::check_device(op, context.device, args)) return s;
  return entry->part(args, 0, 1);
}

/// Runs the implementation that the plan names, never another.
template <class Call>
Status run_attention(const char* op, const Context& context, const ImplementationList<AttentionProblem, Call>& list,
                     const char* name, const Call& call, std::int32_t part, std::int32_t parts) noexcept {
  const auto* entry = detail::find(list, name);
  const MemorySpace space = entry == nullptr ? call.plan.header.space : entry->space;
  if (Status s = detail::validate(call.plan, call.args, parts, space); !s.ok()) return s;
  if (entry == nullptr) {
    return detail::failure({op, "plan"}, "implementation (in the context)", 0, "==", 1, StatusUnit::number,
                           StatusCode::unsupported);
  }
  if (space == MemorySpace::host) {
    return part < 0 ? detail::run_parts(context.executor, entry->part, call) : entry->part(call, part, parts);
  }
  if (Status s = detail::check_device(op, context.device, call.args)) return s;
  return entry->part(call, 0, 1);
}

}  // namespace

Status create_context(Context* context) noexcept {
  if (Status s = detail::check_result("create_context", "context", context)) return s;
  *context = Context{};
  detail::copy_name(context->machine, machine_name());
#if defined(PREFIXSHARE_HAS_X86)
  if (Status s = add_x86(context)) return s;
  if (Status s = add_x86_rows(context)) return s;
#endif
#if defined(PREFIXSHARE_WITH_CUDA)
  if (Status s = add_cuda(context)) return s;
#endif
  return add_portable(context);
}

Status detail::run(const Context& context, const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept {
  return run_attention(kAttendOp, context, context.tree_attention, call.plan.header.implementation, call, part, parts);
}
Status detail::run(const Context& context, const AttendGradCall& call, std::int32_t part, std::int32_t parts) noexcept {
  return run_attention(kAttendGradOp, context, context.tree_attention_backward,
                       call.plan.header.backward_implementation, call, part, parts);
}

Status detail::run(const Context& context, const PackSegmentCall& call) noexcept {
  if (Status s = detail::validate(call.plan, call.args)) return s;
  const auto* entry = detail::find(context.pack_segment, call.plan.header.implementation);
  if (entry != nullptr) return detail::run_parts(context.executor, entry->part, call);
  return detail::failure({detail::kPackOp, "plan"}, "implementation (with a format of its own)", 0, "==", 1,
                         StatusUnit::number, StatusCode::unsupported);
}

Status merge_states(const Context& context, const MergeStates& args) noexcept {
  return run_operator("merge_states", context, context.merge_states, args, args.out.o.space);
}
Status merge_states_backward(const Context& context, const MergeStatesGrad& args) noexcept {
  return run_operator("merge_states_backward", context, context.merge_states_backward, args, args.dout.space);
}
Status rope_apply(const Context& context, const RopeApply& args) noexcept {
  return run_operator("rope_apply", context, context.rope_apply, args, args.out.space);
}
Status rope_shift(const Context& context, const RopeShift& args) noexcept {
  return run_operator("rope_shift", context, context.rope_shift, args, args.out.space);
}
Status rope_rebase(const Context& context, const RopeRebase& args) noexcept {
  const MemorySpace space =
      args.layers.empty() || args.layers.data() == nullptr ? MemorySpace::host : args.layers[0].k.space;
  return run_operator("rope_rebase", context, context.rope_rebase, args, space);
}
Status kv_append(const Context& context, const KvAppend& args) noexcept {
  return run_operator("kv_append", context, context.kv_append, args, args.pool.k.space);
}
Status draft_tree_from_parents(const Context& context, const DraftTreeBatch& args) noexcept {
  return run_operator("draft_tree_from_parents", context, context.draft_tree_from_parents, args, args.space);
}

}  // namespace v0_1
}  // namespace prefixshare
