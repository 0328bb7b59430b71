// SPDX-License-Identifier: Apache-2.0
// A job: all prompts are known before the first one runs, and what each request will write is known or estimated.
#pragma once

#include <cstdint>
#include <vector>

#include "prefix_report/traffic.hpp"
#include "prefixshare/forest.hpp"

namespace batch_job {

using prefix_report::InputError;
using prefix_report::Source;
using prefix_report::Traffic;

/// Requests in order of arrival. Prompts are text or synthetic ids, token by token, or a trace's blocks of
/// prefix_report::kTraceBlock tokens, the last of a prompt in part.
struct Job {
  Traffic prompts;
  std::vector<std::int32_t> decode;  ///< per request: tokens to write; also the estimate that groups are ordered by
  prefixshare::Forest trie;          ///< the prompts: a sequence per request, nodes weighed by tokens

  std::int32_t requests() const { return prompts.sequences(); }
  /// Tokens of a request's prompt.
  std::int32_t prompt(std::int32_t request) const {
    return trie.path_end(trie.sequences[static_cast<std::size_t>(request)].node);
  }
};

inline constexpr std::int32_t kDecode = 100;  ///< tokens to write where neither the input nor the user says

/// The job of a traffic: prompts without what a model wrote behind them. decode >= 0: every request writes that many
/// tokens; -1: as many as in the traffic, kDecode where that does not say.
Job make_job(Traffic traffic, std::int32_t decode = -1);

inline constexpr std::int32_t kBenchmarkGroups = 400;
inline constexpr std::int32_t kBenchmarkDegree = 16;
inline constexpr std::int32_t kBenchmarkShared = 2000;
inline constexpr std::int32_t kBenchmarkOwn = 200;

/// Input of the benchmark in BatchLLM's repository: groups of 16 prompts of 2,000 shared and 200 own tokens. Ids are
/// synthetic: no token occurs twice. Members of a group arrive as far apart as they can: request r is of group
/// r % groups.
Traffic benchmark_traffic(std::int32_t groups = kBenchmarkGroups);

}  // namespace batch_job
