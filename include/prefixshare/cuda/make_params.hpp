// SPDX-License-Identifier: Apache-2.0
// From a validated call on a device to the parameters of its kernels. Refuses what kernels cannot take, by name.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/cuda/attend_params.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr std::int64_t kAnyAlignment = 1;
inline constexpr std::int64_t kCopyAlignment = 16;  // of what kernels read 16 bytes at a time

inline Status unsupported(detail::Where at, const char* field, std::int64_t got, const char* relation,
                          std::int64_t want, StatusUnit unit = StatusUnit::number) noexcept {
  return detail::failure(at, field, got, relation, want, unit, StatusCode::unsupported);
}

/// Whether every row of a tensor begins at a multiple of `alignment` bytes.
template <int Rank>
Status check_alignment(detail::Where at, const TensorView<Rank>& x, std::int64_t alignment) noexcept {
  const std::uintptr_t off = reinterpret_cast<std::uintptr_t>(x.data) % static_cast<std::uintptr_t>(alignment);
  if (off != 0) return unsupported(at, "alignment", static_cast<std::int64_t>(off), "==", 0, StatusUnit::bytes);
  const std::int64_t elements = std::max<std::int64_t>(alignment / size_of(x.dtype), 1);
  for (int d = 0; d + 1 < Rank; ++d) {
    if (x.shape[d] > 1 && x.stride[d] % elements != 0) {
      return unsupported(at, detail::stride_field(d), x.stride[d], "multiple of", elements);
    }
  }
  return {};
}

/// The rotation of a table; nothing rotates without one.
inline Status make_rope(detail::Where at, const RopeTable* table, RopeParams* p) noexcept {
  constexpr double kTurn = 6.283185307179586477;
  *p = {};
  if (table == nullptr) return {};
  if (table->dim / 2 > kMaxRopePairs) return unsupported(at, "dim / 2", table->dim / 2, "<=", kMaxRopePairs);
  p->pairs = table->dim / 2;
  p->offset = table->offset;
  p->interleaved = table->pairing == RopePairing::interleaved;
  p->mscale = static_cast<float>(table->mscale);
  for (std::int32_t i = 0; i < p->pairs; ++i) p->turns[i] = table->inv_freq[i] / kTurn;
  return {};
}

inline ScaleParams scale_params(const KvScale& scale) noexcept {
  return {scale.data, static_cast<std::int32_t>(scale.granularity)};
}
template <int Rank>
void set_strides(const TensorView<Rank>& x, std::int64_t (&stride)[static_cast<std::size_t>(Rank - 1)]) noexcept {
  std::copy_n(x.stride, Rank - 1, stride);
}
inline PoolParams pool_params(const KvPool& pool, std::int32_t page_size) noexcept {
  PoolParams p{};
  p.k = pool.k.data;
  p.v = pool.v.data;
  p.bias = pool.bias.data;
  set_strides(pool.k, p.k_stride);
  set_strides(pool.v, p.v_stride);
  std::copy_n(pool.bias.stride, 3, p.bias_stride);
  p.k_scale = scale_params(pool.k_scale);
  p.v_scale = scale_params(pool.v_scale);
  p.page_size = PageSize(page_size);
  return p;
}

/// Pools of a call: few, with a bias in f32, if any.
inline Status make_pools(const char* op, const PlanView& plan, const Attend& args, std::int64_t alignment,
                         AttendParams* p) noexcept {
  if (args.kv.size() > kMaxPools) return unsupported({op, "kv"}, "size", args.kv.size(), "<=", kMaxPools);
  for (std::int64_t i = 0; i < args.kv.size(); ++i) {
    const KvPool& pool = args.kv[i];
    if (Status s = check_alignment({op, "kv.k", i}, pool.k, alignment)) return s;
    if (Status s = check_alignment({op, "kv.v", i}, pool.v, alignment)) return s;
    if (pool.bias && pool.bias.dtype != DType::f32) {
      return unsupported({op, "kv.bias", i}, "dtype", static_cast<int>(pool.bias.dtype),
                         "==", static_cast<int>(DType::f32), StatusUnit::dtype);
    }
    p->pools[i] = pool_params(pool, plan.pools[i].page_size);
  }
  return {};
}

/// What forward and backward have in common: everything but the workspace.
inline Status make_common(const char* op, const PlanView& plan, const Attend& args, std::int64_t alignment,
                          AttendParams* p) noexcept {
  const LayerKind& kind = plan.header.kind;
  const detail::AttendView view{plan, args};
  *p = {};
  if (Status s = check_alignment({op, "q"}, args.q, alignment)) return s;
  if (Status s = check_alignment({op, "o"}, args.o, alignment)) return s;
  if (Status s = make_pools(op, plan, args, alignment, p)) return s;
  if (Status s = make_rope({op, "rope"}, args.rope, &p->rope)) return s;
  p->plan.data = static_cast<const unsigned char*>(args.device_plan->data);
  p->q = args.q.data;
  p->o = args.o.data;
  p->lse = static_cast<float*>(args.lse.data);
  set_strides(args.q, p->q_stride);
  set_strides(args.o, p->o_stride);
  std::copy_n(args.lse.stride, 2, p->lse_stride);
  p->sinks = args.sinks.empty() ? nullptr : args.sinks.data();
  p->lengths = args.actual_lengths.empty() ? nullptr : args.actual_lengths.data();
  p->scale = static_cast<float>(view.scale());
  p->softcap = static_cast<float>(args.softcap);
  p->Hq = kind.Hq, p->Hkv = kind.Hkv, p->D = kind.D, p->Dv = kind.Dv;
  p->group = kind.group();
  p->invariant = plan.header.mode == Mode::batch_invariant;
  p->window = kind.window;
  p->q_rotated = args.q_rotated;
  p->q_dtype = kind.q_dtype, p->kv_dtype = kind.kv_dtype, p->o_dtype = args.o.dtype;
  return {};
}

/// Rows of partial state that a workspace has room for. What lies behind them is where it is whatever the plan: a graph
/// keeps its parameters while plans change.
inline std::int64_t partial_capacity(const LayerKind& kind, Mode mode, std::int64_t blocks,
                                     const Workspace& ws) noexcept {
  const auto bytes = [&](std::int64_t rows) {
    return detail::bytes_of<detail::DeviceForwardMemory>(kind, mode, blocks, rows);
  };
  const std::int64_t room = ws.bytes - ws.counter_bytes;
  const std::int64_t row = std::int64_t{kind.Hq} * (kind.Dv + 1) * std::int64_t{sizeof(float)};
  std::int64_t rows = (room - bytes(0)) / row + 1;
  while (rows > 0 && bytes(rows) > room) --rows;  // of which alignment may take a few
  return rows;
}

/// Parameters of a validated forward. Rows of q, k, v and o must begin at multiples of `alignment` bytes. Errors:
/// unsupported (alignment, too many pools or rotary pairs, a bias in f64).
inline Status make_params(const AttendCall& call, std::int64_t alignment, AttendParams* p) noexcept {
  const PlanHeader& h = call.plan.header;
  const Workspace& ws = call.args.workspace;
  if (Status s = make_common(detail::kAttendOp, call.plan, call.args, alignment, p)) return s;
  detail::Arena arena(static_cast<char*>(ws.data) + ws.counter_bytes);
  const std::int32_t blocks = call.args.device_plan->blocks;
  const detail::DeviceForwardMemory memory(&arena, h.kind, h.mode, blocks,
                                           partial_capacity(h.kind, h.mode, blocks, ws));
  p->queue = static_cast<std::int32_t*>(ws.data);
  p->group_counters = p->queue + 1;
  p->partial_o = memory.partial_o;
  p->partial_lse = memory.partial_lse;
  p->fold = h.mode == Mode::batch_invariant ? memory.fold : nullptr;
  return {};
}

/// Gradients of the pools.
inline Status make_grads(const AttendGrad& args, std::int64_t alignment, AttendGradParams* p) noexcept {
  constexpr const char* op = detail::kAttendGradOp;
  for (std::int64_t i = 0; i < args.dkv.size(); ++i) {
    const KvGrad& grad = args.dkv[i];
    if (Status s = check_alignment({op, "dkv.dk", i}, grad.dk, alignment)) return s;
    if (Status s = check_alignment({op, "dkv.dv", i}, grad.dv, alignment)) return s;
    PoolGradParams& g = p->grads[i];
    g.dk = grad.dk.data;
    g.dv = grad.dv.data;
    set_strides(grad.dk, g.dk_stride);
    set_strides(grad.dv, g.dv_stride);
    g.dk_dtype = grad.dk.dtype, g.dv_dtype = grad.dv.dtype;
  }
  return {};
}

/// Parameters of a validated backward; dout, dq, dk and dv are held to the alignment too. Errors: as the forward's.
inline Status make_params(const AttendGradCall& call, std::int64_t alignment, AttendGradParams* p) noexcept {
  constexpr const char* op = detail::kAttendGradOp;
  const AttendGrad& args = call.args;
  const PlanHeader& h = call.plan.header;
  *p = {};
  if (Status s = make_common(op, call.plan, args.fwd, alignment, &p->fwd)) return s;
  if (Status s = check_alignment({op, "dout"}, args.dout, alignment)) return s;
  if (Status s = check_alignment({op, "dq"}, args.dq, alignment)) return s;
  if (Status s = make_grads(args, alignment, p)) return s;
  detail::Arena arena(static_cast<char*>(args.workspace.data) + args.workspace.counter_bytes);
  p->row_dot = detail::DeviceBackwardMemory(&arena, h.kind, h.rows).row_dot;
  p->dout = args.dout.data;
  p->dq = args.dq.data;
  p->dlse = static_cast<const float*>(args.dlse.data);
  set_strides(args.dout, p->dout_stride);
  set_strides(args.dq, p->dq_stride);
  std::copy_n(args.dlse.stride, 2, p->dlse_stride);
  p->dout_dtype = args.dout.dtype, p->dq_dtype = args.dq.dtype;
  p->dsinks = args.dsinks.empty() ? nullptr : args.dsinks.data();
  p->accumulate = args.accumulate;
  return {};
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
