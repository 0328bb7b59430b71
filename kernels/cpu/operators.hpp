// SPDX-License-Identifier: Apache-2.0
// The operators' parts per instruction set. Calls are validated, and of a kind that the implementation accepts.
#pragma once

#include <cstdint>

#include "prefixshare/kv_append.hpp"
#include "prefixshare/merge_states.hpp"
#include "prefixshare/pack_segment.hpp"
#include "prefixshare/rope.hpp"
#include "prefixshare/rope_rebase.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status tree_attention_avx2(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept;
Status tree_attention_avx512(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept;
Status tree_attention_avx512_bf16(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept;
Status tree_attention_amx_bf16(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept;

/// In tile order, which cpu:avx512-bf16 and cpu:amx-bf16 read.
Status pack_segment_tiles(const PackSegmentCall& call, std::int32_t part, std::int32_t parts) noexcept;

/// Most parts of a merge: their weights lie on the stack.
inline constexpr std::int64_t kMaxMergeParts = 128;

Status merge_states_avx2(const MergeStates& args, std::int32_t part, std::int32_t parts) noexcept;
Status merge_states_avx512(const MergeStates& args, std::int32_t part, std::int32_t parts) noexcept;
Status merge_states_backward_avx2(const MergeStatesGrad& args, std::int32_t part, std::int32_t parts) noexcept;
Status merge_states_backward_avx512(const MergeStatesGrad& args, std::int32_t part, std::int32_t parts) noexcept;

Status rope_apply_avx2(const RopeApply& args, std::int32_t part, std::int32_t parts) noexcept;
Status rope_apply_avx512(const RopeApply& args, std::int32_t part, std::int32_t parts) noexcept;
Status rope_shift_avx2(const RopeShift& args, std::int32_t part, std::int32_t parts) noexcept;
Status rope_shift_avx512(const RopeShift& args, std::int32_t part, std::int32_t parts) noexcept;
Status rope_rebase_avx2(const RopeRebase& args, std::int32_t part, std::int32_t parts) noexcept;
Status rope_rebase_avx512(const RopeRebase& args, std::int32_t part, std::int32_t parts) noexcept;

Status kv_append_avx2(const KvAppend& args, std::int32_t part, std::int32_t parts) noexcept;
Status kv_append_avx512(const KvAppend& args, std::int32_t part, std::int32_t parts) noexcept;

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
