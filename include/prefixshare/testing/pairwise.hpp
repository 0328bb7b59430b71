// SPDX-License-Identifier: Apache-2.0
// Pairwise matrices of test cases.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "prefixshare/testing/problem.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// Rows of level indices such that every pair of levels of any two factors occurs: greedy, deterministic.
inline std::vector<std::vector<std::int32_t>> pairwise(const std::vector<std::int32_t>& levels,
                                                       std::uint64_t seed = 1) {
  const std::size_t n = levels.size();
  std::vector<std::vector<char>> open(n * n);
  std::int64_t left = 0;
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = a + 1; b < n; ++b) {
      open[a * n + b].assign(static_cast<std::size_t>(levels[a] * levels[b]), 1);
      left += levels[a] * levels[b];
    }
  }
  const auto covers = [&](const std::vector<std::int32_t>& row, bool close) {
    std::int64_t count = 0;
    for (std::size_t a = 0; a < n; ++a) {
      for (std::size_t b = a + 1; b < n; ++b) {
        char& pair = open[a * n + b][static_cast<std::size_t>(row[a] * levels[b] + row[b])];
        count += pair;
        if (close) pair = 0;
      }
    }
    return count;
  };
  Random random(seed);
  std::vector<std::vector<std::int32_t>> rows;
  while (left > 0) {
    std::vector<std::int32_t> best;
    std::int64_t most = 0;
    while (most == 0) {
      for (int candidate = 0; candidate < 60; ++candidate) {
        std::vector<std::int32_t> row(levels.size());
        for (std::size_t a = 0; a < row.size(); ++a) row[a] = random.between(0, levels[a] - 1);
        const std::int64_t count = covers(row, false);
        if (count > most) most = count, best = row;
      }
    }
    left -= covers(best, true);
    rows.push_back(best);
  }
  return rows;
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
