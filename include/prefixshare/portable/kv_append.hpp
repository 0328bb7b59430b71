// SPDX-License-Identifier: Apache-2.0
// kv_append in plain C++. Each token is one unit of work.
#pragma once

#include <cstdint>

#include "prefixshare/detail/kv_scale.hpp"
#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/detail/rope_rows.hpp"
#include "prefixshare/detail/validate_ops.hpp"
#include "prefixshare/kv_append.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Row (token, head) of `source` on its way to slot `at` of `pool`.
template <class Acc>
RowMove<Acc> append_move(const TensorView<3>& source, const TensorView<4>& pool, const KvScale& scale,
                         std::int64_t token, SlotIndex at, std::int64_t head) noexcept {
  return {source.dtype, static_cast<const char*>(source.ptr(token, head)), pool.dtype,
          static_cast<char*>(pool.ptr(at.page, at.slot, head)),
          static_cast<Acc>(kv_scale_of(scale, at, pool.shape[1], pool.shape[2], head))};
}

template <class Acc>
void append_rows(const TensorView<3>& source, const TensorView<4>& pool, const KvScale& scale, std::int64_t token,
                 SlotIndex at) noexcept {
  for (std::int64_t h = 0; h < pool.shape[2]; ++h) {
    move_elements(append_move<Acc>(source, pool, scale, token, at, h), 0, pool.shape[3]);
  }
}

template <class Acc>
void append_rotated_key(const KvAppend& args, std::int64_t token, SlotIndex at) noexcept {
  const RopeTable& table = *args.rope;
  const TensorView<4>& pool = args.pool.k;
  const auto move = [&](std::int64_t h) { return append_move<Acc>(args.k, pool, args.pool.k_scale, token, at, h); };
  for_each_angle_chunk<Acc>(table, args.positions[token], table.mscale, [&](const AngleChunk<Acc>& chunk) {
    for (std::int64_t h = 0; h < pool.shape[2]; ++h) move_rotated(move(h), table, chunk);
  });
  for (std::int64_t h = 0; h < pool.shape[2]; ++h) move_unrotated(move(h), table, pool.shape[3]);
}

template <class Acc>
void append_token(const KvAppend& args, std::int64_t token) noexcept {
  const std::int64_t slot = args.slots[token];
  if (slot < 0) return;
  const std::int64_t page_size = args.pool.k.shape[1];
  const SlotIndex at{slot / page_size, slot % page_size};
  if (args.rope) {
    append_rotated_key<Acc>(args, token, at);
  } else {
    append_rows<Acc>(args.k, args.pool.k, args.pool.k_scale, token, at);
  }
  if (args.v) append_rows<Acc>(args.v, args.pool.v, args.pool.v_scale, token, at);
}

/// Whether the arithmetic is f64: any tensor is.
inline bool appends_in_f64(const KvAppend& args) noexcept {
  return args.k.dtype == DType::f64 || args.pool.k.dtype == DType::f64 ||
         (args.v && (args.v.dtype == DType::f64 || args.pool.v.dtype == DType::f64));
}

}  // namespace detail

namespace portable {

/// Part `part` of `parts` of a call that has been validated. Parts may run in any order; bits do not depend on `parts`.
inline Status kv_append_part(const KvAppend& args, std::int32_t part, std::int32_t parts) noexcept {
  const auto token = detail::appends_in_f64(args) ? detail::append_token<double> : detail::append_token<float>;
  const detail::Range tokens = detail::part_range(args.slots.size(), part, parts);
  for (std::int64_t t = tokens.begin; t < tokens.end; ++t) token(args, t);
  return {};
}

/// The whole call on the calling thread. Contract: KvAppend.
inline Status kv_append(const KvAppend& args) noexcept {
  if (Status s = detail::validate(args)) return s;
  return kv_append_part(args, 0, 1);
}

}  // namespace portable
}  // namespace v0_1
}  // namespace prefixshare
