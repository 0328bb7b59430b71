// SPDX-License-Identifier: Apache-2.0
// rope_apply and rope_shift in plain C++. Each token is one unit of work: its angles serve all of its heads.
#pragma once

#include <cstdint>

#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/detail/rope_rows.hpp"
#include "prefixshare/detail/validate_ops.hpp"
#include "prefixshare/rope.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Row (token, head) on its way from x to out.
template <class Acc>
RowMove<Acc> row_move(const TensorView<3>& x, const TensorView<3>& out, std::int64_t token,
                      std::int64_t head) noexcept {
  return {x.dtype, static_cast<const char*>(x.ptr(token, head)), out.dtype, static_cast<char*>(out.ptr(token, head))};
}

/// out = scale * R(position) x for all heads of one token.
template <class Acc>
void rotate_token(const TensorView<3>& x, const TensorView<3>& out, const RopeTable& table, std::int64_t token,
                  std::int64_t position, double scale) noexcept {
  const std::int64_t heads = x.shape[1];
  for_each_angle_chunk<Acc>(table, position, scale, [&](const AngleChunk<Acc>& chunk) {
    for (std::int64_t h = 0; h < heads; ++h) move_rotated(row_move<Acc>(x, out, token, h), table, chunk);
  });
  for (std::int64_t h = 0; h < heads; ++h) move_unrotated(row_move<Acc>(x, out, token, h), table, x.shape[2]);
}

template <class Acc>
void apply_token(const RopeApply& args, std::int64_t token) noexcept {
  rotate_token<Acc>(args.x, args.out, args.table, token, args.positions[token], args.table.mscale);
}

template <class Acc>
void shift_token(const RopeShift& args, std::int64_t token) noexcept {
  const std::int32_t delta = args.deltas[args.deltas.size() == 1 ? 0 : token];
  if (delta != 0) {
    rotate_token<Acc>(args.x, args.out, args.table, token, delta, 1);
    return;
  }
  for (std::int64_t h = 0; h < args.x.shape[1]; ++h) {
    move_elements(row_move<Acc>(args.x, args.out, token, h), 0, args.x.shape[2]);
  }
}

}  // namespace detail

namespace portable {

/// Part `part` of `parts` of a call that has been validated. Parts may run in any order; bits do not depend on `parts`.
inline Status rope_apply_part(const RopeApply& args, std::int32_t part, std::int32_t parts) noexcept {
  const auto token = args.x.dtype == DType::f64 ? detail::apply_token<double> : detail::apply_token<float>;
  const detail::Range tokens = detail::part_range(args.x.shape[0], part, parts);
  for (std::int64_t t = tokens.begin; t < tokens.end; ++t) token(args, t);
  return {};
}
inline Status rope_shift_part(const RopeShift& args, std::int32_t part, std::int32_t parts) noexcept {
  const auto token = args.x.dtype == DType::f64 ? detail::shift_token<double> : detail::shift_token<float>;
  const detail::Range tokens = detail::part_range(args.x.shape[0], part, parts);
  for (std::int64_t t = tokens.begin; t < tokens.end; ++t) token(args, t);
  return {};
}

/// The whole call on the calling thread. Contract: RopeApply, RopeShift.
inline Status rope_apply(const RopeApply& args) noexcept {
  if (Status s = detail::validate(args)) return s;
  return rope_apply_part(args, 0, 1);
}
inline Status rope_shift(const RopeShift& args) noexcept {
  if (Status s = detail::validate(args)) return s;
  return rope_shift_part(args, 0, 1);
}

}  // namespace portable
}  // namespace v0_1
}  // namespace prefixshare
