// SPDX-License-Identifier: Apache-2.0
// What the two kernels of the backward do with the results of matrix products: probabilities and their gradients, the
// products of these, and gradients as they are stored. A warp has sixteen rows of a result, as softmax.cuh says.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/elements.cuh"
#include "prefixshare/cuda/key_tiles.cuh"
#include "prefixshare/cuda/softmax.cuh"
#include "prefixshare/cuda/tile.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr float kNoRow = -kEmptyLse;  ///< lse of a packed row that is not there: its probabilities are 0

/// Columns of a product that a warp has in registers at a time, beside its sums of D dims.
template <int D>
inline constexpr int kGradientPart = D > 128 ? 16 : 32;

/// c += a b^T: elements [16 step, 16 step + 16) of `a`, an operand, and of the first 8 Blocks rows of `b`.
template <class T, int Width, int Blocks>
PREFIXSHARE_DEVICE void multiply_step(float (&c)[Blocks][4], const std::uint32_t (&left)[4], Tile<Width> b, int step,
                                      int lane) {
  PREFIXSHARE_UNROLL
  for (int block = 0; block < Blocks; block += 2) {
    std::uint32_t right[4];
    load_right(right, b, lane, 8 * block, step);
    multiply_add_pair<T>(c[block], c[block + 1], left, right);
  }
}

/// The same for all elements, with rows [row, row + 16) of a tile on the left.
template <class T, int Width, int Blocks>
PREFIXSHARE_DEVICE void multiply_rows(float (&c)[Blocks][4], Tile<Width> a, int row, Tile<Width> b, int lane) {
  PREFIXSHARE_UNROLL
  for (int step = 0; step < Width / 16; ++step) {
    std::uint32_t left[4];
    load_left(left, a, lane, row, step);
    multiply_step<T>(c, left, b, step, lane);
  }
}
/// sum += c b: c, rounded to T, and the first 8 Blocks rows of `b`.
template <class T, int Width, int Blocks, int Sums>
PREFIXSHARE_DEVICE void multiply_columns(float (&sum)[Sums][4], const float (&c)[Blocks][4], Tile<Width> b, int lane) {
  static_assert(Width / 8 <= Sums);
  PREFIXSHARE_UNROLL
  for (int step = 0; step < Blocks / 2; ++step) {
    std::uint32_t left[4];
    pack_left<T>(left, c[2 * step], c[2 * step + 1]);
    PREFIXSHARE_UNROLL
    for (int block = 0; block < Width / 8; block += 2) {
      std::uint32_t right[4];
      load_right_transposed(right, b, lane, 16 * step, block);
      multiply_add_pair<T>(sum[block], sum[block + 1], left, right);
    }
  }
}

/// Whether the first Rows rows of a tile hold a value that is not finite. Its product with the 0 of a hidden pair would
/// be NaN.
template <class T, int Rows, int Width>
PREFIXSHARE_DEVICE bool has_not_finite(Tile<Width> tile, int lane) {
  bool odd = false;
  PREFIXSHARE_ROLL
  for (int i = lane; i < Rows * Tile<Width>::kChunks; i += 32) {
    const ptx::Words4 words = reinterpret_cast<const ptx::Words4*>(tile.data)[i];
    odd = odd || not_finite<T>(words.x) || not_finite<T>(words.y) || not_finite<T>(words.z) || not_finite<T>(words.w);
  }
  return ptx::ballot(odd) != 0;
}

/// From a product q . k to its probability and what follows from that.
struct ScoreRule {
  float scale, softcap, inverse_cap;

  explicit PREFIXSHARE_DEVICE ScoreRule(const AttendParams& p)
      : scale(p.scale), softcap(p.softcap), inverse_cap(p.softcap > 0 ? ptx::reciprocal(p.softcap) : 0.0f) {}

  /// The logit to base 2; `slope` is its derivative by scale * product, to base e.
  PREFIXSHARE_DEVICE float logit(float product, const KeyColumn& key, std::int32_t q_head, float* slope) const {
    float x = product * key.k_scale * scale;
    *slope = 1.0f;
    if (softcap > 0) {
      const float ratio = tanhf(x * inverse_cap);
      *slope = 1.0f - ratio * ratio;
      x = softcap * ratio;
    }
    if (key.bias != nullptr) x += key.bias[q_head * key.bias_stride];
    return x * kLog2E;
  }
};

/// Stores row lane / 4 + 8 r of a result times `factor`, or adds it to what is there. T is what 16-bit storage holds.
template <class T, int Blocks, int Sums>
PREFIXSHARE_DEVICE void put_row(const float (&c)[Sums][4], int r, float factor, DType dtype, void* base,
                                std::int64_t at, bool accumulate) {
  PREFIXSHARE_UNROLL
  for (int block = 0; block < Blocks; ++block) {
    const int d = 8 * block + 2 * (ptx::lane() % 4);
    const float x = c[block][2 * r] * factor, y = c[block][2 * r + 1] * factor;
    if (dtype == DType::f32) {
      put_pair(static_cast<float*>(base) + at + d, x, y, accumulate);
    } else {
      put_pair<T>(static_cast<std::uint16_t*>(base) + at + d, x, y, accumulate);
    }
  }
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
