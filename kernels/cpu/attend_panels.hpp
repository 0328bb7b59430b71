// SPDX-License-Identifier: Apache-2.0
// Body of a forward for many packed rows: panels of rows side by side in vectors, one KV head at a time. The softmax
// then runs down the keys of a block for 16 rows at once, without a sum across lanes.
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

/// Products multiplies: queries with keys, probabilities with values.
template <class Products>
class AttendPanels {
 public:
  AttendPanels(const detail::AttendView& view, const detail::PanelMemory& memory, detail::QueryRows<float>* query,
               detail::Arena* arena) noexcept
      : view_(view),
        args_(view.args),
        kind_(view.kind()),
        group_(kind_.group()),
        scale_(static_cast<float>(view.scale())),
        memory_(memory),
        query_(*query),
        products_(view, memory, arena) {}

  void begin(const RowTile& tile) noexcept {
    tile_rows_ = tile.count;
    rows_ = tile.count * group_;
    panels_ = (rows_ + detail::kPanelRows - 1) / detail::kPanelRows;
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
    std::fill_n(memory_.o_panels, panels_ * o_panel(), 0.0f);
  }

  /// Products whose unit works beside that of the vectors are asked for the scores of the next panels before these are
  /// softened: out of order, the CPU then does both at once, as far as it looks ahead.
  void absorb(const Block& block) noexcept {
    if (!block.full) see(block);
    products_.load_keys(block);
    for (std::int64_t p = 0; p < panels_ + Products::kAhead; p += Products::kPanels) {
      if (p < panels_) products_.scores(block, p, panels_at(p), scores_of(p));
      if (p >= Products::kAhead) weigh(block, p - Products::kAhead);
    }
  }

  /// o over its sum, as rows; the maximum becomes the lse.
  void finish() noexcept {
    for (std::int64_t p = 0; p < panels_; ++p) {
      float* o = memory_.o_panels + p * o_panel();
      const std::int64_t row = p * detail::kPanelRows;
      const Vec sum = Vec::load(memory_.sum + row);
      const Vec divisor = choose(equal(sum, Vec::zero()), Vec::all(1.0f), sum);
      for (std::int64_t d = 0; d < kind_.Dv; ++d) {
        float* at = o + d * detail::kPanelRows;
        (Vec::load(at) / divisor).store(at);
      }
      from_panel(o, kind_.Dv, memory_.o + row * kind_.Dv);
    }
    for (std::int64_t m = 0; m < rows_; ++m) {
      memory_.maximum[m] = memory_.sum[m] == 0 ? kEmpty : memory_.maximum[m] + detail::log_of(memory_.sum[m]);
    }
  }

 private:
  static constexpr int kScorePanels = Products::kPanels + Products::kAhead;
  static_assert(kScorePanels <= detail::kPanels, "their scores lie side by side in PanelMemory");

  std::int64_t o_panel() const noexcept { return detail::PanelMemory::o_panel(kind_); }

  /// [width, kPanelRows] to [kPanelRows, width].
  static void from_panel(const float* panel, std::int64_t width, float* rows) noexcept {
    std::int64_t d = 0;
    for (; d + 16 <= width; d += 16) transpose16(panel + d * detail::kPanelRows, detail::kPanelRows, rows + d, width);
    for (; d < width; ++d) {
      for (std::int64_t r = 0; r < detail::kPanelRows; ++r) rows[r * width + d] = panel[d * detail::kPanelRows + r];
    }
  }

  /// Panels from p on that are multiplied at once, and their scores.
  int panels_at(std::int64_t p) const noexcept {
    return static_cast<int>(std::min<std::int64_t>(Products::kPanels, panels_ - p));
  }
  float* scores_of(std::int64_t p) const noexcept { return memory_.p + p % kScorePanels * detail::kScorePanel; }

  void weigh(const Block& block, std::int64_t p) noexcept {
    for (int i = 0; i < panels_at(p); ++i) soften(block, p + i, scores_of(p) + i * detail::kScorePanel);
    products_.add_values(block, p, panels_at(p), scores_of(p), memory_.o_panels + p * o_panel());
  }

  /// Which columns each packed row sees, as bits. The rows that fill a panel up see all.
  void see(const Block& block) noexcept {
    for (std::int64_t i = 0; i < tile_rows_; ++i) {
      const std::uint64_t word = detail::visible_word(view_, block.pieces, block.count, i);
      for (std::int64_t m = i * group_; m < (i + 1) * group_; ++m) {
        memory_.low[m] = static_cast<std::uint32_t>(word);
        memory_.high[m] = static_cast<std::uint32_t>(word >> 32);
      }
    }
    const std::int64_t padded = panels_ * detail::kPanelRows;
    std::fill(memory_.low + rows_, memory_.low + padded, ~std::uint32_t{0});
    std::fill(memory_.high + rows_, memory_.high + padded, ~std::uint32_t{0});
  }

  /// Dot products of a panel to exp(logit - maximum), with the maximum, the sum and the output brought along.
  void soften(const Block& block, std::int64_t panel, float* s) noexcept {
    const bool plain = block.full && !(args_.softcap > 0) && !has_bias(block);
    if (!plain) to_logits(block, panel, s);
    const Vec scale = Vec::all(plain ? scale_ : 1.0f), empty = Vec::all(kEmpty);
    float* maximum = memory_.maximum + panel * detail::kPanelRows;
    float* sum = memory_.sum + panel * detail::kPanelRows;
    const Vec before = Vec::load(maximum);
    Vec after = before;
    for (std::int32_t c = 0; c < block.columns; ++c) {
      after = larger(after, Vec::load(s + c * detail::kPanelRows) * scale);
    }
    const Vec shift = choose(equal(after, empty), Vec::zero(), after);  // nothing seen yet: exp(-inf - 0) = 0
    Vec sums[2] = {Vec::zero(), Vec::zero()};
    for (std::int32_t c = 0; c < block.columns; ++c) {
      float* at = s + c * detail::kPanelRows;
      const Vec p = exp_of(Vec::load(at) * scale - shift);
      p.store(at);
      sums[c % 2] = sums[c % 2] + p;
    }
    const Vec keep = exp_of(before - shift);
    after.store(maximum);
    fma(Vec::load(sum), keep, sums[0] + sums[1]).store(sum);
    if (!all_of(equal(keep, Vec::all(1.0f)))) weaken(panel, keep);
  }
  void weaken(std::int64_t panel, Vec keep) noexcept {
    float* o = memory_.o_panels + panel * o_panel();
    for (std::int64_t d = 0; d < kind_.Dv; ++d) {
      float* at = o + d * detail::kPanelRows;
      (Vec::load(at) * keep).store(at);
    }
  }

  bool has_bias(const Block& block) const noexcept {
    for (std::int32_t i = 0; i < block.count; ++i) {
      if (args_.kv[view_.plan.segments[block.pieces[i].run->segment].pool].bias) return true;
    }
    return false;
  }
  /// Scale, soft cap, bias, mask.
  void to_logits(const Block& block, std::int64_t panel, float* s) const noexcept {
    const Vec scale = Vec::all(scale_), cap = Vec::all(static_cast<float>(args_.softcap)), empty = Vec::all(kEmpty);
    const bool capped = args_.softcap > 0;
    for (std::int32_t c = 0; c < block.columns; ++c) {
      Vec x = Vec::load(s + c * detail::kPanelRows) * scale;
      if (capped) x = cap * tanh_of(x / cap);
      x.store(s + c * detail::kPanelRows);
    }
    for (std::int32_t i = 0; i < block.count; ++i) add_bias(block.pieces[i], block.head, panel, s);
    for (std::int32_t c = 0; c < block.columns && !block.full; ++c) {
      float* at = s + c * detail::kPanelRows;
      choose(seen(memory_, panel, c), Vec::load(at), empty).store(at);
    }
  }
  void add_bias(const detail::Piece& piece, std::int64_t head, std::int64_t panel, float* s) const noexcept {
    const Segment& segment = view_.plan.segments[piece.run->segment];
    const TensorView<3>& bias = args_.kv[segment.pool].bias;
    if (!bias) return;
    const std::int64_t first = panel * detail::kPanelRows, end = std::min(first + detail::kPanelRows, rows_);
    for (std::int32_t c = piece.begin; c < piece.end; ++c) {
      const detail::TokenPlace at =
          detail::place_of(view_.plan, segment, std::int64_t{piece.run->token} + piece.key + (c - piece.begin));
      for (std::int64_t m = first; m < end; ++m) {
        s[c * detail::kPanelRows + (m - first)] +=
            static_cast<float>(detail::bias_at(bias, at, head * group_ + m % group_));
      }
    }
  }

  const detail::AttendView& view_;
  const Attend& args_;
  LayerKind kind_;
  std::int64_t group_;
  float scale_;
  const detail::PanelMemory& memory_;
  detail::QueryRows<float>& query_;
  Products products_;
  std::int32_t tile_rows_ = 0;
  std::int64_t rows_ = 0;  // packed with the heads of the group
  std::int64_t panels_ = 0;
};

PREFIXSHARE_REGION_END
