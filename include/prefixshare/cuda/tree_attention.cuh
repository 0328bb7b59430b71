// SPDX-License-Identifier: Apache-2.0
// The forward of tree_attention on matrix units of sm_80 and newer, for q, K and V in one 16-bit type. Of a block's
// six warps two feed the ring (attend_feed.cuh), and four multiply what arrives (attend_item.cuh).
#pragma once

#include "prefixshare/cuda/attend_feed.cuh"
#include "prefixshare/cuda/attend_item.cuh"
#include "prefixshare/cuda/merge_rows.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// Blocks of an SM that registers are shared out for: as many as its shared memory holds, two up to 128 dims on sm_90.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <int D>
inline constexpr int kBlocksPerSm = 1;
#else
template <int D>
inline constexpr int kBlocksPerSm = D > 128 ? 1 : 2;
#endif

/// Heads of D and Dv dims; rows of q, K, V and o aligned to 16 bytes. General: with a RoPE table, a soft cap, scales or
/// a bias, of which others have no code: what is seldom needed lies between what is always, and fetching it takes time.
template <class T, int D, int Dv, bool General>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kForwardThreads, kBlocksPerSm<D>)
    tree_attention_mma(const PREFIXSHARE_GRID_CONSTANT AttendParams p) {
  using Memory = BlockMemory<D, Dv, General>;
  ptx::launch_dependents();
  unsigned char* const memory = ptx::shared_memory();
  const typename Memory::Ring ring = {memory + Memory::kRingAt, p.ring_slots};
  ring.init();
  if (ptx::warp() == kKeyFeeder) return AttendFeed<D, Dv, General>(p, ring).run();
  if (ptx::warp() == kValueFeeder) return ValueFeed<D, Dv, General>(ring).run();
  RingReader<D, Dv, General> reader(ring);
  auto* const own = reinterpret_cast<typename Memory::Multipliers*>(memory);
  for (int slot = reader.take(); reader.notes(slot).kind != SlotKind::end; slot = reader.take()) {
    if (reader.notes(slot).queries.item.wide != 0) {
      AttendItem<T, D, Dv, General, true>(p, &reader, own).run(slot);
    } else {
      AttendItem<T, D, Dv, General, false>(p, &reader, own).run(slot);
    }
    if constexpr (Dv <= kSerialMergeDims) {
      const ImageItem& item = own->notes[ptx::warp()].item;
      if (item.group_count > 0) arrive(p, item, own->last);
    }
  }
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
