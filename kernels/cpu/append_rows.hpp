// SPDX-License-Identifier: Apache-2.0
// kv_append on vectors: first the keys of all tokens, then the values. Of the region whose Vec came before.
#pragma once

#include <cstdint>

#include "cpu/region.hpp"
#include "cpu/rope_vectors.hpp"
#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/kv_append.hpp"

PREFIXSHARE_REGION_BEGIN

/// Keys or values on their way into a pool, through the caches, since attention reads them next. `table` null: no
/// rotation.
struct Append {
  const TensorView<3>& source;
  const TensorView<4>& pool;
  const KvScale& scale;
  const RopeTable* table;
  const KvAppend& args;

  /// The first of the numbers that the heads of a slot are divided by, and how far apart they are.
  const float* divisors(std::int64_t page, std::int64_t slot, std::int64_t* step) const noexcept {
    const std::int64_t heads = pool.shape[2];
    const ScaleGranularity by = scale.granularity;
    *step = by == ScaleGranularity::none || by == ScaleGranularity::tensor ? 0 : 1;
    switch (by) {
      case ScaleGranularity::none: break;
      case ScaleGranularity::tensor:
      case ScaleGranularity::head: return scale.data;
      case ScaleGranularity::token: return scale.data + (page * pool.shape[1] + slot) * heads;
      case ScaleGranularity::page: return scale.data + page * heads;
    }
    return &kUndivided;
  }
  template <class From, class To>
  TokenRows<From, To> rows(std::int64_t token) const noexcept {
    const std::int64_t page = args.slots[token] / pool.shape[1], slot = args.slots[token] % pool.shape[1];
    TokenRows<From, To> rows{
        source.at<From>(token), source.stride[1], pool.at<To>(page, slot), pool.stride[2], pool.shape[2], nullptr, 0};
    rows.divisor = divisors(page, slot, &rows.divisor_step);
    return rows;
  }

  template <class From, class To>
  void run(detail::Range tokens) const noexcept {
    const std::int64_t D = pool.shape[3];
    const RopeTable none;
    Turn turn(table ? *table : none, table ? table->mscale : 1);
    for (std::int64_t t = tokens.begin; t < tokens.end; ++t) {
      if (args.slots[t] < 0) continue;
      if (table) {
        turn_token(rows<From, To>(t), *table, D, args.positions[t], &turn, {});
      } else {
        move_token(rows<From, To>(t), D, {});
      }
    }
  }
  template <class From>
  void run_to(detail::Range tokens) const noexcept {
    if (pool.dtype == DType::f32) return run<From, float>(tokens);
    return pool.dtype == DType::bf16 ? run<From, BFloat16>(tokens) : run<From, Float16>(tokens);
  }
  void run(detail::Range tokens) const noexcept {
    if (source.dtype == DType::f32) return run_to<float>(tokens);
    return source.dtype == DType::bf16 ? run_to<BFloat16>(tokens) : run_to<Float16>(tokens);
  }
};

inline void append_part(const KvAppend& args, std::int32_t part, std::int32_t parts) noexcept {
  const detail::Range tokens = detail::part_range(args.slots.size(), part, parts);
  Append{args.k, args.pool.k, args.pool.k_scale, args.rope, args}.run(tokens);
  if (args.v) Append{args.v, args.pool.v, args.pool.v_scale, nullptr, args}.run(tokens);
}

PREFIXSHARE_REGION_END
