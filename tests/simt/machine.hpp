// SPDX-License-Identifier: Apache-2.0
// The machine: threads, warps and blocks of a launch, and who of them runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "simt/fiber.hpp"
#include "simt/sanitizers.hpp"
#include "simt/simt.hpp"
#include "simt/window.hpp"

namespace simt::detail {

inline constexpr int kWarp = 32;
inline constexpr std::uint32_t kAllLanes = 0xffffffffu;
inline constexpr int kMostThreads = 1024;
inline constexpr int kMostShared = 227 * 1024;  // of a block, sm_90
inline constexpr int kBarriers = 16;
inline constexpr int kMostGroups = 64;  // of copies, in flight in one thread

struct Block;
struct Warp;

/// What a thread does, or waits in, and where its kernel says so.
struct Act {
  const char* what;
  Here here;
};
bool same(const Act& a, const Act& b);

struct SharedBarrier;

/// A copy; or, with a barrier, an arrival there once the copies before it are done.
struct Copy {
  SharedBarrier* barrier;
  void* to;
  const void* from;
  int bytes;
  std::int64_t group;
  Here here;
  bool done;
};

struct Thread {
  Block* block = nullptr;
  Warp* warp = nullptr;
  Fiber* fiber = nullptr;
  int index = 0;
  bool exited = false;
  Act act = {"the kernel's start", {"", 0}};
  std::vector<Copy> copies;        // that have not been waited for
  std::int64_t group = 0;          // that is not committed yet
  std::int64_t groups_waited = 0;  // groups below have been waited for
  Token issue, groups[kMostGroups];

  std::uint32_t bit() const { return 1u << (index % kWarp); }
};

struct Warp {
  Block* block = nullptr;
  Thread* threads = nullptr;
  std::uint32_t ready = kAllLanes;
  std::uint32_t alive = kAllLanes;
  std::uint32_t polling = 0;
  std::uint32_t met = 0;
  Act meeting = {};
  void* parts[kWarp] = {};  // of the lanes that have met
  unsigned syncs = 0;
  Token sync[2];  // of the last sync_warp and the one before, which some may not have left
  std::uint64_t priority = 0;
};

struct Barrier {
  Act act = {};  // of whoever came first
  int expected = 0;
  int arrived = 0;
  int sum = 0;
  int result = 0;  // the sum of the last time
  unsigned phase = 0;
  Token tokens[2];
  std::uint32_t waiting[kMostThreads / kWarp] = {};
};

/// A barrier that lies in shared memory: its state is kept here.
struct SharedBarrier {
  const void* address;
  int expected;
  int arrived = 0;
  int pending = 0;  // arrivals that wait for copies
  unsigned phase = 0;
  int waiters = 0;
  Token tokens[2];
  std::uint32_t waiting[kMostThreads / kWarp] = {};
};

struct Block {
  Block(int number, const Grid& grid, bool misalign)
      : index(number),
        threads(static_cast<std::size_t>(grid.threads)),
        warps(static_cast<std::size_t>(grid.threads / kWarp)),
        shared(grid.shared_bytes, misalign) {
    for (std::size_t w = 0; w < warps.size(); ++w) {
      warps[w].block = this;
      warps[w].threads = &threads[w * kWarp];
    }
    for (std::size_t t = 0; t < threads.size(); ++t) {
      threads[t].block = this;
      threads[t].warp = &warps[t / kWarp];
      threads[t].index = static_cast<int>(t);
    }
  }

  int index;
  int exited = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers];
  std::vector<std::unique_ptr<SharedBarrier>> shared_barriers;
  Window shared;
  Token begin;

  bool done() const { return exited == static_cast<int>(threads.size()); }
};

/// What is wrong: found by a thread, told by the launch once the thread's stack is left.
struct Failure {
  const Thread* thread = nullptr;
  Act act = {};
  char finding[512] = {};
  bool waiting = false;  // the message tells what all threads wait in
};

struct Launch {
  Launch(const Grid& g, const Options& o, void (*e)(void*), void* a)
      : grid(g), options(o), entry(e), argument(a), random_state(o.seed) {}

  std::uint64_t random();
  /// A thread that can go on, which then does. Who polls goes on when nobody else can. Null if all wait.
  Thread* pick();

  Grid grid;
  Options options;
  void (*entry)(void*);
  void* argument;

  Context main;
  std::vector<int> blocks_left;  // the last one is the next
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<Warp*> warps;  // of these blocks
  std::size_t current = 0;   // warp
  Thread* running = nullptr;
  Failure failure;
  Token ended;  // released by every thread
  std::int64_t polls = 0;
  std::uint64_t random_state;
  Statistics statistics;

 private:
  Warp* next_warp();
};

/// The launch of this thread of the host, if there is one, and who runs in it. (A thread_local of C++ would be reached
/// through a function, since it might need construction.)
extern __thread Launch* launched;
inline Thread& self() { return *launched->running; }

/// The arrivals of a thread at barriers that wait for its copies happen, since it ends.
void land_all_arrivals(Thread* thread);
/// The running thread has said what it waits for, and others go on.
void suspend();
/// The running thread may go on, but others may be first. In forward order they are not.
void yield();
/// Ends the launch because of what the running thread does. The stacks of all threads stay as they are.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(const Act& act, const char* format, ...);
/// The same because others wait where they wait in vain.
[[noreturn]] void fail_beside(const Act& act, int others, const Act& where);

}  // namespace simt::detail
