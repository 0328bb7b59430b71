// SPDX-License-Identifier: Apache-2.0
// A block of keys as the bodies of a forward take it: which rows see which of its keys, where they lie, and what comes
// after them.
#pragma once

#include <algorithm>
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

/// Where the keys and values of up to a block's columns lie, for one KV head.
struct KeyPlaces {
  const char* k[detail::kTileBlockKeys];
  const char* v[detail::kTileBlockKeys];

  /// Columns [begin, end): consecutive tokens of a segment from `token` on.
  void find(const PlanView& plan, const KvPool& pool, const Segment& segment, std::int64_t token, std::int32_t head,
            std::int32_t begin, std::int32_t end) noexcept {
    detail::TokenWalk walk(plan, segment, token);
    for (std::int32_t c = begin; c < end; ++c) {
      const detail::TokenPlace at = walk.next();
      k[c] = static_cast<const char*>(pool.k.ptr(at.page, at.slot, head));
      v[c] = static_cast<const char*>(pool.v.ptr(at.page, at.slot, head));
    }
  }
};

/// Asks for the tokens that come after a block, all heads of one token after the other, a little with every few keys
/// that are worked on: many requests at once would wait for each other and hold up the loads. Where a run ends the next
/// one of the plan follows, which is the first of the next item at the end of an item: leaves are often not longer than
/// a block, and would be found cold.
class Ahead {
 public:
  /// `last`: the last piece of the block. `most`: keys to ask for. `steps`: how often some() will be called.
  void start(const detail::AttendView& view, const detail::Piece& last, std::int32_t head, std::int32_t heads,
             std::int32_t most, std::int64_t steps) noexcept {
    const LayerKind& kind = view.kind();
    const std::int32_t pool_index = view.plan.segments[last.run->segment].pool;
    const KvPool& pool = view.args.kv[pool_index];
    std::int64_t begin = last.key + (last.end - last.begin);
    std::int32_t keys = 0;
    for (const KeyRun* run = last.run; run != view.plan.runs.end() && keys < most; ++run, begin = 0) {
      const Segment& segment = view.plan.segments[run->segment];
      if (segment.pool != pool_index) break;
      const auto more = static_cast<std::int32_t>(std::clamp<std::int64_t>(view.keys(*run) - begin, 0, most - keys));
      places_.find(view.plan, pool, segment, run->token + begin, head, keys, keys + more);
      keys += more;
    }
    heads_ = heads;
    head_ = token_ = 0;
    next_ = 0;
    end_ = std::int64_t{keys} * heads;
    share_ = (end_ + steps - 1) / steps;
    k_bytes_ = kind.D * size_of(pool.k.dtype);
    v_bytes_ = kind.Dv * size_of(pool.v.dtype);
    k_stride_ = pool.k.stride[2] * size_of(pool.k.dtype);
    v_stride_ = pool.v.stride[2] * size_of(pool.v.dtype);
  }
  void some() noexcept {
    for (const std::int64_t stop = std::min(next_ + share_, end_); next_ < stop; ++next_) {
      detail::prefetch(places_.k[token_] + head_ * k_stride_, k_bytes_);
      detail::prefetch(places_.v[token_] + head_ * v_stride_, v_bytes_);
      if (++head_ == heads_) head_ = 0, ++token_;
    }
  }

 private:
  KeyPlaces places_;
  std::int32_t heads_ = 1, head_ = 0, token_ = 0;
  std::int64_t next_ = 0, end_ = 0, share_ = 0;
  std::int64_t k_bytes_ = 0, v_bytes_ = 0, k_stride_ = 0, v_stride_ = 0;
};

PREFIXSHARE_REGION_END
