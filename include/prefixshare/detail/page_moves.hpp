// SPDX-License-Identifier: Apache-2.0
// The units of work of rope_rebase: tokens that go from page to page.
#pragma once

#include <cstdint>
#include <cstring>

#include "prefixshare/rope_rebase.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// One token on its way from page to page, in one layer.
struct TokenMove {
  const KvPool& layer;
  std::int64_t from;
  std::int64_t to;
  std::int64_t slot;
  std::int32_t delta;

  const void* source(const TensorView<4>& cache, std::int64_t head) const noexcept {
    return cache.ptr(from, slot, head);
  }
  void* target(const TensorView<4>& cache, std::int64_t head) const noexcept { return cache.ptr(to, slot, head); }
};

/// Units of a call: the tokens of a move in one layer, then in the next, then those of the next move.
inline std::int64_t rebase_units(const RopeRebase& args) noexcept {
  if (args.layers.empty()) return 0;
  return args.from_pages.size() * args.layers.size() * args.layers[0].k.shape[1];
}
inline TokenMove rebase_unit(const RopeRebase& args, std::int64_t unit) noexcept {
  const std::int64_t page_size = args.layers[0].k.shape[1];
  const std::int64_t i = unit / page_size / args.layers.size();
  return {args.layers[unit / page_size % args.layers.size()], args.from_pages[i], args.to_pages[i], unit % page_size,
          args.deltas[args.deltas.size() == 1 ? 0 : i]};
}

/// Rows of a cache as they are.
inline void copy_token(const TokenMove& move, const TensorView<4>& cache) noexcept {
  const std::int64_t bytes = cache.shape[3] * size_of(cache.dtype);
  if (move.from == move.to || bytes == 0) return;
  for (std::int64_t h = 0; h < cache.shape[2]; ++h) {
    std::memcpy(move.target(cache, h), move.source(cache, h), static_cast<std::size_t>(bytes));
  }
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
