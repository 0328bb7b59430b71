// SPDX-License-Identifier: Apache-2.0
// TensorView: pointer, dtype, memory space, shape and strides of a caller's tensor. Owns nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "prefixshare/dtype.hpp"

namespace prefixshare {
inline namespace v0_1 {

enum class MemorySpace : std::uint8_t { host, device };

constexpr const char* to_string(MemorySpace s) noexcept { return s == MemorySpace::host ? "host" : "device"; }

/// A strided tensor of the caller's. Strides count elements, may be 0 or negative only where an operator says so;
/// the innermost stride is 1 unless an operator says otherwise. A view with `data == nullptr` is absent.
/// Operators write only through the arguments that they document as outputs.
template <int Rank>
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  MemorySpace space = MemorySpace::host;
  std::int64_t shape[static_cast<std::size_t>(Rank)] = {};
  std::int64_t stride[static_cast<std::size_t>(Rank)] = {};

  constexpr explicit operator bool() const noexcept { return data != nullptr; }

  /// Elements from the start to index `i...`; offsets are 64-bit throughout.
  template <class... Index>
  constexpr std::int64_t offset(Index... i) const noexcept {
    static_assert(sizeof...(Index) <= Rank);
    const std::int64_t index[] = {static_cast<std::int64_t>(i)...};
    std::int64_t at = 0;
    for (int d = 0; d < static_cast<int>(sizeof...(Index)); ++d) at += index[d] * stride[d];
    return at;
  }
  /// Typed address of an element; the caller has checked `dtype`.
  template <class T, class... Index>
  T* at(Index... i) const noexcept {
    return static_cast<T*>(data) + offset(i...);
  }
  /// Untyped address of an element.
  template <class... Index>
  void* ptr(Index... i) const noexcept {
    return static_cast<char*>(data) + offset(i...) * size_of(dtype);
  }
};

/// Contiguous row-major view of `data`.
template <class T, std::size_t Rank>
TensorView<static_cast<int>(Rank)> make_view(T* data, const std::int64_t (&shape)[Rank]) noexcept {
  TensorView<static_cast<int>(Rank)> v;
  v.data = const_cast<std::remove_const_t<T>*>(data);
  v.dtype = dtype_of<T>;
  std::int64_t stride = 1;
  for (std::size_t d = Rank; d-- > 0;) {
    v.shape[d] = shape[d];
    v.stride[d] = stride;
    stride *= shape[d];
  }
  return v;
}

/// Strided view of `data`.
template <class T, std::size_t Rank>
TensorView<static_cast<int>(Rank)> make_view(T* data, const std::int64_t (&shape)[Rank],
                                             const std::int64_t (&stride)[Rank]) noexcept {
  TensorView<static_cast<int>(Rank)> v = make_view(data, shape);
  for (std::size_t d = 0; d < Rank; ++d) v.stride[d] = stride[d];
  return v;
}

/// Memory that one call may use. `counter_bytes` is set by init_workspace and says how the memory is divided.
struct Workspace {
  void* data = nullptr;
  std::int64_t bytes = 0;
  std::int64_t counter_bytes = 0;
};

}  // namespace v0_1
}  // namespace prefixshare
