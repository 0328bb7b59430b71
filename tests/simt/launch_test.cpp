// SPDX-License-Identifier: Apache-2.0
// Launches: every thread once, in the order that was asked for, and shared memory as a block finds it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "prefixshare/cuda/ptx.cuh"
#include "simt/modes.hpp"
#include "support/catch.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

struct Parameters {
  int* times;
  int* places;
};

PREFIXSHARE_GLOBAL void count_threads(const PREFIXSHARE_GRID_CONSTANT Parameters p, int scale) {
  const int i = ptx::block() * ptx::threads() + ptx::thread();
  ++p.times[i];
  p.places[i] = ptx::warp() * 32 + ptx::lane() + ptx::blocks() * scale;
}

/// The order in which threads come here.
PREFIXSHARE_GLOBAL void log_threads(int* counter, int* log) {
  log[ptx::arrive(counter, 1 << 20)] = ptx::block() * ptx::threads() + ptx::thread();
}

std::vector<int> logged(const simt::Grid& grid, const simt::Options& options) {
  std::vector<int> log(static_cast<std::size_t>(grid.blocks * grid.threads));
  int counter = 0;
  simt::launch(log_threads, grid, options, &counter, log.data());
  return log;
}

PREFIXSHARE_GLOBAL void look_at_shared(float* values, std::uintptr_t* addresses) {
  float* const s = reinterpret_cast<float*>(ptx::shared_memory());
  const int i = ptx::thread();
  values[ptx::block() * ptx::threads() + i] = s[i];
  s[i] = 1.0f;
  addresses[ptx::block() * ptx::threads() + i] = reinterpret_cast<std::uintptr_t>(s);
}

PREFIXSHARE_GLOBAL void give_up(bool now) { ptx::trap_if(now && ptx::thread() == 40); }

}  // namespace

TEST_CASE("launch: every thread of every block runs once and knows its place", "[simt]") {
  for (const simt::Grid grid : {simt::Grid{1, 32, 0}, simt::Grid{5, 128, 0}, simt::Grid{3, 1024, 0}}) {
    const auto n = static_cast<std::size_t>(grid.blocks * grid.threads);
    for (const simt::Options& options : simt_modes()) {
      if (grid.threads == 1024 && options.seed > 1) continue;  // ThreadSanitizer needs half a millisecond for each
      std::vector<int> times(n, 0), places(n, 0);
      simt::launch(count_threads, grid, options, Parameters{times.data(), places.data()}, 10000);
      CHECK(times == std::vector<int>(n, 1));
      bool right = true;
      for (std::size_t i = 0; i < n; ++i) {
        right = right && places[i] == static_cast<int>(i) % grid.threads + grid.blocks * 10000;
      }
      CHECK(right);
    }
  }
}

TEST_CASE("launch: the order is what was asked for, and the seed's", "[simt]") {
  const simt::Grid grid{2, 64, 0};
  std::vector<int> expected(128);
  std::iota(expected.begin(), expected.end(), 0);
  simt::Options options;
  CHECK(logged(grid, options) == expected);
  options.order = simt::Order::reverse;
  options.resident = 2;
  std::reverse(expected.begin(), expected.end());
  CHECK(logged(grid, options) == expected);
  std::sort(expected.begin(), expected.end());
  for (const auto order : {simt::Order::random, simt::Order::pct}) {
    options.order = order;
    options.seed = 1;
    const std::vector<int> first = logged(grid, options);
    CHECK(logged(grid, options) == first);
    options.seed = 2;
    const std::vector<int> second = logged(grid, options);
    CHECK(second != first);
    for (std::vector<int> all : {first, second}) {
      std::sort(all.begin(), all.end());
      CHECK(all == expected);
    }
  }
}

TEST_CASE("launch: blocks begin in order, or shuffled", "[simt]") {
  simt::Options options;
  const std::vector<int> in_order = logged({8, 32, 0}, options);
  options.shuffle_blocks = true;
  const std::vector<int> shuffled = logged({8, 32, 0}, options);
  CHECK(shuffled != in_order);
  for (std::size_t i = 0; i < shuffled.size(); ++i) CHECK(shuffled[i] % 32 == in_order[i] % 32);
}

TEST_CASE("launch: shared memory is full of NaN for every block, and aligned as was asked for", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    std::vector<float> values(4 * 64, 0.0f);
    std::vector<std::uintptr_t> addresses(4 * 64);
    simt::launch(look_at_shared, {4, 64, 256}, options, values.data(), addresses.data());
    for (const float x : values) CHECK(std::isnan(x));
    for (const std::uintptr_t address : addresses) CHECK(address % 1024 == (options.misalign ? 128 : 0));
  }
}

TEST_CASE("launch: what is no launch is refused", "[simt]") {
  const auto refusal = [](const simt::Grid& grid, int resident) {
    simt::Options options;
    options.resident = resident;
    return simt_error([&] { simt::launch(give_up, grid, options, false); });
  };
  CHECK(refusal({1, 32, 0}, 1) == "");
  CHECK(refusal({1, 1024, 227 * 1024}, 1) == "");
  CHECK(refusal({0, 32, 0}, 1) == "launch: no block");
  CHECK(refusal({1, 0, 0}, 1) == "launch: a block has 32, 64, ... 1024 threads");
  CHECK(refusal({1, 33, 0}, 1) == "launch: a block has 32, 64, ... 1024 threads");
  CHECK(refusal({1, 1056, 0}, 1) == "launch: a block has 32, 64, ... 1024 threads");
  CHECK(refusal({1, 32, 227 * 1024 + 1}, 1) == "launch: a block has at most 227 KiB of shared memory");
  CHECK(refusal({1, 32, 0}, 0) == "launch: no block is resident");
}

TEST_CASE("launch: after an error the next launch is whole", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    const std::string message = simt_error([&] { simt::launch(give_up, {3, 64, 64}, options, true); });
    CHECK(message.find("trap at ") == 0);
    CHECK(message.find(" by thread 40 of block ") != std::string::npos);
    std::vector<int> times(256, 0), places(256, 0);
    simt::launch(count_threads, {2, 128, 0}, options, Parameters{times.data(), places.data()}, 1);
    CHECK(times == std::vector<int>(256, 1));
  }
}
