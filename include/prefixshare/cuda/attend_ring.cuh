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

/// The ring's place in a block's memory: notes, barriers and orders, then the slots' data, of which there are as many
/// as the device has room for. General: queries may turn, and a second part of each stays in shared memory.
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
  /// Two blocks fill an SM of sm_90 (227 KB) up to 128 dims. Keys and values are in two at once at least.
  static constexpr int kMostSlots = D <= 64 ? 8 : D <= 96 ? 6 : D <= 128 ? (General ? 4 : 5) : 4;
  static constexpr int kFewestSlots = 2;
  static constexpr int kFullAt = kMostSlots * static_cast<int>(sizeof(Notes));
  static constexpr int kEmptyAt = kFullAt + 8 * kMostSlots;
  static constexpr int kOrderedAt = kEmptyAt + 8 * kMostSlots;
  static constexpr int kOrdersAt = (kOrderedAt + 8 * kMostSlots + 15) / 16 * 16;
  static constexpr int kDataAt = (kOrdersAt + kMostSlots * static_cast<int>(sizeof(Order)) + 127) / 128 * 128;

  unsigned char* memory;
  int slots;

  PREFIXSHARE_DEVICE unsigned char* data(int slot) const { return memory + kDataAt + slot * kSlotBytes; }
  PREFIXSHARE_DEVICE Notes* notes(int slot) const { return reinterpret_cast<Notes*>(memory) + slot; }
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
    for (int slot = ptx::thread(); slot < slots; slot += ptx::threads()) {
      ptx::barrier_init(full(slot), 32 + 1);  // every lane's copies, and what the lanes wrote
      ptx::barrier_init(empty(slot), kMultipliers);
      ptx::barrier_init(ordered(slot), 1);
    }
    ptx::sync_block();
  }
};

/// A slot of the endless sequence of slots, and the parity of the barriers' phase in which it is filled.
struct RingPlace {
  int slot = 0;
  int parity = 0;

  PREFIXSHARE_DEVICE void advance(int slots) {
    if (++slot == slots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

/// The end of the ring that a warp which multiplies has.
template <int D, int Dv, bool General>
class RingReader {
  using Ring = AttendRing<D, Dv, General>;

 public:
  using Notes = typename Ring::Notes;

  explicit PREFIXSHARE_DEVICE RingReader(Ring ring) : ring_(ring) {}

  /// Waits for the next slot, which is this warp's until it lets go of it.
  PREFIXSHARE_DEVICE int take() {
    const int slot = at_.slot;
    ptx::barrier_wait(ring_.full(slot), at_.parity);
    at_.advance(ring_.slots);
    return slot;
  }
  PREFIXSHARE_DEVICE void let_go(int slot) const {
    ptx::sync_warp();  // all lanes have read
    if (ptx::lane() == 0) ptx::barrier_arrive(ring_.empty(slot));
  }
  PREFIXSHARE_DEVICE const Notes& notes(int slot) const { return *ring_.notes(slot); }
  PREFIXSHARE_DEVICE unsigned char* data(int slot) const { return ring_.data(slot); }

 private:
  Ring ring_;
  RingPlace at_;
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
