// SPDX-License-Identifier: Apache-2.0
// The stages of the kit.
#pragma once

#include <string>

#include "gpu/harness/stage.hpp"

namespace prefixshare::gpu {

struct StageOptions {
  std::string folder = ".";                 ///< of this run: results of earlier stages, files that a stage writes
  bool quick = false;                       ///< fewer cases, shorter measurements
  std::string workloads = "workloads.txt";  ///< the file
  bool on_host = false;                     ///< conformance of cpu:portable: a check of the kit itself
};

Stage golden_stage(const StageOptions& options);
Stage constants_stage(const StageOptions& options);
Stage bench_stage(const StageOptions& options);

}  // namespace prefixshare::gpu
