// SPDX-License-Identifier: Apache-2.0
#include "search_tree.hpp"

#include <algorithm>
#include <cmath>

#include "prefixshare/testing/problem.hpp"

namespace tree_search {

using prefixshare::Node;
using prefixshare::Segment;
using prefixshare::Sequence;
using prefixshare::testing::Random;

namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::uint64_t mix(std::uint64_t a, std::uint64_t b) { return Random(a ^ (b * 0x9e3779b97f4a7c15u + 1)).next(); }

/// What a step does, of a few things that searches do at this depth: the likely ones are done again and again.
std::int64_t choose_idea(Random* random) {
  std::int64_t idea = 0;
  while (idea < 63 && random->chance(0.8)) ++idea;
  return idea;
}

/// Step `ordinal` below a parent: some 45 tokens, from 8 to 256; a quality that drifts; an idea that siblings may
/// share.
Step next_step(const Step& parent, std::int32_t ordinal) {
  Step step;
  step.key = mix(parent.key, static_cast<std::uint64_t>(ordinal));
  Random random(step.key);
  step.tokens = std::clamp(static_cast<std::int32_t>(std::exp(3.7 + 0.5 * random.normal())), 8, 256);
  step.quality = 0.9 * parent.quality + 0.3 * random.normal();
  step.reward = 1 / (1 + std::exp(-step.quality));
  step.cluster = choose_idea(&random);
  return step;
}

}  // namespace

SearchTree::SearchTree(std::int32_t prompt_tokens, std::uint64_t seed) {
  Step prompt;
  prompt.key = mix(seed, 0);
  prompt.tokens = prompt_tokens;
  prompt.reward = 0.5;
  steps_.push_back(prompt);
  std::vector<std::int32_t> pages;
  for (std::int32_t t = 0; t < prompt_tokens; t += kPageSize) pages.push_back(take_page());
  const prefixshare::PoolShape pool = {kPageSize, pages_};
  const Segment segment = {0, 0, 0, prompt_tokens};
  Node node;
  node.segment = 0;
  node.length = prompt_tokens;
  const Sequence leaf = {0, 1};
  throw_if_error(make_forest({{&pool, 1}, pages, {&segment, 1}, {&node, 1}, {&leaf, 1}}, &forest_));
}

std::vector<std::int32_t> SearchTree::leaf_nodes() const {
  std::vector<std::int32_t> nodes;
  for (const Sequence& leaf : forest_.sequences) nodes.push_back(leaf.node);
  return nodes;
}

std::vector<double> SearchTree::rewards() const {
  std::vector<double> rewards;
  for (const Sequence& leaf : forest_.sequences) rewards.push_back(steps_[at(leaf.node)].reward);
  return rewards;
}

std::vector<std::int64_t> SearchTree::clusters() const {
  std::vector<std::int64_t> clusters;
  for (const Sequence& leaf : forest_.sequences) clusters.push_back(steps_[at(leaf.node)].cluster);
  return clusters;
}

std::int32_t SearchTree::take_page() {
  if (free_pages_.empty()) return pages_++;
  const std::int32_t page = free_pages_.back();
  free_pages_.pop_back();
  return page;
}

void SearchTree::grow(const std::vector<std::int32_t>& children) {
  std::vector<std::int32_t> pages = forest_.pages;
  std::vector<Segment> segments = forest_.segments;
  std::vector<Node> nodes = forest_.nodes;
  std::vector<Sequence> leaves;
  for (std::size_t leaf = 0; leaf < children.size(); ++leaf) {
    const std::int32_t parent = forest_.sequences[leaf].node;
    for (std::int32_t i = 0; i < children[leaf]; ++i) {
      const Step step = next_step(steps_[at(parent)], i);
      Node node;
      node.parent = parent;
      node.segment = static_cast<std::int32_t>(segments.size());
      node.length = step.tokens;
      segments.push_back({0, static_cast<std::int32_t>(pages.size()), 0, step.tokens});
      for (std::int32_t t = 0; t < step.tokens; t += kPageSize) pages.push_back(take_page());
      leaves.push_back({static_cast<std::int32_t>(nodes.size()), 1});
      nodes.push_back(node);
      steps_.push_back(step);
    }
  }
  const prefixshare::PoolShape pool = {kPageSize, pages_};
  throw_if_error(make_forest({{&pool, 1}, pages, segments, nodes, leaves}, &forest_));
  std::vector<Step> placed(steps_.size());
  for (std::size_t n = 0; n < placed.size(); ++n) placed[at(forest_.node_of_input[n])] = steps_[n];
  steps_ = std::move(placed);
}

prefixshare::FreedStorage SearchTree::prune(const std::vector<std::uint8_t>& keep) {
  prefixshare::FreedStorage freed;
  prefixshare::ForestMap map;
  throw_if_error(would_free(forest_, keep, &freed));
  throw_if_error(prune_forest(forest_, keep, &forest_, &map));
  for (std::size_t n = 0; n < map.nodes.size(); ++n) {
    if (map.nodes[n] >= 0) steps_[at(map.nodes[n])] = steps_[n];  // nodes only move down
  }
  steps_.resize(forest_.nodes.size());
  for (const prefixshare::PageId& page : freed.pages) free_pages_.push_back(page.page);
  return freed;
}

Accounting SearchTree::account() const {
  prefixshare::ForestStats stats;
  std::vector<std::int32_t> readers;
  throw_if_error(forest_stats(forest_, &stats));
  throw_if_error(reference_counts(forest_, &readers));
  Accounting a;
  a.leaves = stats.sequences;
  a.nodes = stats.nodes;
  a.unique_tokens = stats.unique_tokens;
  a.logical_tokens = stats.logical_tokens;
  for (std::size_t n = 0; n < readers.size(); ++n) a.shared_tokens += readers[n] > 1 ? forest_.nodes[n].length : 0;
  a.pages = pages_ - static_cast<std::int64_t>(free_pages_.size());
  return a;
}

}  // namespace tree_search
