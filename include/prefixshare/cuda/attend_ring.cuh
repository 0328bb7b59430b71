// SPDX-License-Identifier: Apache-2.0
// The ring of slots in shared memory through which two warps of a block of the forward hand queries, keys and values to
// the warps that multiply them. A slot is full once all that belongs to it has arrived, and empty once every warp that
// multiplies has let go of it.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/key_columns.cuh"
#include "prefixshare/cuda/tile.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

// Warps of a block: those that multiply, then the two that feed them.
inline constexpr int kMultipliers = kAttendThreads / 32;
inline constexpr int kKeyFeeder = kMultipliers, kValueFeeder = kMultipliers + 1;
inline constexpr int kForwardThreads = 32 * (kMultipliers + 2);

/// Among the warps that multiply.
PREFIXSHARE_DEVICE void sync_multipliers([[maybe_unused]] ptx::Here here = ptx::Here::current()) {
  ptx::sync_named(1, kAttendThreads, here);
}

enum class SlotKind : std::int32_t { queries, keys, values, end };
/// What ends with a tile of keys.
enum class Closes : std::int32_t { nothing, chunk, item };

/// What goes with the queries of an item in one frame.
struct QueryNotes {
  ImageItem item;
  std::int32_t row[kWideRows];  ///< query row of each packed row
  double position[kWideRows];   ///< by which they turn, with a RoPE table
};
/// What goes with a tile of keys.
template <int Keys, bool General>
struct KeyNotes {
  std::int32_t columns;  ///< keys of the tile; 0: none, and no values follow
  Closes closes;
  std::int32_t masked;                   ///< some row does not see some column; else `visible` is not written
  std::uint64_t visible[kWideRows];      ///< columns that each packed row sees
  KeyColumn column[General ? Keys : 1];  ///< if some pool has scales or a bias
};
template <int Keys, bool General>
struct alignas(16) SlotNotes {
  SlotKind kind;
  union {
    QueryNotes queries;
    KeyNotes<Keys, General> keys;
  };
};

/// What the warp that feeds keys tells the one that feeds values of a tile.
template <int Keys>
struct ValueOrder {
  std::int32_t columns;  ///< -1: no more tiles
  std::int32_t slot, parity;
  const unsigned char* row[Keys];  ///< where the value of each column begins
};

/// The ring's place in a block's memory. General: queries may turn, and a second part of each stays in shared memory.
template <int D, int Dv, bool General>
struct AttendRing {
  /// 64 keys a tile; 32 where a head has so many dims that a row's sums fill the registers.
  static constexpr int kKeys = D > 192 ? 32 : 64;
  static constexpr std::uint64_t kAllKeys = ~std::uint64_t{0} >> (64 - kKeys);
  using Notes = SlotNotes<kKeys, General>;
  using Order = ValueOrder<kKeys>;

  static constexpr int kSlotBytes = kKeys * (D > Dv ? Tile<D>::kRowBytes : Tile<Dv>::kRowBytes);
  /// Queries that a slot has room for, and slots that those of a WIDE item take.
  static constexpr int kQueryRows = kKeys;
  static constexpr int kQuerySlots = kWideRows / kQueryRows;
  /// Two blocks fill an SM of sm_90 (227 KB) up to 128 dims.
  static constexpr int kSlots = D <= 64 ? 8 : D <= 96 ? 6 : D <= 128 ? (General ? 4 : 5) : 4;
  static constexpr int kNotesAt = kSlots * kSlotBytes;
  static constexpr int kFullAt = kNotesAt + kSlots * static_cast<int>(sizeof(Notes));
  static constexpr int kEmptyAt = kFullAt + 8 * kSlots;
  static constexpr int kOrderedAt = kEmptyAt + 8 * kSlots;
  static constexpr int kOrdersAt = (kOrderedAt + 8 * kSlots + 15) / 16 * 16;
  static constexpr int kBytes = (kOrdersAt + kSlots * static_cast<int>(sizeof(Order)) + 127) / 128 * 128;

  unsigned char* memory;

  PREFIXSHARE_DEVICE unsigned char* data(int slot) const { return memory + slot * kSlotBytes; }
  PREFIXSHARE_DEVICE Notes* notes(int slot) const { return reinterpret_cast<Notes*>(memory + kNotesAt) + slot; }
  PREFIXSHARE_DEVICE ptx::Barrier* full(int slot) const {
    return reinterpret_cast<ptx::Barrier*>(memory + kFullAt) + slot;
  }
  PREFIXSHARE_DEVICE ptx::Barrier* empty(int slot) const {
    return reinterpret_cast<ptx::Barrier*>(memory + kEmptyAt) + slot;
  }
  /// Orders go round, too. One is read before the slots of so many later ones are empty.
  PREFIXSHARE_DEVICE ptx::Barrier* ordered(int i) const {
    return reinterpret_cast<ptx::Barrier*>(memory + kOrderedAt) + i;
  }
  PREFIXSHARE_DEVICE Order* order(int i) const { return reinterpret_cast<Order*>(memory + kOrdersAt) + i; }

  /// Waits until a slot is empty.
  PREFIXSHARE_DEVICE void claim(int slot, int parity) const { ptx::barrier_wait(empty(slot), parity ^ 1); }
  /// A slot has all that belongs to it once the copies of this warp so far have arrived.
  PREFIXSHARE_DEVICE void fill(int slot, SlotKind kind) const {
    if (ptx::lane() == 0) notes(slot)->kind = kind;
    ptx::copy_async_arrive(full(slot));
    ptx::sync_warp();
    if (ptx::lane() == 0) ptx::barrier_arrive(full(slot));
  }
  /// By all threads of the block.
  PREFIXSHARE_DEVICE void init() const {
    for (int slot = ptx::thread(); slot < kSlots; slot += ptx::threads()) {
      ptx::barrier_init(full(slot), 32 + 1);  // every lane's copies, and what the lanes wrote
      ptx::barrier_init(empty(slot), kMultipliers);
      ptx::barrier_init(ordered(slot), 1);
    }
    ptx::sync_block();
  }
};

/// A slot of the endless sequence of slots, and the parity of the barriers' phase in which it is filled.
template <int Slots>
struct RingPlace {
  int slot = 0;
  int parity = 0;

  PREFIXSHARE_DEVICE void advance() {
    if (++slot == Slots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
