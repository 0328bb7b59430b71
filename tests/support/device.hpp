// SPDX-License-Identifier: Apache-2.0
// A stand-in for a device: its memory is the host's, its runtime notes what it is asked, its implementations note what
// they are called with.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "support/attention.hpp"

namespace prefixshare::tests {

/// The device, and what happened to it.
struct StandIn {
  DeviceState state{0, 6, false};
  std::map<const void*, std::int32_t> elsewhere;  ///< memory of others; everything else is the device's
  Status answer;                                  ///< of the runtime, to every question
  std::vector<std::int64_t> copies, clears;       ///< bytes of each
  Stream stream;                                  ///< of the last copy, clear or question for the state
  std::int32_t calls = 0;                         ///< that reached an implementation
  AttendCall forward;                             ///< the last ones
  AttendGradCall backward;
};
inline StandIn& stand_in() {
  static StandIn device;
  return device;
}

inline DeviceRuntime stand_in_runtime() {
  DeviceRuntime r;
  r.state = [](Stream stream, DeviceState* state) noexcept {
    stand_in().stream = stream;
    *state = stand_in().state;
    return stand_in().answer;
  };
  r.owner = [](const void* data, std::int32_t* ordinal) noexcept {
    const auto at = stand_in().elsewhere.find(data);
    *ordinal = at == stand_in().elsewhere.end() ? stand_in().state.ordinal : at->second;
    return stand_in().answer;
  };
  r.copy = [](void* to, const void* from, std::int64_t bytes, Stream stream) noexcept {
    if (!stand_in().answer.ok()) return stand_in().answer;
    stand_in().stream = stream;
    stand_in().copies.push_back(bytes);
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
    return Status{};
  };
  r.clear = [](void* data, std::int64_t bytes, Stream stream) noexcept {
    if (!stand_in().answer.ok()) return stand_in().answer;
    stand_in().stream = stream;
    stand_in().clears.push_back(bytes);
    std::memset(data, 0, static_cast<std::size_t>(bytes));
    return Status{};
  };
  return r;
}

template <class Problem, class Call>
void add_stand_in(ImplementationList<Problem, Call>* list) {
  Implementation<Problem, Call> entry;
  entry.name = "test:device";
  entry.space = MemorySpace::device;
  entry.part = [](const Call& call, std::int32_t part, std::int32_t parts) noexcept {
    CHECK((part == 0 && parts == 1));
    ++stand_in().calls;
    if constexpr (std::is_same_v<Call, AttendCall>) stand_in().forward = call;
    if constexpr (std::is_same_v<Call, AttendGradCall>) stand_in().backward = call;
    return Status{};
  };
  require_ok(list->add(entry));
}
/// A context with the stand-in as its device, fresh.
inline Context device_context() {
  stand_in() = {};
  Context context;
  require_ok(create_context(&context));
  context.device = stand_in_runtime();
  add_stand_in(&context.tree_attention);
  add_stand_in(&context.tree_attention_backward);
  add_stand_in(&context.merge_states);
  add_stand_in(&context.merge_states_backward);
  add_stand_in(&context.rope_apply);
  add_stand_in(&context.rope_shift);
  add_stand_in(&context.rope_rebase);
  add_stand_in(&context.kv_append);
  add_stand_in(&context.draft_tree_from_parents);
  return context;
}

/// Aligned memory.
class AlignedBytes {
 public:
  explicit AlignedBytes(std::int64_t bytes) : chunks_(static_cast<std::size_t>(bytes / 256 + 1)) {}
  void* data() { return chunks_.data(); }

 private:
  struct alignas(256) Chunk {
    unsigned char bytes[256];
  };
  std::vector<Chunk> chunks_;
};

/// Views of a problem as if they lay on the device, with its plan there and a workspace.
struct DeviceCall {
  Context context;
  Plan plan;
  std::vector<KvPool> pools;
  std::vector<KvGrad> grads;
  AlignedBytes image, staging, workspace_memory;
  DevicePlan device_plan;
  Workspace workspace;
  Attend args;
  AttendGrad grad;

  DeviceCall(Context c, Problem& problem, PlanOptions options = {})
      : context(std::move(c)),
        plan(planned(context, problem, options)),
        image(room()),
        staging(room()),
        workspace_memory(workspace_bytes()) {
    device_plan.data = image.data();
    device_plan.staging = staging.data();
    device_plan.bytes = room();
    require_ok(upload(context, plan, &device_plan));
    require_ok(
        init_workspace(context, plan.header.kind, limits(), workspace_memory.data(), workspace_bytes(), &workspace));
    args = problem.attend();
    grad = problem.attend_grad();
    pools.assign(args.kv.begin(), args.kv.end());
    grads.assign(grad.dkv.begin(), grad.dkv.end());
    move_to_device();
  }
  DeviceCall(const DeviceCall&) = delete;

  PlanLimits limits() const { return limits_of(plan, plan.header.target_parallelism); }
  Status forward() const { return tree_attention(context, plan, args); }
  Status backward() {
    grad.fwd = args;
    return tree_attention_backward(context, plan, grad);
  }

 private:
  static Plan planned(const Context& context, const Problem& problem, PlanOptions options) {
    Plan plan;
    require_ok(device_blocks(context, &options.target_parallelism));
    require_ok(make_plan(context, problem.forest, problem.options.kind, options, &plan, MemorySpace::device));
    return plan;
  }
  std::int64_t room() const {
    std::int64_t bytes = 0;
    require_ok(device_plan_bytes(context, plan, &bytes));
    return bytes;
  }
  std::int64_t workspace_bytes() const {
    std::int64_t forward = 0, backward = 0;
    require_ok(forward_workspace(plan.header.kind, limits(), &forward));
    require_ok(backward_workspace(plan.header.kind, limits(), &backward));
    return std::max(forward, backward);
  }
  void move_to_device() {
    constexpr MemorySpace kDevice = MemorySpace::device;
    for (KvPool& pool : pools) pool.k.space = pool.v.space = pool.bias.space = kDevice;
    for (KvGrad& g : grads) g.dk.space = g.dv.space = kDevice;
    args.kv = pools;
    args.q.space = args.o.space = args.lse.space = kDevice;
    args.lengths_space = kDevice;
    args.workspace = workspace;
    args.device_plan = &device_plan;
    grad.dkv = grads;
    grad.dout.space = grad.dlse.space = grad.dq.space = kDevice;
    grad.workspace = workspace;
  }
};

}  // namespace prefixshare::tests
