// SPDX-License-Identifier: Apache-2.0
// Rows that are rotated on their way from one place to another: what rope and kv_append share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/detail/convert.hpp"
#include "prefixshare/detail/rope_leaf.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr std::int64_t kPairChunk = 64;  ///< pairs whose cosines and sines are held at a time, on the stack

/// The angles of pairs [first, first + count) of one token, used for all of its heads.
template <class Acc>
struct AngleChunk {
  std::int64_t first = 0;
  std::int64_t count = 0;
  Acc cosines[kPairChunk];
  Acc sines[kPairChunk];
};

/// Where a row comes from and goes to (the same place is fine), and what it is divided by before it is stored.
template <class Acc>
struct RowMove {
  DType from;
  const char* source;
  DType to;
  char* target;
  Acc divisor = 1;
};

/// Calls f(AngleChunk) for all pairs of the table, in chunks, at one position.
template <class Acc, class F>
void for_each_angle_chunk(const RopeTable& table, std::int64_t position, double scale, F&& f) noexcept {
  AngleChunk<Acc> chunk;
  const std::int64_t pairs = table.dim / 2;
  for (chunk.first = 0; chunk.first < pairs; chunk.first += kPairChunk) {
    chunk.count = std::min(kPairChunk, pairs - chunk.first);
    angles(table, chunk.first, chunk.count, position, scale, chunk.cosines, chunk.sines);
    f(chunk);
  }
}

/// Moves the elements [first, first + count) of a row without a rotation; nothing to do for a row that stays.
template <class Acc>
void move_elements(const RowMove<Acc>& row, std::int64_t first, std::int64_t count) noexcept {
  const char* source = row.source + first * size_of(row.from);
  char* target = row.target + first * size_of(row.to);
  if (row.divisor == Acc(1)) {
    if (source != target) copy_row<Acc>(row.from, source, row.to, target, count);
    return;
  }
  Acc buffer[kPairChunk];
  for (std::int64_t i = 0; i < count; i += kPairChunk) {
    const std::int64_t n = std::min(kPairChunk, count - i);
    load_row(row.from, source + i * size_of(row.from), n, buffer);
    for (std::int64_t d = 0; d < n; ++d) buffer[d] /= row.divisor;
    store_row(row.to, target + i * size_of(row.to), n, buffer);
  }
}

/// Moves and turns the rotary dims that a chunk of angles covers.
template <class Acc>
void move_rotated(const RowMove<Acc>& row, const RopeTable& table, const AngleChunk<Acc>& chunk) noexcept {
  Acc buffer[2 * kPairChunk];
  const std::int64_t n = chunk.count;
  const bool half = table.pairing == RopePairing::half;
  // Two runs of n elements, the first and the second of each pair, or one run of 2 n.
  const std::int64_t a = table.offset + (half ? chunk.first : 2 * chunk.first);
  const std::int64_t b = a + (half ? table.dim / 2 : n);
  load_row(row.from, row.source + a * size_of(row.from), n, buffer);
  load_row(row.from, row.source + b * size_of(row.from), n, buffer + n);
  if (half) {
    rotate_pairs<1>(buffer, buffer + n, n, chunk.cosines, chunk.sines);
  } else {
    rotate_pairs<2>(buffer, buffer + 1, n, chunk.cosines, chunk.sines);
  }
  if (row.divisor != Acc(1)) {
    for (std::int64_t d = 0; d < 2 * n; ++d) buffer[d] /= row.divisor;
  }
  store_row(row.to, row.target + a * size_of(row.to), n, buffer);
  store_row(row.to, row.target + b * size_of(row.to), n, buffer + n);
}

/// Moves the dims of a row of D elements that the table leaves alone.
template <class Acc>
void move_unrotated(const RowMove<Acc>& row, const RopeTable& table, std::int64_t D) noexcept {
  const std::int64_t end = std::int64_t{table.offset} + table.dim;
  move_elements(row, 0, table.offset);
  move_elements(row, end, D - end);
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
