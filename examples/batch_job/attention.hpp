// SPDX-License-Identifier: Apache-2.0
// One iteration of a job on the library: the forest of the requests that write, its plan, and what that reads.
#pragma once

#include <cstdint>
#include <vector>

#include "prefixshare/counters.hpp"
#include "replay.hpp"

namespace batch_job {

/// Requests that write in an iteration, each with one query row, and how many tokens they have written, this one
/// included.
struct Running {
  std::vector<std::int32_t> requests;
  std::vector<std::int32_t> written;
};

/// Of an iteration's work, what are decode steps.
Running running_requests(const Job& job, const Groups& groups, const std::vector<Work>& work);

/// One plan of the step.
struct Reading {
  std::int64_t kv_tokens = 0;  ///< distinct tokens in the cache
  prefixshare::Counters counters;
};

/// The same rows three ways: every request reads its path alone; groups read their prefix once (forest_from_groups);
/// every level of the trie is there to be read once (forest_from_parents). One layer of Qwen2.5-7B in f16, as in
/// BatchLLM's benchmark: 28 query heads, 4 key/value heads of 128.
struct Readings {
  Reading unshared, groups, levels;
};
Readings read_step(const Job& job, const Groups& groups, const Running& running);

}  // namespace batch_job
