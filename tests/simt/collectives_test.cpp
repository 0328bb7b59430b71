// SPDX-License-Identifier: Apache-2.0
// What lanes of a warp and threads of a block do together, against its definition.
#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/cuda/ptx.cuh"
#include "simt/modes.hpp"
#include "support/catch.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

struct Pair {
  std::int32_t first, second;
};

struct Shuffled {
  int broadcast, rotated, swapped;
  double wide;
  Pair pair;
  float sum;
};

PREFIXSHARE_GLOBAL void shuffles(Shuffled* out) {
  const int i = ptx::thread(), lane = ptx::lane();
  Shuffled& o = out[i];
  o.broadcast = ptx::shuffle(i, 5);
  o.rotated = ptx::shuffle(i, lane + 1);
  o.swapped = ptx::shuffle_xor(i, 12);
  o.wide = ptx::shuffle(i + 0.5, 31 - lane);
  o.pair = ptx::shuffle_xor(Pair{i, -i}, 1);
  o.sum = static_cast<float>(lane);
  for (int mask = 16; mask > 0; mask /= 2) o.sum += ptx::shuffle_xor(o.sum, mask);
}

PREFIXSHARE_GLOBAL void votes(std::uint32_t* ballots, int* counts, bool* any) {
  const int i = ptx::thread();
  ballots[i] = ptx::ballot(i % 3 == 0);
  counts[i] = ptx::count_block(i % 5 == 0);
  any[2 * i] = ptx::any_block(i == 70);
  any[2 * i + 1] = ptx::any_block(i < 0);
}

/// A sum over the block in shared memory, half by half.
PREFIXSHARE_GLOBAL void block_sum(int* out) {
  int* const s = reinterpret_cast<int*>(ptx::shared_memory());
  const int i = ptx::thread();
  s[i] = i;
  for (int half = ptx::threads() / 2; half > 0; half /= 2) {
    ptx::sync_block();
    if (i < half) s[i] += s[i + half];
  }
  if (i == 0) *out = s[0];
}

/// The same within each warp, on sync_warp alone.
PREFIXSHARE_GLOBAL void warp_sums(int* out) {
  int* const s = reinterpret_cast<int*>(ptx::shared_memory()) + 32 * ptx::warp();
  const int lane = ptx::lane();
  s[lane] = ptx::thread();
  for (int half = 16; half > 0; half /= 2) {
    ptx::sync_warp();
    if (lane < half) s[lane] += s[lane + half];
  }
  if (lane == 0) out[ptx::warp()] = s[0];
}

/// The first warp makes numbers for the second, three times through one buffer; the third is not concerned.
PREFIXSHARE_GLOBAL void produce_and_consume(int* out) {
  constexpr int kFull = 1, kEmpty = 15, kTwoWarps = 64;
  int* const s = reinterpret_cast<int*>(ptx::shared_memory());
  const int lane = ptx::lane();
  if (ptx::warp() == 2) return;
  for (int step = 0; step < 3; ++step) {
    if (ptx::warp() == 0) {
      if (step > 0) ptx::sync_named(kEmpty, kTwoWarps);
      s[lane] = 100 * step + lane;
      ptx::sync_named(kFull, kTwoWarps);
    } else {
      ptx::sync_named(kFull, kTwoWarps);
      out[32 * step + lane] = s[31 - lane];
      if (step < 2) ptx::sync_named(kEmpty, kTwoWarps);
    }
  }
}

PREFIXSHARE_GLOBAL void named(int barrier, int first, int second) {
  ptx::sync_named(barrier, ptx::warp() == 0 ? first : second);
}

PREFIXSHARE_GLOBAL void lonely() {
  if (ptx::warp() == 0) ptx::sync_named(2, 64);
}

}  // namespace

TEST_CASE("collectives: shuffles of 4 and 8 bytes", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    std::vector<Shuffled> out(96);
    simt::launch(shuffles, {1, 96, 0}, options, out.data());
    for (int i = 0; i < 96; ++i) {
      const int warp = i / 32 * 32, lane = i % 32;
      const Shuffled& o = out[static_cast<std::size_t>(i)];
      CHECK(o.broadcast == warp + 5);
      CHECK(o.rotated == warp + (lane + 1) % 32);
      CHECK(o.swapped == warp + (lane ^ 12));
      CHECK(o.wide == warp + (31 - lane) + 0.5);
      CHECK(o.pair.first == (i ^ 1));
      CHECK(o.pair.second == -(i ^ 1));
      CHECK(o.sum == 496.0f);
    }
  }
}

TEST_CASE("collectives: votes of warp and block", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    std::vector<std::uint32_t> ballots(96);
    std::vector<int> counts(96);
    bool any[2 * 96];
    simt::launch(votes, {1, 96, 0}, options, ballots.data(), counts.data(), any);
    for (std::size_t i = 0; i < 96; ++i) {
      std::uint32_t expected = 0;
      for (std::size_t lane = 0; lane < 32; ++lane) {
        if ((i / 32 * 32 + lane) % 3 == 0) expected |= 1u << lane;
      }
      CHECK(ballots[i] == expected);
      CHECK(counts[i] == 20);
      CHECK(any[2 * i]);
      CHECK(!any[2 * i + 1]);
    }
  }
}

TEST_CASE("collectives: barriers of block and warp order shared memory", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    int sum = 0;
    simt::launch(block_sum, {1, 256, 1024}, options, &sum);
    CHECK(sum == 255 * 256 / 2);
    std::vector<int> sums(4);
    simt::launch(warp_sums, {1, 128, 512}, options, sums.data());
    CHECK(sums == std::vector<int>{496, 496 + 1024, 496 + 2048, 496 + 3072});
  }
}

TEST_CASE("collectives: named barriers among some of the warps", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    std::vector<int> out(96);
    simt::launch(produce_and_consume, {1, 96, 128}, options, out.data());
    for (int i = 0; i < 96; ++i) CHECK(out[static_cast<std::size_t>(i)] == 100 * (i / 32) + 31 - i % 32);
  }
}

TEST_CASE("collectives: named barriers that are used wrongly", "[simt]") {
  const auto error = [](int barrier, int first, int second) {
    return simt_error([&] { simt::launch(named, {1, 64, 0}, {}, barrier, first, second); });
  };
  const auto has = [](const std::string& message, const std::string& part) {
    INFO(message);
    CHECK(message.find("sync_named at ") != std::string::npos);
    CHECK(message.find("collectives_test.cpp:") != std::string::npos);
    CHECK(message.find(part) != std::string::npos);
  };
  CHECK(error(3, 64, 64) == "");
  CHECK(error(3, 32, 32) == "");
  has(error(0, 64, 64), "there is no barrier 0");
  has(error(16, 64, 64), "there is no barrier 16");
  has(error(1, 48, 64), "48 threads are not whole warps of the block");
  has(error(1, 96, 96), "96 threads are not whole warps of the block");
  has(error(1, 64, 32), " by thread 32 of block 0: it expects 32 threads, but sync_named at ");
}

TEST_CASE("collectives: a named barrier at which too few arrive", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    const std::string message = simt_error([&] { simt::launch(lonely, {1, 64, 0}, options); });
    INFO(message);
    CHECK(message.find("deadlock\n  32 threads wait in sync_named at ") == 0);
    CHECK(message.find("collectives_test.cpp:") != std::string::npos);
    CHECK(message.find("\n  32 threads of block 0 have exited") != std::string::npos);
  }
}
