// SPDX-License-Identifier: Apache-2.0
// rope_apply, rope_shift and rope_rebase on AVX2.
#define PREFIXSHARE_REGION avx2
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx2.hpp"
#define PREFIXSHARE_REGION_TARGET "avx2,fma,f16c"

#include "cpu/operators.hpp"
#include "cpu/rope_vectors.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status rope_apply_avx2(const RopeApply& args, std::int32_t part, std::int32_t parts) noexcept {
  avx2::rope_apply_part(args, part, parts);
  return Status{};
}
Status rope_shift_avx2(const RopeShift& args, std::int32_t part, std::int32_t parts) noexcept {
  avx2::rope_shift_part(args, part, parts);
  return Status{};
}
Status rope_rebase_avx2(const RopeRebase& args, std::int32_t part, std::int32_t parts) noexcept {
  avx2::rope_rebase_part(args, part, parts);
  return Status{};
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
