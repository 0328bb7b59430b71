// SPDX-License-Identifier: Apache-2.0
// dQ of up to 64 packed rows by a block of four warps: the rows stay, sixteen with each warp, and all keys that they
// meet go by, in the order of the plan.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/gradient_products.cuh"
#include "prefixshare/cuda/plain_gradients.cuh"
#include "prefixshare/cuda/query_tile.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// The rows of a work in one of its spans, as the item of a forward that KeyTiles and QueryRows16 know.
PREFIXSHARE_DEVICE ImageItem item_of(const AttendParams& p, const ImageQueryWork& work, const ImageQuerySpan& span) {
  ImageItem item{};
  item.first_run = span.first_run;
  item.run_count = span.run_count;
  item.first_packed = static_cast<std::uint16_t>(span.offset * p.group + work.first_packed);
  item.packed_count = static_cast<std::uint8_t>(work.packed_count);
  item.kv_head = work.kv_head;
  return item;
}
PREFIXSHARE_DEVICE const ImageQueryWork* query_works_of(const AttendParams& p) {
  return p.plan.list<ImageQueryWork>(p.plan.header().query_work_at);
}
PREFIXSHARE_DEVICE const ImageQuerySpan* query_spans_of(const AttendParams& p) {
  return p.plan.list<ImageQuerySpan>(p.plan.header().query_spans_at);
}

/// The spans of works that follow each other, for KeyTiles: item 0 is the first span of the first work.
class QuerySpans {
 public:
  explicit PREFIXSHARE_DEVICE QuerySpans(std::int32_t first_work) : work_(first_work) {}

  PREFIXSHARE_DEVICE ImageItem operator()(const AttendParams& p, std::int32_t i) {
    const ImageQueryWork* works = query_works_of(p);
    while (i >= first_ + works[work_].span_count) first_ += works[work_++].span_count;
    return item_of(p, works[work_], query_spans_of(p)[works[work_].first_span + i - first_]);
  }

 private:
  std::int32_t work_;
  std::int32_t first_ = 0;  // item of its first span
};

/// Dynamic shared memory of a block: two tiles of keys and values, the queries, and the output gradients where they
/// find no room in registers.
template <int D, int Dv>
struct QueryGradientMemory {
  static constexpr bool kOutputsInRegisters = D <= 128;
  static constexpr int kQueriesAt = (KeyTiles<D, Dv, QuerySpans>::kBytes + 127) / 128 * 128;
  static constexpr int kOutputsAt = kQueriesAt + kWideRows * Tile<D>::kRowBytes;
  static constexpr int kBytes = kOutputsAt + (kOutputsInRegisters ? 0 : kWideRows * Tile<Dv>::kRowBytes);
  static_assert(Dv <= D, "output gradients pass through the memory of the queries");
  static_assert(PlainTile<kAttendThreads>::bytes(D, Dv) <= kBytes);
};

template <class T, int D, int Dv>
class QueryGradient {
  using Memory = QueryGradientMemory<D, Dv>;
  using Stage = KeyStage<D, Dv>;
  using Tiles = KeyTiles<D, Dv, QuerySpans>;
  static constexpr int kPartKeys = kGradientPart<D>;
  static constexpr std::uint32_t kPartSeen = ~0u >> (32 - kPartKeys);
  static constexpr int kBlocks = kPartKeys / 8;

 public:
  /// `first_item` is the item of the work's first span.
  PREFIXSHARE_DEVICE QueryGradient(const AttendGradParams& p, Tiles* tiles, unsigned char* memory,
                                   const ImageQueryWork& work, std::int32_t first_item)
      : p_(p), a_(p.fwd), tiles_(*tiles), memory_(memory), work_(work), first_item_(first_item) {}

  /// Returns whether dQ was written: not if something not finite met a pair that is hidden.
  PREFIXSHARE_DEVICE bool run() {
    load_rows();
    load_outputs();
    bool odd = false;
    while (comes()) {
      const std::int32_t frame = coming_frame();
      load_queries();
      do {
        odd = absorb(tiles_.take()) || odd;
      } while (comes() && (a_.rope.pairs == 0 || coming_frame() == frame));
      if (a_.rope.pairs > 0) leave(frame);
    }
    if (ptx::any_block(odd)) return false;
    write();
    return true;
  }

 private:
  static PREFIXSHARE_DEVICE int first_row() { return ptx::warp() * 16; }
  PREFIXSHARE_DEVICE Tile<D> queries() const {
    return {memory_ + Memory::kQueriesAt + first_row() * Tile<D>::kRowBytes};
  }
  PREFIXSHARE_DEVICE Tile<Dv> outputs() const {
    return {memory_ + (Memory::kOutputsInRegisters ? Memory::kQueriesAt : Memory::kOutputsAt) +
            first_row() * Tile<Dv>::kRowBytes};
  }

  /// Query row and head of packed row m of the work.
  struct Row {
    std::int64_t row;
    std::int32_t head;
  };
  PREFIXSHARE_DEVICE Row row_of(int m) const {
    const std::int32_t group = a_.Hq / a_.Hkv, packed = work_.first_packed + (m < work_.packed_count ? m : 0);
    const std::int32_t* rows = a_.plan.list<std::int32_t>(a_.plan.header().group_rows_at) + work_.first_row;
    return {rows[packed / group], work_.kv_head * group + packed % group};
  }

  /// What is known of rows g and g + 8.
  PREFIXSHARE_DEVICE void load_rows() {
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int m = first_row() + ptx::lane() / 4 + 8 * r;
      const Row row = row_of(m);
      const float lse = a_.lse[row.row * a_.lse_stride[0] + row.head * a_.lse_stride[1]];
      lse_[r] = m >= work_.packed_count || lse == kEmptyLse ? kNoRow : lse * kLog2E;
      row_dot_[r] = p_.row_dot[row.row * a_.Hq + row.head];
    }
  }
  PREFIXSHARE_DEVICE void load_outputs() {
    const Row row = row_of(first_row() + ptx::lane() % 16);
    const unsigned char* from =
        static_cast<const unsigned char*>(p_.dout) + 2 * (row.row * p_.dout_stride[0] + row.head * p_.dout_stride[1]);
    ptx::sync_warp();  // what these rows held has been read
    copy_rows<16>(outputs(), ptx::lane(), 0, from, 0, work_.packed_count - first_row());
    ptx::copy_async_commit();
    ptx::copy_async_wait<0>();
    ptx::sync_warp();
    if constexpr (Memory::kOutputsInRegisters) {
      PREFIXSHARE_UNROLL
      for (int step = 0; step < Dv / 16; ++step) load_left(outputs_[step], outputs(), ptx::lane(), 0, step);
    }
  }

  /// Whether keys come that the rows meet, and in which frame: the instance of the group's first row there.
  PREFIXSHARE_DEVICE bool comes() const {
    const std::int32_t item = tiles_.item() - first_item_;
    return item >= 0 && item < work_.span_count;
  }
  PREFIXSHARE_DEVICE const ImageQuerySpan& span() const {
    return query_spans_of(a_)[work_.first_span + tiles_.item() - first_item_];
  }
  PREFIXSHARE_DEVICE std::int32_t coming_frame() const { return tiles_.instances() + span().offset; }
  /// Turns the sums from a frame to that of the keys that come, or to the caller's.
  PREFIXSHARE_DEVICE void leave(std::int32_t frame) {
    const double from = position(frame);
    const bool ends = !comes();
    turn(ends ? -from : position(coming_frame()) - from, ends ? turn_gain(a_) : 1.0f);
  }
  /// Queries in the frame of the keys that come.
  PREFIXSHARE_DEVICE void load_queries() {
    const ImageItem rows = item_of(a_, work_, span());
    const QueryRows16<T, D> load(a_, rows, first_row(), tiles_.instances());
    ptx::sync_warp();  // what these rows held has been read
    load.copy(queries());
    if (load.turn()) load.turn_into(queries());
  }
  /// Angle position of row lane % 16 in a frame.
  PREFIXSHARE_DEVICE double position(std::int32_t frame) const {
    const int m = ptx::opaque(ptx::thread()) / 32 * 16 + ptx::opaque(ptx::lane()) % 16;
    const std::int32_t packed = work_.first_packed + (m < work_.packed_count ? m : 0);
    return turn_position(a_, instances_of(a_)[frame + packed / (a_.Hq / a_.Hkv)]);
  }
  /// Turns the sums of row i of this warp's by what lane i says, times `gain`, in the memory of the queries.
  PREFIXSHARE_DEVICE void turn(double by, float gain) {
    const int lane = ptx::opaque(ptx::lane());
    float* const rows = reinterpret_cast<float*>(queries().data);  // [8, D]
    PREFIXSHARE_UNROLL
    for (int half = 0; half < 2; ++half) {
      ptx::sync_warp();
      each_sum(lane, half, [&](float& sum, int at) { rows[at] = sum; });
      ptx::sync_warp();
      PREFIXSHARE_ROLL
      for (int r = 0; r < 8; ++r) turn_row(rows + r * D, ptx::shuffle(by, 8 * half + r), gain, lane);
      ptx::sync_warp();
      each_sum(lane, half, [&](float& sum, int at) { sum = rows[at]; });
    }
  }
  PREFIXSHARE_DEVICE void turn_row(float* row, double by, float gain, int lane) const {
    if (by == 0 && gain == 1.0f) return;
    PREFIXSHARE_ROLL
    for (int i = lane; i < a_.rope.pairs; i += 32) {
      float sine, cosine;
      turn_angle(a_, i, by, gain, &sine, &cosine);
      const TurnPair at = turn_pair(a_.rope, i);
      const float x = row[at.first], y = row[at.second];
      row[at.first] = fmaf(x, cosine, -(y * sine));
      row[at.second] = fmaf(y, cosine, x * sine);
    }
  }
  /// Calls f(sum, place in [8, D]) for this lane's sums of rows [8 half, 8 half + 8).
  template <class F>
  PREFIXSHARE_DEVICE void each_sum(int lane, int half, F&& f) {
    PREFIXSHARE_UNROLL
    for (int b = 0; b < D / 8; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 2; ++c) f(sum_[b][2 * half + c], lane / 4 * D + 8 * b + 2 * (lane % 4) + c);
    }
  }

  /// Adds a tile of keys. Returns whether that was no use: see has_not_finite.
  PREFIXSHARE_DEVICE bool absorb(Stage stage) {
    const int lane = ptx::opaque(ptx::lane());
    const std::uint64_t* words = stage.visible() + first_row() + lane / 4;
    const std::uint64_t seen[2] = {words[0], words[8]};
    const bool masked = ptx::ballot((seen[0] & seen[1] & Stage::kAll) != Stage::kAll) != 0;
    PREFIXSHARE_ROLL
    for (int first = 0; first < Stage::kKeys; first += kPartKeys) {
      const std::uint32_t part[2] = {static_cast<std::uint32_t>(seen[0] >> first),
                                     static_cast<std::uint32_t>(seen[1] >> first)};
      absorb_part(stage, first, part, masked, lane);
    }
    return masked && has_not_finite<T, Stage::kKeys>(stage.keys(), lane);
  }
  /// Adds keys [first, first + kPartKeys) of a tile, of which rows g and g + 8 see those of `seen`.
  PREFIXSHARE_DEVICE void absorb_part(Stage stage, int first, const std::uint32_t (&seen)[2], bool masked, int lane) {
    if (ptx::ballot(((seen[0] | seen[1]) & kPartSeen) != 0) == 0) return;
    const Tile<D> keys = {stage.keys().data + first * Tile<D>::kRowBytes};
    const Tile<Dv> values = {stage.values().data + first * Tile<Dv>::kRowBytes};
    float s[kBlocks][4] = {}, dp[kBlocks][4] = {};
    multiply_rows<T>(s, queries(), 0, keys, lane);
    multiply_outputs(values, dp, lane);
    if (tiles_.has_columns() || a_.softcap > 0) {
      score_with_options(stage.columns() + first, s, dp, lane);
    } else {
      score(s, dp);
    }
    if (masked) hide(seen, s, lane);
    multiply_columns<T>(sum_, s, keys, lane);
  }
  PREFIXSHARE_DEVICE void multiply_outputs(Tile<Dv> values, float (&dp)[kBlocks][4], int lane) const {
    if constexpr (Memory::kOutputsInRegisters) {
      PREFIXSHARE_UNROLL
      for (int step = 0; step < Dv / 16; ++step) multiply_step<T>(dp, outputs_[step], values, step, lane);
    } else {
      multiply_rows<T>(dp, outputs(), 0, values, lane);
    }
  }

  /// Products to the gradients of products, as far as keys, not scaled, are to be multiplied by them.
  PREFIXSHARE_DEVICE void score(float (&s)[kBlocks][4], const float (&dp)[kBlocks][4]) const {
    const float scale = a_.scale * kLog2E;
    PREFIXSHARE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) {
        s[b][c] = ptx::exp2(fmaf(s[b][c], scale, -lse_[c / 2])) * (dp[b][c] - row_dot_[c / 2]);
      }
    }
  }
  PREFIXSHARE_DEVICE void score_with_options(const KeyColumn* columns, float (&s)[kBlocks][4],
                                             const float (&dp)[kBlocks][4], int lane) const {
    const ScoreRule rule(a_);
    const std::int32_t group = a_.Hq / a_.Hkv, packed = work_.first_packed + first_row() + lane / 4;
    const std::int32_t head[2] = {work_.kv_head * group + packed % group, work_.kv_head * group + (packed + 8) % group};
    PREFIXSHARE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      ptx::sync_warp();  // else what is known of all keys is loaded at once, into registers that are not there
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) {
        KeyColumn key = {nullptr, 0, 1.0f, 1.0f};
        if (tiles_.has_columns()) key = columns[8 * b + 2 * (lane % 4) + c % 2];
        float slope;
        const float p = ptx::exp2(rule.logit(s[b][c], key, head[c / 2], &slope) - lse_[c / 2]);
        s[b][c] = p * (dp[b][c] * key.v_scale - row_dot_[c / 2]) * slope * key.k_scale;
      }
    }
  }
  static PREFIXSHARE_DEVICE void hide(const std::uint32_t (&seen)[2], float (&s)[kBlocks][4], int lane) {
    PREFIXSHARE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) {
        if ((seen[c / 2] >> (8 * b + 2 * (lane % 4) + c % 2) & 1) == 0) s[b][c] = 0.0f;
      }
    }
  }

  PREFIXSHARE_DEVICE void write() {
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int m = first_row() + ptx::lane() / 4 + 8 * r;
      if (m >= work_.packed_count) continue;
      if (lse_[r] == kNoRow) clear(r);
      const Row row = row_of(m);
      put_row<T, D / 8>(sum_, r, a_.scale, p_.dq_dtype, p_.dq, row.row * p_.dq_stride[0] + row.head * p_.dq_stride[1],
                        p_.accumulate != 0);
    }
  }
  /// A row that saw nothing has no gradient, whatever its keys hold.
  PREFIXSHARE_DEVICE void clear(int r) {
    PREFIXSHARE_UNROLL
    for (int b = 0; b < D / 8; ++b) sum_[b][2 * r] = sum_[b][2 * r + 1] = 0.0f;
  }

  const AttendGradParams& p_;
  const AttendParams& a_;
  Tiles& tiles_;
  unsigned char* memory_;
  const ImageQueryWork& work_;
  std::int32_t first_item_;
  float lse_[2], row_dot_[2];  // of rows g and g + 8; lse to base 2
  std::int32_t frame_ = -1;    // instance of the group's first row whose frame queries and sums are in
  std::uint32_t outputs_[Memory::kOutputsInRegisters ? Dv / 16 : 1][4];
  float sum_[D / 8][4] = {};
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
