// SPDX-License-Identifier: Apache-2.0
// The stream of key tiles that a block works through: while one tile is multiplied, the next is on its way into shared
// memory, and the places of the one after it are being looked up. The stream goes on from item to item.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/key_columns.cuh"
#include "prefixshare/cuda/key_walk.cuh"
#include "prefixshare/cuda/tile.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// A tile of keys and values in shared memory, and which of its columns each packed row sees.
template <int D, int Dv>
struct KeyStage {
  /// 64 keys; 32 where a head has so many dims that two blocks would not fit an SM otherwise.
  static constexpr int kKeys = D > 192 ? 32 : 64;
  static constexpr int kValuesAt = kKeys * Tile<D>::kRowBytes;
  static constexpr int kVisibleAt = kValuesAt + kKeys * Tile<Dv>::kRowBytes;
  static constexpr int kColumnsAt = kVisibleAt + kWideRows * 8;
  static constexpr int kBytes = kColumnsAt + kKeys * static_cast<int>(sizeof(KeyColumn));
  static constexpr std::uint64_t kAll = ~std::uint64_t{0} >> (64 - kKeys);
  static_assert(kBytes % 128 == 0);

  unsigned char* data;

  PREFIXSHARE_DEVICE Tile<D> keys() const { return {data}; }
  PREFIXSHARE_DEVICE Tile<Dv> values() const { return {data + kValuesAt}; }
  PREFIXSHARE_DEVICE std::uint64_t* visible() const { return reinterpret_cast<std::uint64_t*>(data + kVisibleAt); }
  PREFIXSHARE_DEVICE KeyColumn* columns() const { return reinterpret_cast<KeyColumn*>(data + kColumnsAt); }
};

/// What a warp notes about the stream in shared memory: registers are few.
template <int Keys>
struct alignas(16) StreamNotes {
  // The item that the walk is in, and the tile that was found in it.
  KeyWalk<Keys> walk;
  std::int32_t item, end;  // items of the block end there
  std::int32_t kv_head, instances, columns;
  // The tile on its way, or kNoItem.
  std::int32_t coming_item, coming_instances, coming_stage;

  static constexpr std::int32_t kNoItem = -1;
};

/// items(p, i), asked in ascending order, is item i: its runs, its packed rows, its KV head.
template <int D, int Dv, class Items>
class KeyTiles {
 public:
  using Stage = KeyStage<D, Dv>;
  using Notes = StreamNotes<Stage::kKeys>;
  static constexpr int kBytes = 2 * Stage::kBytes + 4 * static_cast<int>(sizeof(Notes));

  /// Starts the first tile of items [first, end), in memory of kBytes.
  PREFIXSHARE_DEVICE KeyTiles(const AttendParams& p, unsigned char* memory, std::int32_t first, std::int32_t end,
                              const Items& items)
      : p_(p), memory_(memory), items_(items), has_columns_(has_key_columns(p)) {
    Notes n{};
    n.item = first - 1;
    n.end = end;
    n.coming_stage = 1;
    for (int i = 0; i < 2; ++i) {
      if (i > 0) start(&n);
      find(&n);
    }
    note(n);
  }

  /// The item that the tile on its way belongs to; -1: none comes.
  PREFIXSHARE_DEVICE std::int32_t item() const { return notes()->coming_item; }
  /// Row instances that it meets.
  PREFIXSHARE_DEVICE std::int32_t instances() const { return notes()->coming_instances; }
  PREFIXSHARE_DEVICE bool has_columns() const { return has_columns_; }

  /// The tile on its way, once it is there for all threads; the next one starts. All that they did with the tile
  /// before is done.
  PREFIXSHARE_DEVICE Stage take() {
    ptx::copy_async_wait<0>();
    ptx::sync_block();
    Notes n = *notes();
    const Stage taken = stage(n.coming_stage);
    start(&n);
    find(&n);
    note(n);
    return taken;
  }

 private:
  // A warp copies a quarter of the keys and values. Lane i looks up where key i of them lies, and the lanes after those
  // where the values do.
  static constexpr int kWarpKeys = Stage::kKeys / 4;

  PREFIXSHARE_DEVICE Stage stage(int i) const { return {memory_ + i * Stage::kBytes}; }
  PREFIXSHARE_DEVICE Notes* notes() const {
    return reinterpret_cast<Notes*>(memory_ + 2 * Stage::kBytes) + ptx::warp();
  }
  PREFIXSHARE_DEVICE void note(const Notes& n) const {
    ptx::sync_warp();  // they have been read
    if (ptx::lane() == 0) *notes() = n;
    ptx::sync_warp();
  }
  static PREFIXSHARE_DEVICE int warp_column(int thread) { return thread / 32 * kWarpKeys; }
  static PREFIXSHARE_DEVICE int lane_column(int thread) { return warp_column(thread) + thread % kWarpKeys; }
  static PREFIXSHARE_DEVICE bool lane_has_value(int thread) { return thread / kWarpKeys % 2 == 1; }

  /// Looks up the places of the next tile and what this thread's row sees of it. The loads have as long as the products
  /// of a tile take.
  PREFIXSHARE_DEVICE void find(Notes* n) {
    while (n->walk.done()) {
      if (++n->item >= n->end) return;
      open(items_(p_, n->item), n);
    }
    if (n->walk.instances(p_) != n->instances) meet(n->walk.instances(p_), n);
    const int column = lane_column(ptx::opaque(ptx::thread()));
    place_ = {0, 0};
    pool_ = 0;
    visible_ = row_ < 0 ? Stage::kAll : 0;
    n->columns = n->walk.next(p_, [&](const ImageRun& run, std::int32_t key, std::int32_t begin, std::int32_t count) {
      if (column >= begin && column < begin + count) {
        place_ = place_of(p_, run, key + column - begin);
        pool_ = run.pool;
      }
      if (row_ >= 0) visible_ |= visible_keys(p_, run, key, count, row_, order_) << begin;
    });
  }
  /// Turns to an item: this thread, if it is one of the first kWideRows, has a packed row of it.
  PREFIXSHARE_DEVICE void open(const ImageItem& item, Notes* n) {
    n->walk.start(p_, item);
    n->kv_head = item.kv_head;
    n->instances = -1;
    const int m = ptx::opaque(ptx::thread());
    row_ = m < item.packed_count ? (item.first_packed + m) / p_.group : -1;
  }
  PREFIXSHARE_DEVICE void meet(std::int32_t instances, Notes* n) {
    n->instances = instances;
    if (row_ >= 0) order_ = order_of(p_, instances_of(p_)[instances + row_]);
  }

  /// Starts the copies of the tile that was found.
  PREFIXSHARE_DEVICE void start(Notes* n) {
    n->coming_item = n->item < n->end ? n->item : Notes::kNoItem;
    if (n->item >= n->end) return;
    n->coming_stage ^= 1;
    n->coming_instances = n->instances;
    const Stage to = stage(n->coming_stage);
    const int thread = ptx::opaque(ptx::thread());
    if (thread < kWideRows) to.visible()[thread] = visible_;
    // Of eight keys a warp, two lanes look each up; one describes it.
    if (has_columns_ && thread % 32 < kWarpKeys) to.columns()[lane_column(thread)] = describe(thread, *n);
    const unsigned char* row = address(lane_has_value(thread), n->kv_head);
    const int left = n->columns - warp_column(thread);
    // What has no key becomes zero: what a probability of zero is multiplied by must be finite.
    copy_rows<kWarpKeys>(to.keys(), thread % 32, warp_column(thread), row, 0, left);
    copy_rows<kWarpKeys>(to.values(), thread % 32, warp_column(thread), row, kWarpKeys, left);
    ptx::copy_async_commit();
  }
  /// Where the key, or the value, that this lane looked up begins.
  PREFIXSHARE_DEVICE const unsigned char* address(bool value, std::int32_t kv_head) const {
    const PoolParams& pool = p_.pools[pool_];
    const std::int64_t offset =
        value ? offset_of(pool.v_stride, place_, kv_head) : offset_of(pool.k_stride, place_, kv_head);
    return static_cast<const unsigned char*>(value ? pool.v : pool.k) + 2 * offset;
  }
  PREFIXSHARE_DEVICE KeyColumn describe(int thread, const Notes& n) const {
    if (lane_column(thread) >= n.columns) return {nullptr, 0, 1.0f, 1.0f};
    return key_column(p_, p_.pools[pool_], place_, n.kv_head);
  }

  const AttendParams& p_;
  unsigned char* memory_;
  Items items_;
  bool has_columns_;

  // Of the tile that was found: this thread's row, and the place of its key or value.
  std::int32_t row_ = -1;  // number in the tile of rows; -1: none
  std::int32_t order_ = 0;
  std::uint64_t visible_ = 0;
  KeyPlace place_ = {0, 0};
  std::int32_t pool_ = 0;
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
