// SPDX-License-Identifier: Apache-2.0
// Reference of kv_append: rotate, divide by the scale, round once, scatter.
#pragma once

#include "prefixshare/kv_append.hpp"
#include "prefixshare/reference/rope.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace reference {

/// The scale of one stored key or value.
inline double scale_at(const KvScale& scale, std::int64_t page, std::int64_t slot, std::int64_t page_size,
                       std::int64_t head, std::int64_t heads) {
  switch (scale.granularity) {
    case ScaleGranularity::none: break;
    case ScaleGranularity::tensor: return scale.data[0];
    case ScaleGranularity::head: return scale.data[head];
    case ScaleGranularity::token: return scale.data[(page * page_size + slot) * heads + head];
    case ScaleGranularity::page: return scale.data[page * heads + head];
  }
  return 1;
}

/// Writes the heads of one token, divided by their scales, into one slot of a pool's K or V.
inline void append_token(const Matrix& token, const TensorView<4>& pool, const KvScale& scale, std::int64_t slot) {
  const std::int64_t page_size = pool.shape[1];
  const std::int64_t page = slot / page_size;
  const std::int64_t at = slot % page_size;
  for (std::int64_t h = 0; h < token.rows(); ++h) {
    const double divisor = scale_at(scale, page, at, page_size, h, token.rows());
    store_row(pool.ptr(page, at, h), pool.dtype, token.row(h) / divisor);
  }
}

inline Status kv_append_part(const KvAppend& args, std::int32_t i, std::int32_t n) noexcept {
  return run_part("kv_append", args.k.shape[0], i, n, [&](std::int64_t t) {
    if (args.slots[t] < 0) return;
    Matrix k = load_heads(args.k, t, 0, args.k.shape[1]);
    if (args.rope) rotate(*args.rope, args.positions[t], args.rope->mscale, &k);
    append_token(k, args.pool.k, args.pool.k_scale, args.slots[t]);
    if (args.v) append_token(load_heads(args.v, t, 0, args.v.shape[1]), args.pool.v, args.pool.v_scale, args.slots[t]);
  });
}

inline Status kv_append(const KvAppend& args) noexcept {
  if (Status s = prefixshare::detail::validate(args)) return s;
  return kv_append_part(args, 0, 1);
}

}  // namespace reference
}  // namespace v0_1
}  // namespace prefixshare
