// SPDX-License-Identifier: Apache-2.0
// Order statistics of times.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace prefixshare::gpu {

struct Times {
  std::vector<double> sorted;

  explicit Times(std::vector<double> seconds) : sorted(std::move(seconds)) { std::sort(sorted.begin(), sorted.end()); }
  double at(double fraction) const {
    return sorted[static_cast<std::size_t>(fraction * static_cast<double>(sorted.size() - 1) + 0.5)];
  }
  double minimum() const { return sorted.front(); }
  double median() const { return at(0.5); }
  double p90() const { return at(0.9); }
};

}  // namespace prefixshare::gpu
