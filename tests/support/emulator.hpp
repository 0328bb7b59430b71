// SPDX-License-Identifier: Apache-2.0
// Launches of kernels in the emulator, as the product launches them on a device.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "prefixshare/status.hpp"
#include "simt/simt.hpp"
#include "support/catch.hpp"

namespace prefixshare::tests {

/// What host functions of kernels call to start them. Remembers the sizes of the launches.
struct Emulator {
  simt::Options options;
  std::int64_t shared_of_block = 227 * 1024, shared_of_processor = 228 * 1024;  ///< bytes; those of sm_90
  std::vector<simt::Grid> launches;

  explicit Emulator(const simt::Options& how = {}) : options(how) {}

  template <class Params>
  Status operator()(void (*kernel)(Params), std::int64_t blocks, int threads, std::int64_t shared_bytes, bool,
                    const Params& params) {
    static_assert(sizeof(Params) <= 4096, "kernel parameters");
    REQUIRE(blocks >= 1);
    REQUIRE(blocks <= std::numeric_limits<int>::max());
    REQUIRE(shared_bytes <= shared_of_block);
    launches.push_back({static_cast<int>(blocks), threads, static_cast<int>(shared_bytes)});
    simt::launch(kernel, launches.back(), options, params);
    return {};
  }
  Status shared_memory(std::int64_t* of_block, std::int64_t* of_processor) const {
    *of_block = shared_of_block;
    *of_processor = shared_of_processor;
    return {};
  }
};

}  // namespace prefixshare::tests
