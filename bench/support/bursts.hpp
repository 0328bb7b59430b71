// SPDX-License-Identifier: Apache-2.0
// Loops that do one thing as fast as one instruction set can: what ceilings are measured with.
#pragma once

#include <cstddef>
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
  void (*read)(const float* from, std::int64_t count) = nullptr;  ///< a multiple of kReadStep floats

  static constexpr std::int64_t kExponentials = 1024;
  static constexpr std::int64_t kReadStep = 4096;  ///< a page of memory in each of four streams
  static constexpr std::size_t kDepth = 64;        ///< of the panels: both lie in a first-level cache
};

/// Keeps what lies at `result` alive: a compiler must take it for used.
inline void keep(const void* result) noexcept { asm volatile("" : : "g"(result) : "memory"); }

/// Two different loops for each thing: where both find the same ceiling, it is the
/// machine's and not a loop's.
enum class Way : std::uint8_t {
  registers,  ///< products of registers; exponentials from and to the first-level cache; reads in four streams
  panels      ///< products of panels that lie in the first-level cache; sums of exponentials; reads in two streams
};

Bursts baseline_bursts(Way way);
#if defined(__x86_64__)
Bursts avx2_bursts(Way way);
Bursts avx512_bursts(Way way);
Bursts bf16_dot_bursts(Way way);
Bursts bf16_amx_bursts(Way way);
#endif

/// Every instruction set that this build knows: f32 first, by width, then products of bf16.
inline std::vector<Bursts> all_bursts(Way way) {
#if defined(__x86_64__)
  return {baseline_bursts(way), avx2_bursts(way), avx512_bursts(way), bf16_dot_bursts(way), bf16_amx_bursts(way)};
#else
  return {baseline_bursts(way)};
#endif
}

}  // namespace prefixshare::bench
