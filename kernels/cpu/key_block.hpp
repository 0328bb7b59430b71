// SPDX-License-Identifier: Apache-2.0
// A block of keys as the bodies of a forward take it, and which rows see which of its keys.
#pragma once

#include <cstdint>

#include "cpu/region.hpp"
#include "cpu/vector.hpp"
#include "prefixshare/tree_attention.hpp"

PREFIXSHARE_REGION_BEGIN

/// A block of keys and what applies to it.
struct Block {
  const detail::Piece* pieces;
  std::int32_t count;
  std::int32_t head;     // KV head
  std::int32_t columns;  // keys
  bool full;             // every row sees every key
};

/// Rows of a panel that see a column of the block that PanelMemory's bits are of.
inline Mask seen(const detail::PanelMemory& memory, std::int64_t panel, std::int32_t column) noexcept {
  const std::uint32_t* words = column < 32 ? memory.low : memory.high;
  return bits_set(words + panel * detail::kPanelRows, std::uint32_t{1} << (column % 32));
}

PREFIXSHARE_REGION_END
