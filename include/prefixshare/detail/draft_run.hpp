// SPDX-License-Identifier: Apache-2.0
// Draft trees inside a forest: subtrees that become one run of keys with ancestor bits. Comes with plan.hpp.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/forest.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr std::int32_t kDraftTokens = 64;  // a draft tree up to one word of bits becomes one run

/// The tokens below a node as consecutive slots of one segment.
struct DraftRun {
  std::int32_t segment = -1;
  std::int32_t token = 0;  ///< first slot
  std::int32_t length = 0;

  /// Bits of tokens [begin, begin + count) of the segment.
  std::uint64_t bits(std::int32_t begin, std::int32_t count) const noexcept {
    return count <= 0 ? 0 : low_bits(count) << (begin - token);
  }
  static std::uint64_t low_bits(std::int32_t n) noexcept {
    return n >= kDraftTokens ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
  }
};

/// Slots that the nodes below v span. Only for a subtree of one segment.
inline DraftRun draft_run(const Forest& f, std::int32_t v) noexcept {
  std::int32_t low = INT32_MAX, high = INT32_MIN;
  for (std::int32_t n = v + 1; n < f.subtree_end.data()[v]; ++n) {
    const Node& node = f.nodes.data()[n];
    low = std::min(low, node.begin);
    high = std::max(high, node.begin + node.length);
  }
  return {f.nodes.data()[v + 1].segment, low, high - low};
}

/// Whether everything below v is a draft tree: at least two nodes with rows, up to kDraftTokens tokens in short nodes,
/// which are consecutive slots of one segment, each once.
inline bool is_draft_root(const Forest& f, std::int32_t v) noexcept {
  const std::int32_t end = f.subtree_end.data()[v], nodes = end - v - 1;
  if (nodes < 2 || nodes > kDraftTokens || f.row_end.data()[v] - f.own_row_end.data()[v] < 2) return false;
  const Node& first = f.nodes.data()[v + 1];
  std::int32_t tokens = 0;
  for (std::int32_t n = v + 1; n < end; ++n) {
    const Node& node = f.nodes.data()[n];
    const bool fits = node.length > 0 && node.segment == first.segment && node.delta == first.delta;
    if (!fits || node.length_slot >= 0 || node.length > kDraftTokens - tokens) return false;
    tokens += node.length;
  }
  const DraftRun run = draft_run(f, v);
  if (run.length != tokens || tokens > 2 * nodes) return false;
  std::uint64_t seen = 0;
  for (std::int32_t n = v + 1; n < end; ++n) seen |= run.bits(f.nodes.data()[n].begin, f.nodes.data()[n].length);
  return seen == DraftRun::low_bits(tokens);
}

/// Draft tokens that a row of the forest sees: ancestors-or-self of its node below `root`, up to its order and inside
/// the window, which cannot go stale here because a draft tree has no length slots.
inline std::uint64_t draft_word(const Forest& f, const DraftRun& run, std::int32_t root, std::int32_t row,
                                std::int32_t window) noexcept {
  const std::int64_t order = f.order(row);
  const std::int64_t first = window < 0 ? INT32_MIN : order - window + 1;
  std::uint64_t word = 0;
  std::int32_t n = f.sequences.data()[f.row_sequence.data()[row]].node;
  for (; n != root; n = f.nodes.data()[n].parent) {
    const std::int64_t path = f.path_begin.data()[n];
    const Node& node = f.nodes.data()[n];
    const auto upto = [&](std::int64_t position) {
      return static_cast<std::int32_t>(std::clamp<std::int64_t>(position - path, 0, node.length));
    };
    word |= run.bits(node.begin, upto(order + 1)) & ~run.bits(node.begin, upto(first));
  }
  return word;
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
