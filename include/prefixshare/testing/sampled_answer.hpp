// SPDX-License-Identifier: Apache-2.0
// sampled_answer: what a forward must give: the brute-force answer in f64, of every row where that is quick, else of
// sampled rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/testing/oracle.hpp"
#include "prefixshare/testing/sampled_rows.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// How much of an answer is computed.
struct AnswerLimits {
  double full_work = 5e8;            ///< multiply-adds of a forward that is answered in full
  std::int64_t rows = 8;             ///< else so many rows,
  std::int64_t row_pairs = 1 << 21;  ///< or fewer, where they see more (row, head, key) than that together
};

/// Multiply-adds of a forward in which every row sees its whole path: an upper bound.
inline double forward_work(const Forest& forest, const LayerKind& kind) {
  double pairs = 0;
  for (const Sequence& s : forest.sequences) pairs += static_cast<double>(s.q_len) * forest.path_end(s.node);
  return pairs * kind.Hq * (kind.D + kind.Dv);
}

/// Forests without deltas and length slots, where rows must be sampled.
inline Answer sampled_answer(const Forest& forest, const LayerKind& kind, const Attend& args,
                             const AnswerLimits& limits = {}) {
  if (forward_work(forest, kind) <= limits.full_work) return answer_forward(forest, kind, args);
  std::int64_t longest = 1;
  for (const Sequence& s : forest.sequences) longest = std::max<std::int64_t>(longest, forest.path_end(s.node));
  const std::int64_t rows = std::clamp<std::int64_t>(limits.row_pairs / (longest * kind.Hq), 1, limits.rows);
  const SampledRows sample(forest, static_cast<std::int32_t>(rows));
  Answer a = answer_forward(sample.input(forest), kind, args);
  sample.keep_only_these(kind.Hq, &a.exact.o);
  sample.keep_only_these(kind.Hq, &a.exact.lse);
  return a;
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
