// SPDX-License-Identifier: Apache-2.0
// rope_rebase in plain C++. Each token of each layer and move is one unit of work.
#pragma once

#include <cstdint>

#include "prefixshare/detail/page_moves.hpp"
#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/detail/rope_rows.hpp"
#include "prefixshare/detail/validate_rebase.hpp"
#include "prefixshare/rope_rebase.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

template <class Acc>
void turn_token(const TokenMove& move, const RopeTable& table) noexcept {
  const TensorView<4>& k = move.layer.k;
  const auto row = [&](std::int64_t h) -> RowMove<Acc> {
    return {k.dtype, static_cast<const char*>(move.source(k, h)), k.dtype, static_cast<char*>(move.target(k, h))};
  };
  for_each_angle_chunk<Acc>(table, move.delta, 1, [&](const AngleChunk<Acc>& chunk) {
    for (std::int64_t h = 0; h < k.shape[2]; ++h) move_rotated(row(h), table, chunk);
  });
  for (std::int64_t h = 0; h < k.shape[2]; ++h) move_unrotated(row(h), table, k.shape[3]);
}

/// Whether the arithmetic is f64: keys are. Values are only copied.
inline bool rebases_in_f64(const RopeRebase& args) noexcept {
  return !args.layers.empty() && args.layers[0].k.dtype == DType::f64;
}

template <class Acc>
void rebase_token(const TokenMove& move, const RopeTable& table) noexcept {
  if (move.delta == 0) {
    copy_token(move, move.layer.k);
  } else {
    turn_token<Acc>(move, table);
  }
  if (move.layer.v) copy_token(move, move.layer.v);
}

}  // namespace detail

namespace portable {

/// Part `part` of `parts` of a call that has been validated. Parts may run in any order; bits do not depend on `parts`.
inline Status rope_rebase_part(const RopeRebase& args, std::int32_t part, std::int32_t parts) noexcept {
  const auto token = detail::rebases_in_f64(args) ? detail::rebase_token<double> : detail::rebase_token<float>;
  const detail::Range units = detail::part_range(detail::rebase_units(args), part, parts);
  for (std::int64_t u = units.begin; u < units.end; ++u) token(detail::rebase_unit(args, u), args.table);
  return {};
}

/// The whole call on the calling thread. Contract: RopeRebase.
inline Status rope_rebase(const RopeRebase& args) noexcept {
  if (Status s = detail::validate(args)) return s;
  return rope_rebase_part(args, 0, 1);
}

}  // namespace portable
}  // namespace v0_1
}  // namespace prefixshare
