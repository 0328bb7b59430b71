// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <numeric>

#include "prefix_report/format.hpp"
#include "report.hpp"

namespace batch_job {

namespace {

using prefix_report::plural;
using prefix_report::with_commas;

/// In words: where the prompts are from, and what a token is.
std::string describe(const Options& options, const Traffic& traffic) {
  if (options.is_benchmark()) {
    return "BatchLLM's benchmark: " + plural(traffic.groups, "group") + " of " + std::to_string(kBenchmarkDegree) +
           " prompts, " + with_commas(kBenchmarkShared) + " shared and " + std::to_string(kBenchmarkOwn) +
           " own tokens";
  }
  const std::string file = std::filesystem::path(options.source.input).filename().string() + ": ";
  if (traffic.is_trace()) return file + plural(traffic.groups, "request");
  return file + plural(traffic.groups, "prompt") + ", one request for each completion, tokens are bytes";
}

Job read_job(const Options& options, std::string* what) {
  const std::int64_t groups = options.source.groups > 0 ? options.source.groups : kBenchmarkGroups;
  Traffic traffic =
      options.is_benchmark() ? benchmark_traffic(static_cast<std::int32_t>(groups)) : read_traffic(options.source);
  *what = describe(options, traffic);
  const bool nothing_known = options.is_benchmark() && options.decode < 0;
  return make_job(std::move(traffic), nothing_known ? kDecode : options.decode);
}

/// Chooses prefixes by a planner, and times it.
Groups choose(const char* name, PrefixNodes (*planner)(const prefixshare::Forest&), const Job& job, Choice* choice) {
  const auto start = std::chrono::steady_clock::now();
  Groups groups = make_groups(job.trie, planner(job.trie));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const auto shared =
      std::count_if(groups.groups.begin(), groups.groups.end(), [](const Group& group) { return group.prefix > 0; });
  *choice = {name, shared, processed_tokens(job, groups), seconds};
  return groups;
}

Way run_way(const char* name, const Job& job, const Groups& groups, const Limits& limits,
            const Observer& observer = {}) {
  return {name, processed_tokens(job, groups), replay(job, groups, limits, observer)};
}

/// Runs the last way, and looks at an iteration with the most requests that write.
Way run_and_look(const char* name, const Job& job, const Groups& groups, const Limits& limits,
                 std::optional<Step>* step) {
  std::int64_t iteration = 0, most = 0;
  Step found;
  Way way = run_way(name, job, groups, limits, [&](const Iteration& now, const std::vector<Work>& work) {
    ++iteration;
    if (now.decode <= most) return;
    most = now.decode;
    found.iteration = iteration;
    found.running = running_requests(job, groups, work);
  });
  if (most == 0) return way;
  found.readings = read_step(job, groups, found.running);
  *step = found;
  return way;
}

}  // namespace

double Report::saving(std::int64_t processed) const {
  return tokens.logical == 0 ? 0 : 1 - static_cast<double>(processed) / static_cast<double>(tokens.logical);
}

Summary summarise(const std::vector<Iteration>& iterations) {
  Summary sum;
  sum.iterations = static_cast<std::int64_t>(iterations.size());
  for (const Iteration& i : iterations) {
    sum.tokens += static_cast<double>(i.prefill + i.decode);
    sum.batch += static_cast<double>(i.batch);
    sum.kv += static_cast<double>(i.kv);
    sum.peak_batch = std::max(sum.peak_batch, i.batch);
    sum.peak_kv = std::max(sum.peak_kv, i.kv);
  }
  for (double* mean : {&sum.tokens, &sum.batch, &sum.kv})
    *mean /= std::max(static_cast<double>(iterations.size()), 1.0);
  return sum;
}

Report analyse(const Options& options) {
  Report report;
  report.options = options;
  const Job job = read_job(options, &report.what);
  require_fit(job, options.limits);
  report.requests = job.requests();
  report.decode_tokens = std::accumulate(job.decode.begin(), job.decode.end(), std::int64_t{0});
  report.blocks = job.prompts.blocks;
  report.tokens = count_tokens(job.prompts);
  throw_if_error(forest_stats(job.trie, &report.trie));

  const Groups alone = make_groups(job.trie, PrefixNodes(static_cast<std::size_t>(job.requests()), -1));
  const Groups greedy = choose("single level, greedy rule", greedy_prefixes, job, &report.greedy);
  const Groups exact = choose("single level, exact", exact_prefixes, job, &report.exact);
  report.reconstructed = reconstructs(job, greedy) && reconstructs(job, exact);

  report.ways.push_back(run_way("alone, as they arrive", job, alone, options.limits));
  report.ways.push_back(run_way("groups, as they arrive", job, exact, options.limits));
  report.ways.push_back(
      run_and_look("groups, by decode ratio", job, order_by_decode(job, exact), options.limits, &report.step));
  return report;
}

}  // namespace batch_job
