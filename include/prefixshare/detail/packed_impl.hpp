// SPDX-License-Identifier: Apache-2.0
// The memory of a packed segment: a header that says what it is, then what the implementation makes of it. Comes with
// pack_segment.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "prefixshare/detail/convert.hpp"
#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/detail/validate.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr const char* kPackOp = "pack_segment";

inline PackedHeader packed_header(const PlanHeader& plan, std::int32_t tokens) noexcept {
  PackedHeader h;
  std::memcpy(h.implementation, plan.implementation, sizeof h.implementation);
  h.tokens = tokens;
  h.Hkv = plan.kind.Hkv;
  h.D = plan.kind.D;
  h.Dv = plan.kind.Dv;
  h.kv_dtype = static_cast<std::int32_t>(plan.kind.kv_dtype);
  return h;
}

/// Tokens of a packed segment, up to whole blocks.
constexpr std::int64_t packed_tokens(std::int64_t tokens) noexcept {
  return (tokens + kBlockKeys - 1) / kBlockKeys * kBlockKeys;
}
/// Bytes of a token and KV head: rows of f32, or tiles of bf16 with two scales and flags.
constexpr std::int64_t packed_token_bytes(const LayerKind& kind) noexcept {
  const std::int64_t rows = (std::int64_t{kind.D} + kind.Dv) * 4;
  const std::int64_t tiles = (whole_tiles(kind.D) + whole_tiles(kind.Dv)) * 2 + 2 * 4 + 1;
  return kind.kv_dtype == DType::bf16 ? std::max(rows, tiles) : rows;
}

inline Status validate(const PlanView& plan, const PackSegment& args) noexcept {
  const LayerKind& kind = plan.header.kind;
  if (args.segment < 0) return failure({kPackOp, "segment"}, "", args.segment, ">=", 0);
  if (args.segment >= plan.segments.size()) {
    return failure({kPackOp, "segment"}, "", args.segment, "<", plan.segments.size());
  }
  const Segment& segment = plan.segments[args.segment];
  if (args.tokens < 0) return failure({kPackOp, "tokens"}, "", args.tokens, ">=", 0);
  if (args.tokens > segment.length) return failure({kPackOp, "tokens"}, "", args.tokens, "<=", segment.length);
  if (Status s = check_pool({kPackOp, "pool.k"}, {kPackOp, "pool.v"}, {kPackOp, "pool.k_scale"},
                            {kPackOp, "pool.v_scale"}, args.pool, plan.pools[segment.pool], kind, MemorySpace::host)) {
    return s;
  }
  if (args.out == nullptr) return failure({kPackOp, "out"}, "", 0, "!=", 0, StatusUnit::pointer);
  const std::int64_t odd = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(args.out) % kPackedAlignment);
  if (odd != 0) return failure({kPackOp, "out"}, "address % 64", odd, "==", 0);
  const std::int64_t bytes = packed_segment_bytes(kind, args.tokens);
  if (bytes < 0 || args.bytes < bytes) {
    return failure({kPackOp, "bytes"}, "", args.bytes, ">=", bytes, StatusUnit::bytes, StatusCode::workspace_too_small);
  }
  const Footprint out = footprint(args.out, bytes);
  const bool apart = !overlap(out, footprint(args.pool.k)) && !overlap(out, footprint(args.pool.v));
  return apart ? Status{} : failure({kPackOp, "out"}, "overlap", 1, "==", 0);
}

/// Part `part` of `parts`: a share of the (KV head, token) rows in PackedRows' order.
inline Status pack_rows_part(const PackSegmentCall& call, std::int32_t part, std::int32_t parts) noexcept {
  const PlanView& plan = call.plan;
  const PackSegment& args = call.args;
  const LayerKind& kind = plan.header.kind;
  const Segment& segment = plan.segments[args.segment];
  const std::int64_t page_size = plan.pools[segment.pool].page_size;
  const PackedRows rows(kind, args.out, args.tokens);
  if (part == 0) {
    const PackedHeader header = packed_header(plan.header, args.tokens);
    std::memcpy(args.out, &header, sizeof header);
  }
  const Range range = part_range(std::int64_t{kind.Hkv} * args.tokens, part, parts);
  for (std::int64_t row = range.begin; row < range.end; ++row) {
    const std::int64_t head = row / args.tokens;
    const TokenPlace at = place_of(plan, segment, row % args.tokens);
    float* k = rows.k + row * kind.D;
    float* v = rows.v + row * kind.Dv;
    const float k_scale = scale_at(args.pool.k_scale, at, page_size, head, kind.Hkv);
    const float v_scale = scale_at(args.pool.v_scale, at, page_size, head, kind.Hkv);
    load_row(args.pool.k.dtype, args.pool.k.ptr(at.page, at.slot, head), kind.D, k);
    load_row(args.pool.v.dtype, args.pool.v.ptr(at.page, at.slot, head), kind.Dv, v);
    for (std::int64_t d = 0; k_scale != 1 && d < kind.D; ++d) k[d] *= k_scale;
    for (std::int64_t d = 0; v_scale != 1 && d < kind.Dv; ++d) v[d] *= v_scale;
  }
  return Status{};
}

}  // namespace detail

inline std::int64_t packed_segment_bytes(const LayerKind& kind, std::int64_t tokens) noexcept {
  if (tokens < 0 || tokens > INT64_MAX / 2) return -1;
  const std::int64_t token = kind.Hkv * detail::packed_token_bytes(kind);
  return detail::checked_sum(detail::checked_product(detail::packed_tokens(tokens), token),
                             sizeof(detail::PackedHeader));
}

}  // namespace v0_1
}  // namespace prefixshare
