// SPDX-License-Identifier: Apache-2.0
// What every benchmark shares: the implementations and executors to run, the clock, and the record of unshared times.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/thread_pool.hpp"

namespace prefixshare::bench {

/// An executor and the last part of the names of its cases.
struct Team {
  std::string name;
  Executor executor;
};

/// Lives in main while benchmarks run.
struct Session {
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

  Context context;  ///< every implementation of this build, none forced
  ThreadPool pool;
  std::vector<Team> teams;
  bool quick = false;                              ///< the small set only
  bool failed = false;                             ///< a case was wrong or refused
  std::map<std::string, double> unshared_seconds;  ///< by name, for the speed-up of the shared case
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
  if (!c) fail(session, state, c.text);
  return c.ok;
}

/// Times the call over the iterations of `state`; the median in seconds, which a neighbour's burst does not move.
template <class Call>
double time_calls(benchmark::State* state, Call&& call) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  seconds.reserve(static_cast<std::size_t>(state->max_iterations));
  for (auto _ : *state) {
    const Clock::time_point begin = Clock::now();
    Status s = call();
    benchmark::DoNotOptimize(s);
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

/// Registers a case in wall-clock milliseconds.
template <class Body>
void add_case(const std::string& name, Body&& body) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<Body>(body))->UseRealTime()->Unit(benchmark::kMillisecond);
}

inline std::string label(const char* key, std::int64_t value) { return std::string(key) + ":" + std::to_string(value); }

/// Joins the parts of a case's name.
inline std::string join(const std::vector<std::string>& parts) {
  std::string name;
  for (const std::string& part : parts) name += (name.empty() ? "" : "/") + part;
  return name;
}

// One per file <operator>_bench.cpp. The session outlives the cases.
void register_tree_attention(Session* session);
void register_merge_states(Session* session);
void register_rope(Session* session);

}  // namespace prefixshare::bench
