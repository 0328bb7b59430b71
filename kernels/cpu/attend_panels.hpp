// SPDX-License-Identifier: Apache-2.0
// Body of a forward for many packed rows: panels of rows side by side in vectors, one KV head at a time. The softmax
// then runs down the keys of a block for 16 rows at once, without a sum across lanes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/key_block.hpp"
#include "cpu/panel_logits.hpp"
#include "cpu/region.hpp"
#include "cpu/vector.hpp"
#include "cpu/vector_math.hpp"

PREFIXSHARE_REGION_BEGIN

/// Products multiplies: queries with keys, probabilities with values.
template <class Products>
class AttendPanels {
 public:
  static constexpr std::int32_t kBlockKeys = detail::kBlockKeys;

  AttendPanels(const detail::AttendView& view, const detail::PanelMemory& memory, detail::QueryRows<float>* query,
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
    std::fill_n(memory_.o_panels, panels_ * o_panel(), 0.0f);
  }

  void absorb(const Block& block) noexcept {
    if (!block.full) logits_.see(block);
    products_.load_keys(block);
    for (std::int64_t p = 0; p < panels_; p += Products::kPanels) {
      const int panels = static_cast<int>(std::min<std::int64_t>(Products::kPanels, panels_ - p));
      products_.scores(block, p, panels, memory_.p);
      for (int i = 0; i < panels; ++i) soften(block, p + i, memory_.p + i * detail::kScorePanel);
      products_.add_values(block, p, panels, memory_.p, memory_.o_panels + p * o_panel());
    }
  }

  /// o over its sum, as rows; the maximum becomes the lse.
  void finish() noexcept {
    for (std::int64_t p = 0; p < panels_; ++p) {
      float* o = memory_.o_panels + p * o_panel();
      const std::int64_t row = p * detail::kPanelRows;
      divide(o, kind_.Dv, memory_.sum + row);
      from_panel(o, kind_.Dv, memory_.o + row * kind_.Dv);
    }
    for (std::int64_t m = 0; m < rows_; ++m) {
      memory_.maximum[m] = memory_.sum[m] == 0 ? kEmpty : memory_.maximum[m] + detail::log_of(memory_.sum[m]);
    }
  }

 private:
  static_assert(Products::kPanels <= detail::kPanels, "their scores lie side by side in PanelMemory");

  std::int64_t o_panel() const noexcept { return detail::PanelMemory::o_panel(kind_); }

  /// Dot products of a panel to exp(logit - maximum), with the maximum, the sum and the output brought along.
  void soften(const Block& block, std::int64_t panel, float* s) noexcept {
    const bool plain = block.full && logits_.are_products(block);
    if (!plain) logits_.to_logits(block, panel, 0, block.columns, 1.0f, s);
    if (!block.full) logits_.hide(panel, 0, block.columns, s);
    const Vec scale = Vec::all(plain ? logits_.scale() : 1.0f), empty = Vec::all(kEmpty);
    float* maximum = memory_.maximum + panel * detail::kPanelRows;
    float* sum = memory_.sum + panel * detail::kPanelRows;
    const Vec before = Vec::load(maximum);
    const Vec after = larger(before, largest_of_columns(s, block.columns) * scale);
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
    if (!all_of(equal(keep, Vec::all(1.0f)))) multiply_panel(memory_.o_panels + panel * o_panel(), kind_.Dv, keep);
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
};

PREFIXSHARE_REGION_END
