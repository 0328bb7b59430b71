// SPDX-License-Identifier: Apache-2.0
// Lengths on a device: what the host checks of a call whose implementation runs elsewhere, with a stand-in for that.
#include <cstdint>
#include <vector>

#include "support/attention.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

const std::int32_t* seen = nullptr;  // what the stand-in was given

Status see_lengths(const AttendCall& call, std::int32_t, std::int32_t) noexcept {
  seen = call.args.actual_lengths.data();
  return {};
}

Context context_with_device() {
  Context context;
  require_ok(create_context(&context));
  Implementation<AttentionProblem, AttendCall> entry;
  entry.name = "test:device";
  entry.space = MemorySpace::device;
  entry.part = &see_lengths;
  require_ok(context.tree_attention.add(entry));
  return context;
}

/// Views of the problem as if they lay on a device.
struct DeviceCall {
  std::vector<KvPool> pools;
  Attend args;

  explicit DeviceCall(Problem& problem) : args(problem.attend()) {
    pools.assign(args.kv.begin(), args.kv.end());
    for (KvPool& pool : pools) pool.k.space = pool.v.space = MemorySpace::device;
    args.kv = pools;
    args.q.space = args.o.space = args.lse.space = MemorySpace::device;
  }
};

}  // namespace

TEST_CASE("device lengths: the host does not read them, and asks for the space of the implementation") {
  const Context context = context_with_device();
  Topology topology;
  topology.add_node(-1, 20);
  topology.add_node(0, 12);
  topology.add_sequence(1, 1);
  topology.nodes[1].length_slot = 0;
  Problem problem;
  require_ok(make_problem(topology, ProblemOptions{}, &problem));
  Plan plan;
  require_ok(make_plan(context, problem.forest, problem.options.kind, {}, &plan, MemorySpace::device));
  REQUIRE(std::string(plan.header.implementation) == "test:device");
  require_ok(problem.bind_workspace(plan, 1));
  DeviceCall call(problem);

  const auto* nowhere = reinterpret_cast<const std::int32_t*>(std::uintptr_t{4096});  // nobody can read there
  call.args.actual_lengths = {nowhere, 1};
  call.args.lengths_space = MemorySpace::device;
  require_ok(tree_attention(context, plan, call.args));
  CHECK(seen == nowhere);

  seen = nullptr;
  const std::int32_t on_host = 7;
  call.args.actual_lengths = {&on_host, 1};
  call.args.lengths_space = MemorySpace::host;
  const Status refused = tree_attention(context, plan, call.args);
  CHECK(to_string(refused) == "tree_attention: actual_lengths.space got host, want == device (backend_unavailable)");
  CHECK(seen == nullptr);

  call.args.lengths_space = MemorySpace::device;
  call.args.actual_lengths = {nowhere, 2};
  CHECK(tree_attention(context, plan, call.args).code == StatusCode::invalid_argument);
}
