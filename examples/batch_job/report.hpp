// SPDX-License-Identifier: Apache-2.0
// What is found out about a job, and how it is told: text for people, JSON and CSV for machines.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attention.hpp"
#include "options.hpp"

namespace batch_job {

/// One way of running the job, replayed.
struct Way {
  std::string name;
  std::int64_t processed = 0;  ///< prompt tokens
  std::vector<Iteration> iterations;
};

/// An iteration with the most requests that write.
struct Step {
  std::int64_t iteration = 0;  ///< from 1
  Running running;
  Readings readings;
};

/// Tokens that a choice of prefixes processes.
struct Choice {
  std::string name;
  std::int64_t groups = 0;  ///< with a prefix
  std::int64_t processed = 0;
  double seconds = 0;  ///< to choose
};

struct Report {
  Options options;
  std::string what;  ///< the input in words
  std::int64_t requests = 0;
  std::int64_t decode_tokens = 0;
  std::int64_t blocks = 0;           ///< distinct blocks of a trace
  prefix_report::TokenCount tokens;  ///< by set union
  prefixshare::ForestStats trie;     ///< whose unique tokens are what many levels process
  Choice greedy, exact;
  bool reconstructed = false;  ///< every prompt is its group's prefix and its own tokens, either choice
  std::vector<Way> ways;
  std::optional<Step> step;  ///< of the last way; none if nobody writes

  bool counts_agree() const { return tokens.logical == trie.logical_tokens && tokens.unique == trie.unique_tokens; }
  bool passes() const { return counts_agree() && reconstructed; }
  /// Share of the logical tokens that are not processed.
  double saving(std::int64_t processed) const;
};

/// Means and peaks over the iterations of a way.
struct Summary {
  std::int64_t iterations = 0;
  double tokens = 0;  ///< mean per iteration
  double batch = 0, kv = 0;
  std::int64_t peak_batch = 0, peak_kv = 0;
};
Summary summarise(const std::vector<Iteration>& iterations);

/// Reads or makes the job and runs all of it. Throws InputError.
Report analyse(const Options& options);

std::string to_text(const Report& report);
std::string to_json(const Report& report);
/// way,iteration,batch,prefill,decode,kv: a line per iteration.
std::string to_csv(const Report& report);

}  // namespace batch_job
