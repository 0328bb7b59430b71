// SPDX-License-Identifier: Apache-2.0
// merge_states: attention states of disjoint key sets become one. Contract and argument types, and the named
// conversions of foreign lse conventions.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "prefixshare/span.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/stream.hpp"
#include "prefixshare/tensor.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// The attention of rows over a key set: o [rows, H, Dv] (innermost stride 1) and lse [rows, H] (any strides >= 0, so
/// that [H, rows] memory is a view too), f32 or f64.
struct State {
  TensorView<3> o;
  TensorView<2> lse;
};

/// n-way merge: m = max lse_p, lse = m + log(sum exp(lse_p - m)), o = sum exp(lse_p - lse) o_p, in argument order.
/// o of every part: f64 | f32 | f16 | bf16, the same shape; out.o any of these. Arithmetic f32, f64 if any tensor is.
/// lse: NATURAL log; an empty key set is o = 0, lse = -inf: the neutral element, bit for bit, whatever its o holds.
/// Aliasing: `out` may equal one part exactly (in place); any other overlap is invalid_argument. A row slice is a view.
/// Empty: n = 0 gives o = 0, lse = -inf; rows == 0 writes nothing. NaN: in that (row, head) only.
/// Two parts commute bit for bit; more agree in any order and grouping within the rounding of f32.
/// Workspace none. Bits do not depend on the parts of the call. Errors: invalid_argument, backend_unavailable.
/// Source: Juravsky et al., "Hydragen", 2024, section 3.1.
struct MergeStates {
  Span<const State> parts;  ///< host, whatever the space of the tensors
  State out;
  Stream stream = {};
};

/// Backward of merge_states for each part p, with w_p = exp(lse_p - lse):
///   do_p = w_p dout;  dlse_p = w_p (dout . (o_p - o) + dlse)
/// `parts` and `out` are the forward's inputs and outputs (out not in place). A part with lse = -inf gets zeros.
/// dlse may be absent (zero). Outputs overlap nothing. Errors and rest as the forward.
struct MergeStatesGrad {
  Span<const State> parts;
  State out;
  TensorView<3> dout;
  TensorView<2> dlse;
  Span<const State> dparts;  ///< out: o = do_p, lse = dlse_p
  Stream stream = {};
};

/// Border conversions of one value: the library itself knows natural logs and -inf for empty only.
inline double lse_from_base2(double lse2) noexcept { return lse2 * 0.69314718055994530942; }
inline double lse_to_base2(double lse) noexcept { return lse * 1.44269504088896340736; }
/// +inf (the empty value of FlashAttention and FlashMLA) becomes -inf; anything else stays.
inline double lse_from_inf_empty(double lse) noexcept {
  return lse == std::numeric_limits<double>::infinity() ? -std::numeric_limits<double>::infinity() : lse;
}
inline double lse_to_inf_empty(double lse) noexcept {
  return lse == -std::numeric_limits<double>::infinity() ? std::numeric_limits<double>::infinity() : lse;
}

}  // namespace v0_1
}  // namespace prefixshare
