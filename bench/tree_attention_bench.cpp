// SPDX-License-Identifier: Apache-2.0
// tree_attention forward, with and without sharing, one beside the other.
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/counters.hpp"
#include "prefixshare/testing/sampled_answer.hpp"
#include "support/attention_input.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

/// The problem that was asked for last and its answer: one at a time, since they are large.
class Workbench {
 public:
  void prepare(const Problem& p) {
    if (p.name() == key_) return;
    key_.clear();
    inputs_.clear();
    inputs_.emplace_back(forest_of(*p.workload, p.scale), p.kind, p.workload->head_major);
    answer_ = testing::sampled_answer(input().forest(), p.kind, input().attend());
    const std::size_t copies = p.caches == Caches::rotated ? turns(input().distinct_bytes()) : 1;
    while (inputs_.size() < copies) inputs_.push_back(input().copy());
    key_ = p.name();
  }
  AttentionInput& input() { return inputs_[0]; }
  std::vector<AttentionInput>& inputs() { return inputs_; }
  testing::Comparison judge(const AttentionInput& input) const {
    return testing::check_forward(answer_, input.attend());
  }

 private:
  /// Copies that together exceed the last-level cache twice, at least three: until one's turn comes again, the others
  /// have taken its place in the caches.
  static std::size_t turns(double bytes) {
    constexpr double kAssumedL3 = 64 << 20;
    const double l3 = cache_bytes(3) > 0 ? static_cast<double>(cache_bytes(3)) : kAssumedL3;
    return std::max<std::size_t>(3, static_cast<std::size_t>(std::ceil(2 * l3 / bytes)) + 1);
  }

  std::string key_;
  std::vector<AttentionInput> inputs_;
  testing::Answer answer_;
};

struct Times {
  testing::CallTimes unshared, shared;
};

Work work_of(const Problem& p, const Counters& n, double distinct_bytes) {
  Work work;
  work.distinct_bytes = distinct_bytes + static_cast<double>(n.partial_bytes) / 2;
  work.bytes = static_cast<double>(n.kv_bytes + n.q_bytes + n.partial_bytes);
  work.flops = static_cast<double>(n.flops_forward);
  work.exponentials = static_cast<double>(n.exps);
  work.storage = p.kind.kv_dtype;
  work.cold = p.caches != Caches::warm;
  return work;
}

/// Calls of one plan as the problem wants its caches.
testing::CallTimes time_plan(Session* session, const Problem& p, const Context& context, const PlannedCall& call,
                             const std::vector<AttentionInput>& inputs) {
  std::size_t turn = 0;
  const auto before = [&] {
    if (p.caches == Caches::flushed) session->flush();
    turn = (turn + 1) % inputs.size();
  };
  return time_calls(*session, before, [&] { return call.run(context, inputs[turn]); });
}

/// Where the plan is the one without sharing, its time is that of the unshared way too.
void run(Session* session, Workbench* bench, const Problem& p, const Runner& runner, benchmark::State* state) {
  bench->prepare(p);
  const Context context = session->context_for(runner);
  const PlannedCall shared(context, bench->input(), Sharing::automatic),
      unshared(context, bench->input(), Sharing::never);
  const bool equal = shared.plan == unshared.plan;
  for (const PlannedCall* call : {&unshared, &shared}) {
    for (AttentionInput& input : bench->inputs()) {
      input.poison_outputs();
      const auto once = [&] { return call->run(context, input); };
      if (!is_right(session, state, once, [&] { return bench->judge(input); })) return;
    }
  }
  const auto time = [&](const PlannedCall& call) { return time_plan(session, p, context, call, bench->inputs()); };
  const Observed<Times> times = quietly([&] {
    Times t;
    if (!equal) t.unshared = time(unshared);
    t.shared = time(shared);
    if (equal) t.unshared = t.shared;
    return t;
  });
  const Counters n = count(shared.plan);
  report_time(state, times.result.shared, times.busy);
  report_work(state, work_of(p, n, bench->input().distinct_bytes()), session->ceilings(runner.team),
              times.result.shared.median);
  report_unshared(state, times.result.unshared, times.result.shared);
  state->counters["plan_equal"] = equal ? 1 : 0;
  state->counters["kv_rows"] = static_cast<double>(n.kv_rows);
}

}  // namespace

void register_tree_attention(Session* session) {
  const auto bench = std::make_shared<Workbench>();
  for (const Problem& p : session->problems("tree_attention")) {
    const auto takes = [&](const auto& entry) { return takes_kind(entry, p.kind); };
    for (const Runner& runner : session->runners(session->context.tree_attention, p, takes)) {
      session->add("", p, runner, [=](benchmark::State& state) { run(session, bench.get(), p, runner, &state); });
    }
  }
}

}  // namespace prefixshare::bench
