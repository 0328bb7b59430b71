// SPDX-License-Identifier: Apache-2.0
// The operators' parts per instruction set. Calls are validated, and of a kind that the implementation accepts.
#pragma once

#include <cstdint>

#include "prefixshare/pack_segment.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status tree_attention_avx2(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept;
Status tree_attention_avx512(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept;
Status tree_attention_amx_bf16(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept;

Status pack_segment_amx_bf16(const PackSegmentCall& call, std::int32_t part, std::int32_t parts) noexcept;

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
