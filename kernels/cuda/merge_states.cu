// SPDX-License-Identifier: Apache-2.0
// merge_states and its backward on CUDA devices: its launches.
#include "cuda/launch.hpp"
#include "cuda/operators.hpp"
#include "prefixshare/cuda/merge_states.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

Status merge_states(const MergeStates& args, std::int32_t, std::int32_t) noexcept {
  return launch_merge_states(args, Launch("merge_states", args.stream));
}
Status merge_states_backward(const MergeStatesGrad& args, std::int32_t, std::int32_t) noexcept {
  return launch_merge_states_backward(args, Launch("merge_states_backward", args.stream));
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
