// SPDX-License-Identifier: Apache-2.0
// tree_attention with the bf16 dot product of AVX-512 for many rows; the rest as on AVX-512.
#define PREFIXSHARE_REGION avx512_bf16
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"

#include "cpu/attend_body.hpp"
#include "cpu/attend_tiles.hpp"
#include "cpu/dot_multiplier.hpp"
#include "cpu/operators.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status tree_attention_avx512_bf16(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept {
  using Many = avx512_bf16::AttendTiles<avx512_bf16::DotMultiplier>;
  detail::AttendForward<avx512_bf16::AttendBody<Many>>(call.plan, call.args, part, parts).run();
  return Status{};
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
