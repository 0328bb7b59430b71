// SPDX-License-Identifier: Apache-2.0
// What kernels call: meetings of threads, and copies.
#include "simt/simt.hpp"

#include <algorithm>
#include <cstring>

#include "simt/machine.hpp"
#include "simt/models.hpp"

namespace simt {

using namespace detail;

namespace {

// ---- Copies

void complete_arrival(SharedBarrier* barrier, Block* block) {
  if (++barrier->arrived < barrier->expected) return;
  barrier->arrived = 0;
  ++barrier->phase;
  barrier->waiters = 0;
  for (std::size_t w = 0; w < block->warps.size(); ++w) {
    block->warps[w].ready |= barrier->waiting[w];
    barrier->waiting[w] = 0;
  }
}

void land(Copy* copy) {
  const Unseen unseen;
  unsigned char bytes[16] = {};
  if (copy->bytes > 0) std::memcpy(bytes, copy->from, static_cast<std::size_t>(copy->bytes));
  std::memcpy(copy->to, bytes, sizeof bytes);
  copy->done = true;
}

/// Asynchronous copies may land whenever their thread lets others run.
void land_some(Thread* thread) {
  if (launched->options.async != Async::random) return;
  for (Copy& copy : thread->copies) {
    if (copy.barrier == nullptr && !copy.done && launched->random() % 2 == 0) land(&copy);
  }
}

/// Lands the thread's copies up to its first `arrivals` arrivals, which then count. Those copies are waited for.
void land_arrivals(Thread* thread, std::size_t count) {
  std::size_t end = 0;
  for (; count > 0 && end < thread->copies.size(); ++end) {
    Copy& copy = thread->copies[end];
    if (copy.barrier == nullptr) {
      if (!copy.done) land(&copy);
      continue;
    }
    --copy.barrier->pending;
    complete_arrival(copy.barrier, thread->block);
    --count;
  }
  const Unseen unseen;
  thread->copies.erase(thread->copies.begin(), thread->copies.begin() + static_cast<std::ptrdiff_t>(end));
}
/// The arrivals at a barrier that copies hold back happen.
void land_arrivals_at(const SharedBarrier* barrier, Block* block) {
  for (Thread& thread : block->threads) {
    std::size_t arrivals = 0, last = 0;
    for (const Copy& copy : thread.copies) {
      if (copy.barrier == nullptr) continue;
      ++arrivals;
      if (copy.barrier == barrier) last = arrivals;
    }
    if (last > 0) land_arrivals(&thread, last);
  }
}

/// To ThreadSanitizer a copy is the work of somebody else, who has seen what the thread has, and whose writes the
/// thread sees when it has waited for the group.
void show_copy(Thread* thread, const Copy& copy, void* caller) {
  if (!has_tsan()) return;
  Fiber* const fiber = thread->fiber;
  if (fiber->tsan_copies == nullptr) fiber->tsan_copies = __tsan_create_fiber(0);
  thread->issue.release();
  __tsan_switch_to_fiber(fiber->tsan_copies, 1);
  thread->issue.acquire();
  if (copy.bytes > 0)
    __tsan_read_range_pc(const_cast<void*>(copy.from), static_cast<unsigned long>(copy.bytes), caller);
  __tsan_write_range_pc(copy.to, 16, caller);
  thread->groups[copy.group % kMostGroups].release();
  __tsan_switch_to_fiber(fiber->tsan, 1);
}

// ---- Meetings

/// All threads that a barrier expects wait for each other. Returns the sum of their values.
int meet(Barrier* barrier, const Act& act, int expected, int value) {
  Thread* const me = &self();
  Barrier& b = *barrier;
  land_some(me);
  if (b.arrived == 0) {
    b.act = act;
    b.expected = expected;
  }
  Token& token = b.tokens[b.phase % 2];
  token.release();
  b.sum += value;
  if (++b.arrived == b.expected) {
    for (std::size_t w = 0; w < me->block->warps.size(); ++w) {
      me->block->warps[w].ready |= b.waiting[w];
      b.waiting[w] = 0;
    }
    b.result = b.sum;
    b.sum = b.arrived = 0;
    ++b.phase;
    me->act = act;
    yield();
  } else {
    b.waiting[me->index / kWarp] |= me->bit();
    me->act = act;
    suspend();
  }
  token.acquire();
  return b.result;
}

/// The barrier of the whole block, at which everybody must be at one place.
int meet_block(const Act& act, int value) {
  Block& block = *self().block;
  Barrier& barrier = block.barriers[0];
  if (block.exited > 0) fail(act, "%d threads of the block have exited", block.exited);
  if (barrier.arrived > 0 && !same(barrier.act, act)) fail_beside(act, barrier.arrived, barrier.act);
  return meet(&barrier, act, static_cast<int>(block.threads.size()), value);
}

/// All lanes of the warp bring their part; the last one does the work for all of them.
template <class Part, class Work>
void meet_warp(const Act& act, Part* part, const Work& work) {
  Thread* const me = &self();
  Warp& warp = *me->warp;
  if (warp.alive != kAllLanes) fail(act, "%d lanes of the warp have exited", 32 - __builtin_popcount(warp.alive));
  if (warp.met == 0) warp.meeting = act;
  if (!same(warp.meeting, act)) fail_beside(act, __builtin_popcount(warp.met), warp.meeting);
  land_some(me);
  me->act = act;
  warp.parts[me->index % kWarp] = part;
  warp.met |= me->bit();
  if (warp.met != kAllLanes) return suspend();
  Part* parts[kWarp];
  for (int lane = 0; lane < kWarp; ++lane) parts[lane] = static_cast<Part*>(warp.parts[lane]);
  {
    const Unseen unseen;
    work(parts);
  }
  warp.met = 0;
  warp.ready |= kAllLanes & ~me->bit();
  yield();
}

}  // namespace

void detail::land_all_arrivals(Thread* thread) {
  std::size_t arrivals = 0;
  for (const Copy& copy : thread->copies) arrivals += copy.barrier != nullptr;
  if (arrivals > 0) land_arrivals(thread, arrivals);
}

// ---- What kernels call

int thread() { return self().index; }
int threads() { return launched->grid.threads; }
int block() { return self().block->index; }
int blocks() { return launched->grid.blocks; }
unsigned char* shared_memory() { return self().block->shared.begin(); }

void smem_guard(void* p, std::size_t bytes, Here here) {
  Window& shared = self().block->shared;
  if (!shared.contains(p, bytes)) fail({"smem_guard", here}, "not in the block's shared memory");
  const Unseen unseen;
  shared.guard(p, bytes);
}

void sync_block(Here here) { meet_block({"sync_block", here}, 0); }
bool any_block(bool value, Here here) { return meet_block({"any_block", here}, value) > 0; }
int count_block(bool value, Here here) { return meet_block({"count_block", here}, value); }

void sync_named(int barrier, int threads, Here here) {
  const Act act = {"sync_named", here};
  if (barrier < 1 || barrier >= kBarriers) fail(act, "there is no barrier %d", barrier);
  if (threads < kWarp || threads % kWarp != 0 || threads > launched->grid.threads) {
    fail(act, "%d threads are not whole warps of the block", threads);
  }
  Barrier& b = self().block->barriers[barrier];
  if (b.arrived > 0 && b.expected != threads) {
    fail(act, "it expects %d threads, but sync_named at %s:%d expects %d", threads, b.act.here.file, b.act.here.line,
         b.expected);
  }
  meet(&b, act, threads, 0);
}

void sync_warp(Here here) {
  Warp& warp = *self().warp;
  Token& token = warp.sync[warp.syncs % 2];
  token.release();
  int part = 0;
  meet_warp({"sync_warp", here}, &part, [&](int* const(&)[kWarp]) { ++warp.syncs; });
  token.acquire();
}

void shuffle(void* value, std::size_t bytes, int lane, Here here) {
  struct Part {
    void* value;
    std::size_t bytes;
    int lane;
    std::uint64_t bits;
  };
  Part part = {value, bytes, lane & (kWarp - 1), 0};
  meet_warp({"shuffle", here}, &part, [](Part* const(&parts)[kWarp]) {
    for (Part* p : parts) std::memcpy(&p->bits, parts[p->lane]->value, p->bytes);
    for (Part* p : parts) std::memcpy(p->value, &p->bits, p->bytes);
  });
}

std::uint32_t ballot(bool value, Here here) {
  struct Part {
    bool value;
    std::uint32_t bits;
  };
  Part part = {value, 0};
  meet_warp({"ballot", here}, &part, [](Part* const(&parts)[kWarp]) {
    std::uint32_t bits = 0;
    for (int lane = 0; lane < kWarp; ++lane) bits |= static_cast<std::uint32_t>(parts[lane]->value) << lane;
    for (Part* p : parts) p->bits = bits;
  });
  return part.bits;
}

namespace {

/// 16 bytes of shared memory that an instruction names.
void check_shared(const Act& act, const void* p) {
  const Window& shared = self().block->shared;
  if (!shared.contains(p, 16)) {
    const auto offset = static_cast<const unsigned char*>(p) - shared.begin();
    fail(act, "bytes %td to %td are outside of the block's %zu bytes of shared memory", offset, offset + 15,
         shared.bytes());
  }
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) fail(act, "the address in shared memory is no multiple of 16");
  if (shared.guarded(static_cast<const unsigned char*>(p), 16)) fail(act, "the bytes in shared memory are guarded");
}

}  // namespace

__attribute__((noinline)) void load_matrix(std::uint32_t* r, int matrices, bool transposed, const void* row,
                                           Here here) {
  const Act act = {"load_matrix", here};
  MatrixLane part = {row, {}, r};
  if (self().index % kWarp < 8 * matrices) {
    check_shared(act, row);
    if (detail::has_tsan()) __tsan_read_range_pc(const_cast<void*>(row), 16, __builtin_return_address(0));
    const Unseen unseen;
    std::memcpy(part.row, row, 16);
  }
  meet_warp(act, &part, [&](MatrixLane* const(&lanes)[kWarp]) {
    detail::load_matrices(lanes, matrices, transposed);
    launched->statistics.matrices += matrices;
    launched->statistics.conflicts += detail::bank_conflicts(lanes, matrices);
  });
}

void multiply_add(float* d, const std::uint32_t* a, const std::uint32_t* b, prefixshare::DType type, Here here) {
  MultiplyLane part = {d, a, b};
  meet_warp({"multiply_add", here}, &part,
            [&](MultiplyLane* const(&lanes)[kWarp]) { detail::multiply_add(lanes, type); });
}

namespace {

SharedBarrier* known_barrier(const void* p) {
  const Unseen unseen;
  for (const auto& barrier : self().block->shared_barriers) {
    if (barrier->address == p) return barrier.get();
  }
  return nullptr;
}
SharedBarrier* find_barrier(const Act& act, const void* p) {
  SharedBarrier* const barrier = known_barrier(p);
  if (barrier == nullptr) fail(act, "there was no barrier_init of this barrier");
  return barrier;
}

}  // namespace

void barrier_init(std::uint64_t* barrier, int arrivals, Here here) {
  const Act act = {"barrier_init", here};
  Block& block = *self().block;
  if (!block.shared.contains(barrier, 8)) fail(act, "not in the block's shared memory");
  if (reinterpret_cast<std::uintptr_t>(barrier) % 8 != 0) fail(act, "the address in shared memory is no multiple of 8");
  if (arrivals < 1) fail(act, "%d arrivals are less than 1", arrivals);
  if (known_barrier(barrier) != nullptr) fail(act, "it is a barrier already");
  const Unseen unseen;
  block.shared_barriers.push_back(std::make_unique<SharedBarrier>());
  block.shared_barriers.back()->address = barrier;
  block.shared_barriers.back()->expected = arrivals;
}

void barrier_arrive(std::uint64_t* barrier, Here here) {
  SharedBarrier* const b = find_barrier({"barrier_arrive", here}, barrier);
  b->tokens[b->phase % 2].release();
  complete_arrival(b, self().block);
  self().act = {"barrier_arrive", here};
  land_some(&self());
  yield();
}

void copy_async_arrive(std::uint64_t* barrier, Here here) {
  Thread& t = self();
  SharedBarrier* const b = find_barrier({"copy_async_arrive", here}, barrier);
  if (has_tsan() && t.fiber->tsan_copies != nullptr) {  // whoever did the copies arrives
    __tsan_switch_to_fiber(t.fiber->tsan_copies, 1);
    b->tokens[b->phase % 2].release();
    __tsan_switch_to_fiber(t.fiber->tsan, 1);
  }
  {
    const Unseen unseen;
    t.copies.push_back({b, nullptr, nullptr, 0, t.group, here, false});
  }
  ++b->pending;
  if (launched->options.async == Async::eager || b->waiters > 0) land_arrivals_at(b, t.block);
}

void barrier_wait(std::uint64_t* barrier, int parity, Here here) {
  const Act act = {"barrier_wait", here};
  Thread& t = self();
  SharedBarrier* const b = find_barrier(act, barrier);
  if (parity != 0 && parity != 1) fail(act, "parity %d", parity);
  land_some(&t);
  t.act = act;
  while (static_cast<int>(b->phase % 2) == parity) {
    if (b->pending > 0) {  // as late as can be, but no later
      land_arrivals_at(b, t.block);
      continue;
    }
    ++b->waiters;
    b->waiting[t.index / kWarp] |= t.bit();
    suspend();
  }
  b->tokens[parity].acquire();
  yield();
}

__attribute__((noinline)) void copy_async(void* shared, const void* global, int bytes, Here here) {
  const Act act = {"copy_async", here};
  Thread& t = self();
  if (bytes < 0 || bytes > 16) fail(act, "%d bytes are not 0 to 16", bytes);
  check_shared(act, shared);
  if (reinterpret_cast<std::uintptr_t>(global) % 16 != 0)
    fail(act, "the address in global memory is no multiple of 16");
  if (bytes > 0) {
    for (const auto& block : launched->blocks) {
      if (block->shared.contains(global, 1)) fail(act, "the source is shared memory");
    }
    if (detail::poisoned(global, static_cast<std::size_t>(bytes))) {
      fail(act, "the %d bytes in global memory may not be read", bytes);
    }
  }
  if (t.group - t.groups_waited >= kMostGroups) fail(act, "the emulator has room for %d groups in flight", kMostGroups);
  Copy copy = {nullptr, shared, global, bytes, t.group, here, false};
  show_copy(&t, copy, __builtin_return_address(0));
  if (launched->options.async == Async::eager) land(&copy);
  const Unseen unseen;
  t.copies.push_back(copy);
}

void copy_async_commit(Here) { ++self().group; }

void copy_async_wait(int pending, Here) {
  Thread& t = self();
  const std::int64_t end = t.group - pending;
  const Unseen unseen;
  for (Copy& copy : t.copies) {
    if (copy.barrier == nullptr && copy.group < end && !copy.done) land(&copy);
  }
  const auto waited = [&](const Copy& copy) { return copy.barrier == nullptr && copy.group < end; };
  t.copies.erase(std::remove_if(t.copies.begin(), t.copies.end(), waited), t.copies.end());
  for (; t.groups_waited < end; ++t.groups_waited) t.groups[t.groups_waited % kMostGroups].acquire();
}

void spin_pause(Here here) {
  Launch& l = *launched;
  Thread& t = self();
  t.act = {"spin_pause", here};
  if (++l.polls > l.options.polls) {
    l.failure.waiting = true;
    fail(t.act, "livelock: %lld polls in which no thread has come to its end, with %d of %d blocks resident",
         static_cast<long long>(l.options.polls), static_cast<int>(l.blocks.size()), l.grid.blocks);
  }
  t.warp->polling |= t.bit();
  land_some(&t);
  suspend();
}

void trap(Here here) { fail({"trap", here}, "the kernel gave up"); }

void interleave() { yield(); }

}  // namespace simt
