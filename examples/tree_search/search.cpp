// SPDX-License-Identifier: Apache-2.0
#include "search.hpp"

#include <algorithm>

#include "rebase.hpp"

namespace tree_search {

namespace {

/// REBASE's shares of all leaves, as ETS weighs them.
std::vector<double> weights_of(const Options& options, const std::vector<double>& rewards) {
  std::vector<double> weights;
  for (const std::int32_t count : rebase_counts(rewards, options.width, options.temperature)) {
    weights.push_back(static_cast<double>(count) / options.width);
  }
  return weights;
}

Selection select_by_ets(const Options& options, const SearchTree& tree) {
  SelectionProblem problem;
  for (const prefixshare::Node& node : tree.forest().nodes) {
    problem.parents.push_back(node.parent);
    problem.lengths.push_back(node.length);
  }
  problem.leaves = tree.leaf_nodes();
  problem.weights = weights_of(options, tree.rewards());
  problem.clusters = tree.clusters();
  problem.lambda_b = options.lambda_b;
  problem.lambda_d = options.lambda_d;
  problem.cost = options.cost;
  return select_leaves(problem, options.limit);
}

}  // namespace

Choice choose_leaves(const Options& options, Policy policy, const SearchTree& tree) {
  std::vector<std::uint8_t> keep(tree.forest().sequences.size(), 1);
  Choice choice;
  if (policy == Policy::ets) {
    const Selection selection = select_by_ets(options, tree);
    keep = selection.keep;
    choice.gap = selection.bound - selection.objective;
  }
  const std::vector<double> rewards = tree.rewards();
  std::vector<double> survivors;
  for (std::size_t i = 0; i < keep.size(); ++i) {
    if (keep[i]) survivors.push_back(rewards[i]);
  }
  const std::vector<std::int32_t> counts = rebase_counts(survivors, options.width, options.temperature);
  auto next = counts.begin();
  for (const std::uint8_t kept : keep) choice.counts.push_back(kept ? *next++ : 0);
  return choice;
}

Search run_search(const Options& options, Policy policy, const Decoder& decoder) {
  SearchTree tree(options.prompt, options.seed);
  Cache cache(decoder.kind);
  cache.store_leaves(tree);
  Search search;
  std::vector<std::int32_t> children = {options.width};
  for (std::int32_t d = 0; d < options.depth; ++d) {
    tree.grow(children);
    cache.store_leaves(tree);
    search.peak_pages = std::max(search.peak_pages, tree.account().pages);
    const Choice choice = choose_leaves(options, policy, tree);
    std::vector<std::uint8_t> keep;
    children.clear();
    for (const std::int32_t count : choice.counts) {
      keep.push_back(count > 0);
      if (count > 0) children.push_back(count);
    }
    Depth depth;
    depth.gap = choice.gap;
    depth.freed_tokens = tree.prune(keep).tokens;
    depth.kept = tree.account();
    depth.decode = decoder.run(tree, cache);
    search.depths.push_back(depth);
  }
  return search;
}

double Search::mean_tokens() const {
  double sum = 0;
  for (const Depth& depth : depths) sum += static_cast<double>(depth.kept.unique_tokens);
  return sum / static_cast<double>(depths.size());
}

double Search::seconds() const {
  double sum = 0;
  for (const Depth& depth : depths) sum += depth.decode.seconds;
  return sum;
}

bool passes(const Search& search) {
  return std::all_of(search.depths.begin(), search.depths.end(), [](const Depth& d) { return d.decode.ok(); });
}

}  // namespace tree_search
