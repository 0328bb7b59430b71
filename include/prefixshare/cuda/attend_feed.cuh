// SPDX-License-Identifier: Apache-2.0
// The warps that feed a block of the forward. One takes items from the queue of the launch, walks over their keys, and
// copies queries and keys into the block's ring: while the copies of a tile are issued, the next one is already being
// looked up. Another copies the values that go with them.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/attend_ring.cuh"
#include "prefixshare/cuda/query_tile.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// The items of a launch, in the order in which they start. A block takes the item of its own number first, then, each
/// time it starts one, a number for the next: the counter has as many visitors as there are items, and is zero again
/// after the last.
class ItemQueue {
 public:
  PREFIXSHARE_DEVICE explicit ItemQueue(const AttendParams& p)
      : counter_(p.queue), count_(p.plan.header().item_count) {}

  /// The next item's number, by a whole warp; -1: there is none.
  PREFIXSHARE_DEVICE std::int32_t take() {
    const std::int32_t taken = ptx::shuffle(next_, 0);
    if (taken >= count_) return -1;
    if (ptx::lane() == 0) next_ = ptx::blocks() + ptx::take_number(counter_, count_ - 1);
    return taken;
  }

 private:
  std::int32_t* counter_;
  std::int32_t count_;
  std::int32_t next_ = ptx::block();  // lane 0's
};

/// Rounds of copies of rows whose addresses a warp that feeds has at once: it has registers for eight.
template <int Width, int Rows, int Rounds = kChunkRounds<Width, Rows>>
inline constexpr int kRoundsAtOnce = Rounds % 8 == 0   ? 8
                                     : Rounds % 6 == 0 ? 6
                                                       : 4;

/// Copies rows to a tile, by a warp: 32 i + l is the row that begins where rows[i] of lane l says. Those from `count`
/// on become zero: what a probability of zero is multiplied by must be finite.
template <int Width, int LaneRows>
PREFIXSHARE_DEVICE void copy_lane_rows(Tile<Width> to, const unsigned char* const (&rows)[LaneRows],
                                       std::int32_t count) {
  PREFIXSHARE_UNROLL
  for (int i = 0; i < LaneRows; ++i)
    copy_rows<32, kRoundsAtOnce<Width, 32>>(to, ptx::lane(), 32 * i, rows[i], 0, count - 32 * i);
}

template <int D, int Dv, bool General>
class AttendFeed {
  using Ring = AttendRing<D, Dv, General>;
  static constexpr int kKeys = Ring::kKeys;
  static constexpr int kLaneKeys = kKeys / 32;      // keys that a lane looks up: every 32nd
  static constexpr int kLaneRows = kWideRows / 32;  // and packed rows

 public:
  PREFIXSHARE_DEVICE AttendFeed(const AttendParams& p, Ring ring)
      : p_(p),
        ring_(ring),
        items_(items_of(p)),
        all_instances_(instances_of(p)),
        queue_(p),
        walk_{KeptRun(p), 0, 0},
        lane_(ptx::lane()),
        has_columns_(General && has_key_columns(p)) {}

  PREFIXSHARE_DEVICE void run() {
    find();
    while (index_ >= 0) send();
    claim();
    fill(SlotKind::end);
    order(-1, {});
  }

 private:
  /// A tile of keys, or none where an item or a chunk ends without: what is the same in all lanes, what this lane's
  /// rows see of it, and where this lane's keys lie.
  struct Found {
    std::int32_t columns;
    Closes closes;
    bool masked;
    std::int32_t kv_head;
    std::uint64_t visible[kLaneRows];
    KeyPlace place[kLaneKeys];
    std::int32_t pool[kLaneKeys];
  };

  // ---- What comes next

  /// Finds the next tile, or the end of an item or chunk that has no keys. Loads that this starts are waited for when
  /// the tile is sent.
  PREFIXSHARE_DEVICE void find() {
    brings_queries_ = opens_ = false;
    if (chunk_ == chunks_) {
      index_ = queue_.take();
      if (index_ < 0) return;
      open();
    }
    found_.columns = 0;
    found_.masked = false;
    found_.kv_head = item_.kv_head;
    if (in_chunk()) {
      if (opens_ || walk_.instances(p_) != instances_) meet(walk_.instances(p_));
      look_up();
    } else if (opens_) {
      meet(item_.instance);
    }
    found_.closes = in_chunk() ? Closes::nothing : ++chunk_ < chunks_ ? Closes::chunk : Closes::item;
  }
  /// Whether the next key lies in the present chunk.
  PREFIXSHARE_DEVICE bool in_chunk() const {
    return !walk_.done() && (p_.invariant == 0 || walk_.chunk(p_) - first_chunk_ == chunk_);
  }
  PREFIXSHARE_DEVICE void open() {
    opens_ = true;
    item_ = items_[index_];
    walk_.start(p_, item_);
    chunk_ = 0;
    chunks_ = chunk_count(p_, item_);
    first_chunk_ = p_.invariant != 0 ? first_chunk(p_, item_) : 0;
  }
  /// Turns to a frame: this lane's packed rows in it.
  PREFIXSHARE_DEVICE void meet(std::int32_t instances) {
    brings_queries_ = true;
    instances_ = instances;
    const std::int32_t group = p_.group;
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneRows; ++i) {
      const int m = lane_ + 32 * i;
      const std::int32_t packed = item_.first_packed + (m < item_.packed_count ? m : 0);
      tile_row_[i] = m < item_.packed_count ? packed / group : -1;
      head_[i] = item_.kv_head * group + packed % group;
      const ImageInstance& row = all_instances_[instances + packed / group];
      row_[i] = row.row;
      order_[i] = order_of(p_, row);
      if constexpr (General) position_[i] = turn_position(p_, row);
    }
  }
  /// Places of this lane's keys of the next tile, and what its rows see of it.
  PREFIXSHARE_DEVICE void look_up() {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneKeys; ++i) found_.place[i] = {0, 0}, found_.pool[i] = 0;
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneRows; ++i) found_.visible[i] = tile_row_[i] < 0 ? Ring::kAllKeys : 0;
    found_.columns = walk_.next(p_, [&](const ImageRun& run, std::int32_t key, std::int32_t begin, std::int32_t count) {
      PREFIXSHARE_UNROLL
      for (int i = 0; i < kLaneKeys; ++i) {
        const std::int32_t column = lane_ + 32 * i;
        if (column < begin || column >= begin + count) continue;
        found_.place[i] = walk_.place(p_, key + column - begin);
        found_.pool[i] = run.pool;
      }
      PREFIXSHARE_UNROLL
      for (int i = 0; i < kLaneRows; ++i) {
        if (tile_row_[i] >= 0) found_.visible[i] |= visible_keys(p_, run, key, count, tile_row_[i], order_[i]) << begin;
      }
    });
    bool all = true;
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneRows; ++i) all = all && found_.visible[i] == Ring::kAllKeys;
    found_.masked = ptx::ballot(!all) != 0;
  }

  // ---- Into the ring

  /// Sends what was found, and finds what comes after it.
  PREFIXSHARE_DEVICE void send() {
    if (brings_queries_) send_queries();
    const Found tile = found_;
    const unsigned char *keys[kLaneKeys], *values[kLaneKeys];
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneKeys; ++i) {
      const PoolParams& pool = p_.pools[tile.pool[i]];
      keys[i] = static_cast<const unsigned char*>(pool.k) + 2 * offset_of(pool.k_stride, tile.place[i], tile.kv_head);
      values[i] = static_cast<const unsigned char*>(pool.v) + 2 * offset_of(pool.v_stride, tile.place[i], tile.kv_head);
    }
    find();
    const RingPlace keys_at = at_;
    claim();
    note(tile, &ring_.notes(at_.slot)->keys);
    at_.advance(ring_.slots);
    if (tile.columns > 0) {
      order(tile.columns, values);
      copy_lane_rows(Tile<D>{ring_.data(keys_at.slot)}, keys, tile.columns);
    }
    ring_.fill(keys_at.slot, SlotKind::keys);
  }
  /// Has the ring's next slot filled with values.
  PREFIXSHARE_DEVICE void order(std::int32_t columns, const unsigned char* const (&rows)[kLaneKeys]) {
    typename Ring::Order* const o = ring_.order(order_at_.slot);
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneKeys; ++i) o->row[lane_ + 32 * i] = rows[i];
    if (lane_ == 0) {
      o->columns = columns;
      o->slot = at_.slot;
      o->parity = at_.parity;
    }
    ptx::sync_warp();
    if (lane_ == 0) ptx::barrier_arrive(ring_.ordered(order_at_.slot));
    order_at_.advance(ring_.slots);
    at_.advance(ring_.slots);
  }
  PREFIXSHARE_DEVICE void note(const Found& tile, KeyNotes<kKeys, General>* n) const {
    if (lane_ == 0) {
      n->columns = tile.columns;
      n->closes = tile.closes;
      n->masked = tile.masked;
    }
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneRows && tile.masked; ++i) n->visible[lane_ + 32 * i] = tile.visible[i];
    if constexpr (General) note_columns(tile, n->column);
  }
  PREFIXSHARE_DEVICE void note_columns(const Found& tile, KeyColumn (&column)[kKeys]) const {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneKeys && has_columns_; ++i) {
      column[lane_ + 32 * i] = lane_ + 32 * i < tile.columns
                                   ? key_column(p_, p_.pools[tile.pool[i]], tile.place[i], tile.kv_head)
                                   : KeyColumn{nullptr, 0, 1.0f, 1.0f};
    }
  }
  PREFIXSHARE_DEVICE void send_queries() {
    const unsigned char* rows[kLaneRows];
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneRows; ++i) {
      rows[i] = static_cast<const unsigned char*>(p_.q) + 2 * (row_[i] * p_.q_stride[0] + head_[i] * p_.q_stride[1]);
    }
    claim();
    note(&ring_.notes(at_.slot)->queries);
    if (item_.wide == 0) {
      copy_rows<kNarrowRows, kRoundsAtOnce<D, kNarrowRows>>(Tile<D>{ring_.data(at_.slot)}, lane_, 0, rows[0], 0,
                                                            item_.packed_count);
      return fill(SlotKind::queries);
    }
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneRows; ++i) {
      if (i > 0 && 32 * i % Ring::kQueryRows == 0) {
        fill(SlotKind::queries);
        claim();
        note(&ring_.notes(at_.slot)->queries);
      }
      copy_rows<32, kRoundsAtOnce<D, 32>>(Tile<D>{ring_.data(at_.slot)}, lane_, 32 * i % Ring::kQueryRows, rows[i], 0,
                                          item_.packed_count - 32 * i);
    }
    fill(SlotKind::queries);
  }
  PREFIXSHARE_DEVICE void note(QueryNotes* n) const {
    if (lane_ == 0) n->item = item_;
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kLaneRows; ++i) {
      n->row[lane_ + 32 * i] = row_[i];
      if constexpr (General) n->position[lane_ + 32 * i] = position_[i];
    }
  }

  PREFIXSHARE_DEVICE void claim() const { ring_.claim(at_.slot, at_.parity); }
  PREFIXSHARE_DEVICE void fill(SlotKind kind) {
    ring_.fill(at_.slot, kind);
    at_.advance(ring_.slots);
  }

  const AttendParams& p_;
  Ring ring_;
  const ImageItem* items_;
  const ImageInstance* all_instances_;
  ItemQueue queue_;
  KeyWalk<kKeys, KeptRun> walk_;
  RingPlace at_, order_at_;
  int lane_;
  bool has_columns_;

  // The item of what was found.
  ImageItem item_ = {};
  std::int32_t index_ = -1;
  std::int32_t chunk_ = 0, chunks_ = 0, first_chunk_ = 0;  // chunk_: the next one's number
  std::int32_t instances_ = -1;

  Found found_ = {};
  bool opens_ = false, brings_queries_ = false;
  // This lane's packed rows in the present frame; tile_row_: number in the tile of rows, -1: none.
  std::int32_t tile_row_[kLaneRows], head_[kLaneRows], row_[kLaneRows], order_[kLaneRows];
  double position_[kLaneRows];
};

/// The warp that copies the values that the other one orders.
template <int D, int Dv, bool General>
class ValueFeed {
  using Ring = AttendRing<D, Dv, General>;
  static constexpr int kLaneKeys = Ring::kKeys / 32;

 public:
  explicit PREFIXSHARE_DEVICE ValueFeed(Ring ring) : ring_(ring) {}

  PREFIXSHARE_DEVICE void run() const {
    for (RingPlace at;; at.advance(ring_.slots)) {
      ptx::barrier_wait(ring_.ordered(at.slot), at.parity);
      const typename Ring::Order& order = *ring_.order(at.slot);
      if (order.columns < 0) return;
      const unsigned char* rows[kLaneKeys];
      PREFIXSHARE_UNROLL
      for (int i = 0; i < kLaneKeys; ++i) rows[i] = order.row[ptx::lane() + 32 * i];
      const int slot = order.slot, columns = order.columns;
      ring_.claim(slot, order.parity);
      copy_lane_rows(Tile<Dv>{ring_.data(slot)}, rows, columns);
      ring_.fill(slot, SlotKind::values);
    }
  }

 private:
  Ring ring_;
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
