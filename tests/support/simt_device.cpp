// SPDX-License-Identifier: Apache-2.0
#include "support/simt_device.hpp"

#include <cstdint>
#include <exception>
#include <utility>

#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/attend_grad_launch.cuh"
#include "prefixshare/cuda/attend_launch.cuh"

namespace prefixshare::tests {

namespace {

std::exception_ptr error;

/// A call whose kernels run in the emulator; an error of theirs is kept.
template <class F>
Status emulate(F&& f) noexcept {
  try {
    return f();
  } catch (...) {
    error = std::current_exception();
    Status s;
    s.code = StatusCode::device_error;
    s.op = "emulator";
    return s;
  }
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

using Kind = AttentionProblem;

void add_forward(Context* context, const CostModel& cost) {
  add_emulated<Kind, AttendCall>(
      &context->tree_attention, "cuda:mma-sm80", cost,
      [](const Kind& p) noexcept { return cuda::accepts_mma("tree_attention", p.kind); },
      [](const AttendCall& call, std::int32_t, std::int32_t) noexcept {
        return emulate([&] { return cuda::launch_tree_attention_mma(call, stand_in().state.capturing, emulator()); });
      });
  add_emulated<Kind, AttendCall>(
      &context->tree_attention, "cuda:simt", cost,
      [](const Kind& p) noexcept { return cuda::accepts_simt("tree_attention", p.kind); },
      [](const AttendCall& call, std::int32_t, std::int32_t) noexcept {
        return emulate([&] { return cuda::launch_tree_attention_simt(call, stand_in().state.capturing, emulator()); });
      });
}

void add_backward(Context* context, const CostModel& cost) {
  add_emulated<Kind, AttendGradCall>(
      &context->tree_attention_backward, "cuda:mma-sm80", cost,
      [](const Kind& p) noexcept { return cuda::accepts_mma_backward("tree_attention_backward", p.kind); },
      [](const AttendGradCall& call, std::int32_t, std::int32_t) noexcept {
        return emulate([&] { return cuda::launch_tree_attention_backward_mma(call, emulator()); });
      });
  add_emulated<Kind, AttendGradCall>(
      &context->tree_attention_backward, "cuda:simt", cost,
      [](const Kind& p) noexcept { return cuda::accepts_simt("tree_attention_backward", p.kind); },
      [](const AttendGradCall& call, std::int32_t, std::int32_t) noexcept {
        return emulate([&] { return cuda::launch_tree_attention_backward_simt(call, emulator()); });
      });
}

}  // namespace

Emulator& emulator() {
  static Emulator e;
  return e;
}

Context emulated_context(const CostModel& cost) {
  stand_in() = {};
  Context context;
  require_ok(create_context(&context));
  context.device = stand_in_runtime();
  add_forward(&context, cost);
  add_backward(&context, cost);
  return context;
}

void rethrow_emulated() {
  if (error) std::rethrow_exception(std::exchange(error, nullptr));
}

}  // namespace prefixshare::tests
