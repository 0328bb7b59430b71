// SPDX-License-Identifier: Apache-2.0
// What a timed call must give: the brute-force answer in f64, of every row where that is quick, else of sampled rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "prefixshare/testing/oracle.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare::bench {

inline constexpr std::int64_t kSampledRows = 8;
inline constexpr std::int64_t kSampledPairs = 1 << 21;  ///< (row, head, key) that the sampled rows see, about
inline constexpr double kFullAnswerWork = 5e8;          ///< multiply-adds of a forward that is answered in full

/// Rows of a forest as explicit rectangles, for the oracle; the other rows stay without keys.
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
  void keep_only_these(std::int32_t heads, testing::Expected* expected) const {
    for (std::size_t v = 0; v < expected->block.size(); ++v) {
      const auto row = static_cast<std::int32_t>(v / static_cast<std::size_t>(heads));
      const bool sampled = std::any_of(rows.begin(), rows.end(), [&](const RowInstance& r) { return r.row == row; });
      if (!sampled) expected->block[v] = testing::Expected::kNotCompared;
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

/// Multiply-adds of a forward in which every row sees its whole path: an upper bound.
inline double forward_work(const Forest& forest, const LayerKind& kind) {
  double pairs = 0;
  for (const Sequence& s : forest.sequences) pairs += static_cast<double>(s.q_len) * forest.path_end(s.node);
  return pairs * kind.Hq * (kind.D + kind.Dv);
}

/// Rows to sample, where all are too many: fewer where they are long.
inline std::int32_t sampled_rows(const Forest& forest, const LayerKind& kind) {
  std::int64_t longest = 1;
  for (const Sequence& s : forest.sequences) longest = std::max<std::int64_t>(longest, forest.path_end(s.node));
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(kSampledPairs / (longest * kind.Hq), 1, kSampledRows));
}

/// The answer to a forward.
inline testing::Answer answer(const Forest& forest, const LayerKind& kind, const Attend& args) {
  if (forward_work(forest, kind) <= kFullAnswerWork) return testing::answer_forward(forest, kind, args);
  const SampledRows sample(forest, sampled_rows(forest, kind));
  testing::Answer a = testing::answer_forward(sample.input(forest), kind, args);
  sample.keep_only_these(kind.Hq, &a.exact.o);
  sample.keep_only_these(kind.Hq, &a.exact.lse);
  return a;
}

}  // namespace prefixshare::bench
