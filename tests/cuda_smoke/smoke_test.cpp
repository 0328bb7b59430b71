// SPDX-License-Identifier: Apache-2.0
// A build with CUDA on a machine without a device: every entry says so, in the runtime's words. On a machine with one:
// a small call of every implementation of attention runs, also from a graph. Conformance is the GPU kit's to judge.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "prefixshare/prefixshare.hpp"
#include "support/attention.hpp"
#include "support/data.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

/// What the runtime says when it is asked for a device.
cudaError_t device_error() {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  static_cast<void>(cudaGetLastError());
  return e == cudaSuccess && count == 0 ? cudaErrorNoDevice : e;
}

Context context_of_build() {
  Context context;
  require_ok(create_context(&context));
  return context;
}

LayerKind small_kind() {
  LayerKind kind;
  kind.Hq = 2;
  kind.Hkv = 1;
  kind.D = kind.Dv = 64;
  kind.q_dtype = kind.kv_dtype = DType::bf16;
  return kind;
}

void check_refusal(const Status& s) {
  INFO(to_string(s));
  CHECK(s.code == StatusCode::backend_unavailable);
  CHECK(s.got == static_cast<std::int64_t>(device_error()));
  CHECK(std::string(s.field) == cudaGetErrorName(device_error()));
}

/// The names of the entries of a list that run on a device, all of which must refuse a problem.
template <class Problem, class Call>
std::string check_refusals(const ImplementationList<Problem, Call>& list, const Problem& problem) {
  std::string names;
  for (std::int32_t i = 0; i < list.count; ++i) {
    const auto& entry = list.entries[i];
    if (entry.space != MemorySpace::device) continue;
    names += (names.empty() ? "" : " ") + std::string(entry.name);
    check_refusal(entry.accepts(problem));
  }
  return names;
}

}  // namespace

TEST_CASE("cuda: without a device every entry says so, with the runtime's error", "[cuda]") {
  if (device_error() == cudaSuccess) return skip("the case without a device", "there is one");
  const Context context = context_of_build();
  const AttentionProblem problem{small_kind(), Mode::fast, MemorySpace::device};
  CHECK(check_refusals(context.tree_attention, problem) == "cuda:mma-sm80 cuda:simt");
  CHECK(check_refusals(context.tree_attention_backward, problem) == "cuda:mma-sm80 cuda:simt");
  CHECK(check_refusals(context.merge_states, {}) == "cuda:rows");
  CHECK(check_refusals(context.merge_states_backward, {}) == "cuda:rows");
  CHECK(check_refusals(context.rope_apply, {}) == "cuda:rows");
  CHECK(check_refusals(context.rope_shift, {}) == "cuda:rows");
  CHECK(check_refusals(context.rope_rebase, {}) == "cuda:rows");
  CHECK(check_refusals(context.kv_append, {}) == "cuda:rows");
  CHECK(check_refusals(context.draft_tree_from_parents, {}) == "cuda:rows");
}

TEST_CASE("cuda: without a device every call refuses, and the host's plans are as ever", "[cuda]") {
  if (device_error() == cudaSuccess) return skip("the case without a device", "there is one");
  const Context context = context_of_build();
  const LayerKind kind = small_kind();
  const std::vector<std::int32_t> one = {1};
  Forest forest;
  require_ok(forest_from_parents({std::vector<std::int32_t>{-1}, one, one}, &forest));
  Plan plan;
  check_refusal(make_plan(context, forest, kind, {}, &plan, MemorySpace::device));
  require_ok(make_plan(context, forest, kind, {}, &plan));
  std::int32_t blocks = 7;
  check_refusal(device_blocks(context, &blocks));
  CHECK(blocks == 7);
  plan.header.space = MemorySpace::device;  // as if it had been made elsewhere
  alignas(256) unsigned char memory[65536];
  Workspace workspace;
  check_refusal(init_workspace(context, kind, limits_of(plan, 1), memory, sizeof memory, &workspace));
  DevicePlan on_device;
  on_device.data = on_device.staging = memory;
  on_device.bytes = sizeof memory;
  check_refusal(upload(context, plan, &on_device));
  CHECK(on_device.image_bytes == 0);

  float values[2] = {1, 2};
  State state{make_view(values, {1, 1, 1}), make_view(values + 1, {1, 1})};
  state.o.space = state.lse.space = MemorySpace::device;
  MergeStates merge;
  merge.parts = {&state, 1};
  merge.out = state;
  check_refusal(merge_states(context, merge));
}

namespace {

/// Memory of the device, full of NaN.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::int64_t count) : bytes_(static_cast<std::size_t>(count) * sizeof(T)) {
    REQUIRE(cudaMalloc(&data_, bytes_) == cudaSuccess);
    REQUIRE(cudaMemset(data_, 0xff, bytes_) == cudaSuccess);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(static_cast<std::int64_t>(values.size())) {
    REQUIRE(cudaMemcpy(data_, values.data(), bytes_, cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~DeviceArray() { static_cast<void>(cudaFree(data_)); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return static_cast<T*>(data_); }
  template <std::size_t Rank>
  auto view(const std::int64_t (&shape)[Rank]) const {
    auto v = make_view(data(), shape);
    v.space = MemorySpace::device;
    return v;
  }
  void clear() { REQUIRE(cudaMemset(data_, 0xff, bytes_) == cudaSuccess); }
  std::vector<T> values() const {
    std::vector<T> v(bytes_ / sizeof(T));
    REQUIRE(cudaMemcpy(v.data(), data_, bytes_, cudaMemcpyDeviceToHost) == cudaSuccess);
    return v;
  }

 private:
  std::size_t bytes_;
  void* data_ = nullptr;
};

/// One row that sees one key: o is the value, bit for bit, and lse the logit.
struct SmallCall {
  Context context = context_of_build();
  LayerKind kind = small_kind();
  Forest forest;
  Plan plan;
  std::vector<BFloat16> values;
  DeviceArray<BFloat16> q, k, v, o;
  DeviceArray<float> lse;
  KvPool pool;
  Attend args;

  static std::vector<BFloat16> numbers(std::int64_t count, float first) {
    std::vector<BFloat16> x;
    for (std::int64_t i = 0; i < count; ++i)
      x.push_back(store_as<BFloat16>(first + 0.125f * static_cast<float>(i % 5)));
    return x;
  }
  SmallCall() : values(numbers(64, -3)), q(numbers(128, 1)), k(numbers(64, 0)), v(values), o(128), lse(2) {
    const std::vector<std::int32_t> one = {1};
    require_ok(forest_from_parents({std::vector<std::int32_t>{-1}, one, one}, &forest));
    pool.k = k.view({1, 1, 1, 64});
    pool.v = v.view({1, 1, 1, 64});
    args.q = q.view({1, 2, 64});
    args.kv = {&pool, 1};
    args.o = o.view({1, 2, 64});
    args.lse = lse.view({1, 2});
  }
  void check_output() {
    const std::vector<BFloat16> got = o.values();
    CHECK(std::memcmp(got.data(), values.data(), 64 * sizeof(BFloat16)) == 0);
    CHECK(std::memcmp(got.data() + 64, values.data(), 64 * sizeof(BFloat16)) == 0);
    o.clear();
  }
};

}  // namespace

TEST_CASE("cuda: with a device a small call runs, and again from a graph", "[cuda]") {
  if (device_error() != cudaSuccess) return skip("the case with a device", cudaGetErrorName(device_error()));
  for (const char* name : {"cuda:mma-sm80", "cuda:simt"}) {
    INFO(name);
    SmallCall call;
    require_ok(force_implementation(&call.context, name));
    PlanOptions options;
    require_ok(device_blocks(call.context, &options.target_parallelism));
    require_ok(make_plan(call.context, call.forest, call.kind, options, &call.plan, MemorySpace::device));
    const PlanLimits limits = limits_of(call.plan, options.target_parallelism);
    std::int64_t bytes = 0, image = 0;
    require_ok(forward_workspace(call.kind, limits, &bytes));
    require_ok(device_plan_bytes(call.context, call.plan, &image));
    const DeviceArray<unsigned char> memory(bytes), plan_memory(image);
    std::vector<std::uint64_t> staging(static_cast<std::size_t>(image) / 8 + 2);
    void* aligned = staging.data() + reinterpret_cast<std::uintptr_t>(staging.data()) % 16 / 8;
    cudaStream_t stream = nullptr;
    REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
    DevicePlan on_device;
    on_device.data = plan_memory.data();
    on_device.staging = aligned;
    on_device.bytes = image;
    call.args.device_plan = &on_device;
    call.args.stream = {stream};
    require_ok(upload(call.context, call.plan, &on_device, call.args.stream));
    require_ok(
        init_workspace(call.context, call.kind, limits, memory.data(), bytes, &call.args.workspace, call.args.stream));
    require_ok(tree_attention(call.context, call.plan, call.args));
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    call.check_output();

    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    require_ok(tree_attention(call.context, call.plan, call.args));
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&ready, graph, 0) == cudaSuccess);
    for (int replay = 0; replay < 2; ++replay) {
      REQUIRE(cudaGraphLaunch(ready, stream) == cudaSuccess);
      REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
      call.check_output();
    }
    CHECK(cudaGraphExecDestroy(ready) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  }
}

TEST_CASE("cuda: with a device, memory of the host behind a device view is refused by name", "[cuda]") {
  if (device_error() != cudaSuccess) return skip("the case with a device", cudaGetErrorName(device_error()));
  const Context context = context_of_build();
  const DeviceArray<float> on_device(std::vector<float>{1, 0});
  float on_host[2] = {1, 0};
  State out{on_device.view({1, 1, 1}), on_device.view({1, 1})}, part = out;
  out.lse.data = on_device.data() + 1;
  part.o.data = on_host;
  part.lse.data = on_host + 1;
  MergeStates merge;
  merge.parts = {&part, 1};
  merge.out = out;
  const Status s = merge_states(context, merge);
  INFO(to_string(s));
  CHECK(s.code == StatusCode::invalid_argument);
  CHECK(std::string(s.argument) == "parts.o");
}
