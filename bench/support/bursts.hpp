// SPDX-License-Identifier: Apache-2.0
// Loops that do one thing as fast as one instruction set can: what ceilings are measured with.
#pragma once

#include <cstdint>
#include <vector>

#include "prefixshare/dtype.hpp"

namespace prefixshare::bench {

/// Loops of an instruction set, on the calling thread. A null function: it has none.
struct Bursts {
  const char* name = "";
  bool usable = false;                                            ///< on this machine
  DType storage = DType::f32;                                     ///< whose products it sums in f32
  void (*multiply)(std::int64_t count) = nullptr;                 ///< in registers
  std::int64_t multiply_adds = 0;                                 ///< of one count
  void (*exponentials)(std::int64_t count) = nullptr;             ///< kExponentials of one count
  void (*read)(const float* from, std::int64_t count) = nullptr;  ///< a multiple of kReadStep floats, in four streams

  static constexpr std::int64_t kExponentials = 1024;
  static constexpr std::int64_t kReadStep = 1024;
};

/// Keeps what lies at `result` alive: a compiler must take it for used.
inline void keep(const void* result) noexcept { asm volatile("" : : "g"(result) : "memory"); }

Bursts baseline_bursts();
#if defined(__x86_64__)
Bursts avx2_bursts();
Bursts avx512_bursts();
Bursts bf16_dot_bursts();
Bursts bf16_amx_bursts();
#endif

/// Every instruction set that this build knows: f32 first, by width, then products of bf16.
inline std::vector<Bursts> all_bursts() {
#if defined(__x86_64__)
  return {baseline_bursts(), avx2_bursts(), avx512_bursts(), bf16_dot_bursts(), bf16_amx_bursts()};
#else
  return {baseline_bursts()};
#endif
}

}  // namespace prefixshare::bench
