// SPDX-License-Identifier: Apache-2.0
// compare: the one definition of error and of every tolerance. Needs nothing but the contracts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "prefixshare/dtype.hpp"
#include "prefixshare/span.hpp"
#include "prefixshare/tensor.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

// ---- Tolerances
// ------------------------------------------------------------------------------------------------------ A is the
// largest absolute logit sum of the problem, max over visible pairs of scale * sum_d |q_d| |k_d| + |bias|: a score is
// not known better than u * A, and so is nothing that follows from it. The constants leave room for the sums over head
// dimension and keys and for the merge of partial states.

/// Half the distance from 1 to the next number of the type.
constexpr double unit_roundoff(DType t) noexcept {
  return t == DType::f64 ? 0x1p-53 : t == DType::f32 ? 0x1p-24 : t == DType::f16 ? 0x1p-11 : 0x1p-8;
}

/// Bound of e_inf for o and lse computed in `acc` (f64 or f32). A = 10: 9e-13 and 9e-6.
constexpr double forward_tolerance(DType acc, double a) noexcept {
  return acc == DType::f64 ? 0x1p-53 * (8192 + 16 * a) : 0x1p-24 * (64 + 8 * a);
}
/// Bound of e_inf for dq, dk, dv and dsinks computed in `acc`. A = 10: 9e-13 and 4e-5. Scores are computed again and
/// multiplied by differences (dP - D), which cancel.
constexpr double gradient_tolerance(DType acc, double a) noexcept {
  return acc == DType::f64 ? 0x1p-53 * (8192 + 16 * a) : 0x1p-24 * (512 + 16 * a);
}
/// Bound of e_inf for lse where q, K and V are stored in 16 bits: kernels may use an exponential good to 2^-12 there.
constexpr double lse_tolerance_16bit(double a) noexcept { return 0x1p-12 + forward_tolerance(DType::f32, a); }
/// 16-bit results may be this many times as far from the reference as the dense emulation of oracle.hpp is.
inline constexpr double kForwardFactor16Bit = 2;
inline constexpr double kBackwardFactor16Bit = 3;
/// States merged in another order or grouping: exp, log and a few roundings of f32.
inline constexpr double kMergeTolerance = 1e-6;
/// Central differences in f64, whose truncation error two step sizes estimate.
inline constexpr double kFiniteDifferenceTolerance = 1e-7;
/// Rotation up to position p_max: an f64 angle p * f is known to u * p. f32 data adds its own roundings.
constexpr double rope_tolerance(DType acc, double p_max) noexcept {
  return 4 * 0x1p-53 * (p_max > 1 ? p_max : 1) + (acc == DType::f64 ? 0 : 4 * 0x1p-24);
}

// ---- What is compared
// ------------------------------------------------------------------------------------------------

/// A reference tensor as vectors [vectors, width], each in a block of (sequence or segment, head). Errors are relative
/// to the block: to its largest value, or to an eighth of B = the largest of the same sums with absolute values, where
/// the terms cancel.
struct Expected {
  std::int64_t width = 1;
  std::vector<double> value;        ///< [vectors * width], row-major
  std::vector<std::int32_t> block;  ///< [vectors]; kNotCompared: not an output
  std::vector<double> magnitude;    ///< [blocks] B
  static constexpr std::int32_t kNotCompared = -1;
};

/// Outcome of a comparison; `text` says what is wrong and where, or how close it was.
struct Comparison {
  bool ok = true;
  double error = 0;         ///< the larger of the measures, as far as each is bounded
  double bound = 0;         ///< what it had to stay within
  std::int64_t worst = -1;  ///< element with the largest error, row-major
  std::string text;
  explicit operator bool() const noexcept { return ok; }
};

/// Distance from a reference in both measures.
struct Distance {
  double inf = 0;           ///< e_inf: max over blocks of max|X - Xref| / max(max|Xref|, B / 8)
  double l2 = 0;            ///< err_2: ||X - Xref||_2 / max(||Xref||_2, B / 8) over everything
  std::int64_t worst = -1;  ///< element behind `inf`
  std::int64_t odd = -1;  ///< first element that is not finite as the reference has it: NaN for NaN, the same infinity
};

/// Elements of a view.
template <int Rank>
std::int64_t count_of(const TensorView<Rank>& x) {
  std::int64_t count = 1;
  for (std::int64_t n : x.shape) count *= n;
  return count;
}

/// Offset of the i-th element of a strided view, row-major.
template <int Rank>
std::int64_t offset_of(const TensorView<Rank>& x, std::int64_t i) {
  std::int64_t at = 0;
  for (int d = Rank - 1; d >= 0; --d) {
    at += i % x.shape[d] * x.stride[d];
    i /= x.shape[d];
  }
  return at;
}

/// Every element of a strided host tensor as f64, row-major.
template <int Rank>
std::vector<double> to_doubles(const TensorView<Rank>& x) {
  std::vector<double> out(static_cast<std::size_t>(count_of(x)));
  prefixshare::detail::with_storage(x.dtype, [&](auto tag) {
    const auto* data = static_cast<const decltype(tag)*>(x.data);
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = load_as<double>(data[offset_of(x, static_cast<std::int64_t>(i))]);
    }
  });
  return out;
}

inline std::vector<double> to_doubles(Span<const float> x) { return std::vector<double>(x.begin(), x.end()); }

/// Rounded to a storage type and back.
inline double round_to(DType t, double x) noexcept {
  return prefixshare::detail::with_storage(t, [x](auto tag) { return load_as<double>(store_as<decltype(tag)>(x)); });
}

namespace detail {

/// Both finite, both NaN, or the same infinity.
inline bool same_class(double x, double reference) noexcept {
  if (std::isnan(reference)) return std::isnan(x);
  if (std::isinf(reference)) return x == reference;
  return std::isfinite(x);
}

/// Largest finite value of each block, raised to B / 8.
inline std::vector<double> block_scales(const Expected& e) {
  std::vector<double> scale(e.magnitude.size());
  for (std::size_t b = 0; b < scale.size(); ++b) scale[b] = std::isfinite(e.magnitude[b]) ? e.magnitude[b] / 8 : 0;
  for (std::size_t i = 0; i < e.block.size() * static_cast<std::size_t>(e.width); ++i) {
    const std::int32_t b = e.block[i / static_cast<std::size_t>(e.width)];
    if (b < 0 || !std::isfinite(e.value[i])) continue;
    double& s = scale[static_cast<std::size_t>(b)];
    s = std::max(s, std::abs(e.value[i]));
  }
  return scale;
}

inline std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", x);
  return text;
}

}  // namespace detail

/// Both measures of `x` against a reference of as many elements.
inline Distance distance(Span<const double> x, const Expected& e) {
  Distance d;
  const std::vector<double> scale = detail::block_scales(e);
  double difference2 = 0, reference2 = 0;
  for (std::int64_t i = 0; i < x.size(); ++i) {
    const std::int32_t b = e.block[static_cast<std::size_t>(i / e.width)];
    const double r = e.value[static_cast<std::size_t>(i)];
    if (b < 0) continue;
    if (!detail::same_class(x[i], r)) {
      if (d.odd < 0) d.odd = i;
      continue;
    }
    if (!std::isfinite(r)) continue;
    const double off = std::abs(x[i] - r);
    difference2 += off * off;
    reference2 += r * r;
    if (off == 0) continue;
    const double s = scale[static_cast<std::size_t>(b)];
    const double error = s > 0 ? off / s : std::numeric_limits<double>::infinity();
    if (error > d.inf || d.worst < 0) {
      d.inf = std::max(d.inf, error);
      d.worst = i;
    }
  }
  double least = 0;  // a tensor of zeros that are sums of what cancels
  for (double b : e.magnitude) least = std::isfinite(b) ? std::max(least, b / 8) : least;
  if (difference2 > 0) d.l2 = std::sqrt(difference2) / std::max(std::sqrt(reference2), least);
  return d;
}

/// Distance of the reference itself once rounded to the storage type: what no kernel can avoid.
inline Distance rounding_distance(const Expected& e, DType storage) {
  std::vector<double> rounded(e.value.size());
  for (std::size_t i = 0; i < rounded.size(); ++i) rounded[i] = round_to(storage, e.value[i]);
  return distance(rounded, e);
}

namespace detail {

inline Comparison judge(Span<const double> x, const Expected& e, double bound_inf, double bound_l2) {
  Comparison c;
  if (x.size() != static_cast<std::int64_t>(e.value.size())) {
    c.ok = false;
    c.text = std::to_string(x.size()) + " elements, want " + std::to_string(e.value.size());
    return c;
  }
  const Distance d = distance(x, e);
  const bool by_l2 = d.inf <= bound_inf && d.l2 > bound_l2;
  c.error = by_l2 ? d.l2 : d.inf;
  c.bound = by_l2 ? bound_l2 : bound_inf;
  c.worst = d.odd >= 0 ? d.odd : d.worst;
  c.ok = d.odd < 0 && d.inf <= bound_inf && d.l2 <= bound_l2;
  c.text = std::string(by_l2 ? "err_2 " : "e_inf ") + number(c.error) + (c.error <= c.bound ? " <= " : " > ") +
           number(c.bound);
  if (c.worst >= 0) {
    c.text += ", worst at [" + std::to_string(c.worst / e.width) + ", " + std::to_string(c.worst % e.width) +
              "]: got " + number(x[c.worst]) + ", want " + number(e.value[static_cast<std::size_t>(c.worst)]);
  }
  if (d.odd >= 0) c.text = "non-finite mismatch; " + c.text;
  return c;
}

}  // namespace detail

/// e_inf within `bound`, plus the rounding of the reference to the type in which `x` was stored.
inline Comparison compare(Span<const double> x, const Expected& e, double bound, DType storage) {
  const double rounding = storage == DType::f64 ? 0 : rounding_distance(e, storage).inf;
  return detail::judge(x, e, bound + rounding, std::numeric_limits<double>::infinity());
}

/// 16-bit storage, both measures: within `factor` times the distance of the dense emulation, plus the rounding of the
/// reference. No kernel is asked for more than f32 arithmetic gives (`floor`, an f32 tolerance): one key or equal
/// values leave the emulation without any error.
inline Comparison compare_16bit(Span<const double> x, const Expected& e, Span<const double> dense, double factor,
                                double floor, DType storage) {
  const Distance emulated = distance(dense, e);
  const Distance rounding = rounding_distance(e, storage);
  return detail::judge(x, e, std::max(factor * emulated.inf, floor) + rounding.inf,
                       std::max(factor * emulated.l2, floor) + rounding.l2);
}

/// Whether two tensors of one type and shape hold the same bits.
template <int Rank>
bool same_bits(const TensorView<Rank>& a, const TensorView<Rank>& b) {
  if (a.dtype != b.dtype || !std::equal(a.shape, a.shape + Rank, b.shape)) return false;
  const std::int64_t bytes = size_of(a.dtype);
  for (std::int64_t i = 0; i < count_of(a); ++i) {
    const char* x = static_cast<const char*>(a.data) + offset_of(a, i) * bytes;
    const char* y = static_cast<const char*>(b.data) + offset_of(b, i) * bytes;
    if (std::memcmp(x, y, static_cast<std::size_t>(bytes)) != 0) return false;
  }
  return true;
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
