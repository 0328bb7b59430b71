// SPDX-License-Identifier: Apache-2.0
// Memory of a benchmark: aligned, and on huge pages where the system gives them, so that the TLB does not set the pace.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace prefixshare::bench {

/// First full of bytes 0xff, which are NaN in every storage type.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t bytes) : bytes_((bytes + kPage - 1) / kPage * kPage) {
    const auto size = static_cast<std::size_t>(bytes_);
    memory_.reset(std::aligned_alloc(static_cast<std::size_t>(kPage), size));
    if (!memory_) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(memory_.get(), size, MADV_HUGEPAGE);
#endif
    poison();
  }

  void* data() const noexcept { return memory_.get(); }
  template <class T>
  T* as() const noexcept {
    return static_cast<T*>(memory_.get());
  }
  std::int64_t bytes() const noexcept { return bytes_; }
  /// From one of the same size.
  void copy_from(const Buffer& other) noexcept {
    std::memcpy(memory_.get(), other.memory_.get(), static_cast<std::size_t>(bytes_));
  }
  void poison() noexcept { std::memset(memory_.get(), 0xff, static_cast<std::size_t>(bytes_)); }

 private:
  static constexpr std::int64_t kPage = 2 << 20;

  struct Free {
    void operator()(void* memory) const noexcept { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  std::int64_t bytes_ = 0;
};

}  // namespace prefixshare::bench
