// SPDX-License-Identifier: Apache-2.0
// Stacks that the emulator switches between by hand, known to the sanitizers.
#pragma once

#include <cstddef>

namespace simt::detail {

/// Something that can be suspended and gone on with: a fiber, or the thread that launches.
struct Context {
  void* stack_pointer = nullptr;
  const void* bottom = nullptr;  ///< of the stack, and its size: for AddressSanitizer
  std::size_t size = 0;
  void* fake_stack = nullptr;  ///< AddressSanitizer's
  void* tsan = nullptr;        ///< what ThreadSanitizer takes for a thread
};

/// Suspends `from`, which runs, and goes on with `to`. Returns when somebody switches back.
void switch_to(Context* from, Context* to);

/// A stack of its own. It is used again and again: a start costs no more than a switch.
class Fiber : public Context {
 public:
  using Body = void (*)(void*);

  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Whoever switches here next runs body(argument). The body ends by switching away; that switch returns when the
  /// fiber is started again, and then the body must return.
  void start(Body body, void* argument);
  /// Forgets a body in the middle of its work.
  void abandon();

  void* tsan_copies = nullptr;  ///< a second such thread, for copies in flight; made when there are some

 private:
  [[noreturn]] static void enter();
  void prepare();

  Body body_ = nullptr;
  void* argument_ = nullptr;
  void* memory_ = nullptr;  ///< a guard page, then the stack
  bool fresh_ = true;       ///< nothing is on the stack
};

}  // namespace simt::detail
