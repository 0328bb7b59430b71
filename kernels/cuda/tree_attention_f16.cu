// SPDX-License-Identifier: Apache-2.0
#include "cuda/launch.hpp"
#include "prefixshare/cuda/attend_launch.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

template Status launch_dims<Float16>(AttendParams&, std::int32_t, Launch&);

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
