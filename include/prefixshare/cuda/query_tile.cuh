// SPDX-License-Identifier: Apache-2.0
// Queries of a warp's sixteen packed rows: gathered, and turned into the frame of the keys that come.
#pragma once

#include <cmath>
#include <cstdint>

#include "prefixshare/cuda/key_walk.cuh"
#include "prefixshare/cuda/tile.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// Angle position and gain of an instance, as detail::QueryRows::turn has them.
PREFIXSHARE_DEVICE double turn_position(const AttendParams& p, const ImageInstance& r) {
  if (p.q_rotated != 0 || p.rope.pairs == 0) return -static_cast<double>(r.delta);
  return static_cast<double>(std::int64_t{r.position} - shortfall(p, r.length_slot) - r.delta);
}
PREFIXSHARE_DEVICE float turn_gain(const AttendParams& p) {
  return p.q_rotated != 0 || p.rope.pairs == 0 ? 1.0f : p.rope.mscale;
}
/// Sine and cosine of a pair's angle, times the gain. The angle is reduced in f64, to half a turn at most.
PREFIXSHARE_DEVICE void turn_angle(const AttendParams& p, int pair, double position, float gain, float* sine,
                                   float* cosine) {
  double turns = position * p.rope.turns[pair];
  turns -= rint(turns);
  ptx::sincospi(static_cast<float>(2.0 * turns), sine, cosine);
  *sine *= gain;
  *cosine *= gain;
}
/// The two elements of a row that a pair turns.
struct TurnPair {
  int first, second;
};
PREFIXSHARE_DEVICE TurnPair turn_pair(const RopeParams& rope, int pair) {
  if (rope.interleaved != 0) return {rope.offset + 2 * pair, rope.offset + 2 * pair + 1};
  return {rope.offset + pair, rope.offset + pair + rope.pairs};
}

/// Both, turned.
struct TurnedPair {
  float first, second;
};
PREFIXSHARE_DEVICE TurnedPair turned(float x, float y, float sine, float cosine) {
  return {fmaf(x, cosine, -(y * sine)), fmaf(y, cosine, x * sine)};
}

/// A warp's packed rows [first, first + 16) of an item in the frame of a list of instances.
template <class T, int D>
class QueryRows16 {
 public:
  PREFIXSHARE_DEVICE QueryRows16(const AttendParams& p, const ImageItem& item, int first, std::int32_t instances)
      : p_(p), lane_(ptx::opaque(ptx::lane())), count_(item.packed_count - first) {
    const std::int32_t group = p.group;
    const int m = lane_ % 16;
    const std::int32_t packed = item.first_packed + (m < count_ ? first + m : 0);
    const ImageInstance& row = instances_of(p)[instances + packed / group];
    const std::int64_t head = item.kv_head * group + packed % group;
    source_ = static_cast<const unsigned char*>(p.q) + 2 * (row.row * p.q_stride[0] + head * p.q_stride[1]);
    position_ = m < count_ ? turn_position(p, row) : 0;
    turns_ = m < count_ && p.rope.pairs > 0 && (position_ != 0 || turn_gain(p) != 1.0f);
  }

  /// Whether any of the rows turns.
  PREFIXSHARE_DEVICE bool turn() const { return ptx::ballot(turns_) != 0; }

  /// Copies the rows as they are into 16 rows of a tile; rows that the item does not have are zero.
  PREFIXSHARE_DEVICE void copy(Tile<D> to) const {
    PREFIXSHARE_UNROLL_4
    for (int i = 0; i < kChunkRounds<D, 16>; ++i) {
      round_chunk<D, 16>(i, lane_, 0, source_, 0, [&](int r, int at, const unsigned char* from) {
        *reinterpret_cast<ptx::Words4*>(to.data + at) =
            r < count_ ? *reinterpret_cast<const ptx::Words4*>(from) : ptx::Words4{0, 0, 0, 0};
      });
    }
    ptx::sync_warp();
  }

  /// Puts the turned elements of every row that turns into the tile. Rows at one position, such as the heads of a
  /// group, follow each other: their angles are computed once.
  PREFIXSHARE_DEVICE void turn_into(Tile<D> to) const {
    const float gain = turn_gain(p_);
    for (int pair = lane_; pair - lane_ < p_.rope.pairs; pair += 32) {
      bool known = false;
      double at = 0;
      float sine = 0, cosine = 0;
      for (int r = 0; r < 16; ++r) {
        const bool turns = ptx::shuffle(static_cast<int>(turns_), r) != 0;
        const double position = ptx::shuffle(position_, r);
        const unsigned char* from = ptx::shuffle(source_, r);
        if (!turns || pair >= p_.rope.pairs) continue;
        if (!known || position != at) turn_angle(p_, pair, position, gain, &sine, &cosine);
        known = true;
        at = position;
        turn_one(to, r, turn_pair(p_.rope, pair), reinterpret_cast<const std::uint16_t*>(from), sine, cosine);
      }
    }
    ptx::sync_warp();
  }

 private:
  PREFIXSHARE_DEVICE void turn_one(Tile<D> to, int r, TurnPair pair, const std::uint16_t* from, float sine,
                                   float cosine) const {
    const TurnedPair x = turned(ptx::to_float<T>(from[pair.first]), ptx::to_float<T>(from[pair.second]), sine, cosine);
    *to.element(r, pair.first) = ptx::from_float<T>(x.first);
    *to.element(r, pair.second) = ptx::from_float<T>(x.second);
  }

  const AttendParams& p_;
  int lane_;
  int count_;                    // of the 16 rows, how many the item has; also negative
  const unsigned char* source_;  // of row lane % 16
  double position_;
  bool turns_;
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
