// SPDX-License-Identifier: Apache-2.0
// The backward of tree_attention in f32 arithmetic, for any mix of f32, f16 and bf16 storage and any head dims up to
// 256.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/plain_gradients.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

template <int Threads>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(Threads, 2)
    tree_attention_backward_keys_simt(const PREFIXSHARE_GRID_CONSTANT AttendGradParams p) {
  ptx::launch_dependents();
  ptx::prerequisite_wait();
  const ImageHeader& h = p.fwd.plan.header();
  const std::int32_t* block = p.fwd.plan.list<std::int32_t>(h.key_blocks_at) + ptx::block();
  const ImageKeyWork* works = p.fwd.plan.list<ImageKeyWork>(h.key_work_at);
  for (std::int32_t w = block[0]; w < block[1]; ++w) {
    PlainKeyGradient<Threads>(p, works[w], ptx::shared_memory()).run();
  }
}
template <int Threads>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(Threads, 2)
    tree_attention_backward_queries_simt(const PREFIXSHARE_GRID_CONSTANT AttendGradParams p) {
  ptx::launch_dependents();
  ptx::prerequisite_wait();
  const ImageHeader& h = p.fwd.plan.header();
  const std::int32_t* block = p.fwd.plan.list<std::int32_t>(h.query_blocks_at) + ptx::block();
  const ImageQueryWork* works = p.fwd.plan.list<ImageQueryWork>(h.query_work_at);
  for (std::int32_t w = block[0]; w < block[1]; ++w) {
    PlainQueryGradient<Threads>(p, works[w], ptx::shared_memory()).run();
  }
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
