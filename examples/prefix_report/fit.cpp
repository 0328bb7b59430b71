// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>

#include "job.hpp"
#include "layer.hpp"
#include "prefixshare/shared_prefix_attention.hpp"
#include "sample.hpp"

namespace prefix_report {

using prefixshare::Forest;

namespace {

constexpr double kShareOfTime = 0.8;  // of --max-seconds, for the first run of both ways; further runs if time is left
constexpr int kTries = 8;

/// Seconds that a small step takes over those that its plans predict: what the prediction is worth on this machine now.
double seconds_per_predicted(const prefixshare::Context& context, const Options& options) {
  const std::vector<std::int32_t> prefix = {448}, suffixes = {0, 8}, lengths(8, 64);
  Forest forest;
  throw_if_error(forest_from_groups({prefix, suffixes, lengths, 1}, &forest));
  const Step step = plan_step(context, options, forest);
  const Inputs inputs = random_inputs(context, step, 0);
  const Inputs repeated = step.train ? repeat_inputs(context, step, inputs) : Inputs{};
  Layer unshared(step.unshared, step.train ? repeated : inputs, options.threads, step.train);
  Layer shared(step.shared, inputs, options.threads, step.train);
  const auto start = std::chrono::steady_clock::now();
  for (Layer* layer : {&unshared, &shared}) {
    layer->forward(context);
    if (step.train) layer->backward(context);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return seconds / step.predicted_seconds(options.threads);
}

}  // namespace

Sample fit(const prefixshare::Context& context, const Options& options, const Traffic& traffic, const Forest& forest) {
  const Weight weight = options.train ? Weight::logical : Weight::unique;
  const std::int64_t all = held_tokens(forest, weight);
  const double bytes = static_cast<double>(bytes_per_token(options.layer(), options.train));
  const double held_limit = options.kv_gib * 0x1p30 / bytes;
  const double seconds_limit = kShareOfTime * options.max_seconds / seconds_per_predicted(context, options);

  Sample sample;
  std::int64_t limit = static_cast<std::int64_t>(std::min(held_limit, static_cast<double>(all)));
  sample.cut_by_memory = limit < all;
  for (int i = 0; i < kTries; ++i) {
    Forest part = forest;
    if (limit < all) {
      const std::vector<std::int32_t> chosen = choose_families(forest, weight, limit);
      if (chosen.empty() && sample.cut_by_time) break;  // the smallest sample before this one is run
      if (chosen.empty()) throw InputError("no sequence fits into --kv-gib");
      part = build_forest(subset(traffic, chosen));
    }
    sample.step = plan_step(context, options, part);
    throw_if_error(forest_stats(part, &sample.stats));
    const double seconds = sample.step.predicted_seconds(options.threads);
    if (seconds <= seconds_limit || sample.stats.sequences <= 1) break;
    sample.cut_by_time = true;
    limit = static_cast<std::int64_t>(static_cast<double>(std::min(limit, held_tokens(part, weight))) * 0.9 *
                                      seconds_limit / seconds);
  }
  return sample;
}

}  // namespace prefix_report
