// SPDX-License-Identifier: Apache-2.0
// A device whose kernels run in the emulator: its memory is the host's, its implementations are those of CUDA with
// their names. Tests of the folder cuda use it.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/attend_grad_launch.cuh"
#include "prefixshare/cuda/attend_launch.cuh"
#include "support/device.hpp"
#include "support/emulator.hpp"

namespace prefixshare::tests {

/// How kernels run from now on, and what was launched since this was last assigned.
inline Emulator& emulator() {
  static Emulator e;
  return e;
}

template <class Problem, class Call>
void add_emulated(ImplementationList<Problem, Call>* list, const char* name, const CostModel& cost,
                  Status (*accepts)(const Problem&) noexcept,
                  Status (*part)(const Call&, std::int32_t, std::int32_t) noexcept) {
  Implementation<Problem, Call> entry;
  entry.name = name;
  entry.space = MemorySpace::device;
  entry.accepts = accepts;
  entry.part = part;
  entry.cost = cost;
  require_ok(list->add(entry, false));
}

/// A context with the implementations of attention that the product has on a device, in its order. A wrong kernel ends
/// the test: the emulator's error must not leave a noexcept call, so it is thrown on by `rethrow_emulated`.
struct Emulated {
  static std::exception_ptr& error() {
    static std::exception_ptr e;
    return e;
  }
  template <class F>
  static Status run(F&& f) noexcept {
    try {
      return f();
    } catch (...) {
      error() = std::current_exception();
      Status s;
      s.code = StatusCode::device_error;
      s.op = "emulator";
      return s;
    }
  }
};
inline void rethrow_emulated() {
  if (Emulated::error()) std::rethrow_exception(std::exchange(Emulated::error(), nullptr));
}

inline Context emulated_context(const CostModel& cost) {
  stand_in() = {};
  Context context;
  require_ok(create_context(&context));
  context.device = stand_in_runtime();
  using Kind = AttentionProblem;
  add_emulated<Kind, AttendCall>(
      &context.tree_attention, "cuda:mma-sm80", cost,
      [](const Kind& p) noexcept { return cuda::accepts_mma("tree_attention", p.kind); },
      [](const AttendCall& call, std::int32_t, std::int32_t) noexcept {
        const bool capturing = stand_in().state.capturing;
        return Emulated::run([&] { return cuda::launch_tree_attention_mma(call, capturing, emulator()); });
      });
  add_emulated<Kind, AttendCall>(
      &context.tree_attention, "cuda:simt", cost,
      [](const Kind& p) noexcept { return cuda::accepts_simt("tree_attention", p.kind); },
      [](const AttendCall& call, std::int32_t, std::int32_t) noexcept {
        const bool capturing = stand_in().state.capturing;
        return Emulated::run([&] { return cuda::launch_tree_attention_simt(call, capturing, emulator()); });
      });
  add_emulated<Kind, AttendGradCall>(
      &context.tree_attention_backward, "cuda:mma-sm80", cost,
      [](const Kind& p) noexcept { return cuda::accepts_mma_backward("tree_attention_backward", p.kind); },
      [](const AttendGradCall& call, std::int32_t, std::int32_t) noexcept {
        return Emulated::run([&] { return cuda::launch_tree_attention_backward_mma(call, emulator()); });
      });
  add_emulated<Kind, AttendGradCall>(
      &context.tree_attention_backward, "cuda:simt", cost,
      [](const Kind& p) noexcept { return cuda::accepts_simt("tree_attention_backward", p.kind); },
      [](const AttendGradCall& call, std::int32_t, std::int32_t) noexcept {
        return Emulated::run([&] { return cuda::launch_tree_attention_backward_simt(call, emulator()); });
      });
  return context;
}

}  // namespace prefixshare::tests
