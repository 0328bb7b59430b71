// SPDX-License-Identifier: Apache-2.0
#include "job.hpp"

#include <algorithm>
#include <chrono>
#include <functional>

#include "layer.hpp"

namespace prefix_report {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kSeed = 2024;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

/// A pass of a layer that can be run again and again.
struct Timed {
  std::string what;
  std::function<void()> run;
  std::vector<double> seconds;

  double time() {
    const Clock::time_point start = Clock::now();
    run();
    seconds.push_back(seconds_since(start));
    return seconds.back();
  }
};

std::vector<Timed> passes_of(const prefixshare::Context& context, Layer* layer, bool train) {
  const std::string name = layer->way().name;
  std::vector<Timed> passes;
  passes.push_back({name + (train ? " forward" : " decode"), [&context, layer] { layer->forward(context); }, {}});
  if (train) passes.push_back({name + " backward", [&context, layer] { layer->backward(context); }, {}});
  return passes;
}

/// Runs every pass up to `repeats` times, in turn, as long as the time lasts. The first run is a warm-up and counts
/// only if there is no time for another.
void measure(const Options& options, Clock::time_point start, std::vector<Timed>* passes, Progress* progress,
             JobResult* result) {
  double round = 0;
  for (const Timed& pass : *passes) round += pass.seconds.front();
  const auto time_is_left = [&] { return seconds_since(start) + round < options.max_seconds; };
  for (result->repeats = 0; result->repeats < options.repeats && time_is_left(); ++result->repeats) {
    for (Timed& pass : *passes) {
      progress->step(pass.what + ", run " + std::to_string(result->repeats + 1));
      pass.time();
    }
  }
  result->warm = result->repeats > 0;
  if (!result->warm) result->repeats = 1;
  for (Timed& pass : *passes) {
    if (result->warm) pass.seconds.erase(pass.seconds.begin());
  }
}

/// Work and time of one way's passes.
std::vector<Pass> account(const Way& way, const Ceilings& ceilings, const Timed* timed, bool train) {
  Pass forward;
  forward.way = way.name;
  forward.name = train ? "forward" : "decode";
  forward.seconds = median(timed[0].seconds);
  forward.kv_rows = way.counters.kv_rows;
  forward.kv_bytes = way.counters.kv_bytes;
  forward.bytes = way.counters.kv_bytes + way.counters.q_bytes + way.counters.partial_bytes;
  forward.flops = way.counters.flops_forward;
  forward.bound_seconds = ceilings.bound(static_cast<double>(forward.bytes), static_cast<double>(forward.flops));
  if (!train) return {forward};
  Pass backward;
  backward.way = way.name;
  backward.name = "backward";
  backward.seconds = median(timed[1].seconds);
  backward.flops = way.counters.flops_backward;
  backward.bound_seconds = ceilings.bound(0, static_cast<double>(backward.flops));
  return {forward, backward};
}

}  // namespace

bool JobResult::checks_pass() const {
  const auto ok = [](const Check& check) { return check.ok(); };
  return std::all_of(against_reference.begin(), against_reference.end(), ok) &&
         std::all_of(against_unshared.begin(), against_unshared.end(), ok);
}

double JobResult::seconds(const std::vector<Pass>& passes) const {
  double sum = 0;
  for (const Pass& pass : passes) sum += pass.seconds;
  return sum;
}

JobResult run_job(const prefixshare::Context& context, const Options& options, const Step& step, Progress* progress) {
  const Clock::time_point start = Clock::now();
  JobResult result;
  result.implementation = step.shared.plan.header.implementation;
  progress->step("measuring the machine");
  result.ceilings = measure_ceilings(context, step.shared.plan.header.kind);

  progress->step("random queries, keys and values");
  const Inputs inputs = random_inputs(context, step, kSeed);
  const Inputs repeated = step.train ? repeat_inputs(context, step, inputs) : Inputs{};
  Layer unshared(step.unshared, step.train ? repeated : inputs, options.threads, step.train);
  Layer shared(step.shared, inputs, options.threads, step.train);

  std::vector<Timed> passes = passes_of(context, &unshared, step.train);
  for (Timed& pass : passes_of(context, &shared, step.train)) passes.push_back(pass);
  for (Timed& pass : passes) {
    progress->step(pass.what + ", first run");
    pass.time();
  }
  progress->step("checking against f64 attention");
  const Magnitudes magnitudes = check_sampled_rows(context, shared, step.train, &result.against_reference);
  progress->step("checking shared against unshared");
  check_against_unshared(context, step, unshared, shared, magnitudes, &result.against_unshared);

  measure(options, start, &passes, progress, &result);
  result.unshared = account(step.unshared, result.ceilings, passes.data(), step.train);
  result.shared = account(step.shared, result.ceilings, passes.data() + passes.size() / 2, step.train);
  return result;
}

}  // namespace prefix_report
