// SPDX-License-Identifier: Apache-2.0
// The products of AttendPanels with fused multiply-adds of vectors: keys and values of a block in f32, queries as
// panels.
#pragma once

#include <cstdint>

#include "cpu/key_buffer.hpp"
#include "cpu/panel_logits.hpp"
#include "cpu/panel_products.hpp"

PREFIXSHARE_REGION_BEGIN

class FmaProducts {
 public:
  static constexpr int kPanels = kProductPanels;  // multiplied at once

  FmaProducts(const detail::AttendView& view, const PanelLogits* logits, detail::Arena* arena) noexcept
      : kind_(view.kind()), logits_(*logits), memory_(arena, kind_), keys_(view, memory_) {}

  /// Query rows of `panels` panels, [panels * kPanelRows, D].
  void load_queries(const float* rows, std::int64_t panels) noexcept {
    query_panels_ = panels;
    for (std::int64_t p = 0; p < panels; ++p) {
      to_panel(rows + p * detail::kPanelRows * kind_.D, kind_.D, memory_.q_panels + p * q_panel());
    }
  }

  void load_keys(const Block& block) noexcept {
    const std::int64_t chunks = product_chunks(block.columns) + product_chunks(kind_.Dv);
    keys_.load(block, (query_panels_ + kPanels - 1) / kPanels * chunks);
    leaks_ = !block.full && !values_finite(block.columns);
  }

  /// s[panel][key][row] = key . query for 1 to kPanels neighbouring panels.
  void scores(const Block& block, std::int64_t panel, int panels, float* s) noexcept {
    product<Product::scores>(keys_.k(), kind_.D, block.columns, memory_.q_panels + panel * q_panel(), q_panel(),
                             kind_.D, s, detail::kScorePanel, panels, &keys_);
  }

  /// o[d][row] += sum over keys of value * p for 1 to kPanels neighbouring panels.
  void add_values(const Block& block, std::int64_t panel, int panels, const float* p, float* o) noexcept {
    const std::int64_t o_panel = detail::PanelMemory::o_panel(kind_);
    if (!leaks_) {
      product<Product::outputs>(keys_.v(), kind_.Dv, kind_.Dv, p, detail::kScorePanel, block.columns, o, o_panel,
                                panels, &keys_);
      return;
    }
    for (int i = 0; i < panels; ++i) {
      add_seen_values(block.columns, panel + i, p + i * detail::kScorePanel, o + i * o_panel);
    }
  }

 private:
  std::int64_t q_panel() const noexcept { return std::int64_t{kind_.D} * detail::kPanelRows; }

  /// [kPanelRows, width] to [width, kPanelRows].
  static void to_panel(const float* rows, std::int64_t width, float* panel) noexcept {
    std::int64_t d = 0;
    for (; d + 16 <= width; d += 16) transpose16(rows + d, width, panel + d * detail::kPanelRows, detail::kPanelRows);
    for (; d < width; ++d) {
      for (std::int64_t r = 0; r < detail::kPanelRows; ++r) panel[d * detail::kPanelRows + r] = rows[r * width + d];
    }
  }

  bool values_finite(std::int32_t columns) const noexcept {
    Vec zero = Vec::zero();  // becomes NaN with the first value that is not finite
    const std::int64_t count = std::int64_t{columns} * kind_.Dv;
    std::int64_t i = 0;
    for (; i + 16 <= count; i += 16) zero = fma(Vec::load(keys_.v() + i), Vec::zero(), zero);
    bool finite = all_of(equal(zero, Vec::zero()));
    for (; i < count; ++i) finite = finite && keys_.v()[i] * 0.0f == 0.0f;
    return finite;
  }
  /// A value that a row does not see is never multiplied, not even by zero: it may be NaN.
  void add_seen_values(std::int32_t columns, std::int64_t panel, const float* p, float* o) const noexcept {
    for (std::int64_t d = 0; d < kind_.Dv; ++d) {
      float* at = o + d * detail::kPanelRows;
      Vec sum = Vec::load(at);
      for (std::int32_t c = 0; c < columns; ++c) {
        const Vec more = fma(Vec::all(keys_.v()[c * kind_.Dv + d]), Vec::load(p + c * detail::kPanelRows), sum);
        sum = choose(logits_.seen(panel, c), more, sum);
      }
      sum.store(at);
    }
  }

  LayerKind kind_;
  const PanelLogits& logits_;
  detail::FmaMemory memory_;
  KeyBuffer keys_;
  std::int64_t query_panels_ = 0;
  bool leaks_ = false;  // the block has a value that is not finite and that a row may not see
};

PREFIXSHARE_REGION_END
