// SPDX-License-Identifier: Apache-2.0
// REBASE: how many continuations each leaf of a search tree gets.
#pragma once

#include <cstdint>
#include <vector>

namespace tree_search {

/// Deals `width` continuations out by reward, best first: leaf i takes ceil(what is left * e^(s_i/T) / the sum of
/// e^(s/T) over i and the leaves after it). Equal rewards in order of index. The counts add up to `width` (no leaves:
/// an empty result); leaves that come too late get none. Rewards are finite, temperature > 0. Source: Wu et al., "An
/// Empirical Analysis of Compute-Optimal Inference for Problem-Solving with Language Models" (arXiv 2408.00724), reward
/// balanced search.
std::vector<std::int32_t> rebase_counts(const std::vector<double>& rewards, std::int32_t width, double temperature);

}  // namespace tree_search
