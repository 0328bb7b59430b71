// SPDX-License-Identifier: Apache-2.0
#include "cuda/launch.hpp"
#include "cuda/operators.hpp"
#include "prefixshare/cuda/attend_launch.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

// Kernels of a type have a file of their own: they take the longest to compile.
extern template Status launch_dims<BFloat16>(AttendParams&, std::int32_t, Launch&);
extern template Status launch_dims<Float16>(AttendParams&, std::int32_t, Launch&);

Status tree_attention_mma(const AttendCall& call, std::int32_t, std::int32_t) noexcept {
  DeviceState device;
  if (Status s = device_state(call.args.stream, &device)) return s;
  return launch_tree_attention_mma(call, device.capturing, Launch("tree_attention", call.args.stream));
}

Status tree_attention_simt(const AttendCall& call, std::int32_t, std::int32_t) noexcept {
  DeviceState device;
  if (Status s = device_state(call.args.stream, &device)) return s;
  return launch_tree_attention_simt(call, device.capturing, Launch("tree_attention", call.args.stream));
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
