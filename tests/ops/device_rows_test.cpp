// SPDX-License-Identifier: Apache-2.0
// Operators on rows on a device, as far as the host has to do with them: lists that it must not read, and memory that
// is elsewhere, with a stand-in for the device.
#include <cstdint>
#include <string>
#include <vector>

#include "support/device.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

constexpr MemorySpace kDevice = MemorySpace::device;

template <class T>
Span<const T> nowhere(std::int64_t count) {  // nobody can read there
  return {reinterpret_cast<const T*>(std::uintptr_t{4096}), count};
}

template <int Rank>
void to_device(TensorView<Rank>* view) {
  view->space = kDevice;
}

/// Small calls of every operator on device memory, whose lists nobody can read.
struct RowCalls {
  float numbers[1024] = {};
  std::vector<double> inv_freq = {1, 0.5};
  RopeTable table;
  KvPool pool;
  State states[3];
  RopeApply apply;
  RopeShift shift;
  RopeRebase rebase;
  KvAppend append;
  MergeStates merge;
  MergeStatesGrad merge_grad;

  RowCalls() {
    table.inv_freq = inv_freq;
    table.dim = 4;
    apply.x = make_view(numbers, {3, 2, 4});
    apply.out = make_view(numbers + 32, {3, 2, 4});
    to_device(&apply.x), to_device(&apply.out);
    apply.positions = nowhere<std::int32_t>(3);
    apply.table = table;
    apply.lists_space = kDevice;
    shift.x = apply.x, shift.out = apply.out, shift.table = table, shift.lists_space = kDevice;
    shift.deltas = nowhere<std::int32_t>(3);
    pool.k = make_view(numbers + 64, {2, 4, 2, 4});
    pool.v = make_view(numbers + 128, {2, 4, 2, 4});
    to_device(&pool.k), to_device(&pool.v);
    rebase.layers = {&pool, 1};
    rebase.from_pages = rebase.to_pages = rebase.deltas = nowhere<std::int32_t>(2);
    rebase.table = table;
    rebase.lists_space = kDevice;
    append.k = make_view(numbers + 192, {3, 2, 4});
    append.v = make_view(numbers + 224, {3, 2, 4});
    to_device(&append.k), to_device(&append.v);
    append.pool = pool;
    append.slots = nowhere<std::int64_t>(3);
    append.positions = nowhere<std::int32_t>(3);
    append.rope = &table;
    append.lists_space = kDevice;
    for (int i = 0; i < 3; ++i) states[i] = state_at(numbers + 256 + 64 * i);
    merge.parts = {states, 2};
    merge.out = states[2];
    merge_grad.parts = {states, 1};
    merge_grad.out = states[2];
    merge_grad.dout = state_at(numbers + 512).o;
    merge_grad.dparts = {states + 1, 1};
  }
  RowCalls(const RowCalls&) = delete;

  static State state_at(float* data) {
    State s{make_view(data, {3, 2, 4}), make_view(data + 32, {3, 2})};
    to_device(&s.o), to_device(&s.lse);
    return s;
  }
};

void check_space(const Status& s) {
  INFO(to_string(s));
  CHECK(s.code == StatusCode::backend_unavailable);
  CHECK(std::string(s.argument) == "lists_space");
  CHECK(s.unit == StatusUnit::space);
  CHECK(s.got == 0);
  CHECK(s.want == 1);
}

/// Refused while `data` is the host's, and only then.
template <class Call>
void check_elsewhere(Call call, const void* data, const char* argument) {
  const std::int32_t calls = stand_in().calls;
  stand_in().elsewhere = {{data, -1}};
  const Status s = call();
  INFO(to_string(s));
  CHECK(s.code == StatusCode::invalid_argument);
  CHECK(std::string(s.argument) == argument);
  CHECK(s.got == -1);
  CHECK(stand_in().calls == calls);
  stand_in().elsewhere.clear();
  require_ok(call());
  CHECK(stand_in().calls == calls + 1);
}

}  // namespace

TEST_CASE("device rows: lists on the device are not read, lists of the host are refused", "[device]") {
  const Context context = device_context();
  RowCalls c;
  require_ok(rope_apply(context, c.apply));
  require_ok(rope_shift(context, c.shift));
  require_ok(rope_rebase(context, c.rebase));
  require_ok(kv_append(context, c.append));
  require_ok(merge_states(context, c.merge));
  require_ok(merge_states_backward(context, c.merge_grad));
  CHECK(stand_in().calls == 6);
  c.apply.lists_space = c.shift.lists_space = c.rebase.lists_space = c.append.lists_space = MemorySpace::host;
  check_space(rope_apply(context, c.apply));
  check_space(rope_shift(context, c.shift));
  check_space(rope_rebase(context, c.rebase));
  check_space(kv_append(context, c.append));
  CHECK(stand_in().calls == 6);
}

TEST_CASE("device rows: one delta for all tokens may be on the host", "[device]") {
  const Context context = device_context();
  RowCalls c;
  const std::int32_t delta = -5;
  c.shift.deltas = {&delta, 1};
  c.shift.lists_space = MemorySpace::host;
  stand_in().elsewhere[&delta] = -1;  // where the device cannot read it
  require_ok(rope_shift(context, c.shift));
  CHECK(stand_in().calls == 1);
  c.shift.lists_space = kDevice;
  const Status s = rope_shift(context, c.shift);
  CHECK(to_string(s) == "rope_shift: deltas.device (-1: the host) got -1, want == 0 (invalid_argument)");
}

TEST_CASE("device rows: lists on a device are refused where the tensors are the host's", "[device]") {
  const Context context = device_context();
  RowCalls c;
  c.apply.x.space = c.apply.out.space = MemorySpace::host;
  const Status s = rope_apply(context, c.apply);
  INFO(to_string(s));
  CHECK(s.code == StatusCode::backend_unavailable);
  CHECK(std::string(s.argument) == "lists_space");
  c.apply.lists_space = static_cast<MemorySpace>(9);
  CHECK(rope_apply(context, c.apply).code == StatusCode::invalid_argument);
}

TEST_CASE("device rows: memory that is not on the stream's device is named", "[device]") {
  const Context context = device_context();
  RowCalls c;
  const auto apply = [&] { return rope_apply(context, c.apply); };
  check_elsewhere(apply, c.apply.x.data, "x");
  check_elsewhere(apply, c.apply.out.data, "out");
  check_elsewhere(apply, c.apply.positions.data(), "positions");
  const auto shift = [&] { return rope_shift(context, c.shift); };
  check_elsewhere(shift, c.shift.x.data, "x");
  check_elsewhere(shift, c.shift.deltas.data(), "deltas");
  const auto rebase = [&] { return rope_rebase(context, c.rebase); };
  check_elsewhere(rebase, c.pool.k.data, "layers.k");
  check_elsewhere(rebase, c.rebase.from_pages.data(), "from_pages");
  const auto append = [&] { return kv_append(context, c.append); };
  check_elsewhere(append, c.append.k.data, "k");
  check_elsewhere(append, c.pool.k.data, "pool.k");
  check_elsewhere(append, c.append.slots.data(), "slots");
  const auto merge = [&] { return merge_states(context, c.merge); };
  check_elsewhere(merge, c.states[1].o.data, "parts.o");
  check_elsewhere(merge, c.merge.out.o.data, "out.o");
  const auto merge_grad = [&] { return merge_states_backward(context, c.merge_grad); };
  check_elsewhere(merge_grad, c.merge_grad.dout.data, "dout");
  check_elsewhere(merge_grad, c.states[1].o.data, "dparts.o");
}

TEST_CASE("device rows: draft trees in device memory", "[device]") {
  const Context context = device_context();
  DraftTreeBatch batch;
  std::int32_t depth[3], faults[1];
  std::uint64_t words[3];
  batch.parents = nowhere<std::int32_t>(3);
  batch.offsets = {reinterpret_cast<const std::int64_t*>(std::uintptr_t{8192}), 2};
  batch.depth = {depth, 3};
  batch.words = {words, 3};
  batch.faults = {faults, 1};
  batch.space = kDevice;
  int stream = 0;
  batch.stream = {&stream};
  require_ok(draft_tree_from_parents(context, batch));
  CHECK(stand_in().calls == 1);
  CHECK(stand_in().stream.handle == &stream);
  check_elsewhere([&] { return draft_tree_from_parents(context, batch); }, words, "words");
}

TEST_CASE("device rows: shared_prefix_attention passes plan and stream on", "[device]") {
  const Context context = device_context();
  const std::vector<std::int32_t> prefix = {30}, begin = {0, 2}, suffix = {4, 5};
  Forest forest;
  require_ok(forest_from_groups({prefix, begin, suffix, 1}, &forest));
  LayerKind kind;
  kind.Hq = 2;
  kind.D = kind.Dv = 4;
  PlanOptions options;
  options.target_parallelism = 2;
  Plan plan;
  require_ok(make_plan(context, forest, kind, options, &plan, kDevice));
  std::int64_t bytes = 0, image = 0;
  const PlanLimits limits = limits_of(plan, 2);
  require_ok(forward_workspace(kind, limits, &bytes));
  require_ok(device_plan_bytes(context, plan, &image));
  AlignedBytes memory(bytes), data(image), staging(image);
  DevicePlan on_device;
  on_device.data = data.data();
  on_device.staging = staging.data();
  on_device.bytes = image;
  require_ok(upload(context, plan, &on_device));
  std::vector<float> numbers(1024);
  SharedPrefixAttend args;
  args.q = make_view(numbers.data(), {2, 2, 4});
  args.k = make_view(numbers.data() + 64, {39, 1, 4});
  args.v = make_view(numbers.data() + 256, {39, 1, 4});
  args.o = make_view(numbers.data() + 512, {2, 2, 4});
  args.lse = make_view(numbers.data() + 600, {2, 2});
  to_device(&args.q), to_device(&args.k), to_device(&args.v), to_device(&args.o), to_device(&args.lse);
  int stream = 0;
  args.stream = {&stream};
  require_ok(init_workspace(context, kind, limits, memory.data(), bytes, &args.workspace));
  const Status missing = shared_prefix_attention(context, plan, args);
  CHECK(to_string(missing) == "shared_prefix_attention: device_plan got null, want != null (invalid_argument)");
  args.device_plan = &on_device;
  require_ok(shared_prefix_attention(context, plan, args));
  CHECK(stand_in().forward.args.device_plan == &on_device);
  CHECK(stand_in().stream.handle == &stream);
}
