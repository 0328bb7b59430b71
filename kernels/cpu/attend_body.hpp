// SPDX-License-Identifier: Apache-2.0
// The Body that detail::AttendForward runs in a region: Many for many packed rows, panels of them side by side, a
// stream for few.
#pragma once

#include "cpu/attend_stream.hpp"
#include "prefixshare/detail/attend_forward.hpp"

PREFIXSHARE_REGION_BEGIN

template <class Many>
class AttendBody {
 public:
  using Acc = float;

  AttendBody(const detail::AttendView& view, detail::Arena* arena) noexcept
      : kind_(view.kind()),
        invariant_(view.plan.header.mode == Mode::batch_invariant),
        memory_(arena, kind_),
        query_(view, memory_.angles),
        panels_(view, memory_, &query_, arena),
        stream_(view, memory_, &query_) {}

  /// In batch_invariant mode a row's sums have one order, whoever its neighbours are: that of the panels.
  std::int32_t begin(const RowTile& tile, const Item& item) noexcept {
    streams_ = !invariant_ && AttendStream::takes(kind_, tile);
    heads_ = streams_ ? item.head_end - item.head_begin : 1;
    if (streams_) {
      stream_.begin(tile);
    } else {
      panels_.begin(tile);
    }
    return heads_;
  }
  std::int32_t block_keys() const noexcept { return streams_ ? detail::kBlockKeys : Many::kBlockKeys; }
  void load(std::int32_t first_instance, std::int32_t head, std::int32_t heads) noexcept {
    if (streams_) {
      stream_.load(first_instance, head, heads);
    } else {
      panels_.load(first_instance, head);
    }
  }
  void clear() noexcept {
    if (streams_) {
      stream_.clear(heads_);
    } else {
      panels_.clear();
    }
  }
  void absorb(const detail::Piece* pieces, std::int32_t count, std::int32_t head, std::int32_t heads) noexcept {
    if (streams_) {
      stream_.absorb(pieces, count, head, heads);
    } else {
      panels_.absorb({pieces, count, head, pieces[count - 1].end, detail::all_visible(pieces, count)});
    }
  }
  void finish() noexcept {
    if (streams_) {
      stream_.finish(heads_);
    } else {
      panels_.finish();
    }
  }
  float* o() noexcept { return memory_.o; }
  float* lse() noexcept { return memory_.maximum; }

 private:
  LayerKind kind_;
  bool invariant_;
  bool streams_ = false;
  std::int32_t heads_ = 1;
  detail::PanelMemory memory_;
  detail::QueryRows<float> query_;  // of both: it knows whose angles the memory holds
  Many panels_;
  AttendStream stream_;
};

PREFIXSHARE_REGION_END
