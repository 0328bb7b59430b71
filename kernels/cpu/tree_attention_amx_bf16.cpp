// SPDX-License-Identifier: Apache-2.0
// tree_attention with the matrix tiles of AMX for the products of many rows; the rest as on AVX-512.
#define PREFIXSHARE_REGION amx_bf16
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"

#include "cpu/attend_body.hpp"
#include "cpu/attend_tiles.hpp"
#include "cpu/operators.hpp"
#include "cpu/tile_multiplier.hpp"
#include "cpu/tiles.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status tree_attention_amx_bf16(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept {
  using Many = amx_bf16::AttendTiles<amx_bf16::TileMultiplier<amx_bf16::HardwareTiles>>;
  detail::AttendForward<amx_bf16::AttendBody<Many>>(call.plan, call.args, part, parts).run();
  return Status{};
}

Status pack_segment_tiles(const PackSegmentCall& call, std::int32_t part, std::int32_t parts) noexcept {
  return pack_tiles_part(call, part, parts);
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
