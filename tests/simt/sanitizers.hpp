// SPDX-License-Identifier: Apache-2.0
// What the emulator tells the sanitizers, if the program has any: their functions are weak. Sources of the emulator are
// never compiled for ThreadSanitizer, which would watch the emulator instead of the kernel.
#pragma once

#include <cstddef>

extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, std::size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, std::size_t* size);
__attribute__((weak)) void __asan_poison_memory_region(void const volatile* p, std::size_t bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(void const volatile* p, std::size_t bytes);
__attribute__((weak)) void* __asan_region_is_poisoned(void* p, std::size_t bytes);

__attribute__((weak)) void* __tsan_get_current_fiber(void);
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_destroy_fiber(void* fiber);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* token);
__attribute__((weak)) void __tsan_release(void* token);
__attribute__((weak)) void __tsan_read_range_pc(void* p, unsigned long bytes, void* pc);
__attribute__((weak)) void __tsan_write_range_pc(void* p, unsigned long bytes, void* pc);
__attribute__((weak)) void __tsan_ignore_thread_begin(void);
__attribute__((weak)) void __tsan_ignore_thread_end(void);
}

namespace simt::detail {

inline bool has_asan() { return __sanitizer_start_switch_fiber != nullptr && __asan_region_is_poisoned != nullptr; }
inline bool has_tsan() { return __tsan_create_fiber != nullptr; }

/// True if AddressSanitizer knows that some of the bytes may not be touched.
inline bool poisoned(const void* p, std::size_t bytes) {
  return has_asan() && __asan_region_is_poisoned(const_cast<void*>(p), bytes) != nullptr;
}
inline void poison(const void* p, std::size_t bytes) {
  if (has_asan()) __asan_poison_memory_region(p, bytes);
}
inline void unpoison(const void* p, std::size_t bytes) {
  if (has_asan()) __asan_unpoison_memory_region(p, bytes);
}

/// A point that whoever acquires it is ordered after all who released it.
struct Token {
  char address = 0;
  void release() {
    if (has_tsan()) __tsan_release(&address);
  }
  void acquire() {
    if (has_tsan()) __tsan_acquire(&address);
  }
};

/// What the emulator does for itself while this lives is not an access of the kernel.
class Unseen {
 public:
  Unseen() {
    if (has_tsan()) __tsan_ignore_thread_begin();
  }
  ~Unseen() {
    if (has_tsan()) __tsan_ignore_thread_end();
  }
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

}  // namespace simt::detail
