// SPDX-License-Identifier: Apache-2.0
// kv_append on AVX2.
#define PREFIXSHARE_REGION avx2
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx2.hpp"
#define PREFIXSHARE_REGION_TARGET "avx2,fma,f16c"

#include "cpu/append_rows.hpp"
#include "cpu/operators.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status kv_append_avx2(const KvAppend& args, std::int32_t part, std::int32_t parts) noexcept {
  avx2::append_part(args, part, parts);
  return Status{};
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
