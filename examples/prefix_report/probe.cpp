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

/// Runs `rounds` x 8 instructions; returns the multiply-adds of one.
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

__attribute__((target("avx512f,avx512bf16"))) int multiply_adds_dot(std::int64_t rounds) {
  const __m512bh ones = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80));
  __m512 x[8];
  for (__m512& v : x) v = _mm512_setzero_ps();
  for (std::int64_t r = 0; r < rounds; ++r) {
    for (__m512& v : x) v = _mm512_dpbf16_ps(v, ones, ones);
  }
  float first = 0;
  for (const __m512& v : x) first += _mm512_cvtss_f32(v);
  sink += static_cast<std::uint64_t>(first);
  return 32;
}

/// Of ones: zeros would draw less power, and the clock stay higher than with any real data.
__attribute__((target("amx-tile,amx-bf16"))) int multiply_adds_tiles(std::int64_t rounds) {
  struct {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } const shapes;
  static_assert(sizeof shapes == 64);
  const std::vector<std::uint16_t> ones(16 * 32, 0x3f80);
  asm volatile("ldtilecfg %0" : : "m"(shapes));
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones.data(), 64);
  _tile_loadd(5, ones.data(), 64);
  for (std::int64_t r = 0; r < 2 * rounds; ++r) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_release();
  return 16 * 16 * 32;
}
#endif

/// Whether an implementation would run a layer on this machine.
bool runs(const prefixshare::Context& context, const prefixshare::LayerKind& kind, const char* name) {
  prefixshare::AttentionProblem problem;
  problem.kind = kind;
  for (const prefixshare::Verdict& v : explain(context.tree_attention, problem)) {
    if (v.name == name) return v.status.ok();
  }
  return false;
}

/// What may be the fastest on this machine.
std::vector<MultiplyAdds> ways_to_multiply(const prefixshare::Context& context, const prefixshare::LayerKind& kind) {
  std::vector<MultiplyAdds> ways;
#if defined(__x86_64__)
  if (runs(context, kind, "cpu:amx-bf16")) ways.push_back(multiply_adds_tiles);
  if (runs(context, kind, "cpu:avx512-bf16")) ways.push_back(multiply_adds_dot);
  if (__builtin_cpu_supports("avx512f")) {
    ways.push_back(multiply_adds_avx512);
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    ways.push_back(multiply_adds_avx2);
  }
#endif
  if (ways.empty()) ways.push_back(multiply_adds_portable);
  return ways;
}

double measure_flops(const prefixshare::Executor& executor, const std::vector<MultiplyAdds>& ways) {
  double most = 0;
  for (const MultiplyAdds run : ways) {
    const double each = 2.0 * 8 * run(0) * static_cast<double>(kRounds) * executor.concurrency;
    const double seconds = best_seconds([&] {
      parallel_ranges(executor, kRounds * executor.concurrency,
                      [&](std::int64_t begin, std::int64_t end) { run(end - begin); });
    });
    most = std::max(most, each / seconds);
  }
  return most;
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

Ceilings measure_ceilings(const prefixshare::Context& context, const prefixshare::LayerKind& kind) {
  return {measure_bandwidth(context.executor), measure_flops(context.executor, ways_to_multiply(context, kind))};
}

}  // namespace prefix_report
