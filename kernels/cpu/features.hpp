// SPDX-License-Identifier: Apache-2.0
// What this machine's CPU and operating system let the library use.
#pragma once

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

/// Usable: the CPU has it and the operating system saves its registers.
struct Features {
  bool avx2 = false;         ///< with FMA and F16C
  bool avx512 = false;       ///< F, BW, DQ, VL
  bool avx512_bf16 = false;  ///< with the above
  bool amx_bf16 = false;     ///< AMX-TILE and AMX-BF16, with the above; usable after request_tiles()
};
Features features() noexcept;

/// What CPUID calls this CPU. Only measured constants are looked up by it; what may run depends on Features alone.
struct Identity {
  char vendor[13] = "";  ///< "GenuineIntel"
  int family = 0, model = 0;
};
Identity identity() noexcept;

/// Asks the operating system for the tiles of AMX, for the whole process: their state makes signal frames larger, so
/// Linux gives them to who asks only. True if they may be used; asking again changes nothing.
bool request_tiles() noexcept;

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
