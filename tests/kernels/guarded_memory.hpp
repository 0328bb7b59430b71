// SPDX-License-Identifier: Apache-2.0
// Memory beside pages that nobody may touch: whoever reads or writes one byte too far stops there, vectors of any width
// too, which no sanitizer sees. Needs mmap.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "support/attention.hpp"

namespace prefixshare::tests {

/// Where the forbidden page is: right behind the last byte, or right before the first.
enum class Guard { behind, before };

/// `count` vectors of `bytes` each, every one beside a forbidden page.
class GuardedVectors {
 public:
  GuardedVectors(std::int64_t count, std::int64_t bytes, Guard guard) {
    const std::int64_t page = sysconf(_SC_PAGESIZE), usable = (bytes + page - 1) / page * page;
    stride_ = usable + page;
    size_ = static_cast<std::size_t>(count * stride_ + page);
    base_ = static_cast<char*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(base_ != MAP_FAILED);
    first_ = base_ + page + (guard == Guard::behind ? usable - bytes : 0);
    for (std::int64_t i = 0; usable > 0 && i < count; ++i) {
      const int failed = mprotect(base_ + page + i * stride_, static_cast<std::size_t>(usable), PROT_READ | PROT_WRITE);
      REQUIRE(failed == 0);
    }
  }
  ~GuardedVectors() { munmap(base_, size_); }
  GuardedVectors(const GuardedVectors&) = delete;
  GuardedVectors& operator=(const GuardedVectors&) = delete;

  char* first() const noexcept { return first_; }
  std::int64_t stride() const noexcept { return stride_; }  ///< bytes from a vector to the next

 private:
  char* base_ = nullptr;
  char* first_ = nullptr;
  std::int64_t stride_ = 0;
  std::size_t size_ = 0;
};

/// Copies of a call's tensors and arrays in guarded memory, which it owns.
class GuardedCopies {
 public:
  explicit GuardedCopies(Guard guard) : guard_(guard) {}

  /// Every vector of the innermost dimension by itself; with `scattered` every element.
  template <int Rank>
  TensorView<Rank> tensor(const TensorView<Rank>& x, bool scattered = false) {
    if (x.data == nullptr) return x;
    const std::int64_t size = size_of(x.dtype), count = testing::count_of(x);
    const std::int64_t width = scattered ? 1 : x.shape[Rank - 1];
    const GuardedVectors& memory = take(width > 0 ? count / width : 0, width * size);
    TensorView<Rank> copy = x;
    copy.data = memory.first();
    std::int64_t stride = memory.stride() / size;
    for (int d = Rank - (scattered ? 1 : 2); d >= 0; --d) {
      copy.stride[d] = stride;
      stride *= x.shape[d];
    }
    if (!scattered) copy.stride[Rank - 1] = 1;
    for (std::int64_t i = 0; i < count; ++i) {
      std::memcpy(static_cast<char*>(copy.data) + testing::offset_of(copy, i) * size,
                  static_cast<const char*>(x.data) + testing::offset_of(x, i) * size, static_cast<std::size_t>(size));
    }
    return copy;
  }
  template <class T>
  T* array(const T* x, std::int64_t count) {
    if (x == nullptr) return nullptr;
    const std::int64_t bytes = count * std::int64_t{sizeof(T)};
    char* copy = take(1, bytes).first();
    if (bytes > 0) std::memcpy(copy, x, static_cast<std::size_t>(bytes));
    return reinterpret_cast<T*>(copy);
  }
  template <class T>
  Span<T> array(Span<T> x) {
    return {array(x.data(), x.size()), x.size()};
  }
  void* bytes(std::int64_t count) { return take(1, count).first(); }

 private:
  const GuardedVectors& take(std::int64_t count, std::int64_t bytes) {
    return memory_.emplace_back(count, bytes, guard_);
  }

  Guard guard_;
  std::deque<GuardedVectors> memory_;
};

}  // namespace prefixshare::tests
