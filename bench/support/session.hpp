// SPDX-License-Identifier: Apache-2.0
// What every benchmark shares: the implementations and teams to run, the problems, the clock, and the ceilings of this
// machine.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/testing/timing.hpp"
#include "prefixshare/thread_pool.hpp"
#include "support/ceilings.hpp"
#include "support/options.hpp"
#include "support/quiet.hpp"
#include "support/suite.hpp"

namespace prefixshare::bench {

/// An executor and the part of the names of its cases.
struct Team {
  std::string name;
  Executor executor;
};

/// Who runs a case.
struct Runner {
  Team team;
  std::string implementation;
  bool quick = false;  ///< the team's first choice
};

/// Lives in main while benchmarks run.
class Session {
 public:
  explicit Session(const Options& options);

  /// The context that runs implementation `name` of every operator that has it, on a team.
  Context context_for(const Runner& runner) const;
  const Ceilings& ceilings(const Team& team);
  /// Empties the caches of every thread.
  void flush() { scratch().flush(teams.back().executor); }

  /// The problems of an operator: of the suite, or those that were chosen.
  std::vector<Problem> problems(const std::string& op) const;
  /// Teams and implementations of a list that take a problem: those of the host for which takes(entry) holds.
  template <class List, class Takes>
  std::vector<Runner> runners(const List& list, const Problem& problem, Takes&& takes) const;

  /// Registers a case in milliseconds of the clock that it reports itself, unless a quick run of the suite leaves it
  /// out.
  void add(const std::string& name, bool quick, std::function<void(benchmark::State&)> body);
  template <class Body>
  void add(const std::string& op, const Problem& problem, const Runner& runner, Body&& body);
  /// Loaded kernels that no case runs, in a line; empty if there are none.
  std::string idle_kernels() const;
  /// What a quick run left out; empty if nothing.
  std::string left_out() const;

  Options options;
  Workloads workloads = all_workloads();
  Context context;  ///< every implementation of this build, none forced
  ThreadPool pool;
  std::vector<Team> teams;
  testing::TimingLimits limits;
  bool failed = false;  ///< a case was wrong or refused

 private:
  const Scratch& scratch();

  std::vector<const testing::Workload*> chosen_;  ///< empty: the suite
  std::set<std::string> idle_kernels_;
  std::unique_ptr<Scratch> scratch_;
  std::map<std::string, Ceilings> ceilings_;
  std::map<std::string, std::pair<int, int>> counts_;  ///< by first part of the name: registered, left out
};

/// Joins the parts of a case's name.
inline std::string join(const std::vector<std::string>& parts) {
  std::string name;
  for (const std::string& part : parts) name += (name.empty() || part.empty() ? "" : "/") + part;
  return name;
}
inline std::string label(const char* key, std::int64_t value) { return std::string(key) + ":" + std::to_string(value); }

template <class List, class Takes>
std::vector<Runner> Session::runners(const List& list, const Problem& problem, Takes&& takes) const {
  std::vector<Runner> all;
  for (const Team& team : teams) {
    const bool last = &team == &teams.back();
    if (problem.team_only && !last) continue;
    bool first = true;
    for (std::int32_t i = 0; i < list.count; ++i) {
      if (list.entries[i].space != MemorySpace::host || !takes(list.entries[i])) continue;
      all.push_back({team, list.entries[i].name, last && first});
      first = false;
    }
  }
  return all;
}

template <class Body>
void Session::add(const std::string& op, const Problem& problem, const Runner& runner, Body&& body) {
  idle_kernels_.erase(runner.implementation);
  add(join({op, problem.name(), runner.team.name, runner.implementation}), problem.quick && runner.quick,
      std::forward<Body>(body));
}

/// Whether an implementation of attention takes a layer kind.
template <class Entry>
bool takes_kind(const Entry& entry, const LayerKind& kind) {
  return entry.accepts == nullptr || entry.accepts({kind, Mode::fast, MemorySpace::host}).ok();
}

/// Ends a case that is wrong or was refused, in one line, and the program's hope of exit code 0.
inline void fail(Session* session, benchmark::State* state, std::string why) {
  session->failed = true;
  std::replace(why.begin(), why.end(), '\n', ';');
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

/// Times a call that went well when it was checked.
template <class Before, class Call>
testing::CallTimes time_calls(const Session& session, Before&& before, Call&& call) {
  Status status;
  const testing::CallTimes times = testing::time_calls(session.limits, before, call, &status);
  throw_if_error(status);
  return times;
}

// How a case reports itself. Counters: docs/benchmarking.md.

/// Makes the median the time of the case, and says whether others disturbed it.
void report_time(benchmark::State* state, const testing::CallTimes& times, double busy);
/// Rates of the work over `seconds`, and the floor: its fraction, and the resource that sets it.
void report_work(benchmark::State* state, const Work& work, const Ceilings& ceilings, double seconds);
/// The same work without sharing, timed beside it.
void report_unshared(benchmark::State* state, const testing::CallTimes& unshared, const testing::CallTimes& shared);

// One per file <name>_bench.cpp. The session outlives the cases.
void register_tree_attention(Session* session);
void register_tree_attention_backward(Session* session);
void register_shared_prefix_attention(Session* session);
void register_merge_states(Session* session);
void register_rope(Session* session);
void register_rope_rebase(Session* session);
void register_kv_append(Session* session);
void register_pack_segment(Session* session);
void register_plan(Session* session);
void register_assignment(Session* session);

}  // namespace prefixshare::bench
