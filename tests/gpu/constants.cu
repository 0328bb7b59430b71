// SPDX-License-Identifier: Apache-2.0
// Constants of the device: what it can do. Rates are the best of several bursts, each a ceiling; latencies are medians.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gpu/burst.hpp"
#include "gpu/constants.hpp"
#include "gpu/constants_kernels.cuh"
#include "gpu/device.hpp"
#include "gpu/harness/clock.hpp"
#include "gpu/launch.cuh"

namespace prefixshare::gpu {
namespace {

constexpr std::int64_t kMebibyte = std::int64_t{1} << 20;

/// The rate of something of which a launch does `amount`.
Result rate(const char* unit, double amount, const Times& times) {
  Result r;
  r.figures.add("rate", amount / times.minimum()).add("unit", unit).add("median", amount / times.median());
  r.figures.add("us", 1e6 * times.minimum());
  return r;
}
Result latency(const Times& times, double per) {
  Result r;
  r.figures.add("us", 1e6 * times.median() / per).add("minimum_us", 1e6 * times.minimum() / per);
  return r;
}

DeviceBuffer zeros(std::int64_t bytes) {
  DeviceBuffer b(bytes);
  b.fill(0);
  return b;
}

// ---- Memory

Result copy_memory(bool quick) {
  const std::int64_t bytes = (quick ? 256 : 1024) * kMebibyte, words = bytes / 16;
  const DeviceBuffer from = zeros(bytes), to = zeros(bytes);
  const int blocks = static_cast<int>(multiprocessors()) * kReadBlocks * 4;
  return rate("B/s", 2.0 * static_cast<double>(bytes),
              burst_times(
                  [&](cudaStream_t s) {
                    launch(copy_words, {blocks, kReadThreads, 0, false, s}, from.as<ptx::Words4>(),
                           to.as<ptx::Words4>(), words);
                  },
                  quick));
}

/// Reads around a working set with so many blocks.
Result read_memory(std::int64_t working_set, int blocks, bool quick) {
  const DeviceBuffer from = zeros(working_set), never = zeros(4);
  // Far more than the launch takes, and the whole set where that is more.
  const std::int64_t each = std::max<std::int64_t>(working_set, 4 * kMebibyte * blocks / kReadBlocks) / 16;
  const std::int64_t threads = std::int64_t{blocks} * kReadThreads;
  const int loads = static_cast<int>((each / threads + kReadAhead) / kReadAhead * kReadAhead);
  Result r = rate("B/s", 16.0 * static_cast<double>(threads) * loads,
                  burst_times(
                      [&](cudaStream_t s) {
                        launch(read_words, {blocks, kReadThreads, 0, false, s}, from.as<ptx::Float4>(),
                               working_set / 16, loads, never.as<float>());
                      },
                      quick));
  r.figures.add("working_set", working_set).add("blocks", blocks);
  return r;
}

void add_memory(bool quick, std::vector<Case>* cases) {
  const auto blocks_of = [](std::int64_t processors) { return static_cast<int>(processors) * kReadBlocks; };
  cases->push_back({"copy/memory", [=] { return copy_memory(quick); }});
  for (std::int64_t mebibytes = 1; mebibytes <= (quick ? 512 : 4096); mebibytes *= 2) {
    cases->push_back({"read/" + std::to_string(mebibytes) + " MiB",
                      [=] { return read_memory(mebibytes * kMebibyte, blocks_of(multiprocessors()), quick); }});
  }
  // The share of the device that the memory, and L2, need; one multiprocessor alone is what merges a group of rows.
  for (const int percent : {0, 25, 50, 75}) {
    const auto blocks = [=] { return blocks_of(std::max<std::int64_t>(1, multiprocessors() * percent / 100)); };
    const std::string part = percent == 0 ? "one" : std::to_string(percent) + "%";
    cases->push_back({"read/L2 by " + part, [=] { return read_memory(8 * kMebibyte, blocks(), quick); }});
    cases->push_back({"read/memory by " + part, [=] { return read_memory(1024 * kMebibyte, blocks(), quick); }});
  }
}

/// Pages of a pool in random order; page_size 0: one page.
Result gather(int page_size, bool quick) {
  constexpr int kHeads = 8;
  const int tokens = quick ? 1 << 17 : 1 << 19, size = page_size > 0 ? page_size : tokens;
  int page_bits = 0;
  while (1 << page_bits < size) ++page_bits;
  std::vector<std::int32_t> pages(static_cast<std::size_t>(tokens / size));
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::minstd_rand(7));
  const std::int64_t bytes = std::int64_t{tokens} * kHeads * kGatherRowBytes;
  const DeviceBuffer pool = zeros(bytes), never = zeros(4);
  DeviceBuffer list(static_cast<std::int64_t>(pages.size() * sizeof pages[0]));
  list.write(pages.data(), list.bytes());
  const int blocks = static_cast<int>(multiprocessors() * 2 / kHeads) * kHeads;
  check(cudaFuncSetAttribute(gather_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, kGatherBytes),
        "cudaFuncSetAttribute");
  Result r = rate("B/s", static_cast<double>(bytes),
                  burst_times(
                      [&](cudaStream_t s) {
                        launch(gather_rows, {blocks, kGatherThreads, kGatherBytes, false, s}, pool.as<unsigned char>(),
                               list.as<std::int32_t>(), page_bits, tokens / kGatherTokens, kHeads, never.as<float>());
                      },
                      quick));
  r.figures.add("page_size", page_size);
  return r;
}

// ---- Arithmetic

template <class T>
Result products(int warps, bool quick) {
  constexpr int kRounds = 1 << 13;
  const DeviceBuffer never = zeros(4);
  const int blocks = static_cast<int>(multiprocessors()) * warps / 4;
  const double flops = static_cast<double>(kProductFlops * kProductChains) * kRounds * blocks * 4;
  return rate("FLOP/s", flops,
              burst_times(
                  [&](cudaStream_t s) {
                    launch(multiply_words<T>, {blocks, 128, 0, false, s}, kRounds, never.as<float>());
                  },
                  quick));
}

Result exponential_rate(bool quick) {
  constexpr int kRounds = 1 << 12;
  const DeviceBuffer never = zeros(4);
  const int blocks = static_cast<int>(multiprocessors()) * 4;
  const double count = 1.0 * kRounds * kExponentialChains * blocks * 256;
  return rate("1/s", count,
              burst_times(
                  [&](cudaStream_t s) {
                    launch(exponentials, {blocks, 256, 0, false, s}, kRounds, never.as<float>());
                  },
                  quick));
}

// ---- Launches

void empty_kernels(cudaStream_t stream, int count, bool overlap) {
  for (int n = 0; n < count; ++n) {
    launch(overlap ? overlapped_nothing : nothing, {static_cast<int>(multiprocessors()), 128, 0, overlap, stream});
  }
}

/// What one more kernel takes in a graph that is a chain of them.
Result gap_in_graph(bool overlap, bool quick) {
  constexpr int kShort = 32, kLong = 160;
  const CudaStream stream;
  const auto time = [&](int count) {
    const Graph graph(stream, [&](cudaStream_t s) { empty_kernels(s, count, overlap); });
    return burst_times([&](cudaStream_t s) { graph.launch(s); }, quick).median();
  };
  return latency(Times({time(kLong) - time(kShort)}), kLong - kShort);
}

Result launch_gap(bool quick) {
  return latency(burst_times([](cudaStream_t s) { empty_kernels(s, 1, false); }, quick), 1);
}

/// From the call to the end of one empty kernel, as the host sees it.
Result round_trip(bool graph_replay, bool quick) {
  const CudaStream stream;
  const Graph graph(stream, [](cudaStream_t s) { empty_kernels(s, 1, false); });
  std::vector<double> times;
  for (int n = 0; n < (quick ? 50 : 500); ++n) {
    const Clock::time_point begin = Clock::now();
    graph_replay ? graph.launch(stream) : empty_kernels(stream, 1, false);
    stream.wait();
    times.push_back(seconds_since(begin));
  }
  return latency(Times(times), 1);
}

/// A pinned copy to the device, as a plan is uploaded: stream time.
Result upload_time(std::int64_t bytes, bool quick) {
  void* host = nullptr;
  check(cudaMallocHost(&host, static_cast<std::size_t>(bytes)), "cudaMallocHost");
  const DeviceBuffer device(bytes);
  Result r = latency(
      burst_times(
          [&](cudaStream_t s) {
            check(cudaMemcpyAsync(device.as<void>(), host, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, s),
                  "cudaMemcpyAsync");
          },
          quick),
      1);
  cudaFreeHost(host);
  return r;
}

// ---- Arrivals

Result arrivals(bool shared_counter, bool all_blocks, bool quick) {
  constexpr int kRounds = 1 << 10;
  const int blocks = all_blocks ? static_cast<int>(multiprocessors()) : 1, apart = shared_counter ? 0 : 32;
  const DeviceBuffer counters = zeros(blocks * 32 * 4);
  return latency(burst_times(
                     [&](cudaStream_t s) {
                       launch(arrive_often, {blocks, 32, 0, false, s}, counters.as<int>(), apart, kRounds);
                     },
                     quick),
                 kRounds);
}

Result partial_states(bool quick) {
  constexpr int kRounds = 1 << 6;
  const int blocks = static_cast<int>(multiprocessors());
  const DeviceBuffer partials = zeros(std::int64_t{blocks} * kPartialFloats * 4), counters = zeros(blocks * 4);
  return latency(
      burst_times(
          [&](cudaStream_t s) {
            launch(write_and_arrive, {blocks, 128, 0, false, s}, partials.as<float>(), counters.as<int>(), kRounds);
          },
          quick),
      kRounds);
}

}  // namespace

void add_device_constants(bool quick, std::vector<Case>* to) {
  std::vector<Case>& cases = *to;
  add_memory(quick, &cases);
  for (const int page : {1, 2, 4, 8, 16, 32, 64, 0}) {
    const std::string name = page == 0 ? "contiguous" : "page:" + std::to_string(page);
    cases.push_back({"gather/" + name, [=] { return gather(page, quick); }});
  }
  for (const int warps : {4, 8, 16}) {
    const std::string name = "/warps:" + std::to_string(warps);
    cases.push_back({"products/bf16" + name, [=] { return products<BFloat16>(warps, quick); }});
    cases.push_back({"products/f16" + name, [=] { return products<Float16>(warps, quick); }});
  }
  cases.push_back({"exponentials/ex2", [=] { return exponential_rate(quick); }});
  cases.push_back({"launch/stream", [=] { return launch_gap(quick); }});
  cases.push_back({"launch/graph gap", [=] { return gap_in_graph(false, quick); }});
  cases.push_back({"launch/graph gap, overlapped", [=] { return gap_in_graph(true, quick); }});
  cases.push_back({"launch/round trip", [=] { return round_trip(false, quick); }});
  cases.push_back({"launch/round trip of a graph", [=] { return round_trip(true, quick); }});
  for (const std::int64_t kibibytes : {4, 64, 1024}) {
    cases.push_back(
        {"upload/" + std::to_string(kibibytes) + " KiB", [=] { return upload_time(kibibytes << 10, quick); }});
  }
  cases.push_back({"arrive/one block", [=] { return arrivals(false, false, quick); }});
  cases.push_back({"arrive/every block, own counter", [=] { return arrivals(false, true, quick); }});
  cases.push_back({"arrive/every block, one counter", [=] { return arrivals(true, true, quick); }});
  cases.push_back({"arrive/after a partial state of 64 rows", [=] { return partial_states(quick); }});
}

}  // namespace prefixshare::gpu
