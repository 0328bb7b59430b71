// SPDX-License-Identifier: Apache-2.0
// A packed segment in tile order, as TileProducts multiplies it: keys as rows of whole tiles, values as transposed
// tiles, and the KV scales beside them, since they would cost bf16 its exactness.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "prefixshare/pack_segment.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

/// Where the parts of a packed segment lie. Tokens are filled up to whole blocks, with zeros; a step is kTileTerms
/// tokens of a KV head.
struct PackedTiles {
  static constexpr std::uint32_t kScaled = 1;  // scales other than 1
  static constexpr std::uint32_t kOdd = 2;     // something is not finite: the step is read from the pool

  std::int64_t padded;   // tokens
  std::int64_t k_width;  // D up to whole tiles
  std::int64_t v_tiles;  // tiles of a step
  BFloat16* k;           // [Hkv][padded][k_width]
  BFloat16* v;           // [Hkv][padded / kTileTerms][v_tiles][element][token]
  float* k_scales;       // [Hkv][padded]
  float* v_scales;       // [Hkv][padded]
  std::uint32_t* flags;  // [Hkv][padded / kTileTerms]

  PackedTiles(const LayerKind& kind, void* data, std::int64_t tokens) noexcept
      : padded(detail::packed_tokens(tokens)),
        k_width(detail::whole_tiles(kind.D)),
        v_tiles(detail::whole_tiles(kind.Dv) / detail::kPanelRows),
        k(reinterpret_cast<BFloat16*>(static_cast<char*>(data) + sizeof(detail::PackedHeader))),
        v(k + kind.Hkv * padded * k_width),
        k_scales(reinterpret_cast<float*>(v + kind.Hkv * padded * detail::whole_tiles(kind.Dv))),
        v_scales(k_scales + kind.Hkv * padded),
        flags(reinterpret_cast<std::uint32_t*>(v_scales + kind.Hkv * padded)) {}

  std::int64_t steps() const noexcept { return padded / detail::kTileTerms; }
};

/// Packs steps of a segment.
class TilePacker {
 public:
  explicit TilePacker(const PackSegmentCall& call) noexcept
      : plan_(call.plan),
        args_(call.args),
        kind_(call.plan.header.kind),
        segment_(call.plan.segments[call.args.segment]),
        tiles_(kind_, call.args.out, call.args.tokens) {}

  std::int64_t steps() const noexcept { return kind_.Hkv * tiles_.steps(); }

  void pack(std::int64_t step) const noexcept {
    const std::int64_t head = step / tiles_.steps(), first = step % tiles_.steps() * detail::kTileTerms;
    BFloat16* v = tiles_.v + step * tiles_.v_tiles * detail::kTile;
    std::memset(v, 0, static_cast<std::size_t>(tiles_.v_tiles * detail::kTile) * sizeof *v);
    tiles_.flags[step] = 0;
    for (std::int64_t i = 0; i < detail::kTileTerms; ++i) {
      const std::int64_t row = head * tiles_.padded + first + i;
      BFloat16* k = tiles_.k + row * tiles_.k_width;
      std::memset(k, 0, static_cast<std::size_t>(tiles_.k_width) * sizeof *k);
      tiles_.k_scales[row] = tiles_.v_scales[row] = 1;
      if (first + i < args_.tokens) pack_token(head, first + i, row, k, v + i, tiles_.flags + step);
    }
  }

 private:
  void pack_token(std::int64_t head, std::int64_t token, std::int64_t row, BFloat16* k, BFloat16* v,
                  std::uint32_t* flags) const noexcept {
    const detail::TokenPlace at = detail::place_of(plan_, segment_, token);
    const std::int64_t page_size = plan_.pools[segment_.pool].page_size;
    const float k_scale = detail::scale_at(args_.pool.k_scale, at, page_size, head, kind_.Hkv);
    const float v_scale = detail::scale_at(args_.pool.v_scale, at, page_size, head, kind_.Hkv);
    const BFloat16* values = static_cast<const BFloat16*>(args_.pool.v.ptr(at.page, at.slot, head));
    bool finite = std::isfinite(v_scale);
    std::memcpy(k, args_.pool.k.ptr(at.page, at.slot, head), static_cast<std::size_t>(kind_.D) * sizeof *k);
    for (std::int64_t d = 0; d < kind_.Dv; ++d) {
      v[d * detail::kTileTerms] = values[d];
      finite = finite && std::isfinite(to_float(values[d]));
    }
    tiles_.k_scales[row] = k_scale;
    tiles_.v_scales[row] = v_scale;
    *flags |= (k_scale != 1 || v_scale != 1 ? PackedTiles::kScaled : 0) | (finite ? 0 : PackedTiles::kOdd);
  }

  const PlanView& plan_;
  const PackSegment& args_;
  LayerKind kind_;
  const Segment& segment_;
  PackedTiles tiles_;
};

/// Part `part` of `parts` of pack_segment for cpu:amx-bf16.
inline Status pack_tiles_part(const PackSegmentCall& call, std::int32_t part, std::int32_t parts) noexcept {
  const TilePacker packer(call);
  if (part == 0) {
    const detail::PackedHeader header = detail::packed_header(call.plan.header, call.args.tokens);
    std::memcpy(call.args.out, &header, sizeof header);
  }
  const detail::Range range = detail::part_range(packer.steps(), part, parts);
  for (std::int64_t step = range.begin; step < range.end; ++step) packer.pack(step);
  return Status{};
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
