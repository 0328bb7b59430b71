// SPDX-License-Identifier: Apache-2.0
// The file that a run of the stage bench leaves for ./run report and for bench/results.
#pragma once

#include <string>
#include <vector>

#include "gpu/harness/record.hpp"

namespace prefixshare::gpu {

/// Writes <folder>/<gpu>-<date>.json: context, benchmarks and counters as prefixshare_bench writes them with Google
/// Benchmark, and the lines of the stage constants. `lines` are those of the stage bench.
void write_bench_file(const std::string& folder, const std::vector<Record>& lines);

}  // namespace prefixshare::gpu
