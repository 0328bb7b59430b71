// SPDX-License-Identifier: Apache-2.0
#include "job.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace batch_job {

namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Takes from the end of every sequence of a text what a model wrote.
void drop_outputs(Traffic* text) {
  std::int64_t end = 0;
  for (std::size_t s = 0; s < text->outputs.size(); ++s) {
    const auto begin = text->tokens.begin() + text->offsets[s];
    const auto prompt_end = text->tokens.begin() + text->offsets[s + 1] - text->outputs[s];
    text->offsets[s] = end;
    end = std::copy(begin, prompt_end, text->tokens.begin() + end) - text->tokens.begin();
  }
  text->offsets.back() = end;
  text->tokens.resize(at(end));
}

void append_ids(std::int32_t first, std::int32_t count, Traffic* traffic) {
  traffic->tokens.resize(traffic->tokens.size() + at(count));
  std::iota(traffic->tokens.end() - count, traffic->tokens.end(), first);
}

}  // namespace

Job make_job(Traffic traffic, std::int32_t decode) {
  Job job;
  for (const std::int32_t output : traffic.outputs) {
    job.decode.push_back(decode >= 0 ? decode : output >= 0 ? output : kDecode);
  }
  job.prompts = std::move(traffic);
  if (!job.prompts.is_trace()) drop_outputs(&job.prompts);
  job.trie = build_forest(job.prompts);
  return job;
}

Traffic benchmark_traffic(std::int32_t groups) {
  Traffic traffic;
  traffic.groups = groups;
  std::int32_t fresh = groups * kBenchmarkShared;  // group g shares ids from g * kBenchmarkShared
  for (std::int32_t request = 0; request < groups * kBenchmarkDegree; ++request) {
    append_ids(request % groups * kBenchmarkShared, kBenchmarkShared, &traffic);
    append_ids(fresh, kBenchmarkOwn, &traffic);
    fresh += kBenchmarkOwn;
    traffic.offsets.push_back(static_cast<std::int64_t>(traffic.tokens.size()));
    traffic.outputs.push_back(0);
  }
  return traffic;
}

}  // namespace batch_job
