// SPDX-License-Identifier: Apache-2.0
// tree_attention: attention over any plan, forward and backward. The one attention engine. Contract and argument types;
// the dispatch entries are in context.hpp, the typed ones in portable/ and reference/.
#pragma once

#include <cstdint>

#include "prefixshare/device_plan.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/rope.hpp"
#include "prefixshare/stream.hpp"
#include "prefixshare/tensor.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// What one element of a KV scale array belongs to.
enum class ScaleGranularity : std::uint8_t {
  none,    ///< 1
  tensor,  ///< data[0]
  head,    ///< data[kv_head]
  token,   ///< data[(page * page_size + slot) * Hkv + kv_head]
  page     ///< data[page * Hkv + kv_head]
};

/// Stored key (or value) times scale is the key (or value). f32, in the memory space of the pool; read in the
/// arithmetic type.
struct KvScale {
  const float* data = nullptr;
  ScaleGranularity granularity = ScaleGranularity::none;
};

/// Tokens [0, tokens) of a segment as pack_segment wrote them for this layer and for the plan's implementation.
struct PackedSegment {
  std::int32_t segment = 0;  ///< of the plan
  std::int32_t tokens = 0;
  const void* data = nullptr;
};

/// One pool's K and V of ONE layer: [num_pages, page_size, Hkv, D] and [.., Dv], any strides with the innermost 1.
/// A contiguous cache is one page. V may alias K (latent attention: v is the first Dv of k).
struct KvPool {
  TensorView<4> k;
  TensorView<4> v;
  KvScale k_scale;
  KvScale v_scale;
  TensorView<3> bias;  ///< optional, added to logits: [num_pages, page_size, Hq] f32|f64; strides may be 0
  Span<const PackedSegment>
      packed;  ///< of this pool, host, ascending by segment; empty: none. Only the forward reads it
};

/// Arguments of the forward.
///   s[i,j] = softcap(scale * q_i . k_j) + bias_j, masked;  lse_i = log(sum_j exp(s_ij) + exp(sink_h));
///   o_i = sum_j exp(s_ij - lse_i) v_j
/// with softcap(x) = c * tanh(x / c). Everything here may change from layer to layer under one plan.
///
/// Shapes: rows = plan.header.rows; dtypes, heads and dims as plan.header.kind says. Innermost strides are 1.
/// Precision: arithmetic, partial states and lse in kind.acc_dtype(); one rounding when o is stored.
/// LSE: NATURAL log over SCALED logits, sinks included.
/// Empty: a row without visible keys gives o = 0, lse = -inf (with a sink: o = 0, lse = sink). Rows == 0 is ok.
/// Non-finite: NaN in q poisons that (row, head); NaN in a key or value poisons the rows and heads that see it;
/// invisible keys, page tails and padding are never read into a result. A +inf logit gives NaN. Aliasing: inputs may
/// overlap freely; o and lse overlap nothing (invalid_argument). Determinism: bits are a function of (plan,
/// implementation, inputs), whatever the number of parts or threads. Workspace: forward_workspace; initialised once by
/// init_workspace; one call in flight each. On a device a call is one entry into `stream`: it starts its kernels, waits
/// for nothing, and may be captured into a graph. Errors: invalid_argument, unsupported, backend_unavailable,
/// workspace_too_small, stale_plan, capacity_exceeded. On error nothing is written. Source: Milakov & Gimelshein,
/// "Online normalizer calculation for softmax", 2018, section 3; merge of states: Juravsky et al., "Hydragen", 2024,
/// section 3.1; sink logits: one extra state (o = 0, lse = sink).
struct Attend {
  TensorView<3> q;        ///< [rows, Hq, D]
  Span<const KvPool> kv;  ///< one per forest pool
  TensorView<3> o;        ///< out [rows, Hq, Dv], dtype of q or f32 or the arithmetic type; absent: only lse is wanted
  TensorView<2> lse;      ///< out [rows, Hq] in kind.acc_dtype(); absent: not wanted
  double scale = 0;       ///< softmax scale, finite; 0: 1 / sqrt(D)
  double softcap = 0;     ///< c > 0, or 0 for none
  Span<const float> sinks;          ///< [Hq] sink logits, in the space of q; empty: none. -inf is a head without one
  const RopeTable* rope = nullptr;  ///< needed if the plan has a non-zero delta
  bool q_rotated = true;  ///< false: `rope` turns q to its position (times mscale); true: q comes rotated, and only
                          ///< the delta turns it (in the arithmetic type, before any rounding)
  Span<const std::int32_t> actual_lengths;  ///< [plan.header.length_slots] tokens, each at most its capacity
  /// Where actual_lengths lie: the space of the plan's implementation. On a device they are read when the call runs,
  /// clamped to [0, capacity], and never by the host: an engine may write them in the same stream.
  MemorySpace lengths_space = MemorySpace::host;
  std::uint64_t fingerprint = 0;  ///< of the caller's present forest; 0: not checked; else stale_plan
  Workspace workspace;
  const DevicePlan* device_plan = nullptr;  ///< on a device: where upload put this plan. Host calls ignore it
  Stream stream = {};
};

/// One pool's gradients, shaped like the pool: storage type of the pool, or f32, or the arithmetic type.
struct KvGrad {
  TensorView<4> dk;
  TensorView<4> dv;
};

/// Arguments of the backward. With P = exp(s - lse), D_i = dO_i . o_i - dlse_i (all from the merged o and lse):
///   dV_j = sum_i P_ij dO_i;  ds_ij = P_ij (dO_i . v_j - D_i);  dQ_i = scale sum_j ds_ij k_j;  dK_j = scale sum_i ds_ij
///   q_i
/// (times 1 - tanh^2 under a soft cap), dsink_h = -sum_i exp(sink_h - lse_i) D_i. Shared keys receive the plain sum
/// over all rows that see them; loss weights enter through dout.
///
/// `fwd` names the forward's inputs, its o and lse as inputs here (both needed), and on a device plan and stream. Bias
/// has no gradient. With rotated queries dQ comes in the caller's frame and dK in the segment's. With KV scales the
/// gradients are with respect to the stored values (multiplied by the scale). Written: every row of dq; every token
/// that a node of the forest names, zero where no row sees it; nothing else of the pools. Segments of one plan must not
/// overlap in their pool (checked when the plan is made). accumulate: adds to what the outputs hold, one rounding at
/// the end. Aliasing: outputs overlap neither inputs nor each other, except that dv may be absent or alias nothing but
/// itself. Determinism: no atomics on floats; each dQ row, each (key block, KV head) and each dsink has one owner which
/// sums in plan order. Empty, non-finite, errors, workspace: as the forward, and unsupported if the plan has no
/// backward lists. Source: Dao et al., "FlashAttention-2", 2023, section 2.3.2, with D extended by -dlse.
struct AttendGrad {
  Attend fwd;
  TensorView<3> dout;      ///< [rows, Hq, Dv]
  TensorView<2> dlse;      ///< [rows, Hq] in kind.acc_dtype(); absent: zero
  TensorView<3> dq;        ///< out [rows, Hq, D], dtype of q or f32 or the arithmetic type
  Span<const KvGrad> dkv;  ///< out, one per forest pool
  Span<float> dsinks;      ///< out [Hq] f32, in the space of q; empty: not wanted
  bool accumulate = false;
  Workspace workspace;
};

/// A validated call, as implementations take it.
struct AttendCall {
  PlanView plan;
  Attend args;
};
struct AttendGradCall {
  PlanView plan;
  AttendGrad args;
};

/// Bytes of workspace that serve every plan of `kind` within `limits`, in their space. Monotone in `limits`.
/// Errors: invalid_argument (kind, negative limits).
Status forward_workspace(const LayerKind& kind, const PlanLimits& limits, std::int64_t* bytes) noexcept;
Status backward_workspace(const LayerKind& kind, const PlanLimits& limits, std::int64_t* bytes) noexcept;

/// Divides host memory [data, data + bytes) into a workspace for `limits` and zeroes what must be zero; every completed
/// call leaves it so. `data` is 256-byte aligned. Errors: invalid_argument (null, alignment), workspace_too_small,
/// backend_unavailable (limits of a device, whose memory the overload of context.hpp initialises).
Status init_workspace(const LayerKind& kind, const PlanLimits& limits, void* data, std::int64_t bytes,
                      Workspace* workspace) noexcept;

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/tree_attention_impl.hpp"
