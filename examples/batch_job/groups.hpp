// SPDX-License-Identifier: Apache-2.0
// Single-level groups: one shared prefix, and what each member has of its own. A trie of prompts has many levels; an
// engine that shares one level per request must choose, for every request, at which node of its path the prefix ends.
// Source: BatchLLM (arXiv 2412.03594), section on global prefix identification, and the code published with it.
#pragma once

#include <cstdint>
#include <vector>

#include "job.hpp"

namespace batch_job {

/// Requests that share their first `prefix` tokens. One member and prefix 0 are legal.
struct Group {
  std::int32_t prefix = 0;  ///< tokens
  std::int32_t first = 0;   ///< into Groups::members
  std::int32_t count = 0;
};

struct Groups {
  std::vector<Group> groups;
  std::vector<std::int32_t> members;  ///< requests; every one is in exactly one group
};

/// Per request: the node of the trie at which its group's prefix ends; -1: no prefix.
using PrefixNodes = std::vector<std::int32_t>;

/// The rule of BatchLLM's code (`_enlarge_1st_prefix_tokens`), bottom-up: a node u below c gets c's tokens in front of
/// its own and moves up beside c if (leaves(u) - 1) |u| > |c|; what then stands at the top are the groups. A leaf is a
/// request, so that a node where k prompts end has k of them. Iterative; quadratic at worst, if many nodes move up
/// a long chain together and stop late. It can miss savings, by a fifth in small tries.
PrefixNodes greedy_prefixes(const prefixshare::Forest& trie);

/// The groups that process the fewest tokens. With P(v) the tokens of the path to v, and p those of a prefix above v
/// that v's requests may use, the tokens saved below v are at best
///   A(v, p) = max(sum_u A(u, p), -P(v) + sum_u A(u, P(v)))   over what hangs below v: its nodes, and its requests,
///   A(request, p) = p,
/// so that a request which ends at an inner node is a leaf below it, and equal prompts are leaves of one node, which
/// may share all that they have. The most that can be saved is A(root, 0). As a function of p, A(v, .) is convex and
/// piecewise linear: it is kept as its breakpoints, which are merged upwards, the fewer into the more. O(N log^2 N) for
/// N nodes, iterative, memory O(N). Of equal savings it takes the prefix above.
PrefixNodes exact_prefixes(const prefixshare::Forest& trie);

/// Groups by prefix node, in order of their first request; requests without a prefix are groups of one.
Groups make_groups(const prefixshare::Forest& trie, const PrefixNodes& prefixes);

/// Tokens to process: every group's prefix once, and every request's own.
std::int64_t processed_tokens(const Job& job, const Groups& groups);

/// Whether every prompt is its group's prefix (that of the group's first member), token for token, and its own tokens,
/// and every request is in one group.
bool reconstructs(const Job& job, const Groups& groups);

/// The same groups by descending ratio of tokens to write to prompt tokens to process: what decodes long begins early,
/// so that its decode steps fill up with the prefill of later groups. Equal ratios keep their order.
Groups order_by_decode(const Job& job, const Groups& groups);

}  // namespace batch_job
