// SPDX-License-Identifier: Apache-2.0
// Leaves of the softmax state algebra: exp, log, and how the weights of states follow from their lse. Host and device.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "prefixshare/detail/macros.hpp"
#include "prefixshare/dtype.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// e^x. f32: at most 2 ulp, without branches or tables, so that loops over it vectorise; subnormal results are rounded
/// like the others. f64: std::exp. exp_of(0) == 1, exp_of(-inf) == +0, exp_of(+inf) == +inf exactly; NaN stays NaN.
template <class T>
PREFIXSHARE_HD inline T exp_of(T x) noexcept {
  if constexpr (std::is_same_v<T, double>) {
    return std::exp(x);
  } else {
    // Beyond +-105 the result is infinity or 0 anyway; infinities are brought there, NaN is not. On the bits, because
    // compilers do not vectorise a choice between floats that a comparison makes.
    const std::int32_t bits = bit_cast<std::int32_t>(x);
    const std::int32_t magnitude = bits & 0x7fffffff;
    const bool beyond = (magnitude > 0x42d20000) & (magnitude <= 0x7f800000);  // > 105 and not NaN
    x = bit_cast<float>(beyond ? (bits - magnitude) | 0x42d20000 : bits);
    // n = round(x / ln 2): adding 1.5 * 2^23 leaves the integer in the low bits of the sum.
    constexpr float kRound = 12582912.0f;
    const float shifted = x * 1.44269504f + kRound;
    const float n = shifted - kRound;
    // r = x - n ln 2 in two steps; n times the first constant (9 bits) is exact.
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    // e^r on [-ln2/2, ln2/2]: minimax in relative error with the first two terms fixed at 1, error 3.1e-9.
    float p = 1.38143163e-3f;
    p = p * r + 8.36885112e-3f;
    p = p * r + 4.16684012e-2f;
    p = p * r + 1.66665195e-1f;
    p = p * r + 4.99999934e-1f;
    p = (p * r) * r + r + 1.0f;
    // 2^n in two factors, so that subnormal results and n = 128 come out right.
    const std::uint32_t whole = bit_cast<std::uint32_t>(shifted) - bit_cast<std::uint32_t>(kRound);
    const std::int32_t half = static_cast<std::int32_t>(whole) >> 1;
    const std::uint32_t rest = whole - static_cast<std::uint32_t>(half);
    const float first = bit_cast<float>((static_cast<std::uint32_t>(half) + 127u) << 23);
    return (p * first) * bit_cast<float>((rest + 127u) << 23);
  }
}

/// Natural logarithm.
template <class T>
PREFIXSHARE_HD inline T log_of(T x) noexcept {
  return std::log(x);
}

/// Running maximum and sum of exponentials over the lse of states, in two passes: `see` every lse, then `add` each once
/// (in one fixed order, for the same bits). Owns the rules of the neutral element: an lse of -inf has weight 0, a
/// single non-empty state weight exactly 1 and its lse exactly, no state at all lse = -inf. NaN and +inf make lse and
/// all weights NaN. Two states give the same bits in either order.
template <class T>
struct LseMerge {
  static constexpr T kEmpty = -std::numeric_limits<T>::infinity();

  T max = kEmpty;
  T sum = 0;

  /// Keeps a NaN, from either side.
  PREFIXSHARE_HD void see(T lse) noexcept { max = max >= lse || max != max ? max : lse; }
  /// exp(lse - max), the weight before it is divided by the sum.
  PREFIXSHARE_HD T raw_weight(T lse) const noexcept { return max == kEmpty ? T(0) : exp_of(lse - max); }
  PREFIXSHARE_HD void add(T lse) noexcept { sum += raw_weight(lse); }

  /// After all were added: log of the sum of exp(lse). The test for 1 keeps a lone -0.
  PREFIXSHARE_HD T lse() const noexcept { return max == kEmpty || sum == T(1) ? max : max + log_of(sum); }
  /// After all were added: exp(lse - this->lse()), without the rounding error of lse().
  PREFIXSHARE_HD T weight(T lse) const noexcept { return max == kEmpty ? T(0) : raw_weight(lse) / sum; }
};

/// Two states as one: lse, and the weights of a and b. A state whose lse is -inf must be left out of the weighted sum,
/// since its o may hold anything.
template <class T>
struct MergedPair {
  T lse;
  T weight_a;
  T weight_b;
};
template <class T>
PREFIXSHARE_HD inline MergedPair<T> merge_pair(T lse_a, T lse_b) noexcept {
  LseMerge<T> merge;
  merge.see(lse_a);
  merge.see(lse_b);
  merge.add(lse_a);
  merge.add(lse_b);
  return {merge.lse(), merge.weight(lse_a), merge.weight(lse_b)};
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
