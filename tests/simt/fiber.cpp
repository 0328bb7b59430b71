// SPDX-License-Identifier: Apache-2.0
#include "simt/fiber.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "simt/sanitizers.hpp"

// prefixshare_simt_switch(&old, new): saves what a call must keep on the stack that is left, whose pointer goes to
// `old`, and returns on the stack `new`.
#if defined(__x86_64__)

asm(R"(
.text
.globl prefixshare_simt_switch
.type prefixshare_simt_switch, @function
prefixshare_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rdx  # a jump, because a return to another place than its call's is always mispredicted
  jmpq *%rdx
.size prefixshare_simt_switch, .-prefixshare_simt_switch
)");

#elif defined(__aarch64__)

asm(R"(
.text
.globl prefixshare_simt_switch
.type prefixshare_simt_switch, %function
prefixshare_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size prefixshare_simt_switch, .-prefixshare_simt_switch
)");

#else

#include <ucontext.h>

extern "C" void prefixshare_simt_switch(void** old_stack, void* new_stack) {
  ucontext_t here;  // lies on the stack that is left, and so lives until somebody comes back
  *old_stack = &here;
  swapcontext(&here, static_cast<ucontext_t*>(new_stack));
}

#endif

extern "C" void prefixshare_simt_switch(void** old_stack, void* new_stack);

namespace simt::detail {

namespace {

constexpr std::size_t kStack =
    256 * 1024;  // kernels have few local variables; a sanitizer makes frames several times larger
constexpr std::size_t kGuard = 64 * 1024;  // a page, whatever its size

thread_local Context* left = nullptr;  // by the switch that goes on
thread_local Context* entered = nullptr;

/// First thing after a switch, on the stack of `self`.
void arrive_on(Context* self) {
  if (!has_asan()) return;
  // This also tells where the stack was that was left, which is how the launching thread's is known.
  __sanitizer_finish_switch_fiber(self->fake_stack, &left->bottom, &left->size);
}

}  // namespace

void switch_to(Context* from, Context* to) {
  constexpr unsigned kOrdersNothing = 1;
  left = from;
  entered = to;
  if (has_asan()) __sanitizer_start_switch_fiber(&from->fake_stack, to->bottom, to->size);
  if (has_tsan()) __tsan_switch_to_fiber(to->tsan, kOrdersNothing);
  prefixshare_simt_switch(&from->stack_pointer, to->stack_pointer);
  arrive_on(from);
}

Fiber::Fiber() {
  memory_ = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory_ == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory_, kGuard, PROT_NONE);
  bottom = static_cast<char*>(memory_) + kGuard;
  size = kStack;
}

Fiber::~Fiber() {
  abandon();
  if (tsan_copies != nullptr) __tsan_destroy_fiber(tsan_copies);
  unpoison(bottom, size);
  munmap(memory_, kGuard + kStack);
}

void Fiber::abandon() {
  fresh_ = true;
  fake_stack = nullptr;
  if (tsan != nullptr) __tsan_destroy_fiber(tsan);  // with the calls that it is in
  tsan = nullptr;
}

void Fiber::start(Body body, void* argument) {
  body_ = body;
  argument_ = argument;
  if (fresh_) prepare();
  fresh_ = false;
}

void Fiber::enter() {
  Fiber* self = static_cast<Fiber*>(entered);
  arrive_on(self);
  for (;;) self->body_(self->argument_);
}

void Fiber::prepare() {
  unpoison(bottom, size);  // what frames of an abandoned body have marked
  if (has_tsan()) tsan = __tsan_create_fiber(0);
  char* const top = static_cast<char*>(memory_) + kGuard + kStack;
#if defined(__x86_64__)
  // Six registers, the address to go to, and a return address that ends a debugger's walk up the stack.
  void** const frame = reinterpret_cast<void**>(top) - 8;
  for (int i = 0; i < 8; ++i) frame[i] = nullptr;
  frame[6] = reinterpret_cast<void*>(&Fiber::enter);
  stack_pointer = frame;
#elif defined(__aarch64__)
  constexpr int kRegisters = 20, kLink = 11;
  void** const frame = reinterpret_cast<void**>(top) - kRegisters;
  for (int i = 0; i < kRegisters; ++i) frame[i] = nullptr;
  frame[kLink] = reinterpret_cast<void*>(&Fiber::enter);
  stack_pointer = frame;
#else
  ucontext_t* const frame = new (top - sizeof(ucontext_t) / 64 * 64 - 64) ucontext_t;
  getcontext(frame);
  frame->uc_stack.ss_sp = static_cast<char*>(memory_) + kGuard;
  frame->uc_stack.ss_size =
      static_cast<std::size_t>(reinterpret_cast<char*>(frame) - static_cast<char*>(frame->uc_stack.ss_sp));
  makecontext(frame, &Fiber::enter, 0);
  stack_pointer = frame;
#endif
}

}  // namespace simt::detail
