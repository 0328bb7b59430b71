// SPDX-License-Identifier: Apache-2.0
// Kernels that do one thing as fast as the device can, or as attention does it: what floors and costs are made of.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/ptx.cuh"

namespace prefixshare::gpu {

inline constexpr int kReadThreads = 256;
inline constexpr int kReadBlocks = 4;  // of a multiprocessor: 128 KiB of reads in flight, twice what its memory needs
inline constexpr int kReadAhead = 8;

PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kReadThreads, kReadBlocks)
    copy_words(const ptx::Words4* from, ptx::Words4* to, std::int64_t count) {
  const std::int64_t step = std::int64_t{1} * ptx::blocks() * ptx::threads();
  std::int64_t at = std::int64_t{1} * ptx::block() * ptx::threads() + ptx::thread();
  for (; at + 3 * step < count; at += 4 * step) {
    ptx::Words4 words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = from[at + i * step];
#pragma unroll
    for (int i = 0; i < 4; ++i) to[at + i * step] = words[i];
  }
  for (; at < count; at += step) to[at] = from[at];
}

/// `loads` per thread, past L1, around and around in `count` words; the last step shifts a little so that a thread does
/// not meet the same word each time.
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kReadThreads, kReadBlocks)
    read_words(const ptx::Float4* from, std::int64_t count, int loads, float* never) {
  const std::int64_t threads = std::int64_t{1} * ptx::blocks() * ptx::threads();
  const std::int64_t step = (threads + 32) % count;
  std::int64_t at = (std::int64_t{1} * ptx::block() * ptx::threads() + ptx::thread()) % count;
  float sum = 0;
  for (int n = 0; n < loads; n += kReadAhead) {
    ptx::Float4 v[kReadAhead];
#pragma unroll
    for (int i = 0; i < kReadAhead; ++i) {
      v[i] = ptx::load_cached(from + at);
      at += step;
      if (at >= count) at -= count;
    }
#pragma unroll
    for (int i = 0; i < kReadAhead; ++i) sum += v[i].x + v[i].y + v[i].z + v[i].w;
  }
  if (sum == 1.0f) *never = sum;  // the memory is zero
}

inline constexpr int kProductChains = 8;  // independent sums of a warp, to cover the latency of the products
inline constexpr std::int64_t kProductFlops = 2 * 16 * 8 * 16;

/// Products of registers, of bounded values that are not all alike: power, too, is as in earnest.
template <class T>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(128, 1) multiply_words(int rounds, float* never) {
  std::uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = ptx::pack<T>(0.01f * static_cast<float>(ptx::lane() - 15 + i), 0.37f);
  for (int i = 0; i < 2; ++i) b[i] = ptx::pack<T>(0.02f * static_cast<float>(15 - ptx::lane() + i), -0.73f);
  float d[kProductChains][4] = {};
  for (int n = 0; n < rounds; ++n) {
#pragma unroll
    for (int i = 0; i < kProductChains; ++i) ptx::multiply_add<T>(d[i], a, b);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kProductChains; ++i) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
  if (sum == 1.2345f) *never = sum;
}

inline constexpr int kExponentialChains = 8;

PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(256, 4) exponentials(int rounds, float* never) {
  float x[kExponentialChains];
  for (int i = 0; i < kExponentialChains; ++i) x[i] = 0.01f * static_cast<float>(ptx::thread() + i);
  for (int n = 0; n < rounds; ++n) {
#pragma unroll
    for (int i = 0; i < kExponentialChains; ++i) x[i] = ptx::exp2(-x[i]);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kExponentialChains; ++i) sum += x[i];
  if (sum == 1.2345f) *never = sum;
}

inline constexpr int kGatherTokens = 64;     // of a tile
inline constexpr int kGatherRowBytes = 256;  // one head, D = 128, 16 bits
inline constexpr int kGatherStages = 3;
inline constexpr int kGatherThreads = 128;
inline constexpr int kGatherBytes = kGatherStages * kGatherTokens * kGatherRowBytes;

/// A pool of [pages, 2^page_bits, heads, 256 bytes] through a page list into shared memory, a tile of one head after
/// the other, as attention brings its keys: 16 bytes at a time, two tiles ahead, nothing done with them.
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kGatherThreads, 2)
    gather_rows(const unsigned char* pool, const std::int32_t* pages, int page_bits, int tiles, int heads,
                float* never) {
  constexpr int kPieces = kGatherRowBytes / 16, kRows = kGatherThreads / kPieces;
  unsigned char* shared = ptx::shared_memory();
  const int head = ptx::block() % heads, first = ptx::block() / heads, step = ptx::blocks() / heads;
  const int row = ptx::thread() / kPieces, piece = ptx::thread() % kPieces;
  const auto bring = [&](int tile, int stage) {
    for (int r = row; r < kGatherTokens && tile < tiles; r += kRows) {
      const int token = tile * kGatherTokens + r;
      const std::int64_t slot =
          (std::int64_t{pages[token >> page_bits]} << page_bits) + (token & ((1 << page_bits) - 1));
      ptx::copy_async(shared + (stage * kGatherTokens + r) * kGatherRowBytes + 16 * piece,
                      pool + (slot * heads + head) * kGatherRowBytes + 16 * piece);
    }
    ptx::copy_async_commit();
  };
  for (int s = 0; s < kGatherStages - 1; ++s) bring(first + s * step, s);
  float sum = 0;
  int stage = 0;
  for (int tile = first; tile < tiles; tile += step) {
    ptx::copy_async_wait<kGatherStages - 2>();
    ptx::sync_block();
    bring(tile + (kGatherStages - 1) * step, (stage + kGatherStages - 1) % kGatherStages);
    sum += reinterpret_cast<const float*>(shared)[stage * kGatherTokens * kGatherRowBytes / 4 + ptx::thread()];
    stage = (stage + 1) % kGatherStages;
  }
  ptx::copy_async_wait<0>();
  if (sum == 1.0f) *never = sum;
}

PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(128, 1) nothing() {}
/// Lets its successor start at once, and waits for its predecessor.
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(128, 1) overlapped_nothing() {
  ptx::launch_dependents();
  ptx::prerequisite_wait();
}

/// Every block arrives `rounds` times, at one counter for all or at its own.
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(32, 1) arrive_often(int* counters, int apart, int rounds) {
  if (ptx::thread() != 0) return;
  for (int n = 0; n < rounds; ++n) ptx::arrive(counters + ptx::block() * apart, 1 << 30);
}

/// A partial state of 64 rows x 129 floats, written, released and counted: what an item does that is not the last.
inline constexpr int kPartialFloats = 64 * 129;
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(128, 1) write_and_arrive(float* partials, int* counters, int rounds) {
  float* mine = partials + std::int64_t{1} * ptx::block() * kPartialFloats;
  for (int n = 0; n < rounds; ++n) {
    for (int i = ptx::thread(); i < kPartialFloats; i += ptx::threads()) mine[i] = static_cast<float>(n);
    ptx::fence();
    ptx::sync_block();
    if (ptx::thread() == 0) ptx::arrive(counters + ptx::block(), 1 << 30);
    ptx::sync_block();
  }
}

}  // namespace prefixshare::gpu
