// SPDX-License-Identifier: Apache-2.0
// The machine: blocks, warps and threads of a launch, who runs next, and what is wrong.
#include "simt/simt.hpp"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "simt/fiber.hpp"
#include "simt/models.hpp"
#include "simt/sanitizers.hpp"

namespace simt {

namespace {

using detail::Fiber;
using detail::MatrixLane;
using detail::MultiplyLane;
using detail::Token;
using detail::Unseen;

constexpr int kWarp = 32;
constexpr std::uint32_t kAllLanes = 0xffffffffu;
constexpr int kMostThreads = 1024;
constexpr int kMostShared = 227 * 1024;  // of a block, sm_90
constexpr int kBarriers = 16;
constexpr int kMostGroups = 64;  // of copies, in flight in one thread

struct Block;
struct Warp;

bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

/// What a thread does, or waits in, and where its kernel says so.
struct Act {
  const char* what;
  Here here;
};
bool same(const Act& a, const Act& b) {
  return a.here.line == b.here.line && same(a.here.file, b.here.file) && same(a.what, b.what);
}

struct Copy {
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

/// A block's shared memory: full of NaN, with bounds of its own.
class Window {
 public:
  Window(int bytes, bool misalign) : bytes_(static_cast<std::size_t>(bytes)), before_(misalign ? 128 : 0) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 1024, before_ + bytes_ + kBehind) != 0) throw std::bad_alloc();
    memory_ = static_cast<unsigned char*>(memory);
    std::memset(memory_, 0xff, before_ + bytes_ + kBehind);
    detail::poison(memory_, before_);
    detail::poison(begin() + bytes_, kBehind);
  }
  ~Window() {
    detail::unpoison(memory_, before_ + bytes_ + kBehind);
    std::free(memory_);
  }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  unsigned char* begin() const { return memory_ + before_; }
  std::size_t bytes() const { return bytes_; }
  bool contains(const void* p, std::size_t n) const {
    const auto address = reinterpret_cast<std::uintptr_t>(p), first = reinterpret_cast<std::uintptr_t>(begin());
    return address >= first && address + n <= first + bytes_;
  }
  /// The bytes are no kernel's any more. Every thread may say so.
  void guard(void* p, std::size_t n) {
    for (const Guard& g : guards_) {
      if (g.p == p && g.bytes == n) return;
    }
    guards_.push_back({static_cast<unsigned char*>(p), n});
    std::memset(p, 0xff, n);
    detail::poison(p, n);
  }
  bool guarded(const unsigned char* p, std::size_t n) const {
    for (const Guard& g : guards_) {
      if (p < g.p + g.bytes && g.p < p + n) return true;
    }
    return false;
  }
  /// What was written that should not have been, or null.
  const char* damage() {
    detail::unpoison(memory_, before_ + bytes_ + kBehind);
    if (!untouched(memory_, before_)) return "before its begin";
    if (!untouched(begin() + bytes_, kBehind)) return "behind its end";
    for (const Guard& g : guards_) {
      if (!untouched(g.p, g.bytes)) return "in a guarded gap";
    }
    return nullptr;
  }

 private:
  struct Guard {
    unsigned char* p;
    std::size_t bytes;
  };
  static constexpr std::size_t kBehind = 1024;  // a write that goes further may hit anything

  static bool untouched(const unsigned char* p, std::size_t n) {
    return std::all_of(p, p + n, [](unsigned char byte) { return byte == 0xff; });
  }

  std::size_t bytes_, before_;
  unsigned char* memory_ = nullptr;
  std::vector<Guard> guards_;
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
  Window shared;
  Token begin;

  bool done() const { return exited == static_cast<int>(threads.size()); }
};

/// Stacks that wait to be used again.
struct Pool {
  std::vector<std::unique_ptr<Fiber>> fibers;

  Fiber* take(std::uint64_t random) {
    if (fibers.empty()) return new Fiber;
    // ThreadSanitizer takes what ran on one stack for one thread, and misses races within it: which ones, the seed
    // says.
    if (detail::has_tsan()) std::swap(fibers[static_cast<std::size_t>(random % fibers.size())], fibers.back());
    Fiber* const fiber = fibers.back().release();
    fibers.pop_back();
    return fiber;
  }
  void give_back(Fiber* fiber) { fibers.emplace_back(fiber); }
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

  Thread* pick();
  Warp* next_warp();
  std::uint64_t random();

  Grid grid;
  Options options;
  void (*entry)(void*);
  void* argument;

  detail::Context main;
  std::vector<int> blocks_left;  // the last one is the next
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<Warp*> warps;  // of these blocks
  std::size_t current = 0;   // warp
  Thread* running = nullptr;
  Failure failure;
  Token ended;
  std::int64_t polls = 0;
  std::uint64_t random_state;
  Statistics statistics;
};

thread_local Launch* launched = nullptr;
thread_local Statistics last_statistics;
thread_local Pool pool;

Thread& self() { return *launched->running; }

// ---- What is wrong

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

/// Ends the launch because of what the running thread does. The stacks of all threads stay as they are.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(const Act& act, const char* format, ...) {
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
  detail::switch_to(l.running->fiber, &l.main);
  std::abort();  // nobody comes back
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

int lowest(std::uint32_t mask) { return __builtin_ctz(mask); }
int highest(std::uint32_t mask) { return 31 - __builtin_clz(mask); }

/// A thread that can go on; it then runs. Who polls goes on when nobody else can. Null if all wait.
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

/// The running thread has said what it waits for, and others go on.
void suspend() {
  Launch& l = *launched;
  Thread* const left = l.running;
  Thread* const next = l.pick();
  if (next == left) return;
  l.running = next;
  detail::switch_to(left->fiber, next != nullptr ? static_cast<detail::Context*>(next->fiber) : &l.main);
}

/// The running thread may go on, but others may be first. In forward order they are not.
void yield() {
  if (launched->options.order == Order::forward) return;
  self().warp->ready |= self().bit();
  suspend();
}

// ---- Copies

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
    if (!copy.done && launched->random() % 2 == 0) land(&copy);
  }
}

/// To ThreadSanitizer a copy is the work of somebody else, who has seen what the thread has, and whose writes the
/// thread sees when it has waited for the group.
void show_copy(Thread* thread, const Copy& copy, void* caller) {
  if (!detail::has_tsan()) return;
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
  if (barrier.arrived > 0 && !same(barrier.act, act)) {
    fail(act, "%d threads wait in %s at %s:%d", barrier.arrived, barrier.act.what, barrier.act.here.file,
         barrier.act.here.line);
  }
  return meet(&barrier, act, static_cast<int>(block.threads.size()), value);
}

/// All lanes of the warp bring their part; the last one does the work for all of them.
template <class Part, class Work>
void meet_warp(const Act& act, Part* part, const Work& work) {
  Thread* const me = &self();
  Warp& warp = *me->warp;
  if (warp.alive != kAllLanes) fail(act, "%d lanes of the warp have exited", 32 - __builtin_popcount(warp.alive));
  if (warp.met == 0) warp.meeting = act;
  if (!same(warp.meeting, act)) {
    fail(act, "the warp is divergent: %d of its lanes wait in %s at %s:%d", __builtin_popcount(warp.met),
         warp.meeting.what, warp.meeting.here.file, warp.meeting.here.line);
  }
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

// ---- Blocks

void finish(Thread* thread) {
  Launch& l = *launched;
  Block& block = *thread->block;
  Warp& warp = *thread->warp;
  const Act exit = {"exit", {"", 0}};
  if (!thread->copies.empty()) {
    const Copy& copy = thread->copies.front();
    fail(exit, "it has not waited for copy_async at %s:%d", copy.here.file, copy.here.line);
  }
  if (warp.met != 0) {
    fail(exit, "lanes of its warp wait in %s at %s:%d", warp.meeting.what, warp.meeting.here.file,
         warp.meeting.here.line);
  }
  const Barrier& barrier = block.barriers[0];
  if (barrier.arrived > 0) {
    fail(exit, "%d threads wait in %s at %s:%d", barrier.arrived, barrier.act.what, barrier.act.here.file,
         barrier.act.here.line);
  }
  thread->exited = true;
  warp.alive &= ~thread->bit();
  ++block.exited;
  l.polls = 0;
  l.ended.release();
  if (block.done()) {
    l.running = nullptr;
    detail::switch_to(thread->fiber, &l.main);
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
  void* const self = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(thread, 1);
  token->release();
  __tsan_switch_to_fiber(self, 1);
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
    detail::switch_to(&l->main, l->running->fiber);
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

Statistics statistics() { return last_statistics; }

void detail::run(const Grid& grid, const Options& options, void (*entry)(void*), void* argument) {
  check(grid, options);
  Launch l(grid, options, entry, argument);
  for (int b = grid.blocks; b-- > 0;) l.blocks_left.push_back(b);
  if (options.shuffle_blocks) {
    for (std::size_t i = l.blocks_left.size(); i > 1; --i)
      std::swap(l.blocks_left[i - 1], l.blocks_left[l.random() % i]);
  }
  if (detail::has_tsan()) l.main.tsan = __tsan_get_current_fiber();
  launched = &l;
  run_blocks(&l);
  const std::string wrong = l.failure.finding[0] != '\0' ? message(l) : "";
  abandon_blocks(&l);
  launched = nullptr;
  l.ended.acquire();
  last_statistics = l.statistics;
  if (!wrong.empty()) throw Error(wrong);
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
  Copy copy = {shared, global, bytes, t.group, here, false};
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
    if (copy.group < end && !copy.done) land(&copy);
  }
  const auto waited = [&](const Copy& copy) { return copy.group < end; };
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
