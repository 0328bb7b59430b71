// SPDX-License-Identifier: Apache-2.0
// tree_attention in plain C++, total: every storage type, head count, head dim, mask and page size. The rows of a tile
// (query rows x the heads of a group) meet blocks of keys with an online softmax.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "prefixshare/detail/attend_forward.hpp"
#include "prefixshare/detail/lanes.hpp"
#include "prefixshare/portable/tree_attention_backward.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace portable {

/// The arithmetic of detail::AttendForward in plain C++, one KV head at a time.
template <class T>
class ForwardBody {
 public:
  using Acc = T;

  ForwardBody(const detail::AttendView& view, detail::Arena* arena) noexcept
      : view_(view),
        args_(view.args),
        kind_(view.kind()),
        group_(kind_.group()),
        scale_(static_cast<Acc>(view.scale())),
        memory_(arena, kind_),
        query_(view, memory_.angles) {}

  std::int32_t begin(const RowTile& tile, const Item&) noexcept {
    count_ = tile.count;
    rows_ = tile.count * group_;
    for (std::int64_t m = 0; m < rows_; ++m) {
      memory_.q_rows[m] = memory_.q + m * kind_.D;
      memory_.o_rows[m] = memory_.o + m * kind_.Dv;
    }
    return 1;
  }
  std::int32_t block_keys() const noexcept { return detail::kBlockKeys; }
  void load(std::int32_t first_instance, std::int32_t head, std::int32_t) noexcept {
    query_.load(first_instance, count_, head, memory_.q);
  }
  void clear() noexcept {
    std::fill_n(memory_.maximum, rows_, kEmpty);
    std::fill_n(memory_.sum, rows_, Acc(0));
    std::fill_n(memory_.o, rows_ * kind_.Dv, Acc(0));
  }
  void absorb(const detail::Piece* pieces, std::int32_t count, std::int32_t head, std::int32_t) noexcept {
    memory_.keys.load(view_, pieces, count, head);
    absorb_keys(pieces, count, head);
  }
  /// o over its sum; the maximum becomes the lse.
  void finish() noexcept {
    for (std::int64_t m = 0; m < rows_; ++m) {
      const Acc sum = memory_.sum[m];
      if (sum == Acc(0)) {
        memory_.maximum[m] = kEmpty;
        continue;
      }
      Acc* o = memory_.o_rows[m];
      for (std::int32_t d = 0; d < kind_.Dv; ++d) o[d] /= sum;
      memory_.maximum[m] += detail::log_of(sum);
    }
  }
  Acc* o() noexcept { return memory_.o; }
  Acc* lse() noexcept { return memory_.maximum; }

 private:
  static constexpr Acc kEmpty = -std::numeric_limits<Acc>::infinity();

  /// Adds the loaded block of keys to the state of every row.
  void absorb_keys(const detail::Piece* pieces, std::int32_t count, std::int64_t head) noexcept {
    const std::int32_t columns = pieces[count - 1].end;
    detail::dot_rows(memory_.q_rows, rows_, memory_.keys.k, columns, kind_.D, memory_.scores,
                     std::int64_t{detail::kBlockKeys});
    const bool full = detail::all_visible(pieces, count);
    for (std::int64_t m = 0; m < rows_; ++m) {
      Acc* scores = memory_.scores + m * detail::kBlockKeys;
      to_logits(pieces, count, scores, columns, head * group_ + m % group_);
      if (!full) detail::hide(view_, pieces, count, m / group_, scores);
      absorb_scores(scores, columns, m);
    }
    if (full) {
      add_values(0, rows_, 0, columns);
    } else {
      add_visible_values(pieces, count, columns);
    }
  }

  /// Dot products to logits: scale, soft cap, bias.
  void to_logits(const detail::Piece* pieces, std::int32_t count, Acc* scores, std::int32_t columns,
                 std::int64_t q_head) const noexcept {
    for (std::int32_t c = 0; c < columns; ++c) scores[c] *= scale_;
    if (args_.softcap > 0) {
      const Acc cap = static_cast<Acc>(args_.softcap);
      for (std::int32_t c = 0; c < columns; ++c) scores[c] = cap * std::tanh(scores[c] / cap);
    }
    for (std::int32_t p = 0; p < count; ++p) detail::add_bias(view_, pieces[p], q_head, scores);
  }

  /// Logits of a row to exp(logit - maximum), with the row's maximum, sum and output brought along.
  void absorb_scores(Acc* scores, std::int32_t columns, std::int64_t m) noexcept {
    const std::int32_t padded = (columns + detail::kSumLanes - 1) / detail::kSumLanes * detail::kSumLanes;
    std::fill(scores + columns, scores + padded, kEmpty);
    const Acc before = memory_.maximum[m];
    const Acc after = detail::larger(before, detail::row_maximum(scores, padded));
    const Acc shift = after == kEmpty ? Acc(0) : after;  // a row that saw nothing yet: exp(-inf - 0) = 0
    for (std::int32_t c = 0; c < padded; ++c) scores[c] = detail::exp_of(scores[c] - shift);
    const Acc keep = detail::exp_of(before - shift);
    memory_.maximum[m] = after;
    memory_.sum[m] = memory_.sum[m] * keep + detail::row_sum(scores, padded);
    if (keep == Acc(1)) return;
    Acc* o = memory_.o_rows[m];
    for (std::int32_t d = 0; d < kind_.Dv; ++d) o[d] *= keep;
  }

  void add_values(std::int64_t first_row, std::int64_t rows, std::int32_t begin, std::int32_t end) noexcept {
    detail::add_rows<Acc>({memory_.scores + first_row * detail::kBlockKeys + begin, detail::kBlockKeys, 1},
                          memory_.keys.v + begin, end - begin, memory_.o_rows + first_row, rows, kind_.Dv);
  }
  /// A value that a row does not see is never multiplied, not even by zero: it may be NaN. Neighbouring rows that see
  /// the same single range go together.
  void add_visible_values(const detail::Piece* pieces, std::int32_t count, std::int32_t columns) noexcept {
    std::int64_t first = 0;  // rows [first, i) see all columns
    const std::int64_t tile_rows = rows_ / group_;
    for (std::int64_t i = 0; i < tile_rows; ++i) {
      std::int32_t seen = 0;
      for (std::int32_t p = 0; p < count; ++p) {
        detail::visible_ranges(view_, pieces[p], i, [&](std::int32_t b, std::int32_t e) { seen += e - b; });
      }
      if (seen == columns) continue;
      add_values(first * group_, (i - first) * group_, 0, columns);
      first = i + 1;
      for (std::int32_t p = 0; p < count && seen > 0; ++p) {
        detail::visible_ranges(view_, pieces[p], i,
                               [&](std::int32_t b, std::int32_t e) { add_values(i * group_, group_, b, e); });
      }
    }
    add_values(first * group_, (tile_rows - first) * group_, 0, columns);
  }

  const detail::AttendView& view_;
  const Attend& args_;
  LayerKind kind_;
  std::int64_t group_;
  Acc scale_;
  detail::ForwardMemory<Acc> memory_;
  detail::QueryRows<Acc> query_;
  std::int32_t count_ = 0;  // rows of the present tile
  std::int64_t rows_ = 0;   // the same, packed with the heads of the group
};

/// Part `part` of `parts` of a validated call; for implementation lists.
inline Status tree_attention_part(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept {
  if (call.plan.header.kind.acc_dtype() == DType::f64) {
    detail::AttendForward<ForwardBody<double>>(call.plan, call.args, part, parts).run();
  } else {
    detail::AttendForward<ForwardBody<float>>(call.plan, call.args, part, parts).run();
  }
  return Status{};
}

/// The operator on the calling thread, without a Context: contract at Attend.
inline Status tree_attention(const Plan& plan, const Attend& args) noexcept {
  const AttendCall call{plan.view(), args};
  if (Status s = detail::validate(call.plan, args, 1); !s.ok()) return s;
  return tree_attention_part(call, 0, 1);
}

}  // namespace portable
}  // namespace v0_1
}  // namespace prefixshare
