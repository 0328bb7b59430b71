// SPDX-License-Identifier: Apache-2.0
// A block's shared memory in the emulator.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "simt/sanitizers.hpp"

namespace simt::detail {

/// Bytes that are full of NaN at first, with bounds of their own, and gaps that nobody may touch.
class Window {
 public:
  Window(int bytes, bool misalign) : bytes_(static_cast<std::size_t>(bytes)), before_(misalign ? 128 : 0) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 1024, before_ + bytes_ + kBehind) != 0) throw std::bad_alloc();
    memory_ = static_cast<unsigned char*>(memory);
    std::memset(memory_, 0xff, before_ + bytes_ + kBehind);
    poison(memory_, before_);
    poison(begin() + bytes_, kBehind);
  }
  ~Window() {
    unpoison(memory_, before_ + bytes_ + kBehind);
    std::free(memory_);
  }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  unsigned char* begin() const { return memory_ + before_; }
  std::size_t bytes() const { return bytes_; }
  bool contains(const void* p, std::size_t n) const {
    const auto address = reinterpret_cast<std::uintptr_t>(p), first = reinterpret_cast<std::uintptr_t>(begin());
    return address >= first && address + n <= first + bytes_;
  }
  /// The bytes are no kernel's any more. Every thread may say so.
  void guard(void* p, std::size_t n) {
    for (const Guard& g : guards_) {
      if (g.p == p && g.bytes == n) return;
    }
    guards_.push_back({static_cast<unsigned char*>(p), n});
    std::memset(p, 0xff, n);
    poison(p, n);
  }
  bool guarded(const unsigned char* p, std::size_t n) const {
    for (const Guard& g : guards_) {
      if (p < g.p + g.bytes && g.p < p + n) return true;
    }
    return false;
  }
  /// What was written that should not have been, or null.
  const char* damage() {
    unpoison(memory_, before_ + bytes_ + kBehind);
    if (!untouched(memory_, before_)) return "before its begin";
    if (!untouched(begin() + bytes_, kBehind)) return "behind its end";
    for (const Guard& g : guards_) {
      if (!untouched(g.p, g.bytes)) return "in a guarded gap";
    }
    return nullptr;
  }

 private:
  struct Guard {
    unsigned char* p;
    std::size_t bytes;
  };
  static constexpr std::size_t kBehind = 1024;  // a write that goes further may hit anything

  static bool untouched(const unsigned char* p, std::size_t n) {
    return std::all_of(p, p + n, [](unsigned char byte) { return byte == 0xff; });
  }

  std::size_t bytes_, before_;
  unsigned char* memory_ = nullptr;
  std::vector<Guard> guards_;
};

}  // namespace simt::detail
