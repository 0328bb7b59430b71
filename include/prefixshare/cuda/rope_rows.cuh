// SPDX-License-Identifier: Apache-2.0
// Rows that are rotated on their way from one place to another, on CUDA: what rope, rope_rebase and kv_append share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "prefixshare/cuda/row_chunks.cuh"
#include "prefixshare/rope.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

// ---- Parameters ----------------------------------------------------------------------------------------------------

inline constexpr int kMostTables = 16;  // of angles in a block: 32 KiB of shared memory
inline constexpr int kTurnPairs = 256;  // of a launch: 2 KiB of parameters. More pairs are more launches

/// What a launch does to a row: it turns some consecutive pairs of a table, and the first launch of a call also moves
/// the dims outside the table. Everything else of the row is another launch's.
struct TurnParams {
  double turns[kTurnPairs];  ///< inv_freq / (2 pi) of each pair: a position times that is an angle in whole turns
  float mscale;
  std::int32_t pairs;
  std::int32_t first;   ///< dim of the first pair's first element
  std::int32_t apart;   ///< dims between the two elements of a pair; 1: pairs are neighbours
  std::int32_t before;  ///< dims [0, before) are moved as they are
  std::int32_t after;   ///< and dims [after, after + rest)
  std::int32_t rest;

  /// Chunks of a row that turn. Neighbours lie in one chunk (single elements are taken two at a time), others in two.
  PREFIXSHARE_HD int turned(int width) const { return apart == 1 && width > 1 ? 2 * pairs / width : pairs / width; }
  PREFIXSHARE_HD int chunks(int width) const { return turned(width) + (before + rest) / width; }
};

/// Chunks of rows of D elements, turned by this table or by none.
inline void fit(ChunkWidth* chunk, const RopeTable* table, std::int64_t D) noexcept {
  chunk->fit(D);
  if (table == nullptr) return;
  chunk->fit(table->offset);
  chunk->fit(table->pairing == RopePairing::half ? table->dim / 2 : table->dim);
}

/// What launch `index` of a call does; a table of no pairs has one launch, too.
inline TurnParams turn_params(const RopeTable& table, double mscale, std::int64_t D, std::int64_t index) noexcept {
  constexpr double kTwoPi = 6.283185307179586476925;
  const bool half = table.pairing == RopePairing::half;
  const auto first = static_cast<std::int32_t>(index * kTurnPairs);
  TurnParams p{};
  p.mscale = static_cast<float>(mscale);
  p.pairs = std::min(kTurnPairs, table.dim / 2 - first);
  p.first = table.offset + (half ? first : 2 * first);
  p.apart = half ? table.dim / 2 : 1;
  if (index == 0) {
    p.before = table.offset;
    p.after = table.offset + table.dim;
    p.rest = static_cast<std::int32_t>(D) - p.after;
  }
  for (std::int32_t i = 0; i < p.pairs; ++i) p.turns[i] = table.inv_freq[first + i] / kTwoPi;
  return p;
}
inline std::int64_t turn_launches(const RopeTable& table) noexcept {
  return std::max<std::int64_t>(1, detail::ceil_div(table.dim / 2, kTurnPairs));
}

/// Tokens of a block, `most` at most, of `tokens` in all with as many chunks each: eight chunks per thread, so that
/// starting and the table cost little, but two where that gives more of a large GPU something to do.
inline std::int32_t block_tokens(std::int64_t tokens, std::int64_t token_chunks, std::int64_t most) noexcept {
  constexpr std::int64_t kManyBlocks = 1024;
  const std::int64_t few = detail::ceil_div(2 * kRowThreads, token_chunks),
                     many = detail::ceil_div(8 * kRowThreads, token_chunks);
  return static_cast<std::int32_t>(std::min(most, std::min(many, std::max(few, tokens / kManyBlocks))));
}

// ---- On the device -------------------------------------------------------------------------------------------------

/// Cosines and sines of some positions, in shared memory.
struct TurnTable {
  float* cosines;  ///< [positions, pairs]
  float* sines;

  PREFIXSHARE_DEVICE TurnTable(unsigned char* memory, int positions, int pairs)
      : cosines(reinterpret_cast<float*>(memory)), sines(cosines + positions * pairs) {}
  static constexpr std::int64_t bytes(std::int64_t positions, std::int64_t pairs) { return positions * pairs * 8; }

  /// The angle of one pair. Whole turns are taken off in f64; what is left, in half turns, is an f32 and a rest.
  PREFIXSHARE_DEVICE void set(int i, double turns, float mscale) const {
    const double half_turns = 2 * (turns - std::rint(turns));
    const float near = static_cast<float>(half_turns);
    const float rest = 3.14159265f * static_cast<float>(half_turns - static_cast<double>(near));
    float s, c;
    ptx::sincospi(near, &s, &c);
    cosines[i] = mscale * (c - rest * s);
    sines[i] = mscale * (s + rest * c);
  }
};

/// A row on its way, and what it is divided by before it is stored.
struct RowMove {
  const unsigned char* source;
  unsigned char* target;
  DType from;
  DType to;
  float divisor;

  /// Elements [at, at + Width) as they are: bit for bit if nothing changes them.
  template <int Width>
  PREFIXSHARE_DEVICE void move(int at) const {
    const unsigned char* const source_at = source + std::int64_t{at} * size_of(from);
    unsigned char* const target_at = target + std::int64_t{at} * size_of(to);
    Chunk<Width> bits;
    bits.load(source_at, from);
    if (from != to || divisor != 1) {
      Floats<Width> x;
      bits.to_floats(from, x);
      for (int d = 0; d < Width; ++d) x[d] /= divisor;
      bits.from_floats(to, x);
    }
    bits.store(target_at, to);
  }

  /// Pairs of elements [a, a + Width) with [b, b + Width), in both of which pair d is element d.
  template <int Width>
  PREFIXSHARE_DEVICE void turn_apart(int a, int b, const float* cosines, const float* sines) const {
    Floats<Width> x, y, c, s;
    load<Width>(a, x);
    load<Width>(b, y);
    load_floats<Width>(cosines, c);
    load_floats<Width>(sines, s);
    for (int d = 0; d < Width; ++d) {
      const float turned = x[d] * c[d] - y[d] * s[d];
      y[d] = y[d] * c[d] + x[d] * s[d];
      x[d] = turned;
    }
    store<Width>(a, x);
    store<Width>(b, y);
  }
  /// Pairs of neighbours in elements [a, a + Width).
  template <int Width>
  PREFIXSHARE_DEVICE void turn_neighbours(int a, const float* cosines, const float* sines) const {
    Floats<Width> x;
    Floats<Width / 2> c, s;
    load<Width>(a, x);
    load_floats<Width / 2>(cosines, c);
    load_floats<Width / 2>(sines, s);
    for (int d = 0; d < Width; d += 2) {
      const float turned = x[d] * c[d / 2] - x[d + 1] * s[d / 2];
      x[d + 1] = x[d + 1] * c[d / 2] + x[d] * s[d / 2];
      x[d] = turned;
    }
    store<Width>(a, x);
  }

 private:
  template <int Width>
  PREFIXSHARE_DEVICE void load(int at, Floats<Width>& x) const {
    Chunk<Width> bits;
    bits.load(source + std::int64_t{at} * size_of(from), from);
    bits.to_floats(from, x);
  }
  template <int Width>
  PREFIXSHARE_DEVICE void store(int at, Floats<Width>& x) const {
    if (divisor != 1) {
      for (int d = 0; d < Width; ++d) x[d] /= divisor;
    }
    Chunk<Width> bits;
    bits.from_floats(to, x);
    bits.store(target + std::int64_t{at} * size_of(to), to);
  }
};

/// Chunk i of the row's TurnParams::chunks: turned by the cosines and sines of its position, or moved as it is without.
template <int Width>
PREFIXSHARE_DEVICE void move_chunk(const RowMove& row, const TurnParams& turn, int i, const float* cosines,
                                   const float* sines) {
  const int turned = turn.turned(Width);
  if (i >= turned) {
    const int dim = (i - turned) * Width;
    row.template move<Width>(dim < turn.before ? dim : turn.after + dim - turn.before);
    return;
  }
  if (Width > 1 && turn.apart == 1) {
    const int a = turn.first + i * Width;
    if (cosines == nullptr) {
      row.template move<Width>(a);
    } else if constexpr (Width > 1) {
      row.template turn_neighbours<Width>(a, cosines + i * (Width / 2), sines + i * (Width / 2));
    }
    return;
  }
  const int a = turn.first + i * (turn.apart == 1 ? 2 : Width), b = a + turn.apart;
  if (cosines == nullptr) {
    row.template move<Width>(a);
    row.template move<Width>(b);
  } else {
    row.template turn_apart<Width>(a, b, cosines + i * Width, sines + i * Width);
  }
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
