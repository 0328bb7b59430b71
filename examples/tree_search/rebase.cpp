// SPDX-License-Identifier: Apache-2.0
#include "rebase.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tree_search {

std::vector<std::int32_t> rebase_counts(const std::vector<double>& rewards, std::int32_t width, double temperature) {
  std::vector<std::size_t> order(rewards.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return rewards[a] > rewards[b]; });
  std::vector<double> share(rewards.size()), rest(rewards.size());  // in order; rest: the sum from here on
  for (std::size_t i = order.size(); i-- > 0;) {
    share[i] = std::exp((rewards[order[i]] - rewards[order[0]]) / temperature);
    rest[i] = share[i] + (i + 1 < order.size() ? rest[i + 1] : 0);
  }
  std::vector<std::int32_t> counts(rewards.size(), 0);
  std::int32_t left = width;
  for (std::size_t i = 0; i < order.size() && left > 0; ++i) {
    const bool last = i + 1 == order.size() || rest[i + 1] == 0;  // the others' shares vanish beside the best one's
    const std::int32_t count = last ? left : static_cast<std::int32_t>(std::ceil(left * (share[i] / rest[i])));
    counts[order[i]] = std::min(count, left);
    left -= counts[order[i]];
  }
  return counts;
}

}  // namespace tree_search
