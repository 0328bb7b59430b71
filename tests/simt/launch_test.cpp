// SPDX-License-Identifier: Apache-2.0
// Launches: who a thread is, every thread once, in every order.
#include <vector>

#include "prefixshare/cuda/ptx.cuh"
#include "support/catch.hpp"

using namespace prefixshare;

namespace {

PREFIXSHARE_GLOBAL void count_threads(int* times, int* places) {
  const int i = ptx::block() * ptx::threads() + ptx::thread();
  ++times[i];
  places[i] = ptx::warp() * 32 + ptx::lane() + ptx::blocks() * 10000;
}

}  // namespace

TEST_CASE("launch: every thread of every block runs once and knows its place", "[simt]") {
  for (const simt::Grid grid : {simt::Grid{1, 32, 0}, simt::Grid{5, 128, 0}, simt::Grid{3, 1024, 0}}) {
    const auto n = static_cast<std::size_t>(grid.blocks * grid.threads);
    std::vector<int> times(n, 0), places(n, 0);
    simt::launch(count_threads, grid, {}, times.data(), places.data());
    CHECK(times == std::vector<int>(n, 1));
    for (std::size_t i = 0; i < n; ++i) {
      REQUIRE(places[i] == static_cast<int>(i) % grid.threads + grid.blocks * 10000);
    }
  }
}
