// SPDX-License-Identifier: Apache-2.0
// merge_states in plain C++, forward and backward. Each (row, head) is one unit of work, whatever part does it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/detail/convert.hpp"
#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/detail/softmax_state.hpp"
#include "prefixshare/detail/validate_ops.hpp"
#include "prefixshare/merge_states.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline bool has_f64(const State& s) noexcept { return s.o.dtype == DType::f64 || s.lse.dtype == DType::f64; }
inline bool have_f64(Span<const State> states) noexcept { return std::any_of(states.begin(), states.end(), has_f64); }

/// Whether the arithmetic is f64: any tensor is.
inline bool merges_in_f64(const MergeStates& args) noexcept { return has_f64(args.out) || have_f64(args.parts); }
inline bool merges_in_f64(const MergeStatesGrad& args) noexcept {
  return has_f64(args.out) || have_f64(args.parts) || have_f64(args.dparts) || args.dout.dtype == DType::f64 ||
         (args.dlse && args.dlse.dtype == DType::f64);
}

/// One element in the arithmetic type.
template <class Acc, int Rank, class... Index>
Acc load_element(const TensorView<Rank>& view, Index... index) noexcept {
  Acc value;
  load_row(view.dtype, view.ptr(index...), 1, &value);
  return value;
}

inline constexpr std::int64_t kMergeChunk = 256;  ///< columns that are merged at a time, on the stack

/// Columns [first, first + count) of one row and head. A part without keys is left out, since its o may hold anything,
/// and the first of the others is assigned, so that a lone part keeps its bits.
template <class Acc>
void merge_columns(const MergeStates& args, const LseMerge<Acc>& merge, std::int64_t row, std::int64_t head,
                   std::int64_t first, std::int64_t count) noexcept {
  Acc sum[kMergeChunk];
  Acc o[kMergeChunk];
  bool started = false;
  for (const State& part : args.parts) {
    const Acc lse = load_element<Acc>(part.lse, row, head);
    if (lse == LseMerge<Acc>::kEmpty) continue;
    const Acc weight = merge.weight(lse);
    load_row(part.o.dtype, part.o.ptr(row, head, first), count, o);
    for (std::int64_t d = 0; d < count; ++d) sum[d] = started ? sum[d] + weight * o[d] : weight * o[d];
    started = true;
  }
  if (!started) std::fill_n(sum, count, Acc(0));
  store_row(args.out.o.dtype, args.out.o.ptr(row, head, first), count, sum);
}

/// Every lse and each chunk of o is read before it is written, so `out` may be one of the parts.
template <class Acc>
void merge_row(const MergeStates& args, std::int64_t row, std::int64_t head) noexcept {
  LseMerge<Acc> merge;
  for (const State& part : args.parts) merge.see(load_element<Acc>(part.lse, row, head));
  for (const State& part : args.parts) merge.add(load_element<Acc>(part.lse, row, head));
  const std::int64_t Dv = args.out.o.shape[2];
  for (std::int64_t first = 0; first < Dv; first += kMergeChunk) {
    merge_columns(args, merge, row, head, first, std::min(kMergeChunk, Dv - first));
  }
  const Acc lse = merge.lse();
  store_row(args.out.lse.dtype, args.out.lse.ptr(row, head), 1, &lse);
}

/// dout . (o_p - o) of one row and head.
template <class Acc>
Acc dout_dot_difference(const MergeStatesGrad& args, const State& part, std::int64_t row, std::int64_t head) noexcept {
  Acc dout[kMergeChunk];
  Acc o[kMergeChunk];
  Acc o_part[kMergeChunk];
  Acc dot = 0;
  const std::int64_t Dv = args.out.o.shape[2];
  for (std::int64_t first = 0; first < Dv; first += kMergeChunk) {
    const std::int64_t count = std::min(kMergeChunk, Dv - first);
    load_row(args.dout.dtype, args.dout.ptr(row, head, first), count, dout);
    load_row(args.out.o.dtype, args.out.o.ptr(row, head, first), count, o);
    load_row(part.o.dtype, part.o.ptr(row, head, first), count, o_part);
    for (std::int64_t d = 0; d < count; ++d) dot += dout[d] * (o_part[d] - o[d]);
  }
  return dot;
}

/// do_p = weight * dout, or zeros for a part without keys.
template <class Acc>
void store_do(const MergeStatesGrad& args, const State& dpart, bool empty, Acc weight, std::int64_t row,
              std::int64_t head) noexcept {
  Acc grad[kMergeChunk] = {};
  const std::int64_t Dv = args.out.o.shape[2];
  for (std::int64_t first = 0; first < Dv; first += kMergeChunk) {
    const std::int64_t count = std::min(kMergeChunk, Dv - first);
    if (!empty) {
      load_row(args.dout.dtype, args.dout.ptr(row, head, first), count, grad);
      for (std::int64_t d = 0; d < count; ++d) grad[d] *= weight;
    }
    store_row(dpart.o.dtype, dpart.o.ptr(row, head, first), count, grad);
  }
}

template <class Acc>
void merge_row_backward(const MergeStatesGrad& args, std::int64_t row, std::int64_t head) noexcept {
  const Acc lse = load_element<Acc>(args.out.lse, row, head);
  const Acc dlse = args.dlse ? load_element<Acc>(args.dlse, row, head) : Acc(0);
  for (std::int64_t p = 0; p < args.parts.size(); ++p) {
    const State& part = args.parts[p];
    const State& dpart = args.dparts[p];
    const Acc lse_part = load_element<Acc>(part.lse, row, head);
    const bool empty = lse_part == LseMerge<Acc>::kEmpty;
    const Acc weight = empty ? Acc(0) : exp_of(lse_part - lse);
    const Acc dlse_part = empty ? Acc(0) : weight * (dout_dot_difference<Acc>(args, part, row, head) + dlse);
    store_do(args, dpart, empty, weight, row, head);
    store_row(dpart.lse.dtype, dpart.lse.ptr(row, head), 1, &dlse_part);
  }
}

}  // namespace detail

namespace portable {

/// Part `part` of `parts` of a call that has been validated. Parts may run in any order; bits do not depend on `parts`.
inline Status merge_states_part(const MergeStates& args, std::int32_t part, std::int32_t parts) noexcept {
  const std::int64_t heads = args.out.o.shape[1];
  const auto merge_row = detail::merges_in_f64(args) ? detail::merge_row<double> : detail::merge_row<float>;
  const detail::Range units = detail::part_range(args.out.o.shape[0] * heads, part, parts);
  for (std::int64_t i = units.begin; i < units.end; ++i) merge_row(args, i / heads, i % heads);
  return {};
}
inline Status merge_states_backward_part(const MergeStatesGrad& args, std::int32_t part, std::int32_t parts) noexcept {
  const std::int64_t heads = args.out.o.shape[1];
  const auto merge_row =
      detail::merges_in_f64(args) ? detail::merge_row_backward<double> : detail::merge_row_backward<float>;
  const detail::Range units = detail::part_range(args.out.o.shape[0] * heads, part, parts);
  for (std::int64_t i = units.begin; i < units.end; ++i) merge_row(args, i / heads, i % heads);
  return {};
}

/// The whole call on the calling thread. Contract: MergeStates, MergeStatesGrad.
inline Status merge_states(const MergeStates& args) noexcept {
  if (Status s = detail::validate(args)) return s;
  return merge_states_part(args, 0, 1);
}
inline Status merge_states_backward(const MergeStatesGrad& args) noexcept {
  if (Status s = detail::validate(args)) return s;
  return merge_states_backward_part(args, 0, 1);
}

}  // namespace portable
}  // namespace v0_1
}  // namespace prefixshare
