// SPDX-License-Identifier: Apache-2.0
#include "groups.hpp"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace batch_job {

using prefixshare::Forest;

namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Group by group: tokens to write, and to process.
struct Load {
  std::int64_t decode = 0;
  std::int64_t prompt = 0;
};

Load load_of(const Job& job, const Groups& groups, const Group& group) {
  Load load{0, group.prefix};
  for (std::int32_t m = group.first; m < group.first + group.count; ++m) {
    const std::int32_t request = groups.members[at(m)];
    load.decode += job.decode[at(request)];
    load.prompt += job.prompt(request) - group.prefix;
  }
  return load;
}

/// Whether two prompts have the same first `count` tokens; of a trace, the same blocks that these tokens begin in.
bool begin_alike(const Traffic& prompts, std::int32_t a, std::int32_t b, std::int64_t count) {
  const std::int64_t block = prompts.is_trace() ? prefix_report::kTraceBlock : 1;
  const std::int64_t ids = (count + block - 1) / block;
  const std::int64_t *first = prompts.offsets.data() + a, *second = prompts.offsets.data() + b;
  return first[0] + ids <= first[1] && second[0] + ids <= second[1] &&
         std::equal(prompts.tokens.begin() + first[0], prompts.tokens.begin() + first[0] + ids,
                    prompts.tokens.begin() + second[0]);
}

}  // namespace

Groups make_groups(const Forest& trie, const PrefixNodes& prefixes) {
  std::unordered_map<std::int32_t, std::int32_t> group_of_node;
  std::vector<std::int32_t> group_of_request;
  Groups result;
  for (const std::int32_t node : prefixes) {
    const std::int32_t fresh = static_cast<std::int32_t>(result.groups.size());
    const std::int32_t group = node < 0 ? fresh : group_of_node.emplace(node, fresh).first->second;
    if (group == fresh) result.groups.push_back({trie.path_end(node), 0, 0});
    ++result.groups[at(group)].count;
    group_of_request.push_back(group);
  }
  std::int32_t first = 0;
  for (Group& group : result.groups) {
    group.first = first;
    first += group.count;
    group.count = 0;
  }
  result.members.resize(prefixes.size());
  for (std::size_t request = 0; request < prefixes.size(); ++request) {
    Group& group = result.groups[at(group_of_request[request])];
    result.members[at(group.first + group.count++)] = static_cast<std::int32_t>(request);
  }
  return result;
}

std::int64_t processed_tokens(const Job& job, const Groups& groups) {
  std::int64_t tokens = 0;
  for (const Group& group : groups.groups) tokens += load_of(job, groups, group).prompt;
  return tokens;
}

bool reconstructs(const Job& job, const Groups& groups) {
  std::vector<bool> seen(at(job.requests()), false);
  for (const Group& group : groups.groups) {
    for (std::int32_t m = group.first; m < group.first + group.count; ++m) {
      const std::int32_t request = groups.members[at(m)];
      if (seen[at(request)] || group.prefix > job.prompt(request)) return false;
      if (!begin_alike(job.prompts, groups.members[at(group.first)], request, group.prefix)) return false;
      seen[at(request)] = true;
    }
  }
  return std::find(seen.begin(), seen.end(), false) == seen.end();
}

Groups order_by_decode(const Job& job, const Groups& groups) {
  std::vector<std::pair<Load, Group>> order;
  for (const Group& group : groups.groups) order.emplace_back(load_of(job, groups, group), group);
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.first.decode * std::max<std::int64_t>(b.first.prompt, 1) >
           b.first.decode * std::max<std::int64_t>(a.first.prompt, 1);
  });
  Groups result;
  for (const auto& [load, group] : order) {
    const auto member = groups.members.begin() + group.first;
    result.groups.push_back({group.prefix, static_cast<std::int32_t>(result.members.size()), group.count});
    result.members.insert(result.members.end(), member, member + group.count);
  }
  return result;
}

}  // namespace batch_job
