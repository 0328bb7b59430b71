// SPDX-License-Identifier: Apache-2.0
// Rows that are rotated on their way from one place to another, on vectors: what rope and kv_append share. Of the
// region whose Vec came before.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cpu/region.hpp"
#include "cpu/vector.hpp"
#include "cpu/vector_rows.hpp"
#include "prefixshare/detail/page_moves.hpp"
#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/rope.hpp"

PREFIXSHARE_REGION_BEGIN

inline constexpr std::int64_t kPairs = 256;      // whose cosines and sines are held at a time: 4 KiB on the stack
inline constexpr double kLargestAngle = 0x1p40;  // that cos_sin takes

/// cos and sin of n angles of at most kLargestAngle in magnitude, to 2^-52. Without branches, so that compilers make
/// vectors of it. pi / 2 in two parts, fused, leaves a rest r in [-pi/4, pi/4] that is exact to 2^-54, for which
/// Taylor's polynomials up to r^15 and r^16 are enough.
inline void cos_sin(const double* angles, std::int64_t n, double* cosines, double* sines) noexcept {
  constexpr double kRound = 0x1.8p52;  // leaves the whole number in the low bits of a sum
  for (std::int64_t i = 0; i < n; ++i) {
    const double shifted = std::fma(angles[i], 6.36619772367581382433e-01, kRound), quarters = shifted - kRound;
    const double r =
        std::fma(-quarters, 6.12323399573676603587e-17, std::fma(-quarters, 1.57079632679489655800e+00, angles[i]));
    const double z = r * r;
    double s = -1.0 / 1307674368000;
    s = std::fma(s, z, 1.0 / 6227020800);
    s = std::fma(s, z, -1.0 / 39916800);
    s = std::fma(s, z, 1.0 / 362880);
    s = std::fma(s, z, -1.0 / 5040);
    s = std::fma(s, z, 1.0 / 120);
    s = std::fma(s, z, -1.0 / 6);
    s = std::fma(s * z, r, r);
    double c = 1.0 / 20922789888000;
    c = std::fma(c, z, -1.0 / 87178291200);
    c = std::fma(c, z, 1.0 / 479001600);
    c = std::fma(c, z, -1.0 / 3628800);
    c = std::fma(c, z, 1.0 / 40320);
    c = std::fma(c, z, -1.0 / 720);
    c = std::fma(c, z, 1.0 / 24);
    c = std::fma(c, z, -0.5);
    c = std::fma(c, z, 1.0);
    // Odd quarters of a turn change cosine and sine; then the signs.
    const std::uint64_t quarter = detail::bit_cast<std::uint64_t>(shifted);
    const std::uint64_t cos_bits = detail::bit_cast<std::uint64_t>(c), sin_bits = detail::bit_cast<std::uint64_t>(s);
    const std::uint64_t change = (cos_bits ^ sin_bits) & (0 - (quarter & 1));
    cosines[i] = detail::bit_cast<double>(cos_bits ^ change ^ ((quarter + 1) & 2) << 62);
    sines[i] = detail::bit_cast<double>(sin_bits ^ change ^ (quarter & 2) << 62);
  }
}

/// Cosines and sines of up to kPairs pairs at one position, as vectors need them. Half: one of each per pair.
/// Interleaved: one of each per element, the sine with the sign with which the other element of the pair counts.
class Turn {
 public:
  Turn(const RopeTable& table, double scale) noexcept : table_(table), scale_(scale) {}

  /// Prepares pairs [first, first + kPairs) at a position; nothing to do if they are those of the last time.
  void prepare(std::int64_t position, std::int64_t first) noexcept {
    if (position == position_ && first == first_) return;
    position_ = position;
    first_ = first;
    count_ = std::min<std::int64_t>(kPairs, table_.dim / 2 - first);
    find_angles();
  }
  std::int64_t count() const noexcept { return count_; }  // pairs
  Vec cosine(std::int64_t i) const noexcept { return Vec::load(cosines_ + i); }
  Vec sine(std::int64_t i) const noexcept { return Vec::load(sines_ + i); }

 private:
  void find_angles() noexcept {
    double angles[kPairs], cosines[kPairs], sines[kPairs];
    const double position = static_cast<double>(position_);
    const double* inv_freq = table_.inv_freq.data() + first_;
    std::int64_t large = 0;
    for (std::int64_t i = 0; i < count_; ++i) {
      angles[i] = position * inv_freq[i];
      large |= !(std::abs(angles[i]) <= kLargestAngle);
    }
    if (large == 0) {
      cos_sin(angles, count_, cosines, sines);
    } else {
      for (std::int64_t i = 0; i < count_; ++i) cosines[i] = std::cos(angles[i]), sines[i] = std::sin(angles[i]);
    }
    if (table_.pairing == RopePairing::half) {
      for (std::int64_t i = 0; i < count_; ++i) cosines_[i] = static_cast<float>(cosines[i] * scale_);
      for (std::int64_t i = 0; i < count_; ++i) sines_[i] = static_cast<float>(sines[i] * scale_);
    } else {
      for (std::int64_t i = 0; i < count_; ++i) {
        cosines_[2 * i] = cosines_[2 * i + 1] = static_cast<float>(cosines[i] * scale_);
        sines_[2 * i + 1] = static_cast<float>(sines[i] * scale_);
        sines_[2 * i] = -sines_[2 * i + 1];
      }
    }
  }

  const RopeTable& table_;
  double scale_;
  std::int64_t position_ = 0, first_ = -1, count_ = 0;
  float cosines_[2 * kPairs + 16] = {}, sines_[2 * kPairs + 16] = {};  // readable in whole vectors
};

/// The rows of one token, a head each, on their way from one place to another or to the same, and what they are divided
/// by before they are stored.
template <class From, class To>
struct TokenRows {
  const From* source;
  std::int64_t source_step;  // elements from head to head
  To* target;
  std::int64_t target_step;
  std::int64_t heads;
  const float* divisor;
  std::int64_t divisor_step;

  bool divides(std::int64_t head) const noexcept { return divisor[head * divisor_step] != 1; }
};

/// One row of TokenRows. `divides`: by something else than 1.
template <class From, class To, bool divides>
struct MovedRow {
  const From* source;
  To* target;
  Stores stores;
  Vec divisor;

  MovedRow(const TokenRows<From, To>& rows, std::int64_t head, Stores how) noexcept
      : source(rows.source + head * rows.source_step),
        target(rows.target + head * rows.target_step),
        stores(how),
        divisor(Vec::all(rows.divisor[head * rows.divisor_step])) {}

  /// Elements [first, first + count) without a rotation; bit for bit if nothing changes them.
  void move(std::int64_t first, std::int64_t count) const noexcept {
    if constexpr (std::is_same_v<From, To> && !divides) {
      if (source != target) stores.copy(source + first, target + first, count * std::int64_t{sizeof(To)});
    } else {
      std::int64_t i = first;
      for (; i + 16 <= first + count; i += 16) stores.put(divided(Vec::load(source + i)), target + i);
      const std::int64_t n = first + count - i;
      if (n > 0) store_some(divided(load_some(source + i, n)), target + i, n);
    }
  }
  /// What the table leaves alone, of D elements.
  void move_rest(const RopeTable& table, std::int64_t D) const noexcept {
    const std::int64_t end = std::int64_t{table.offset} + table.dim;
    move(0, table.offset);
    move(end, D - end);
  }
  /// The pairs from `first` on that are prepared.
  void turn(const Turn& turn, const RopeTable& table, std::int64_t first) const noexcept {
    if (table.pairing == RopePairing::half) {
      turn_halves(turn, table.offset + first, table.dim / 2);
    } else {
      turn_neighbours(turn, table.offset + 2 * first);
    }
  }

 private:
  /// The pairs of a turn whose elements lie `apart`; the first is element a.
  void turn_halves(const Turn& turn, std::int64_t a, std::int64_t apart) const noexcept {
    const std::int64_t b = a + apart, count = turn.count();
    std::int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      const Vec x = Vec::load(source + a + i), y = Vec::load(source + b + i), c = turn.cosine(i), s = turn.sine(i);
      stores.put(divided(fms(x, c, y * s)), target + a + i);
      stores.put(divided(fma(y, c, x * s)), target + b + i);
    }
    const std::int64_t n = count - i;
    if (n == 0) return;
    const Vec x = load_some(source + a + i, n), y = load_some(source + b + i, n), c = turn.cosine(i), s = turn.sine(i);
    store_some(divided(fms(x, c, y * s)), target + a + i, n);
    store_some(divided(fma(y, c, x * s)), target + b + i, n);
  }
  /// The pairs of a turn whose elements are neighbours; the first is element a.
  void turn_neighbours(const Turn& turn, std::int64_t a) const noexcept {
    const std::int64_t count = 2 * turn.count();
    std::int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      const Vec x = Vec::load(source + a + i);
      stores.put(divided(fma(x, turn.cosine(i), swap_neighbours(x) * turn.sine(i))), target + a + i);
    }
    const std::int64_t n = count - i;
    if (n == 0) return;
    const Vec x = load_some(source + a + i, n);
    store_some(divided(fma(x, turn.cosine(i), swap_neighbours(x) * turn.sine(i))), target + a + i, n);
  }
  Vec divided(Vec x) const noexcept { return divides ? x / divisor : x; }
};

/// Moves all rows of a token as they are, D elements each.
template <class From, class To>
void move_token(const TokenRows<From, To>& rows, std::int64_t D, Stores stores) noexcept {
  for (std::int64_t h = 0; h < rows.heads; ++h) {
    if (rows.divides(h)) {
      MovedRow<From, To, true>(rows, h, stores).move(0, D);
    } else {
      MovedRow<From, To, false>(rows, h, stores).move(0, D);
    }
  }
}

/// Moves and turns all rows of a token.
template <class From, class To>
void turn_token(const TokenRows<From, To>& rows, const RopeTable& table, std::int64_t D, std::int64_t position,
                Turn* turn, Stores stores) noexcept {
  for (std::int64_t first = 0; first < table.dim / 2; first += kPairs) {
    turn->prepare(position, first);
    for (std::int64_t h = 0; h < rows.heads; ++h) {
      if (rows.divides(h)) {
        MovedRow<From, To, true>(rows, h, stores).turn(*turn, table, first);
      } else {
        MovedRow<From, To, false>(rows, h, stores).turn(*turn, table, first);
      }
    }
  }
  for (std::int64_t h = 0; table.dim < D && h < rows.heads; ++h) {
    if (rows.divides(h)) {
      MovedRow<From, To, true>(rows, h, stores).move_rest(table, D);
    } else {
      MovedRow<From, To, false>(rows, h, stores).move_rest(table, D);
    }
  }
}

/// Whether the parts of a row that are stored apart are whole lines, where the row is.
inline bool cuts_at_lines(const RopeTable& table, DType dtype) noexcept {
  const std::int64_t run = table.pairing == RopePairing::half ? table.dim / 2 : table.dim;
  return table.offset * size_of(dtype) % kLine == 0 && run * size_of(dtype) % kLine == 0;
}

// ---- rope_apply and rope_shift -------------------------------------------------------------------------------------

inline constexpr float kUndivided = 1;

template <class Storage>
TokenRows<Storage, Storage> token_rows(const TensorView<3>& x, const TensorView<3>& out, std::int64_t token) noexcept {
  return {x.at<Storage>(token), x.stride[1], out.at<Storage>(token), out.stride[1], x.shape[1], &kUndivided, 0};
}

inline Stores rope_stores(const TensorView<3>& x, const TensorView<3>& out, const RopeTable& table) noexcept {
  return {x.data != out.data && goes_past_caches(out) && cuts_at_lines(table, out.dtype)};
}

template <class Storage>
void apply_tokens(const RopeApply& args, detail::Range tokens) noexcept {
  const Stores stores = rope_stores(args.x, args.out, args.table);
  Turn turn(args.table, args.table.mscale);
  for (std::int64_t t = tokens.begin; t < tokens.end; ++t) {
    turn_token(token_rows<Storage>(args.x, args.out, t), args.table, args.x.shape[2], args.positions[t], &turn, stores);
  }
  stores.finish();
}

template <class Storage>
void shift_tokens(const RopeShift& args, detail::Range tokens) noexcept {
  const Stores stores = rope_stores(args.x, args.out, args.table);
  Turn turn(args.table, 1);
  for (std::int64_t t = tokens.begin; t < tokens.end; ++t) {
    const TokenRows<Storage, Storage> rows = token_rows<Storage>(args.x, args.out, t);
    const std::int32_t delta = args.deltas[args.deltas.size() == 1 ? 0 : t];
    if (delta == 0) {
      move_token(rows, args.x.shape[2], stores);
    } else {
      turn_token(rows, args.table, args.x.shape[2], delta, &turn, stores);
    }
  }
  stores.finish();
}

inline void rope_apply_part(const RopeApply& args, std::int32_t part, std::int32_t parts) noexcept {
  const detail::Range tokens = detail::part_range(args.x.shape[0], part, parts);
  switch (args.x.dtype) {
    case DType::f32: return apply_tokens<float>(args, tokens);
    case DType::f16: return apply_tokens<Float16>(args, tokens);
    case DType::bf16: return apply_tokens<BFloat16>(args, tokens);
    case DType::f64: break;  // computes in f64, elsewhere
  }
}
inline void rope_shift_part(const RopeShift& args, std::int32_t part, std::int32_t parts) noexcept {
  const detail::Range tokens = detail::part_range(args.x.shape[0], part, parts);
  switch (args.x.dtype) {
    case DType::f32: return shift_tokens<float>(args, tokens);
    case DType::f16: return shift_tokens<Float16>(args, tokens);
    case DType::bf16: return shift_tokens<BFloat16>(args, tokens);
    case DType::f64: break;  // computes in f64, elsewhere
  }
}

// ---- rope_rebase ---------------------------------------------------------------------------------------------------

/// Through the caches, as kv_append: attention reads the keys next.
template <class Storage>
void rebase_tokens(const RopeRebase& args, detail::Range units) noexcept {
  Turn turn(args.table, 1);
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const detail::TokenMove move = detail::rebase_unit(args, u);
    const TensorView<4>& k = move.layer.k;
    if (move.delta == 0) {
      detail::copy_token(move, k);
    } else {
      const TokenRows<Storage, Storage> rows{k.at<Storage>(move.from, move.slot),
                                             k.stride[2],
                                             k.at<Storage>(move.to, move.slot),
                                             k.stride[2],
                                             k.shape[2],
                                             &kUndivided,
                                             0};
      turn_token(rows, args.table, k.shape[3], move.delta, &turn, {});
    }
    if (move.layer.v) detail::copy_token(move, move.layer.v);
  }
}

inline void rope_rebase_part(const RopeRebase& args, std::int32_t part, std::int32_t parts) noexcept {
  const detail::Range units = detail::part_range(detail::rebase_units(args), part, parts);
  if (units.begin == units.end) return;
  switch (args.layers[0].k.dtype) {
    case DType::f32: return rebase_tokens<float>(args, units);
    case DType::f16: return rebase_tokens<Float16>(args, units);
    case DType::bf16: return rebase_tokens<BFloat16>(args, units);
    case DType::f64: break;  // computes in f64, elsewhere
  }
}

PREFIXSHARE_REGION_END
