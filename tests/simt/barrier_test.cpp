// SPDX-License-Identifier: Apache-2.0
// Barriers in shared memory: a ring that one warp fills and others empty, and what goes wrong with one.
#include <numeric>
#include <string>
#include <vector>

#include "prefixshare/cuda/ptx.cuh"
#include "simt/modes.hpp"
#include "support/catch.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

constexpr int kSlots = 3, kTiles = 17, kReaders = 2;

struct Ring {
  ptx::Barrier full[kSlots], empty[kSlots];
  alignas(16) float data[kSlots][32 * 4];
  float note[kSlots];
};

/// Warp 0 copies tiles into the ring, the others write the sums of what they find. Waits may be left out.
PREFIXSHARE_GLOBAL void hand_over(const float* from, float* out, bool waits_full, bool waits_empty) {
  Ring& r = *reinterpret_cast<Ring*>(ptx::shared_memory());
  if (ptx::thread() < kSlots) {
    ptx::barrier_init(&r.full[ptx::thread()], 32 + 1);
    ptx::barrier_init(&r.empty[ptx::thread()], kReaders);
  }
  ptx::sync_block();
  const int lane = ptx::lane();
  for (int tile = 0; tile < kTiles; ++tile) {
    const int slot = tile % kSlots, parity = tile / kSlots % 2;
    if (ptx::warp() == 0) {
      if (waits_empty) ptx::barrier_wait(&r.empty[slot], parity ^ 1);
      ptx::copy_async(&r.data[slot][4 * lane], from + (tile * 32 + lane) * 4);
      if (lane == 0) r.note[slot] = static_cast<float>(tile);
      ptx::copy_async_arrive(&r.full[slot]);
      ptx::sync_warp();
      if (lane == 0) ptx::barrier_arrive(&r.full[slot]);
    } else {
      if (waits_full) ptx::barrier_wait(&r.full[slot], parity);
      const float* const four = &r.data[slot][4 * (31 - lane)];
      out[((ptx::warp() - 1) * kTiles + tile) * 32 + lane] = r.note[slot] + four[0] + four[3];
      ptx::sync_warp();
      if (lane == 0) ptx::barrier_arrive(&r.empty[slot]);
    }
  }
}

std::vector<float> handed_over(const simt::Options& options, bool waits_full, bool waits_empty) {
  alignas(16) static float from[kTiles * 32 * 4];
  std::iota(from, from + kTiles * 32 * 4, 0.0f);
  std::vector<float> out(static_cast<std::size_t>(kReaders * kTiles * 32), -1.0f);
  simt::launch(hand_over, {1, 32 * (1 + kReaders), sizeof(Ring)}, options, static_cast<const float*>(from), out.data(),
               waits_full, waits_empty);
  return out;
}
std::vector<float> expected() {
  std::vector<float> out;
  for (int reader = 0; reader < kReaders; ++reader) {
    for (int tile = 0; tile < kTiles; ++tile) {
      for (int lane = 0; lane < 32; ++lane) {
        out.push_back(static_cast<float>(tile + 2 * (tile * 32 + 31 - lane) * 4 + 3));
      }
    }
  }
  return out;
}

PREFIXSHARE_GLOBAL void wait_in_vain(int arrivals) {
  auto* const barrier = reinterpret_cast<ptx::Barrier*>(ptx::shared_memory());
  if (ptx::thread() == 0 && arrivals > 0) ptx::barrier_init(barrier, arrivals);
  ptx::sync_block();
  ptx::barrier_arrive(barrier);
  ptx::barrier_wait(barrier, 0);
}

}  // namespace

TEST_CASE("barriers: a ring between warps, in every mode", "[simt]") {
  for (const simt::Options& options : simt_modes()) {
    INFO(to_string(options));
    CHECK(handed_over(options, true, true) == expected());
  }
}

#if !defined(PREFIXSHARE_TSAN)  // which reports the race itself
TEST_CASE("barriers: who does not wait reads and overwrites too early", "[simt]") {
  const auto goes_wrong = [](const simt::Options& options, bool waits_full, bool waits_empty) {
    bool wrong = false;
    const std::string error = simt_error([&] { wrong = handed_over(options, waits_full, waits_empty) != expected(); });
    return wrong || !error.empty();  // phases that went by are waited for in vain
  };
  simt::Options late;
  late.async = simt::Async::lazy;
  late.order = simt::Order::reverse;  // readers first
  CHECK(goes_wrong(late, false, true));
  CHECK(!goes_wrong(late, true, true));
  late.order = simt::Order::forward;  // the copying warp first
  CHECK(goes_wrong(late, true, false));
  CHECK(!goes_wrong(late, true, true));
}
#endif

TEST_CASE("barriers: too few arrivals, and a barrier that is none", "[simt]") {
  const auto launch = [](int arrivals) { simt::launch(wait_in_vain, {1, 32, 64}, {}, arrivals); };
  launch(32);
  const std::string deadlock = simt_error([&] { launch(33); });
  INFO(deadlock);
  CHECK(deadlock.find("deadlock") != std::string::npos);
  CHECK(deadlock.find("32 threads wait in barrier_wait at ") != std::string::npos);
  const std::string none = simt_error([&] { launch(0); });
  INFO(none);
  CHECK(none.find("there was no barrier_init of this barrier") != std::string::npos);
}
