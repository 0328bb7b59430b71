// SPDX-License-Identifier: Apache-2.0
// ETS's selector: which leaves of a search tree to keep, so that they share much and differ enough.
#pragma once

#include <cstdint>
#include <vector>

namespace tree_search {

/// What keeping a node costs: 1, as published, or its tokens.
enum class NodeCost { nodes, tokens };

/// Keep leaves x, at least one, so that this is largest:
///   sum_i O_i x_i  -  lambda_b * cost(kept) / cost(all)  +  lambda_d * clusters(kept) / clusters(all)
/// where cost counts the nodes on the paths of leaves, each once, the leaves' own among them, and clusters the labels
/// that occur. Source: Hooper et al., "ETS: Efficient Tree Search for Inference-Time Scaling" (arXiv 2502.13575), whose
/// published code costs every node 1 and splits the cost into inner nodes and leaves; the sum is the same.
struct SelectionProblem {
  std::vector<std::int32_t> parents;   ///< [nodes] -1 for a root; a parent comes before its children, as in a Forest
  std::vector<std::int32_t> lengths;   ///< [nodes] tokens, >= 0; for NodeCost::tokens
  std::vector<std::int32_t> leaves;    ///< [leaves] node of each; several may end at one node, or at an inner one
  std::vector<double> weights;         ///< [leaves] O_i
  std::vector<std::int64_t> clusters;  ///< [leaves] any labels; empty: no diversity term
  double lambda_b = 1;                 ///< >= 0
  double lambda_d = 0;                 ///< >= 0
  NodeCost cost = NodeCost::nodes;
};

struct Selection {
  std::vector<std::uint8_t> keep;  ///< [leaves]
  double objective = 0;
  double bound = 0;              ///< no choice has more
  std::int64_t subproblems = 0;  ///< of the branch and bound; 1 where the first bound was met
  /// Whether the choice is proven the best, up to rounding.
  bool proven() const { return bound <= objective; }
};

/// The objective of a choice of leaves.
double objective_of(const SelectionProblem& problem, const std::vector<std::uint8_t>& keep);

/// The best choice, if at most `max_subproblems` are enough to prove it; else the best that was found. Without leaves
/// there is nothing to choose: an empty, proven result. Deterministic; where leaves are worth the same the first is
/// kept, and what adds nothing is left out.
///
/// Without the diversity term the best set in a subtree follows from the best sets of its children: one pass over the
/// nodes, exact at any size. With it, a price per cluster bounds the objective (a cluster counts its bonus less its
/// price, each of its leaves gets the price), the bound is again that pass, and what it leaves open is decided leaf by
/// leaf. Throws std::invalid_argument for sizes, indices or numbers that are none.
Selection select_leaves(const SelectionProblem& problem, std::int64_t max_subproblems = 2000);

}  // namespace tree_search
