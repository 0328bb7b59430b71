// SPDX-License-Identifier: Apache-2.0
// The running softmax of a warp's sixteen rows, in the registers that matrix products leave their results in: of rows
// g = lane / 4 and g + 8, the columns 2 (lane % 4) and the next of every block of eight.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/row_states.cuh"
#include "prefixshare/cuda/tile.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;

/// Over the four lanes that share a row.
PREFIXSHARE_DEVICE float row_maximum(float x) {
  x = fmaxf(x, ptx::shuffle_xor(x, 1));
  return fmaxf(x, ptx::shuffle_xor(x, 2));
}
PREFIXSHARE_DEVICE float row_sum(float x) {
  x += ptx::shuffle_xor(x, 1);
  return x + ptx::shuffle_xor(x, 2);
}
/// What exponents are taken relative to: a row that saw nothing yet has none, exp2(-infinity - 0) = 0.
PREFIXSHARE_DEVICE float shift_of(float maximum) { return maximum == kEmptyLse ? 0.0f : maximum; }

/// The state of two rows, g and g + 8: logits are to base 2, o is not yet divided by the sum, and the sums are those of
/// this lane's columns.
template <int Blocks>
struct SoftmaxState {
  float maximum[2];
  float sum[2];
  float o[Blocks][4];

  PREFIXSHARE_DEVICE void clear() {
    maximum[0] = maximum[1] = kEmptyLse;
    sum[0] = sum[1] = 0;
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Blocks; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) o[b][c] = 0;
    }
  }

  /// The maxima with a warp's next logits. NaNs are left to the exponentials.
  template <int Columns>
  PREFIXSHARE_DEVICE void maxima(const float (&logits)[Columns][4], float (&largest)[2]) const {
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      largest[r] = maximum[r];
      PREFIXSHARE_UNROLL
      for (int b = 0; b < Columns; ++b) {
        largest[r] = fmaxf(largest[r], fmaxf(logits[b][2 * r], logits[b][2 * r + 1]));
      }
      largest[r] = row_maximum(largest[r]);
    }
  }
  /// Logits become exp2(logit - largest), where `largest` is at least any of them and the maximum so far; maximum, sum
  /// and o come along.
  template <int Columns>
  PREFIXSHARE_DEVICE void absorb(float (&logits)[Columns][4], const float (&largest)[2]) {
    float keep[2];
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float shift = shift_of(largest[r]);
      keep[r] = ptx::exp2(maximum[r] - shift);
      maximum[r] = largest[r];
      float added = 0;
      PREFIXSHARE_UNROLL
      for (int b = 0; b < Columns; ++b) {
        PREFIXSHARE_UNROLL
        for (int c = 2 * r; c < 2 * r + 2; ++c) added += logits[b][c] = ptx::exp2(logits[b][c] - shift);
      }
      sum[r] = fmaf(sum[r], keep[r], added);
    }
    // Mostly the maxima stay, and multiplying by 1 changes nothing.
    if (ptx::ballot(keep[0] != 1.0f || keep[1] != 1.0f) == 0) return;
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Blocks; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) o[b][c] *= keep[c / 2];
    }
  }
};

/// Probabilities of 16 columns, two blocks, as a left operand.
template <class T>
PREFIXSHARE_DEVICE void pack_left(std::uint32_t (&a)[4], const float (&p)[4], const float (&next)[4]) {
  a[0] = ptx::pack<T>(p[0], p[1]);
  a[1] = ptx::pack<T>(p[2], p[3]);
  a[2] = ptx::pack<T>(next[0], next[1]);
  a[3] = ptx::pack<T>(next[2], next[3]);
}

/// Takes from probabilities what `pack_left` made of them.
template <class T>
PREFIXSHARE_DEVICE void subtract_left(float (&p)[4], float (&next)[4], const std::uint32_t (&a)[4]) {
  PREFIXSHARE_UNROLL
  for (int c = 0; c < 4; ++c) {
    p[c] -= ptx::to_float<T>(static_cast<std::uint16_t>(a[c / 2] >> (16 * (c % 2))));
    next[c] -= ptx::to_float<T>(static_cast<std::uint16_t>(a[2 + c / 2] >> (16 * (c % 2))));
  }
}

/// Bits 15 and 31: whether the lower and the upper of two values are infinite or NaN.
template <class T>
PREFIXSHARE_DEVICE std::uint32_t not_finite(std::uint32_t pair) {
  constexpr std::uint32_t kExponent = std::is_same_v<T, BFloat16> ? 0x7f80u : 0x7c00u;
  constexpr std::uint32_t kUnit = 0x8000u - kExponent;
  return ((pair & kExponent * 0x10001u) + kUnit * 0x10001u) & 0x80008000u;
}
template <class T>
PREFIXSHARE_DEVICE std::uint32_t finite_or_zero(std::uint32_t pair) {
  return pair & ~((not_finite<T>(pair) >> 15) * 0xffffu);
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
