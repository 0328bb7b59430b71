// SPDX-License-Identifier: Apache-2.0
#include "cpu/features.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

// The compiler's query reads CPUID and the state that the system has enabled (XGETBV); the CPU's model is never asked.
Features features() noexcept {
  __builtin_cpu_init();
  Features f;
  f.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return f;
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
