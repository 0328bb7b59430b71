// SPDX-License-Identifier: Apache-2.0
// timing: how a call is timed, in the benchmarks and for kernels of one's own: again and again, the median counts.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "prefixshare/status.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// How often a call is repeated.
struct TimingLimits {
  double seconds = 0.6;       ///< until so much has passed, with what comes before each call,
  std::size_t calls = 7;      ///< and there were so many calls,
  double slow_seconds = 4.0;  ///< or so much has passed
};

/// Seconds of a call: the median, which a neighbour's burst does not move, and the quartiles around it.
struct CallTimes {
  double median = 0;
  double low = 0;
  double high = 0;
  std::int64_t calls = 0;
};

/// The value below which `part` of the numbers lie; of at least one number. Reorders them.
inline double quantile(std::vector<double>* numbers, double part) {
  const auto at = static_cast<std::ptrdiff_t>(part * static_cast<double>(numbers->size() - 1) + 0.5);
  std::nth_element(numbers->begin(), numbers->begin() + at, numbers->end());
  return (*numbers)[static_cast<std::size_t>(at)];
}

inline CallTimes summary_of(std::vector<double> seconds) {
  return {quantile(&seconds, 0.5), quantile(&seconds, 0.25), quantile(&seconds, 0.75),
          static_cast<std::int64_t>(seconds.size())};
}

/// Times call(), which returns a Status; before(), outside the clock, precedes each. The first Status that is not ok
/// ends it and goes into `*status`.
template <class Before, class Call>
CallTimes time_calls(const TimingLimits& limits, Before&& before, Call&& call, Status* status) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
  std::vector<double> seconds;
  const Clock::time_point start = Clock::now();
  do {
    before();
    const Clock::time_point begin = Clock::now();
    *status = call();
    seconds.push_back(since(begin));
  } while (status->ok() &&
           (since(start) < limits.seconds || (seconds.size() < limits.calls && since(start) < limits.slow_seconds)));
  return summary_of(std::move(seconds));
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
