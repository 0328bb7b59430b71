// SPDX-License-Identifier: Apache-2.0
// What the small examples share: random numbers, aligned memory, the distance of two results.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "prefixshare/prefixshare.hpp"

namespace example {

/// Numbers from N(0, 1).
template <class T>
std::vector<T> random(std::int64_t count, unsigned seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<T> normal;
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& x : values) x = normal(bits);
  return values;
}

/// Memory for the calls of every plan within limits, one at a time.
class WorkspaceMemory {
 public:
  WorkspaceMemory(const prefixshare::LayerKind& kind, const prefixshare::PlanLimits& limits) {
    std::int64_t forward = 0, backward = 0;
    throw_if_error(forward_workspace(kind, limits, &forward));
    throw_if_error(backward_workspace(kind, limits, &backward));
    const std::int64_t bytes = (std::max(forward, backward) / 256 + 1) * 256;
    data_.reset(std::aligned_alloc(256, static_cast<std::size_t>(bytes)));
    throw_if_error(init_workspace(kind, limits, data_.get(), bytes, &workspace_));
  }
  /// For one plan; an engine allocates once, for its limits.
  explicit WorkspaceMemory(const prefixshare::Plan& plan) : WorkspaceMemory(plan.header.kind, limits_of(plan, 1)) {}
  const prefixshare::Workspace& workspace() const { return workspace_; }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  prefixshare::Workspace workspace_;
};

/// Largest difference; infinite where one is NaN.
template <class T>
double distance(const std::vector<T>& a, const std::vector<T>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double off = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    most = std::isnan(off) ? INFINITY : std::max(most, off);
  }
  return most;
}

}  // namespace example
