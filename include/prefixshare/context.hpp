// SPDX-License-Identifier: Apache-2.0
// Context: which implementations there are, in order, and who runs their parts. The dispatch entries of every operator.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "prefixshare/detail/macros.hpp"
#include "prefixshare/device_plan.hpp"
#include "prefixshare/device_runtime.hpp"
#include "prefixshare/draft_tree.hpp"
#include "prefixshare/executor.hpp"
#include "prefixshare/kv_append.hpp"
#include "prefixshare/merge_states.hpp"
#include "prefixshare/pack_segment.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/rope.hpp"
#include "prefixshare/rope_rebase.hpp"
#include "prefixshare/shared_prefix_attention.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// One implementation of an operator. Problem is what decides whether it can (for attention the layer kind and mode,
/// when the plan is made; else the arguments); Call is one validated call. `part` does part `i` of `n`; it never waits
/// for another part, so parts may run in any order, even on one thread. On a device it is always part 0 of 1, which
/// puts the whole call into its stream.
template <class Problem, class Call>
struct Implementation {
  const char* name = "";  ///< "family:how", a literal, shorter than kNameCapacity
  MemorySpace space = MemorySpace::host;
  Status (*accepts)(const Problem&) noexcept = nullptr;
  Status (*part)(const Call&, std::int32_t i, std::int32_t n) noexcept = nullptr;
  CostModel cost;
};

/// An ordered list: the first that accepts runs, unless a name is forced.
template <class Problem, class Call>
struct ImplementationList {
  static constexpr int kCapacity = 16;
  Implementation<Problem, Call> entries[kCapacity];
  std::int32_t count = 0;
  char forced[kNameCapacity] = "";  ///< empty: none. A forced implementation runs or the call says why not.

  /// Puts an implementation in front of (or behind) those there are. capacity_exceeded when full, invalid_argument for
  /// a null function or a bad or taken name.
  Status add(const Implementation<Problem, Call>& entry, bool in_front = true) noexcept;
  /// Forces a name; empty to stop forcing. invalid_argument if no entry has it.
  Status force(const char* name) noexcept;
};

struct AttentionProblem {
  LayerKind kind;
  Mode mode = Mode::fast;
  MemorySpace space = MemorySpace::host;
};
/// The implementations of each operator, the executor and the runtime of devices. A value: copy it, one per
/// configuration; not changed by calls, which may share it between threads.
struct Context {
  ImplementationList<AttentionProblem, AttendCall> tree_attention;
  ImplementationList<AttentionProblem, AttendGradCall> tree_attention_backward;
  ImplementationList<AttentionProblem, PackSegmentCall> pack_segment;  ///< those of tree_attention that have a format
  ImplementationList<MergeStates, MergeStates> merge_states;
  ImplementationList<MergeStatesGrad, MergeStatesGrad> merge_states_backward;
  ImplementationList<RopeApply, RopeApply> rope_apply;
  ImplementationList<RopeShift, RopeShift> rope_shift;
  ImplementationList<RopeRebase, RopeRebase> rope_rebase;
  ImplementationList<KvAppend, KvAppend> kv_append;
  ImplementationList<DraftTreeBatch, DraftTreeBatch> draft_tree_from_parents;
  Executor executor;
  DeviceRuntime device;
  char machine[kNameCapacity] = "default";  ///< whose measured cost constants create_context took; docs/plan.md
};

/// A context with every implementation that this build has, the preferred first, `cpu:portable` last; those that this
/// machine cannot run decline. Cost constants are those that were measured on this machine's kind, if it is one of
/// `kernels/costs`; `machine` then names it. The one piece of process state of the library: where the CPU has AMX, the
/// first call asks Linux for the permission to use its tiles, which holds for the whole process; alternate signal
/// stacks must then have the size that getauxval(AT_MINSIGSTKSZ) says. If it is refused, `cpu:amx-bf16` declines.
PREFIXSHARE_API Status create_context(Context* context) noexcept;
/// Forces `name` for every operator that has it; invalid_argument if none does.
Status force_implementation(Context* context, const char* name) noexcept;
/// Sets the cost constants of an implementation of tree_attention, for engines that measured them; plans made from then
/// on follow them, in what they share and cut. `row_step` and `few_rows` say how the implementation works: keep what
/// its entry has. Errors: invalid_argument (a constant out of range; no such implementation), and nothing is changed.
Status set_cost(Context* context, const char* implementation, const CostModel& cost) noexcept;

/// make_plan with the implementation chosen from the context (host unless `space` says device), its name and its cost
/// constants stored in the plan. Errors: those of make_plan; the refusal of a forced implementation;
/// backend_unavailable.
Status make_plan(const Context& context, const Forest& forest, const LayerKind& kind, PlanOptions options, Plan* plan,
                 MemorySpace space = MemorySpace::host) noexcept;
Status make_plan(const Context& context, const RectangleInput& input, const LayerKind& kind, PlanOptions options,
                 Plan* plan, MemorySpace space = MemorySpace::host) noexcept;

/// How many thread blocks of the stream's device to plan for: PlanOptions::target_parallelism of a plan for a device,
/// and PlanLimits::parts of its workspace. Errors: backend_unavailable.
Status device_blocks(const Context& context, std::int32_t* blocks, Stream stream = {}) noexcept;
/// init_workspace in the space of the limits. On a device the counters are zeroed in the order of `stream`; memory of
/// another device is invalid_argument.
Status init_workspace(const Context& context, const LayerKind& kind, const PlanLimits& limits, void* data,
                      std::int64_t bytes, Workspace* workspace, Stream stream = {}) noexcept;

/// The operators. Each validates, finds the implementation (for attention the one that the plan names, never another)
/// and runs it through the executor. Contracts: at the argument types.
Status tree_attention(const Context& context, const Plan& plan, const Attend& args) noexcept;
Status tree_attention_backward(const Context& context, const Plan& plan, const AttendGrad& args) noexcept;
/// Part `part` of `parts` of a call, for engines that have their own team: run every part, in any order, each once. A
/// call on a device is part 0 of 1; anything else is unsupported.
Status tree_attention_part(const Context& context, const Plan& plan, const Attend& args, std::int32_t part,
                           std::int32_t parts) noexcept;
Status tree_attention_backward_part(const Context& context, const Plan& plan, const AttendGrad& args, std::int32_t part,
                                    std::int32_t parts) noexcept;
/// With the plan's implementation; unsupported if it has no format of its own.
Status pack_segment(const Context& context, const Plan& plan, const PackSegment& args) noexcept;
Status shared_prefix_attention(const Context& context, const Plan& plan, const SharedPrefixAttend& args) noexcept;
Status shared_prefix_attention_backward(const Context& context, const Plan& plan,
                                        const SharedPrefixAttendGrad& args) noexcept;
PREFIXSHARE_API Status merge_states(const Context& context, const MergeStates& args) noexcept;
PREFIXSHARE_API Status merge_states_backward(const Context& context, const MergeStatesGrad& args) noexcept;
PREFIXSHARE_API Status rope_apply(const Context& context, const RopeApply& args) noexcept;
PREFIXSHARE_API Status rope_shift(const Context& context, const RopeShift& args) noexcept;
PREFIXSHARE_API Status rope_rebase(const Context& context, const RopeRebase& args) noexcept;
PREFIXSHARE_API Status kv_append(const Context& context, const KvAppend& args) noexcept;
PREFIXSHARE_API Status draft_tree_from_parents(const Context& context, const DraftTreeBatch& args) noexcept;

/// One line of an explanation: an implementation, and ok or why it declined.
struct Verdict {
  std::string name;
  Status status;
  bool runs = false;
};
/// What would run for a problem (a layer kind, or the arguments of a call) and why each other declined.
template <class Problem, class Call>
std::vector<Verdict> explain(const ImplementationList<Problem, Call>& list, const Problem& problem,
                             MemorySpace space = MemorySpace::host);
/// What runs this plan's forward and why each other implementation declined.
std::vector<Verdict> explain(const Context& context, const Plan& plan);
/// "cpu:portable  runs" / "cpu:x  unsupported: ...", a line each.
std::string to_string(const std::vector<Verdict>& verdicts);

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/context_impl.hpp"
#include "prefixshare/detail/device_impl.hpp"
