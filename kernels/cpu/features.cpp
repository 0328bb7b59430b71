// SPDX-License-Identifier: Apache-2.0
#include "cpu/features.hpp"

#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdint>

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

namespace {

constexpr unsigned kTileConfigState = 17, kTileDataState = 18;  // XCR0

bool has_bit(std::uint64_t x, unsigned bit) noexcept { return (x >> bit & 1) != 0; }

/// The register states that the system saves. Only where the CPU has XGETBV.
std::uint64_t saved_states() noexcept {
  std::uint32_t low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

/// Beside AVX-512, which brings XGETBV. Older compilers' queries do not know these features.
bool has_amx_bf16() noexcept {
  unsigned eax, ebx, ecx, edx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  const bool amx_bf16 = has_bit(edx, 22), amx_tile = has_bit(edx, 24);
  const bool avx512_bf16 = __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && has_bit(eax, 5);
  return amx_bf16 && amx_tile && avx512_bf16 && has_bit(saved_states(), kTileConfigState) &&
         has_bit(saved_states(), kTileDataState);
}

}  // namespace

// The compiler's query reads CPUID and the state that the system has enabled (XGETBV); the CPU's model is never asked.
Features features() noexcept {
  __builtin_cpu_init();
  Features f;
  f.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  f.amx_bf16 = f.avx512 && has_amx_bf16();
  return f;
}

bool request_tiles() noexcept {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, Linux 5.16
  return syscall(SYS_arch_prctl, kRequestPermission, static_cast<long>(kTileDataState)) == 0;
#else
  return true;
#endif
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
