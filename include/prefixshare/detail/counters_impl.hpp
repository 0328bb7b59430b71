// SPDX-License-Identifier: Apache-2.0
// Counting a plan's work.
#pragma once

#include <algorithm>

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Keys of a run that row `i` of its tile sees.
inline std::int64_t visible_keys(const AttendView& a, const KeyRun& run, std::int64_t i) noexcept {
  std::int64_t keys = 0;
  const Piece whole{&run, 0, 0, static_cast<std::int32_t>(a.keys(run))};
  visible_ranges(a, whole, i, [&](std::int32_t begin, std::int32_t end) { keys += end - begin; });
  return keys;
}

}  // namespace detail

inline Counters count(const Plan& plan, Span<const std::int32_t> actual_lengths) noexcept {
  const PlanView view = plan.view();
  Attend args;
  args.actual_lengths = actual_lengths;
  const detail::AttendView a{view, args};
  const LayerKind& kind = plan.header.kind;
  const std::int64_t kv_row = std::int64_t{kind.Hkv} * (kind.D + kind.Dv) * size_of(kind.kv_dtype);
  const std::int64_t acc = size_of(kind.acc_dtype());
  Counters c;
  for (const KeyRun& run : plan.runs) {
    c.kv_rows += a.keys(run);
    for (std::int64_t i = 0; i < plan.tiles[static_cast<std::size_t>(run.tile)].count; ++i) {
      c.pairs += detail::visible_keys(a, run, i);
    }
  }
  for (const Item& item : plan.items) {
    const std::int64_t heads = std::int64_t{item.head_end - item.head_begin} * kind.group();
    c.q_bytes += plan.tiles[static_cast<std::size_t>(item.tile)].count * heads * kind.D * size_of(kind.q_dtype);
  }
  c.q_bytes += std::int64_t{plan.header.rows} * kind.Hq * (std::int64_t{kind.Dv} * size_of(kind.q_dtype) + acc);
  c.exps = c.pairs * kind.Hq;
  c.flops_forward = c.exps * 2 * (std::int64_t{kind.D} + kind.Dv);
  c.flops_backward = c.exps * (std::int64_t{6} * kind.D + std::int64_t{4} * kind.Dv);
  c.kv_bytes = c.kv_rows * kv_row;
  c.partial_bytes = 2 * plan.header.partial_rows * kind.Hq * (std::int64_t{kind.Dv} + 1) * acc;
  return c;
}

}  // namespace v0_1
}  // namespace prefixshare
