// SPDX-License-Identifier: Apache-2.0
#include "attention.hpp"

#include <unordered_map>

#include "prefixshare/shared_prefix_attention.hpp"

namespace batch_job {

using prefixshare::Forest;
using prefixshare::Sharing;

namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Per request: its group.
std::vector<std::int32_t> groups_of_requests(const Groups& groups) {
  std::vector<std::int32_t> result(groups.members.size());
  for (std::size_t g = 0; g < groups.groups.size(); ++g) {
    const Group& group = groups.groups[g];
    for (std::int32_t m = group.first; m < group.first + group.count; ++m) {
      result[at(groups.members[at(m)])] = static_cast<std::int32_t>(g);
    }
  }
  return result;
}

Forest forest_of_groups(const Job& job, const Groups& groups, const Running& running) {
  const std::vector<std::int32_t> group_of = groups_of_requests(groups);
  std::vector<std::vector<std::int32_t>> suffixes(groups.groups.size());
  for (std::size_t i = 0; i < running.requests.size(); ++i) {
    const std::int32_t request = running.requests[i], g = group_of[at(request)];
    suffixes[at(g)].push_back(job.prompt(request) - groups.groups[at(g)].prefix + running.written[i]);
  }
  std::vector<std::int32_t> prefix_len, suffix_begin = {0}, suffix_len;
  for (std::size_t g = 0; g < suffixes.size(); ++g) {
    if (suffixes[g].empty()) continue;
    prefix_len.push_back(groups.groups[g].prefix);
    suffix_len.insert(suffix_len.end(), suffixes[g].begin(), suffixes[g].end());
    suffix_begin.push_back(static_cast<std::int32_t>(suffix_len.size()));
  }
  Forest forest;
  throw_if_error(forest_from_groups({prefix_len, suffix_begin, suffix_len, 1}, &forest));
  return forest;
}

/// The nodes of the trie that some running request goes through, and below them what each has written.
class Levels {
 public:
  explicit Levels(const Forest& trie) : trie_(trie) {}

  void add(std::int32_t request, std::int32_t written) {
    parents_.push_back(copy_path(trie_.sequences[at(request)].node));
    lengths_.push_back(written);
    q_len_.push_back(1);
  }

  Forest build() const {
    Forest forest;
    throw_if_error(forest_from_parents({parents_, lengths_, q_len_}, &forest));
    return forest;
  }

 private:
  /// The copy of a node of the trie. What is missing of its path is added, from the bottom up.
  std::int32_t copy_path(std::int32_t node) {
    std::int32_t last = -1, below = -1;
    for (; node >= 0; node = trie_.nodes[at(node)].parent) {
      const std::int32_t fresh = static_cast<std::int32_t>(parents_.size());
      const auto [found, is_new] = copies_.emplace(node, fresh);
      if (below >= 0) parents_[at(below)] = found->second;
      if (last < 0) last = found->second;
      if (!is_new) break;
      parents_.push_back(-1);
      lengths_.push_back(trie_.nodes[at(node)].length);
      q_len_.push_back(0);
      below = fresh;
    }
    return last;
  }

  const Forest& trie_;
  std::unordered_map<std::int32_t, std::int32_t> copies_;
  std::vector<std::int32_t> parents_, lengths_, q_len_;
};

Reading read(const Forest& forest, Sharing sharing) {
  prefixshare::LayerKind kind;
  kind.Hq = 28;
  kind.Hkv = 4;
  kind.D = kind.Dv = 128;
  kind.q_dtype = kind.kv_dtype = prefixshare::DType::f16;
  prefixshare::PlanOptions options;
  options.sharing = sharing;
  prefixshare::Plan plan;
  throw_if_error(make_plan(forest, kind, options, &plan));
  prefixshare::ForestStats stats;
  throw_if_error(forest_stats(forest, &stats));
  return {sharing == Sharing::never ? stats.logical_tokens : stats.unique_tokens, count(plan)};
}

}  // namespace

Running running_requests(const Job& job, const Groups& groups, const std::vector<Work>& work) {
  Running running;
  for (const Work& w : work) {
    if (w.request < 0) continue;
    const std::int64_t own = job.prompt(w.request) - groups.groups[at(w.group)].prefix;
    if (w.begin < own) continue;
    running.requests.push_back(w.request);
    running.written.push_back(static_cast<std::int32_t>(w.begin + 1 - own));
  }
  return running;
}

Readings read_step(const Job& job, const Groups& groups, const Running& running) {
  const Forest single = forest_of_groups(job, groups, running);
  Levels levels(job.trie);
  for (std::size_t i = 0; i < running.requests.size(); ++i) levels.add(running.requests[i], running.written[i]);
  return {read(single, Sharing::never), read(single, Sharing::automatic), read(levels.build(), Sharing::automatic)};
}

}  // namespace batch_job
