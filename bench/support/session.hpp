// SPDX-License-Identifier: Apache-2.0
// What every benchmark shares: the implementations and executors to run, the clock, and the ceilings of this machine.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/thread_pool.hpp"
#include "support/ceilings.hpp"
#include "support/quiet.hpp"

namespace prefixshare::bench {

/// An executor and the part of the names of its cases.
struct Team {
  std::string name;
  Executor executor;
};

/// Lives in main while benchmarks run.
class Session {
 public:
  explicit Session(std::int32_t threads) : pool(threads) {
    teams.push_back({"threads:1", Executor{}});
    if (threads > 1) teams.push_back({"threads:" + std::to_string(threads), pool.executor()});
  }

  /// The context that runs implementation `name` of every operator that has it, on a team.
  Context context_for(const std::string& name, const Team& team) const {
    Context c = context;
    throw_if_error(force_implementation(&c, name.c_str()));
    c.executor = team.executor;
    return c;
  }
  /// Measured when a case first asks.
  const Ceilings& ceilings(const Team& team) {
    constexpr double kSecondsEach = 0.05;
    auto known = ceilings_.find(team.name);
    if (known == ceilings_.end()) {
      known = ceilings_.emplace(team.name, measure_ceilings(team.executor, scratch(), kSecondsEach)).first;
    }
    return known->second;
  }
  /// Empties the caches of every thread.
  void flush() { scratch().flush(teams.back().executor); }

  Context context;  ///< every implementation of this build, none forced
  ThreadPool pool;
  std::vector<Team> teams;
  bool quick = false;   ///< everything an eighth as long
  bool failed = false;  ///< a case was wrong or refused

 private:
  const Scratch& scratch() {
    if (!scratch_) scratch_ = std::make_unique<Scratch>();
    return *scratch_;
  }

  std::unique_ptr<Scratch> scratch_;
  std::map<std::string, Ceilings> ceilings_;
};

/// Ends a case that is wrong or was refused, and the program's hope of exit code 0.
inline void fail(Session* session, benchmark::State* state, const std::string& why) {
  session->failed = true;
  state->SkipWithError(why.c_str());
}

/// Runs one call outside the clock and judges it; false if the case must not be timed.
template <class Call, class Check>
bool is_right(Session* session, benchmark::State* state, Call&& call, Check&& check) {
  if (const Status s = call()) {
    fail(session, state, to_string(s));
    return false;
  }
  const testing::Comparison c = check();
  state->counters["max_error"] = std::max<double>(state->counters["max_error"], c.error);
  if (!c) fail(session, state, c.text);
  return c.ok;
}

inline constexpr double kCaseSeconds = 0.6;    ///< of calls that are timed, with what comes before each
inline constexpr double kSlowCaseSeconds = 4;  ///< after this long fewer than kCaseCalls will do
inline constexpr std::size_t kCaseCalls = 7;

/// Median seconds of a call, which a neighbour's burst does not move; before(), outside the clock, precedes each.
template <class Before, class Call>
double median_seconds(Before&& before, Call&& call) {
  const auto now = [] { return CpuTimes::Clock::now(); };
  const auto since = [&](CpuTimes::Clock::time_point t) { return std::chrono::duration<double>(now() - t).count(); };
  std::vector<double> seconds;
  const CpuTimes::Clock::time_point start = now();
  do {
    before();
    const CpuTimes::Clock::time_point begin = now();
    Status s = call();
    benchmark::DoNotOptimize(s);
    seconds.push_back(since(begin));
  } while (since(start) < kCaseSeconds || (seconds.size() < kCaseCalls && since(start) < kSlowCaseSeconds));
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

/// Makes `seconds` the time of the case, and says whether others disturbed it.
inline void report_time(benchmark::State* state, double seconds, double busy) {
  for (auto _ : *state) state->SetIterationTime(seconds);
  state->counters["busy"] = busy;
}

/// Times the call when the machine is quiet; the median in seconds.
template <class Call>
double time_calls(benchmark::State* state, Call&& call) {
  const Observed<double> seconds = quietly([&] { return median_seconds([] {}, call); });
  report_time(state, seconds.result, seconds.busy);
  return seconds.result;
}

/// Registers a case in milliseconds of the clock that it reports itself.
template <class Body>
void add_case(const std::string& name, Body&& body) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<Body>(body))->UseManualTime()->Unit(benchmark::kMillisecond);
}

inline std::string label(const char* key, std::int64_t value) { return std::string(key) + ":" + std::to_string(value); }

/// Joins the parts of a case's name.
inline std::string join(const std::vector<std::string>& parts) {
  std::string name;
  for (const std::string& part : parts) name += (name.empty() ? "" : "/") + part;
  return name;
}

/// Puts floor_ms, floor_fraction and the resource that sets the floor into the report, and whether others disturbed the
/// measurement of the ceilings.
inline void report_floor(benchmark::State* state, const Floor& floor, const Ceilings& ceilings, double seconds) {
  state->counters["floor_ms"] = 1e3 * floor.seconds;
  state->counters["floor_fraction"] = floor.seconds / seconds;
  if (ceilings.busy > 0) state->counters["floor_busy"] = ceilings.busy;
  state->SetLabel(std::string("floor: ") + floor.bound);
}

// One per file <name>_bench.cpp. The session outlives the cases.
void register_assignment(Session* session);
void register_plan(Session* session);
void register_tree_attention(Session* session);
void register_tree_attention_backward(Session* session);
void register_merge_and_shift(Session* session);
void register_merge_states(Session* session);
void register_rope(Session* session);

}  // namespace prefixshare::bench
