// SPDX-License-Identifier: Apache-2.0
// Whether the planner chooses well: its plan against every node shared, no node shared, and nodes shared at random, on
// the decode trees of FastTree and PAT with lengths / 4, for three head counts. The ways take turns, so that a burst
// hits all alike.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/testing/sampled_answer.hpp"
#include "support/attention_input.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

constexpr double kSeconds = 1.0;  // of one case, all ways together
constexpr double kQuickSeconds = 0.2;
constexpr std::size_t kTurns = 7;  // at least

/// A way to assign, and how long it takes.
struct Way {
  std::string name;
  PlannedCall call;
  std::vector<double> seconds = {};

  testing::CallTimes times() const { return testing::summary_of(seconds); }
  double median() const { return times().median; }
};

/// Ratios of all cases so far.
struct Summary {
  double logarithms = 0;
  double worst = 0;
  int cases = 0;
};

std::vector<Way> ways(const Context& context, const AttentionInput& input) {
  std::vector<Way> list;
  const auto add = [&](const char* name, Sharing sharing, Span<const std::uint8_t> shared) {
    PlanOptions options;
    options.sharing = sharing;
    options.shared = shared;
    list.push_back({name, PlannedCall(context, input, options)});
  };
  add("planned", Sharing::automatic, {});
  add("always", Sharing::always, {});
  add("never", Sharing::never, {});
  testing::Random random(1);
  for (const char* name : {"random_a", "random_b"}) {
    std::vector<std::uint8_t> shared;
    for (std::size_t n = 0; n < input.forest().nodes.size(); ++n) shared.push_back(random.next() % 2);
    add(name, Sharing::given, shared);
  }
  return list;
}

/// Turns until the time is up.
void take_turns(const Context& context, const AttentionInput& input, double seconds, std::vector<Way>* list) {
  const auto now = [] { return std::chrono::duration<double>(CpuTimes::Clock::now().time_since_epoch()).count(); };
  for (Way& w : *list) w.seconds.clear();
  for (const double start = now(); now() - start < seconds || list->front().seconds.size() < kTurns;) {
    for (Way& w : *list) {
      const double begin = now();
      throw_if_error(w.call.run(context, input));
      w.seconds.push_back(now() - begin);
    }
  }
}

/// The time of the plan over the best of the others. Equal plans are one way: its runs count together.
double against_best(std::vector<Way>* list) {
  Way& planned = list->front();
  double best = std::numeric_limits<double>::infinity();
  for (auto w = list->begin() + 1; w != list->end(); ++w) {
    if (w->call.plan == planned.call.plan) {
      planned.seconds.insert(planned.seconds.end(), w->seconds.begin(), w->seconds.end());
      w->seconds = planned.seconds;
    }
    best = std::min(best, w->median());
  }
  return planned.median() / best;
}

void run(Session* session, const Problem& p, const Team& team, Summary* summary, benchmark::State* state) {
  AttentionInput input(forest_of(*p.workload, p.scale), p.kind);
  Context context = session->context;
  context.executor = team.executor;
  const testing::Answer expected = testing::sampled_answer(input.forest(), p.kind, input.attend());
  std::vector<Way> list = ways(context, input);
  for (const Way& w : list) {
    input.poison_outputs();
    const auto once = [&] { return w.call.run(context, input); };
    if (!is_right(session, state, once, [&] { return testing::check_forward(expected, input.attend()); })) return;
  }
  const Observed<int> observed = quietly([&] {
    take_turns(context, input, session->options.quick ? kQuickSeconds : kSeconds, &list);
    return 0;
  });
  const double ratio = against_best(&list);
  report_time(state, list.front().times(), observed.busy);
  state->counters["vs_best"] = ratio;
  for (const Way& w : list) state->counters[w.name + "_ms"] = 1e3 * w.median();
  summary->logarithms += std::log(ratio);
  summary->worst = std::max(summary->worst, ratio);
  ++summary->cases;
  state->counters["geometric_mean"] = std::exp(summary->logarithms / summary->cases);  // of the cases so far
  state->counters["worst"] = summary->worst;
}

}  // namespace

void register_assignment(Session* session) {
  if (!session->options.workload.empty()) return;
  const auto summary = std::make_shared<Summary>();
  const Team& team = session->teams.back();
  for (Problem p : session->problems("assignment")) {
    for (const auto& [Hq, Hkv] : {std::pair(16, 1), std::pair(32, 8), std::pair(32, 32)}) {
      p.kind.Hq = Hq;
      p.kind.Hkv = Hkv;
      const std::string name = join({"assignment", p.workload->name, label("Hq", Hq), label("Hkv", Hkv), team.name});
      session->add(name, p.quick && Hq == 32 && Hkv == 8, [session, p, &team, summary](benchmark::State& state) {
        run(session, p, team, summary.get(), &state);
      });
    }
  }
}

}  // namespace prefixshare::bench
