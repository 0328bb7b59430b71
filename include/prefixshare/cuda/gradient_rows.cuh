// SPDX-License-Identifier: Apache-2.0
// What the backward of tree_attention computes first: D_i = dO_i . o_i - dlse_i of every row and head, and from these
// the gradients of the sinks. Sums run in a fixed order.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/attend_params.hpp"
#include "prefixshare/cuda/elements.cuh"
#include "prefixshare/cuda/ptx.cuh"
#include "prefixshare/detail/softmax_state.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr float kEmptyRow = prefixshare::detail::LseMerge<float>::kEmpty;  ///< lse of a row that saw nothing

/// The sum over a warp, in every lane.
PREFIXSHARE_DEVICE float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += ptx::shuffle_xor(x, step);
  return x;
}

/// A warp for each (row, query head), in turns.
template <int Threads>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(Threads, 1024 / Threads)
    tree_attention_backward_rows(const PREFIXSHARE_GRID_CONSTANT AttendGradParams p) {
  ptx::launch_dependents();
  ptx::prerequisite_wait();
  constexpr int kWarps = Threads / 32;
  const AttendParams& a = p.fwd;
  const std::int64_t count = std::int64_t{a.plan.header().rows} * a.Hq;
  for (std::int64_t i = std::int64_t{ptx::block()} * kWarps + ptx::warp(); i < count;
       i += std::int64_t{ptx::blocks()} * kWarps) {
    const std::int64_t row = i / a.Hq, head = i % a.Hq;
    const std::int64_t dout = row * p.dout_stride[0] + head * p.dout_stride[1];
    const std::int64_t o = row * a.o_stride[0] + head * a.o_stride[1];
    float sum = 0;
    for (int d = ptx::lane(); d < a.Dv; d += 32) {
      sum = fmaf(load_element(p.dout_dtype, p.dout, dout + d), load_element(a.o_dtype, a.o, o + d), sum);
    }
    sum = warp_sum(sum);
    if (p.dlse != nullptr) sum -= p.dlse[row * p.dlse_stride[0] + head * p.dlse_stride[1]];
    if (ptx::lane() == 0) p.row_dot[i] = sum;
  }
}

/// A block for each query head: dsink = -sum_i exp(sink - lse_i) D_i. A head without a sink has none.
template <int Threads>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(Threads, 1)
    tree_attention_backward_sinks(const PREFIXSHARE_GRID_CONSTANT AttendGradParams p) {
  ptx::launch_dependents();
  ptx::prerequisite_wait();
  const AttendParams& a = p.fwd;
  const int head = ptx::block();
  const float sink = a.sinks[head];
  float sum = 0;
  for (std::int64_t row = ptx::thread(); row < a.plan.header().rows && sink != kEmptyRow; row += Threads) {
    const float lse = a.lse[row * a.lse_stride[0] + head * a.lse_stride[1]];
    if (lse != kEmptyRow) sum -= prefixshare::detail::exp_of(sink - lse) * p.row_dot[row * a.Hq + head];
  }
  float* sums = reinterpret_cast<float*>(ptx::shared_memory());  // of the warps
  sum = warp_sum(sum);
  if (ptx::lane() == 0) sums[ptx::warp()] = sum;
  ptx::sync_block();
  if (ptx::thread() > 0) return;
  for (int warp = 1; warp < Threads / 32; ++warp) sum += sums[warp];
  p.dsinks[head] = p.accumulate != 0 ? p.dsinks[head] + sum : sum;
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
