// SPDX-License-Identifier: Apache-2.0
// What this machine's CPU and operating system let the library use.
#pragma once

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

/// Usable: the CPU has it and the operating system saves its registers.
struct Features {
  bool avx2 = false;    ///< with FMA and F16C
  bool avx512 = false;  ///< F, BW, DQ, VL
};
Features features() noexcept;

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
