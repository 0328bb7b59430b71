// SPDX-License-Identifier: Apache-2.0
// DevicePlan: a plan in device memory, where the kernels of a call read it.
#pragma once

#include <cstdint>

#include "prefixshare/plan.hpp"
#include "prefixshare/stream.hpp"

namespace prefixshare {
inline namespace v0_1 {

struct Context;

/// Memory for the image of a plan, and what upload wrote there. One serves every layer of the plan's kind. Two of them,
/// used in turn, let the host write the next step's image while the device still reads this step's.
struct DevicePlan {
  void* data = nullptr;     ///< device memory, 256-byte aligned
  void* staging = nullptr;  ///< host memory, 16-byte aligned; page-locked, else the copy waits for the host
  std::int64_t bytes = 0;   ///< of each

  PlanHeader plan;               ///< of the plan whose image this is
  std::int64_t image_bytes = 0;  ///< 0: nothing is uploaded
  std::int32_t blocks = 0;       ///< thread blocks that the work is shared out to
  std::int32_t deferred_count = 0;
  std::int32_t ordinal = -1;  ///< of the device
};

/// Bytes of a DevicePlan that holds this plan. They grow with rows, pages and items; an engine takes what its largest
/// step needs. Errors: invalid_argument (the plan is not for a device), capacity_exceeded (more items, page entries or
/// partial rows than int32 counts).
Status device_plan_bytes(const Context& context, const Plan& plan, std::int64_t* bytes) noexcept;

/// Writes the image of a plan to `to->staging` and copies it to `to->data` in the order of `stream`, with one copy. The
/// caller leaves `staging` alone until that copy has run. Calls that come later in the stream use the plan, and so does
/// a graph that was captured with this DevicePlan: it runs whatever plan was uploaded last, of the same LayerKind,
/// mode, implementation, target_parallelism and page sizes, within the limits of the graph's workspace. (Capture calls
/// with a RopeTable if plans with deltas may follow.)
///
/// Errors: invalid_argument (null, alignment, memory of another device than the stream's, a plan that is not for a
/// device), stale_plan, capacity_exceeded (`bytes` is too small), backend_unavailable, device_error. On error nothing
/// is uploaded.
Status upload(const Context& context, const Plan& plan, DevicePlan* to, Stream stream = {}) noexcept;

}  // namespace v0_1
}  // namespace prefixshare
