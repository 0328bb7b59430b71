// SPDX-License-Identifier: Apache-2.0
// The report as one HTML page that needs nothing else: the forest as a picture, and what sharing saved.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/plan.hpp"
#include "report.hpp"

namespace prefix_report {

/// A node of the forest in the picture: right of it is what follows, below it are other sequences.
struct Box {
  std::int32_t node = 0;
  std::int32_t begin = 0, end = 0;  ///< path positions of its tokens
  std::int32_t top = 0;             ///< sequences above it
  std::int32_t sharers = 0;         ///< sequences whose path goes through it
  const prefixshare::NodeDecision* decision = nullptr;
};
/// Every node that has a token, in depth-first order. `leaves_count`: sharers are the leaves below a node, not the
/// sequences; for a training step, where every node has rows of its own.
std::vector<Box> icicle(const prefixshare::Forest& forest, const prefixshare::Plan& plan, bool leaves_count);

std::string to_html(const Report& report);

}  // namespace prefix_report
