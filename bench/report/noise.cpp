// SPDX-License-Identifier: Apache-2.0
#include "report/noise.hpp"

#include <algorithm>
#include <cmath>

namespace prefixshare::report {

namespace {

constexpr double kBetweenRuns = 0.015;     // standard deviation that runs of one binary have: pages, clocks, neighbours
constexpr double kUnknownSpread = 0.03;    // standard error of a time that says nothing of its calls
constexpr double kIndependentCalls = 100;  // at most: calls that follow each other meet the same disturbance
constexpr double kDeviations = 3;          // of the difference: what is beyond is no noise
constexpr double kMostStolen = 0.95;       // of a core

constexpr double kQuartilesToDeviation = 1 / 1.349;  // of a normal distribution
constexpr double kMedianToMean = 1.2533;             // standard error of the one over that of the other

/// Standard error of the median of the calls, as far as they say.
double error_of_calls(const Repeat& repeat) {
  const double low = repeat.counter("low_ms").value_or(0), high = repeat.counter("high_ms").value_or(0);
  const double calls = repeat.counter("calls").value_or(0);
  if (!(low > 0) || !(high >= low) || !(calls >= 2)) return kUnknownSpread;
  const double deviation = std::log(high / low) * kQuartilesToDeviation;
  return kMedianToMean * deviation / std::sqrt(std::min(calls, kIndependentCalls));
}

/// Variance of the logarithms of the repeats' times, of which there are two at least.
double variance(const std::vector<Repeat>& repeats) {
  double mean = 0, sum = 0;
  const auto count = static_cast<double>(repeats.size());
  for (const Repeat& r : repeats) mean += std::log(r.seconds) / count;
  for (const Repeat& r : repeats) sum += (std::log(r.seconds) - mean) * (std::log(r.seconds) - mean);
  return sum / (count - 1);
}

/// The middle of the logarithms: the one in the middle, or the mean of the two there.
double middle(const std::vector<Repeat>& sorted) {
  const std::size_t n = sorted.size();
  return (std::log(sorted[(n - 1) / 2].seconds) + std::log(sorted[n / 2].seconds)) / 2;
}

/// In the worst case others took all that they used from one thread, for which the rest of the team waited.
double stolen_by(double busy_cores) { return -std::log(1 - std::clamp(busy_cores, 0.0, kMostStolen)); }

}  // namespace

Estimate estimate(const Case& c) {
  Estimate e;
  e.log_seconds = middle(c.repeats);
  double calls = 0;
  for (const Repeat& r : c.repeats) {
    const double error = error_of_calls(r);
    calls += error * error;
    e.stolen = std::max(e.stolen, stolen_by(r.counter("busy").value_or(0)));
  }
  const auto count = static_cast<double>(c.repeats.size());
  const double spread = c.repeats.size() > 1 ? std::max(calls / count, variance(c.repeats)) : calls;
  e.error = std::sqrt(kBetweenRuns * kBetweenRuns + spread / count);
  return e;
}

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::faster: return "faster";
    case Verdict::slower: return "slower";
    case Verdict::no_change: return "no change";
    case Verdict::only_in_a: return "only in A";
    case Verdict::only_in_b: return "only in B";
  }
  return "";
}

Judgement judge(const Estimate& old_time, const Estimate& new_time) {
  const double noise = kDeviations * std::hypot(old_time.error, new_time.error);
  const double difference = new_time.log_seconds - old_time.log_seconds;
  Judgement j;
  j.ratio = std::exp(difference);
  j.low = std::exp(-noise - old_time.stolen);
  j.high = std::exp(noise + new_time.stolen);
  if (j.ratio > j.high) j.verdict = Verdict::slower;
  if (j.ratio < j.low) j.verdict = Verdict::faster;
  return j;
}

}  // namespace prefixshare::report
