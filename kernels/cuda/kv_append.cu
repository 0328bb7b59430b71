// SPDX-License-Identifier: Apache-2.0
// kv_append on CUDA devices: its launches.
#include "cuda/launch.hpp"
#include "cuda/operators.hpp"
#include "prefixshare/cuda/kv_append.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

Status kv_append(const KvAppend& args, std::int32_t, std::int32_t) noexcept {
  return launch_kv_append(args, Launch("kv_append", args.stream));
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
