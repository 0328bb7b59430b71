// SPDX-License-Identifier: Apache-2.0
// The CUDA device of this process as a target.
#pragma once

#include "gpu/target.hpp"

namespace prefixshare::gpu {

Target cuda_target();

}  // namespace prefixshare::gpu
