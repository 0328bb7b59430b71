// SPDX-License-Identifier: Apache-2.0
// Keys and values in f32 for the products of panels: those of the present block, and those of the block that is
// expected after it, which are loaded a few at a time while the present one is multiplied. Both then run at once:
// loading a block in one go left the multipliers idle for an eighth of the time, waiting for caches to take the copies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/key_block.hpp"
#include "cpu/vector_math.hpp"

PREFIXSHARE_REGION_BEGIN

class KeyBuffer {
 public:
  KeyBuffer(const detail::AttendView& view, const detail::FmaMemory& memory) noexcept
      : view_(view),
        kind_(view.kind()),
        own_k_(memory.k[0]),
        own_v_(memory.v[0]),
        next_k_(memory.k[1]),
        next_v_(memory.v[1]) {}

  const float* k() const noexcept { return k_; }  // [columns, D]
  const float* v() const noexcept { return v_; }  // [columns, Dv]

  /// Loads a block and expects the keys after it. `steps`: how often some() will be called meanwhile. What is packed is
  /// read where it lies.
  void load(const Block& block, std::int64_t steps) noexcept {
    const detail::Piece& last = block.pieces[block.count - 1];
    const std::int32_t after = last.key + (last.end - last.begin);
    if (block.count == 1 && find_packed(block)) return expect(*last.run, after, block.head, 0, steps);
    if (is_expected(block)) {
      while (done_ < block.columns) load_next();
      std::swap(own_k_, next_k_);
      std::swap(own_v_, next_v_);
    } else {
      load_pieces(block);
    }
    k_ = own_k_;
    v_ = own_v_;
    expect(*last.run, after, block.head, detail::kBlockKeys, steps);
  }

  void some() noexcept {
    for (const std::int32_t stop = std::min(done_ + share_, count_); done_ < stop;) load_next();
  }

 private:
  bool find_packed(const Block& block) noexcept {
    const detail::Piece& piece = block.pieces[0];
    const PackedSegment* packed = view_.packed(*piece.run, piece.key, block.columns);
    if (packed == nullptr) return false;
    detail::PackedHeader header;
    std::memcpy(&header, packed->data, sizeof header);
    const detail::PackedRows rows(kind_, const_cast<void*>(packed->data), header.tokens);
    const std::int64_t row = std::int64_t{block.head} * header.tokens + piece.run->token + piece.key;
    k_ = rows.k + row * kind_.D;
    v_ = rows.v + row * kind_.Dv;
    return true;
  }
  void load_pieces(const Block& block) noexcept {
    for (const detail::Piece* p = block.pieces; p != block.pieces + block.count; ++p) {
      Source from(view_, *p->run, p->key, block.head);
      for (std::int32_t c = p->begin; c < p->end; ++c) {
        load_row(from, from.walk.next(), own_k_ + c * std::int64_t{kind_.D}, own_v_ + c * std::int64_t{kind_.Dv});
      }
    }
  }

  /// Consecutive tokens of a run for a KV head.
  struct Source {
    const KvPool* pool = nullptr;
    std::int64_t page_size = 0;
    std::int32_t head = 0;
    detail::TokenWalk walk;

    Source() = default;
    Source(const detail::AttendView& view, const KeyRun& run, std::int32_t key, std::int32_t kv_head) noexcept
        : pool(&view.args.kv[view.plan.segments[run.segment].pool]),
          page_size(view.plan.pools[view.plan.segments[run.segment].pool].page_size),
          head(kv_head),
          walk(view.plan, view.plan.segments[run.segment], std::int64_t{run.token} + key) {}
  };

  bool is_expected(const Block& block) const noexcept {
    const detail::Piece& first = block.pieces[0];
    return block.count == 1 && first.run == run_ && first.key == key_ && block.head == next_.head &&
           block.columns <= count_;
  }
  void expect(const KeyRun& run, std::int32_t key, std::int32_t head, std::int64_t most, std::int64_t steps) noexcept {
    run_ = &run;
    key_ = key;
    keys_ = view_.keys(run) - key;
    count_ = static_cast<std::int32_t>(std::clamp<std::int64_t>(keys_, 0, most));
    done_ = 0;
    share_ = static_cast<std::int32_t>((count_ + steps - 1) / steps);
    if (count_ == 0) return;
    next_ = Source(view_, run, key, head);
    ahead_ = detail::TokenWalk(view_.plan, view_.plan.segments[run.segment],
                               std::int64_t{run.token} + key + std::min<std::int64_t>(keys_, detail::kPrefetchKeys));
  }
  void load_next() noexcept {
    if (done_ + detail::kPrefetchKeys < keys_) {
      const detail::TokenPlace at = ahead_.next();
      detail::prefetch(next_.pool->k.ptr(at.page, at.slot, next_.head), kind_.D * size_of(next_.pool->k.dtype));
      detail::prefetch(next_.pool->v.ptr(at.page, at.slot, next_.head), kind_.Dv * size_of(next_.pool->v.dtype));
    }
    load_row(next_, next_.walk.next(), next_k_ + done_ * std::int64_t{kind_.D},
             next_v_ + done_ * std::int64_t{kind_.Dv});
    ++done_;
  }
  void load_row(const Source& from, detail::TokenPlace at, float* k, float* v) const noexcept {
    const KvPool& pool = *from.pool;
    load_scaled(pool.k.dtype, pool.k.ptr(at.page, at.slot, from.head), kind_.D,
                detail::scale_at(pool.k_scale, at, from.page_size, from.head, kind_.Hkv), k);
    load_scaled(pool.v.dtype, pool.v.ptr(at.page, at.slot, from.head), kind_.Dv,
                detail::scale_at(pool.v_scale, at, from.page_size, from.head, kind_.Hkv), v);
  }

  const detail::AttendView& view_;
  LayerKind kind_;
  const float *k_ = nullptr, *v_ = nullptr;
  float *own_k_, *own_v_;    // of the present block, unless it is packed
  float *next_k_, *next_v_;  // of keys [key_, key_ + count_) of run_, as far as done_
  const KeyRun* run_ = nullptr;
  std::int32_t key_ = 0, count_ = 0, done_ = 0, share_ = 0;
  std::int64_t keys_ = 0;  // left in the run
  Source next_;
  detail::TokenWalk ahead_;
};

PREFIXSHARE_REGION_END
