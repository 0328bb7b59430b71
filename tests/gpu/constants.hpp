// SPDX-License-Identifier: Apache-2.0
// The two kinds of constants: of the device, and of the implementations' cost models on it.
#pragma once

#include <string>
#include <vector>

#include "gpu/harness/stage.hpp"
#include "gpu/target.hpp"

namespace prefixshare::gpu {

void add_device_constants(bool quick, std::vector<Case>* cases);
/// Of implementations of attention.
void add_cost_constants(MakeTarget target, const std::vector<std::string>& names, bool quick, std::vector<Case>* cases);
/// As a file of kernels/costs, <machine>.json in the folder.
void write_costs(const std::string& folder, const std::vector<Record>& lines);

}  // namespace prefixshare::gpu
