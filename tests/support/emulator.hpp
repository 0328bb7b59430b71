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
  std::vector<simt::Grid> launches;

  explicit Emulator(const simt::Options& how = {}) : options(how) {}

  template <class Params>
  Status operator()(void (*kernel)(Params), std::int64_t blocks, int threads, std::int64_t shared_bytes, bool,
                    const Params& params) {
    static_assert(sizeof(Params) <= 4096, "kernel parameters");
    REQUIRE(blocks >= 1);
    REQUIRE(blocks <= std::numeric_limits<int>::max());
    REQUIRE(shared_bytes <= 227 * 1024);  // sm_90 gives no more
    launches.push_back({static_cast<int>(blocks), threads, static_cast<int>(shared_bytes)});
    simt::launch(kernel, launches.back(), options, params);
    return {};
  }
};

}  // namespace prefixshare::tests
