// SPDX-License-Identifier: Apache-2.0
// How a forward of tree_attention starts: which kernels, how large. The same for a device and for the tests' emulator.
#pragma once

#include <cstdint>
#include <type_traits>

#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/make_params.hpp"
#include "prefixshare/cuda/merge_rows.cuh"
#include "prefixshare/cuda/tree_attention.cuh"
#include "prefixshare/cuda/tree_attention_simt.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// Whether a call needs the general kernel, whatever the present plan's deltas are: a graph that captured the launch
/// runs later plans too.
inline bool is_general(const AttendParams& p) noexcept {
  bool general = p.rope.pairs > 0 || p.softcap > 0;
  for (const PoolParams& pool : p.pools) {
    general = general || pool.bias != nullptr || pool.k_scale.granularity != 0 || pool.v_scale.granularity != 0;
  }
  return general;
}

/// Starts the kernel of one instance, with as many blocks as run at once: `blocks` where an SM holds two.
template <class T, int D, int Dv, class Launch>
Status launch_items(const AttendParams& p, std::int32_t blocks, Launch&& launch) {
  const std::int32_t at_once = D > 128 ? (blocks + 1) / 2 : blocks;
  const auto start = [&](auto general) {
    return launch(tree_attention_mma<T, D, Dv, general>, at_once, kForwardThreads, BlockMemory<D, Dv, general>::kBytes,
                  false, p);
  };
  return is_general(p) ? start(std::true_type{}) : start(std::false_type{});
}
template <class T, class Launch>
Status launch_dims(const AttendParams& p, std::int32_t blocks, Launch&& launch) {
  switch (p.D) {
    case 64: return launch_items<T, 64, 64>(p, blocks, launch);
    case 96: return launch_items<T, 96, 96>(p, blocks, launch);
    case 128: return launch_items<T, 128, 128>(p, blocks, launch);
    case 192: return launch_items<T, 192, 128>(p, blocks, launch);
    default: return launch_items<T, 256, 256>(p, blocks, launch);
  }
}

/// Blocks of the merge for each block of items: memory is kept busy by four blocks on an SM, which then has two of the
/// other kind.
inline constexpr std::int32_t kMergeBlocks = 2;

/// Starts the merge of deferred groups, which follows the items. It always starts while a graph is captured, since a
/// later plan may have such groups.
template <class Launch>
Status launch_deferred(const AttendCall& call, const AttendParams& p, bool capturing, Launch&& launch) {
  const DevicePlan& plan = *call.args.device_plan;
  if (plan.deferred_count == 0 && !capturing) return {};
  return launch(merge_deferred<kAttendThreads>, kMergeBlocks * plan.blocks, kAttendThreads, 0, true, p);
}

/// Run a validated call of a kind that the implementation accepts. launch(kernel, blocks, threads, shared bytes,
/// chained, parameters) starts a kernel; a chained one may start before those before it have ended.
template <class Launch>
Status launch_tree_attention_mma(const AttendCall& call, bool capturing, Launch&& launch) {
  AttendParams p;
  if (Status s = make_params(call, kCopyAlignment, &p)) return s;
  const std::int32_t blocks = call.args.device_plan->blocks;
  const Status s =
      p.kv_dtype == DType::bf16 ? launch_dims<BFloat16>(p, blocks, launch) : launch_dims<Float16>(p, blocks, launch);
  return s.ok() ? launch_deferred(call, p, capturing, launch) : s;
}
template <class Launch>
Status launch_tree_attention_simt(const AttendCall& call, bool capturing, Launch&& launch) {
  AttendParams p;
  if (Status s = make_params(call, kAnyAlignment, &p)) return s;
  const Status s = launch(tree_attention_simt<kAttendThreads>, call.args.device_plan->blocks, kAttendThreads,
                          PlainForward::bytes(p.D, p.Dv), false, p);
  return s.ok() ? launch_deferred(call, p, capturing, launch) : s;
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
