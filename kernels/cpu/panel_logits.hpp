// SPDX-License-Identifier: Apache-2.0
// From dot products to logits for panels of packed rows, and which rows see which keys.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/key_block.hpp"
#include "cpu/region.hpp"
#include "cpu/vector.hpp"
#include "cpu/vector_math.hpp"

PREFIXSHARE_REGION_BEGIN

inline constexpr float kEmpty = -std::numeric_limits<float>::infinity();

class PanelLogits {
 public:
  PanelLogits(const detail::AttendView& view, const detail::PanelMemory& memory) noexcept
      : view_(view),
        args_(view.args),
        group_(view.kind().group()),
        padded_(detail::PanelMemory::padded_rows(view.kind())),
        scale_(static_cast<float>(view.scale())),
        memory_(memory) {}

  float scale() const noexcept { return scale_; }

  /// Rows of the tile, not packed.
  void begin(std::int64_t tile_rows) noexcept { tile_rows_ = tile_rows; }

  /// Whether the logits of a block's keys, before the mask, are the dot products times a positive scale.
  bool are_products(const Block& block) const noexcept {
    return scale_ > 0 && !(args_.softcap > 0) && !has_bias(block);
  }

  /// Which columns each packed row sees, as bits. The rows that fill a panel up see all.
  void see(const Block& block) noexcept {
    const std::int64_t words = detail::ceil_div(block.columns, 32), rows = tile_rows_ * group_;
    for (std::int64_t i = 0; i < tile_rows_; ++i) {
      std::uint32_t seen[detail::kTileBlockKeys / 32] = {};
      for (std::int32_t p = 0; p < block.count; ++p) {
        detail::visible_ranges(view_, block.pieces[p], i,
                               [&](std::int32_t begin, std::int32_t end) { set_bits(begin, end, seen); });
      }
      for (std::int64_t w = 0; w < words; ++w) std::fill_n(words_of(w) + i * group_, group_, seen[w]);
    }
    for (std::int64_t w = 0; w < words; ++w) std::fill(words_of(w) + rows, words_of(w) + padded_, ~std::uint32_t{0});
  }
  /// Rows of a panel that see a column of the block.
  Mask seen(std::int64_t panel, std::int32_t column) const noexcept {
    return bits_set(words_of(column / 32) + panel * detail::kPanelRows, std::uint32_t{1} << (column % 32));
  }

  /// Whether every row of a panel, or no row, sees the columns [32 * word, 32 * word + count) of the block.
  bool all_see(const Block& block, std::int64_t panel, std::int64_t word, std::int32_t count) const noexcept {
    return block.full || each_row(panel, word, [&](std::uint32_t seen) { return (~seen & first_bits(count)) == 0; });
  }
  bool none_sees(const Block& block, std::int64_t panel, std::int64_t word, std::int32_t count) const noexcept {
    return !block.full && each_row(panel, word, [&](std::uint32_t seen) { return (seen & first_bits(count)) == 0; });
  }

  /// Dot products s [count][row] of columns from `first` on become logits times `unit`: scale, soft cap, bias.
  void to_logits(const Block& block, std::int64_t panel, std::int32_t first, std::int32_t count, float unit,
                 float* s) const noexcept {
    const Vec scale = Vec::all(scale_), cap = Vec::all(static_cast<float>(args_.softcap)), factor = Vec::all(unit);
    const bool capped = args_.softcap > 0;
    for (std::int32_t c = 0; c < count; ++c) {
      Vec x = Vec::load(s + c * detail::kPanelRows) * scale;
      if (capped) x = cap * tanh_of(x / cap);
      x.store(s + c * detail::kPanelRows);
    }
    for (std::int32_t i = 0; i < block.count; ++i) add_bias(block.pieces[i], block.head, panel, first, count, s);
    for (std::int32_t c = 0; c < count && unit != 1; ++c) {
      float* at = s + c * detail::kPanelRows;
      (Vec::load(at) * factor).store(at);
    }
  }
  /// What a row does not see becomes -inf.
  void hide(std::int64_t panel, std::int32_t first, std::int32_t count, float* s) const noexcept {
    for (std::int32_t c = 0; c < count; ++c) {
      float* at = s + c * detail::kPanelRows;
      choose(seen(panel, first + c), Vec::load(at), Vec::all(kEmpty)).store(at);
    }
  }

 private:
  std::uint32_t* words_of(std::int64_t word) const noexcept { return memory_.seen + word * padded_; }
  static std::uint32_t first_bits(std::int32_t count) noexcept { return ~std::uint32_t{0} >> (32 - count); }
  template <class Test>
  bool each_row(std::int64_t panel, std::int64_t word, Test test) const noexcept {
    const std::uint32_t* words = words_of(word) + panel * detail::kPanelRows;
    bool all = true;
    for (std::int64_t r = 0; r < detail::kPanelRows; ++r) all = all && test(words[r]);
    return all;
  }
  static void set_bits(std::int32_t begin, std::int32_t end, std::uint32_t* words) noexcept {
    for (std::int32_t c = begin; c < end;) {
      const std::int32_t stop = std::min(end, (c / 32 + 1) * 32);
      words[c / 32] |= ~std::uint32_t{0} >> (32 - (stop - c)) << (c % 32);
      c = stop;
    }
  }

  bool has_bias(const Block& block) const noexcept {
    for (std::int32_t i = 0; i < block.count; ++i) {
      if (args_.kv[view_.plan.segments[block.pieces[i].run->segment].pool].bias) return true;
    }
    return false;
  }
  void add_bias(const detail::Piece& piece, std::int64_t head, std::int64_t panel, std::int32_t first,
                std::int32_t count, float* s) const noexcept {
    const Segment& segment = view_.plan.segments[piece.run->segment];
    const TensorView<3>& bias = args_.kv[segment.pool].bias;
    if (!bias) return;
    const std::int64_t begin = panel * detail::kPanelRows,
                       end = std::min(begin + detail::kPanelRows, tile_rows_ * group_);
    for (std::int32_t c = std::max(piece.begin, first); c < std::min(piece.end, first + count); ++c) {
      const detail::TokenPlace at =
          detail::place_of(view_.plan, segment, std::int64_t{piece.run->token} + piece.key + (c - piece.begin));
      for (std::int64_t m = begin; m < end; ++m) {
        s[(c - first) * detail::kPanelRows + (m - begin)] +=
            static_cast<float>(detail::bias_at(bias, at, head * group_ + m % group_));
      }
    }
  }

  const detail::AttendView& view_;
  const Attend& args_;
  std::int64_t group_, padded_;
  float scale_;
  const detail::PanelMemory& memory_;
  std::int64_t tile_rows_ = 0;
};

/// The largest of each row's scores s [columns][row], NaN aside; -inf of none. Four at a time, since one maximum after
/// the other would wait four cycles for each.
inline Vec largest_of_columns(const float* s, std::int64_t columns) noexcept {
  Vec most[4] = {Vec::all(kEmpty), Vec::all(kEmpty), Vec::all(kEmpty), Vec::all(kEmpty)};
  for (std::int64_t c = 0; c < columns / 4 * 4; c += 4) {
    PREFIXSHARE_UNROLL
    for (std::int64_t i = 0; i < 4; ++i) most[i] = larger(most[i], Vec::load(s + (c + i) * detail::kPanelRows));
  }
  for (std::int64_t c = columns / 4 * 4; c < columns; ++c) {
    most[0] = larger(most[0], Vec::load(s + c * detail::kPanelRows));
  }
  return larger(larger(most[0], most[1]), larger(most[2], most[3]));
}
/// Rows of a panel [width][row] times a factor of each.
inline void multiply_panel(float* panel, std::int64_t width, Vec factor) noexcept {
  for (std::int64_t d = 0; d < width; ++d) {
    float* at = panel + d * detail::kPanelRows;
    (Vec::load(at) * factor).store(at);
  }
}
/// Rows of a panel over their sums; those of an empty sum stay.
inline void divide(float* panel, std::int64_t width, const float* sums) noexcept {
  const Vec sum = Vec::load(sums), divisor = choose(equal(sum, Vec::zero()), Vec::all(1.0f), sum);
  for (std::int64_t d = 0; d < width; ++d) {
    float* at = panel + d * detail::kPanelRows;
    (Vec::load(at) / divisor).store(at);
  }
}
/// [width, kPanelRows] to [kPanelRows, width].
inline void from_panel(const float* panel, std::int64_t width, float* rows) noexcept {
  std::int64_t d = 0;
  for (; d + 16 <= width; d += 16) transpose16(panel + d * detail::kPanelRows, detail::kPanelRows, rows + d, width);
  for (; d < width; ++d) {
    for (std::int64_t r = 0; r < detail::kPanelRows; ++r) rows[r * width + d] = panel[d * detail::kPanelRows + r];
  }
}

PREFIXSHARE_REGION_END
