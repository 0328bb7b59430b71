// SPDX-License-Identifier: Apache-2.0
// The job: choose what fits, run it both ways, check it, measure it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checks.hpp"
#include "options.hpp"
#include "prefixshare/context.hpp"
#include "prefixshare/forest.hpp"
#include "probe.hpp"
#include "progress.hpp"
#include "step.hpp"
#include "traffic.hpp"

namespace prefix_report {

/// What is run: all of the traffic, or whole families of it.
struct Sample {
  Step step;
  prefixshare::ForestStats stats;
  bool cut_by_memory = false;
  bool cut_by_time = false;
  bool is_whole() const { return !cut_by_memory && !cut_by_time; }
};

/// The largest sample whose run holds at most --kv-gib and is predicted to answer within --max-seconds.
Sample fit(const prefixshare::Context& context, const Options& options, const Traffic& traffic,
           const prefixshare::Forest& forest);

/// One pass (decode, forward or backward) one way: its time and its exact work.
struct Pass {
  std::string way;
  std::string name;
  double seconds = 0;
  std::int64_t kv_rows = -1;  ///< -1: not counted (backward)
  std::int64_t kv_bytes = -1;
  std::int64_t bytes = -1;  ///< K, V, q, o, lse and partial states
  std::int64_t flops = 0;
  double bound_seconds = 0;  ///< no implementation can be faster
};

struct JobResult {
  std::string implementation;
  Ceilings ceilings;
  int repeats = 0;
  bool warm = false;           ///< a run before the timed ones; without it the first run counts
  std::vector<Pass> unshared;  ///< the same passes in both
  std::vector<Pass> shared;
  std::vector<Check> against_reference;
  std::vector<Check> against_unshared;

  bool checks_pass() const;
  double seconds(const std::vector<Pass>& passes) const;
};

JobResult run_job(const prefixshare::Context& context, const Options& options, const Step& step, Progress* progress);

}  // namespace prefix_report
