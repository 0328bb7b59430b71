// SPDX-License-Identifier: Apache-2.0
#include "probe.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <vector>

#include "buffer.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace prefix_report {

namespace {

constexpr std::int64_t kRounds = 4'000'000;  // of 8 independent multiply-adds: enough to fill two units of latency 4
constexpr std::int64_t kWords = 32 << 20;    // 256 MiB, larger than the caches
constexpr int kTries = 3;

std::atomic<std::uint64_t> sink;  // keeps the results alive

template <class Run>
double best_seconds(const Run& run) {
  double best = INFINITY;
  for (int i = 0; i < kTries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

/// Runs `rounds` x 8 multiply-adds of a vector; returns the vector's width.
using MultiplyAdds = int (*)(std::int64_t rounds);

int multiply_adds_portable(std::int64_t rounds) {
  float x[32];
  for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(i);
  for (std::int64_t r = 0; r < rounds; ++r) {
    for (float& v : x) v = v * 0.999F + 0.001F;
  }
  float sum = 0;
  for (float v : x) sum += v;
  sink += static_cast<std::uint64_t>(sum);
  return 4;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) int multiply_adds_avx2(std::int64_t rounds) {
  const __m256 factor = _mm256_set1_ps(0.999F), term = _mm256_set1_ps(0.001F);
  __m256 x[8];
  for (__m256& v : x) v = term;
  for (std::int64_t r = 0; r < rounds; ++r) {
    for (__m256& v : x) v = _mm256_fmadd_ps(v, factor, term);
  }
  float first = 0;
  for (const __m256& v : x) first += _mm256_cvtss_f32(v);
  sink += static_cast<std::uint64_t>(first);
  return 8;
}

__attribute__((target("avx512f"))) int multiply_adds_avx512(std::int64_t rounds) {
  const __m512 factor = _mm512_set1_ps(0.999F), term = _mm512_set1_ps(0.001F);
  __m512 x[8];
  for (__m512& v : x) v = term;
  for (std::int64_t r = 0; r < rounds; ++r) {
    for (__m512& v : x) v = _mm512_fmadd_ps(v, factor, term);
  }
  float first = 0;
  for (const __m512& v : x) first += _mm512_cvtss_f32(v);
  sink += static_cast<std::uint64_t>(first);
  return 16;
}
#endif

MultiplyAdds widest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return multiply_adds_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return multiply_adds_avx2;
#endif
  return multiply_adds_portable;
}

double measure_flops(const prefixshare::Executor& executor) {
  const MultiplyAdds run = widest();
  const int width = run(0);
  const double seconds = best_seconds([&] {
    parallel_ranges(executor, kRounds * executor.concurrency,
                    [&](std::int64_t begin, std::int64_t end) { run(end - begin); });
  });
  return 2.0 * 8 * width * static_cast<double>(kRounds) * executor.concurrency / seconds;
}

double measure_bandwidth(const prefixshare::Executor& executor) {
  std::vector<std::uint64_t> memory(kWords, 1);
  const double seconds = best_seconds([&] {
    parallel_ranges(executor, kWords, [&](std::int64_t begin, std::int64_t end) {
      std::uint64_t sum = 0;
      for (std::int64_t i = begin; i < end; ++i) sum += memory[static_cast<std::size_t>(i)];
      sink += sum;
    });
  });
  return static_cast<double>(kWords) * 8 / seconds;
}

}  // namespace

Ceilings measure_ceilings(const prefixshare::Executor& executor) {
  return {measure_bandwidth(executor), measure_flops(executor)};
}

}  // namespace prefix_report
