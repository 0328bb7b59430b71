// SPDX-License-Identifier: Apache-2.0
// Which layer kinds the implementations of attention on CUDA take.
#pragma once

#include <cstdint>

#include "prefixshare/detail/validate.hpp"
#include "prefixshare/plan.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr std::int32_t kMaxHeadDim = 256;  // of what a block keeps in registers and shared memory

/// Head dims that `cuda:mma-sm80` is compiled for.
struct HeadDims {
  std::int32_t D, Dv;
};
inline constexpr HeadDims kMmaDims[] = {{64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}};

inline Status refuse_kind(const char* op, const char* field, std::int64_t got, const char* relation, std::int64_t want,
                          StatusUnit unit = StatusUnit::number) noexcept {
  return detail::failure({op, "implementation"}, field, got, relation, want, unit, StatusCode::unsupported);
}
/// f64 has its own arithmetic, which no kernel does.
inline Status refuse_f64(const char* op, DType dtype) noexcept {
  if (dtype != DType::f64) return {};
  return refuse_kind(op, "arithmetic dtype", static_cast<int>(dtype), "==", static_cast<int>(DType::f32),
                     StatusUnit::dtype);
}

/// `cuda:simt`: any mix of f32, f16 and bf16.
inline Status accepts_simt(const char* op, const LayerKind& kind) noexcept {
  if (Status s = refuse_f64(op, kind.acc_dtype())) return s;
  if (kind.D > kMaxHeadDim) return refuse_kind(op, "D", kind.D, "<=", kMaxHeadDim);
  return kind.Dv > kMaxHeadDim ? refuse_kind(op, "Dv", kind.Dv, "<=", kMaxHeadDim) : Status{};
}

/// `cuda:mma-sm80`: f16 or bf16, of which the products of matrices are.
inline Status accepts_mma(const char* op, const LayerKind& kind) noexcept {
  if (kind.q_dtype != DType::f16 && kind.q_dtype != DType::bf16) {
    return refuse_kind(op, "q_dtype", static_cast<int>(kind.q_dtype), "one of", static_cast<int>(DType::f16),
                       StatusUnit::dtype);
  }
  if (kind.kv_dtype != kind.q_dtype) {
    return refuse_kind(op, "kv_dtype", static_cast<int>(kind.kv_dtype), "==", static_cast<int>(kind.q_dtype),
                       StatusUnit::dtype);
  }
  bool known = false;  // whether D is, with another Dv
  for (const HeadDims& dims : kMmaDims) {
    if (dims.D == kind.D && dims.Dv == kind.Dv) return {};
    known = known || dims.D == kind.D;
  }
  if (!known) return refuse_kind(op, "D", kind.D, "one of 64, 96, 128, 192 and", kMmaDims[4].D);
  return refuse_kind(op, "Dv", kind.Dv, "==", kind.D == 192 ? 128 : kind.D);
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
