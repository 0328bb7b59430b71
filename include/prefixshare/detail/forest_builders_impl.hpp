// SPDX-License-Identifier: Apache-2.0
// Forests from block tables, token ids and parent arrays.
#pragma once

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "prefixshare/detail/forest_impl.hpp"

namespace prefixshare {
inline namespace v0_1 {

namespace detail {

/// A radix tree over strings of integers that an int32 holds, which stay the caller's: a node's label is the part
/// [begin, begin + length) of the string that came first through it. Linear in the symbols, whatever the shape of the
/// tree.
template <class Symbol>
class RadixTree {
 public:
  struct Node {
    std::int32_t parent = -1;
    std::int32_t first_string = 0;  ///< lowest string below: siblings differ in it
    std::int32_t begin = 0;         ///< position of the label in every string below
    std::int32_t length = 0;
  };
  using String = Span<const Symbol>;

  explicit RadixTree(std::int64_t strings) { strings_.reserve(static_cast<std::size_t>(strings)); }

  /// Adds the next string and returns the node at its end; -1 for an empty one. Nodes returned before stay valid.
  std::int32_t insert(String string) {
    const auto index = static_cast<std::int32_t>(strings_.size());
    const auto length = static_cast<std::int32_t>(string.size());
    strings_.push_back(string);
    std::int32_t at = -1;
    for (std::int32_t depth = 0; depth < length; depth += node(at).length) {
      const auto found = children_.try_emplace(key(at, string[depth]), size());
      std::int32_t& child = found.first->second;
      if (found.second) {
        nodes_.push_back({at, index, depth, length - depth});
      } else {
        const std::int32_t common = common_prefix(label(child), string.subspan(depth, length - depth));
        if (common < node(child).length) child = split(child, common);
      }
      at = child;
    }
    return at;
  }

  std::int32_t size() const noexcept { return static_cast<std::int32_t>(nodes_.size()); }
  const Node& node(std::int32_t i) const noexcept { return nodes_.data()[i]; }
  String label(std::int32_t i) const noexcept {
    return strings_.data()[node(i).first_string].subspan(node(i).begin, node(i).length);
  }

  /// Numbers the nodes by first string, then downwards: parents come before children and siblings in order of first
  /// appearance. Ends insertion. `ends`: nodes that insert returned, renumbered in place.
  void sort_nodes(std::vector<std::int32_t>* ends) {
    std::vector<std::int32_t> order(nodes_.size()), rank(nodes_.size());
    for (std::int32_t i = 0; i < size(); ++i) order.data()[i] = i;
    std::sort(order.begin(), order.end(), [this](std::int32_t a, std::int32_t b) {
      return std::pair(node(a).first_string, node(a).begin) < std::pair(node(b).first_string, node(b).begin);
    });
    std::vector<Node> sorted(nodes_.size());
    for (std::int32_t i = 0; i < size(); ++i) {
      sorted.data()[i] = node(order.data()[i]);
      rank.data()[order.data()[i]] = i;
    }
    const auto renumber = [&rank](std::int32_t& i) { i = i < 0 ? i : rank.data()[i]; };
    for (Node& n : sorted) renumber(n.parent);
    for (std::int32_t& end : *ends) renumber(end);
    nodes_ = std::move(sorted);
    children_.clear();
  }

 private:
  struct KeyHash {
    std::size_t operator()(std::uint64_t key) const noexcept {
      key *= 0x9e3779b97f4a7c15u;
      return static_cast<std::size_t>(key ^ (key >> 32));
    }
  };

  static std::uint64_t key(std::int32_t node, Symbol symbol) noexcept {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(node)) << 32 | static_cast<std::uint32_t>(symbol);
  }

  static std::int32_t common_prefix(String a, String b) noexcept {
    const Symbol* end = a.begin() + std::min(a.size(), b.size());
    return static_cast<std::int32_t>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
  }

  /// Cuts a label after `length` symbols. The new node is the upper part: strings that ended at the old one still do,
  /// and its children keep their keys.
  std::int32_t split(std::int32_t lower, std::int32_t length) {
    const std::int32_t upper = size();
    const Symbol symbol = label(lower)[length];
    nodes_.push_back(node(lower));
    nodes_.back().length = length;
    nodes_.data()[lower].parent = upper;
    nodes_.data()[lower].begin += length;
    nodes_.data()[lower].length -= length;
    children_.emplace(key(upper, symbol), lower);
    return upper;
  }

  std::vector<String> strings_;
  std::vector<Node> nodes_;
  std::unordered_map<std::uint64_t, std::int32_t, KeyHash> children_;
};

/// An optional array of lengths: empty, or `count` of them, not negative, whose sum an int32 holds.
inline Status check_lengths(const char* op, const char* argument, Span<const std::int32_t> lengths,
                            std::int64_t count) noexcept {
  if (Status s = check_span(op, argument, lengths)) return s;
  if (!lengths.empty() && lengths.size() != count) {
    return refuse(StatusCode::invalid_argument, op, argument, -1, "size", lengths.size(), "==", count);
  }
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0) return refuse(StatusCode::invalid_argument, op, argument, i, "", lengths[i], ">=", 0);
    sum += lengths[i];
  }
  if (sum <= kInt32Max) return {};
  return refuse(StatusCode::capacity_exceeded, op, argument, -1, "sum", sum, "<=", kInt32Max);
}

/// Strings of a RadixTree at most: each makes two nodes, and one more when it stops inside a page.
inline constexpr std::int64_t kMaxStrings = kInt32Max / 4;

/// Owned arrays behind a ForestInput.
struct ForestArrays {
  std::vector<PoolShape> pools;
  std::vector<std::int32_t> pages;
  std::vector<Segment> segments;
  std::vector<Node> nodes;
  std::vector<Sequence> sequences;

  /// A pool of `tokens` consecutive slots and a segment that covers it.
  void add_contiguous_pool(std::int32_t tokens) {
    segments.push_back({static_cast<std::int32_t>(pools.size()), static_cast<std::int32_t>(pages.size()), 0, tokens});
    pools.push_back({std::max(tokens, 1), tokens > 0 ? 1 : 0});
    if (tokens > 0) pages.push_back(0);
  }

  /// make_forest, refusing in the name of `op`.
  Status build(const char* op, Forest* forest) const noexcept {
    Status s = make_forest({pools, pages, segments, nodes, sequences}, forest);
    if (s) s.op = op;
    return s;
  }
};

/// Block tables to a forest: a radix tree over whole pages, whose nodes are then cut inside their last page wherever a
/// sequence stops there.
template <class Id>
class BlockTableForest {
 public:
  using Tables = BasicBlockTables<Id>;

  explicit BlockTableForest(const Tables& tables)
      : in_(tables), tree_(tables.kv_len.size()), page_size_(tables.pool.page_size) {}

  static Status check(const Tables& in) noexcept {
    if (in.pool.page_size < 1) return invalid("pool", -1, "page_size", in.pool.page_size, ">=", 1);
    if (in.pool.num_pages < 0) return invalid("pool", -1, "num_pages", in.pool.num_pages, ">=", 0);
    if (in.row_stride < 0) return invalid("row_stride", -1, "", in.row_stride, ">=", 0);
    if (Status s = check_span(kOp, "ids", in.ids, std::numeric_limits<std::int64_t>::max())) return s;
    if (Status s = check_span(kOp, "kv_len", in.kv_len, kMaxStrings)) return s;
    if (Status s = check_lengths(kOp, "q_len", in.q_len, in.kv_len.size())) return s;
    for (std::int64_t s = 0; s < in.kv_len.size(); ++s) {
      if (Status bad = check_row(in, s)) return bad;
    }
    return {};
  }

  Status run(Forest* forest) {
    std::vector<std::int32_t> ends;
    for (std::int64_t s = 0; s < in_.kv_len.size(); ++s) {
      const std::int64_t pages = pages_of(in_, s);
      ends.push_back(pages == 0 ? -1 : tree_.insert(in_.ids.subspan(s * in_.row_stride, pages)));
    }
    tree_.sort_nodes(&ends);
    find_cuts(ends);
    add_nodes();
    add_sequences(ends);
    out_.pools.push_back(in_.pool);
    return out_.build(kOp, forest);
  }

 private:
  using RadixNode = typename RadixTree<Id>::Node;
  static constexpr const char* kOp = "forest_from_block_tables";

  /// A forest node to be: it ends at path position `end`, in the pages of a radix node.
  struct Cut {
    std::int32_t radix_node;
    std::int32_t end;
    bool operator<(const Cut& other) const noexcept {
      return radix_node != other.radix_node ? radix_node < other.radix_node : end < other.end;
    }
    bool operator==(const Cut& other) const noexcept { return radix_node == other.radix_node && end == other.end; }
  };

  static Status invalid(const char* argument, std::int64_t index, const char* field, std::int64_t got,
                        const char* relation, std::int64_t want) noexcept {
    return refuse(StatusCode::invalid_argument, kOp, argument, index, field, got, relation, want);
  }

  static std::int64_t pages_of(const Tables& in, std::int64_t s) noexcept {
    return (std::int64_t{in.kv_len[s]} + in.pool.page_size - 1) / in.pool.page_size;
  }

  static Status check_row(const Tables& in, std::int64_t s) noexcept {
    if (in.kv_len[s] < 0) return invalid("kv_len", s, "", in.kv_len[s], ">=", 0);
    const std::int64_t pages = pages_of(in, s);
    if (pages == 0) return {};
    if (pages > in.row_stride) return invalid("kv_len", s, "pages", pages, "<=", in.row_stride);
    const std::int64_t rows = in.ids.size() < pages ? 0 : 1 + (in.ids.size() - pages) / in.row_stride;
    if (rows <= s) return invalid("ids", -1, "rows", rows, ">", s);
    for (std::int64_t i = s * in.row_stride; i < s * in.row_stride + pages; ++i) {
      if (in.ids[i] < 0) return invalid("ids", i, "", in.ids[i], ">=", 0);
      if (in.ids[i] >= in.pool.num_pages) return invalid("ids", i, "", in.ids[i], "<", in.pool.num_pages);
    }
    return {};
  }

  /// Where sequences end, and where the last page of a radix node with several children does. Before an only child the
  /// rest of the page belongs to the child.
  void find_cuts(const std::vector<std::int32_t>& ends) {
    for (std::size_t s = 0; s < ends.size(); ++s) {
      if (ends[s] >= 0) cuts_.push_back({ends[s], in_.kv_len.data()[s]});
    }
    std::vector<char> has_child(static_cast<std::size_t>(tree_.size()), 0);
    for (std::int32_t i = 0; i < tree_.size(); ++i) {
      const RadixNode& n = tree_.node(i);
      if (n.parent < 0) continue;
      if (has_child.data()[n.parent]) cuts_.push_back({n.parent, n.begin * page_size_});
      has_child.data()[n.parent] = 1;
    }
    std::sort(cuts_.begin(), cuts_.end());
    cuts_.erase(std::unique(cuts_.begin(), cuts_.end()), cuts_.end());
  }

  /// Node and segment k are cut k's. The pieces of a radix node share its page list.
  void add_nodes() {
    std::vector<std::int32_t> last_cut(static_cast<std::size_t>(tree_.size()));
    const auto count = static_cast<std::int32_t>(cuts_.size());
    std::int32_t list_begin = 0, list_page = 0;  // where the page list lies, and the path's page that it starts with
    for (std::int32_t k = 0; k < count; ++k) last_cut.data()[cuts_.data()[k].radix_node] = k;
    for (std::int32_t k = 0; k < count; ++k) {
      const Cut cut = cuts_.data()[k];
      const std::int32_t above = tree_.node(cut.radix_node).parent;
      const bool goes_on = k > 0 && cuts_.data()[k - 1].radix_node == cut.radix_node;
      const std::int32_t parent = goes_on ? k - 1 : above < 0 ? -1 : last_cut.data()[above];
      const std::int32_t begin = parent < 0 ? 0 : cuts_.data()[parent].end;
      if (!goes_on) {
        list_begin = static_cast<std::int32_t>(out_.pages.size());
        list_page = begin / page_size_;
        add_pages(cut.radix_node, list_page);
      }
      out_.segments.push_back({0, list_begin + begin / page_size_ - list_page, begin % page_size_, cut.end - begin});
      out_.nodes.push_back({parent, k, 0, cut.end - begin});
    }
  }

  /// The pages of a radix node, and before them the one above where a cut left a part of that.
  void add_pages(std::int32_t radix_node, std::int32_t first_path_page) {
    const RadixNode& n = tree_.node(radix_node);
    const Id* begin = tree_.label(radix_node).begin();
    if (first_path_page < n.begin) {
      out_.pages.push_back(static_cast<std::int32_t>(tree_.label(n.parent)[tree_.node(n.parent).length - 1]));
    }
    out_.pages.insert(out_.pages.end(), begin, begin + n.length);  // checked: an int32 holds them
  }

  void add_sequences(const std::vector<std::int32_t>& ends) {
    for (std::size_t s = 0; s < ends.size(); ++s) {
      const Cut end = {ends[s], in_.kv_len.data()[s]};
      const auto cut = std::lower_bound(cuts_.begin(), cuts_.end(), end) - cuts_.begin();
      const std::int32_t q_len = in_.q_len.empty() ? 1 : in_.q_len.data()[s];
      out_.sequences.push_back({ends[s] < 0 ? -1 : static_cast<std::int32_t>(cut), q_len});
    }
  }

  const Tables& in_;
  RadixTree<Id> tree_;
  std::int32_t page_size_;
  std::vector<Cut> cuts_;
  ForestArrays out_;
};

inline Status check_tokens(const char* op, const TokenSequences& in) noexcept {
  const auto invalid = [op](const char* argument, std::int64_t index, const char* field, std::int64_t got,
                            const char* relation, std::int64_t want) noexcept {
    return refuse(StatusCode::invalid_argument, op, argument, index, field, got, relation, want);
  };
  if (Status s = check_span(op, "tokens", in.tokens, std::numeric_limits<std::int64_t>::max())) return s;
  if (Status s = check_span(op, "offsets", in.offsets, kMaxStrings)) return s;
  if (in.offsets.empty()) return invalid("offsets", -1, "size", 0, ">=", 1);
  if (in.offsets[0] != 0) return invalid("offsets", 0, "", in.offsets[0], "==", 0);
  for (std::int64_t s = 1; s < in.offsets.size(); ++s) {
    if (in.offsets[s] < in.offsets[s - 1]) return invalid("offsets", s, "", in.offsets[s], ">=", in.offsets[s - 1]);
    if (in.offsets[s] > in.tokens.size()) return invalid("offsets", s, "", in.offsets[s], "<=", in.tokens.size());
    const std::int64_t length = in.offsets[s] - in.offsets[s - 1];
    if (length > kInt32Max) {
      return refuse(StatusCode::capacity_exceeded, op, "offsets", s, "length", length, "<=", kInt32Max);
    }
  }
  return check_lengths(op, "q_len", in.q_len, in.offsets.size() - 1);
}

inline Status build_from_tokens(const char* op, const TokenSequences& in, Forest* forest) {
  const std::int64_t sequences = in.offsets.size() - 1;
  RadixTree<std::int32_t> tree(sequences);
  std::vector<std::int32_t> ends;
  for (std::int64_t s = 0; s < sequences; ++s) {
    ends.push_back(tree.insert(in.tokens.subspan(in.offsets[s], in.offsets[s + 1] - in.offsets[s])));
  }
  tree.sort_nodes(&ends);

  ForestArrays out;
  std::int64_t distinct = 0;
  for (std::int32_t i = 0; i < tree.size(); ++i) {
    out.nodes.push_back({tree.node(i).parent, 0, 0, tree.node(i).length});
    distinct += tree.node(i).length;
  }
  if (distinct > kInt32Max) {
    return refuse(StatusCode::capacity_exceeded, op, "tokens", -1, "distinct", distinct, "<=", kInt32Max);
  }
  out.add_contiguous_pool(static_cast<std::int32_t>(distinct));
  std::int32_t slot = 0;
  for (std::int32_t i : depth_first(tree.size(), [&tree](std::int32_t node) { return tree.node(node).parent; })) {
    out.nodes.data()[i].begin = slot;
    slot += out.nodes.data()[i].length;
  }
  for (std::int64_t s = 0; s < sequences; ++s) {
    out.sequences.push_back({ends.data()[s], in.q_len.empty() ? 1 : in.q_len[s]});
  }
  return out.build(op, forest);
}

inline Status check_parents(const char* op, const ParentArray& in) noexcept {
  const std::int64_t count = in.parents.size();
  if (Status s = check_span(op, "parents", in.parents)) return s;
  if (Status s = check_lengths(op, "lengths", in.lengths, count)) return s;
  if (Status s = check_lengths(op, "q_len", in.q_len, count)) return s;
  return check_parent_range(op, in.parents);
}

inline Status build_from_parents(const char* op, const ParentArray& in, Forest* forest) {
  ForestArrays out;
  std::int32_t slot = 0;
  for (std::int64_t i = 0; i < in.parents.size(); ++i) {
    const std::int32_t length = in.lengths.empty() ? 1 : in.lengths[i];
    out.nodes.push_back({in.parents[i], 0, slot, length});
    out.sequences.push_back({static_cast<std::int32_t>(i), in.q_len.empty() ? length : in.q_len[i]});
    slot += length;
  }
  out.add_contiguous_pool(slot);
  Status s = out.build(op, forest);
  if (s.code == StatusCode::invalid_argument) {  // a cycle: the one thing not checked before
    s.argument = "parents";
    s.field = "";
  }
  return s;
}

template <class Id>
Status build_from_block_tables(const BasicBlockTables<Id>& tables, Forest* forest) noexcept {
  constexpr const char* kOp = "forest_from_block_tables";
  if (Status s = check_pointer(kOp, "forest", forest)) return s;
  if (Status s = BlockTableForest<Id>::check(tables)) return s;
  try {
    return BlockTableForest<Id>(tables).run(forest);
  } catch (...) {  // only allocation throws here
    return out_of_memory(kOp, "forest");
  }
}

}  // namespace detail

inline Status forest_from_block_tables(const BlockTables& tables, Forest* forest) noexcept {
  return detail::build_from_block_tables(tables, forest);
}

inline Status forest_from_block_tables(const BlockTables64& tables, Forest* forest) noexcept {
  return detail::build_from_block_tables(tables, forest);
}

inline Status forest_from_tokens(const TokenSequences& input, Forest* forest) noexcept {
  constexpr const char* kOp = "forest_from_tokens";
  if (Status s = detail::check_pointer(kOp, "forest", forest)) return s;
  if (Status s = detail::check_tokens(kOp, input)) return s;
  try {
    return detail::build_from_tokens(kOp, input, forest);
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "forest");
  }
}

inline Status forest_from_parents(const ParentArray& input, Forest* forest) noexcept {
  constexpr const char* kOp = "forest_from_parents";
  if (Status s = detail::check_pointer(kOp, "forest", forest)) return s;
  if (Status s = detail::check_parents(kOp, input)) return s;
  try {
    return detail::build_from_parents(kOp, input, forest);
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "forest");
  }
}

}  // namespace v0_1
}  // namespace prefixshare
