// SPDX-License-Identifier: Apache-2.0
// merge_states on AVX2.
#define PREFIXSHARE_REGION avx2
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx2.hpp"
#define PREFIXSHARE_REGION_TARGET "avx2,fma,f16c"

#include "cpu/merge_rows.hpp"
#include "cpu/operators.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status merge_states_avx2(const MergeStates& args, std::int32_t part, std::int32_t parts) noexcept {
  avx2::merge_part(args, part, parts);
  return Status{};
}
Status merge_states_backward_avx2(const MergeStatesGrad& args, std::int32_t part, std::int32_t parts) noexcept {
  avx2::merge_backward_part(args, part, parts);
  return Status{};
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
