// SPDX-License-Identifier: Apache-2.0
// Plans, workspaces and calls on a device, as far as the host has to do with them. Comes with context.hpp.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/make_image.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline Status check_runtime(const char* op, const DeviceRuntime& device) noexcept {
  if (device.state != nullptr && device.owner != nullptr && device.copy != nullptr && device.clear != nullptr)
    return {};
  return failure({op, "context"}, "device runtime", 0, "==", 1, StatusUnit::number, StatusCode::backend_unavailable);
}
/// The device of a stream, in the name of `op`.
inline Status device_of(const char* op, const DeviceRuntime& device, Stream stream, DeviceState* state) noexcept {
  if (Status s = check_runtime(op, device)) return s;
  Status s = device.state(stream, state);
  if (!s.ok()) s.op = op;
  return s;
}

/// Checks that memory lies on the device of a call's stream; the first that does not is what status() says.
class OnDevice {
 public:
  OnDevice(const char* op, const DeviceRuntime& device, std::int32_t ordinal) noexcept
      : op_(op), device_(device), ordinal_(ordinal) {}

  void check(const char* argument, const void* data, std::int64_t index = -1) noexcept {
    if (!status_.ok() || data == nullptr) return;
    std::int32_t owner = -1;
    status_ = device_.owner(data, &owner);
    if (status_.ok() && owner != ordinal_) {
      status_ = failure({op_, argument, index}, "device (-1: the host)", owner, "==", ordinal_);
    }
    if (!status_.ok()) status_.op = op_;
  }
  template <class T>
  void check(const char* argument, Span<T> array) noexcept {
    if (!array.empty()) check(argument, array.data());
  }
  const Status& status() const noexcept { return status_; }

 private:
  const char* op_;
  const DeviceRuntime& device_;
  std::int32_t ordinal_;
  Status status_;
};

// ---- What of a call must lie on its device: what no view speaks for, and a tensor of each kind

inline void check_memory(const Attend& a, OnDevice* on) noexcept {
  on->check("q", a.q.data);
  for (std::int64_t i = 0; i < a.kv.size(); ++i) on->check("kv.k", a.kv[i].k.data, i);
  on->check("o", a.o.data);
  on->check("lse", a.lse.data);
  on->check("sinks", a.sinks);
  on->check("actual_lengths", a.actual_lengths);
  on->check("workspace", a.workspace.data);
  on->check("device_plan", a.device_plan->data);
}
inline void check_memory(const AttendGrad& a, OnDevice* on) noexcept {
  on->check("q", a.fwd.q.data);
  on->check("o", a.fwd.o.data);
  on->check("sinks", a.fwd.sinks);
  on->check("actual_lengths", a.fwd.actual_lengths);
  on->check("dout", a.dout.data);
  on->check("dq", a.dq.data);
  for (std::int64_t i = 0; i < a.dkv.size(); ++i) on->check("dkv.dk", a.dkv[i].dk.data, i);
  on->check("dsinks", a.dsinks);
  on->check("workspace", a.workspace.data);
  on->check("device_plan", a.fwd.device_plan->data);
}
inline void check_memory(const MergeStates& a, OnDevice* on) noexcept {
  for (std::int64_t i = 0; i < a.parts.size(); ++i) on->check("parts.o", a.parts[i].o.data, i);
  on->check("out.o", a.out.o.data);
}
inline void check_memory(const MergeStatesGrad& a, OnDevice* on) noexcept {
  for (std::int64_t i = 0; i < a.parts.size(); ++i) on->check("parts.o", a.parts[i].o.data, i);
  on->check("dout", a.dout.data);
  for (std::int64_t i = 0; i < a.dparts.size(); ++i) on->check("dparts.o", a.dparts[i].o.data, i);
}
inline void check_memory(const RopeApply& a, OnDevice* on) noexcept {
  on->check("x", a.x.data);
  on->check("out", a.out.data);
  on->check("positions", a.positions);
}
inline void check_memory(const RopeShift& a, OnDevice* on) noexcept {
  on->check("x", a.x.data);
  on->check("out", a.out.data);
  if (a.lists_space == MemorySpace::device) on->check("deltas", a.deltas);
}
inline void check_memory(const RopeRebase& a, OnDevice* on) noexcept {
  for (std::int64_t i = 0; i < a.layers.size(); ++i) on->check("layers.k", a.layers[i].k.data, i);
  on->check("from_pages", a.from_pages);
  on->check("to_pages", a.to_pages);
  on->check("deltas", a.deltas);
}
inline void check_memory(const KvAppend& a, OnDevice* on) noexcept {
  on->check("k", a.k.data);
  on->check("pool.k", a.pool.k.data);
  on->check("slots", a.slots);
  if (a.rope != nullptr) on->check("positions", a.positions);
}
inline void check_memory(const DraftTreeBatch& a, OnDevice* on) noexcept {
  on->check("parents", a.parents);
  on->check("words", a.words);
}

template <class Args>
Stream stream_of(const Args& args) noexcept {
  return args.stream;
}
inline Stream stream_of(const AttendGrad& args) noexcept { return args.fwd.stream; }

/// The plan lies on the stream's device. Operators without a plan have none to lie elsewhere.
template <class Args>
Status check_plan_device(const char*, const Args&, std::int32_t) noexcept {
  return {};
}
inline Status check_plan_device(const char* op, const Attend& args, std::int32_t ordinal) noexcept {
  const std::int32_t uploaded = args.device_plan->ordinal;
  return uploaded == ordinal ? Status{} : failure({op, "device_plan"}, "ordinal", uploaded, "==", ordinal);
}
inline Status check_plan_device(const char* op, const AttendGrad& args, std::int32_t ordinal) noexcept {
  return check_plan_device(op, args.fwd, ordinal);
}

/// A validated call on a device: its memory and its plan are on the device of its stream.
template <class Args>
Status check_device(const char* op, const DeviceRuntime& device, const Args& args) noexcept {
  DeviceState state;
  if (Status s = device_of(op, device, stream_of(args), &state)) return s;
  if (Status s = check_plan_device(op, args, state.ordinal)) return s;
  OnDevice on(op, device, state.ordinal);
  check_memory(args, &on);
  return on.status();
}

// ---- upload

/// Lays out the image of a plan that is for a device.
inline Status layout_image(const char* op, const Plan& plan, cuda::ImageHeader* header) noexcept {
  const PlanHeader& h = plan.header;
  if (h.version != kPlanVersion) {
    return failure({op, "plan"}, "version", h.version, "==", kPlanVersion, StatusUnit::number, StatusCode::stale_plan);
  }
  if (h.space != MemorySpace::device) {
    return failure({op, "plan"}, "space", static_cast<int>(h.space), "==", static_cast<int>(MemorySpace::device),
                   StatusUnit::space);
  }
  const PlanView view = plan.view();
  const cuda::ImageCounts counts = cuda::count_image(view);
  if (const std::int64_t most = cuda::largest_ordinal(view, counts); most > INT32_MAX) {
    return failure({op, "plan"}, "ordinals of its image", most, "<=", INT32_MAX, StatusUnit::number,
                   StatusCode::capacity_exceeded);
  }
  *header = cuda::make_header(view, h.target_parallelism, counts);
  return {};
}

/// A DevicePlan that has room for an image, on the device of the stream.
inline Status check_upload(const char* op, const DeviceRuntime& device, std::int32_t ordinal, std::int64_t image_bytes,
                           const DevicePlan& to) noexcept {
  const Where at{op, "to"};
  if (to.data == nullptr) return failure(at, "data", 0, "!=", 0, StatusUnit::pointer);
  if (to.staging == nullptr) return failure(at, "staging", 0, "!=", 0, StatusUnit::pointer);
  const auto misaligned = [](const void* data, std::int64_t alignment) {
    return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(alignment));
  };
  if (const std::int64_t off = misaligned(to.data, cuda::kImageAlignment); off != 0) {
    return failure(at, "data's alignment", off, "==", 0, StatusUnit::bytes);
  }
  if (const std::int64_t off = misaligned(to.staging, 16); off != 0) {
    return failure(at, "staging's alignment", off, "==", 0, StatusUnit::bytes);
  }
  if (to.bytes < image_bytes) {
    return failure(at, "bytes", to.bytes, ">=", image_bytes, StatusUnit::bytes, StatusCode::capacity_exceeded);
  }
  OnDevice on(op, device, ordinal);
  on.check("to", to.data);
  return on.status();
}

}  // namespace detail

inline Status device_plan_bytes(const Context&, const Plan& plan, std::int64_t* bytes) noexcept {
  constexpr const char* kOp = "device_plan_bytes";
  if (Status s = detail::check_result(kOp, "bytes", bytes)) return s;
  cuda::ImageHeader header;
  if (Status s = detail::layout_image(kOp, plan, &header)) return s;
  *bytes = header.bytes;
  return {};
}

inline Status upload(const Context& context, const Plan& plan, DevicePlan* to, Stream stream) noexcept {
  constexpr const char* kOp = "upload";
  if (Status s = detail::check_result(kOp, "to", to)) return s;
  cuda::ImageHeader header;
  DeviceState state;
  if (Status s = detail::layout_image(kOp, plan, &header)) return s;
  if (Status s = detail::device_of(kOp, context.device, stream, &state)) return s;
  if (Status s = detail::check_upload(kOp, context.device, state.ordinal, header.bytes, *to)) return s;
  to->image_bytes = 0;  // until it is there
  cuda::ImageWriter(plan.view(), header, to->staging).write();
  if (Status s = context.device.copy(to->data, to->staging, header.bytes, stream)) {
    s.op = kOp;
    return s;
  }
  to->plan = plan.header;
  to->image_bytes = header.bytes;
  to->blocks = header.blocks;
  to->deferred_count = header.deferred_count;
  to->ordinal = state.ordinal;
  return {};
}

inline Status device_blocks(const Context& context, std::int32_t* blocks, Stream stream) noexcept {
  constexpr const char* kOp = "device_blocks";
  if (Status s = detail::check_result(kOp, "blocks", blocks)) return s;
  DeviceState state;
  if (Status s = detail::device_of(kOp, context.device, stream, &state)) return s;
  *blocks = state.blocks;
  return {};
}

inline Status init_workspace(const Context& context, const LayerKind& kind, const PlanLimits& limits, void* data,
                             std::int64_t bytes, Workspace* workspace, Stream stream) noexcept {
  constexpr const char* kOp = detail::kInitOp;
  if (limits.space == MemorySpace::host) return init_workspace(kind, limits, data, bytes, workspace);
  if (Status s = detail::check_result(kOp, "workspace", workspace)) return s;
  Workspace made;
  DeviceState state;
  if (Status s = detail::divide_workspace(kind, limits, data, bytes, &made)) return s;
  if (Status s = detail::device_of(kOp, context.device, stream, &state)) return s;
  detail::OnDevice on(kOp, context.device, state.ordinal);
  on.check("data", data);
  if (!on.status().ok()) return on.status();
  if (Status s = context.device.clear(data, made.counter_bytes, stream)) {
    s.op = kOp;
    return s;
  }
  *workspace = made;
  return {};
}

}  // namespace v0_1
}  // namespace prefixshare
