// SPDX-License-Identifier: Apache-2.0
// merge_states on AVX-512.
#define PREFIXSHARE_REGION avx512
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"

#include "cpu/merge_rows.hpp"
#include "cpu/operators.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status merge_states_avx512(const MergeStates& args, std::int32_t part, std::int32_t parts) noexcept {
  avx512::merge_part(args, part, parts);
  return Status{};
}
Status merge_states_backward_avx512(const MergeStatesGrad& args, std::int32_t part, std::int32_t parts) noexcept {
  avx512::merge_backward_part(args, part, parts);
  return Status{};
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
