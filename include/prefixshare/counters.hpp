// SPDX-License-Identifier: Apache-2.0
// counters: the exact work of a plan; the denominator of every benchmark.
#pragma once

#include <cstdint>

#include "prefixshare/plan.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// Exact counts. `pairs` counts visible (row, key) pairs once, whatever the number of heads.
struct Counters {
  std::int64_t pairs = 0;
  std::int64_t flops_forward = 0;   ///< 2 (D + Dv) per (pair, query head)
  std::int64_t flops_backward = 0;  ///< 6 D + 4 Dv per (pair, query head): five products, scores computed again
  std::int64_t exps = 0;            ///< one per (pair, query head)
  std::int64_t kv_rows = 0;         ///< token rows of K and V that items read, after trimming to what a tile can see
  std::int64_t kv_bytes = 0;        ///< kv_rows * Hkv * (D + Dv) * element
  std::int64_t q_bytes = 0;         ///< q read once per item that uses the row, and o and lse written
  std::int64_t partial_bytes = 0;   ///< partial states, written and read
};

/// Work of the forward (and flops of the backward) of a plan. Pure arithmetic on the plan, O(runs x rows of a tile).
/// `actual_lengths` as in Attend; empty: capacities.
Counters count(const Plan& plan, Span<const std::int32_t> actual_lengths = {}) noexcept;

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/counters_impl.hpp"
