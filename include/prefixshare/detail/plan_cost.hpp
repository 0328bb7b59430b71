// SPDX-License-Identifier: Apache-2.0
// The cost model as arithmetic: predicted nanoseconds of tiles and partial states. Comes with plan.hpp.
#pragma once

#include <cstdint>

#include "prefixshare/detail/part_range.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Rows of a row tile: what fills kTileRows with the group's heads packed in.
constexpr std::int32_t tile_row_limit(const LayerKind& k) noexcept {
  return k.group() >= kTileRows ? 1 : kTileRows / k.group();
}

/// Elements of a key and its value, all KV heads.
constexpr double kv_elements(const LayerKind& k) noexcept { return static_cast<double>(k.Hkv) * (k.D + k.Dv); }

/// Pieces of work, each with a start of its own, that `rows` packed rows (or keys, for their gradients) make.
constexpr std::int64_t work_pieces(const LayerKind& k, const CostModel& cost, std::int64_t rows) noexcept {
  return cost.by_head ? k.Hkv * ceil_div(rows, cost.row_step) : 1;
}

/// Predicted times of one implementation for one layer kind.
class TileCost {
 public:
  TileCost(const LayerKind& kind, const PlanOptions& options) noexcept
      : kind_(kind),
        cost_(options.cost),
        elements_(kv_elements(kind)),
        group_(kind.group()),
        limit_(tile_row_limit(kind)),
        few_rows_(options.mode == Mode::batch_invariant ? 0 : options.cost.few_rows),
        partial_(options.cost.partial * kind.Hq * (kind.Dv + 1.0)) {}

  /// Pieces of work of a tile.
  std::int64_t pieces(std::int64_t rows) const noexcept { return work_pieces(kind_, cost_, rows * group_); }
  /// Starting the work of a tile for some of its KV heads, which are one item.
  double item(std::int64_t rows, std::int32_t heads) const noexcept {
    return cost_.by_head ? cost_.item * static_cast<double>(pieces(rows) * heads) / kind_.Hkv : cost_.item;
  }
  /// One key against the rows of one tile, all heads.
  double key(std::int64_t rows) const noexcept {
    const std::int64_t packed = rows * group_;
    if (packed <= few_rows_) return elements_ * (cost_.few_kv_element + static_cast<double>(packed) * cost_.few_mac);
    const std::int64_t padded = ceil_div(packed, cost_.row_step) * cost_.row_step;
    return elements_ * (cost_.kv_element + static_cast<double>(padded) * cost_.mac);
  }
  /// As many tiles as `rows` take, each against `keys` keys.
  double tiles(std::int64_t rows, std::int64_t keys) const noexcept {
    const std::int64_t full = rows / limit_, rest = rows % limit_;
    double ns = static_cast<double>(full * pieces(limit_) + (rest > 0 ? pieces(rest) : 0)) * cost_.item;
    if (full > 0) ns += static_cast<double>(full * keys) * key(limit_);
    if (rest > 0) ns += static_cast<double>(keys) * key(rest);
    return ns;
  }
  /// A partial state of each row: written, read, merged.
  double partials(std::int64_t rows) const noexcept { return partial_ * static_cast<double>(rows); }

  /// Whether a tile waits for its keys rather than for its arithmetic.
  bool reads(std::int64_t rows) const noexcept {
    return rows * group_ <= few_rows_ || key(rows) < 2 * elements_ * cost_.kv_element;
  }

 private:
  const LayerKind& kind_;
  const CostModel& cost_;
  double elements_;
  std::int64_t group_, limit_, few_rows_;
  double partial_;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
