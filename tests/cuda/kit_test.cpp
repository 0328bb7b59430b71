// SPDX-License-Identifier: Apache-2.0
// The cases of the GPU kit on an emulated device: the whole way of a call from plan and upload to the kernels, and the
// same kernels recorded and run again as a graph does.
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "gpu/conformance.hpp"
#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/attend_grad_launch.cuh"
#include "prefixshare/cuda/attend_launch.cuh"
#include "prefixshare/cuda/draft_tree.cuh"
#include "prefixshare/cuda/kv_append.cuh"
#include "prefixshare/cuda/merge_states.cuh"
#include "prefixshare/cuda/rope.cuh"
#include "prefixshare/cuda/rope_rebase.cuh"
#include "simt/simt.hpp"
#include "support/catch.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::gpu;

/// Launches that are kept instead of run, while there is somewhere to keep them.
std::vector<std::function<void()>>* recording = nullptr;

/// Starts kernels in the emulator, as the product starts them on a device.
struct Launch {
  template <class Params>
  Status operator()(void (*kernel)(Params), std::int64_t blocks, int threads, std::int64_t shared_bytes, bool,
                    const Params& params) const {
    const simt::Grid grid{static_cast<int>(blocks), threads, static_cast<int>(shared_bytes)};
    const auto run = [=] { simt::launch(kernel, grid, simt::Options{}, params); };
    recording != nullptr ? recording->push_back(run) : run();
    return {};
  }
  Status shared_memory(std::int64_t* of_block, std::int64_t* of_processor) const {
    *of_block = 227 * 1024;
    *of_processor = 228 * 1024;
    return {};
  }
};

class EmulatedMachine : public Machine {
 public:
  std::function<void()> record(const std::function<void(Stream)>& work) const override {
    std::vector<std::function<void()>> launches;
    recording = &launches;
    work({});
    recording = nullptr;
    return [launches] {
      for (const auto& launch : launches) launch();
    };
  }
};

DeviceRuntime emulated_runtime() {
  DeviceRuntime r;
  r.state = [](Stream, DeviceState* state) noexcept {
    *state = {0, 6, recording != nullptr};
    return Status{};
  };
  r.owner = [](const void*, std::int32_t* ordinal) noexcept {
    *ordinal = 0;
    return Status{};
  };
  r.copy = [](void* to, const void* from, std::int64_t bytes, Stream) noexcept {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
    return Status{};
  };
  r.clear = [](void* data, std::int64_t bytes, Stream) noexcept {
    std::memset(data, 0, static_cast<std::size_t>(bytes));
    return Status{};
  };
  return r;
}

template <auto Run, class Call>
Status launched(const Call& call, std::int32_t, std::int32_t) noexcept {
  if constexpr (std::is_invocable_v<decltype(Run), const Call&, Launch&&>) {
    return Run(call, Launch{});
  } else {
    return Run(call, recording != nullptr, Launch{});
  }
}
template <auto Run, class Problem, class Call>
void add(ImplementationList<Problem, Call>* list, const char* name = "cuda:rows",
         Status (*accepts)(const Problem&) noexcept = nullptr, const CostModel& cost = {}) {
  Implementation<Problem, Call> entry;
  entry.name = name;
  entry.space = MemorySpace::device;
  entry.accepts = accepts;
  entry.part = &launched<Run, Call>;
  entry.cost = cost;
  throw_if_error(list->add(entry, false));
}
template <Status (*Accepts)(const char*, const LayerKind&) noexcept>
Status accepts(const AttentionProblem& problem) noexcept {
  return Accepts("tree_attention", problem.kind);
}

Target emulated_target() {
  Target t;
  t.machine = std::make_shared<EmulatedMachine>();
  t.space = MemorySpace::device;
  throw_if_error(create_context(&t.context));
  t.context.device = emulated_runtime();
  constexpr const char *kMma = "cuda:mma-sm80", *kSimt = "cuda:simt";
  add<&cuda::launch_tree_attention_mma<Launch>>(&t.context.tree_attention, kMma, accepts<cuda::accepts_mma>,
                                                cuda::kMmaCost);
  add<&cuda::launch_tree_attention_simt<Launch>>(&t.context.tree_attention, kSimt, accepts<cuda::accepts_simt>,
                                                 cuda::kSimtCost);
  add<&cuda::launch_tree_attention_backward_mma<Launch>>(&t.context.tree_attention_backward, kMma,
                                                         accepts<cuda::accepts_mma_backward>);
  add<&cuda::launch_tree_attention_backward_simt<Launch>>(&t.context.tree_attention_backward, kSimt,
                                                          accepts<cuda::accepts_simt>);
  add<&cuda::launch_merge_states<Launch>>(&t.context.merge_states);
  add<&cuda::launch_merge_states_backward<Launch>>(&t.context.merge_states_backward);
  add<&cuda::launch_rope_apply<Launch>>(&t.context.rope_apply);
  add<&cuda::launch_rope_shift<Launch>>(&t.context.rope_shift);
  add<&cuda::launch_rope_rebase<Launch>>(&t.context.rope_rebase);
  add<&cuda::launch_kv_append<Launch>>(&t.context.kv_append);
  add<&cuda::launch_draft_tree_from_parents<Launch>>(&t.context.draft_tree_from_parents);
  throw_if_error(device_blocks(t.context, &t.blocks));
  return t;
}

void check_cases(void (*add_cases)(const CaseOptions&, std::vector<Case>*)) {
  CaseOptions options;
  options.target = &emulated_target;
  options.seeds = 1;
  options.small = true;
  std::vector<Case> cases;
  add_cases(options, &cases);
#if defined(PREFIXSHARE_ASAN) || defined(PREFIXSHARE_TSAN)
  constexpr std::size_t kStep = 7;  // tests of the kernels themselves have the sanitizers' time
#else
  constexpr std::size_t kStep = 1;
#endif
  for (std::size_t i = 0; i < cases.size(); i += kStep) {
    const Case& c = cases[i];
    const Result r = c.run();
    INFO(c.name << ": " << r.text);
    CHECK(r.outcome == Outcome::passed);
  }
}

}  // namespace

TEST_CASE("gpu kit: the operators on rows pass its cases in the emulator", "[cuda]") { check_cases(&add_row_cases); }
TEST_CASE("gpu kit: the forward passes its cases in the emulator", "[cuda]") { check_cases(&add_forward_cases); }
TEST_CASE("gpu kit: the backward passes its cases in the emulator", "[cuda]") { check_cases(&add_backward_cases); }
TEST_CASE("gpu kit: calls amid other work pass its cases in the emulator", "[cuda]") { check_cases(&add_order_cases); }
