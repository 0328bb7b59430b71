// SPDX-License-Identifier: Apache-2.0
// Reference of rope_apply and rope_shift: f64 angles, f64 rotation, one rounding.
#pragma once

#include <cmath>
#include <cstring>

#include "prefixshare/detail/validate_ops.hpp"
#include "prefixshare/reference/matrix.hpp"
#include "prefixshare/rope.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace reference {

/// Turns the rotary dims of every row of `x` [rows, D] by `position` and multiplies them by `gain`.
/// The transposed map, which gradients need, is the turn by -position with the same gain.
inline void rotate(const RopeTable& table, double position, double gain, Matrix* x) {
  const int pairs = table.dim / 2;
  const bool half = table.pairing == RopePairing::half;
  for (int i = 0; i < pairs; ++i) {
    const double angle = position * table.inv_freq[i];
    const double c = gain * std::cos(angle);
    const double s = gain * std::sin(angle);
    const int first = table.offset + (half ? i : 2 * i);
    const int second = table.offset + (half ? i + pairs : 2 * i + 1);
    const Vector a = x->col(first);
    const Vector b = x->col(second);
    x->col(first) = c * a - s * b;
    x->col(second) = s * a + c * b;
  }
}

/// out[t] = x[t], bit for bit.
inline void copy_token(const TensorView<3>& x, const TensorView<3>& out, std::int64_t t) {
  const std::int64_t bytes = x.shape[2] * size_of(x.dtype);
  if (out.data == x.data) return;
  for (std::int64_t h = 0; h < x.shape[1]; ++h) {
    std::memcpy(out.ptr(t, h), x.ptr(t, h), static_cast<std::size_t>(bytes));
  }
}

inline Status rope_apply_part(const RopeApply& args, std::int32_t i, std::int32_t n) noexcept {
  return run_part("rope_apply", args.x.shape[0], i, n, [&](std::int64_t t) {
    Matrix x = load_heads(args.x, t, 0, args.x.shape[1]);
    rotate(args.table, args.positions[t], args.table.mscale, &x);
    store_heads(args.out, t, 0, x);
  });
}

inline Status rope_shift_part(const RopeShift& args, std::int32_t i, std::int32_t n) noexcept {
  return run_part("rope_shift", args.x.shape[0], i, n, [&](std::int64_t t) {
    const std::int32_t delta = args.deltas[args.deltas.size() == 1 ? 0 : t];
    if (delta == 0) return copy_token(args.x, args.out, t);
    Matrix x = load_heads(args.x, t, 0, args.x.shape[1]);
    rotate(args.table, delta, 1.0, &x);
    store_heads(args.out, t, 0, x);
  });
}

inline Status rope_apply(const RopeApply& args) noexcept {
  if (Status s = prefixshare::detail::validate(args)) return s;
  return rope_apply_part(args, 0, 1);
}

inline Status rope_shift(const RopeShift& args) noexcept {
  if (Status s = prefixshare::detail::validate(args)) return s;
  return rope_shift_part(args, 0, 1);
}

}  // namespace reference
}  // namespace v0_1
}  // namespace prefixshare
