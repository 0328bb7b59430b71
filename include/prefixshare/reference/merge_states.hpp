// SPDX-License-Identifier: Apache-2.0
// Reference of merge_states, forward and backward.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "prefixshare/detail/validate_ops.hpp"
#include "prefixshare/merge_states.hpp"
#include "prefixshare/reference/matrix.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace reference {

inline constexpr double kEmptyLse = -std::numeric_limits<double>::infinity();

inline double load_lse(const State& state, std::int64_t row, std::int64_t head) {
  return load(state.lse.ptr(row, head), state.lse.dtype);
}
inline RowVector load_o(const State& state, std::int64_t row, std::int64_t head) {
  return load_row(state.o.ptr(row, head), state.o.dtype, state.o.shape[2]);
}
inline void store_state(const State& state, std::int64_t row, std::int64_t head, const RowVector& o, double lse) {
  store_row(state.o.ptr(row, head), state.o.dtype, o);
  store_row(state.lse.ptr(row, head), state.lse.dtype, RowVector::Constant(1, lse));
}

/// log(sum exp(lse_p)) over the parts. A NaN among them gives NaN: the maximum skips it, the sum does not.
inline double merged_lse(Span<const State> parts, std::int64_t row, std::int64_t head) {
  double top = kEmptyLse;
  for (const State& part : parts) top = std::max(top, load_lse(part, row, head));
  double sum = 0;
  for (const State& part : parts) {
    const double lse = load_lse(part, row, head);
    if (lse != kEmptyLse) sum += std::exp(lse - top);
  }
  return sum == 0 ? kEmptyLse : top + std::log(sum);
}

/// Everything is read before anything is written, so `out` may be one of the parts.
inline void merge_row(const MergeStates& args, std::int64_t row, std::int64_t head) {
  const double lse = merged_lse(args.parts, row, head);
  RowVector o = RowVector::Constant(args.out.o.shape[2], -0.0);  // -0 + x is x for every x, +0 + x is not
  for (const State& part : args.parts) {
    const double lse_p = load_lse(part, row, head);
    if (lse_p != kEmptyLse) o += std::exp(lse_p - lse) * load_o(part, row, head);
  }
  if (lse == kEmptyLse) o.setZero();
  store_state(args.out, row, head, o, lse);
}

inline void merge_row_backward(const MergeStatesGrad& args, std::int64_t row, std::int64_t head) {
  const RowVector o = load_o(args.out, row, head);
  const double lse = load_lse(args.out, row, head);
  const RowVector dout = load_row(args.dout.ptr(row, head), args.dout.dtype, args.dout.shape[2]);
  const double dlse = args.dlse ? load(args.dlse.ptr(row, head), args.dlse.dtype) : 0;
  for (std::int64_t p = 0; p < args.parts.size(); ++p) {
    const double lse_p = load_lse(args.parts[p], row, head);
    if (lse_p == kEmptyLse) {
      store_state(args.dparts[p], row, head, RowVector::Zero(o.size()), 0);
      continue;
    }
    const double w = std::exp(lse_p - lse);
    const double turn = dout.dot(load_o(args.parts[p], row, head) - o);
    store_state(args.dparts[p], row, head, w * dout, w * (turn + dlse));
  }
}

inline Status merge_states_part(const MergeStates& args, std::int32_t i, std::int32_t n) noexcept {
  return run_part("merge_states", args.out.o.shape[0], i, n, [&](std::int64_t row) {
    for (std::int64_t head = 0; head < args.out.o.shape[1]; ++head) merge_row(args, row, head);
  });
}

inline Status merge_states_backward_part(const MergeStatesGrad& args, std::int32_t i, std::int32_t n) noexcept {
  return run_part("merge_states_backward", args.out.o.shape[0], i, n, [&](std::int64_t row) {
    for (std::int64_t head = 0; head < args.out.o.shape[1]; ++head) merge_row_backward(args, row, head);
  });
}

inline Status merge_states(const MergeStates& args) noexcept {
  if (Status s = prefixshare::detail::validate(args)) return s;
  return merge_states_part(args, 0, 1);
}

inline Status merge_states_backward(const MergeStatesGrad& args) noexcept {
  if (Status s = prefixshare::detail::validate(args)) return s;
  return merge_states_backward_part(args, 0, 1);
}

}  // namespace reference
}  // namespace v0_1
}  // namespace prefixshare
