// SPDX-License-Identifier: Apache-2.0
// Attention on a device, as far as the host has to do with it: uploads, workspaces, and what calls are refused, with a
// stand-in for the device.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "prefixshare/cuda/make_image.hpp"
#include "support/device.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

/// A prompt, answers below it, sinks, and a length that only the device knows.
Problem make_device_problem(Mode mode = Mode::fast) {
  Topology topology = prefixshare::testing::prefix_group(700, std::vector<std::int32_t>(9, 12), false);
  topology.nodes.back().length_slot = mode == Mode::fast ? 0 : -1;
  ProblemOptions options;
  options.kind.Hq = 8;
  options.kind.Hkv = 2;
  options.kind.D = options.kind.Dv = 64;
  options.sinks = options.backward = true;
  Problem p;
  require_ok(make_problem(topology, options, &p));
  for (std::size_t n = 0; n < p.actual_lengths.size(); ++n) p.actual_lengths[n] = 5;
  return p;
}
PlanOptions both_directions(Mode mode = Mode::fast) {
  PlanOptions options;
  options.mode = mode;
  options.backward = true;
  options.sharing = Sharing::always;
  return options;
}

void check_refused(const Status& s, StatusCode code, const std::string& argument, const std::string& field,
                   std::int64_t got, std::int64_t want) {
  INFO(to_string(s));
  CHECK(s.code == code);
  CHECK(std::string(s.argument) == argument);
  CHECK(std::string(s.field) == field);
  CHECK(s.got == got);
  CHECK(s.want == want);
}
constexpr StatusCode kInvalid = StatusCode::invalid_argument;
constexpr StatusCode kStale = StatusCode::stale_plan;
constexpr StatusCode kUnavailable = StatusCode::backend_unavailable;
constexpr StatusCode kUnsupported = StatusCode::unsupported;
constexpr StatusCode kSmall = StatusCode::workspace_too_small;

}  // namespace

TEST_CASE("device calls: a plan for a device, uploaded, reaches its implementation whole, in its stream", "[device]") {
  Problem p = make_device_problem();
  DeviceCall call(device_context(), p, both_directions());
  CHECK(call.plan.header.space == MemorySpace::device);
  CHECK(call.plan.header.target_parallelism == 6);
  int stream = 0;
  call.args.stream = {&stream};
  require_ok(call.forward());
  CHECK(stand_in().stream.handle == &stream);
  CHECK(stand_in().forward.args.device_plan == &call.device_plan);
  stand_in().stream = {};
  require_ok(call.backward());
  CHECK(stand_in().stream.handle == &stream);
  CHECK(stand_in().backward.args.fwd.device_plan == &call.device_plan);
  CHECK(stand_in().calls == 2);

  call.context.executor.concurrency = 4;  // which is not for devices
  call.context.executor.parallel_for = [](void*, std::int32_t, void (*)(void*, std::int32_t), void*) {
    FAIL("a call on a device is not cut into parts");
  };
  require_ok(call.forward());
  require_ok(tree_attention_part(call.context, call.plan, call.args, 0, 1));
  check_refused(tree_attention_part(call.context, call.plan, call.args, 0, 2), kUnsupported, "parts", "", 2, 1);
  check_refused(tree_attention_part(call.context, call.plan, call.args, 1, 2), kUnsupported, "parts", "", 2, 1);
  check_refused(tree_attention_backward_part(call.context, call.plan, call.grad, 1, 3), kUnsupported, "parts", "", 3,
                1);
  CHECK(stand_in().calls == 4);

  const std::vector<Verdict> verdicts = explain(call.context, call.plan);
  CHECK(verdicts.front().name == "test:device");
  CHECK(verdicts.front().runs);
  CHECK(verdicts.back().name == "cpu:portable");
  CHECK(verdicts.back().status.code == kUnavailable);
}

TEST_CASE("device calls: the plan must be there, and be this one", "[device]") {
  Problem p = make_device_problem();
  DeviceCall call(device_context(), p, both_directions());
  const DevicePlan good = call.device_plan;
  const auto refused = [&](StatusCode code, const char* field, std::int64_t got, std::int64_t want) {
    check_refused(call.forward(), code, "device_plan", field, got, want);
    check_refused(call.backward(), code, "device_plan", field, got, want);
    call.device_plan = good;
    call.args.device_plan = &call.device_plan;
  };
  call.args.device_plan = nullptr;
  refused(kInvalid, "", 0, 0);
  call.device_plan.data = nullptr;
  refused(kInvalid, "data", 0, 0);
  call.device_plan.image_bytes = 0;
  refused(kStale, "image_bytes", 0, 0);
  ++call.device_plan.plan.fingerprint;
  const auto fingerprint = static_cast<std::int64_t>(good.plan.fingerprint);
  refused(kStale, "fingerprint", fingerprint + 1, fingerprint);
  call.device_plan.ordinal = 3;
  refused(kInvalid, "ordinal", 3, 0);

  PlanOptions options = both_directions();  // other plans of the same forest
  for (int other = 0; other < 4; ++other) {
    LayerKind kind = p.options.kind;
    options.target_parallelism = other == 0 ? 5 : 6;
    options.backward = other != 1;
    if (other == 2) kind.window = 100;
    if (other == 3) options.sharing = Sharing::never;
    Plan plan;
    require_ok(make_plan(call.context, p.forest, kind, options, &plan, MemorySpace::device));
    AlignedBytes data(1 << 20), staging(1 << 20);
    call.device_plan.data = data.data();
    call.device_plan.staging = staging.data();
    call.device_plan.bytes = 1 << 20;
    require_ok(upload(call.context, plan, &call.device_plan));
    refused(kStale, "plan (is the one that was uploaded)", 0, 1);
  }
  CHECK(stand_in().calls == 0);
  require_ok(call.forward());
}

TEST_CASE("device calls: memory that is not on the stream's device is named", "[device]") {
  Problem p = make_device_problem();
  DeviceCall call(device_context(), p, both_directions());
  const auto refused = [&](const void* data, const char* argument, bool forward, bool backward) {
    for (const std::int32_t owner : {-1, 2}) {
      INFO(argument << " on " << owner);
      stand_in().elsewhere = {{data, owner}};
      const Status f = call.forward(), b = call.backward();
      if (forward) check_refused(f, kInvalid, argument, "device (-1: the host)", owner, 0);
      if (backward) check_refused(b, kInvalid, argument, "device (-1: the host)", owner, 0);
      CHECK(f.ok() != forward);
      CHECK(b.ok() != backward);
    }
  };
  refused(call.args.q.data, "q", true, true);
  refused(call.args.kv[0].k.data, "kv.k", true, false);
  refused(call.args.o.data, "o", true, true);
  refused(call.args.lse.data, "lse", true, false);
  refused(call.args.sinks.data(), "sinks", true, true);
  refused(call.args.actual_lengths.data(), "actual_lengths", true, true);
  refused(call.args.workspace.data, "workspace", true, true);
  refused(call.device_plan.data, "device_plan", true, true);
  refused(call.grad.dout.data, "dout", false, true);
  refused(call.grad.dq.data, "dq", false, true);
  refused(call.grad.dkv[0].dk.data, "dkv.dk", false, true);
  refused(call.grad.dsinks.data(), "dsinks", false, true);
  stand_in().elsewhere.clear();
  Status lost;
  lost.code = StatusCode::device_error;
  lost.op = "device";
  stand_in().answer = lost;
  CHECK(call.forward().code == StatusCode::device_error);
  CHECK(std::string(call.forward().op) == "tree_attention");
}

TEST_CASE("device calls: what else a call on a device is refused for", "[device]") {
  Problem p = make_device_problem();
  DeviceCall call(device_context(), p, both_directions());
  PackedSegment packed;
  packed.data = &packed;
  call.pools[0].packed = {&packed, 1};
  check_refused(call.forward(), kUnsupported, "kv.packed", "size", 1, 0);
  call.pools[0].packed = {};

  call.args.o.data = call.image.data();  // 10 rows of 8 heads: larger than the image
  check_refused(call.forward(), kInvalid, "o", "overlap", 1, 0);
  call.args.o = p.attend().o;
  check_refused(call.forward(), kUnavailable, "o", "space", 0, 1);
  call.args.o.space = MemorySpace::device;
  require_ok(call.forward());

  call.context.device = {};
  check_refused(call.forward(), kUnavailable, "context", "device runtime", 0, 1);
  Context host;
  require_ok(create_context(&host));
  check_refused(tree_attention(host, call.plan, call.args), kUnsupported, "plan", "implementation (in the context)", 0,
                1);
}

TEST_CASE("device calls: a workspace of exactly what limits say serves, a byte less does not", "[device][workspace]") {
  for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
    Problem p = make_device_problem(mode);
    DeviceCall call(device_context(), p, both_directions(mode));
    const LayerKind& kind = call.plan.header.kind;
    std::int64_t forward = 0, backward = 0;
    require_ok(forward_workspace(kind, call.limits(), &forward));
    require_ok(backward_workspace(kind, call.limits(), &backward));
    const std::int64_t counters = (call.plan.header.rows * std::int64_t{kind.Hkv} * 4 + 255) / 256 * 256;
    const std::int64_t states = call.plan.header.partial_rows * kind.Hq * (kind.Dv + 1) * std::int64_t{4};
    const std::int64_t folds = mode == Mode::fast ? 0 : 6 * 64 * (kind.Dv + 1) * std::int64_t{4};
    CHECK(states > 0);
    CHECK(forward >= counters + states + folds);
    CHECK(forward < counters + states + folds + 512);
    CHECK(call.args.workspace.counter_bytes == counters);
    CHECK(backward >= counters + call.plan.header.rows * kind.Hq * 4);
    CHECK(backward < counters + call.plan.header.rows * kind.Hq * 4 + 512);

    const std::int64_t needed = call.args.workspace.counter_bytes + forward - counters;
    call.args.workspace.bytes = needed;
    require_ok(call.forward());
    --call.args.workspace.bytes;
    check_refused(call.forward(), kSmall, "workspace", "bytes", needed - 1, needed);
    call.grad.workspace.bytes = backward;
    require_ok(call.backward());
    --call.grad.workspace.bytes;
    check_refused(call.backward(), kSmall, "workspace", "bytes", backward - 1, backward);
    call.args.workspace = {};
    check_refused(call.forward(), kSmall, "workspace", "data", 0, 0);
  }
}

TEST_CASE("init_workspace: counters on a device are zeroed in the stream, and the host keeps its hands off",
          "[device][workspace]") {
  const Context context = device_context();
  PlanLimits limits;
  limits.rows = 100;
  limits.parts = 6;
  limits.space = MemorySpace::device;
  LayerKind kind;
  kind.Hq = kind.Hkv = 4;
  std::int64_t bytes = 0;
  require_ok(forward_workspace(kind, limits, &bytes));
  AlignedBytes memory(bytes);
  int stream = 0;
  Workspace workspace;
  require_ok(init_workspace(context, kind, limits, memory.data(), bytes, &workspace, {&stream}));
  CHECK(stand_in().clears == std::vector<std::int64_t>{1792});  // 100 rows x 4 heads x 4 bytes, up to 256
  CHECK(stand_in().stream.handle == &stream);
  CHECK(workspace.counter_bytes == 1792);
  CHECK(workspace.bytes == bytes);

  const Workspace before = workspace;
  check_refused(init_workspace(kind, limits, memory.data(), bytes, &workspace), kUnavailable, "limits", "space", 1, 0);
  check_refused(init_workspace(context, kind, limits, memory.data(), bytes - 1, &workspace), kSmall, "workspace",
                "bytes", bytes - 1, bytes);
  check_refused(init_workspace(context, kind, limits, nullptr, bytes, &workspace), kInvalid, "data", "", 0, 0);
  CHECK(init_workspace(context, kind, limits, memory.data(), bytes, nullptr).code == kInvalid);
  stand_in().elsewhere = {{memory.data(), -1}};
  check_refused(init_workspace(context, kind, limits, memory.data(), bytes, &workspace), kInvalid, "data",
                "device (-1: the host)", -1, 0);
  Context without;
  require_ok(create_context(&without));
  without.device = {};
  check_refused(init_workspace(without, kind, limits, memory.data(), bytes, &workspace), kUnavailable, "context",
                "device runtime", 0, 1);
  CHECK(std::memcmp(&workspace, &before, sizeof before) == 0);
  CHECK(stand_in().clears.size() == 1);

  limits.space = MemorySpace::host;  // the same entry for either
  require_ok(forward_workspace(kind, limits, &bytes));
  AlignedBytes on_host(bytes);
  require_ok(init_workspace(context, kind, limits, on_host.data(), bytes, &workspace));
  CHECK(stand_in().clears.size() == 1);
  limits.space = static_cast<MemorySpace>(7);
  check_refused(forward_workspace(kind, limits, &bytes), kInvalid, "limits", "space", 7, 1);
}

TEST_CASE("upload: one copy of the image, in the stream, and what it recorded", "[device]") {
  Problem p = make_device_problem();
  DeviceCall call(device_context(), p, both_directions());
  const std::int64_t bytes = cuda::image_bytes(call.plan.view(), 6);
  CHECK(stand_in().copies == std::vector<std::int64_t>{bytes});
  AlignedBytes image(bytes);
  cuda::write_image(call.plan.view(), 6, image.data());
  CHECK(std::memcmp(image.data(), call.device_plan.data, static_cast<std::size_t>(bytes)) == 0);
  CHECK(call.device_plan.image_bytes == bytes);
  CHECK(call.device_plan.blocks == 6);
  CHECK(call.device_plan.ordinal == 0);
  CHECK(call.device_plan.plan.fingerprint == call.plan.header.fingerprint);
  std::int64_t asked = 0;
  require_ok(device_plan_bytes(call.context, call.plan, &asked));
  CHECK(asked == bytes);
  int stream = 0;
  require_ok(upload(call.context, call.plan, &call.device_plan, {&stream}));
  CHECK(stand_in().stream.handle == &stream);
  CHECK(stand_in().copies.size() == 2);
}

TEST_CASE("upload: refusals leave what was uploaded, a failed copy leaves nothing", "[device]") {
  Problem p = make_device_problem();
  DeviceCall call(device_context(), p, both_directions());
  const DevicePlan good = call.device_plan;
  const auto refused = [&](StatusCode code, const char* argument, const char* field, std::int64_t got,
                           std::int64_t want) {
    check_refused(upload(call.context, call.plan, &call.device_plan), code, argument, field, got, want);
    CHECK(call.device_plan.image_bytes == good.image_bytes);
    call.device_plan = good;
  };
  call.device_plan.bytes = good.image_bytes - 1;
  refused(StatusCode::capacity_exceeded, "to", "bytes", good.image_bytes - 1, good.image_bytes);
  call.device_plan.data = nullptr;
  refused(kInvalid, "to", "data", 0, 0);
  call.device_plan.staging = nullptr;
  refused(kInvalid, "to", "staging", 0, 0);
  call.device_plan.data = static_cast<char*>(good.data) + 128;
  refused(kInvalid, "to", "data's alignment", 128, 0);
  call.device_plan.staging = static_cast<char*>(good.staging) + 8;
  refused(kInvalid, "to", "staging's alignment", 8, 0);
  stand_in().elsewhere = {{good.data, 1}};
  refused(kInvalid, "to", "device (-1: the host)", 1, 0);
  stand_in().elsewhere.clear();
  call.plan.header.space = MemorySpace::host;
  refused(kInvalid, "plan", "space", 0, 1);
  call.plan.header.space = MemorySpace::device;
  call.plan.header.version = kPlanVersion + 1;
  refused(kStale, "plan", "version", kPlanVersion + 1, kPlanVersion);
  call.plan.header.version = kPlanVersion;
  const std::int64_t partial_rows = call.plan.header.partial_rows;
  call.plan.header.partial_rows = std::int64_t{1} << 31;
  refused(StatusCode::capacity_exceeded, "plan", "ordinals of its image", std::int64_t{1} << 31, INT32_MAX);
  call.plan.header.partial_rows = partial_rows;
  const DeviceRuntime device = call.context.device;
  call.context.device.clear = nullptr;
  refused(kUnavailable, "context", "device runtime", 0, 1);
  call.context.device = device;
  CHECK(upload(call.context, call.plan, nullptr).code == kInvalid);
  CHECK(device_plan_bytes(call.context, call.plan, nullptr).code == kInvalid);
  CHECK(stand_in().copies.size() == 1);

  call.context.device.copy = [](void*, const void*, std::int64_t, Stream) noexcept {
    Status s;
    s.code = StatusCode::device_error;
    return s;
  };
  const Status failed = upload(call.context, call.plan, &call.device_plan);
  CHECK(failed.code == StatusCode::device_error);
  CHECK(std::string(failed.op) == "upload");
  CHECK(call.device_plan.image_bytes == 0);
  CHECK(call.forward().code == kStale);
}

TEST_CASE("make_plan for a device: the refusal is that of an implementation which runs there", "[device]") {
  Context context = device_context();
  REQUIRE(context.tree_attention.entries[0].space == MemorySpace::device);
  context.tree_attention.entries[0].accepts = [](const AttentionProblem&) noexcept {
    Status s;
    s.code = StatusCode::backend_unavailable;
    s.field = "no such device";
    return s;
  };
  Problem p = make_device_problem();
  Plan plan;
  const Status s = make_plan(context, p.forest, p.options.kind, {}, &plan, MemorySpace::device);
  CHECK(std::string(s.field) == "no such device");
  std::int32_t blocks = 0;
  require_ok(device_blocks(context, &blocks));
  CHECK(blocks == 6);
  CHECK(device_blocks(context, nullptr).code == kInvalid);
}
