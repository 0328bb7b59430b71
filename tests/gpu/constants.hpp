// SPDX-License-Identifier: Apache-2.0
// The two kinds of constants: of the device, and of the implementations' cost models on it.
#pragma once

#include <vector>

#include "gpu/harness/stage.hpp"

namespace prefixshare::gpu {

void add_device_constants(bool quick, std::vector<Case>* cases);
void add_cost_constants(bool quick, std::vector<Case>* cases);

}  // namespace prefixshare::gpu
