// SPDX-License-Identifier: Apache-2.0
// Lengths on a device: what the host checks of a call whose implementation runs elsewhere, with a stand-in for that.
#include <cstdint>
#include <vector>

#include "support/device.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

TEST_CASE("device lengths: the host does not read them, and asks for the space of the implementation") {
  Topology topology;
  topology.add_node(-1, 20);
  topology.add_node(0, 12);
  topology.add_sequence(1, 1);
  topology.nodes[1].length_slot = 0;
  Problem problem;
  require_ok(make_problem(topology, ProblemOptions{}, &problem));
  DeviceCall call(device_context(), problem);
  REQUIRE(std::string(call.plan.header.implementation) == "test:device");

  const auto* nowhere = reinterpret_cast<const std::int32_t*>(std::uintptr_t{4096});  // nobody can read there
  call.args.actual_lengths = {nowhere, 1};
  require_ok(call.forward());
  CHECK(stand_in().calls == 1);
  CHECK(stand_in().forward.args.actual_lengths.data() == nowhere);

  const std::int32_t on_host = 7;
  call.args.actual_lengths = {&on_host, 1};
  call.args.lengths_space = MemorySpace::host;
  CHECK(to_string(call.forward()) ==
        "tree_attention: actual_lengths.space got host, want == device (backend_unavailable)");

  call.args.lengths_space = MemorySpace::device;
  call.args.actual_lengths = {nowhere, 2};
  CHECK(call.forward().code == StatusCode::invalid_argument);
  CHECK(stand_in().calls == 1);
}
