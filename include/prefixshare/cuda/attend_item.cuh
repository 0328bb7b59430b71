// SPDX-License-Identifier: Apache-2.0
// What the four warps of a block that multiply do with an item of the forward. Where it has many packed rows, each of
// them has 16 rows against all keys (WIDE). Where it has at most 16, each has all rows: against a quarter of the keys
// for the logits, then, once the warps have told each other their probabilities, a quarter of the dims of v (NARROW).
#pragma once

#include <cstdint>
#include <type_traits>

#include "prefixshare/cuda/attend_ring.cuh"
#include "prefixshare/cuda/merge_rows.cuh"
#include "prefixshare/cuda/query_turn.cuh"
#include "prefixshare/cuda/softmax.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// How four warps share out an item, for heads of D and Dv dims.
template <int Keys, int Dv, bool Wide>
struct ItemShape {
  static constexpr int kKeyWarps = Wide ? 1 : Keys / 16;  // with keys of their own; others do the same again
  static constexpr int kKeys = Keys / kKeyWarps;          // of a tile, for a warp's logits
  static constexpr int kSteps = Keys / 16;                // of all of a tile's keys
  /// Blocks of eight dims of v that a warp sums up: an even number, so that some warps may have none.
  static constexpr int kValueBlocks = Wide ? Dv / 8 : (Dv / 32 + 1) / 2 * 2;
  static constexpr bool kAllHaveValues = Wide || kMultipliers * kValueBlocks * 8 == Dv;
  using Bits = std::conditional_t<(Keys > 32), std::uint64_t, std::uint32_t>;  // a bit for each key of a tile
  static constexpr Bits kAllKeys = static_cast<Bits>(~std::uint64_t{0} >> (64 - Keys));
  static_assert(kKeys % 16 == 0 && Dv % 32 == 0);
};

/// What the warps that multiply keep in shared memory beside the ring.
template <int D, int Keys, bool General>
struct MultiplierMemory {
  /// What a warp notes of its item: registers are few.
  struct ItemNotes {
    ImageItem item;
    std::int32_t row[kWideRows / kMultipliers];  ///< query row of each of the warp's packed rows
  };
  ItemNotes notes[kMultipliers];
  std::int32_t last[kWideRows];  ///< for `arrive`
  float maxima[kMultipliers][kNarrowRows];
  float sums[kMultipliers][kNarrowRows];
  /// NARROW: probabilities in 16 bits, and what that leaves of them.
  alignas(128) unsigned char probabilities[2][kNarrowRows * Tile<Keys>::kRowBytes];
  /// WIDE: 16 rows of each warp; NARROW: turned queries. Then what 16 bits leave of turned ones.
  alignas(128) unsigned char queries[kWideRows * Tile<D>::kRowBytes];
  alignas(128) unsigned char rest[General ? kWideRows * Tile<D>::kRowBytes : 128];
};

/// Dynamic shared memory of a block: that of the warps that multiply, then the ring.
template <int D, int Dv, bool General>
struct BlockMemory {
  using Ring = AttendRing<D, Dv, General>;
  using Multipliers = MultiplierMemory<D, Ring::kKeys, General>;
  static constexpr int kRingAt = static_cast<int>(sizeof(Multipliers));
  static_assert(kRingAt % 128 == 0);

  static constexpr int bytes(int slots) { return kRingAt + Ring::kDataAt + slots * Ring::kSlotBytes; }
  /// Slots of the ring for which there is room, if any.
  static constexpr int slots(std::int64_t room) {
    int n = Ring::kMostSlots;
    while (n > 0 && bytes(n) > room) --n;
    return n;
  }
};

template <class T, int D, int Dv, bool General, bool Wide>
class AttendItem {
  using Ring = AttendRing<D, Dv, General>;
  using Reader = RingReader<D, Dv, General>;
  using Memory = typename BlockMemory<D, Dv, General>::Multipliers;
  using Shape = ItemShape<Ring::kKeys, Dv, Wide>;
  using Bits = typename Shape::Bits;
  using Notes = KeyNotes<Ring::kKeys, General>;
  using Logits = float[Shape::kKeys / 8][4];              // of the warp's keys; then their probabilities
  using Probabilities = std::uint32_t[Shape::kSteps][4];  // of all keys of a tile as left operands, 16 keys each

 public:
  PREFIXSHARE_DEVICE AttendItem(const AttendParams& p, Reader* reader, Memory* memory)
      : p_(p),
        reader_(*reader),
        memory_(*memory),
        lane_(ptx::opaque(ptx::lane())),
        warp_(ptx::opaque(ptx::warp())),
        has_columns_(General && has_key_columns(p)),
        scales_values_(General && has_value_scales(p)) {}

  /// The item whose queries are in `slot`, to its end.
  PREFIXSHARE_DEVICE void run(int slot) {
    open(reader_.notes(slot).queries);
    take_queries(slot);
    float folded[2] = {kEmptyLse, kEmptyLse}, lse[2];
    std::int32_t chunk = 0;
    Closes closes = Closes::nothing;
    do {
      closes = absorb_chunk();
      finish(lse);
      if (closes == Closes::item && (chunk == 0 || !Wide || item().fold == 0)) return emit(lse, chunk);
      if (Wide && item().fold != 0) {
        fold(folded, lse, chunk == 0);
      } else {
        emit(lse, chunk);
      }
      ++chunk;
    } while (closes != Closes::item);
    emit(lse, 0);
  }

 private:
  PREFIXSHARE_DEVICE const ImageItem& item() const { return memory_.notes[warp_].item; }
  PREFIXSHARE_DEVICE int first_row() const { return Wide ? warp_ * 16 : 0; }
  PREFIXSHARE_DEVICE int first_key() const { return Wide ? 0 : warp_ % Shape::kKeyWarps * 16; }
  PREFIXSHARE_DEVICE int first_value() const { return Wide ? 0 : warp_ * Shape::kValueBlocks; }
  PREFIXSHARE_DEVICE bool has_values() const { return Shape::kAllHaveValues || first_value() < Dv / 8; }

  PREFIXSHARE_DEVICE void open(const QueryNotes& queries) {
    auto& notes = memory_.notes[warp_];
    ptx::sync_warp();  // those of the item before have been read
    if (lane_ == 0) notes.item = queries.item;
    if (lane_ < 16) notes.row[lane_] = queries.row[first_row() + lane_];
    ptx::sync_warp();
  }
  /// Takes the queries that begin in `slot`: NARROW into registers, WIDE, where these are few, to a place of the warp's
  /// own in shared memory.
  PREFIXSHARE_DEVICE void take_queries(int slot) {
    const QueryNotes& notes = reader_.notes(slot).queries;
    if constexpr (General) turns_ = any_turns(p_, notes, first_row());
    if constexpr (Wide) {
      take_wide(slot);
    } else if (General && turns_) {  // each warp turns a quarter of the rows, which all of them read
      constexpr int kRows = kNarrowRows / kMultipliers;
      sync_attending();
      copy_queries(slot, warp_ * kRows, warp_ * kRows, kRows);
      turn_rows<T, D>(p_, notes, queries(), rest(), warp_ * kRows, kRows);
      sync_attending();
      load_operands(queries());
      sync_attending();
      reader_.let_go(slot);
    } else {
      load_operands({reader_.data(slot)});
      reader_.let_go(slot);
    }
  }
  PREFIXSHARE_DEVICE void take_wide(int slot) {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < Ring::kQuerySlots; ++i) {
      if (i > 0) slot = reader_.take();
      if (first_row() / Ring::kQueryRows == i) {
        copy_queries(slot, first_row() % Ring::kQueryRows, first_row(), 16);
        if (General && turns_) {
          turn_rows<T, D>(p_, reader_.notes(slot).queries, queries(), rest(), first_row(), 16);
        }
      }
      reader_.let_go(slot);
    }
  }
  PREFIXSHARE_DEVICE Tile<D> queries() const { return {memory_.queries}; }
  PREFIXSHARE_DEVICE Tile<D> rest() const { return {memory_.rest}; }
  PREFIXSHARE_DEVICE void copy_queries(int slot, int from, int to, int rows) const {
    const Tile<D> source = {reader_.data(slot)};
    for (int i = lane_; i < rows * Tile<D>::kChunks; i += 32) {
      const int row = i / Tile<D>::kChunks, chunk = i % Tile<D>::kChunks;
      *reinterpret_cast<ptx::Words4*>(queries().chunk(to + row, chunk)) =
          *reinterpret_cast<const ptx::Words4*>(source.chunk(from + row, chunk));
    }
    ptx::sync_warp();
  }
  PREFIXSHARE_DEVICE void load_operands(Tile<D> rows) {
    PREFIXSHARE_UNROLL
    for (int step = 0; step < D / 16; ++step) load_left(operands_[step], rows, lane_, 0, step);
  }
  template <QueryPart Part>
  PREFIXSHARE_DEVICE void operand(int step, std::uint32_t (&a)[4]) const {
    if constexpr (Part == QueryPart::rest) {
      load_left(a, rest(), lane_, first_row(), step);
    } else if constexpr (Wide) {
      load_left(a, queries(), lane_, first_row(), step);
    } else {
      PREFIXSHARE_UNROLL
      for (int i = 0; i < 4; ++i) a[i] = operands_[step][i];
    }
  }

  /// The state of the keys of a chunk. Returns what ends with it.
  PREFIXSHARE_DEVICE Closes absorb_chunk() {
    state_.clear();
    absorbed_ = false;
    for (;;) {
      const int slot = reader_.take();
      if (reader_.notes(slot).kind == SlotKind::queries) {
        take_queries(slot);
        continue;
      }
      const Closes closes = reader_.notes(slot).keys.closes;
      if (reader_.notes(slot).keys.columns > 0) {
        absorb(slot);
      } else {
        reader_.let_go(slot);
      }
      if (closes != Closes::nothing) return closes;
    }
  }

  PREFIXSHARE_DEVICE void absorb(int slot) {
    if (Wide && first_row() >= item().packed_count) {  // this warp has no rows
      reader_.let_go(slot);
      return reader_.let_go(reader_.take());
    }
    absorbed_ = true;
    lane_ = ptx::opaque(lane_);  // what follows from it in this tile is of no use later
    const Notes& notes = reader_.notes(slot).keys;
    Logits s = {};
    const int columns = notes.columns;
    multiply<QueryPart::nearest>({reader_.data(slot)}, s);
    if constexpr (General) {
      if (turns_) multiply<QueryPart::rest>({reader_.data(slot)}, s);
    }
    to_logits(notes, s);
    // Bit i: whether a row, g or g + 8, sees key i of the tile.
    Bits seen[2] = {Shape::kAllKeys, Shape::kAllKeys};
    const bool masked = notes.masked != 0;
    if (masked) {
      const std::uint64_t* words = notes.visible + first_row() + lane_ / 4;
      seen[0] = static_cast<Bits>(words[0]), seen[1] = static_cast<Bits>(words[8]);
      hide(seen, s);
    }
    if (!has_columns_) reader_.let_go(slot);
    float largest[2];
    state_.maxima(s, largest);
    if constexpr (!Wide) exchange_maxima(largest);
    state_.absorb(s, largest);
    if (scales_values_) scale_values(notes, seen, s);
    if (has_columns_) reader_.let_go(slot);
    if constexpr (!Wide) tell_probabilities(s);
    const int values = reader_.take();
    if (has_values()) add({reader_.data(values)}, s, seen, columns);
    reader_.let_go(values);
  }
  /// o += p v. Keys from `columns` on are not there: their values are zero.
  PREFIXSHARE_DEVICE void add(Tile<Dv> values, const Logits& s, const Bits (&seen)[2], int columns) {
    const Bits absent = columns < Ring::kKeys ? Shape::kAllKeys << columns : 0;
    const bool all_seen = ptx::ballot(((seen[0] & seen[1]) | absent) != Shape::kAllKeys) == 0;
    if (all_seen && !scales_values_) return add_values<1>(values, s, 0);
    const Bits withheld = keys_to_withhold(values, seen, absent);
    if (withheld != 0) add_withheld(values, s, seen, withheld);
    if (scales_values_) {
      add_values<2>(values, s, withheld);
    } else {
      add_values<1>(values, s, withheld);
    }
  }

  /// s += q k, of one part of q. The rest, which is rare, is a loop, and so is what stands beside 256 dims of o: there
  /// registers are too few for loads that are far ahead.
  template <QueryPart Part>
  PREFIXSHARE_DEVICE void multiply(Tile<D> keys, Logits& s) const {
    if constexpr (Part == QueryPart::nearest && (!Wide || D <= 192)) {
      PREFIXSHARE_UNROLL
      for (int step = 0; step < D / 16; ++step) multiply_step<Part>(keys, step, s);
    } else {
      PREFIXSHARE_ROLL
      for (int step = 0; step < D / 16; ++step) multiply_step<Part>(keys, step, s);
    }
  }
  template <QueryPart Part>
  PREFIXSHARE_DEVICE void multiply_step(Tile<D> keys, int step, Logits& s) const {
    std::uint32_t a[4];
    operand<Part>(step, a);
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kKeys / 8; b += 2) {
      std::uint32_t k[4];
      load_right(k, keys, lane_, first_key() + 8 * b, step);
      multiply_add_pair<T>(s[b], s[b + 1], a, k);
    }
  }

  /// Products to logits: scales, soft cap, bias; to base 2.
  PREFIXSHARE_DEVICE void to_logits(const Notes& notes, Logits& s) const {
    if (General && (has_columns_ || p_.softcap > 0)) return to_logits_with_options(notes, s);
    const float scale = p_.scale * kLog2E;
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kKeys / 8; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) s[b][c] *= scale;
    }
  }
  PREFIXSHARE_DEVICE void to_logits_with_options(const Notes& notes, Logits& s) const {
    const std::int32_t group = p_.group, first = item().first_packed + first_row() + lane_ / 4;
    const std::int32_t base = item().kv_head * group, head[2] = {base + first % group, base + (first + 8) % group};
    const float cap = p_.softcap, inverse_cap = cap > 0 ? ptx::reciprocal(cap) : 0;
    const KeyColumn* columns = has_columns_ ? notes.column : nullptr;
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
    return (seen[c / 2] >> (first_key() + 2 * (lane_ % 4)) >> (8 * b + c % 2) & 1) != 0;
  }

  PREFIXSHARE_DEVICE void hide(const Bits (&seen)[2], Logits& s) const {
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kKeys / 8; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) s[b][c] = sees(seen, b, c) ? s[b][c] : kEmptyLse;
    }
  }
  /// The values' scales go into the probabilities; that of a key which a row does not see may be NaN.
  PREFIXSHARE_DEVICE void scale_values(const Notes& notes, const Bits (&seen)[2], Logits& s) const {
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kKeys / 8; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) {
        if (sees(seen, b, c)) s[b][c] *= notes.column[column_of(b, c)].v_scale;
      }
    }
  }
  /// NARROW: lays the probabilities of this warp's keys where all warps find them. One of 1 is no longer 1 with a
  /// scale: then what the rounding to 16 bits leaves of them, too.
  PREFIXSHARE_DEVICE void tell_probabilities(const Logits& s) const {
    PREFIXSHARE_UNROLL
    for (int part = 0; part < 2; ++part) {
      if (part == 1 && !scales_values_) break;
      std::uint32_t own[4];
      pack_step(s, 0, part, own);
      tell(own, part);
    }
    sync_attending();
  }
  /// Logits that became probabilities of 16 keys: to the nearest 16-bit values, or (part 1) what these leave of them.
  static PREFIXSHARE_DEVICE void pack_step(const Logits& s, int step, int part, std::uint32_t (&a)[4]) {
    pack_left<T>(a, s[2 * step], s[2 * step + 1]);
    if (part == 0) return;
    float left[2][4];
    PREFIXSHARE_UNROLL
    for (int c = 0; c < 4; ++c) left[0][c] = s[2 * step][c], left[1][c] = s[2 * step + 1][c];
    subtract_left<T>(left[0], left[1], a);
    pack_left<T>(a, left[0], left[1]);
  }
  /// Those as an operand, of any 16 keys of the tile.
  PREFIXSHARE_DEVICE void probabilities(const Logits& s, int step, int part, std::uint32_t (&a)[4]) const {
    if constexpr (Wide) {
      pack_step(s, step, part, a);
    } else {
      load_left(a, told(part), lane_, 0, step);
    }
  }
  PREFIXSHARE_DEVICE Tile<Ring::kKeys> told(int part) const { return {memory_.probabilities[part]}; }
  PREFIXSHARE_DEVICE void tell(const std::uint32_t (&own)[4], int part) const {
    if (warp_ >= Shape::kKeyWarps) return;
    PREFIXSHARE_UNROLL
    for (int i = 0; i < 4; ++i) {
      *reinterpret_cast<std::uint32_t*>(
          told(part).element(lane_ / 4 + 8 * (i % 2), first_key() + 2 * (lane_ % 4) + 8 * (i / 2))) = own[i];
    }
  }
  /// NARROW: the largest logits of the rows, g and g + 8, over all warps.
  PREFIXSHARE_DEVICE void exchange_maxima(float (&largest)[2]) const {
    each_of_rows(memory_.maxima, largest);
    sync_attending();
    PREFIXSHARE_UNROLL
    for (int w = 0; w < Shape::kKeyWarps; ++w) {
      largest[0] = fmaxf(largest[0], memory_.maxima[w][lane_ / 4]);
      largest[1] = fmaxf(largest[1], memory_.maxima[w][lane_ / 4 + 8]);
    }
  }
  /// NARROW: the sums of the rows over all warps, in their order; each lane has a part of a row's sum. Without keys
  /// there are none, and the warps have not met since they read those of the state before.
  PREFIXSHARE_DEVICE void exchange_sums() {
    if (!absorbed_) return;
    const float own[2] = {row_sum(state_.sum[0]), row_sum(state_.sum[1])};
    each_of_rows(memory_.sums, own);
    sync_attending();
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      float sum = 0;
      PREFIXSHARE_UNROLL
      for (int w = 0; w < Shape::kKeyWarps; ++w) sum += memory_.sums[w][lane_ / 4 + 8 * r];
      state_.sum[r] = lane_ % 4 == 0 ? sum : 0;
    }
  }
  /// Writes a number of this warp for each of its rows.
  PREFIXSHARE_DEVICE void each_of_rows(float (&to)[kMultipliers][kNarrowRows], const float (&x)[2]) const {
    if (lane_ % 4 == 0) to[warp_][lane_ / 4] = x[0], to[warp_][lane_ / 4 + 8] = x[1];
  }

  /// o += p v, in so many parts of p, without the values that are not finite of the keys that `withheld` names.
  template <int Parts>
  PREFIXSHARE_DEVICE void add_values(Tile<Dv> values, const Logits& s, Bits withheld) {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < Shape::kSteps * Parts; ++i) {
      const int step = i / Parts;
      std::uint32_t p[4];
      probabilities(s, step, i % Parts, p);
      const bool withholds = (withheld >> (16 * step) & 0xffffu) != 0;
      PREFIXSHARE_UNROLL
      for (int b = 0; b < Shape::kValueBlocks; b += 2) {
        std::uint32_t v[4];
        load_right_transposed(v, values, lane_, 16 * step, first_value() + b);
        PREFIXSHARE_UNROLL
        for (int j = 0; j < 4 && withholds; ++j) v[j] = finite_or_zero<T>(v[j]);
        multiply_add_pair<T>(state_.o[b], state_.o[b + 1], p, v);
      }
    }
  }

  /// A probability of zero times a value that is not finite would be NaN. The keys that have such values while some of
  /// this warp's rows do not see them, or while probabilities come in parts, which may be zero:
  PREFIXSHARE_DEVICE Bits keys_to_withhold(Tile<Dv> values, const Bits (&seen)[2], Bits absent) const {
    Bits safe = absent | (scales_values_ ? 0 : seen[0] & seen[1]);
    PREFIXSHARE_UNROLL
    for (int lanes = 4; lanes < 32; lanes *= 2) safe &= ptx::shuffle_xor(safe, lanes);
    Bits found = 0;
    PREFIXSHARE_ROLL
    for (int first = 0; first < Ring::kKeys; first += 32) {  // a lane looks at a key
      const std::uint32_t odd = ptx::ballot((safe >> (first + lane_) & 1) == 0 && has_odd(values, first + lane_));
      found |= Bits{odd} << first;
    }
    return found;
  }
  /// Whether some value of a key that this warp sums up is not finite.
  PREFIXSHARE_DEVICE bool has_odd(Tile<Dv> values, int key) const {
    std::uint32_t odd = 0;
    PREFIXSHARE_ROLL
    for (int b = 0; b < Shape::kValueBlocks; ++b) {
      const auto& x = *reinterpret_cast<const ptx::Words4*>(values.chunk(key, first_value() + b));
      odd |= not_finite<T>(x.x) | not_finite<T>(x.y) | not_finite<T>(x.z) | not_finite<T>(x.w);
    }
    return odd != 0;
  }
  /// The products of those values with the probabilities, for the rows that see them, one by one.
  PREFIXSHARE_DEVICE void add_withheld(Tile<Dv> values, const Logits& s, const Bits (&seen)[2], Bits withheld) {
    Probabilities p;
    PREFIXSHARE_UNROLL
    for (int step = 0; step < Shape::kSteps; ++step) probabilities(s, step, 0, p[step]);
    const int lane = ptx::opaque(lane_);
    constexpr int kRounds = (Shape::kValueBlocks + 3) / 4;
    PREFIXSHARE_ROLL
    for (int i = 0; i < Ring::kKeys * kRounds; ++i) {  // a lane has a value of a key in each round
      const int key = i / kRounds, d = i % kRounds * 32 + lane;
      if ((withheld >> key & 1) == 0) continue;
      const bool has_dim = d < 8 * Shape::kValueBlocks;
      const std::uint32_t value = has_dim ? *values.element(key, 8 * first_value() + d) : 0;
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
  /// That of row g + 8 r for a key, from the lane of the row that has it.
  PREFIXSHARE_DEVICE float probability(const Probabilities& p, int key, int r) const {
    std::uint32_t pair = 0;
    PREFIXSHARE_UNROLL
    for (int half = 0; half < Ring::kKeys / 8; ++half) {
      if (ptx::opaque(half) == key / 8) pair = p[half / 2][half % 2 * 2 + r];  // not an indexed array: registers
    }
    pair = ptx::shuffle(pair, lane_ / 4 * 4 + key % 8 / 2);
    return ptx::to_float<T>(static_cast<std::uint16_t>(pair >> (16 * (key % 2))));
  }

  /// o over its sum, and the natural lse. A row that saw nothing has o = 0.
  PREFIXSHARE_DEVICE void finish(float (&lse)[2]) {
    if constexpr (!Wide) exchange_sums();
    float inverse[2];
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float sum = row_sum(state_.sum[r]);
      inverse[r] = sum == 0 ? 0.0f : ptx::reciprocal(sum);
      lse[r] = sum == 0 ? kEmptyLse : (state_.maximum[r] + ptx::log2(sum)) * kLn2;
    }
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kValueBlocks; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) state_.o[b][c] *= inverse[c / 2];
    }
  }

  /// batch_invariant: merges the state of a chunk with that of the chunks before it, whose o lies in scratch. After the
  /// last one it is the item's state. Each element is stored before the next is loaded: registers are few.
  PREFIXSHARE_DEVICE void fold(float (&folded)[2], float (&lse)[2], bool first) {
    const StateMerge merge[2] = {merge_lse(&folded[0], lse[0]), merge_lse(&folded[1], lse[1])};
    each_folded([&](float* at, int r, float* o) {
      if (!first) *o = merge[r](*at, *o);
      *at = *o;
    });
    lse[0] = folded[0], lse[1] = folded[1];
  }
  /// Calls f(place in scratch, row, element) for the elements of o of this thread, which alone reads and writes there.
  template <class F>
  PREFIXSHARE_DEVICE void each_folded(F&& f) {
    float* scratch = p_.fold + std::int64_t{ptx::block()} * kWideRows * (Dv + 1) + 32 * warp_ + lane_;
    PREFIXSHARE_UNROLL
    for (int b = 0; b < Shape::kValueBlocks; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) f(scratch + (4 * b + c) * kAttendThreads, c / 2, &state_.o[b][c]);
    }
  }

  /// Writes the states of this lane's rows: finished where the item finishes its rows, else to the partial rows of the
  /// item's state number `state`.
  PREFIXSHARE_DEVICE void emit(const float (&lse)[2], std::int32_t state) const {
    const ImageItem& from = item();
    const std::int64_t slot = from.slot < 0 ? -1 : from.slot + std::int64_t{state} * from.tile_rows;
    if (!has_values()) return;
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int m = first_row() + lane_ / 4 + 8 * r;
      if (m >= from.packed_count) continue;
      const std::int32_t packed = from.first_packed + m, q_head = from.kv_head * p_.group + packed % p_.group;
      const StatePlace to = {slot < 0 ? memory_.notes[warp_].row[m - first_row()] : slot + packed / p_.group, q_head};
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
    for (int b = 0; b < Shape::kValueBlocks; ++b) {
      const int d = 8 * (first_value() + b) + 2 * (lane % 4);
      f(d, weight * state_.o[b][2 * r], weight * state_.o[b][2 * r + 1]);
    }
  }

  const AttendParams& p_;
  Reader& reader_;
  Memory& memory_;
  int lane_, warp_;
  bool has_columns_, scales_values_;
  bool turns_ = false, absorbed_ = false;
  std::uint32_t operands_[Wide ? 1 : D / 16][4];  // NARROW: of q
  SoftmaxState<Shape::kValueBlocks> state_;
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
