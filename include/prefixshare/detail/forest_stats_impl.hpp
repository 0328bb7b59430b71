// SPDX-License-Identifier: Apache-2.0
// Accounting of a forest, and its text.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>

#include "prefixshare/detail/forest_impl.hpp"

namespace prefixshare {
inline namespace v0_1 {

namespace detail {

/// Token slots [begin, end) of one page.
struct SlotRun {
  std::int32_t pool;
  std::int32_t page;
  std::int32_t begin;
  std::int32_t end;
  std::int32_t segment = -1;  ///< whose tokens they hold
  bool operator<(const SlotRun& other) const noexcept {
    return std::tie(pool, page, begin) < std::tie(other.pool, other.page, other.begin);
  }
};

/// Appends where tokens [begin, begin + length) of a segment lie, page by page. `in` is a Forest or a Plan.
template <class Storage>
void add_slot_runs(const Storage& in, std::int32_t segment, std::int32_t begin, std::int32_t length,
                   std::vector<SlotRun>* runs) {
  if (length == 0) return;
  const Segment& s = in.segments.data()[segment];
  const std::int64_t page_size = in.pools.data()[s.pool].page_size;
  const std::int64_t end = std::int64_t{s.offset} + begin + length;
  for (std::int64_t at = end - length; at < end;) {
    const std::int64_t slot = at % page_size;
    const std::int64_t count = std::min(page_size - slot, end - at);
    const std::int32_t page = in.pages.data()[s.first_page + at / page_size];
    runs->push_back({s.pool, page, static_cast<std::int32_t>(slot), static_cast<std::int32_t>(slot + count), segment});
    at += count;
  }
}
inline void add_slot_runs(const Forest& f, const Node& node, std::vector<SlotRun>* runs) {
  add_slot_runs(f, node.segment, node.begin, node.length, runs);
}

/// Size of the union of the runs.
inline std::int64_t count_slots(std::vector<SlotRun> runs) {
  std::sort(runs.begin(), runs.end());
  std::int64_t slots = 0;
  SlotRun covered = {-1, -1, 0, 0};
  for (const SlotRun& run : runs) {
    if (run.pool != covered.pool || run.page != covered.page) covered = {run.pool, run.page, 0, 0};
    slots += std::max(0, run.end - std::max(run.begin, covered.end));
    covered.end = std::max(covered.end, run.end);
  }
  return slots;
}

/// Segments with used[s] != 0 lie on slots of their own, each on every slot once.
template <class Storage>
Status check_disjoint_segments(const char* op, const Storage& in, const std::vector<char>& used) {
  std::vector<SlotRun> runs;
  for (std::size_t s = 0; s < used.size(); ++s) {
    if (used[s]) add_slot_runs(in, static_cast<std::int32_t>(s), 0, in.segments[s].length, &runs);
  }
  std::sort(runs.begin(), runs.end());
  for (std::size_t i = 1; i < runs.size(); ++i) {
    const SlotRun &a = runs[i - 1], &b = runs[i];
    if (a.pool != b.pool || a.page != b.page || b.begin >= a.end) continue;
    return refuse(StatusCode::invalid_argument, op, "segments", b.segment, "slot", b.begin, ">=", a.end);
  }
  return {};
}

inline std::vector<std::int32_t> count_references(const Forest& f) {
  std::vector<std::int32_t> counts(f.nodes.size(), 0);
  for (const Sequence& s : f.sequences) {
    if (s.node >= 0) ++counts.data()[s.node];
  }
  for (std::size_t n = f.nodes.size(); n-- > 0;) {
    if (f.nodes[n].parent >= 0) counts.data()[f.nodes[n].parent] += counts[n];
  }
  return counts;
}

inline std::vector<std::int32_t> node_depths(const Forest& f) {
  std::vector<std::int32_t> depth(f.nodes.size(), 1);
  for (std::size_t n = 0; n < f.nodes.size(); ++n) {
    if (f.nodes[n].parent >= 0) depth[n] = depth.data()[f.nodes[n].parent] + 1;
  }
  return depth;
}

/// Distinct slots of the nodes that a sequence reads.
inline std::int64_t count_unique(const Forest& f) {
  const std::vector<std::int32_t> references = count_references(f);
  std::vector<SlotRun> runs;
  for (std::size_t n = 0; n < f.nodes.size(); ++n) {
    if (references[n] > 0) add_slot_runs(f, f.nodes[n], &runs);
  }
  return count_slots(std::move(runs));
}

inline ForestStats measure(const Forest& f, std::int64_t unique) {
  const std::vector<std::int32_t> depth = node_depths(f);  // nothing below throws: no result is ever half written
  ForestStats stats;
  stats.sequences = static_cast<std::int64_t>(f.sequences.size());
  stats.nodes = static_cast<std::int64_t>(f.nodes.size());
  stats.rows = f.rows();
  stats.unique_tokens = unique;
  for (const Node& n : f.nodes) stats.roots += n.parent < 0;
  for (const Sequence& s : f.sequences) {
    const std::int64_t path = f.path_end(s.node);
    stats.logical_tokens += path;
    stats.max_path = std::max(stats.max_path, path);
    if (s.node >= 0) stats.depth = std::max<std::int64_t>(stats.depth, depth.data()[s.node]);
  }
  return stats;
}

/// "2.05"
inline std::string two_decimals(double x) {
  const auto hundredths = static_cast<std::int64_t>(x * 100 + 0.5);
  const std::int64_t fraction = hundredths % 100;
  return std::to_string(hundredths / 100) + (fraction < 10 ? ".0" : ".") + std::to_string(fraction);
}

inline std::string summary_line(const ForestStats& s) {
  return "forest: " + std::to_string(s.sequences) + " sequences, " + std::to_string(s.rows) + " rows, " +
         std::to_string(s.nodes) + " nodes, " + std::to_string(s.roots) + " roots, depth " + std::to_string(s.depth) +
         ", longest path " + std::to_string(s.max_path) + ", " + std::to_string(s.logical_tokens) + " logical / " +
         std::to_string(s.unique_tokens) + " unique tokens, sharing " + two_decimals(s.sharing_ratio()) + "\n";
}

/// "  node 3: path [16, 40) = segment 2 [0, 24), delta 5, 4 sequences, rows [0, 4)"
inline std::string node_line(const Forest& f, std::int32_t n, std::int32_t depth, std::int32_t references) {
  constexpr std::int32_t kDeepestIndent = 32;  // so that the text of a long chain stays linear in its nodes
  const auto range = [](std::int64_t begin, std::int64_t end) {
    return "[" + std::to_string(begin) + ", " + std::to_string(end) + ")";
  };
  const Node& node = f.nodes.data()[n];
  std::string text(static_cast<std::size_t>(2 * std::min(depth, kDeepestIndent)), ' ');
  text += "node " + std::to_string(n) + ": path " + range(f.path_begin.data()[n], f.path_end(n)) + " = segment " +
          std::to_string(node.segment) + " " + range(node.begin, node.begin + node.length);
  if (node.delta != 0) text += ", delta " + std::to_string(node.delta);
  if (node.length_slot >= 0) text += ", length slot " + std::to_string(node.length_slot);
  return text + ", " + std::to_string(references) + " sequences, rows " +
         range(f.row_begin.data()[n], f.row_end.data()[n]) + "\n";
}

}  // namespace detail

inline Status forest_stats(const Forest& forest, ForestStats* stats) noexcept {
  if (Status s = detail::check_pointer("forest_stats", "stats", stats)) return s;
  try {
    *stats = detail::measure(forest, detail::count_unique(forest));
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory("forest_stats", "stats");
  }
}

inline Status reference_counts(const Forest& forest, std::vector<std::int32_t>* counts) noexcept {
  if (Status s = detail::check_pointer("reference_counts", "counts", counts)) return s;
  try {
    *counts = detail::count_references(forest);
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory("reference_counts", "counts");
  }
}

inline std::string to_string(const Forest& forest, int max_nodes) {
  const auto count = static_cast<std::int32_t>(forest.nodes.size());
  const std::int32_t shown = std::min(count, std::max(max_nodes, 0));
  const std::vector<std::int32_t> depth = detail::node_depths(forest), references = detail::count_references(forest);
  std::string text = detail::summary_line(detail::measure(forest, detail::count_unique(forest)));
  for (std::int32_t n = 0; n < shown; ++n) {
    text += detail::node_line(forest, n, depth.data()[n], references.data()[n]);
  }
  if (shown < count) text += "  and " + std::to_string(count - shown) + " nodes more\n";
  return text;
}

}  // namespace v0_1
}  // namespace prefixshare
