// SPDX-License-Identifier: Apache-2.0
#include "cuda/launch.hpp"
#include "cuda/operators.hpp"
#include "prefixshare/cuda/attend_grad_launch.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

Status tree_attention_backward_mma(const AttendGradCall& call, std::int32_t, std::int32_t) noexcept {
  return launch_tree_attention_backward_mma(call, Launch("tree_attention_backward", call.args.fwd.stream));
}

Status tree_attention_backward_simt(const AttendGradCall& call, std::int32_t, std::int32_t) noexcept {
  return launch_tree_attention_backward_simt(call, Launch("tree_attention_backward", call.args.fwd.stream));
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
