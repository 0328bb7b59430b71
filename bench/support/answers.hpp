// SPDX-License-Identifier: Apache-2.0
// What a timed call must give: the brute-force answer in f64, of every row where that is quick, else of sampled rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/testing/oracle.hpp"
#include "prefixshare/testing/sampled_rows.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare::bench {

inline constexpr std::int64_t kSampledRows = 8;
inline constexpr std::int64_t kSampledPairs = 1 << 21;  ///< (row, head, key) that the sampled rows see, about
inline constexpr double kFullAnswerWork = 5e8;          ///< multiply-adds of a forward that is answered in full

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
  const testing::SampledRows sample(forest, sampled_rows(forest, kind));
  testing::Answer a = testing::answer_forward(sample.input(forest), kind, args);
  sample.keep_only_these(kind.Hq, &a.exact.o);
  sample.keep_only_these(kind.Hq, &a.exact.lse);
  return a;
}

}  // namespace prefixshare::bench
