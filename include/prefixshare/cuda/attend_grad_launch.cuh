// SPDX-License-Identifier: Apache-2.0
// How a backward of tree_attention starts: which kernels, how large. The same for a device and for the tests' emulator.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/gradient_rows.cuh"
#include "prefixshare/cuda/make_params.hpp"
#include "prefixshare/cuda/tree_attention_backward.cuh"
#include "prefixshare/cuda/tree_attention_backward_simt.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr int kGradientRowsThreads = 128;
inline constexpr int kGradientSinksThreads = 256;

/// D_i of every row and head, and from these dsinks.
template <class Launch>
Status launch_gradient_rows(const AttendGradParams& p, std::int32_t blocks, Launch&& launch) {
  if (Status s =
          launch(tree_attention_backward_rows<kGradientRowsThreads>, blocks, kGradientRowsThreads, 0, false, p)) {
    return s;
  }
  if (p.dsinks == nullptr) return {};
  return launch(tree_attention_backward_sinks<kGradientSinksThreads>, p.fwd.Hq, kGradientSinksThreads,
                kGradientSinksThreads / 32 * 4, true, p);
}
/// Whether any pool has a gradient that is wanted.
inline bool wants_keys(const AttendGradParams& p) noexcept {
  return std::any_of(p.grads, p.grads + kMaxPools,
                     [](const PoolGradParams& g) { return g.dk != nullptr || g.dv != nullptr; });
}

template <class T, int D, int Dv, class Launch>
Status launch_gradients(const AttendGradParams& p, std::int32_t blocks, Launch&& launch) {
  if (wants_keys(p)) {
    if (Status s = launch(tree_attention_backward_keys<T, D, Dv>, blocks, kKeyGradientThreads,
                          KeyGradientMemory<D, Dv>::kBytes, true, p)) {
      return s;
    }
  }
  if (p.dq == nullptr) return {};
  return launch(tree_attention_backward_queries<T, D, Dv>, blocks, kAttendThreads, QueryGradientMemory<D, Dv>::kBytes,
                true, p);
}
template <class T, class Launch>
Status launch_gradient_dims(const AttendGradParams& p, std::int32_t blocks, Launch&& launch) {
  switch (p.fwd.D) {
    case 64: return launch_gradients<T, 64, 64>(p, blocks, launch);
    case 96: return launch_gradients<T, 96, 96>(p, blocks, launch);
    case 128: return launch_gradients<T, 128, 128>(p, blocks, launch);
    default: return launch_gradients<T, 192, 128>(p, blocks, launch);
  }
}

/// dO is of the type of q: other output types are not what the matrix units multiply.
inline Status check_dout(const AttendGradParams& p) noexcept {
  if (p.dout_dtype == p.fwd.q_dtype) return {};
  return unsupported({detail::kAttendGradOp, "dout"}, "dtype", static_cast<int>(p.dout_dtype),
                     "==", static_cast<int>(p.fwd.q_dtype), StatusUnit::dtype);
}

/// Run a validated call of a kind that the implementation accepts. `launch` as launch_tree_attention_mma says; every
/// kernel but the first waits for the one before it.
template <class Launch>
Status launch_tree_attention_backward_mma(const AttendGradCall& call, Launch&& launch) {
  AttendGradParams p;
  if (Status s = make_params(call, kCopyAlignment, &p)) return s;
  if (Status s = check_dout(p)) return s;
  const std::int32_t blocks = call.args.fwd.device_plan->blocks;
  if (Status s = launch_gradient_rows(p, blocks, launch)) return s;
  return p.fwd.kv_dtype == DType::bf16 ? launch_gradient_dims<BFloat16>(p, blocks, launch)
                                       : launch_gradient_dims<Float16>(p, blocks, launch);
}
template <class Launch>
Status launch_tree_attention_backward_simt(const AttendGradCall& call, Launch&& launch) {
  AttendGradParams p;
  if (Status s = make_params(call, kAnyAlignment, &p)) return s;
  const std::int32_t blocks = call.args.fwd.device_plan->blocks;
  const int bytes = PlainTile<kAttendThreads>::bytes(p.fwd.D, p.fwd.Dv);
  if (Status s = launch_gradient_rows(p, blocks, launch)) return s;
  if (wants_keys(p)) {
    const auto kernel = tree_attention_backward_keys_simt<kAttendThreads>;
    if (Status s = launch(kernel, blocks, kAttendThreads, bytes, true, p)) return s;
  }
  if (p.dq == nullptr) return {};
  return launch(tree_attention_backward_queries_simt<kAttendThreads>, blocks, kAttendThreads, bytes, true, p);
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
