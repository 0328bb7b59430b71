// SPDX-License-Identifier: Apache-2.0
// Whether a timing had the machine for itself: the CPU time that other processes used meanwhile, which the system
// counts in ticks of 10 ms.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <utility>

namespace prefixshare::bench {

inline constexpr double kQuietCores = 0.05;  ///< others may use this much
inline constexpr double kTickSeconds = 0.01;
inline constexpr int kQuietTries = 3;

/// Seconds that this process may still spend on waiting for others and on repeating what they disturbed.
inline double quiet_patience = 60;

/// Seconds since some moment: of the clock, of CPU time on the whole machine, of CPU time of this process.
struct CpuTimes {
  using Clock = std::chrono::steady_clock;

  double wall = 0;
  double machine = 0;
  double own = 0;

  static CpuTimes now() {
    CpuTimes t;
    t.wall = std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    for (const timeval& v : {usage.ru_utime, usage.ru_stime}) {
      t.own += static_cast<double>(v.tv_sec) + 1e-6 * static_cast<double>(v.tv_usec);
    }
    std::ifstream file("/proc/stat");  // absent on other systems: then nobody disturbs
    std::string cpu;
    double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft_irq = 0, steal = 0;
    file >> cpu >> user >> nice >> system >> idle >> wait >> irq >> soft_irq >> steal;
    t.machine = kTickSeconds * (user + nice + system + irq + soft_irq + steal);
    return t;
  }
};

/// Cores that others used from `begin` to `end`, less what two ticks leave uncertain; 0 if that is within kQuietCores.
inline double other_cores(const CpuTimes& begin, const CpuTimes& end) {
  const double others = (end.machine - begin.machine) - (end.own - begin.own) - 2 * kTickSeconds;
  const double cores = others / (end.wall - begin.wall);
  return cores > kQuietCores ? cores : 0;
}

/// Waits until the machine is idle, two seconds at most, or until patience ends.
inline void wait_for_quiet() {
  constexpr double kWindow = 0.2, kLongest = 2;
  const double least = std::max(0.0, quiet_patience - kLongest);
  for (double others = 1; others > 0 && quiet_patience > least; quiet_patience -= kWindow) {
    const CpuTimes begin = CpuTimes::now();
    std::this_thread::sleep_for(std::chrono::duration<double>(kWindow));
    others = other_cores(begin, CpuTimes::now());
  }
}

template <class Result>
struct Observed {
  Result result{};
  double busy = std::numeric_limits<double>::infinity();  ///< cores that others used meanwhile; 0: quiet
};

/// What work() returns; repeated while others disturb it, three times at most. The least disturbed one counts.
template <class Work>
auto quietly(Work&& work) -> Observed<decltype(work())> {
  Observed<decltype(work())> best;
  for (int i = 0; i < kQuietTries; ++i) {
    const CpuTimes begin = CpuTimes::now();
    auto result = work();
    const CpuTimes end = CpuTimes::now();
    const double busy = other_cores(begin, end);
    if (busy < best.busy) best = {std::move(result), busy};
    if (busy == 0 || quiet_patience <= 0) break;
    quiet_patience -= end.wall - begin.wall;
    wait_for_quiet();
  }
  return best;
}

}  // namespace prefixshare::bench
