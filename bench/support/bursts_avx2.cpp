// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__)

#define PREFIXSHARE_REGION bursts_avx2
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx2.hpp"
#define PREFIXSHARE_REGION_TARGET "avx2,fma,f16c"

#include "cpu/features.hpp"
#include "support/bursts_region.hpp"

namespace prefixshare::bench {

Bursts avx2_bursts(Way way) {
  constexpr int kChains = 6;  // of two registers each
  constexpr std::size_t kRows = 6, kColumns = 1;
  Bursts b;
  b.name = "AVX2";
  b.usable = cpu::features().avx2;
  if (way == Way::registers) {
    b.multiply = &cpu::bursts_avx2::multiply<kChains>;
    b.multiply_adds = 16 * kChains;
    b.exponentials = &cpu::bursts_avx2::exponentials;
    b.read = &cpu::bursts_avx2::read;
  } else {
    b.multiply = &cpu::bursts_avx2::multiply_panels<kRows, kColumns>;
    b.multiply_adds = std::int64_t{16 * kRows * kColumns * Bursts::kDepth};
    b.exponentials = &cpu::bursts_avx2::sum_exponentials;
    b.read = &cpu::bursts_avx2::read_halves;
  }
  return b;
}

}  // namespace prefixshare::bench

#endif
