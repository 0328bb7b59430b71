// SPDX-License-Identifier: Apache-2.0
// Leaves of the rotary embedding: the cosines and sines of a position, and the rotation of a row by them.
#pragma once

#include <cmath>
#include <cstdint>

#include "prefixshare/rope.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// cos and sin of position * inv_freq[i], times `scale`, for pairs [first, first + count), written from index 0 on.
/// Angles and products in f64, then rounded once to Acc. A negative position turns back.
template <class Acc>
void angles(const RopeTable& table, std::int64_t first, std::int64_t count, std::int64_t position, double scale,
            Acc* cosines, Acc* sines) noexcept {
  for (std::int64_t i = 0; i < count; ++i) {
    const double angle = static_cast<double>(position) * table.inv_freq[first + i];
    cosines[i] = static_cast<Acc>(std::cos(angle) * scale);
    sines[i] = static_cast<Acc>(std::sin(angle) * scale);
  }
}

/// The same for all dim / 2 pairs of the table.
template <class Acc>
void angles(const RopeTable& table, std::int64_t position, double scale, Acc* cosines, Acc* sines) noexcept {
  angles(table, 0, table.dim / 2, position, scale, cosines, sines);
}

/// (a, b) = (a cos - b sin, b cos + a sin) for `count` pairs, a and b `Step` elements apart from pair to pair.
template <int Step, class Acc>
void rotate_pairs(Acc* a, Acc* b, std::int64_t count, const Acc* cosines, const Acc* sines) noexcept {
  for (std::int64_t i = 0; i < count; ++i) {
    const Acc x = a[i * Step];
    const Acc y = b[i * Step];
    a[i * Step] = x * cosines[i] - y * sines[i];
    b[i * Step] = y * cosines[i] + x * sines[i];
  }
}

/// Turns the rotary dims of one row of D elements by the angles of all pairs; the other dims stay.
template <class Acc>
void rotate(Acc* row, const RopeTable& table, const Acc* cosines, const Acc* sines) noexcept {
  Acc* const rotary = row + table.offset;
  const std::int64_t pairs = table.dim / 2;
  if (table.pairing == RopePairing::half) {
    rotate_pairs<1>(rotary, rotary + pairs, pairs, cosines, sines);
  } else {
    rotate_pairs<2>(rotary, rotary + 1, pairs, cosines, sines);
  }
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
