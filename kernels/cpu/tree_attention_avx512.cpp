// SPDX-License-Identifier: Apache-2.0
// tree_attention on AVX-512.
#define PREFIXSHARE_REGION avx512
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"

#include "cpu/attend_body.hpp"
#include "cpu/attend_panels.hpp"
#include "cpu/fma_products.hpp"
#include "cpu/operators.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status tree_attention_avx512(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept {
  detail::AttendForward<avx512::AttendBody<avx512::AttendPanels<avx512::FmaProducts>>>(call.plan, call.args, part,
                                                                                       parts)
      .run();
  return Status{};
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
