// SPDX-License-Identifier: Apache-2.0
// Span: a pointer and a count, the only way arrays cross an interface here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace prefixshare {
inline namespace v0_1 {

/// A view of `size()` consecutive elements; owns nothing; standard layout. Indexing is unchecked.
template <class T>
class Span {
 public:
  constexpr Span() noexcept = default;
  constexpr Span(T* data, std::int64_t size) noexcept : data_(data), size_(size) {}
  /// From any container with data() and size() whose elements convert without a copy (vector, array, Span<non-const>).
  template <class Container, class Element = std::remove_pointer_t<decltype(std::declval<Container&>().data())>,
            class = std::enable_if_t<std::is_convertible_v<Element (*)[], T (*)[]>>>
  constexpr Span(Container&& c) noexcept : data_(c.data()), size_(static_cast<std::int64_t>(c.size())) {}

  constexpr T* data() const noexcept { return data_; }
  constexpr std::int64_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T& operator[](std::int64_t i) const noexcept { return data_[i]; }
  constexpr T* begin() const noexcept { return data_; }
  constexpr T* end() const noexcept { return data_ + size_; }
  constexpr Span subspan(std::int64_t first, std::int64_t count) const noexcept { return {data_ + first, count}; }

 private:
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace v0_1
}  // namespace prefixshare
