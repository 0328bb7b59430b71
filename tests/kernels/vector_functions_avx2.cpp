// SPDX-License-Identifier: Apache-2.0
#define PREFIXSHARE_REGION avx2
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx2.hpp"
#define PREFIXSHARE_REGION_TARGET "avx2,fma,f16c"

#include "kernels/vector_functions_region.hpp"

namespace prefixshare::tests {

const VectorFunctions kAvx2Functions = cpu::avx2::functions_of("cpu:avx2");

}  // namespace prefixshare::tests
