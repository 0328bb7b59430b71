// SPDX-License-Identifier: Apache-2.0
#include "support/ceilings.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <utility>

#include "support/machine.hpp"
#include "support/quiet.hpp"

namespace prefixshare::bench {
namespace {

constexpr std::int64_t kMebibyte = 1 << 20;
constexpr std::int64_t kSmallestSlice = 256 << 10;  // of a thread: well inside a second-level cache
constexpr std::int64_t kAssumedL2 = kMebibyte;      // where the system does not say
constexpr std::int64_t kAssumedL3 = 64 * kMebibyte;
constexpr double kBurst = 4e-3;  // seconds: much longer than waking a thread

/// Seconds of task(part) on every thread of the team.
template <class Task>
double seconds_of(const Executor& team, Task&& task) {
  const CpuTimes::Clock::time_point begin = CpuTimes::Clock::now();
  if (team.parallel_for == nullptr) {
    task(0);
  } else {
    const auto run = [](void* t, std::int32_t part) { (*static_cast<std::remove_reference_t<Task>*>(t))(part); };
    team.parallel_for(team.user, team.concurrency, run, &task);
  }
  return std::chrono::duration<double>(CpuTimes::Clock::now() - begin).count();
}

/// The best rate per second, over the team, of burst(part, count) that does `amount` of something `count` times. The
/// count grows until a burst would be long at the best rate so far: one that others interrupt only looks long.
template <class Burst>
double best_rate(const Executor& team, double seconds, double amount, const Burst& burst) {
  std::int64_t count = 1;
  double best = 0;
  for (double spent = 0; spent < seconds;) {
    const double done = amount * static_cast<double>(count * team.concurrency);
    const double t = seconds_of(team, [&](std::int32_t part) { burst(part, count); });
    best = std::max(best, done / t);
    if (done < kBurst * best) {
      count *= 2;
    } else {
      spent += t;
    }
  }
  return best;
}

/// The widest loop of reads that this machine runs.
Bursts widest_reader(Way way) {
  Bursts widest;
  for (const Bursts& b : all_bursts(way)) {
    if (b.usable && b.read != nullptr) widest = b;
  }
  return widest;
}

/// Floats of each thread's slice of a working set: an odd number of the readers' steps, since streams a power of two
/// apart would meet in one bank of memory (on Zen 4 a thread reads 27 GB/s instead of 34).
std::int64_t slice_floats(std::int64_t bytes, const Executor& team) {
  const std::int64_t step = Bursts::kReadStep * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t steps = std::max<std::int64_t>(bytes / team.concurrency / step, 1);
  return (steps % 2 == 1 ? steps : steps - 1) * Bursts::kReadStep;
}

double measure_read(const Executor& team, const Buffer& memory, std::int64_t working_set, double seconds, Way way) {
  const Bursts reader = widest_reader(way);
  const std::int64_t floats = slice_floats(working_set, team), apart = slice_floats(memory.bytes(), team);
  return best_rate(team, seconds, static_cast<double>(floats) * sizeof(float),
                   [&](std::int32_t part, std::int64_t count) {
                     const float* from = memory.as<float>() + part * apart;
                     for (std::int64_t n = 0; n < count; ++n) reader.read(from, floats);
                   });
}

/// The rate that two neighbouring working sets hold, beyond the second-level caches and short of memory.
double plateau(const std::vector<ReadRate>& reads, std::int64_t l2_bytes) {
  double best = 0;
  for (std::size_t i = 0; i + 2 < reads.size(); ++i) {
    if (reads[i].working_set >= 2 * l2_bytes) best = std::max(best, std::min(reads[i].rate, reads[i + 1].rate));
  }
  return best;
}

void measure_reads(const Executor& team, const Buffer& memory, double seconds, Way way, Ceilings* c) {
  const std::int64_t l2 = cache_bytes(2) > 0 ? cache_bytes(2) : kAssumedL2;
  c->reads.clear();
  for (std::int64_t s = kSmallestSlice * team.concurrency; s <= memory.bytes() / 4; s *= 2) {
    c->reads.push_back({s, measure_read(team, memory, s, seconds, way)});
  }
  c->reads.push_back({memory.bytes(), measure_read(team, memory, memory.bytes(), seconds, way)});
  c->l2_read = measure_read(team, memory, l2 / 2 * team.concurrency, seconds, way);
  c->cache_read = plateau(c->reads, l2 * team.concurrency);
}

using CopyLoop = void (*)(const float* from, float* to, std::int64_t floats);

void copy_by_library(const float* from, float* to, std::int64_t floats) {
  std::memcpy(to, from, static_cast<std::size_t>(floats) * sizeof(float));
}

#if defined(__x86_64__)
/// Past the caches, in so many streams.
template <std::int64_t Streams>
void copy_past_caches(const float* from, float* to, std::int64_t floats) {
  const std::int64_t apart = floats / Streams;
  for (std::int64_t i = 0; i < apart; i += 16) {
    for (std::int64_t s = i; s < floats; s += apart) {
      for (std::int64_t k = s; k < s + 16; k += 4) _mm_stream_ps(to + k, _mm_loadu_ps(from + k));
    }
  }
  _mm_sfence();
}

/// The CPU's own loop.
void copy_by_string(const float* from, float* to, std::int64_t floats) {
  std::int64_t bytes = floats * static_cast<std::int64_t>(sizeof(float));
  asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(bytes) : : "memory");
}
#endif

void measure_copies(const Executor& team, const Buffer& memory, double seconds, Way way, Ceilings* c) {
  const std::int64_t floats = slice_floats(memory.bytes() / 2, team);
  const auto measure = [&](CopyLoop copy) {
    return best_rate(team, seconds, 2.0 * static_cast<double>(floats) * sizeof(float),
                     [&](std::int32_t part, std::int64_t count) {
                       float* to = memory.as<float>() + 2 * part * floats;
                       for (std::int64_t n = 0; n < count; ++n) copy(to + floats, to, floats);
                     });
  };
  const bool first = way == Way::registers;
#if defined(__x86_64__)
  c->copy = measure(first ? copy_by_library : copy_by_string);
  c->stream_copy = measure(first ? copy_past_caches<2> : copy_past_caches<1>);
#else
  if (first) c->copy = measure(copy_by_library);  // there is no other way
#endif
}

void measure_arithmetic(const Executor& team, double seconds, Way way, Ceilings* c) {
  c->arithmetic.clear();
  for (const Bursts& b : all_bursts(way)) {
    ArithmeticRate r{b.name, b.usable, b.storage};
    const auto rate = [&](double amount, void (*burst)(std::int64_t)) {
      return best_rate(team, seconds, amount, [&](std::int32_t, std::int64_t count) { burst(count); });
    };
    if (b.usable) r.flops = rate(2.0 * static_cast<double>(b.multiply_adds), b.multiply);
    if (b.usable && b.exponentials != nullptr) r.exponentials = rate(Bursts::kExponentials, b.exponentials);
    c->arithmetic.push_back(r);
  }
}

}  // namespace

Scratch::Scratch()
    : cache_bytes_(cache_bytes(3) > 0 ? cache_bytes(3) : kAssumedL3),
      memory_(std::clamp(4 * cache_bytes_, 512 * kMebibyte, 2048 * kMebibyte)) {}

void Scratch::flush(const Executor& team) const {
  const Bursts reader = widest_reader(Way::registers);
  const std::int64_t floats = slice_floats(std::min(2 * cache_bytes_ * team.concurrency, memory_.bytes()), team);
  seconds_of(team, [&](std::int32_t part) { reader.read(memory_.as<float>() + part * floats, floats); });
}

double Ceilings::read_rate(double working_set) const {
  double best = memory_read();
  for (const ReadRate& r : reads) {
    if (static_cast<double>(r.working_set) >= working_set) best = std::max(best, r.rate);
  }
  return best;
}

double Ceilings::flops(DType storage) const {
  double best = 0;
  for (const ArithmeticRate& r : arithmetic) {
    if (r.storage == DType::f32 || r.storage == storage) best = std::max(best, r.flops);
  }
  return best;
}

double Ceilings::exponentials() const {
  double best = 0;
  for (const ArithmeticRate& r : arithmetic) best = std::max(best, r.exponentials);
  return best;
}

Ceilings measure_ceilings(const Executor& team, const Scratch& scratch, double seconds, Way way) {
  Ceilings c;
  c.threads = team.concurrency;
  const auto group = [&](const auto& measure) {
    const Observed<Ceilings> observed = quietly([&] {
      Ceilings measured = c;
      measure(&measured);
      return measured;
    });
    const double busy = std::max(c.busy, observed.busy);
    c = observed.result;
    c.busy = busy;
  };
  group([&](Ceilings* to) { measure_reads(team, scratch.memory(), seconds, way, to); });
  group([&](Ceilings* to) { measure_copies(team, scratch.memory(), seconds, way, to); });
  group([&](Ceilings* to) { measure_arithmetic(team, seconds, way, to); });
  return c;
}

std::vector<CeilingPair> pair_ceilings(const Ceilings& first, const Ceilings& second) {
  std::vector<CeilingPair> pairs;
  const auto add = [&](const std::string& name, double a, double b) {
    if (a > 0 && b > 0) pairs.push_back({name, a, b});
  };
  add("read, memory", first.memory_read(), second.memory_read());
  add("read, last-level cache", first.cache_read, second.cache_read);
  add("read, L2", first.l2_read, second.l2_read);
  // The better of two loops each: some memcpy fetches what it overwrites, others do not.
  add("copy, read + written", std::max(first.copy, first.stream_copy), std::max(second.copy, second.stream_copy));
  for (std::size_t i = 0; i < first.arithmetic.size(); ++i) {
    const ArithmeticRate &a = first.arithmetic[i], &b = second.arithmetic[i];
    add(std::string(to_string(a.storage)) + " products, " + a.name, a.flops, b.flops);
    add("exp, " + a.name, a.exponentials, b.exponentials);
  }
  return pairs;
}

Floor floor_of(const Work& work, const Ceilings& ceilings) {
  const double memory = work.cold ? work.distinct_bytes / ceilings.memory_read() : 0;
  const std::pair<double, const char*> resources[] = {
      {memory, "memory"},
      {work.bytes / ceilings.read_rate(work.distinct_bytes), "reads of the working set"},
      {work.flops / ceilings.flops(work.storage), "FLOPs"},
      {work.exponentials / ceilings.exponentials(), "exponentials"}};
  const auto [seconds, bound] = *std::max_element(std::begin(resources), std::end(resources));
  return {seconds, bound};
}

}  // namespace prefixshare::bench
