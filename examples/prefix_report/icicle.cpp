// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "page.hpp"

namespace prefix_report {

using prefixshare::Forest;
using prefixshare::NodeDecision;

namespace {

std::size_t at(std::int32_t i) { return static_cast<std::size_t>(i); }

/// Per node: sequences, or leaves, at and below.
std::vector<std::int32_t> sharers_of(const Forest& forest, bool leaves_count) {
  std::vector<std::int32_t> count(forest.nodes.size(), leaves_count ? 1 : 0);
  if (leaves_count) {
    for (const prefixshare::Node& n : forest.nodes) {
      if (n.parent >= 0) count[at(n.parent)] = 0;
    }
  } else {
    for (const prefixshare::Sequence& s : forest.sequences) {
      if (s.node >= 0) ++count[at(s.node)];
    }
  }
  for (std::size_t n = forest.nodes.size(); n-- > 0;) {  // children come after their parents
    if (forest.nodes[n].parent >= 0) count[at(forest.nodes[n].parent)] += count[n];
  }
  return count;
}

/// Per node: what was decided about it. Where a node has no decision of its own it is one with its only child, or else
/// with its parent.
std::vector<const NodeDecision*> decisions_of(const Forest& forest, const prefixshare::Plan& plan) {
  std::vector<const NodeDecision*> of(forest.nodes.size(), nullptr);
  for (const NodeDecision& d : plan.decisions) of[at(d.node)] = &d;
  for (std::size_t n = forest.nodes.size(); n-- > 0;) {
    const std::int32_t parent = forest.nodes[n].parent;
    if (parent < 0 || of[n] == nullptr || of[at(parent)] != nullptr) continue;
    if (of[n]->begin < forest.path_end(parent)) of[at(parent)] = of[n];
  }
  for (std::size_t n = 0; n < forest.nodes.size(); ++n) {
    if (of[n] == nullptr && forest.nodes[n].parent >= 0) of[n] = of[at(forest.nodes[n].parent)];
  }
  return of;
}

}  // namespace

std::vector<Box> icicle(const Forest& forest, const prefixshare::Plan& plan, bool leaves_count) {
  const std::vector<std::int32_t> sharers = sharers_of(forest, leaves_count);
  const std::vector<const NodeDecision*> decisions = decisions_of(forest, plan);
  std::vector<std::int32_t> top(forest.nodes.size(), 0), next(forest.nodes.size(), 0);  // next: top of the next child
  std::int32_t next_root = 0;
  std::vector<Box> boxes;
  for (std::size_t n = 0; n < forest.nodes.size(); ++n) {
    const prefixshare::Node& node = forest.nodes[n];
    std::int32_t& above = node.parent < 0 ? next_root : next[at(node.parent)];
    top[n] = next[n] = above;
    above += sharers[n];
    if (node.length == 0 || sharers[n] == 0) continue;
    const std::int32_t i = static_cast<std::int32_t>(n), end = forest.path_end(i);
    boxes.push_back({i, end - node.length, end, top[n], sharers[n], decisions[n]});
  }
  return boxes;
}

}  // namespace prefix_report
