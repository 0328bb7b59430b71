// SPDX-License-Identifier: Apache-2.0
// Body of a forward for many packed rows with matrix tiles. A block is 256 keys, so that o, which does not fit the
// first-level cache, is read and written seldom; its scores are made and softened in chunks of 32 keys, which do.
//
// The softmax counts in powers of two: 2^(x - reference) are a row's probabilities. The reference is the largest logit
// of the first block that the row sees anything of, whose probability thus is exactly 1. It moves up only where a logit
// exceeds it by more than kSlack, by a whole number, and then all that was made with the old one is multiplied by a
// power of two, which rounds nothing: so chunks need not know the maximum of the block, and o is hardly ever rescaled.
// Idea of the slack: FlashAttention-4 (2025). o is divided by the sum of the probabilities as the tiles multiply them,
// rounded, so that a key that outweighs all others has its value exactly; the lse takes the sum of the unrounded ones.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/key_block.hpp"
#include "cpu/panel_logits.hpp"
#include "cpu/region.hpp"
#include "cpu/tile_products.hpp"
#include "cpu/vector.hpp"
#include "cpu/vector_math.hpp"

PREFIXSHARE_REGION_BEGIN

/// Multiplier: see tile_multiplier.hpp.
template <class Multiplier>
class AttendTiles {
 public:
  static constexpr std::int32_t kBlockKeys = detail::kTileBlockKeys;

  AttendTiles(const detail::AttendView& view, const detail::PanelMemory& memory, detail::QueryRows<float>* query,
              detail::Arena* arena) noexcept
      : kind_(view.kind()),
        group_(kind_.group()),
        memory_(memory),
        query_(*query),
        logits_(view, memory),
        products_(view, &logits_, arena) {}

  void begin(const RowTile& tile) noexcept {
    tile_rows_ = tile.count;
    rows_ = tile.count * group_;
    panels_ = (rows_ + detail::kPanelRows - 1) / detail::kPanelRows;
    logits_.begin(tile.count);
  }

  void load(std::int32_t first_instance, std::int32_t head) noexcept {
    query_.load(first_instance, tile_rows_, head, memory_.q);
    const std::int64_t padded = panels_ * detail::kPanelRows;
    std::fill_n(memory_.q + rows_ * kind_.D, (padded - rows_) * kind_.D, 0.0f);
    products_.load_queries(memory_.q, panels_);
  }

  void clear() noexcept {
    const std::int64_t padded = panels_ * detail::kPanelRows;
    std::fill_n(memory_.maximum, padded, kEmpty);
    std::fill_n(memory_.sum, padded, 0.0f);
    std::fill_n(products_.sums(), padded, 0.0f);
    std::fill_n(memory_.o_panels, panels_ * o_panel(), 0.0f);
  }

  /// The tiles are asked for the scores of the next chunk before the present one is softened: out of order, the CPU
  /// then does both at once, as far as it looks ahead.
  void absorb(const Block& block) noexcept {
    if (!block.full) logits_.see(block);
    products_.load_keys(block);
    are_products_ = logits_.are_products(block);
    const std::int32_t chunks = products_.chunks();
    for (std::int64_t p = 0; p < panels_; p += Products::kPanels) {
      const int panels = static_cast<int>(std::min<std::int64_t>(Products::kPanels, panels_ - p));
      if (any_unseen(p, panels)) {
        refer(block, p, panels);
        for (std::int32_t c = 0; c < chunks; ++c) {
          for (int i = 0; i < panels; ++i) soften(block, c, p, i, scores_of(c) + i * Products::kChunk);
        }
      } else {
        for (std::int32_t c = 0; c <= chunks; ++c) {
          if (c < chunks) products_.scores(block, c, p, panels, scores_of(c % 2));
          for (int i = 0; c > 0 && i < panels; ++i) {
            float* s = scores_of((c - 1) % 2) + i * Products::kChunk;
            to_logits(block, c - 1, p + i, s);
            soften(block, c - 1, p, i, s);
          }
        }
      }
      products_.add_values(panels, o_of(p));
    }
  }

  /// o over its sum, as rows; the reference becomes the lse.
  void finish() noexcept {
    constexpr float kLn2 = 0.693147181f;
    for (std::int64_t p = 0; p < panels_; ++p) {
      const std::int64_t row = p * detail::kPanelRows;
      divide(o_of(p), kind_.Dv, products_.sums() + row);
      from_panel(o_of(p), kind_.Dv, memory_.o + row * kind_.Dv);
      const Vec sum = Vec::load(memory_.sum + row);
      const Vec lse = fma(Vec::load(memory_.maximum + row), Vec::all(kLn2), log_of(sum));
      choose(equal(sum, Vec::zero()), Vec::all(kEmpty), lse).store(memory_.maximum + row);
    }
  }

 private:
  using Products = TileProducts<Multiplier>;
  static constexpr float kSlack = 8;  // probabilities stay below 2^8, their sums far below infinity
  static constexpr float kLog2e = 1.44269504f;
  static_assert(Products::kPanels * kBlockKeys * detail::kPanelRows <= detail::PanelMemory::kScores,
                "the scores of a block lie in PanelMemory::p");

  std::int64_t o_panel() const noexcept { return detail::PanelMemory::o_panel(kind_); }
  float* o_of(std::int64_t panel) const noexcept { return memory_.o_panels + panel * o_panel(); }
  float* scores_of(std::int32_t chunk) const noexcept {
    return memory_.p + chunk * Products::kPanels * Products::kChunk;
  }

  Mask unseen(std::int64_t panel) const noexcept {
    return equal(Vec::load(memory_.maximum + panel * detail::kPanelRows), Vec::all(kEmpty));
  }
  bool any_unseen(std::int64_t first, int panels) const noexcept {
    bool any = false;
    for (int i = 0; i < panels; ++i) any = any || !none_of(unseen(first + i));
    return any;
  }

  /// The logits of the whole block, and the references of rows that have seen nothing before: the largest of them.
  void refer(const Block& block, std::int64_t first, int panels) noexcept {
    for (std::int32_t c = 0; c < products_.chunks(); ++c) products_.scores(block, c, first, panels, scores_of(c));
    for (int i = 0; i < panels; ++i) {
      Vec most = Vec::all(kEmpty);
      for (std::int32_t c = 0; c < products_.chunks(); ++c) {
        float* s = scores_of(c) + i * Products::kChunk;
        if (!to_logits(block, c, first + i, s)) continue;
        most = larger(most, largest_of_columns(s, Products::kKeys) * unit());
      }
      float* maximum = memory_.maximum + (first + i) * detail::kPanelRows;
      choose(unseen(first + i), most, Vec::load(maximum)).store(maximum);
    }
  }

  bool any_sees(const Block& block, std::int32_t chunk, std::int64_t panel) const noexcept {
    return !logits_.none_sees(block, panel, chunk, Products::columns_of(block, chunk));
  }
  /// The dot products s of a chunk to logits over unit(), -inf where a row does not see a key; false, and nothing done,
  /// if no row sees any.
  bool to_logits(const Block& block, std::int32_t chunk, std::int64_t panel, float* s) const noexcept {
    if (!any_sees(block, chunk, panel)) return false;
    const std::int32_t columns = Products::columns_of(block, chunk), column = chunk * Products::kKeys;
    if (!are_products_) logits_.to_logits(block, panel, column, columns, kLog2e, s);
    if (!logits_.all_see(block, panel, chunk, columns)) logits_.hide(panel, column, columns, s);
    for (std::int32_t c = columns; c < Products::kKeys; ++c) Vec::all(kEmpty).store(s + c * detail::kPanelRows);
    return true;
  }
  Vec unit() const noexcept { return Vec::all(are_products_ ? logits_.scale() * kLog2e : 1.0f); }

  /// The logits s of a chunk to weights of the values, for panel `first + i`.
  void soften(const Block& block, std::int32_t chunk, std::int64_t first, int i, float* s) noexcept {
    const std::int64_t panel = first + i;
    if (!any_sees(block, chunk, panel)) return products_.clear_weights(i, chunk);
    const Vec unit = this->unit();
    const Vec reference = raise(panel, i, chunk, largest_of_columns(s, Products::kKeys) * unit);
    if (products_.plain()) return weigh<true>(panel, i, chunk, unit, reference, s);
    weigh<false>(panel, i, chunk, unit, reference, s);
    products_.add_odd_values(block, chunk, panel, s, o_of(panel));
  }

  /// 2^(s * unit - reference) into the tiles and the sums, and back into s unless `plain`.
  template <bool plain>
  void weigh(std::int64_t panel, int i, std::int32_t chunk, Vec unit, Vec reference, float* s) noexcept {
    float *sum = memory_.sum + panel * detail::kPanelRows, *weights = products_.sums() + panel * detail::kPanelRows;
    Vec evens = Vec::zero(), odds = Vec::zero(), multiplied = Vec::zero();
    for (std::int32_t c = 0; c < Products::kKeys; c += 2) {
      float *even_at = s + c * detail::kPanelRows, *odd_at = even_at + detail::kPanelRows;
      const Vec even = exp2_of(fms(Vec::load(even_at), unit, reference));
      const Vec odd = exp2_of(fms(Vec::load(odd_at), unit, reference));
      evens = evens + even, odds = odds + odd;
      if constexpr (plain) {
        multiplied = multiplied + products_.put_weights(i, chunk, c, even, odd);
      } else {
        multiplied = multiplied + products_.put_scaled_weights(i, chunk, c, even, odd);
        even.store(even_at), odd.store(odd_at);
      }
    }
    (Vec::load(sum) + (evens + odds)).store(sum);
    (Vec::load(weights) + multiplied).store(weights);
  }

  /// Brings the references of a panel's rows along for a chunk whose largest logits are `most`; returns what to take
  /// from logits: the reference, or 0 where nothing has been seen yet: 2^(-inf - 0) = 0.
  Vec raise(std::int64_t panel, int i, std::int32_t chunk, Vec most) noexcept {
    float* maximum = memory_.maximum + panel * detail::kPanelRows;
    const Vec before = Vec::load(maximum), empty = Vec::all(kEmpty);
    const Mask grows = less(before + Vec::all(kSlack), most);
    Vec after = before;
    if (!none_of(grows)) {
      const Vec step = choose(grows, round_up(most - before), Vec::zero());
      after = before + step;
      after.store(maximum);
      const Vec keep = exp2_of(Vec::zero() - step);
      for (float* sums : {memory_.sum, products_.sums()}) {
        float* at = sums + panel * detail::kPanelRows;
        (Vec::load(at) * keep).store(at);
      }
      multiply_panel(o_of(panel), kind_.Dv, keep);
      products_.multiply_weights(i, chunk, keep);
    }
    return choose(equal(after, empty), Vec::zero(), after);
  }

  LayerKind kind_;
  std::int64_t group_;
  const detail::PanelMemory& memory_;
  detail::QueryRows<float>& query_;
  PanelLogits logits_;
  Products products_;
  std::int32_t tile_rows_ = 0;
  std::int64_t rows_ = 0;  // packed with the heads of the group
  std::int64_t panels_ = 0;
  bool are_products_ = false;  // PanelLogits::are_products of the block
};

PREFIXSHARE_REGION_END
