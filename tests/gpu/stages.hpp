// SPDX-License-Identifier: Apache-2.0
// The stages of the kit.
#pragma once

#include <string>

#include "gpu/harness/stage.hpp"
#include "gpu/target.hpp"

namespace prefixshare::gpu {

struct StageOptions {
  std::string folder = ".";                 ///< of this run: results of earlier stages, files that a stage writes
  bool quick = false;                       ///< fewer cases, shorter measurements
  std::string workloads = "workloads.txt";  ///< the file
  MakeTarget target = &host_target;         ///< --on-host: a check of the kit itself
};

Stage golden_stage(const StageOptions& options);
Stage bench_stage(const StageOptions& options);

}  // namespace prefixshare::gpu
