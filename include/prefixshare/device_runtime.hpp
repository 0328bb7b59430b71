// SPDX-License-Identifier: Apache-2.0
// DeviceRuntime: what the library asks of the runtime of a device, as a table of functions.
#pragma once

#include <cstdint>

#include "prefixshare/plan.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/stream.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// The device of a stream.
struct DeviceState {
  std::int32_t ordinal = -1;
  std::int32_t blocks = 0;  ///< thread blocks that the implementations of attention keep busy at once
  bool capturing = false;   ///< the stream's work is being recorded into a graph
};

/// create_context sets it where the build has a device backend; an author of one puts the functions of their own here.
/// None waits for the device, and all are legal while a stream is being captured.
struct DeviceRuntime {
  /// The device of a stream. backend_unavailable where there is none that can be used.
  Status (*state)(Stream stream, DeviceState* state) noexcept = nullptr;
  /// On which device memory lies; -1: on none, it is the host's.
  Status (*owner)(const void* data, std::int32_t* ordinal) noexcept = nullptr;
  /// Copies host memory to a device, in the order of a stream.
  Status (*copy)(void* to, const void* from, std::int64_t bytes, Stream stream) noexcept = nullptr;
  /// Zeroes memory of a device, in the order of a stream.
  Status (*clear)(void* data, std::int64_t bytes, Stream stream) noexcept = nullptr;
  /// The constants with which to plan for an implementation on the current device: those that were measured on its
  /// kind, unless `cost` is of the caller's own. Null: `cost` as it is.
  CostModel (*measured_cost)(const char* implementation, const CostModel& cost) noexcept = nullptr;
};

}  // namespace v0_1
}  // namespace prefixshare
