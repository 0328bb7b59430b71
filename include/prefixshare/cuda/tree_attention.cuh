// SPDX-License-Identifier: Apache-2.0
// The forward of tree_attention on matrix units of sm_80 and newer, for q, K and V in one 16-bit type. A block of four
// warps works through its items. Where an item has many packed rows, each warp has 16 of them against all keys (WIDE);
// where it has at most 16, each warp has all of them against a part of the keys or values (NARROW).
#pragma once

#include <cstdint>
#include <type_traits>

#include "prefixshare/cuda/key_tiles.cuh"
#include "prefixshare/cuda/query_tile.cuh"
#include "prefixshare/cuda/row_states.cuh"
#include "prefixshare/cuda/softmax.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// How four warps share out an item, for heads of D and Dv dims.
template <int D, int Dv, bool Wide>
struct ItemShape {
  using Stage = KeyStage<D, Dv>;
  static constexpr int kValueWarps = !Wide && Stage::kKeys < 64 ? 2 : 1;
  static constexpr int kKeyWarps = Wide ? 1 : 4 / kValueWarps;
  static constexpr int kKeys = Stage::kKeys / kKeyWarps;      // of a tile, for one warp
  static constexpr int kValueBlocks = Dv / 8 / kValueWarps;   // blocks of eight dims of v that a warp sums up
  static constexpr int kOutBlocks = Wide ? Dv / 8 : Dv / 32;  // and that it finishes
  using Bits = std::conditional_t<(kKeys > 32), std::uint64_t, std::uint32_t>;  // a bit for each of the keys
  static constexpr Bits kAllKeys = static_cast<Bits>(~std::uint64_t{0} >> (64 - kKeys));
  static_assert(kKeys % 16 == 0 && Dv % 32 == 0 && kValueBlocks % 2 == 0);
};

/// Dynamic shared memory of a block: two tiles of keys and values, then 64 rows for each part of the queries that does
/// not stay in registers. There is room for one part in registers, and beside 256 dims of o not even for that.
template <int D, int Dv, bool Turns>
struct BlockMemory {
  static constexpr bool kNearestInRegisters = D <= 192;
  static constexpr int kQueryBytes = kWideRows * Tile<D>::kRowBytes;
  static constexpr int kNearestAt = KeyTiles<D, Dv>::kBytes;
  static constexpr int kRestAt = kNearestAt + (kNearestInRegisters ? 0 : kQueryBytes);
  static constexpr int kBytes = kRestAt + (Turns ? kQueryBytes : 0);
};

/// A warp's operands of q.
template <class T, int D, int Dv, bool Turns>
class QueryOperands {
  using Memory = BlockMemory<D, Dv, Turns>;
  static constexpr bool kInRegisters = Memory::kNearestInRegisters;

 public:
  /// `memory` is the block's.
  explicit PREFIXSHARE_DEVICE QueryOperands(unsigned char* memory) : memory_(memory) {}

  /// Loads packed rows [first, first + 16) of an item. `free` is memory for as many rows for each warp, in use until
  /// this returns.
  PREFIXSHARE_DEVICE void load(const AttendParams& p, const ImageItem& item, int first, std::int32_t instances,
                               unsigned char* free) {
    const QueryRows16<T, D> rows(p, item, first, instances);
    const Tile<D> nearest = kInRegisters ? of_warp(free) : of_warp(memory_ + Memory::kNearestAt);
    turns_ = Turns && rows.turn();
    rows.copy(nearest);
    if (turns_) {
      rows.turn_into(nearest, QueryPart::nearest);
      rows.clear(of_warp(memory_ + Memory::kRestAt));
      rows.turn_into(of_warp(memory_ + Memory::kRestAt), QueryPart::rest);
    }
    if constexpr (kInRegisters) {
      const int lane = ptx::opaque(ptx::lane());
      PREFIXSHARE_UNROLL
      for (int step = 0; step < D / 16; ++step) load_left(registers_[step], nearest, lane, 0, step);
      ptx::sync_warp();
    }
  }
  /// Whether there is a rest.
  PREFIXSHARE_DEVICE bool turns() const { return turns_; }

  template <QueryPart Part>
  PREFIXSHARE_DEVICE void operand(int lane, int step, std::uint32_t (&a)[4]) const {
    if constexpr (Part == QueryPart::nearest && kInRegisters) {
      PREFIXSHARE_UNROLL
      for (int i = 0; i < 4; ++i) a[i] = registers_[step][i];
    } else {
      load_left(a, of_warp(memory_ + (Part == QueryPart::nearest ? Memory::kNearestAt : Memory::kRestAt)), lane, 0,
                step);
    }
  }

 private:
  static PREFIXSHARE_DEVICE Tile<D> of_warp(unsigned char* rows) {
    return {rows + ptx::warp() * 16 * Tile<D>::kRowBytes};
  }

  // Set even before they are loaded: else they would be alive through every other item, too.
  std::uint32_t registers_[kInRegisters ? D / 16 : 1][4] = {};
  unsigned char* memory_;
  bool turns_ = false;
};

template <class T, int D, int Dv, bool Turns, bool Wide>
class AttendItem {
  using Shape = ItemShape<D, Dv, Wide>;
  using Stage = KeyStage<D, Dv>;
  using Bits = typename Shape::Bits;

 public:
  PREFIXSHARE_DEVICE AttendItem(const AttendParams& p, KeyTiles<D, Dv>* tiles, unsigned char* memory,
                                std::int32_t index)
      : p_(p),
        tiles_(*tiles),
        lane_(ptx::opaque(ptx::lane())),
        warp_(ptx::opaque(ptx::warp())),
        scales_values_(tiles->scales_values()),
        index_(index),
        queries_(memory) {}

  PREFIXSHARE_DEVICE void run() {
    const std::int32_t chunks = Wide ? chunk_count(p_, item()) : 1;
    float folded[2] = {kEmptyLse, kEmptyLse}, lse[2];
    for (std::int32_t chunk = 0; chunk < chunks; ++chunk) {
      absorb_chunk(chunk);
      if constexpr (!Wide) combine();
      finish(lse);
      if (folds(chunks)) {
        fold(folded, lse, chunk == 0);
      } else {
        emit(lse, chunk);
      }
    }
    if (folds(chunks)) {
      unfold();
      emit(folded, 0);
    }
    if (item().group_count > 0) arrive(p_, item(), reinterpret_cast<std::int32_t*>(tiles_.free().data));
  }

 private:
  PREFIXSHARE_DEVICE const ImageItem& item() const { return items_of(p_)[index_]; }
  PREFIXSHARE_DEVICE int first_row() const { return Wide ? warp_ * 16 : 0; }
  PREFIXSHARE_DEVICE int first_key() const { return warp_ % Shape::kKeyWarps * Shape::kKeys; }
  PREFIXSHARE_DEVICE int first_value() const { return Wide ? 0 : warp_ / Shape::kKeyWarps * Shape::kValueBlocks; }
  PREFIXSHARE_DEVICE int first_out() const { return Wide ? 0 : warp_ * Shape::kOutBlocks; }

  /// The state of the keys of a chunk.
  PREFIXSHARE_DEVICE void absorb_chunk(std::int32_t chunk) {
    state_.clear();
    while (tiles_.goes_on(index_, chunk)) {
      if (tiles_.instances() != loaded_) load_queries();
      absorb(tiles_.take());
    }
  }
  PREFIXSHARE_DEVICE void load_queries() {
    loaded_ = tiles_.instances();
    ptx::sync_block();  // what the free stage held has been read
    queries_.load(p_, item(), first_row(), loaded_, tiles_.free().data);
  }

  PREFIXSHARE_DEVICE void absorb(Stage stage) {
    lane_ = ptx::opaque(lane_);  // what follows from it in this tile is of no use later
    float s[Shape::kKeys / 8][4] = {};
    multiply<QueryPart::nearest>(stage.keys(), s);
    if constexpr (Turns) {
      if (queries_.turns()) multiply<QueryPart::rest>(stage.keys(), s);
    }
    to_logits(stage, s);
    // Bit i: whether a row, g or g + 8, sees this warp's key i.
    const std::uint64_t* words = stage.visible() + first_row() + lane_ / 4;
    const Bits seen[2] = {static_cast<Bits>(words[0] >> first_key()), static_cast<Bits>(words[8] >> first_key())};
    const bool masked = ptx::ballot((~(seen[0] & seen[1]) & Shape::kAllKeys) != 0) != 0;
    if (masked) hide(seen, s);
    state_.absorb(s);
    if (scales_values_) scale_values(stage, seen, s);
    Probabilities p;
    pack(s, p);
    const Bits withheld = masked || scales_values_ ? keys_to_withhold(stage.values(), seen) : 0;
    if (withheld == 0 && !scales_values_) {
      add_values<false>(stage.values(), p, 0);
    } else {
      add_values_with_care(stage.values(), s, p, seen, withheld);
    }
  }

  /// s += q k, of one part of q.
  template <QueryPart Part>
  PREFIXSHARE_DEVICE void multiply(Tile<D> keys, float (&s)[Shape::kKeys / 8][4]) const {
    PREFIXSHARE_UNROLL
    for (int step = 0; step < D / 16; ++step) {
      std::uint32_t a[4];
      queries_.template operand<Part>(lane_, step, a);
      PREFIXSHARE_UNROLL
      for (int b = 0; b < Shape::kKeys / 8; b += 2) {
        std::uint32_t k[4];
        load_right(k, keys, lane_, first_key() + 8 * b, step);
        multiply_add_pair<T>(s[b], s[b + 1], a, k);
      }
    }
  }

  /// Products to logits: scales, soft cap, bias; to base 2.
  PREFIXSHARE_DEVICE void to_logits(Stage stage, float (&s)[Shape::kKeys / 8][4]) const {
    if (tiles_.has_columns() || p_.softcap > 0) return to_logits_with_options(stage, s);
    const float scale = p_.scale * kLog2E;
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kKeys / 8; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) s[b][c] *= scale;
    }
  }
  PREFIXSHARE_DEVICE void to_logits_with_options(Stage stage, float (&s)[Shape::kKeys / 8][4]) const {
    const std::int32_t group = p_.group, first = item().first_packed + first_row() + lane_ / 4;
    const std::int32_t base = item().kv_head * group, head[2] = {base + first % group, base + (first + 8) % group};
    const float cap = p_.softcap, inverse_cap = cap > 0 ? ptx::reciprocal(cap) : 0;
    const KeyColumn* columns = tiles_.has_columns() ? stage.columns() : nullptr;
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kKeys / 8; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) {
        float x = s[b][c] * p_.scale;
        if (columns != nullptr) x *= columns[column_of(b, c)].k_scale;
        if (cap > 0) x = cap * tanhf(x * inverse_cap);
        if (columns != nullptr) x += columns[column_of(b, c)].bias_of(head[c / 2]);
        s[b][c] = x * kLog2E;
      }
    }
  }
  /// Column of a tile that element c of block b of this lane's results stands for.
  PREFIXSHARE_DEVICE int column_of(int b, int c) const { return first_key() + 8 * b + 2 * (lane_ % 4) + c % 2; }
  PREFIXSHARE_DEVICE bool sees(const Bits (&seen)[2], int b, int c) const {
    return (seen[c / 2] >> (2 * (lane_ % 4)) >> (8 * b + c % 2) & 1) != 0;
  }

  PREFIXSHARE_DEVICE void hide(const Bits (&seen)[2], float (&s)[Shape::kKeys / 8][4]) const {
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kKeys / 8; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) s[b][c] = sees(seen, b, c) ? s[b][c] : kEmptyLse;
    }
  }
  /// Probabilities as left operands, 16 keys each.
  using Probabilities = std::uint32_t[Shape::kKeys / 16][4];
  static PREFIXSHARE_DEVICE void pack(const float (&s)[Shape::kKeys / 8][4], Probabilities& p) {
    PREFIXSHARE_UNROLL
    for (int step = 0; step < Shape::kKeys / 16; ++step) pack_left<T>(p[step], s[2 * step], s[2 * step + 1]);
  }

  /// The values' scales go into the probabilities; that of a key which a row does not see may be NaN.
  PREFIXSHARE_DEVICE void scale_values(Stage stage, const Bits (&seen)[2], float (&s)[Shape::kKeys / 8][4]) const {
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kKeys / 8; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) {
        if (sees(seen, b, c)) s[b][c] *= stage.columns()[column_of(b, c)].v_scale;
      }
    }
  }
  /// o += p v where some values are not finite or have scales. A probability of 1 is no longer 1 with a scale: what the
  /// rounding to 16 bits leaves of it is added, too.
  PREFIXSHARE_DEVICE void add_values_with_care(Tile<Dv> values, float (&s)[Shape::kKeys / 8][4], Probabilities& p,
                                               const Bits (&seen)[2], Bits withheld) {
    Probabilities rest;
    PREFIXSHARE_UNROLL
    for (int step = 0; step < Shape::kKeys / 16; ++step) subtract_left<T>(s[2 * step], s[2 * step + 1], p[step]);
    pack(s, rest);
    add_withheld(values, p, seen, withheld);
    PREFIXSHARE_ROLL
    for (int part = 0; part < (scales_values_ ? 2 : 1); ++part) {
      add_values<true>(values, p, withheld);
      PREFIXSHARE_UNROLL
      for (int i = 0; i < Shape::kKeys / 4; ++i) p[i / 4][i % 4] = rest[i / 4][i % 4];
    }
  }

  /// o += p v, without the values that are not finite of the keys that `withheld` names.
  template <bool Withholds>
  PREFIXSHARE_DEVICE void add_values(Tile<Dv> values, const Probabilities& p, Bits withheld) {
    PREFIXSHARE_UNROLL
    for (int step = 0; step < Shape::kKeys / 16; ++step) {
      PREFIXSHARE_UNROLL
      for (int b = 0; b < Shape::kValueBlocks; b += 2) {
        std::uint32_t v[4];
        load_right_transposed(v, values, lane_, first_key() + 16 * step, first_value() + b);
        if (Withholds && (withheld >> (16 * step) & 0xffffu) != 0) {
          PREFIXSHARE_UNROLL
          for (int i = 0; i < 4; ++i) v[i] = finite_or_zero<T>(v[i]);
        }
        multiply_add_pair<T>(state_.o[b], state_.o[b + 1], p[step], v);
      }
    }
  }

  /// A probability of zero times a value that is not finite would be NaN. The keys that have such values while some of
  /// this warp's rows do not see them, or while probabilities come in parts, which may be zero:
  PREFIXSHARE_DEVICE Bits keys_to_withhold(Tile<Dv> values, const Bits (&seen)[2]) const {
    Bits safe = scales_values_ ? 0 : seen[0] & seen[1];
    PREFIXSHARE_UNROLL
    for (int lanes = 4; lanes < 32; lanes *= 2) safe &= ptx::shuffle_xor(safe, lanes);
    Bits found = 0;
    const int lane = ptx::opaque(lane_);
    PREFIXSHARE_ROLL
    for (int key = 0; key < Shape::kKeys; ++key) {
      if ((safe >> key & 1) != 0) continue;
      bool odd = false;
      for (int d = 2 * lane; d < 8 * Shape::kValueBlocks; d += 64) {
        odd = odd || not_finite<T>(value_pair(values, key, d)) != 0;
      }
      if (ptx::ballot(odd) != 0) found |= Bits{1} << key;
    }
    return found;
  }
  /// The products of those values with the probabilities, for the rows that see them, one by one.
  PREFIXSHARE_DEVICE void add_withheld(Tile<Dv> values, const Probabilities& p, const Bits (&seen)[2], Bits withheld) {
    const int lane = ptx::opaque(lane_);
    PREFIXSHARE_ROLL
    for (int i = 0; i < Shape::kKeys * 8 * Shape::kValueBlocks / 32;
         ++i) {  // a lane has a value of a key in each round
      const int rounds = Shape::kValueBlocks / 4, key = i / rounds, d = i % rounds * 32 + lane;
      if ((withheld >> key & 1) == 0) continue;
      const std::uint32_t value = *values.element(first_key() + key, 8 * first_value() + d);
      const float weight[2] = {probability(p, key, 0), probability(p, key, 1)};
      const std::uint32_t odd = ptx::ballot(not_finite<T>(value) != 0);
      PREFIXSHARE_ROLL
      for (int from = 0; from < 32; ++from) {
        if ((odd >> from & 1) == 0) continue;
        const float x = ptx::to_float<T>(static_cast<std::uint16_t>(ptx::shuffle(value, from)));
        PREFIXSHARE_UNROLL
        for (int r = 0; r < 2; ++r) {
          if ((seen[r] >> key & 1) != 0) add_to(r, d - lane + from, weight[r] * x);
        }
      }
    }
  }
  /// Adds to dim d of row g + 8 r, in the lane that has it.
  PREFIXSHARE_DEVICE void add_to(int r, int d, float x) {
    if (d % 8 / 2 != lane_ % 4) return;
    PREFIXSHARE_UNROLL
    for (int i = 0; i < 2 * Shape::kValueBlocks; ++i) {
      if (ptx::opaque(i) == d / 8 * 2 + d % 2) state_.o[i / 2][2 * r + i % 2] += x;  // not an indexed array: registers
    }
  }
  /// Elements d and d + 1 of those that this warp has of a value.
  PREFIXSHARE_DEVICE std::uint32_t value_pair(Tile<Dv> values, int key, int d) const {
    return *reinterpret_cast<const std::uint32_t*>(values.element(first_key() + key, 8 * first_value() + d));
  }
  /// That of row g + 8 r for a key, from the lane of the row that has it.
  PREFIXSHARE_DEVICE float probability(const Probabilities& p, int key, int r) const {
    std::uint32_t pair = 0;
    PREFIXSHARE_UNROLL
    for (int half = 0; half < Shape::kKeys / 8; ++half) {
      if (ptx::opaque(half) == key / 8) pair = p[half / 2][half % 2 * 2 + r];  // not an indexed array: registers
    }
    pair = ptx::shuffle(pair, lane_ / 4 * 4 + key % 8 / 2);
    return ptx::to_float<T>(static_cast<std::uint16_t>(pair >> (16 * (key % 2))));
  }

  /// NARROW: the warps' states become one, summed in the order of the warps; each warp goes on with kOutBlocks of o.
  PREFIXSHARE_DEVICE void combine() {
    const Stage stage = tiles_.free();
    ptx::Float4* shared_o = reinterpret_cast<ptx::Float4*>(stage.data);             // [warps][kValueBlocks][32 lanes]
    float* shared_rows = reinterpret_cast<float*>(stage.data + Stage::kVisibleAt);  // [key warps][maximum, sum][16]
    static_assert(4 * Shape::kValueBlocks * 32 * 16 <= Stage::kVisibleAt && 4 * 2 * 16 * 4 <= kWideRows * 8);
    ptx::sync_block();  // the last tile has been read
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kValueBlocks; ++b) {
      shared_o[(warp_ * Shape::kValueBlocks + b) * 32 + lane_] = {state_.o[b][0], state_.o[b][1], state_.o[b][2],
                                                                  state_.o[b][3]};
    }
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float sum = row_sum(state_.sum[r]);
      if (lane_ % 4 != 0 || warp_ >= Shape::kKeyWarps) continue;
      float* to = shared_rows + warp_ * 32 + lane_ / 4 + 8 * r;
      to[0] = state_.maximum[r];
      to[16] = sum;
    }
    ptx::sync_block();
    float weight[Shape::kKeyWarps][2];
    combine_rows(shared_rows, weight);
    combine_o(shared_o, weight);
  }
  PREFIXSHARE_DEVICE void combine_rows(const float* rows, float (&weight)[Shape::kKeyWarps][2]) {
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float* row = rows + lane_ / 4 + 8 * r;
      float maximum = kEmptyLse, sum = 0;
      PREFIXSHARE_UNROLL
      for (int w = 0; w < Shape::kKeyWarps; ++w) maximum = fmaxf(maximum, row[32 * w]);
      PREFIXSHARE_UNROLL
      for (int w = 0; w < Shape::kKeyWarps; ++w) {
        weight[w][r] = ptx::exp2(row[32 * w] - shift_of(maximum));
        sum = fmaf(row[32 * w + 16], weight[w][r], sum);
      }
      state_.maximum[r] = maximum;
      state_.sum[r] = lane_ % 4 == 0 ? sum : 0;  // each lane has a part of the sum
    }
  }
  PREFIXSHARE_DEVICE void combine_o(const ptx::Float4* o, const float (&weight)[Shape::kKeyWarps][2]) {
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kOutBlocks; ++b) {
      const int block = first_out() + b, value_warp = block / Shape::kValueBlocks;
      const ptx::Float4* from =
          o + (value_warp * Shape::kKeyWarps * Shape::kValueBlocks + block % Shape::kValueBlocks) * 32;
      float sum[4] = {};
      PREFIXSHARE_UNROLL
      for (int w = 0; w < Shape::kKeyWarps; ++w) {
        const ptx::Float4 part = from[w * Shape::kValueBlocks * 32 + lane_];
        sum[0] = fmaf(part.x, weight[w][0], sum[0]);
        sum[1] = fmaf(part.y, weight[w][0], sum[1]);
        sum[2] = fmaf(part.z, weight[w][1], sum[2]);
        sum[3] = fmaf(part.w, weight[w][1], sum[3]);
      }
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) state_.o[b][c] = sum[c];
    }
  }

  /// o over its sum, and the natural lse. A row that saw nothing has o = 0.
  PREFIXSHARE_DEVICE void finish(float (&lse)[2]) {
    float inverse[2];
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float sum = row_sum(state_.sum[r]);
      inverse[r] = sum == 0 ? 0.0f : ptx::reciprocal(sum);
      lse[r] = sum == 0 ? kEmptyLse : (state_.maximum[r] + ptx::log2(sum)) * kLn2;
    }
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kOutBlocks; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) state_.o[b][c] *= inverse[c / 2];
    }
  }

  /// batch_invariant: whether the states of the chunks become one here.
  PREFIXSHARE_DEVICE bool folds(std::int32_t chunks) const { return Wide && chunks > 1 && item().fold != 0; }
  /// Merges the state of a chunk with that of the chunks before it, whose o lies in scratch.
  PREFIXSHARE_DEVICE void fold(float (&folded)[2], const float (&lse)[2], bool first) {
    const StateMerge merge[2] = {merge_lse(&folded[0], lse[0]), merge_lse(&folded[1], lse[1])};
    each_folded([&](float* at, int r, float* o) { *at = first ? *o : merge[r](*at, *o); });
  }
  /// Takes o from there.
  PREFIXSHARE_DEVICE void unfold() {
    each_folded([](const float* at, int, float* o) { *o = *at; });
  }
  /// Calls f(place in scratch, row, element) for the elements of o of this thread, which alone reads and writes there.
  template <class F>
  PREFIXSHARE_DEVICE void each_folded(F&& f) {
    float* scratch = p_.fold + std::int64_t{ptx::block()} * kWideRows * (Dv + 1) + ptx::opaque(ptx::thread());
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kOutBlocks; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) f(scratch + (4 * b + c) * kAttendThreads, c / 2, &state_.o[b][c]);
    }
  }

  /// Writes the states of this lane's rows: finished where the item finishes its rows, else to the partial rows of the
  /// item's state number `state`.
  PREFIXSHARE_DEVICE void emit(const float (&lse)[2], std::int32_t state) const {
    const ImageItem& from = item();
    const std::int64_t slot = from.slot < 0 ? -1 : from.slot + std::int64_t{state} * from.tile_rows;
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int m = first_row() + lane_ / 4 + 8 * r;
      if (m >= from.packed_count) continue;
      const StatePlace to = state_place(p_, from, m, slot);
      if (slot < 0) {
        emit_finished(to, r, lse[r]);
      } else {
        emit_partial(to, r, lse[r]);
      }
    }
  }
  /// Whether this lane writes the lse of its rows.
  PREFIXSHARE_DEVICE bool has_lse() const { return lane_ % 4 == 0 && (Wide || warp_ == 0); }

  PREFIXSHARE_DEVICE void emit_partial(StatePlace to, int r, float lse) const {
    const std::int64_t at = to.row * p_.Hq + to.q_head;
    each_pair(r, 1.0f, [&](int d, float x, float y) {
      *reinterpret_cast<Float2*>(p_.partial_o + at * Dv + d) = {x, y};
    });
    if (has_lse()) p_.partial_lse[at] = lse;
  }
  PREFIXSHARE_DEVICE void emit_finished(StatePlace to, int r, float lse) const {
    const float weight = merge_sink(p_, to.q_head, &lse);
    const std::int64_t at = to.row * p_.o_stride[0] + to.q_head * p_.o_stride[1];
    if (has_lse()) store_lse(p_, to.row, to.q_head, lse);
    if (p_.o == nullptr) return;
    each_pair(r, weight, [&](int d, float x, float y) {
      if (p_.o_dtype == DType::f32) {
        *reinterpret_cast<Float2*>(static_cast<float*>(p_.o) + at + d) = {x, y};
      } else {
        *reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(p_.o) + at + d) = ptx::pack<T>(x, y);
      }
    });
  }
  struct alignas(8) Float2 {
    float x, y;
  };
  /// Calls f(dim, element, next element) for this lane's elements of row g + 8 r, times `weight`.
  template <class F>
  PREFIXSHARE_DEVICE void each_pair(int r, float weight, F&& f) const {
    const int lane = ptx::opaque(lane_);
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kOutBlocks; ++b) {
      const int d = 8 * (first_out() + b) + 2 * (lane % 4);
      f(d, weight * state_.o[b][2 * r], weight * state_.o[b][2 * r + 1]);
    }
  }

  const AttendParams& p_;
  KeyTiles<D, Dv>& tiles_;
  int lane_, warp_;
  bool scales_values_;
  std::int32_t index_;
  QueryOperands<T, D, Dv, Turns> queries_;
  std::int32_t loaded_ = -1;  // instances of the queries
  SoftmaxState<Shape::kValueBlocks> state_;
};

/// Blocks that an SM can hold: what the registers allow.
template <int D>
inline constexpr int kBlocksPerSm = D > 64 ? 2 : 3;

/// Heads of D and Dv dims; rows of q, K, V and o aligned to 16 bytes.
template <class T, int D, int Dv, bool Turns>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kAttendThreads, kBlocksPerSm<D>)
    tree_attention_mma(const PREFIXSHARE_GRID_CONSTANT AttendParams p) {
  ptx::launch_dependents();
  unsigned char* memory = ptx::shared_memory();
  const std::int32_t* block_items = p.plan.list<std::int32_t>(p.plan.header().block_items_at) + ptx::block();
  const std::int32_t first = block_items[0], end = block_items[1];
  KeyTiles<D, Dv> tiles(p, memory, first, end);
  for (std::int32_t i = first; i < end; ++i) {
    if (items_of(p)[i].wide != 0) {
      AttendItem<T, D, Dv, Turns, true>(p, &tiles, memory, i).run();
    } else {
      AttendItem<T, D, Dv, Turns, false>(p, &tiles, memory, i).run();
    }
  }
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
