// SPDX-License-Identifier: Apache-2.0
// merge_states and its backward on vectors: weights of 16 (row, head) pairs at a time, then o row by row. Of the region
// whose Vec came before.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cpu/operators.hpp"
#include "cpu/region.hpp"
#include "cpu/vector.hpp"
#include "cpu/vector_math.hpp"
#include "cpu/vector_rows.hpp"
#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/detail/softmax_state.hpp"
#include "prefixshare/detail/validate.hpp"
#include "prefixshare/merge_states.hpp"

PREFIXSHARE_REGION_BEGIN

// Hardware prefetchers follow the rows of a few parts, and asking would only disturb them; rows of more parts are asked
// for that many pairs ahead.
inline constexpr std::int64_t kFewParts = 4;
inline constexpr int kPairsAhead = 4;

inline constexpr float kNoKeys = detail::LseMerge<float>::kEmpty;

/// Up to 16 consecutive (row, head) pairs, a lane each, and the few that come after them.
class MergeLanes {
 public:
  MergeLanes(std::int64_t begin, std::int64_t end, std::int64_t heads) noexcept
      : known_(static_cast<int>(std::min<std::int64_t>(end - begin, 16 + kPairsAhead))), count_(std::min(known_, 16)) {
    std::int64_t r = begin / heads, h = begin % heads;
    for (int i = 0; i < known_; ++i) {
      row_[i] = r;
      head_[i] = h;
      if (++h == heads) h = 0, ++r;
    }
  }
  int count() const noexcept { return count_; }
  RowIn row(const TensorView<3>& o, int lane) const noexcept { return {o.ptr(row_[lane], head_[lane]), o.dtype}; }
  RowOut row(const TensorView<3>& o, int lane, Stores stores) const noexcept {
    return {o.ptr(row_[lane], head_[lane]), o.dtype, stores};
  }
  /// o of the pair that is kPairsAhead after this one; null past the last.
  const void* ahead(const TensorView<3>& o, int lane) const noexcept {
    const int i = lane + kPairsAhead;
    return i < known_ ? o.ptr(row_[i], head_[i]) : nullptr;
  }

  /// A number of each pair; the other lanes have no keys.
  Vec load(const TensorView<2>& x) const noexcept {
    if (side_by_side(x)) return Vec::load(x.at<float>(row_[0], head_[0]));
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = i < count_ ? *x.at<float>(row_[i], head_[i]) : kNoKeys;
    return Vec::load(lanes);
  }
  void store(Vec numbers, const TensorView<2>& x) const noexcept {
    if (side_by_side(x)) return numbers.store(x.at<float>(row_[0], head_[0]));
    float lanes[16];
    numbers.store(lanes);
    for (int i = 0; i < count_; ++i) *x.at<float>(row_[i], head_[i]) = lanes[i];
  }

 private:
  bool side_by_side(const TensorView<2>& x) const noexcept {
    return count_ == 16 && x.stride[1] == 1 && (row_[0] == row_[15] || x.stride[0] == x.shape[1]);
  }

  int known_;
  int count_;
  std::int64_t row_[16 + kPairsAhead];
  std::int64_t head_[16 + kPairsAhead];
};

inline constexpr float kLeftOut = -1;  // in place of the weight of a part without keys

/// What a merge makes of the lse of its parts, a lane per pair. The rules are those of detail::LseMerge: a part without
/// keys is left out, a lone one has weight 1 and its own lse, NaN and +inf make lse and all weights NaN.
struct MergeWeights {
  float weight[kMaxMergeParts][16];
  Vec merged;

  MergeWeights(Span<const State> parts, const MergeLanes& lanes) noexcept {
    const Vec none = Vec::all(kNoKeys), left_out = Vec::all(kLeftOut);
    Vec max = none, sum = Vec::zero();
    for (std::int64_t p = 0; p < parts.size(); ++p) {
      const Vec lse = lanes.load(parts[p].lse);
      lse.store(weight[p]);
      max = larger(max, lse);
    }
    for (std::int64_t p = 0; p < parts.size(); ++p) {
      const Vec lse = Vec::load(weight[p]), raw = exp_of(lse - max);
      sum = sum + choose(equal(lse, none), Vec::zero(), raw);
      choose(equal(lse, none), left_out, raw).store(weight[p]);
    }
    for (std::int64_t p = 0; p < parts.size(); ++p) {
      const Vec raw = Vec::load(weight[p]);
      choose(equal(raw, left_out), left_out, raw / sum).store(weight[p]);
    }
    merged = choose(equal(sum, Vec::zero()), none, max + log_of(sum));
    merged = choose(equal(sum, Vec::all(1.0f)), max, merged);  // a lone -0 stays
  }
};

/// A part of a weighted sum.
struct MergeTerm {
  RowIn o;
  float weight;
};

/// 16 Count columns from `at` on. The first term is assigned, so that a lone one keeps its bits; products are rounded
/// before they are added, so that two terms commute.
template <int Count>
inline void merge_block(const MergeTerm* terms, int n, std::int64_t at, const RowOut& out) noexcept {
  Vec sums[std::size_t{Count}];
  PREFIXSHARE_UNROLL
  for (int k = 0; k < Count; ++k) sums[k] = Vec::zero();
  for (int t = 0; t < n; ++t) {
    const Vec weight = Vec::all(terms[t].weight);
    PREFIXSHARE_UNROLL
    for (int k = 0; k < Count; ++k) {
      const Vec x = terms[t].o.at(at + 16 * k) * weight;
      sums[k] = t == 0 ? x : sums[k] + x;
    }
  }
  PREFIXSHARE_UNROLL
  for (int k = 0; k < Count; ++k) out.put(sums[k], at + 16 * k);
}
/// `count` columns, fewer than 16.
inline void merge_end(const MergeTerm* terms, int n, std::int64_t at, std::int64_t count, const RowOut& out) noexcept {
  Vec sum = Vec::zero();
  for (int t = 0; t < n; ++t) {
    const Vec x = terms[t].o.some_at(at, count) * Vec::all(terms[t].weight);
    sum = t == 0 ? x : sum + x;
  }
  out.put_some(sum, at, count);
}

inline void merge_row(const MergeTerm* terms, int n, std::int64_t Dv, const RowOut& out) noexcept {
  std::int64_t at = 0;
  for (; at + 64 <= Dv; at += 64) merge_block<4>(terms, n, at, out);
  for (; at + 16 <= Dv; at += 16) merge_block<1>(terms, n, at, out);
  if (at < Dv) merge_end(terms, n, at, Dv - at, out);
}

/// Every lse of a pair and each column of its o is read before it is written, so `out` may be one of the parts.
inline void merge_lanes(const MergeStates& args, const MergeLanes& lanes, Stores stores) noexcept {
  const std::int64_t Dv = args.out.o.shape[2], parts = args.parts.size();
  const MergeWeights weights(args.parts, lanes);
  for (int lane = 0; lane < lanes.count(); ++lane) {
    MergeTerm terms[kMaxMergeParts];
    int n = 0;
    for (std::int64_t p = 0; p < parts; ++p) {
      const TensorView<3>& o = args.parts[p].o;
      if (parts > kFewParts) prefetch_row(lanes.ahead(o, lane), Dv * size_of(o.dtype));
      const float weight = weights.weight[p][lane];
      if (weight != kLeftOut) terms[n++] = {lanes.row(o, lane), weight};
    }
    merge_row(terms, n, Dv, lanes.row(args.out.o, lane, stores));
  }
  lanes.store(weights.merged, args.out.lse);
}

inline void merge_part(const MergeStates& args, std::int32_t part, std::int32_t parts) noexcept {
  const std::int64_t heads = args.out.o.shape[1];
  Stores stores{goes_past_caches(args.out.o)};
  for (const State& state : args.parts) stores.past_caches = stores.past_caches && state.o.data != args.out.o.data;
  const detail::Range pairs = detail::part_range(args.out.o.shape[0] * heads, part, parts);
  for (std::int64_t i = pairs.begin; i < pairs.end; i += 16) merge_lanes(args, {i, pairs.end, heads}, stores);
  stores.finish();
}

// ---- Backward ------------------------------------------------------------------------------------------------------

/// The backward of a row of one part.
struct MergeGradRow {
  RowIn dout, o, o_part;
  RowOut do_part;
  float weight;

  /// Stores do_p = weight * dout over Dv elements; dout . (o_p - o).
  float run(std::int64_t Dv) const noexcept {
    Vec sums[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
    std::int64_t i = 0;
    for (; i + 64 <= Dv; i += 64) {
      PREFIXSHARE_UNROLL
      for (int k = 0; k < 4; ++k) sums[k] = sums[k] + vector(i + 16 * k);
    }
    for (; i + 16 <= Dv; i += 16) sums[0] = sums[0] + vector(i);
    if (i < Dv) sums[0] = sums[0] + end(i, Dv - i);
    float four[4];
    sum4(sums, four);
    return (four[0] + four[1]) + (four[2] + four[3]);
  }

 private:
  Vec vector(std::int64_t i) const noexcept {
    const Vec x = dout.at(i);
    do_part.put(x * Vec::all(weight), i);
    return x * (o_part.at(i) - o.at(i));
  }
  Vec end(std::int64_t i, std::int64_t n) const noexcept {
    const Vec x = dout.some_at(i, n);
    do_part.put_some(x * Vec::all(weight), i, n);
    return x * (o_part.some_at(i, n) - o.some_at(i, n));
  }
};

/// do_p of a part without keys, whatever dout holds.
inline void store_zeros(const RowOut& row, std::int64_t Dv) noexcept {
  std::int64_t i = 0;
  for (; i + 16 <= Dv; i += 16) row.put(Vec::zero(), i);
  if (i < Dv) row.put_some(Vec::zero(), i, Dv - i);
}

/// Weights exp(lse_p - lse) of the parts, and dout . (o_p - o) once it is known.
struct MergeGradients {
  float weight[kMaxMergeParts][16];
  float dot[kMaxMergeParts][16];

  MergeGradients(const MergeStatesGrad& args, const MergeLanes& lanes) noexcept {
    const Vec merged = lanes.load(args.out.lse);
    for (std::int64_t p = 0; p < args.parts.size(); ++p) {
      const Vec lse = lanes.load(args.parts[p].lse);
      choose(equal(lse, Vec::all(kNoKeys)), Vec::all(kLeftOut), exp_of(lse - merged)).store(weight[p]);
      Vec::zero().store(dot[p]);
    }
  }
  void store_dlse(const MergeStatesGrad& args, const MergeLanes& lanes) const noexcept {
    const Vec dlse = args.dlse ? lanes.load(args.dlse) : Vec::zero();
    for (std::int64_t p = 0; p < args.parts.size(); ++p) {
      const Vec w = Vec::load(weight[p]), dlse_part = w * (Vec::load(dot[p]) + dlse);
      lanes.store(choose(equal(w, Vec::all(kLeftOut)), Vec::zero(), dlse_part), args.dparts[p].lse);
    }
  }
};

/// Row after row with all parts of each, so that dout and o come from memory once.
inline void merge_lanes_backward(const MergeStatesGrad& args, const MergeLanes& lanes, Stores stores) noexcept {
  const std::int64_t Dv = args.out.o.shape[2], parts = args.parts.size();
  MergeGradients g(args, lanes);
  for (int lane = 0; lane < lanes.count(); ++lane) {
    const RowIn dout = lanes.row(args.dout, lane), o = lanes.row(args.out.o, lane);
    for (std::int64_t p = 0; p < parts; ++p) {
      const TensorView<3>& o_part = args.parts[p].o;
      if (parts > kFewParts) prefetch_row(lanes.ahead(o_part, lane), Dv * size_of(o_part.dtype));
      const RowOut do_part = lanes.row(args.dparts[p].o, lane, stores);
      const float weight = g.weight[p][lane];
      if (weight == kLeftOut) {
        store_zeros(do_part, Dv);
      } else {
        g.dot[p][lane] = MergeGradRow{dout, o, lanes.row(o_part, lane), do_part, weight}.run(Dv);
      }
    }
  }
  g.store_dlse(args, lanes);
}

inline void merge_backward_part(const MergeStatesGrad& args, std::int32_t part, std::int32_t parts) noexcept {
  const std::int64_t heads = args.out.o.shape[1];
  Stores stores{args.dparts.size() > 0};
  for (const State& state : args.dparts) stores.past_caches = stores.past_caches && goes_past_caches(state.o);
  const detail::Range pairs = detail::part_range(args.out.o.shape[0] * heads, part, parts);
  for (std::int64_t i = pairs.begin; i < pairs.end; i += 16) merge_lanes_backward(args, {i, pairs.end, heads}, stores);
  stores.finish();
}

PREFIXSHARE_REGION_END
