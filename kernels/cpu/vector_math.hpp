// SPDX-License-Identifier: Apache-2.0
// exp, log and tanh of vectors, and rows between storage and f32. Of the region whose Vec came before.
#pragma once

#include <cstdint>
#include <limits>

#include "cpu/region.hpp"
#include "cpu/vector.hpp"
#include "prefixshare/dtype.hpp"

PREFIXSHARE_REGION_BEGIN

/// e^x: at most 2 ulp; exp_of(0) == 1, exp_of(-inf) == +0 and exp_of(+inf) == +inf exactly, NaN stays NaN. The
/// polynomial is that of detail::exp_of, with fused steps.
inline Vec exp_of(Vec x) noexcept {
  x = clamp(x, Vec::all(-105.0f), Vec::all(105.0f));  // beyond it the result is 0 or infinity anyway
  const Vec n = round_to_whole(x * Vec::all(1.44269504f));
  Vec r = fma(n, Vec::all(-0.693359375f), x);
  r = fma(n, Vec::all(2.12194440e-4f), r);
  Vec p = Vec::all(1.38143163e-3f);
  p = fma(p, r, Vec::all(8.36885112e-3f));
  p = fma(p, r, Vec::all(4.16684012e-2f));
  p = fma(p, r, Vec::all(1.66665195e-1f));
  p = fma(p, r, Vec::all(4.99999934e-1f));
  p = fma(p, r * r, r) + Vec::all(1.0f);
  return scale_by_power(p, n);
}

/// 2^x: at most 2 ulp; exact for whole x, exp2_of(-inf) == +0 and exp2_of(+inf) == +inf exactly, NaN stays NaN. The
/// polynomial of the fraction is a minimax fit of the relative error, 2e-9, with the constant term held at 1.
inline Vec exp2_of(Vec x) noexcept {
  const Vec f = fraction(x);
  Vec p = Vec::all(2.16129163e-4f);
  p = fma(p, f, Vec::all(1.24678458e-3f));
  p = fma(p, f, Vec::all(9.67545155e-3f));
  p = fma(p, f, Vec::all(5.54852821e-2f));
  p = fma(p, f, Vec::all(2.40229309e-1f));
  p = fma(p, f, Vec::all(6.93147063e-1f));
  p = fma(p, f, Vec::all(1.0f));
  return scale_by_floor(p, x);
}

/// Natural logarithm of normal x > 0: at most 2 ulp; log_of(1) == 0 exactly, infinity and NaN stay. With m of
/// split_power and s = (m - 1) / (m + 1), log m = 2 artanh s = 2 (s + s^3 / 3 + s^5 / 5 ...); the rest after s^9 is
/// below 3e-9.
inline Vec log_of(Vec x) noexcept {
  Vec n;
  const Vec m = split_power(x, &n), one = Vec::all(1.0f);
  const Vec s = (m - one) / (m + one), z = s * s;
  Vec p = Vec::all(2.0f / 9);
  p = fma(p, z, Vec::all(2.0f / 7));
  p = fma(p, z, Vec::all(2.0f / 5));
  p = fma(p, z, Vec::all(2.0f / 3));
  p = fma(p * z, s, s + s);
  p = fma(n, Vec::all(-2.12194440e-4f), p);
  p = fma(n, Vec::all(0.693359375f), p);
  return choose(less(x, Vec::all(std::numeric_limits<float>::infinity())), p, x);
}

/// tanh, for the soft cap: near 0 the odd polynomial of Cephes' tanhf (Moshier), else 1 - 2 / (e^2x + 1).
inline Vec tanh_of(Vec x) noexcept {
  const Vec z = x * x;
  Vec p = Vec::all(-5.70498872745e-3f);
  p = fma(p, z, Vec::all(2.06390887954e-2f));
  p = fma(p, z, Vec::all(-5.37397155531e-2f));
  p = fma(p, z, Vec::all(1.33314422036e-1f));
  p = fma(p, z, Vec::all(-3.33332819422e-1f));
  const Vec near = fma(p * z, x, x);
  const Vec size = magnitude(x), one = Vec::all(1.0f);
  const Vec far = with_sign(one - Vec::all(2.0f) / (exp_of(size + size) + one), x);
  return choose(less(size, Vec::all(0.625f)), near, far);
}

/// dst[i] = src[i] * scale in f32 for i < n.
template <class Storage>
void load_scaled(const Storage* src, std::int64_t n, float scale, float* dst) noexcept {
  const Vec factor = Vec::all(scale);
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) (Vec::load(src + i) * factor).store(dst + i);
  for (; i < n; ++i) dst[i] = load_as<float>(src[i]) * scale;
}
inline void load_scaled(DType dtype, const void* src, std::int64_t n, float scale, float* dst) noexcept {
  switch (dtype) {
    case DType::f32: return load_scaled(static_cast<const float*>(src), n, scale, dst);
    case DType::f16: return load_scaled(static_cast<const Float16*>(src), n, scale, dst);
    case DType::bf16: return load_scaled(static_cast<const BFloat16*>(src), n, scale, dst);
    case DType::f64: break;  // computes in f64, elsewhere
  }
}

PREFIXSHARE_REGION_END
