// SPDX-License-Identifier: Apache-2.0
// Rows between storage and arithmetic types: contiguous elements, simple loops that compilers vectorise.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "prefixshare/dtype.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// dst[i] = src[i] for i < n; a plain copy when the types are the same. n may be 0, the pointers then null.
template <class Acc>
void load_row(DType dtype, const void* src, std::int64_t n, Acc* dst) noexcept {
  with_storage(dtype, [=](auto tag) {
    using Storage = decltype(tag);
    const Storage* from = static_cast<const Storage*>(src);
    if constexpr (std::is_same_v<Storage, Acc>) {
      if (n > 0) std::memcpy(dst, from, static_cast<std::size_t>(n) * sizeof(Acc));
    } else {
      for (std::int64_t i = 0; i < n; ++i) dst[i] = load_as<Acc>(from[i]);
    }
  });
}

/// dst[i] = src[i], rounded once. As load_row otherwise.
template <class Acc>
void store_row(DType dtype, void* dst, std::int64_t n, const Acc* src) noexcept {
  with_storage(dtype, [=](auto tag) {
    using Storage = decltype(tag);
    Storage* to = static_cast<Storage*>(dst);
    if constexpr (std::is_same_v<Storage, Acc>) {
      if (n > 0) std::memcpy(to, src, static_cast<std::size_t>(n) * sizeof(Acc));
    } else {
      for (std::int64_t i = 0; i < n; ++i) to[i] = store_as<Storage>(src[i]);
    }
  });
}

/// dst[i] += src[i]: the sum in Acc, rounded once into storage.
template <class Acc>
void add_row(DType dtype, void* dst, std::int64_t n, const Acc* src) noexcept {
  with_storage(dtype, [=](auto tag) {
    using Storage = decltype(tag);
    Storage* to = static_cast<Storage*>(dst);
    for (std::int64_t i = 0; i < n; ++i) to[i] = store_as<Storage>(load_as<Acc>(to[i]) + src[i]);
  });
}

/// dst = src from one storage type to another through Acc; bit for bit when they are the same.
template <class Acc>
void copy_row(DType from, const void* src, DType to, void* dst, std::int64_t n) noexcept {
  constexpr std::int64_t kChunk = 256;
  if (from == to) {
    if (n > 0) std::memcpy(dst, src, static_cast<std::size_t>(n * size_of(from)));
    return;
  }
  Acc buffer[kChunk];
  for (std::int64_t i = 0; i < n; i += kChunk) {
    const std::int64_t count = n - i < kChunk ? n - i : kChunk;
    load_row(from, static_cast<const char*>(src) + i * size_of(from), count, buffer);
    store_row(to, static_cast<char*>(dst) + i * size_of(to), count, buffer);
  }
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
