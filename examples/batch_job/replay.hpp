// SPDX-License-Identifier: Apache-2.0
// A job replayed iteration by iteration: what an engine would hold and process. Deterministic, counted in tokens.
// Source: BatchLLM (arXiv 2412.03594), sections on group scheduling and throughput-oriented token batching.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "groups.hpp"

namespace batch_job {

struct Limits {
  std::int64_t kv_budget = 1 << 20;  ///< tokens whose keys and values fit
  std::int64_t token_budget = 2048;  ///< tokens of an iteration
  std::int64_t request_limit = 0;    ///< requests and prefixes under way at a time; 0: memory alone decides
};

/// A piece of an iteration: tokens [begin, begin + count) of a group's prefix, or of a request: what it has of its own,
/// then what it writes.
struct Work {
  std::int32_t group = 0;
  std::int32_t request = -1;  ///< -1: the group's prefix
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

struct Iteration {
  std::int64_t batch = 0;    ///< requests and prefixes that are worked on
  std::int64_t prefill = 0;  ///< prompt tokens
  std::int64_t decode = 0;   ///< tokens that requests wrote
  std::int64_t kv = 0;       ///< tokens in the cache at its end, before finished requests leave
};

using Observer = std::function<void(const Iteration&, const std::vector<Work>&)>;

/// Throws InputError, naming the first request that needs more than the KV budget even alone with its prefix.
void require_fit(const Job& job, const Limits& limits);

/// Groups run in their order. A group's prefix is a request of its own that only prefills; its members are ready in the
/// iteration after it, and its KV leaves with the last of them. Each is admitted in turn, once there is room for all
/// that it will hold, whatever the number of requests under way (`request_limit` limits that as well). An iteration has
/// one token of every request that writes, the oldest first, and then prompt tokens in order of admission, both within
/// the token budget. A request that writes d tokens is in d iterations behind its prefill, and holds them all at its
/// end.
///
/// No deadlock: all prefixes in memory but the last have all their members admitted, those end without new memory, and
/// one request and its prefix fit alone. Throws InputError as require_fit does.
std::vector<Iteration> replay(const Job& job, const Groups& groups, const Limits& limits,
                              const Observer& observer = {});

}  // namespace batch_job
