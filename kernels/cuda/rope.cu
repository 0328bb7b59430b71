// SPDX-License-Identifier: Apache-2.0
// rope_apply and rope_shift on CUDA devices: its launches.
#include "cuda/launch.hpp"
#include "cuda/operators.hpp"
#include "prefixshare/cuda/rope.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

Status rope_apply(const RopeApply& args, std::int32_t, std::int32_t) noexcept {
  return launch_rope_apply(args, Launch("rope_apply", args.stream));
}
Status rope_shift(const RopeShift& args, std::int32_t, std::int32_t) noexcept {
  return launch_rope_shift(args, Launch("rope_shift", args.stream));
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
