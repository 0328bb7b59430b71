// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__)

#define PREFIXSHARE_REGION bursts_avx512
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"

#include "cpu/features.hpp"
#include "support/bursts_region.hpp"

namespace prefixshare::bench {

Bursts avx512_bursts(Way way) {
  constexpr int kChains = 12;
  constexpr std::size_t kRows = 6, kColumns = 2;
  Bursts b;
  b.name = "AVX-512";
  b.usable = cpu::features().avx512;
  if (way == Way::registers) {
    b.multiply = &cpu::bursts_avx512::multiply<kChains>;
    b.multiply_adds = 16 * kChains;
    b.exponentials = &cpu::bursts_avx512::exponentials;
    b.read = &cpu::bursts_avx512::read;
  } else {
    b.multiply = &cpu::bursts_avx512::multiply_panels<kRows, kColumns>;
    b.multiply_adds = std::int64_t{16 * kRows * kColumns * Bursts::kDepth};
    b.exponentials = &cpu::bursts_avx512::sum_exponentials;
    b.read = &cpu::bursts_avx512::read_halves;
  }
  return b;
}

}  // namespace prefixshare::bench

#endif
