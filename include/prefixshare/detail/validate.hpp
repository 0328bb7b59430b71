// SPDX-License-Identifier: Apache-2.0
// Checks of arguments that every operator shares: each returns ok or a Status that names operator, argument and field.
// O(rank) each, nothing is read through a view's pointer.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "prefixshare/rope.hpp"
#include "prefixshare/span.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/tensor.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr int kMaxRank = 5;

/// The argument that a check speaks of.
struct Where {
  const char* op;
  const char* argument;
  std::int64_t index = -1;  ///< element of an array argument
};

constexpr Status failure(Where at, const char* field, std::int64_t got, const char* relation, std::int64_t want,
                         StatusUnit unit = StatusUnit::number,
                         StatusCode code = StatusCode::invalid_argument) noexcept {
  return {code, unit, at.op, at.argument, field, relation, at.index, got, want};
}

/// a * b or a + b of two numbers >= 0; -1 if it does not fit int64, or if an input is -1 already.
constexpr std::int64_t checked_product(std::int64_t a, std::int64_t b) noexcept {
  if (a < 0 || b < 0) return -1;
  return b != 0 && a > std::numeric_limits<std::int64_t>::max() / b ? -1 : a * b;
}
constexpr std::int64_t checked_sum(std::int64_t a, std::int64_t b) noexcept {
  if (a < 0 || b < 0) return -1;
  return a > std::numeric_limits<std::int64_t>::max() - b ? -1 : a + b;
}

/// Set of storage types, as bits.
template <class... T>
constexpr unsigned dtype_set(T... dtype) noexcept {
  return ((1u << static_cast<unsigned>(dtype)) | ... | 0u);
}
inline constexpr unsigned kAnyDType = dtype_set(DType::f64, DType::f32, DType::f16, DType::bf16);
inline constexpr unsigned kLseDType = dtype_set(DType::f64, DType::f32);

/// Which strides are legal where a dimension is longer than 1.
enum class StrideRule : std::uint8_t { positive, nonnegative, any };

/// What a view must be, besides its shape.
struct ViewRule {
  bool required = true;    ///< else an absent view is fine
  bool output = false;     ///< its elements must not overlap each other
  bool unit_inner = true;  ///< innermost stride 1
  StrideRule strides = StrideRule::positive;
  unsigned dtypes = kAnyDType;
  MemorySpace space = MemorySpace::host;
};

/// The addresses of a view, for questions of overlap: strides positive, in bytes and ascending; lengths > 1 only.
struct Footprint {
  std::uintptr_t begin = 0;
  std::int64_t element = 0;  ///< bytes; 0 for a view without elements
  int rank = 0;
  std::int64_t length[kMaxRank] = {};
  std::int64_t stride[kMaxRank] = {};

  /// Bytes from the first to the end of the last element over the dimensions [0, dims).
  constexpr std::int64_t extent(int dims) const noexcept {
    std::int64_t bytes = element;
    for (int d = 0; d < dims; ++d) bytes += (length[d] - 1) * stride[d];
    return bytes;
  }
};

/// Of a view that check_view has accepted.
template <int Rank>
Footprint footprint(const TensorView<Rank>& view) noexcept {
  static_assert(Rank <= kMaxRank);
  Footprint f;
  if (!view) return f;
  f.begin = reinterpret_cast<std::uintptr_t>(view.data);
  const std::int64_t element = size_of(view.dtype);
  for (int d = 0; d < Rank; ++d) {
    if (view.shape[d] <= 0) return Footprint{};
    if (view.shape[d] == 1) continue;
    std::int64_t stride = view.stride[d] * element;
    if (stride < 0) {  // from the other end
      stride = -stride;
      f.begin -= static_cast<std::uintptr_t>((view.shape[d] - 1) * stride);
    }
    int at = f.rank++;
    for (; at > 0 && f.stride[at - 1] > stride; --at) {
      f.stride[at] = f.stride[at - 1];
      f.length[at] = f.length[at - 1];
    }
    f.stride[at] = stride;
    f.length[at] = view.shape[d];
  }
  f.element = element;
  return f;
}

/// Of consecutive bytes.
inline Footprint footprint(const void* data, std::int64_t bytes) noexcept {
  Footprint f;
  if (data == nullptr || bytes <= 0) return f;
  f.begin = reinterpret_cast<std::uintptr_t>(data);
  f.element = bytes;
  return f;
}
template <class T>
Footprint footprint(Span<T> array) noexcept {
  return footprint(array.data(), checked_product(array.size(), std::int64_t{sizeof(T)}));
}

/// Whether two views may share a byte. Byte intervals decide, except that views which interleave as blocks (K and V of
/// one fused cache, q and k of one packed projection) are seen to be apart: with the dimensions whose stride is longer
/// than the distance of their starts common to both, each block holds all of one view and then all of the other.
inline bool overlap(Footprint a, Footprint b) noexcept {
  if (a.element == 0 || b.element == 0) return false;
  if (b.begin < a.begin) {
    const Footprint swap = a;
    a = b;
    b = swap;
  }
  const std::uintptr_t distance = b.begin - a.begin;
  if (distance >= static_cast<std::uintptr_t>(a.extent(a.rank))) return false;
  const std::int64_t apart = static_cast<std::int64_t>(distance);
  int inner_a = 0;
  int inner_b = 0;
  while (inner_a < a.rank && a.stride[inner_a] <= apart) ++inner_a;
  while (inner_b < b.rank && b.stride[inner_b] <= apart) ++inner_b;
  if (a.extent(inner_a) > apart || a.rank - inner_a != b.rank - inner_b) return true;
  std::int64_t block = apart + b.extent(inner_b);
  for (; inner_a < a.rank; ++inner_a, ++inner_b) {
    const std::int64_t stride = a.stride[inner_a];
    if (stride != b.stride[inner_b] || stride < block) return true;
    const std::int64_t longest = a.length[inner_a] > b.length[inner_b] ? a.length[inner_a] : b.length[inner_b];
    block += (longest - 1) * stride;
  }
  return false;
}
template <int RankA, int RankB>
bool overlap(const TensorView<RankA>& a, const TensorView<RankB>& b) noexcept {
  return overlap(footprint(a), footprint(b));
}

/// Whether two views are the same elements in the same order.
template <int Rank>
bool same_view(const TensorView<Rank>& a, const TensorView<Rank>& b) noexcept {
  if (a.data != b.data || a.dtype != b.dtype) return false;
  for (int d = 0; d < Rank; ++d) {
    if (a.shape[d] != b.shape[d] || (a.shape[d] > 1 && a.stride[d] != b.stride[d])) return false;
  }
  return true;
}

/// Overlap of an output with another argument, as a Status.
template <int RankA, int RankB>
Status check_apart(Where at, const TensorView<RankA>& output, const TensorView<RankB>& other) noexcept {
  return overlap(output, other) ? failure(at, "overlap", 1, "==", 0) : Status{};
}
template <int Rank, class T>
Status check_apart(Where at, const TensorView<Rank>& output, Span<T> other) noexcept {
  return overlap(footprint(output), footprint(other)) ? failure(at, "overlap", 1, "==", 0) : Status{};
}

inline const char* shape_field(int d) noexcept {
  static constexpr const char* kFields[kMaxRank] = {"shape[0]", "shape[1]", "shape[2]", "shape[3]", "shape[4]"};
  return kFields[d];
}
inline const char* stride_field(int d) noexcept {
  static constexpr const char* kFields[kMaxRank] = {"stride[0]", "stride[1]", "stride[2]", "stride[3]", "stride[4]"};
  return kFields[d];
}

/// The lengths that a view must have; -1: any.
struct Shape {
  std::int64_t length[kMaxRank];
};

/// Lengths whose product does not fit int64 even without its zeros: the longest is to blame.
template <int Rank>
Status check_shape_product(Where at, const TensorView<Rank>& view) noexcept {
  int longest = 0;
  for (int d = 1; d < Rank; ++d) longest = view.shape[d] > view.shape[longest] ? d : longest;
  std::int64_t others = 1;
  for (int d = 0; d < Rank; ++d) {
    if (d != longest && view.shape[d] > 0) others = checked_product(others, view.shape[d]);
  }
  if (checked_product(others, view.shape[longest]) >= 0) return {};
  const std::int64_t most = others < 0 ? 0 : std::numeric_limits<std::int64_t>::max() / others;
  return failure(at, shape_field(longest), view.shape[longest], "<=", most);
}

/// Lengths >= 0 and as wanted (-1: any), whose product fits int64. Sets whether there are elements.
template <int Rank>
Status check_shape(Where at, const TensorView<Rank>& view, const Shape& want, bool* empty) noexcept {
  *empty = false;
  for (int d = 0; d < Rank; ++d) {
    const std::int64_t length = view.shape[d];
    if (length < 0) return failure(at, shape_field(d), length, ">=", 0);
    if (want.length[d] >= 0 && length != want.length[d])
      return failure(at, shape_field(d), length, "==", want.length[d]);
    *empty = *empty || length == 0;
  }
  return check_shape_product(at, view);
}

/// Strides of a view with elements: their signs, the innermost, byte offsets within int64.
template <int Rank>
Status check_strides(Where at, const TensorView<Rank>& view, ViewRule rule) noexcept {
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  const std::int64_t element = size_of(view.dtype);
  std::int64_t bytes = element;
  for (int d = 0; d < Rank; ++d) {
    const std::int64_t stride = view.stride[d];
    const std::int64_t steps = view.shape[d] - 1;
    if (steps == 0) continue;
    if (d == Rank - 1 && rule.unit_inner && stride != 1) return failure(at, stride_field(d), stride, "==", 1);
    const bool must_move = rule.output || rule.strides == StrideRule::positive;
    if (must_move && stride == 0) return failure(at, stride_field(d), stride, "!=", 0);
    if (rule.strides != StrideRule::any && stride < 0) return failure(at, stride_field(d), stride, ">=", 0);
    const std::int64_t step = stride < 0 ? (stride < -kMax ? kMax : -stride) : stride;
    bytes = checked_sum(bytes, checked_product(checked_product(step, steps), element));
    if (bytes < 0) return failure(at, stride_field(d), stride, "<=", kMax / element / steps);
  }
  return {};
}

/// An output's elements lie apart: each stride steps over all that the shorter strides reach. (Some exotic layouts
/// whose elements interleave without touching are refused too.)
template <int Rank>
Status check_no_self_overlap(Where at, const TensorView<Rank>& view) noexcept {
  const Footprint f = footprint(view);
  for (int d = 0; d < f.rank; ++d) {
    const std::int64_t reach = f.extent(d);
    if (f.stride[d] < reach) return failure(at, "stride", f.stride[d], ">=", reach, StatusUnit::bytes);
  }
  return {};
}

/// Everything about one view: present, shape (-1: any length), strides, alignment, dtype, space, in this order.
/// Absent and not required, or absent without elements, is ok.
template <int Rank>
Status check_view(Where at, const TensorView<Rank>& view, const Shape& shape, ViewRule rule = {}) noexcept {
  if (!view && !rule.required) return {};
  bool empty = false;
  const Status wrong_shape = check_shape(at, view, shape, &empty);
  if (!view && (!wrong_shape.ok() || !empty)) return failure(at, "data", 0, "!=", 0, StatusUnit::pointer);
  if (!wrong_shape.ok()) return wrong_shape;
  if (!empty) {
    if (Status s = check_strides(at, view, rule)) return s;
    if (Status s = rule.output ? check_no_self_overlap(at, view) : Status{}) return s;
  }
  if (!is_valid(view.dtype) || (rule.dtypes & dtype_set(view.dtype)) == 0) {
    int wanted = 0;
    while ((rule.dtypes >> wanted & 1u) == 0) ++wanted;
    const bool only = rule.dtypes == 1u << wanted;
    return failure(at, "dtype", static_cast<int>(view.dtype), only ? "==" : "one of", wanted, StatusUnit::dtype);
  }
  const std::int64_t misaligned = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(view.data) %
                                                            static_cast<unsigned>(size_of(view.dtype)));
  if (misaligned != 0) return failure(at, "alignment", misaligned, "==", 0, StatusUnit::bytes);
  if (view.space != rule.space) {
    const bool known = view.space == MemorySpace::host || view.space == MemorySpace::device;
    return failure(at, "space", static_cast<int>(view.space), "==", static_cast<int>(rule.space), StatusUnit::space,
                   known ? StatusCode::backend_unavailable : StatusCode::invalid_argument);
  }
  return {};
}

/// Whether memory that is no view is where an implementation reads it.
inline Status check_space(Where at, const char* field, MemorySpace got, MemorySpace want) noexcept {
  if (got == want) return {};
  const bool known = got == MemorySpace::host || got == MemorySpace::device;
  return failure(at, field, static_cast<int>(got), "==", static_cast<int>(want), StatusUnit::space,
                 known ? StatusCode::backend_unavailable : StatusCode::invalid_argument);
}

/// An array argument of exactly `size` elements, not null unless empty.
template <class T>
Status check_array(Where at, Span<T> array, std::int64_t size) noexcept {
  if (array.size() != size) return failure(at, "size", array.size(), "==", size);
  if (size > 0 && !array.data()) return failure(at, "data", 0, "!=", 0, StatusUnit::pointer);
  return {};
}

/// A rotation for rows of D elements.
inline Status check_rope(Where at, const RopeTable& table, std::int64_t D) noexcept {
  if (table.dim < 0) return failure(at, "dim", table.dim, ">=", 0);
  if (table.dim % 2 != 0) return failure(at, "dim % 2", 1, "==", 0);
  if (table.offset < 0) return failure(at, "offset", table.offset, ">=", 0);
  const std::int64_t end = std::int64_t{table.offset} + table.dim;
  if (end > D) return failure(at, "offset + dim", end, "<=", D);
  if (table.inv_freq.size() != table.dim / 2) {
    return failure(at, "inv_freq.size", table.inv_freq.size(), "==", table.dim / 2);
  }
  if (table.dim > 0 && !table.inv_freq.data()) {
    return failure(at, "inv_freq.data", 0, "!=", 0, StatusUnit::pointer);
  }
  if (table.pairing != RopePairing::half && table.pairing != RopePairing::interleaved) {
    return failure(at, "pairing", static_cast<int>(table.pairing), "one of", 0);
  }
  if (!std::isfinite(table.mscale)) return failure(at, "isfinite(mscale)", 0, "==", 1);
  return {};
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
