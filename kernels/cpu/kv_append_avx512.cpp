// SPDX-License-Identifier: Apache-2.0
// kv_append on AVX-512.
#define PREFIXSHARE_REGION avx512
#define PREFIXSHARE_REGION_VECTOR "cpu/vector_avx512.hpp"
#define PREFIXSHARE_REGION_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"

#include "cpu/append_rows.hpp"
#include "cpu/operators.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cpu {

Status kv_append_avx512(const KvAppend& args, std::int32_t part, std::int32_t parts) noexcept {
  avx512::append_part(args, part, parts);
  return Status{};
}

}  // namespace cpu
}  // namespace v0_1
}  // namespace prefixshare
