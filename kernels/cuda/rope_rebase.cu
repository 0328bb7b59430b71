// SPDX-License-Identifier: Apache-2.0
// rope_rebase on CUDA devices: its launches.
#include "cuda/launch.hpp"
#include "cuda/operators.hpp"
#include "prefixshare/cuda/rope_rebase.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

Status rope_rebase(const RopeRebase& args, std::int32_t, std::int32_t) noexcept {
  return launch_rope_rebase(args, Launch("rope_rebase", args.stream));
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
