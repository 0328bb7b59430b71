// SPDX-License-Identifier: Apache-2.0
// Calls of the forward of tree_attention whose kernels run in the emulator, and what came of them.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "prefixshare/cuda/accepts.hpp"
#include "simt/modes.hpp"
#include "support/simt_device.hpp"

namespace prefixshare::tests {

/// Constants under which small problems get shared tiles, cut keys and partial states.
inline CostModel cutting_cost() {
  CostModel cost = eager_cost();
  cost.min_item = 1;
  cost.by_head = true;
  cost.row_step = 64;
  return cost;
}

struct EmulatedCase {
  Topology topology;
  ProblemOptions options;
  PlanOptions plan;
  CostModel cost = cuda::kMmaCost;
};

/// A planned call of a case, whose kernels run in the emulator.
struct EmulatedCall {
  Problem problem;
  std::unique_ptr<DeviceCall> call;

  explicit EmulatedCall(const EmulatedCase& c, const char* implementation = "") {
    require_ok(make_problem(c.topology, c.options, &problem));
    Context context = emulated_context(c.cost);
    require_ok(context.tree_attention.force(implementation));
    call = std::make_unique<DeviceCall>(context, problem, c.plan);
  }
  const char* name() const { return call->plan.header.implementation; }

  /// Of a call with poisoned outputs.
  Status status(const Emulator& how) {
    emulator() = how;
    problem.poison_outputs();
    const Status status = call->forward();
    rethrow_emulated();
    return status;
  }
  void run(const Emulator& how) {
    require_ok(status(how));
    CHECK(problem.guards_intact());
  }
  void run(const simt::Options& how) { run(Emulator(how)); }
  void check() {
    const Attend host = problem.attend();
    check_comparison(testing::check_forward(testing::answer_forward(problem.forest, problem.options.kind, host), host));
  }
  std::vector<std::uint8_t> bits() const {
    std::vector<std::uint8_t> all;
    for (const auto& [data, bytes] : {std::pair(problem.o.view().data, bytes_of(problem.o.view())),
                                      std::pair(problem.lse.view().data, bytes_of(problem.lse.view()))}) {
      const auto* begin = static_cast<const std::uint8_t*>(data);
      all.insert(all.end(), begin, begin + bytes);
    }
    return all;
  }

 private:
  template <int Rank>
  static std::int64_t bytes_of(const TensorView<Rank>& x) {
    std::int64_t last = 1;
    for (int d = 0; d < Rank; ++d) last += (x.shape[d] - 1) * x.stride[d];
    return x.shape[0] == 0 ? 0 : last * size_of(x.dtype);
  }
};

/// Number i of the ways to run a kernel, round and round.
inline simt::Options mode(std::size_t i) {
  static const std::vector<simt::Options> modes = simt_modes();
  return modes[i % modes.size()];
}

}  // namespace prefixshare::tests
