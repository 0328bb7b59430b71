// SPDX-License-Identifier: Apache-2.0
// make_plan: options checked, then the planner of the input's kind.
#pragma once

#include "prefixshare/detail/forest_planner.hpp"
#include "prefixshare/detail/rectangle_planner.hpp"
#include "prefixshare/detail/validate.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline Status check_cost(const Where& at, const CostModel& c) noexcept {
  const std::pair<const char*, double> times[] = {
      {"item", c.item},        {"kv_element", c.kv_element},         {"mac", c.mac},
      {"partial", c.partial},  {"few_kv_element", c.few_kv_element}, {"few_mac", c.few_mac},
      {"min_item", c.min_item}};
  for (const auto& [field, ns] : times) {
    if (!(ns >= 0 && ns < 1e9)) return failure(at, field, ns < 0 ? -1 : 0, "in [0, 1e9)", 0);
  }
  if (c.row_step < 1) return failure(at, "row_step", c.row_step, ">=", 1);
  return c.few_rows < 0 ? failure(at, "few_rows", c.few_rows, ">=", 0) : Status{};
}

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
  if (static_cast<int>(options.sharing) > 3)
    return plan_error("options", "sharing", -1, "<=", static_cast<int>(options.sharing), 3);
  return check_cost({kPlanOp, "options.cost"}, options.cost);
}
inline Status check_input(const Forest& forest, const PlanOptions& options) noexcept {
  const std::int64_t nodes = options.sharing == Sharing::given ? static_cast<std::int64_t>(forest.nodes.size()) : 0;
  if (options.shared.size() != nodes) {
    return plan_error("options", "shared.size", -1, "==", options.shared.size(), nodes);
  }
  return check_span(kPlanOp, "options.shared", options.shared);
}
inline Status check_input(const RectangleInput&, const PlanOptions& options) noexcept {
  if (options.sharing != Sharing::given) return Status{};
  return plan_error("options", "sharing", -1, "<", static_cast<int>(Sharing::given), static_cast<int>(Sharing::given));
}

template <class Planner, class Input>
Status run_planner(const Input& input, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept {
  if (Status s = check_options(kind, options, plan); !s.ok()) return s;
  if (Status s = check_input(input, options); !s.ok()) return s;
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
