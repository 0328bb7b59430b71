// SPDX-License-Identifier: Apache-2.0
// tree_attention on AVX2.
#define PREFIXSHARE_REGION avx2
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx2.hpp"
#define PREFIXSHARE_REGION_TARGET "avx2,fma,f16c"

#include "cpu/attend_body.hpp"
#include "cpu/attend_panels.hpp"
#include "cpu/fma_products.hpp"
#include "cpu/operators.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status tree_attention_avx2(const AttendCall& call, std::int32_t part, std::int32_t parts) noexcept {
  detail::AttendForward<avx2::AttendBody<avx2::AttendPanels<avx2::FmaProducts>>>(call.plan, call.args, part, parts)
      .run();
  return Status{};
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
