// SPDX-License-Identifier: Apache-2.0
// Where the scale of a stored key or value lies.
#pragma once

#include <cstdint>

#include "prefixshare/detail/macros.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// A slot of a pool.
struct SlotIndex {
  std::int64_t page;
  std::int64_t slot;  ///< in the page
};

/// The scale of one KV head of one slot.
PREFIXSHARE_HD inline float kv_scale_of(const KvScale& scale, SlotIndex at, std::int64_t page_size, std::int64_t heads,
                                        std::int64_t head) noexcept {
  switch (scale.granularity) {
    case ScaleGranularity::none: break;
    case ScaleGranularity::tensor: return scale.data[0];
    case ScaleGranularity::head: return scale.data[head];
    case ScaleGranularity::token: return scale.data[(at.page * page_size + at.slot) * heads + head];
    case ScaleGranularity::page: return scale.data[at.page * heads + head];
  }
  return 1;
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
