// SPDX-License-Identifier: Apache-2.0
// The planner's constants of an implementation, from the times of small plans.
#pragma once

#include <string>
#include <vector>

#include "prefixshare/context.hpp"

namespace prefixshare::bench {

/// Constants on one thread, for 32 query heads, 8 KV heads, head dim 128.
struct CostFit {
  std::string implementation;
  DType dtype = DType::bf16;  ///< storage
  CostModel cost;
  double busy = 0;  ///< cores that others used meanwhile; 0: quiet
};

/// For every host implementation of the context's tree_attention, each storage type; `seconds` for each plan.
std::vector<CostFit> fit_costs(const Context& context, const std::vector<DType>& dtypes, double seconds);

}  // namespace prefixshare::bench
