// SPDX-License-Identifier: Apache-2.0
#include "simt/machine.hpp"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace simt {

namespace detail {

__thread Launch* launched = nullptr;

namespace {

thread_local Statistics last_statistics;

/// Stacks that wait to be used again.
struct Pool {
  std::vector<std::unique_ptr<Fiber>> fibers;

  Fiber* take(std::uint64_t random) {
    if (fibers.empty()) return new Fiber;
    // ThreadSanitizer takes what ran on one stack for one thread, and misses races within it. Which ones the seed says.
    if (has_tsan()) std::swap(fibers[static_cast<std::size_t>(random % fibers.size())], fibers.back());
    Fiber* const fiber = fibers.back().release();
    fibers.pop_back();
    return fiber;
  }
  void give_back(Fiber* fiber) { fibers.emplace_back(fiber); }
};

thread_local Pool pool;

int lowest(std::uint32_t mask) { return __builtin_ctz(mask); }
int highest(std::uint32_t mask) { return 31 - __builtin_clz(mask); }

bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

}  // namespace

bool same(const Act& a, const Act& b) {
  return a.here.line == b.here.line && same(a.here.file, b.here.file) && same(a.what, b.what);
}

// ---- What is wrong

namespace {

std::string text(const Act& act) {
  return act.here.line == 0 ? act.what
                            : std::string(act.what) + " at " + act.here.file + ":" + std::to_string(act.here.line);
}

/// What the living threads are in, most of them first: "96 threads wait in sync_block at file:line".
std::string waiting(const Launch& l) {
  struct Group {
    Act act;
    int threads;
  };
  std::vector<Group> groups;
  for (const auto& block : l.blocks) {
    for (const Thread& t : block->threads) {
      if (t.exited) continue;
      const auto known = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return same(g.act, t.act); });
      if (known == groups.end()) {
        groups.push_back({t.act, 1});
      } else {
        ++known->threads;
      }
    }
  }
  std::stable_sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) { return a.threads > b.threads; });
  std::string all;
  for (const Group& g : groups) all += "\n  " + std::to_string(g.threads) + " threads wait in " + text(g.act);
  for (const auto& block : l.blocks) {
    if (block->exited == 0) continue;
    all +=
        "\n  " + std::to_string(block->exited) + " threads of block " + std::to_string(block->index) + " have exited";
  }
  return all;
}

std::string message(const Launch& l) {
  const Failure& f = l.failure;
  const std::string all = f.waiting ? waiting(l) : "";
  if (f.thread == nullptr) return f.finding + all;
  return text(f.act) + " by thread " + std::to_string(f.thread->index) + " of block " +
         std::to_string(f.thread->block->index) + ": " + f.finding + all;
}

}  // namespace

void fail(const Act& act, const char* format, ...) {
  Launch& l = *launched;
  {
    const Unseen unseen;
    l.failure.thread = l.running;
    l.failure.act = act;
    va_list list;
    va_start(list, format);
    std::vsnprintf(l.failure.finding, sizeof l.failure.finding, format, list);
    va_end(list);
  }
  switch_to(l.running->fiber, &l.main);
  std::abort();  // nobody comes back
}

void fail_beside(const Act& act, int others, const Act& where) {
  fail(act, "%d others wait in %s at %s:%d", others, where.what, where.here.file, where.here.line);
}

// ---- Who runs

std::uint64_t Launch::random() {  // splitmix64
  std::uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// A warp with a thread that can go on, or null.
Warp* Launch::next_warp() {
  const std::size_t n = warps.size();
  if (options.order == Order::pct) {
    constexpr std::uint64_t kRarely = 64;
    if (n > 0 && random() % kRarely == 0) warps[current]->priority = random();
    Warp* best = nullptr;
    for (Warp* w : warps) {
      if (w->ready != 0 && (best == nullptr || w->priority > best->priority)) best = w;
    }
    for (std::size_t i = 0; i < n; ++i) current = warps[i] == best ? i : current;
    return best;
  }
  if (options.order == Order::random && n > 0) current = static_cast<std::size_t>(random() % n);
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t w = options.order == Order::reverse ? n - 1 - i : (current + i) % n;
    if (warps[w]->ready == 0) continue;
    current = w;
    return warps[w];
  }
  return nullptr;
}

Thread* Launch::pick() {
  Warp* warp = next_warp();
  if (warp == nullptr) {
    for (Warp* w : warps) {
      w->ready = w->polling;
      w->polling = 0;
    }
    warp = next_warp();
  }
  if (warp == nullptr) return nullptr;
  int lane = options.order == Order::reverse ? highest(warp->ready) : lowest(warp->ready);
  if (options.order == Order::random) {
    std::uint32_t rest = warp->ready;
    for (int skip = static_cast<int>(random() % static_cast<unsigned>(__builtin_popcount(rest))); skip > 0; --skip) {
      rest &= rest - 1;
    }
    lane = lowest(rest);
  }
  warp->ready &= ~(1u << lane);
  return &warp->threads[lane];
}

void suspend() {
  Launch& l = *launched;
  Thread* const left = l.running;
  Thread* const next = l.pick();
  if (next == left) return;
  l.running = next;
  switch_to(left->fiber, next != nullptr ? static_cast<Context*>(next->fiber) : &l.main);
}

void yield() {
  if (launched->options.order == Order::forward) return;
  self().warp->ready |= self().bit();
  suspend();
}

// ---- Blocks

namespace {

void finish(Thread* thread) {
  Launch& l = *launched;
  Block& block = *thread->block;
  Warp& warp = *thread->warp;
  const Act exit = {"exit", {"", 0}};
  land_all_arrivals(thread);
  if (!thread->copies.empty()) {
    const Copy& copy = thread->copies.front();
    fail(exit, "it has not waited for copy_async at %s:%d", copy.here.file, copy.here.line);
  }
  const Barrier& barrier = block.barriers[0];
  if (warp.met != 0) fail_beside(exit, __builtin_popcount(warp.met), warp.meeting);
  if (barrier.arrived > 0) fail_beside(exit, barrier.arrived, barrier.act);
  thread->exited = true;
  warp.alive &= ~thread->bit();
  ++block.exited;
  l.polls = 0;
  l.ended.release();
  if (block.done()) {
    l.running = nullptr;
    switch_to(thread->fiber, &l.main);
  } else {
    suspend();
  }
}

/// The body of every fiber. After `finish` it is another thread's time, and nothing of this one is left.
void run_thread(void* argument) {
  Thread* const thread = static_cast<Thread*>(argument);
  thread->block->begin.acquire();
  launched->entry(launched->argument);
  finish(thread);
}

void begin_blocks(Launch* l) {
  const Unseen unseen;
  while (!l->blocks_left.empty() && l->blocks.size() < static_cast<std::size_t>(l->options.resident)) {
    l->blocks.push_back(std::make_unique<Block>(l->blocks_left.back(), l->grid, l->options.misalign));
    l->blocks_left.pop_back();
    Block& block = *l->blocks.back();
    for (Thread& t : block.threads) {
      t.fiber = pool.take(l->random());
      t.fiber->start(run_thread, &t);
    }
    for (Warp& w : block.warps) {
      w.priority = l->random();
      l->warps.push_back(&w);
    }
    block.begin.release();
    l->polls = 0;
  }
}

/// Takes blocks away whose threads have all exited. False if one has written beside its shared memory.
bool end_blocks(Launch* l) {
  const Unseen unseen;
  bool intact = true;
  for (auto& block : l->blocks) {
    if (!block->done()) continue;
    const char* const damage = block->shared.damage();
    if (damage != nullptr && intact) {
      std::snprintf(l->failure.finding, sizeof l->failure.finding, "block %d wrote to shared memory %s", block->index,
                    damage);
      intact = false;
    }
    for (Thread& t : block->threads) pool.give_back(t.fiber);
    const auto gone = [&](const Warp* w) { return w->block == block.get(); };
    l->warps.erase(std::remove_if(l->warps.begin(), l->warps.end(), gone), l->warps.end());
    block.reset();
  }
  l->blocks.erase(std::remove(l->blocks.begin(), l->blocks.end(), nullptr), l->blocks.end());
  l->current = 0;
  return intact;
}

/// As if the thread itself, as ThreadSanitizer sees it, released the token.
void release_as(void* thread, Token* token) {
  if (thread == nullptr) return;
  void* const me = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(thread, 1);
  token->release();
  __tsan_switch_to_fiber(me, 1);
}

/// After an error: nobody runs any more, wherever they are.
void abandon_blocks(Launch* l) {
  const Unseen unseen;
  for (const auto& block : l->blocks) {
    for (Thread& t : block->threads) {
      if (!t.exited) {
        release_as(t.fiber->tsan, &l->ended);  // what the thread did was before what the test does next
        release_as(t.fiber->tsan_copies, &l->ended);
        t.fiber->abandon();
      }
      pool.give_back(t.fiber);
    }
  }
  l->blocks.clear();
}

void run_blocks(Launch* l) {
  begin_blocks(l);
  while (!l->blocks.empty()) {
    l->running = l->pick();
    if (l->running == nullptr) {
      std::snprintf(l->failure.finding, sizeof l->failure.finding, "deadlock");
      l->failure.waiting = true;
      return;
    }
    switch_to(&l->main, l->running->fiber);
    l->running = nullptr;
    if (l->failure.finding[0] != '\0' || !end_blocks(l)) return;
    begin_blocks(l);
  }
}

void check(const Grid& grid, const Options& options) {
  const auto require = [](bool ok, const char* what) {
    if (!ok) throw Error(std::string("launch: ") + what);
  };
  require(launched == nullptr, "kernels launch no kernels");
  require(grid.blocks > 0, "no block");
  require(grid.threads > 0 && grid.threads <= kMostThreads && grid.threads % kWarp == 0,
          "a block has 32, 64, ... 1024 threads");
  require(grid.shared_bytes >= 0 && grid.shared_bytes <= kMostShared, "a block has at most 227 KiB of shared memory");
  require(options.resident > 0, "no block is resident");
}

}  // namespace

void run(const Grid& grid, const Options& options, void (*entry)(void*), void* argument) {
  check(grid, options);
  Launch l(grid, options, entry, argument);
  for (int b = grid.blocks; b-- > 0;) l.blocks_left.push_back(b);
  if (options.shuffle_blocks) {
    for (std::size_t i = l.blocks_left.size(); i > 1; --i) {
      std::swap(l.blocks_left[i - 1], l.blocks_left[l.random() % i]);
    }
  }
  if (has_tsan()) l.main.tsan = __tsan_get_current_fiber();
  launched = &l;
  run_blocks(&l);
  const std::string wrong = l.failure.finding[0] != '\0' ? message(l) : "";
  abandon_blocks(&l);
  launched = nullptr;
  l.ended.acquire();
  last_statistics = l.statistics;
  if (!wrong.empty()) throw Error(wrong);
}

}  // namespace detail

Statistics statistics() { return detail::last_statistics; }

}  // namespace simt
