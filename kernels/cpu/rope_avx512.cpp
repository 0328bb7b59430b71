// SPDX-License-Identifier: Apache-2.0
// rope_apply, rope_shift and rope_rebase on AVX-512.
#define PREFIXSHARE_REGION avx512
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"

#include "cpu/operators.hpp"
#include "cpu/rope_vectors.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status rope_apply_avx512(const RopeApply& args, std::int32_t part, std::int32_t parts) noexcept {
  avx512::rope_apply_part(args, part, parts);
  return Status{};
}
Status rope_shift_avx512(const RopeShift& args, std::int32_t part, std::int32_t parts) noexcept {
  avx512::rope_shift_part(args, part, parts);
  return Status{};
}
Status rope_rebase_avx512(const RopeRebase& args, std::int32_t part, std::int32_t parts) noexcept {
  avx512::rope_rebase_part(args, part, parts);
  return Status{};
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
