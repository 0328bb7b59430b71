// SPDX-License-Identifier: Apache-2.0
// Queries in shared memory turned into the frame of the keys that come, and split where 16 bits do not hold what came
// out.
#pragma once

#include <cmath>
#include <cstdint>

#include "prefixshare/cuda/attend_ring.cuh"
#include "prefixshare/cuda/query_tile.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// What of a turned query goes into a 16-bit operand: the nearest value, or the nearest to what that left. Products
/// with both give what the query in f32 would.
enum class QueryPart { nearest, rest };

PREFIXSHARE_DEVICE bool turns(const AttendParams& p, const QueryNotes& n, int m) {
  return m < n.item.packed_count && p.rope.pairs > 0 && (n.position[m] != 0 || turn_gain(p) != 1.0f);
}
/// Whether any of the packed rows [first, first + 16) turns: by a warp.
PREFIXSHARE_DEVICE bool any_turns(const AttendParams& p, const QueryNotes& n, int first) {
  return ptx::ballot(turns(p, n, first + ptx::lane() % 16)) != 0;
}

/// The nearest 16-bit value, and the nearest to what that leaves.
template <class T>
PREFIXSHARE_DEVICE void put_parts(float x, std::uint16_t* nearest, std::uint16_t* rest) {
  *nearest = ptx::from_float<T>(x);
  *rest = ptx::from_float<T>(x - ptx::to_float<T>(*nearest));
}

/// Turns rows [first, first + count) of a tile where they are, each to the nearest 16-bit values; what these leave of
/// them goes into `rest`. By a warp. Rows at one position, such as the heads of a group, follow each other: their
/// angles are computed once.
template <class T, int D>
PREFIXSHARE_DEVICE void turn_rows(const AttendParams& p, const QueryNotes& n, Tile<D> rows, Tile<D> rest, int first,
                                  int count) {
  const int lane = ptx::opaque(ptx::lane());
  for (int i = lane; i < count * Tile<D>::kChunks; i += 32) {
    *reinterpret_cast<ptx::Words4*>(rest.chunk(first + i / Tile<D>::kChunks, i % Tile<D>::kChunks)) = {0, 0, 0, 0};
  }
  ptx::sync_warp();
  const float gain = turn_gain(p);
  for (int pair = lane; pair < p.rope.pairs; pair += 32) {
    const TurnPair at = turn_pair(p.rope, pair);
    bool known = false;
    double position = 0;
    float sine = 0, cosine = 0;
    for (int m = first; m < first + count; ++m) {
      if (!turns(p, n, m)) continue;
      if (!known || n.position[m] != position) turn_angle(p, pair, n.position[m], gain, &sine, &cosine);
      known = true;
      position = n.position[m];
      const TurnedPair x = turned(ptx::to_float<T>(*rows.element(m, at.first)),
                                  ptx::to_float<T>(*rows.element(m, at.second)), sine, cosine);
      put_parts<T>(x.first, rows.element(m, at.first), rest.element(m, at.first));
      put_parts<T>(x.second, rows.element(m, at.second), rest.element(m, at.second));
    }
  }
  ptx::sync_warp();
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
