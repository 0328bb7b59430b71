// SPDX-License-Identifier: Apache-2.0
#include "cpu/features.hpp"

#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdint>
#include <cstring>

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

namespace {

// States of registers that the system saves: bits of XCR0.
constexpr std::uint64_t kAvxStates = 0x6, kAvx512States = 0xe6, kTileStates = 0x60000;

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};
/// What CPUID says; zeros for what the CPU does not know.
Leaf cpuid(unsigned leaf, unsigned part) noexcept {
  Leaf l;
  __get_cpuid_count(leaf, part, &l.eax, &l.ebx, &l.ecx, &l.edx);
  return l;
}
bool has(unsigned x, unsigned bit) noexcept { return (x >> bit & 1) != 0; }

std::uint64_t saved_states(const Leaf& first) noexcept {
  if (!has(first.ecx, 27)) return 0;  // no XGETBV
  std::uint32_t low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

}  // namespace

// Bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, CPUID. Compilers' own queries do not
// know all of them.
Features features() noexcept {
  const Leaf first = cpuid(1, 0), seventh = cpuid(7, 0), more = cpuid(7, 1);
  const std::uint64_t saved = saved_states(first);
  const bool fma = has(first.ecx, 12), f16c = has(first.ecx, 29), avx2 = has(seventh.ebx, 5);
  const bool f = has(seventh.ebx, 16), dq = has(seventh.ebx, 17), bw = has(seventh.ebx, 30), vl = has(seventh.ebx, 31);
  const bool amx_bf16 = has(seventh.edx, 22), amx_tile = has(seventh.edx, 24), avx512_bf16 = has(more.eax, 5);
  Features found;
  found.avx2 = fma && f16c && avx2 && (saved & kAvxStates) == kAvxStates;
  found.avx512 = found.avx2 && f && dq && bw && vl && (saved & kAvx512States) == kAvx512States;
  found.avx512_bf16 = found.avx512 && avx512_bf16;
  found.amx_bf16 = found.avx512_bf16 && amx_tile && amx_bf16 && (saved & kTileStates) == kTileStates;
  return found;
}

Identity identity() noexcept {
  const Leaf zeroth = cpuid(0, 0), first = cpuid(1, 0);
  const unsigned vendor[] = {zeroth.ebx, zeroth.edx, zeroth.ecx};
  const int family = static_cast<int>(first.eax >> 8 & 0xf), model = static_cast<int>(first.eax >> 4 & 0xf);
  Identity id;
  std::memcpy(id.vendor, vendor, sizeof vendor);
  id.family = family == 0xf ? family + static_cast<int>(first.eax >> 20 & 0xff) : family;
  id.model = family == 0xf || family == 0x6 ? model + static_cast<int>(first.eax >> 12 & 0xf0) : model;
  return id;
}

bool request_tiles() noexcept {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM of Linux 5.16, a bit of XCR0
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return true;
#endif
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
