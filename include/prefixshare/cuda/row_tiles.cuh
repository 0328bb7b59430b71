// SPDX-License-Identifier: Apache-2.0
// The stream of row tiles that meet a key block: queries in the block's frame, output gradients, and what is known of
// each packed row. While one tile is multiplied, the next is on its way into shared memory, and the rows of the one
// after it are being looked up.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/gradient_products.cuh"
#include "prefixshare/cuda/key_walk.cuh"
#include "prefixshare/cuda/query_tile.cuh"
#include "prefixshare/cuda/tile.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr int kKeyGradientThreads = 256;

/// A tile of packed rows in shared memory. Of a row that is not there q and dO are zero.
template <int D, int Dv>
struct RowStage {
  static constexpr int kRows = 64;
  static constexpr int kOutputsAt = kRows * Tile<D>::kRowBytes;
  static constexpr int kVisibleAt = kOutputsAt + kRows * Tile<Dv>::kRowBytes;
  static constexpr int kLseAt = kVisibleAt + kRows * 8;
  static constexpr int kBytes = kLseAt + kRows * 8;
  static_assert(kBytes % 128 == 0);

  unsigned char* data;
  std::int32_t first_packed;  ///< of its run's tile

  PREFIXSHARE_DEVICE Tile<D> queries() const { return {data}; }
  PREFIXSHARE_DEVICE Tile<Dv> outputs() const { return {data + kOutputsAt}; }
  /// Which keys of the block each row sees.
  PREFIXSHARE_DEVICE std::uint64_t* visible() const { return reinterpret_cast<std::uint64_t*>(data + kVisibleAt); }
  PREFIXSHARE_DEVICE float* lse() const { return reinterpret_cast<float*>(data + kLseAt); }  ///< to base 2
  PREFIXSHARE_DEVICE float* row_dot() const { return lse() + kRows; }
};

template <class T, int D, int Dv>
class RowTiles {
 public:
  using Stage = RowStage<D, Dv>;

  /// Starts the first tile.
  PREFIXSHARE_DEVICE RowTiles(const AttendGradParams& p, const ImageKeyWork& work, unsigned char* memory)
      : p_(p), work_(work), memory_(memory), group_(p.fwd.Hq / p.fwd.Hkv) {
    open();
    for (int i = 0; i < 2; ++i) {
      if (i > 0) start();
      find();
    }
  }

  PREFIXSHARE_DEVICE bool done() const { return !comes_; }
  /// The tile on its way, once it is there for all threads; the next one starts. All that they did with the tile before
  /// is done.
  PREFIXSHARE_DEVICE Stage take() {
    ptx::copy_async_wait<0>();
    ptx::sync_block();
    const Stage taken = stage(coming_, coming_packed_);
    start();
    find();
    return taken;
  }

 private:
  // Four warps copy queries, sixteen rows each, the other four output gradients. Lane i of both looks up row i.
  static_assert(Stage::kRows == 4 * 16);

  PREFIXSHARE_DEVICE Stage stage(int i, std::int32_t first_packed) const {
    return {memory_ + i * Stage::kBytes, first_packed};
  }
  static PREFIXSHARE_DEVICE int first_row(int thread) { return thread / 32 % 4 * 16; }
  static PREFIXSHARE_DEVICE bool has_queries(int thread) { return thread / 32 < 4; }

  PREFIXSHARE_DEVICE const ImageKeySpan& span() const {
    return p_.fwd.plan.list<ImageKeySpan>(p_.fwd.plan.header().key_spans_at)[work_.first_span + span_];
  }
  PREFIXSHARE_DEVICE const ImageRun& run() const { return runs_of(p_.fwd)[span().run]; }

  /// Turns to the next span of which some keys are there.
  PREFIXSHARE_DEVICE void open() {
    packed_ = 0;
    for (; span_ < work_.span_count; ++span_) {
      const ImageRun& r = run();
      begin_ = r.token > work_.token ? r.token : work_.token;
      const std::int32_t run_end = r.token + keys_of(p_.fwd, r), end = work_.token + work_.length;
      keys_ = (run_end < end ? run_end : end) - begin_;
      if (keys_ > 0) return;
    }
  }
  PREFIXSHARE_DEVICE void find() {
    found_ = span_ < work_.span_count;
    if (!found_) return;
    packed_found_ = packed_;
    const ImageRun& r = run();
    const std::int32_t rows = span().tile_rows * group_;
    count_ = rows - packed_ < Stage::kRows ? rows - packed_ : Stage::kRows;
    const int thread = ptx::opaque(ptx::thread());
    find_row(r, first_row(thread) + thread % 16);
    packed_ += Stage::kRows;
    if (packed_ >= rows) {
      ++span_;
      open();
    }
  }
  PREFIXSHARE_DEVICE void find_row(const ImageRun& r, int m) {
    const AttendParams& a = p_.fwd;
    const std::int32_t packed = packed_ + (m < count_ ? m : 0);
    instances_ = r.first_instance;
    const ImageInstance& row = instances_of(a)[instances_ + packed / group_];
    head_ = work_.kv_head * group_ + packed % group_;
    row_ = row.row;
    lse_ = kNoRow;
    row_dot_ = 0;
    visible_ = 0;
    if (m >= count_) return;
    lse_ = a.lse[row_ * a.lse_stride[0] + head_ * a.lse_stride[1]] * kLog2E;
    row_dot_ = p_.row_dot[row_ * a.Hq + head_];
    if (lse_ == kEmptyLse) return;
    const std::int32_t order = order_of(a, row);
    visible_ = visible_keys(a, r, begin_ - r.token, keys_, packed / group_, order) << (begin_ - work_.token);
    if (work_.length < 64) visible_ |= ~std::uint64_t{0} << work_.length;
  }

  PREFIXSHARE_DEVICE void start() {
    comes_ = found_;
    if (!found_) return;
    coming_ ^= 1;
    coming_packed_ = packed_found_;
    const Stage to = stage(coming_, coming_packed_);
    const int thread = ptx::opaque(ptx::thread()), m = first_row(thread) + thread % 16;
    if (has_queries(thread)) {
      if (thread % 32 < 16) to.visible()[m] = visible_;
      copy_queries(to.queries(), thread);
    } else {
      if (thread % 32 < 16) to.lse()[m] = lse_, to.row_dot()[m] = row_dot_;
      copy(to.outputs(), thread, p_.dout, p_.dout_stride);
    }
    ptx::copy_async_commit();
  }
  PREFIXSHARE_DEVICE void copy_queries(Tile<D> to, int thread) const {
    const AttendParams& a = p_.fwd;
    if (a.rope.pairs == 0) return copy(to, thread, a.q, a.q_stride);
    ImageItem rows{};
    rows.first_packed = static_cast<std::uint16_t>(packed_found_);
    rows.packed_count = static_cast<std::uint8_t>(count_);
    rows.kv_head = static_cast<std::uint16_t>(work_.kv_head);
    const QueryRows16<T, D> queries(a, rows, first_row(thread), instances_);
    const Tile<D> mine = {to.data + first_row(thread) * Tile<D>::kRowBytes};
    queries.copy(mine);
    if (queries.turn()) queries.turn_into(mine);
  }
  /// Copies this warp's rows of a tile; those that are not there become zero.
  template <int Width>
  PREFIXSHARE_DEVICE void copy(Tile<Width> to, int thread, const void* base, const std::int64_t (&stride)[2]) const {
    const unsigned char* row = static_cast<const unsigned char*>(base) + 2 * (row_ * stride[0] + head_ * stride[1]);
    copy_rows<16>(to, thread % 32, first_row(thread), row, 0, count_ - first_row(thread));
  }

  const AttendGradParams& p_;
  const ImageKeyWork& work_;
  unsigned char* memory_;
  std::int32_t group_;

  std::int32_t span_ = 0, packed_ = 0;  // the tile after the one that was found
  std::int32_t begin_ = 0, keys_ = 0;   // of the span, the keys that block and run have in common

  // The tile that was found, and the row of it that this lane has.
  bool found_ = false;
  std::int32_t packed_found_ = 0, count_ = 0;
  std::int32_t instances_ = 0, head_ = 0;
  std::int64_t row_ = 0;
  float lse_ = 0, row_dot_ = 0;
  std::uint64_t visible_ = 0;

  // The tile on its way.
  bool comes_ = false;
  int coming_ = 1;
  std::int32_t coming_packed_ = 0;
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
