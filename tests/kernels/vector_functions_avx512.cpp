// SPDX-License-Identifier: Apache-2.0
#define PREFIXSHARE_REGION avx512
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"

#include "kernels/vector_functions_region.hpp"

namespace prefixshare::tests {

const VectorFunctions kAvx512Functions = cpu::avx512::functions_of("cpu:avx512");

}  // namespace prefixshare::tests
