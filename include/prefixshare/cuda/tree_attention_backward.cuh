// SPDX-License-Identifier: Apache-2.0
// The backward of tree_attention on matrix units of sm_80 and newer, for q, K, V and dO in one 16-bit type.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/key_gradient.cuh"
#include "prefixshare/cuda/query_gradient.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// dK and dV. Rows of all tensors are aligned to 16 bytes.
template <class T, int D, int Dv>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kKeyGradientThreads, 1)
    tree_attention_backward_keys(const PREFIXSHARE_GRID_CONSTANT AttendGradParams p) {
  ptx::launch_dependents();
  ptx::prerequisite_wait();
  const ImageHeader& h = p.fwd.plan.header();
  const std::int32_t* block = p.fwd.plan.list<std::int32_t>(h.key_blocks_at) + ptx::block();
  const ImageKeyWork* works = p.fwd.plan.list<ImageKeyWork>(h.key_work_at);
  for (std::int32_t w = block[0]; w < block[1]; ++w) {
    KeyGradient<T, D, Dv>(p, works[w], ptx::shared_memory()).run();
    ptx::sync_block();
  }
}

/// dQ of works from `first` on, to `end` at most; returns the first that is still to be done. Where a work has to be
/// done plainly, the stream of keys starts again behind it.
template <class T, int D, int Dv>
PREFIXSHARE_DEVICE std::int32_t sum_queries(const AttendGradParams& p, std::int32_t first, std::int32_t end) {
  unsigned char* memory = ptx::shared_memory();
  const ImageQueryWork* works = query_works_of(p.fwd);
  std::int32_t items = 0;
  for (std::int32_t w = first; w < end; ++w) items += works[w].span_count;
  KeyTiles<D, Dv, QuerySpans> tiles(p.fwd, memory, 0, items, QuerySpans(first));
  std::int32_t item = 0;
  for (std::int32_t w = first; w < end; ++w) {
    if (!QueryGradient<T, D, Dv>(p, &tiles, memory, works[w], item).run()) {
      ptx::copy_async_wait<0>();
      ptx::sync_block();
      PlainQueryGradient<kAttendThreads>(p, works[w], memory).run();
      ptx::sync_block();
      return w + 1;
    }
    item += works[w].span_count;
  }
  return end;
}

/// dQ, as above.
template <class T, int D, int Dv>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kAttendThreads, D > 128 ? 1 : 2)
    tree_attention_backward_queries(const PREFIXSHARE_GRID_CONSTANT AttendGradParams p) {
  ptx::launch_dependents();
  ptx::prerequisite_wait();
  const std::int32_t* block = p.fwd.plan.list<std::int32_t>(p.fwd.plan.header().query_blocks_at) + ptx::block();
  for (std::int32_t w = block[0]; w < block[1];) w = sum_queries<T, D, Dv>(p, w, block[1]);
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
