// SPDX-License-Identifier: Apache-2.0
// workload: a problem as plain data with a name, the same for tests, benches and peers; and the forest that it says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/testing/problem.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// What a workload asks for.
enum class Task : std::uint8_t {
  forward,   ///< attention: of each sequence, the last `rows` tokens are query rows, and so is every draft token
  training,  ///< attention and its gradients: every token is a query row
  merge,     ///< `rows` states of `parts` parts each become one: q_dtype from kv_dtype, Hq heads of Dv
  shift      ///< `rows` keys of Hkv heads of D, in kv_dtype, move to other positions
};
constexpr const char* to_string(Task t) noexcept {
  return t == Task::forward ? "forward" : t == Task::training ? "training" : t == Task::merge ? "merge" : "shift";
}

/// Plain data; what is not said is as in an ordinary decode step.
///
/// The text of a tree has one of two forms:
/// - by levels, "nodes per level|tokens per node": "1,16|4096,128" is a root of 4096 tokens with 16 children of 128.
///   Nodes of a level hang evenly below the level before; a first level of several nodes is a forest. A level's tokens
///   are one number, or one per node separated by spaces: "2|7 9". A sequence ends at every node of the last level.
/// - by nodes, "parent:tokens:sequences" separated by spaces, parents first: "-1:512:0 0:88:1 0:0:2". As many sequences
///   end at the node as the third number says.
/// A node without tokens is none: its sequences end where the branch does.
struct Workload {
  std::string name;    ///< source/shape, unique
  std::string about;   ///< what it stands for
  std::string source;  ///< where it comes from
  Task task = Task::forward;
  std::string tree;                 ///< of attention
  std::int32_t rows = 1;            ///< see Task
  std::int32_t parts = 2;           ///< of a merge
  std::vector<std::int32_t> draft;  ///< parents of the draft tokens that hang below every leaf; -1: below the leaf
  std::int32_t own_pools = 0;       ///< leaves lie in this many pools of their own, in turns; 0: with all else
  std::int32_t page_size = 0;       ///< tokens; 0: a contiguous cache
  bool head_major = false;          ///< a page holds head after head, not token after token
  LayerKind kind;                   ///< heads, dims, types
};

/// The topology of a workload of attention, all lengths and `rows` divided by `scale` (rounded up, so that nothing
/// vanishes; draft trees stay). Nodes are level by level, draft tokens last. No nodes if the text does not parse.
Topology workload_topology(const Workload& workload, std::int32_t scale = 1);
/// Per segment of its topology, the pool in which it lies.
std::vector<std::int32_t> workload_pools(const Workload& workload, const Topology& topology);
/// Its forest: segments one after the other in contiguous pools, or each in pages of its own, whose order is random
/// and always the same. Errors: invalid_argument if the text does not parse, capacity_exceeded, out_of_memory.
Status make_forest(const Workload& workload, std::int32_t scale, Forest* forest);

/// Tokens of a workload of attention, as an engine counts them.
struct WorkloadTokens {
  std::int64_t logical = 0;  ///< of every sequence's path; a draft tree counts once below its context
  std::int64_t unique = 0;   ///< of every node
};
WorkloadTokens workload_tokens(const Workload& workload, std::int32_t scale = 1);

/// Parents of a draft tree that is given by its levels: nodes of a level hang evenly below the level before.
inline std::vector<std::int32_t> draft_levels(const std::vector<std::int32_t>& nodes_per_level) {
  std::vector<std::int32_t> parents;
  std::int32_t above = 0, first_above = -1;
  for (const std::int32_t nodes : nodes_per_level) {
    const std::int32_t first = static_cast<std::int32_t>(parents.size());
    for (std::int32_t i = 0; i < nodes; ++i) parents.push_back(first_above + i * above / nodes);
    first_above = first;
    above = nodes;
  }
  return parents;
}

namespace detail {

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

/// A number of at least `least`, or least - 1.
inline std::int32_t number_in(const std::string& text, std::int32_t least = 0) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  const bool good = !text.empty() && *end == '\0' && value >= least && value <= INT32_MAX;
  return good ? static_cast<std::int32_t>(value) : least - 1;
}

inline std::int32_t scaled(std::int32_t length, std::int32_t scale) {
  return static_cast<std::int32_t>((std::int64_t{length} + scale - 1) / scale);
}

/// Tokens of each node of a level; empty if the text is wrong.
inline std::vector<std::int32_t> level_lengths(const std::string& text, std::int32_t nodes) {
  std::vector<std::int32_t> lengths;
  for (const std::string& word : split(text, ' ')) {
    lengths.push_back(number_in(word));
    if (lengths.back() < 0) return {};
  }
  if (lengths.size() == 1 && nodes > 0) lengths.resize(static_cast<std::size_t>(nodes), lengths.front());
  return static_cast<std::int64_t>(lengths.size()) == nodes ? lengths : std::vector<std::int32_t>{};
}

/// A node as the text has it.
struct TreeNode {
  std::int32_t parent = -1;
  std::int32_t length = 0;
  std::int32_t sequences = 0;
};

inline std::vector<TreeNode> parse_levels(const std::string& text) {
  const std::vector<std::string> halves = split(text, '|');
  if (halves.size() != 2) return {};
  const std::vector<std::string> counts = split(halves[0], ','), tokens = split(halves[1], ',');
  if (counts.size() != tokens.size()) return {};
  std::vector<TreeNode> tree;
  std::int32_t above = 0, first_above = 0;
  for (std::size_t level = 0; level < counts.size(); ++level) {
    const std::int32_t nodes = number_in(counts[level]);
    const std::vector<std::int32_t> lengths = level_lengths(tokens[level], nodes);
    if (nodes < 1 || lengths.empty()) return {};
    const std::int32_t first = static_cast<std::int32_t>(tree.size());
    for (std::int32_t i = 0; i < nodes; ++i) {
      const std::int64_t parent = above > 0 ? first_above + std::int64_t{i} * above / nodes : -1;
      tree.push_back({static_cast<std::int32_t>(parent), lengths[static_cast<std::size_t>(i)],
                      static_cast<std::int32_t>(level + 1 == counts.size())});
    }
    first_above = first;
    above = nodes;
  }
  return tree;
}

inline std::vector<TreeNode> parse_nodes(const std::string& text) {
  std::vector<TreeNode> tree;
  for (const std::string& word : split(text, ' ')) {
    const std::vector<std::string> numbers = split(word, ':');
    if (numbers.size() != 3) return {};
    const TreeNode n{number_in(numbers[0], -1), number_in(numbers[1]), number_in(numbers[2])};
    const bool good = n.parent >= -1 && n.parent < static_cast<std::int32_t>(tree.size());
    if (!good || n.length < 0 || n.sequences < 0) return {};
    tree.push_back(n);
  }
  return tree;
}

/// Parents before children; empty if the text is wrong.
inline std::vector<TreeNode> parse_tree(const std::string& text) {
  return text.find('|') != std::string::npos ? parse_levels(text) : parse_nodes(text);
}

/// Hangs a draft tree below a node, its tokens in one segment, each a query row.
inline void add_draft(Span<const std::int32_t> parents, std::int32_t leaf, Topology* t) {
  const std::int32_t first = static_cast<std::int32_t>(t->nodes.size());
  const std::int32_t segment = static_cast<std::int32_t>(t->segments.size());
  t->segments.push_back(static_cast<std::int32_t>(parents.size()));
  for (std::int64_t i = 0; i < parents.size(); ++i) {
    Node node;
    node.parent = parents[i] < 0 ? leaf : first + parents[i];
    node.segment = segment;
    node.begin = static_cast<std::int32_t>(i);
    node.length = 1;
    t->nodes.push_back(node);
    t->add_sequence(first + static_cast<std::int32_t>(i), 1);
  }
}

/// Gives the segments of a workload their places: in order in contiguous pools, or in pages of random order.
class WorkloadPlace {
 public:
  std::vector<PoolShape> pools;
  std::vector<std::int32_t> pages;
  std::vector<Segment> segments;

  WorkloadPlace(const Workload& workload, const Topology& topology)
      : page_size_(workload.page_size),
        lengths_(topology.segments),
        pool_of_(workload_pools(workload, topology)),
        used_(static_cast<std::size_t>(workload.own_pools) + 1, 0) {
    for (std::size_t s = 0; s < lengths_.size(); ++s) used_[pool_of(s)] += units(lengths_[s]);
  }

  /// Token slots of the largest pool.
  std::int64_t slots() const { return *std::max_element(used_.begin(), used_.end()) * std::max(page_size_, 1); }

  void run() {
    if (page_size_ == 0) pages.assign(1, 0);
    std::vector<std::vector<std::int32_t>> free;  // of each pool: its pages in the order in which they are taken
    Random random(1);
    for (const std::int64_t n : used_) {
      const std::int32_t count = std::max(static_cast<std::int32_t>(n), 1);
      pools.push_back(page_size_ > 0 ? PoolShape{page_size_, count} : PoolShape{count, 1});
      std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
      std::iota(ids.begin(), ids.end(), 0);
      random.shuffle(&ids);
      free.push_back(std::move(ids));
    }
    std::vector<std::int32_t> next(used_.size(), 0);
    for (std::size_t i = 0; i < lengths_.size(); ++i) {
      std::int32_t& at = next[pool_of(i)];
      Segment s;
      s.pool = pool_of_[i];
      s.length = lengths_[i];
      (page_size_ > 0 ? s.first_page : s.offset) = page_size_ > 0 ? static_cast<std::int32_t>(pages.size()) : at;
      const auto first = free[pool_of(i)].begin() + at;
      if (page_size_ > 0) pages.insert(pages.end(), first, first + units(s.length));
      at += units(s.length);
      segments.push_back(s);
    }
  }

 private:
  std::size_t pool_of(std::size_t segment) const { return static_cast<std::size_t>(pool_of_[segment]); }
  /// Pages, or tokens of a contiguous pool.
  std::int32_t units(std::int32_t length) const { return page_size_ > 0 ? scaled(length, page_size_) : length; }

  std::int32_t page_size_;
  const std::vector<std::int32_t>& lengths_;
  std::vector<std::int32_t> pool_of_;
  std::vector<std::int64_t> used_;
};

}  // namespace detail

inline Topology workload_topology(const Workload& workload, std::int32_t scale) {
  const std::vector<detail::TreeNode> tree = detail::parse_tree(workload.tree);
  Topology t;
  if (scale < 1) return t;
  std::vector<std::int32_t> placed;  // per node of the text: where it ended up, or its parent if it has no tokens
  for (const detail::TreeNode& n : tree) {
    const std::int32_t parent = n.parent < 0 ? -1 : placed[static_cast<std::size_t>(n.parent)];
    placed.push_back(n.length > 0 ? t.add_node(parent, detail::scaled(n.length, scale)) : parent);
  }
  const bool training = workload.task == Task::training;
  for (std::size_t n = 0; training && n < t.nodes.size(); ++n) {
    t.add_sequence(static_cast<std::int32_t>(n), t.nodes[n].length);
  }
  for (std::size_t n = 0; !training && n < tree.size(); ++n) {
    for (std::int32_t s = 0; s < tree[n].sequences; ++s) {
      t.add_sequence(placed[n], detail::scaled(workload.rows, scale));
    }
  }
  const std::size_t leaves = workload.draft.empty() ? 0 : t.sequences.size();
  for (std::size_t s = 0; s < leaves; ++s) detail::add_draft(workload.draft, t.sequences[s].node, &t);
  return t;
}

inline std::vector<std::int32_t> workload_pools(const Workload& workload, const Topology& topology) {
  std::vector<std::int32_t> pools(topology.segments.size(), 0);
  if (workload.own_pools < 1) return pools;
  const std::size_t draft = workload.draft.size();
  const std::size_t drafts = draft == 0 ? 0 : topology.sequences.size() / (1 + draft);
  const std::size_t nodes = topology.nodes.size() - drafts * draft;  // without draft tokens, which come last
  std::vector<char> inner(nodes, 0);
  for (std::size_t n = 0; n < nodes; ++n) {
    if (topology.nodes[n].parent >= 0) inner[static_cast<std::size_t>(topology.nodes[n].parent)] = 1;
  }
  std::int32_t leaves = 0;
  for (std::size_t n = 0; n < nodes; ++n) {
    if (!inner[n]) pools[static_cast<std::size_t>(topology.nodes[n].segment)] = 1 + leaves++ % workload.own_pools;
  }
  for (std::size_t d = 0; d < drafts; ++d) {
    const Node& leaf = topology.nodes[static_cast<std::size_t>(topology.sequences[d].node)];
    pools[nodes + d] = pools[static_cast<std::size_t>(leaf.segment)];
  }
  return pools;
}

inline WorkloadTokens workload_tokens(const Workload& workload, std::int32_t scale) {
  const Topology t = workload_topology(workload, scale);
  WorkloadTokens tokens;
  for (const std::int32_t length : t.segments) tokens.unique += length;
  std::vector<std::int64_t> path(t.nodes.size());
  std::vector<char> inner(t.nodes.size(), 0);
  for (std::size_t n = 0; n < t.nodes.size(); ++n) {
    const std::int32_t parent = t.nodes[n].parent;
    path[n] = t.nodes[n].length + (parent < 0 ? 0 : path[static_cast<std::size_t>(parent)]);
    if (parent >= 0) inner[static_cast<std::size_t>(parent)] = 1;
  }
  const std::size_t draft = workload.draft.size(), contexts = t.sequences.size() / (1 + draft);
  for (std::size_t s = 0; s < contexts; ++s) {
    const std::int32_t node = t.sequences[s].node;
    const bool whole = workload.task != Task::training || node < 0 || !inner[static_cast<std::size_t>(node)];
    if (whole && node >= 0) tokens.logical += path[static_cast<std::size_t>(node)];
    tokens.logical += static_cast<std::int64_t>(draft);
  }
  return tokens;
}

inline Status make_forest(const Workload& workload, std::int32_t scale, Forest* forest) {
  const Topology topology = workload_topology(workload, scale);
  detail::WorkloadPlace place(workload, topology);
  Status bad;
  bad.op = "make_forest";
  bad.argument = "workload";
  bad.got = place.slots();
  if (topology.nodes.empty()) bad.code = StatusCode::invalid_argument;
  if (bad.got > INT32_MAX) bad.code = StatusCode::capacity_exceeded;
  if (bad) return bad;
  place.run();
  return prefixshare::make_forest({place.pools, place.pages, place.segments, topology.nodes, topology.sequences},
                                  forest);
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
