// SPDX-License-Identifier: Apache-2.0
// make_plan: options checked, then the planner of the input's kind.
#pragma once

#include "prefixshare/detail/forest_planner.hpp"
#include "prefixshare/detail/rectangle_planner.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline Status check_options(const LayerKind& kind, const PlanOptions& options, const Plan* plan) noexcept {
  if (Status s = validate(kind, kPlanOp); !s.ok()) return s;
  if (plan == nullptr) {
    Status s = plan_error("plan", "", -1, "==", 0, 1);
    s.unit = StatusUnit::pointer;
    return s;
  }
  if (options.target_parallelism < 1) {
    return plan_error("options", "target_parallelism", -1, ">=", options.target_parallelism, 1);
  }
  if (static_cast<int>(options.mode) > 1)
    return plan_error("options", "mode", -1, "<=", static_cast<int>(options.mode), 1);
  if (static_cast<int>(options.sharing) > 2)
    return plan_error("options", "sharing", -1, "<=", static_cast<int>(options.sharing), 2);
  const double costs[] = {options.cost.item, options.cost.kv_element, options.cost.mac, options.cost.partial};
  for (const double c : costs) {
    if (!(c >= 0 && c < 1e9))
      return plan_error("options", "cost", -1, "in [0, 1e9)", static_cast<std::int64_t>(c < 0 ? -1 : 0), 0);
  }
  return Status{};
}

template <class Planner, class Input>
Status run_planner(const Input& input, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept {
  if (Status s = check_options(kind, options, plan); !s.ok()) return s;
  try {
    return Planner(input, kind, options, plan).build();
  } catch (...) {  // only allocation throws here
    return out_of_memory(kPlanOp, "plan");
  }
}

}  // namespace detail

inline Status make_plan(const Forest& forest, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept {
  return detail::run_planner<detail::ForestPlanner>(forest, kind, options, plan);
}

inline Status make_plan(const RectangleInput& input, const LayerKind& kind, const PlanOptions& options,
                        Plan* plan) noexcept {
  return detail::run_planner<detail::RectanglePlanner>(input, kind, options, plan);
}

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/plan_tools_impl.hpp"
