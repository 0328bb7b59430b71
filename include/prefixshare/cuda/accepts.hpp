// SPDX-License-Identifier: Apache-2.0
// What the implementations on CUDA are: which layer kinds those of attention take, and their cost constants; which
// calls those of the operators on rows take.
#pragma once

#include <cstdint>

#include "prefixshare/detail/validate.hpp"
#include "prefixshare/draft_tree.hpp"
#include "prefixshare/merge_states.hpp"
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

/// Derived, not measured: a thread block of two on each processor of an H200 reads 16 bytes a nanosecond and multiplies
/// and adds 1.3 TFLOP/s (mma.sync) or 0.13 (plain f32, half of its peak); rows are padded to 64, few ones to 16.
inline constexpr CostModel kMmaCost{1500, 0.125, 0.0015, 0.5, 0.15, 0, 3000, 64, 16, true};
inline constexpr CostModel kSimtCost{1500, 0.25, 0.015, 0.5, 0.49, 0, 3000, 64, 16, true};

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

inline constexpr std::int32_t kMaxMmaGradientDim = 192;  // sums of more dims find no room in a warp's registers

/// The same of the backward.
inline Status accepts_mma_backward(const char* op, const LayerKind& kind) noexcept {
  if (Status s = accepts_mma(op, kind)) return s;
  return kind.D > kMaxMmaGradientDim ? refuse_kind(op, "D", kind.D, "<=", kMaxMmaGradientDim) : Status{};
}

inline constexpr std::int64_t kMaxMergeParts = 64;  // their places travel with the launch
inline constexpr std::int32_t kMaxDraftWords = 16;  // of a row: a bit for each of the 1024 threads of a block

/// `cuda:rows`, besides the types.
inline Status accepts_parts(const MergeStates& args) noexcept {
  if (args.parts.size() <= kMaxMergeParts) return {};
  return detail::failure({"merge_states", "parts"}, "size", args.parts.size(), "<=", kMaxMergeParts, StatusUnit::number,
                         StatusCode::unsupported);
}
inline Status accepts_words(const DraftTreeBatch& args) noexcept {
  if (args.words_per_row <= kMaxDraftWords) return {};
  return detail::failure({"draft_tree_from_parents", "words_per_row"}, "", args.words_per_row, "<=", kMaxDraftWords,
                         StatusUnit::number, StatusCode::unsupported);
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
