// SPDX-License-Identifier: Apache-2.0
// sampled_rows: a few rows of a forest as a problem of their own, for answers where all rows would take too long.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/testing/compare.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// Rows of a forest as explicit rectangles, for the oracle; the other rows stay without keys. Forests without deltas
/// and length slots.
struct SampledRows {
  std::vector<RowInstance> rows;
  std::vector<Rectangle> rectangles;

  SampledRows(const Forest& forest, std::int32_t count) {
    const std::int32_t step = std::max(1, forest.rows() / count);
    std::int32_t row = 0;
    for (const Sequence& s : forest.sequences) {
      for (std::int32_t r = 0; r < s.q_len; ++r, ++row) {
        if (row % step == step / 2) add(forest, s, row, s.first_order + r);
      }
    }
  }

  RectangleInput input(const Forest& forest) const {
    RectangleInput input;
    input.pools = forest.pools;
    input.pages = forest.pages;
    input.segments = forest.segments;
    input.rows = rows;
    input.rectangles = rectangles;
    input.q_rows = forest.rows();
    return input;
  }

  /// Takes the rows that were not sampled out of the comparison.
  void keep_only_these(std::int32_t heads, Expected* expected) const {
    for (std::size_t v = 0; v < expected->block.size(); ++v) {
      const auto row = static_cast<std::int32_t>(v / static_cast<std::size_t>(heads));
      const bool sampled = std::any_of(rows.begin(), rows.end(), [&](const RowInstance& r) { return r.row == row; });
      if (!sampled) expected->block[v] = Expected::kNotCompared;
    }
  }

 private:
  void add(const Forest& forest, const Sequence& sequence, std::int32_t row, std::int32_t order) {
    const auto index = static_cast<std::int32_t>(rows.size());
    rows.push_back({row, order, order, 0, -1});
    for (std::int32_t n = sequence.node; n >= 0; n = forest.nodes[static_cast<std::size_t>(n)].parent) {
      const Node& node = forest.nodes[static_cast<std::size_t>(n)];
      const std::int32_t position = forest.path_begin[static_cast<std::size_t>(n)];
      if (node.length > 0) rectangles.push_back({index, 1, node.segment, node.begin, node.length, position});
    }
  }
};

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
