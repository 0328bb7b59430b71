// SPDX-License-Identifier: Apache-2.0
// The floating-point modes of a part: engines' threads come with theirs (torch flushes subnormals, say), which must not
// change our bits, nor ours theirs.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "prefixshare/status.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

/// While it lives: round to nearest even, subnormals kept, no traps. Then the thread's own modes again.
class FloatControl {
 public:
#if defined(__x86_64__)
  FloatControl() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~FloatControl() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kDefault = 0x1f80;  // all exceptions masked, everything else 0
  unsigned saved_;
#elif defined(__aarch64__)
  FloatControl() noexcept {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}));
  }
  ~FloatControl() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  std::uint64_t saved_ = 0;
#else
  FloatControl() noexcept {}
  ~FloatControl() {}
#endif

 public:
  FloatControl(const FloatControl&) = delete;
  FloatControl& operator=(const FloatControl&) = delete;
};

/// Part as it is, under FloatControl.
template <auto Part, class Call>
Status controlled(const Call& call, std::int32_t part, std::int32_t parts) noexcept {
  const FloatControl control;
  return Part(call, part, parts);
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
