// SPDX-License-Identifier: Apache-2.0
// Kernels with a bug each, and their right twins (Right = true). A mark names the line that the report must name.
#pragma once

#include "prefixshare/cuda/ptx.cuh"
#include "simt/simt.hpp"

namespace prefixshare::seeded {

inline float* shared_floats() { return reinterpret_cast<float*>(ptx::shared_memory()); }

/// Every thread reads what a thread of the next warp wrote.
template <bool Right>
PREFIXSHARE_GLOBAL void missing_sync(float* out) {
  float* const s = shared_floats();
  const int i = ptx::thread();
  s[i] = static_cast<float>(i);  // mark: missing_sync writes
  if constexpr (Right) ptx::sync_block();
  out[i] = s[(i + 32) % ptx::threads()];  // mark: missing_sync reads
}

/// The same within a warp, where shuffles order no memory.
template <bool Right>
PREFIXSHARE_GLOBAL void missing_sync_warp(float* out) {
  float* const s = shared_floats();
  const int i = ptx::thread();
  s[i] = ptx::shuffle(static_cast<float>(i), ptx::lane());  // mark: missing_sync_warp writes
  if constexpr (Right) {
    ptx::sync_warp();
  } else {
    ptx::ballot(true);
  }
  out[i] = s[i ^ 1];  // mark: missing_sync_warp reads
}

/// The last thread writes one element behind the window.
template <bool Right>
PREFIXSHARE_GLOBAL void overrun(float* out) {
  float* const s = shared_floats();
  const int i = ptx::thread();
  s[Right || i + 1 < ptx::threads() ? i : i + 1] = 1.0f;  // mark: overrun
  out[i] = 1.0f;
}

/// Loads matrices from one row too far.
template <bool Right>
PREFIXSHARE_GLOBAL void overrun_matrix(std::uint32_t* out) {
  float* const s = shared_floats();
  for (int i = ptx::thread(); i < 32 * 4; i += ptx::threads()) s[i] = 1.0f;
  ptx::sync_block();
  std::uint32_t r[4];
  ptx::load_matrix_x4(r, s + 4 * (Right ? ptx::lane() : ptx::lane() + 1));  // mark: overrun_matrix
  out[ptx::thread()] = r[0];
}

struct TwoBuffers {
  float first[32];
  unsigned char guard[64];
  float second[32];
};

/// The last lane writes one element behind the first of two buffers.
template <bool Right>
PREFIXSHARE_GLOBAL void overrun_buffer(float* out) {
  TwoBuffers& s = *reinterpret_cast<TwoBuffers*>(ptx::shared_memory());
  simt::smem_guard(s.guard, sizeof s.guard);
  const int i = ptx::lane();
  float* const first = reinterpret_cast<float*>(&s);  // which hides the array's bounds from the compiler
  first[Right || i < 31 ? i : i + 1] = 1.0f;          // mark: overrun_buffer
  s.second[i] = 2.0f;
  out[i] = s.second[i];
}

/// The last warp waits somewhere else.
PREFIXSHARE_GLOBAL inline void divergent_sync() {
  if (ptx::thread() < 96) {
    ptx::sync_block();  // mark: divergent_sync first
  } else {
    ptx::sync_block();  // mark: divergent_sync second
  }
}

/// The second warp has nothing to do and leaves, before or after the others come.
PREFIXSHARE_GLOBAL inline void exited_threads() {
  if (ptx::warp() == 1) return;
  ptx::sync_block();  // mark: exited_threads
}

/// Half of a warp shuffles; the other half goes on.
PREFIXSHARE_GLOBAL inline void half_warp(int* out) {
  int value = ptx::lane();
  if (ptx::lane() < 16) value = ptx::shuffle(value, 0);  // mark: half_warp shuffles
  ptx::sync_block();                                     // mark: half_warp syncs
  out[ptx::thread()] = value;
}

/// Halves of a warp in different instructions.
PREFIXSHARE_GLOBAL inline void divergent_warp(std::uint32_t* out) {
  if (ptx::lane() < 16) {
    out[ptx::thread()] = ptx::ballot(true);  // mark: divergent_warp first
  } else {
    out[ptx::thread()] = ptx::ballot(false);  // mark: divergent_warp second
  }
}

/// Two stages are copied; the first is used while the second may be on its way.
template <bool Right>
PREFIXSHARE_GLOBAL void weak_wait(const float* in, float* out) {
  float* const s = shared_floats();
  const int i = ptx::thread(), n = ptx::threads();
  for (int stage = 0; stage < 2; ++stage) {
    ptx::copy_async(s + 4 * (stage * n + i), in + 4 * (stage * n + i));  // mark: weak_wait copies
    ptx::copy_async_commit();
  }
  ptx::copy_async_wait<Right ? 1 : 2>();
  ptx::sync_block();
  const int other = (4 * i + 2 * n) % (4 * n);  // of a thread half the block away
  out[i] = s[other];                            // mark: weak_wait reads
  ptx::copy_async_wait<0>();
  ptx::sync_block();
  out[i] += s[4 * n + other];
}

/// Every thread has waited for its own copy, but reads another's.
template <bool Right>
PREFIXSHARE_GLOBAL void copy_without_sync(const float* in, float* out) {
  float* const s = shared_floats();
  const int i = ptx::thread(), n = ptx::threads();
  ptx::copy_async(s + 4 * i, in + 4 * i);  // mark: copy_without_sync copies
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
  if constexpr (Right) ptx::sync_block();
  out[i] = s[(4 * i + 4) % (4 * n)];  // mark: copy_without_sync reads
}

/// The buffer is filled again while others may still read it.
template <bool Right>
PREFIXSHARE_GLOBAL void early_refill(const float* in, float* out) {
  float* const s = shared_floats();
  const int i = ptx::thread(), n = ptx::threads();
  float sum = 0;
  for (int step = 0; step < 2; ++step) {
    ptx::copy_async(s + 4 * i, in + 4 * (step * n + i));  // mark: early_refill copies
    ptx::copy_async_commit();
    ptx::copy_async_wait<0>();
    ptx::sync_block();
    sum += s[(4 * i + 4 * 32) % (4 * n)];  // mark: early_refill reads
    if constexpr (Right) ptx::sync_block();
  }
  out[i] = sum;
}

PREFIXSHARE_GLOBAL inline void undrained(const float* in) {
  ptx::copy_async(ptx::shared_memory() + 16 * ptx::thread(), in);  // mark: undrained
  ptx::copy_async_commit();
}

/// One word for all blocks.
template <bool Right>
PREFIXSHARE_GLOBAL void shared_word(int* word) {
  if (ptx::thread() != 0) return;
  if constexpr (Right) {
    ptx::arrive(word, 1000);
  } else {
    *word += 1;  // mark: shared_word
  }
}

/// The block that arrives last adds what all have written. If they do not acquire, they read what they must not.
template <bool Right>
PREFIXSHARE_GLOBAL void last_block(int* counter, float* partial, float* out) {
  const int i = ptx::thread(), n = ptx::threads();
  int* const last = reinterpret_cast<int*>(ptx::shared_memory());
  partial[ptx::block() * n + i] = 1.0f;  // mark: last_block writes
  if constexpr (Right) ptx::sync_block();
  if (i == 0) *last = ptx::arrive(counter, ptx::blocks() - 1) == ptx::blocks() - 1;
  ptx::sync_block();
  if (*last == 0) return;
  float sum = 0;
  for (int b = 0; b < ptx::blocks(); ++b) sum += ptx::load_cached(&partial[b * n + i]);
  out[i] = sum;
}

/// Every block waits for the next one, which must run at the same time.
PREFIXSHARE_GLOBAL inline void look_back(int* flags) {
  if (ptx::thread() != 0) return;
  if (ptx::block() + 1 < ptx::blocks()) {
    while (ptx::load_acquire(&flags[ptx::block() + 1]) == 0) ptx::spin_pause();  // mark: look_back
  }
  ptx::arrive(&flags[ptx::block()], 1);
}

/// Loads [8, 64] 16-bit elements as eight matrices, whose rows are 128 bytes apart.
template <bool Right>
PREFIXSHARE_GLOBAL void bank_conflicts(std::uint32_t* out) {
  const int lane = ptx::lane();
  for (int i = lane; i < 8 * 64 / 2; i += 32) shared_floats()[i] = 0.0f;
  ptx::sync_warp();
  for (int half = 0; half < 2; ++half) {
    const int row = lane % 8, chunk = 4 * half + lane / 8;
    std::uint32_t r[4];
    ptx::load_matrix_x4(r, ptx::shared_memory() + 128 * row + 16 * (Right ? chunk ^ row : chunk));
    out[32 * ptx::block() + lane] = r[0];
  }
}

}  // namespace prefixshare::seeded
