// SPDX-License-Identifier: Apache-2.0
// Memory that blocks share: arrivals, and what the last one to arrive sees.
#include <string>
#include <vector>

#include "prefixshare/cuda/ptx.cuh"
#include "simt/modes.hpp"
#include "simt/seeded_bugs.cuh"
#include "support/catch.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

PREFIXSHARE_GLOBAL void arrive_once(int* counter, int last, int* before) {
  before[ptx::block() * ptx::threads() + ptx::thread()] = ptx::arrive(counter, last);
}

/// Thread 0 of each block hands four numbers on to the next block, which waits for them.
PREFIXSHARE_GLOBAL void chain(int* flags, ptx::Float4* numbers) {
  if (ptx::thread() != 0) return;
  const int b = ptx::block();
  ptx::Float4 sum = {1, 2, 3, 4};
  if (b > 0) {
    while (ptx::load_acquire(&flags[b - 1]) == 0) ptx::spin_pause();
    const ptx::Float4 before = ptx::load_cached(&numbers[b - 1]);
    sum = {sum.x + before.x, sum.y + before.y, sum.z + before.z, sum.w + before.w};
  }
  numbers[b] = sum;
  ptx::fence();
  ptx::arrive(&flags[b], 1);
}

}  // namespace

TEST_CASE("memory: arrivals count up and wrap", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    int counter = 0;
    std::vector<int> before(128), times(48, 0);
    simt::launch(arrive_once, {2, 64, 0}, options, &counter, 47, before.data());
    for (const int b : before) ++times[static_cast<std::size_t>(b)];
    for (int i = 0; i < 48; ++i) CHECK(times[static_cast<std::size_t>(i)] == (i < 128 - 2 * 48 ? 3 : 2));
    CHECK(counter == 128 - 2 * 48);
    simt::launch(arrive_once, {1, 32, 0}, options, &counter, 0, before.data());
    CHECK(counter == 0);
  }
}

TEST_CASE("memory: the last block to arrive sees what all have written", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    int counter = 0;
    std::vector<float> partial(5 * 64), out(64);
    simt::launch(seeded::last_block<true>, {5, 64, 4}, options, &counter, partial.data(), out.data());
    CHECK(counter == 0);
    CHECK(out == std::vector<float>(64, 5.0f));
  }
}

TEST_CASE("memory: a chain of blocks that wait for the one before", "[simt]") {
  for (simt::Options options : simt_modes()) {
    if (options.shuffle_blocks) options.resident = 6;  // else the first to run may wait for one that never does
    INFO(to_string(options));
    std::vector<int> flags(6, 0);
    std::vector<ptx::Float4> numbers(6);
    simt::launch(chain, {6, 32, 0}, options, flags.data(), numbers.data());
    for (int b = 0; b < 6; ++b) {
      const ptx::Float4& x = numbers[static_cast<std::size_t>(b)];
      const auto times = static_cast<float>(b + 1);
      CHECK((x.x == times && x.y == 2 * times && x.z == 3 * times && x.w == 4 * times));
    }
  }
}
