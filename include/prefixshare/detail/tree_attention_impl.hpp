// SPDX-License-Identifier: Apache-2.0
// What tree_attention asks of its arguments before anything is written, and workspace sizes.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>

#include "prefixshare/detail/attend_memory.hpp"
#include "prefixshare/detail/validate.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr const char* kAttendOp = "tree_attention";
inline constexpr const char* kAttendGradOp = "tree_attention_backward";

/// dtype of a storage type, f32, or the arithmetic type: what an output may have.
inline unsigned output_dtypes(DType storage, const LayerKind& kind) noexcept {
  return dtype_set(storage, DType::f32, kind.acc_dtype());
}

/// The plan is one of ours and for the caller's forest.
inline Status check_plan_header(const char* op, const PlanView& plan, const Attend& args) noexcept {
  const Where at{op, "plan"};
  if (plan.header.version != kPlanVersion) {
    return failure(at, "version", plan.header.version, "==", kPlanVersion, StatusUnit::number, StatusCode::stale_plan);
  }
  if (args.fingerprint != 0 && args.fingerprint != plan.header.fingerprint) {
    return failure(at, "fingerprint", static_cast<std::int64_t>(plan.header.fingerprint),
                   "==", static_cast<std::int64_t>(args.fingerprint), StatusUnit::number, StatusCode::stale_plan);
  }
  return {};
}

inline std::int64_t scale_count(const KvScale& s, const PoolShape& pool, std::int64_t heads) noexcept {
  switch (s.granularity) {
    case ScaleGranularity::none: return 0;
    case ScaleGranularity::tensor: return 1;
    case ScaleGranularity::head: return heads;
    case ScaleGranularity::token: return heads * pool.page_size * pool.num_pages;
    case ScaleGranularity::page: return heads * pool.num_pages;
  }
  return -1;
}
inline Status check_scale(Where at, const KvScale& s, const PoolShape& pool, std::int64_t heads) noexcept {
  const std::int64_t count = scale_count(s, pool, heads);
  if (count < 0) return failure(at, "granularity", static_cast<int>(s.granularity), "<=", 4);
  if (count > 0 && s.data == nullptr) return failure(at, "data", 0, "!=", 0, StatusUnit::pointer);
  return {};
}

/// Pages at least as many as the plan may name; the rest as the kind says.
inline Status check_pool_view(Where at, const TensorView<4>& view, const PoolShape& pool, std::int64_t heads,
                              std::int64_t n, ViewRule rule) noexcept {
  if (Status s = check_view(at, view, {{-1, pool.page_size, heads, n}}, rule)) return s;
  if (view && view.shape[0] < pool.num_pages) return failure(at, "shape[0]", view.shape[0], ">=", pool.num_pages);
  return {};
}
/// k, v and their scales.
inline Status check_pool(Where k, Where v, Where k_scale, Where v_scale, const KvPool& pool, const PoolShape& shape,
                         const LayerKind& kind, MemorySpace space) noexcept {
  ViewRule rule;
  rule.space = space;
  rule.dtypes = dtype_set(kind.kv_dtype);
  if (Status s = check_pool_view(k, pool.k, shape, kind.Hkv, kind.D, rule)) return s;
  if (Status s = check_pool_view(v, pool.v, shape, kind.Hkv, kind.Dv, rule)) return s;
  if (Status s = check_scale(k_scale, pool.k_scale, shape, kind.Hkv)) return s;
  return check_scale(v_scale, pool.v_scale, shape, kind.Hkv);
}
inline Status check_bias(Where at, const TensorView<3>& bias, const PoolShape& shape, const LayerKind& kind,
                         MemorySpace space) noexcept {
  ViewRule rule;
  rule.space = space;
  rule.required = false;
  rule.unit_inner = false;
  rule.strides = StrideRule::nonnegative;
  rule.dtypes = kLseDType;
  if (Status s = check_view(at, bias, {{-1, shape.page_size, kind.Hq}}, rule)) return s;
  if (bias && bias.shape[0] < shape.num_pages) return failure(at, "shape[0]", bias.shape[0], ">=", shape.num_pages);
  return {};
}
/// A packed segment is one of this pool, and what the plan's implementation wrote for such a layer.
inline Status check_packed(Where at, const PackedSegment& packed, std::int32_t pool, const PlanView& plan) noexcept {
  const LayerKind& kind = plan.header.kind;
  if (packed.segment < 0) return failure(at, "segment", packed.segment, ">=", 0);
  if (packed.segment >= plan.segments.size()) return failure(at, "segment", packed.segment, "<", plan.segments.size());
  const Segment& segment = plan.segments[packed.segment];
  if (segment.pool != pool) return failure(at, "segment's pool", segment.pool, "==", pool);
  if (packed.data == nullptr) return failure(at, "data", 0, "!=", 0, StatusUnit::pointer);
  PackedHeader h;
  std::memcpy(&h, packed.data, sizeof h);
  if (std::memcmp(h.implementation, plan.header.implementation, sizeof h.implementation) != 0) {
    return failure(at, "data's format is the plan's implementation's", 0, "==", 1);
  }
  if (h.Hkv != kind.Hkv) return failure(at, "data's Hkv", h.Hkv, "==", kind.Hkv);
  if (h.D != kind.D) return failure(at, "data's D", h.D, "==", kind.D);
  if (h.Dv != kind.Dv) return failure(at, "data's Dv", h.Dv, "==", kind.Dv);
  const std::int32_t dtype = static_cast<std::int32_t>(kind.kv_dtype);
  if (h.kv_dtype != dtype) return failure(at, "data's dtype", h.kv_dtype, "==", dtype, StatusUnit::dtype);
  if (packed.tokens < 0) return failure(at, "tokens", packed.tokens, ">=", 0);
  const std::int32_t most = std::min(h.tokens, segment.length);
  return packed.tokens > most ? failure(at, "tokens", packed.tokens, "<=", most) : Status{};
}
inline Status check_packed(const char* op, const PlanView& plan, const Attend& args, std::int32_t pool,
                           MemorySpace space) noexcept {
  const Span<const PackedSegment> list = args.kv[pool].packed;
  if (list.empty()) return {};
  if (space != MemorySpace::host) {
    return failure({op, "kv.packed", pool}, "size", list.size(), "==", 0, StatusUnit::number, StatusCode::unsupported);
  }
  if (Status s = check_array({op, "kv.packed", pool}, list, list.size())) return s;
  for (std::int64_t i = 0; i < list.size(); ++i) {
    const Where at{op, "kv.packed", i};
    if (Status s = check_packed(at, list[i], pool, plan)) return s;
    if (i > 0 && list[i].segment <= list[i - 1].segment) {
      return failure(at, "segment", list[i].segment, ">", list[i - 1].segment);
    }
  }
  return {};
}
inline Status check_pools(const char* op, const PlanView& plan, const Attend& args, MemorySpace space) noexcept {
  const LayerKind& kind = plan.header.kind;
  if (Status s = check_array({op, "kv"}, args.kv, plan.pools.size())) return s;
  for (std::int64_t i = 0; i < args.kv.size(); ++i) {
    if (Status s = check_pool({op, "kv.k", i}, {op, "kv.v", i}, {op, "kv.k_scale", i}, {op, "kv.v_scale", i},
                              args.kv[i], plan.pools[i], kind, space)) {
      return s;
    }
    if (Status s = check_bias({op, "kv.bias", i}, args.kv[i].bias, plan.pools[i], kind, space)) return s;
    if (Status s = check_packed(op, plan, args, static_cast<std::int32_t>(i), space)) return s;
  }
  return {};
}

/// One length per slot, within its capacity as far as the host can see.
inline Status check_lengths(const char* op, const PlanView& plan, const Attend& args, MemorySpace space) noexcept {
  if (args.actual_lengths.empty() && plan.slot_capacity.empty()) return {};
  if (Status s = check_array({op, "actual_lengths"}, args.actual_lengths, plan.header.length_slots)) return s;
  if (Status s = check_space({op, "actual_lengths"}, "space", args.lengths_space, space)) return s;
  for (std::int64_t i = 0; i < args.actual_lengths.size() && space == MemorySpace::host; ++i) {
    const std::int32_t length = args.actual_lengths[i];
    if (length < 0) return failure({op, "actual_lengths", i}, "", length, ">=", 0);
    if (length > plan.slot_capacity[i]) {
      return failure({op, "actual_lengths", i}, "", length, "<=", plan.slot_capacity[i], StatusUnit::number,
                     StatusCode::capacity_exceeded);
    }
  }
  return {};
}

/// Scale, soft cap, sinks, RoPE, lengths.
inline Status check_parameters(const char* op, const PlanView& plan, const Attend& args, MemorySpace space) noexcept {
  const LayerKind& kind = plan.header.kind;
  if (!std::isfinite(args.scale)) return failure({op, "scale"}, "isfinite", 0, "==", 1);
  if (!std::isfinite(args.softcap)) return failure({op, "softcap"}, "isfinite", 0, "==", 1);
  if (args.softcap < 0) return failure({op, "softcap"}, "sign", -1, ">=", 0);
  if (!args.sinks.empty()) {
    if (Status s = check_array({op, "sinks"}, args.sinks, kind.Hq)) return s;
  }
  const bool needs_rope = plan.deltas.size() > 1 || !args.q_rotated;
  if (args.rope == nullptr && needs_rope) return failure({op, "rope"}, "", 0, "!=", 0, StatusUnit::pointer);
  if (args.rope != nullptr) {
    if (Status s = check_rope({op, "rope"}, *args.rope, kind.D)) return s;
  }
  return check_lengths(op, plan, args, space);
}

inline Status check_workspace(const char* op, const Workspace& ws, std::int64_t counters, std::int64_t bytes) noexcept {
  const Where at{op, "workspace"};
  if (ws.data == nullptr) {
    return failure(at, "data", 0, "!=", 0, StatusUnit::pointer, StatusCode::workspace_too_small);
  }
  const std::int64_t off =
      static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(ws.data) % std::uintptr_t{kWorkspaceAlignment});
  if (off != 0) return failure(at, "alignment", off, "==", 0, StatusUnit::bytes);
  if (ws.counter_bytes < counters) {
    return failure(at, "counter_bytes", ws.counter_bytes, ">=", counters, StatusUnit::bytes,
                   StatusCode::workspace_too_small);
  }
  if (ws.counter_bytes % kWorkspaceAlignment != 0) {
    return failure(at, "counter_bytes", ws.counter_bytes, "multiple of", kWorkspaceAlignment, StatusUnit::bytes);
  }
  const std::int64_t needed = checked_sum(ws.counter_bytes, bytes);
  if (needed < 0) return failure(at, "counter_bytes", ws.counter_bytes, "<=", INT64_MAX - bytes, StatusUnit::bytes);
  if (ws.bytes < needed) {
    return failure(at, "bytes", ws.bytes, ">=", needed, StatusUnit::bytes, StatusCode::workspace_too_small);
  }
  return {};
}
inline Footprint footprint(const Workspace& ws) noexcept { return footprint(ws.data, ws.bytes); }

/// The plan of a device call lies on the device, as upload left it there.
inline Status check_device_plan(const char* op, const PlanView& plan, const DevicePlan* on_device) noexcept {
  const Where at{op, "device_plan"};
  constexpr StatusCode kStale = StatusCode::stale_plan;
  if (on_device == nullptr) return failure(at, "", 0, "!=", 0, StatusUnit::pointer);
  if (on_device->data == nullptr) return failure(at, "data", 0, "!=", 0, StatusUnit::pointer);
  if (on_device->image_bytes == 0) return failure(at, "image_bytes", 0, ">", 0, StatusUnit::bytes, kStale);
  const PlanHeader& uploaded = on_device->plan;
  if (uploaded.fingerprint != plan.header.fingerprint) {
    return failure(at, "fingerprint", static_cast<std::int64_t>(uploaded.fingerprint),
                   "==", static_cast<std::int64_t>(plan.header.fingerprint), StatusUnit::number, kStale);
  }
  if (equal_headers(uploaded, plan.header)) return {};
  return failure(at, "plan (is the one that was uploaded)", 0, "==", 1, StatusUnit::number, kStale);
}

/// Memory that a call writes, under the argument's name.
struct Written {
  Where at;
  Footprint memory;
};
inline Status check_apart(const Written& out, const Footprint& other) noexcept {
  return overlap(out.memory, other) ? failure(out.at, "overlap", 1, "==", 0) : Status{};
}

/// Something written against every input of the forward.
inline Status check_apart_from_inputs(const Written& out, const PlanView& plan, const Attend& args) noexcept {
  const std::int64_t heads = plan.header.kind.Hkv;
  if (Status s = check_apart(out, footprint(args.q))) return s;
  if (Status s = check_apart(out, footprint(args.sinks))) return s;
  if (Status s = check_apart(out, footprint(args.actual_lengths))) return s;
  if (Status s = check_apart(out, args.rope ? footprint(args.rope->inv_freq) : Footprint{})) return s;
  for (std::int64_t i = 0; i < args.kv.size(); ++i) {
    const KvPool& pool = args.kv[i];
    if (Status s = check_apart(out, footprint(pool.k))) return s;
    if (Status s = check_apart(out, footprint(pool.v))) return s;
    if (Status s = check_apart(out, footprint(pool.bias))) return s;
    for (const KvScale& scale : {pool.k_scale, pool.v_scale}) {
      const std::int64_t bytes = scale_count(scale, plan.pools[i], heads) * std::int64_t{sizeof(float)};
      if (Status s = check_apart(out, footprint(scale.data, bytes))) return s;
    }
  }
  return {};
}

/// What a forward writes: workspace, o, lse.
inline std::int64_t written_count(const Attend&) noexcept { return 3; }
inline Written written(const Attend& args, std::int64_t i) noexcept {
  if (i == 0) return {{kAttendOp, "workspace"}, footprint(args.workspace)};
  return i == 1 ? Written{{kAttendOp, "o"}, footprint(args.o)} : Written{{kAttendOp, "lse"}, footprint(args.lse)};
}
/// Against its inputs and against each other.
inline Status check_apart(const PlanView& plan, const Attend& args) noexcept {
  for (std::int64_t i = 0; i < written_count(args); ++i) {
    const Written out = written(args, i);
    if (Status s = check_apart_from_inputs(out, plan, args)) return s;
    for (std::int64_t other = 0; other < i; ++other) {
      if (Status s = check_apart(out, written(args, other).memory)) return s;
    }
  }
  return {};
}
/// What a backward writes: workspace, dq, dsinks, then dk and dv of each pool.
inline std::int64_t written_count(const AttendGrad& args) noexcept { return 3 + 2 * args.dkv.size(); }
inline Written written(const AttendGrad& args, std::int64_t i) noexcept {
  constexpr const char* op = kAttendGradOp;
  if (i == 0) return {{op, "workspace"}, footprint(args.workspace)};
  if (i == 1) return {{op, "dq"}, footprint(args.dq)};
  if (i == 2) return {{op, "dsinks"}, footprint(args.dsinks)};
  const std::int64_t pool = (i - 3) / 2;
  if (i % 2 == 1) return {{op, "dkv.dk", pool}, footprint(args.dkv[pool].dk)};
  return {{op, "dkv.dv", pool}, footprint(args.dkv[pool].dv)};
}
/// What a device call writes, of either direction, against the plan that it reads.
template <class Args>
Status check_apart_from_plan(const Args& args, const DevicePlan& plan) noexcept {
  for (std::int64_t i = 0; i < written_count(args); ++i) {
    if (Status s = check_apart(written(args, i), footprint(plan.data, plan.image_bytes))) return s;
  }
  return {};
}

inline ViewRule output_rule(unsigned dtypes, MemorySpace space, bool required) noexcept {
  ViewRule rule;
  rule.required = required;
  rule.output = true;
  rule.dtypes = dtypes;
  rule.space = space;
  return rule;
}

/// q, the caches and the parameters: what forward and backward have in common.
inline Status check_inputs(const char* op, const PlanView& plan, const Attend& args, MemorySpace space) noexcept {
  const LayerKind& kind = plan.header.kind;
  ViewRule rule;
  rule.space = space;
  rule.dtypes = dtype_set(kind.q_dtype);
  if (Status s = check_view({op, "q"}, args.q, {{plan.header.rows, kind.Hq, kind.D}}, rule)) return s;
  if (Status s = check_pools(op, plan, args, space)) return s;
  return check_parameters(op, plan, args, space);
}

/// lse-like: any strides >= 0, the arithmetic type.
inline Status check_lse(Where at, const TensorView<2>& lse, const PlanView& plan, bool output, bool required,
                        MemorySpace space) noexcept {
  ViewRule rule = output_rule(dtype_set(plan.header.kind.acc_dtype()), space, required);
  rule.output = output;
  rule.unit_inner = false;
  rule.strides = StrideRule::nonnegative;
  return check_view(at, lse, {{plan.header.rows, plan.header.kind.Hq}}, rule);
}

/// The forward's arguments, all but the workspace.
inline Status validate(const PlanView& plan, const Attend& args, MemorySpace space = MemorySpace::host) noexcept {
  const LayerKind& kind = plan.header.kind;
  if (Status s = check_plan_header(kAttendOp, plan, args)) return s;
  if (Status s = check_inputs(kAttendOp, plan, args, space)) return s;
  const ViewRule rule = output_rule(output_dtypes(kind.q_dtype, kind), space, false);
  if (Status s = check_view({kAttendOp, "o"}, args.o, {{plan.header.rows, kind.Hq, kind.Dv}}, rule)) return s;
  if (Status s = check_lse({kAttendOp, "lse"}, args.lse, plan, true, false, space)) return s;
  return check_apart(plan, args);
}

/// Bytes of scratch and partial states of a forward; -1 if they pass int64.
inline std::int64_t forward_bytes(const LayerKind& kind, std::int64_t parts, std::int64_t partial_rows) noexcept {
  const std::int64_t row = std::int64_t{kind.Hq} * (kind.Dv + 1) * 16;  // twice an f64 row: room for the rounding up
  if (checked_product(partial_rows, row) < 0) return -1;
  return checked_sum(checked_product(parts, forward_scratch_bytes(kind)), partial_bytes(kind, partial_rows));
}

/// The same of a forward on a device.
inline std::int64_t device_forward_bytes(const LayerKind& kind, Mode mode, std::int64_t blocks,
                                         std::int64_t partial_rows) noexcept {
  const std::int64_t row = std::int64_t{kind.Hq} * (kind.Dv + 1) * 16;
  if (checked_product(partial_rows, row) < 0) return -1;
  return bytes_of<DeviceForwardMemory>(kind, mode, blocks, partial_rows);
}

/// Parts of a call: at least one, and their scratch (`bytes` in all, -1 if too much) fits int64.
inline Status check_parts(const char* op, std::int32_t parts, std::int64_t bytes) noexcept {
  if (parts < 1) return failure({op, "parts"}, "", parts, ">=", 1);
  return bytes < 0 ? failure({op, "parts"}, "bytes", INT64_MAX, "<", INT64_MAX, StatusUnit::bytes) : Status{};
}

/// A call on a device is whole: its kernels share the work out themselves.
inline Status check_device_parts(const char* op, std::int32_t parts) noexcept {
  if (parts == 1) return {};
  return failure({op, "parts"}, "", parts, "==", 1, StatusUnit::number, StatusCode::unsupported);
}

/// The plan and the workspace of a forward on a device.
inline Status check_device_call(const PlanView& plan, const Attend& args, std::int32_t parts) noexcept {
  const LayerKind& kind = plan.header.kind;
  if (Status s = check_device_parts(kAttendOp, parts)) return s;
  if (Status s = check_device_plan(kAttendOp, plan, args.device_plan)) return s;
  if (Status s = check_apart_from_plan(args, *args.device_plan)) return s;
  const std::int64_t bytes =
      device_forward_bytes(kind, plan.header.mode, args.device_plan->blocks, plan.header.partial_rows);
  if (Status s = check_parts(kAttendOp, 1, bytes)) return s;
  return check_workspace(kAttendOp, args.workspace, device_counter_bytes(kind, plan.groups.size()), bytes);
}

/// The same, and the workspace of a call in `parts` parts.
inline Status validate(const PlanView& plan, const Attend& args, std::int32_t parts,
                       MemorySpace space = MemorySpace::host) noexcept {
  const LayerKind& kind = plan.header.kind;
  if (Status s = validate(plan, args, space)) return s;
  if (space == MemorySpace::device) return check_device_call(plan, args, parts);
  const std::int64_t bytes = forward_bytes(kind, parts, plan.header.partial_rows);
  if (Status s = check_parts(kAttendOp, parts, bytes)) return s;
  return check_workspace(kAttendOp, args.workspace, counter_bytes(plan.groups.size()), bytes);
}

inline Status check_gradients(const PlanView& plan, const AttendGrad& args, MemorySpace space) noexcept {
  const LayerKind& kind = plan.header.kind;
  constexpr const char* op = kAttendGradOp;
  const std::int64_t rows = plan.header.rows;
  if (Status s = check_view({op, "dq"}, args.dq, {{rows, kind.Hq, kind.D}},
                            output_rule(output_dtypes(kind.q_dtype, kind), space, false))) {
    return s;
  }
  if (Status s = check_array({op, "dkv"}, args.dkv, plan.pools.size())) return s;
  const ViewRule rule = output_rule(output_dtypes(kind.kv_dtype, kind), space, false);
  for (std::int64_t i = 0; i < args.dkv.size(); ++i) {
    if (Status s = check_pool_view({op, "dkv.dk", i}, args.dkv[i].dk, plan.pools[i], kind.Hkv, kind.D, rule)) return s;
    if (Status s = check_pool_view({op, "dkv.dv", i}, args.dkv[i].dv, plan.pools[i], kind.Hkv, kind.Dv, rule)) return s;
  }
  if (args.dsinks.empty()) return {};
  if (Status s = check_array({op, "dsinks"}, args.dsinks, kind.Hq)) return s;
  return args.fwd.sinks.empty() ? failure({op, "sinks"}, "size", 0, "==", kind.Hq) : Status{};
}

/// What a backward writes against all inputs and against each other.
inline Status check_apart(const PlanView& plan, const AttendGrad& args) noexcept {
  for (std::int64_t i = 0; i < written_count(args); ++i) {
    const Written out = written(args, i);
    if (Status s = check_apart_from_inputs(out, plan, args.fwd)) return s;
    if (Status s = check_apart(out, footprint(args.fwd.o))) return s;
    if (Status s = check_apart(out, footprint(args.fwd.lse))) return s;
    if (Status s = check_apart(out, footprint(args.dout))) return s;
    if (Status s = check_apart(out, footprint(args.dlse))) return s;
    for (std::int64_t other = 0; other < i; ++other) {
      if (Status s = check_apart(out, written(args, other).memory)) return s;
    }
  }
  return {};
}

/// The backward's arguments, all but the workspace.
inline Status validate(const PlanView& plan, const AttendGrad& args, MemorySpace space = MemorySpace::host) noexcept {
  const LayerKind& kind = plan.header.kind;
  constexpr const char* op = kAttendGradOp;
  if (Status s = check_plan_header(op, plan, args.fwd)) return s;
  if (Status s = check_inputs(op, plan, args.fwd, space)) return s;
  ViewRule rule;
  rule.space = space;
  rule.dtypes = output_dtypes(kind.q_dtype, kind);
  const Shape rows{{plan.header.rows, kind.Hq, kind.Dv}};
  if (Status s = check_view({op, "o"}, args.fwd.o, rows, rule)) return s;
  if (Status s = check_lse({op, "lse"}, args.fwd.lse, plan, false, true, space)) return s;
  if (Status s = check_view({op, "dout"}, args.dout, rows, rule)) return s;
  if (Status s = check_lse({op, "dlse"}, args.dlse, plan, false, false, space)) return s;
  if (Status s = check_gradients(plan, args, space)) return s;
  if (Status s = check_apart(plan, args)) return s;
  if (!plan.header.backward) {
    return failure({op, "plan"}, "backward", 0, "==", 1, StatusUnit::number, StatusCode::unsupported);
  }
  return {};
}

/// The plan and the workspace of a backward on a device.
inline Status check_device_call(const PlanView& plan, const AttendGrad& args, std::int32_t parts) noexcept {
  constexpr const char* op = kAttendGradOp;
  if (Status s = check_device_parts(op, parts)) return s;
  if (Status s = check_device_plan(op, plan, args.fwd.device_plan)) return s;
  if (Status s = check_apart_from_plan(args, *args.fwd.device_plan)) return s;
  return check_workspace(op, args.workspace, 0, bytes_of<DeviceBackwardMemory>(plan.header.kind, plan.header.rows));
}

/// The same, and the workspace of a call in `parts` parts.
inline Status validate(const PlanView& plan, const AttendGrad& args, std::int32_t parts,
                       MemorySpace space = MemorySpace::host) noexcept {
  constexpr const char* op = kAttendGradOp;
  if (Status s = validate(plan, args, space)) return s;
  if (space == MemorySpace::device) return check_device_call(plan, args, parts);
  const std::int64_t bytes = checked_product(parts, backward_scratch_bytes(plan.header.kind));
  if (Status s = check_parts(op, parts, bytes)) return s;
  return check_workspace(op, args.workspace, 0, bytes);
}

inline Status check_limits(const char* op, const LayerKind& kind, const PlanLimits& limits) noexcept {
  if (Status s = validate(kind, op)) return s;
  if (limits.rows < 0) return failure({op, "limits"}, "rows", limits.rows, ">=", 0);
  if (limits.max_context < 0) return failure({op, "limits"}, "max_context", limits.max_context, ">=", 0);
  if (limits.parts < 1) return failure({op, "limits"}, "parts", limits.parts, ">=", 1);
  constexpr std::int64_t kMost = std::int64_t{1} << 40;  // keeps every product below within int64
  if (limits.rows > INT32_MAX) return failure({op, "limits"}, "rows", limits.rows, "<=", INT32_MAX);
  if (limits.max_context > kMost) return failure({op, "limits"}, "max_context", limits.max_context, "<=", kMost);
  if (limits.mode > Mode::batch_invariant) {
    return failure({op, "limits"}, "mode", static_cast<int>(limits.mode),
                   "<=", static_cast<int>(Mode::batch_invariant));
  }
  if (limits.partial_rows < -1) return failure({op, "limits"}, "partial_rows", limits.partial_rows, ">=", -1);
  if (limits.space > MemorySpace::device) {
    return failure({op, "limits"}, "space", static_cast<int>(limits.space), "<=", static_cast<int>(MemorySpace::device),
                   StatusUnit::space);
  }
  return {};
}

inline Status check_result(const char* op, const char* argument, const void* result) noexcept {
  return result == nullptr ? failure({op, argument}, "", 0, "!=", 0, StatusUnit::pointer) : Status{};
}

/// Bytes of what is counted in: reduce groups, on a device those of each KV head.
inline std::int64_t counter_bytes(const LayerKind& kind, const PlanLimits& limits) noexcept {
  return limits.space == MemorySpace::host ? counter_bytes(limits.rows) : device_counter_bytes(kind, limits.rows);
}

/// forward_workspace in the name of `op`.
inline Status forward_workspace_bytes(const char* op, const LayerKind& kind, const PlanLimits& limits,
                                      std::int64_t* bytes) noexcept {
  if (Status s = check_limits(op, kind, limits)) return s;
  const std::int64_t rows = partial_row_bound(limits);
  const bool host = limits.space == MemorySpace::host;
  const std::int64_t sum =
      checked_sum(counter_bytes(kind, limits), host ? forward_bytes(kind, limits.parts, rows)
                                                    : device_forward_bytes(kind, limits.mode, limits.parts, rows));
  if (sum < 0) {
    if (host && forward_bytes(kind, 0, rows) >= 0) {
      return failure({op, "limits"}, "parts", limits.parts, "<=", INT64_MAX / forward_scratch_bytes(kind));
    }
    const std::int64_t row = std::int64_t{kind.Hq} * (kind.Dv + 1) * 16;
    return failure({op, "limits"}, "partial_rows", rows, "<=", INT64_MAX / row);
  }
  *bytes = sum;
  return {};
}

inline constexpr const char* kInitOp = "init_workspace";

/// A workspace of memory in the space of the limits, whose counters are not zeroed yet.
inline Status divide_workspace(const LayerKind& kind, const PlanLimits& limits, void* data, std::int64_t bytes,
                               Workspace* workspace) noexcept {
  if (Status s = check_result(kInitOp, "data", data)) return s;
  std::int64_t needed = 0;
  if (Status s = forward_workspace_bytes(kInitOp, kind, limits, &needed)) return s;
  *workspace = {data, bytes, counter_bytes(kind, limits)};
  return check_workspace(kInitOp, *workspace, 0, needed - workspace->counter_bytes);
}

}  // namespace detail

inline Status forward_workspace(const LayerKind& kind, const PlanLimits& limits, std::int64_t* bytes) noexcept {
  constexpr const char* op = "forward_workspace";
  if (Status s = detail::check_result(op, "bytes", bytes)) return s;
  return detail::forward_workspace_bytes(op, kind, limits, bytes);
}

inline Status backward_workspace(const LayerKind& kind, const PlanLimits& limits, std::int64_t* bytes) noexcept {
  constexpr const char* op = "backward_workspace";
  if (Status s = detail::check_result(op, "bytes", bytes)) return s;
  if (Status s = detail::check_limits(op, kind, limits)) return s;
  const std::int64_t counters = detail::counter_bytes(kind, limits);  // they come first in every workspace
  if (limits.space == MemorySpace::device) {
    *bytes = counters + detail::bytes_of<detail::DeviceBackwardMemory>(kind, limits.rows);
    return {};
  }
  const std::int64_t each = detail::backward_scratch_bytes(kind);
  const std::int64_t sum = detail::checked_sum(counters, detail::checked_product(limits.parts, each));
  if (sum < 0) return detail::failure({op, "limits"}, "parts", limits.parts, "<=", INT64_MAX / each);
  *bytes = sum;
  return {};
}

inline Status init_workspace(const LayerKind& kind, const PlanLimits& limits, void* data, std::int64_t bytes,
                             Workspace* workspace) noexcept {
  constexpr const char* op = detail::kInitOp;
  if (Status s = detail::check_result(op, "workspace", workspace)) return s;
  Workspace made;
  if (Status s = detail::divide_workspace(kind, limits, data, bytes, &made)) return s;
  if (Status s = detail::check_space({op, "limits"}, "space", limits.space, MemorySpace::host)) return s;
  std::memset(data, 0, static_cast<std::size_t>(made.counter_bytes));
  *workspace = made;
  return {};
}

}  // namespace v0_1
}  // namespace prefixshare
