// SPDX-License-Identifier: Apache-2.0
// pack_segment: a long-lived segment in the order in which an implementation multiplies it, made once. Contract and
// argument types; the dispatch entries are in context.hpp.
#pragma once

#include <cstdint>

#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {

inline constexpr std::int64_t kPackedAlignment = 64;

/// Writes the keys and values of tokens [0, tokens) of a segment, with their KV scales, to `out`, in the format of the
/// implementation that runs the plan's forward. Afterwards a call may name {segment, tokens, out} in KvPool::packed:
/// the tokens are then read from there, and the result is the same to rounding (bits may differ, since the cuts between
/// blocks may). The packed copy is good for every plan with the same implementation, kv_dtype, Hkv, D and Dv for as
/// long as those tokens stay as they were, whatever the segment's index is by then; the pool must still hold them,
/// since the backward and parts of blocks read it. One copy per layer. `plan`: the segment's pages and the pools'
/// shapes. Aliasing: `out` overlaps nothing. tokens == 0 is ok. Errors: invalid_argument, unsupported (the
/// implementation has no format of its own: call it without), and workspace_too_small (`bytes` < packed_segment_bytes).
/// On error nothing is written. Bits do not depend on the parts.
struct PackSegment {
  std::int32_t segment = 0;  ///< of the plan
  std::int32_t tokens = 0;
  KvPool pool;          ///< the segment's pool of this layer: k, v and their scales
  void* out = nullptr;  ///< aligned to kPackedAlignment
  std::int64_t bytes = 0;
};

/// A validated call, as implementations take it.
struct PackSegmentCall {
  PlanView plan;
  PackSegment args;
};

/// Bytes that hold `tokens` of a layer's segment in any implementation's format; -1 if they pass int64.
std::int64_t packed_segment_bytes(const LayerKind& kind, std::int64_t tokens) noexcept;

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/packed_impl.hpp"
