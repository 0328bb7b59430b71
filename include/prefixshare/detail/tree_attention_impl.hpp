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
inline Status check_pools(const char* op, const PlanView& plan, const Attend& args, MemorySpace space) noexcept {
  const LayerKind& kind = plan.header.kind;
  if (Status s = check_array({op, "kv"}, args.kv, plan.pools.size())) return s;
  for (std::int64_t i = 0; i < args.kv.size(); ++i) {
    const KvPool& pool = args.kv[i];
    ViewRule rule;
    rule.space = space;
    rule.dtypes = dtype_set(kind.kv_dtype);
    if (Status s = check_pool_view({op, "kv.k", i}, pool.k, plan.pools[i], kind.Hkv, kind.D, rule)) return s;
    if (Status s = check_pool_view({op, "kv.v", i}, pool.v, plan.pools[i], kind.Hkv, kind.Dv, rule)) return s;
    if (Status s = check_scale({op, "kv.k_scale", i}, pool.k_scale, plan.pools[i], kind.Hkv)) return s;
    if (Status s = check_scale({op, "kv.v_scale", i}, pool.v_scale, plan.pools[i], kind.Hkv)) return s;
    rule.required = false;
    rule.unit_inner = false;
    rule.strides = StrideRule::nonnegative;
    rule.dtypes = kLseDType;
    const Where at{op, "kv.bias", i};
    if (Status s = check_view(at, pool.bias, {{-1, plan.pools[i].page_size, kind.Hq}}, rule)) return s;
    if (pool.bias && pool.bias.shape[0] < plan.pools[i].num_pages) {
      return failure(at, "shape[0]", pool.bias.shape[0], ">=", plan.pools[i].num_pages);
    }
  }
  return {};
}

/// Scale, soft cap, sinks, RoPE, lengths.
inline Status check_parameters(const char* op, const PlanView& plan, const Attend& args) noexcept {
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
  if (args.actual_lengths.empty() && plan.slot_capacity.empty()) return {};
  if (Status s = check_array({op, "actual_lengths"}, args.actual_lengths, plan.header.length_slots)) return s;
  for (std::int64_t i = 0; i < args.actual_lengths.size(); ++i) {
    const std::int32_t length = args.actual_lengths[i];
    if (length < 0) return failure({op, "actual_lengths", i}, "", length, ">=", 0);
    if (length > plan.slot_capacity[i]) {
      return failure({op, "actual_lengths", i}, "", length, "<=", plan.slot_capacity[i], StatusUnit::number,
                     StatusCode::capacity_exceeded);
    }
  }
  return {};
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
  if (ws.bytes - ws.counter_bytes < bytes) {
    return failure(at, "bytes", ws.bytes, ">=", ws.counter_bytes + bytes, StatusUnit::bytes,
                   StatusCode::workspace_too_small);
  }
  return {};
}
inline Footprint footprint(const Workspace& ws) noexcept {
  Footprint f;
  if (ws.data == nullptr || ws.bytes <= 0) return f;
  f.begin = reinterpret_cast<std::uintptr_t>(ws.data);
  f.element = ws.bytes;
  return f;
}

/// An output against every input of the forward, and against the workspace.
template <int Rank>
Status check_apart_from_inputs(Where at, const TensorView<Rank>& out, const Attend& args) noexcept {
  if (Status s = check_apart(at, out, args.q)) return s;
  for (const KvPool& pool : args.kv) {
    if (Status s = check_apart(at, out, pool.k)) return s;
    if (Status s = check_apart(at, out, pool.v)) return s;
    if (Status s = check_apart(at, out, pool.bias)) return s;
  }
  return overlap(footprint(out), footprint(args.workspace)) ? failure(at, "overlap", 1, "==", 0) : Status{};
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
  return check_parameters(op, plan, args);
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
  if (Status s = check_apart_from_inputs({kAttendOp, "o"}, args.o, args)) return s;
  if (Status s = check_apart({kAttendOp, "o"}, args.o, args.lse)) return s;
  return check_apart_from_inputs({kAttendOp, "lse"}, args.lse, args);
}

/// The same, and the workspace of a call in `parts` parts.
inline Status validate(const PlanView& plan, const Attend& args, std::int32_t parts,
                       MemorySpace space = MemorySpace::host) noexcept {
  const LayerKind& kind = plan.header.kind;
  if (Status s = validate(plan, args, space)) return s;
  if (parts < 1) return failure({kAttendOp, "parts"}, "", parts, ">=", 1);
  const std::int64_t bytes = parts * scratch_bytes<ForwardMemory>(kind) + partial_bytes(kind, plan.header.partial_rows);
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

/// One gradient output against all inputs and the workspace.
template <int Rank>
Status check_gradient_apart(Where at, const TensorView<Rank>& out, const AttendGrad& args) noexcept {
  if (Status s = check_apart_from_inputs(at, out, args.fwd)) return s;
  if (Status s = check_apart(at, out, args.fwd.o)) return s;
  if (Status s = check_apart(at, out, args.fwd.lse)) return s;
  if (Status s = check_apart(at, out, args.dout)) return s;
  if (Status s = check_apart(at, out, args.dlse)) return s;
  return overlap(footprint(out), footprint(args.workspace)) ? failure(at, "overlap", 1, "==", 0) : Status{};
}
inline Status check_gradients_apart(const AttendGrad& args) noexcept {
  constexpr const char* op = kAttendGradOp;
  if (Status s = check_gradient_apart({op, "dq"}, args.dq, args)) return s;
  for (std::int64_t i = 0; i < args.dkv.size(); ++i) {
    const KvGrad& grad = args.dkv[i];
    if (Status s = check_gradient_apart({op, "dkv.dk", i}, grad.dk, args)) return s;
    if (Status s = check_gradient_apart({op, "dkv.dv", i}, grad.dv, args)) return s;
    if (Status s = check_apart({op, "dkv.dk", i}, grad.dk, args.dq)) return s;
    if (Status s = check_apart({op, "dkv.dv", i}, grad.dv, args.dq)) return s;
    if (Status s = check_apart({op, "dkv.dv", i}, grad.dv, grad.dk)) return s;
    for (std::int64_t j = 0; j < i; ++j) {
      if (Status s = check_apart({op, "dkv.dk", i}, grad.dk, args.dkv[j].dk)) return s;
      if (Status s = check_apart({op, "dkv.dk", i}, grad.dk, args.dkv[j].dv)) return s;
      if (Status s = check_apart({op, "dkv.dv", i}, grad.dv, args.dkv[j].dk)) return s;
      if (Status s = check_apart({op, "dkv.dv", i}, grad.dv, args.dkv[j].dv)) return s;
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
  if (Status s = check_gradients_apart(args)) return s;
  if (!plan.header.backward) {
    return failure({op, "plan"}, "backward", 0, "==", 1, StatusUnit::number, StatusCode::unsupported);
  }
  return {};
}

/// The same, and the workspace of a call in `parts` parts.
inline Status validate(const PlanView& plan, const AttendGrad& args, std::int32_t parts,
                       MemorySpace space = MemorySpace::host) noexcept {
  constexpr const char* op = kAttendGradOp;
  if (Status s = validate(plan, args, space)) return s;
  if (parts < 1) return failure({op, "parts"}, "", parts, ">=", 1);
  return check_workspace(op, args.workspace, 0, parts * scratch_bytes<BackwardMemory>(plan.header.kind));
}

inline Status check_limits(const char* op, const LayerKind& kind, const PlanLimits& limits) noexcept {
  if (Status s = validate(kind, op)) return s;
  if (limits.rows < 0) return failure({op, "limits"}, "rows", limits.rows, ">=", 0);
  if (limits.max_context < 0) return failure({op, "limits"}, "max_context", limits.max_context, ">=", 0);
  if (limits.parts < 1) return failure({op, "limits"}, "parts", limits.parts, ">=", 1);
  constexpr std::int64_t kMost = std::int64_t{1} << 40;  // keeps every product below within int64
  if (limits.rows > INT32_MAX) return failure({op, "limits"}, "rows", limits.rows, "<=", INT32_MAX);
  if (limits.max_context > kMost) return failure({op, "limits"}, "max_context", limits.max_context, "<=", kMost);
  return {};
}

}  // namespace detail

inline Status forward_workspace(const LayerKind& kind, const PlanLimits& limits, std::int64_t* bytes) noexcept {
  if (Status s = detail::check_limits("forward_workspace", kind, limits)) return s;
  const std::int64_t rows = detail::partial_row_bound(limits);
  const std::int64_t row_bytes = std::int64_t{kind.Hq} * (kind.Dv + 1) * 8;
  if (detail::checked_product(rows, row_bytes) < 0) {
    return detail::failure({"forward_workspace", "limits"}, "partial_rows", rows, "<=", INT64_MAX / row_bytes);
  }
  *bytes = detail::counter_bytes(limits.rows) + limits.parts * detail::scratch_bytes<detail::ForwardMemory>(kind) +
           detail::partial_bytes(kind, rows);
  return {};
}

inline Status backward_workspace(const LayerKind& kind, const PlanLimits& limits, std::int64_t* bytes) noexcept {
  if (Status s = detail::check_limits("backward_workspace", kind, limits)) return s;
  *bytes = limits.parts * detail::scratch_bytes<detail::BackwardMemory>(kind);
  return {};
}

inline Status init_workspace(const LayerKind& kind, const PlanLimits& limits, void* data, std::int64_t bytes,
                             Workspace* workspace) noexcept {
  constexpr const char* op = "init_workspace";
  std::int64_t needed = 0;
  if (Status s = forward_workspace(kind, limits, &needed)) return s;
  const Workspace made{data, bytes, detail::counter_bytes(limits.rows)};
  if (workspace == nullptr) return detail::failure({op, "workspace"}, "", 0, "!=", 0, StatusUnit::pointer);
  if (Status s = detail::check_workspace(op, made, 0, needed - made.counter_bytes)) return s;
  std::memset(data, 0, static_cast<std::size_t>(made.counter_bytes));
  *workspace = made;
  return {};
}

}  // namespace v0_1
}  // namespace prefixshare
