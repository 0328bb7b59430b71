// SPDX-License-Identifier: Apache-2.0
// Cases of operators on rows, which only move memory: beside memcpy of the same bytes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "prefixshare/testing/compare.hpp"
#include "prefixshare/testing/oracle.hpp"
#include "support/buffer.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {

inline constexpr std::int64_t kCheckedRows = 64;  ///< first rows that are checked

template <int Rank>
TensorView<Rank> first_rows(TensorView<Rank> x) {
  x.shape[0] = std::min(x.shape[0], kCheckedRows);
  return x;
}

/// Vectors against the f64 reference's, each a block of its own.
template <int Rank>
testing::Comparison compare_vectors(const TensorView<Rank>& got, const std::vector<double>& exact, double tolerance) {
  testing::Expected expected;
  expected.width = got.shape[Rank - 1];
  expected.value = exact;
  for (std::size_t v = 0; v < exact.size() / static_cast<std::size_t>(expected.width); ++v) {
    expected.block.push_back(static_cast<std::int32_t>(v));
  }
  expected.magnitude.assign(expected.block.size(), 1);
  return testing::compare(testing::to_doubles(got), expected, tolerance, got.dtype);
}

/// memcpy that reads and writes `bytes` together, cut among the team.
class Copy {
 public:
  explicit Copy(std::int64_t bytes) : from_(bytes / 2), to_(bytes / 2), half_(bytes / 2) {}
  Status run(const Executor& team) {
    parts_ = team.concurrency;
    if (team.parallel_for == nullptr) {
      part(0);
    } else {
      team.parallel_for(
          team.user, parts_, [](void* self, std::int32_t i) { static_cast<Copy*>(self)->part(i); }, this);
    }
    return {};
  }

 private:
  void part(std::int32_t i) {
    const std::int64_t begin = half_ * i / parts_, end = half_ * (i + 1) / parts_;
    std::memcpy(to_.as<char>() + begin, from_.as<char>() + begin, static_cast<std::size_t>(end - begin));
  }

  Buffer from_, to_;
  std::int64_t half_;
  std::int32_t parts_ = 1;
};

/// Runs a case. `Operands` has args(), call(context), check() and bytes(), which are read and written.
template <class Operands>
void run_rows(Session* session, const Operands& operands, const Runner& runner, benchmark::State* state) {
  const Context context = session->context_for(runner);
  const auto call = [&] { return operands.call(context); };
  if (!is_right(session, state, call, [&] { return operands.check(); })) return;
  struct Times {
    testing::CallTimes copy, call;
  };
  Copy copy(operands.bytes());
  const Observed<Times> times = quietly([&] {
    Times t;
    t.copy = time_calls(
        *session, [] {}, [&] { return copy.run(runner.team.executor); });
    t.call = time_calls(
        *session, [] {}, call);
    return t;
  });
  const double seconds = times.result.call.median;
  report_time(state, times.result.call, times.busy);
  const Ceilings& c = session->ceilings(runner.team);
  const auto bytes = static_cast<double>(operands.bytes());
  const double floor = bytes / std::max({c.copy, c.stream_copy, c.read_rate(bytes)});
  state->counters["B/s"] = bytes / seconds;
  state->counters["floor_ms"] = 1e3 * floor;
  state->counters["floor_fraction"] = floor / seconds;
  if (c.busy > 0) state->counters["floor_busy"] = c.busy;
  state->counters["memcpy_ms"] = 1e3 * times.result.copy.median;
  state->counters["vs_memcpy"] = times.result.copy.median / seconds;
  state->SetLabel("floor: memory");
}

/// Registers an operator whose implementations are asked with the arguments of a call. `Operands` is made of a
/// Problem.
template <class Operands, class List>
void register_rows(Session* session, const char* op, const List& list) {
  for (const Problem& p : session->problems(op)) {
    const Operands small(p, true);
    const auto takes = [&](const auto& entry) { return entry.accepts == nullptr || entry.accepts(small.args()).ok(); };
    for (const Runner& runner : session->runners(list, p, takes)) {
      session->add(op, p, runner, [=](benchmark::State& state) {
        const Operands operands(p);
        run_rows(session, operands, runner, &state);
      });
    }
  }
}

}  // namespace prefixshare::bench
