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

/// Starts the kernel of one instance, with as many slots as a block has room for, and as many blocks as run at once:
/// `blocks` where an SM holds two that have all slots.
template <class T, int D, int Dv, bool General, class Launch>
Status launch_instance(AttendParams& p, std::int32_t blocks, Launch&& launch) {
  using Memory = BlockMemory<D, Dv, General>;
  using Ring = typename Memory::Ring;
  constexpr std::int64_t kReserved = 1024;  // of each block, by the runtime
  std::int64_t of_block = 0, of_processor = 0;
  if (Status s = launch.shared_memory(&of_block, &of_processor)) return s;
  p.ring_slots = Memory::slots(of_block);
  if (p.ring_slots < Ring::kFewestSlots) {
    return detail::failure({"tree_attention", "implementation"}, "shared memory of a block", of_block,
                           ">=", Memory::bytes(Ring::kFewestSlots), StatusUnit::bytes, StatusCode::unsupported);
  }
  const bool two = D <= 128 && 2 * (Memory::bytes(Ring::kMostSlots) + kReserved) <= of_processor;
  return launch(tree_attention_mma<T, D, Dv, General>, two ? blocks : (blocks + 1) / 2, kForwardThreads,
                Memory::bytes(p.ring_slots), false, p);
}
template <class T, int D, int Dv, class Launch>
Status launch_items(AttendParams& p, std::int32_t blocks, Launch&& launch) {
  return is_general(p) ? launch_instance<T, D, Dv, true>(p, blocks, launch)
                       : launch_instance<T, D, Dv, false>(p, blocks, launch);
}
template <class T, class Launch>
Status launch_dims(AttendParams& p, std::int32_t blocks, Launch&& launch) {
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
/// launch.shared_memory tells how many bytes of it a block can have, and how many all blocks on an SM have together.
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
