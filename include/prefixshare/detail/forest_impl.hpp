// SPDX-License-Identifier: Apache-2.0
// Forest from explicit nodes: checks, depth-first order, rows, fingerprint.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "prefixshare/forest.hpp"

namespace prefixshare {
inline namespace v0_1 {

namespace detail {

inline constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

/// `argument[index].field got .., want relation ..`; index -1 when the argument is no array.
inline Status refuse(StatusCode code, const char* op, const char* argument, std::int64_t index, const char* field,
                     std::int64_t got, const char* relation, std::int64_t want) noexcept {
  Status s;
  s.code = code;
  s.op = op;
  s.argument = argument;
  s.field = field;
  s.relation = relation;
  s.index = index;
  s.got = got;
  s.want = want;
  return s;
}

inline Status out_of_memory(const char* op, const char* argument) noexcept {
  return refuse(StatusCode::out_of_memory, op, argument, -1, "allocation", 0, "==", 1);
}

inline Status check_pointer(const char* op, const char* argument, const void* pointer) noexcept {
  if (pointer) return {};
  Status s = refuse(StatusCode::invalid_argument, op, argument, -1, "", 0, "==", 1);
  s.unit = StatusUnit::pointer;
  return s;
}

/// A readable span whose elements an int32 can number.
template <class T>
Status check_span(const char* op, const char* argument, Span<T> span, std::int64_t most = kInt32Max) noexcept {
  if (span.size() < 0) {
    return refuse(StatusCode::invalid_argument, op, argument, -1, "size", span.size(), ">=", 0);
  }
  if (span.size() > most) {
    return refuse(StatusCode::capacity_exceeded, op, argument, -1, "size", span.size(), "<=", most);
  }
  return span.empty() ? Status{} : check_pointer(op, argument, span.data());
}

/// Nodes of a parent array in depth-first preorder, roots and siblings in index order. Nodes on a cycle, and what hangs
/// below them, have no place in it: the result is then shorter than `count`. Parents are in [-1, count).
template <class ParentOf>
std::vector<std::int32_t> depth_first(std::int32_t count, ParentOf parent_of) {
  const auto n = static_cast<std::size_t>(count);
  std::vector<std::int32_t> first_child(n + 1, -1), next_sibling(n, -1), order, pending;
  Span<std::int32_t> first = first_child, next = next_sibling;
  for (std::int32_t i = count - 1; i >= 0; --i) {  // backwards, so that lists come out in index order
    std::int32_t& head = first[parent_of(i) + 1];
    next[i] = head;
    head = i;
  }
  order.reserve(n);
  if (first[0] >= 0) pending.push_back(first[0]);
  while (!pending.empty()) {
    const std::int32_t i = pending.back();
    pending.pop_back();
    order.push_back(i);
    if (next[i] >= 0) pending.push_back(next[i]);
    if (first[i + 1] >= 0) pending.push_back(first[i + 1]);
  }
  return order;
}

/// The lowest node of a cycle, given a depth-first order from which nodes are missing.
template <class ParentOf>
std::int32_t node_on_cycle(std::int32_t count, const std::vector<std::int32_t>& order, ParentOf parent_of) {
  std::vector<std::int32_t> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  std::int32_t node = 0;
  for (std::int32_t i : sorted) node += i == node;                           // the first index that is missing
  for (std::int32_t step = 0; step < count; ++step) node = parent_of(node);  // long enough to enter the cycle
  std::int32_t lowest = node;
  for (std::int32_t i = parent_of(node); i != node; i = parent_of(i)) lowest = std::min(lowest, i);
  return lowest;
}

/// The refusal for `argument[node].field`, whose parent is one of its descendants or itself.
inline Status refuse_cycle(const char* op, const char* argument, const char* field, std::int32_t node,
                           std::int32_t parent) noexcept {
  return refuse(StatusCode::invalid_argument, op, argument, node, field, parent, "not a descendant of", node);
}

/// Every parent in [-1, number of nodes).
inline Status check_parent_range(const char* op, Span<const std::int32_t> parents) noexcept {
  constexpr StatusCode kInvalid = StatusCode::invalid_argument;
  for (std::int64_t i = 0; i < parents.size(); ++i) {
    if (parents[i] < -1) return refuse(kInvalid, op, "parents", i, "", parents[i], ">=", -1);
    if (parents[i] >= parents.size()) return refuse(kInvalid, op, "parents", i, "", parents[i], "<", parents.size());
  }
  return {};
}

/// Entries of the page list that a segment's tokens lie in.
inline std::int64_t pages_of(const Segment& s, const PoolShape& pool) noexcept {
  const std::int64_t slots = s.length == 0 ? 0 : std::int64_t{s.offset} + s.length;
  return (slots + pool.page_size - 1) / pool.page_size;
}

/// Checks the arrays of a ForestInput; topology (cycles) and sums are checked while the forest is laid out.
class ForestCheck {
 public:
  explicit ForestCheck(const ForestInput& input) noexcept : in_(input) {}

  Status run() const {
    if (Status s = check_span(kOp, "pools", in_.pools)) return s;
    if (Status s = check_span(kOp, "pages", in_.pages)) return s;
    if (Status s = check_span(kOp, "segments", in_.segments)) return s;
    if (Status s = check_span(kOp, "nodes", in_.nodes)) return s;
    if (Status s = check_span(kOp, "sequences", in_.sequences)) return s;
    for (std::int64_t i = 0; i < in_.pools.size(); ++i) {
      if (Status s = pool(i)) return s;
    }
    for (std::int64_t i = 0; i < in_.segments.size(); ++i) {
      if (Status s = segment(i)) return s;
    }
    for (std::int64_t i = 0; i < in_.nodes.size(); ++i) {
      if (Status s = node(i)) return s;
    }
    for (std::int64_t i = 0; i < in_.sequences.size(); ++i) {
      if (Status s = sequence(i)) return s;
    }
    return length_slots();
  }

 private:
  static constexpr const char* kOp = "make_forest";

  static Status invalid(const char* argument, std::int64_t index, const char* field, std::int64_t got,
                        const char* relation, std::int64_t want) noexcept {
    return refuse(StatusCode::invalid_argument, kOp, argument, index, field, got, relation, want);
  }

  /// low <= value < high
  static Status in_range(const char* argument, std::int64_t index, const char* field, std::int64_t value,
                         std::int64_t low, std::int64_t high) noexcept {
    if (value < low) return invalid(argument, index, field, value, ">=", low);
    if (value >= high) return invalid(argument, index, field, value, "<", high);
    return {};
  }

  Status pool(std::int64_t i) const noexcept {
    if (in_.pools[i].page_size < 1) return invalid("pools", i, "page_size", in_.pools[i].page_size, ">=", 1);
    if (in_.pools[i].num_pages < 0) return invalid("pools", i, "num_pages", in_.pools[i].num_pages, ">=", 0);
    return {};
  }

  Status segment(std::int64_t i) const noexcept {
    const Segment& s = in_.segments[i];
    if (Status bad = in_range("segments", i, "pool", s.pool, 0, in_.pools.size())) return bad;
    const PoolShape& pool = in_.pools[s.pool];
    if (Status bad = in_range("segments", i, "offset", s.offset, 0, pool.page_size)) return bad;
    if (s.length < 0) return invalid("segments", i, "length", s.length, ">=", 0);
    const std::int64_t used = pages_of(s, pool);
    if (s.first_page < 0) return invalid("segments", i, "first_page", s.first_page, ">=", 0);
    if (s.first_page + used > in_.pages.size()) {
      return invalid("segments", i, "first_page", s.first_page, "<=", in_.pages.size() - used);
    }
    for (std::int64_t p = s.first_page; p < s.first_page + used; ++p) {
      if (Status bad = in_range("pages", p, "", in_.pages[p], 0, pool.num_pages)) return bad;
    }
    return {};
  }

  Status node(std::int64_t i) const noexcept {
    const Node& n = in_.nodes[i];
    if (Status bad = in_range("nodes", i, "parent", n.parent, -1, in_.nodes.size())) return bad;
    if (n.length < 0) return invalid("nodes", i, "length", n.length, ">=", 0);
    if (Status bad = in_range("nodes", i, "segment", n.segment, n.length == 0 ? -1 : 0, in_.segments.size()))
      return bad;
    if (n.begin < 0) return invalid("nodes", i, "begin", n.begin, ">=", 0);
    const std::int64_t tokens = n.segment < 0 ? n.begin : in_.segments[n.segment].length;
    if (std::int64_t{n.begin} + n.length > tokens) {
      return invalid("nodes", i, "begin+length", std::int64_t{n.begin} + n.length, "<=", tokens);
    }
    return {};
  }

  Status sequence(std::int64_t i) const noexcept {
    const Sequence& s = in_.sequences[i];
    if (Status bad = in_range("sequences", i, "node", s.node, -1, in_.nodes.size())) return bad;
    if (s.q_len < 0) return invalid("sequences", i, "q_len", s.q_len, ">=", 0);
    return {};
  }

  /// On leaves only, and dense: n slots are numbered 0 .. n - 1, one node each.
  Status length_slots() const {
    std::int64_t slots = 0;
    for (const Node& n : in_.nodes) slots += n.length_slot >= 0;
    std::vector<char> has_child, is_used(static_cast<std::size_t>(slots), 0);
    if (slots > 0) has_child.resize(static_cast<std::size_t>(in_.nodes.size()), 0);
    Span<char> inner = has_child, used = is_used;
    for (const Node& n : in_.nodes) {
      if (slots > 0 && n.parent >= 0) inner[n.parent] = 1;
    }
    for (std::int64_t i = 0; i < in_.nodes.size(); ++i) {
      const std::int32_t slot = in_.nodes[i].length_slot;
      if (slot < -1) return invalid("nodes", i, "length_slot", slot, ">=", -1);
      if (slot < 0) continue;
      if (inner[i]) return invalid("nodes", i, "length_slot", slot, "==", -1);
      if (slot >= slots) return invalid("nodes", i, "length_slot", slot, "<", slots);
      if (used[slot]) return invalid("nodes", i, "length_slot", slot, "!=", slot);
      used[slot] = 1;
    }
    return {};
  }

  const ForestInput& in_;
};

/// Mixes 64-bit words; the last odd word is filled with zeros. Not cryptographic: it tells stale plans, not forgeries.
class Hash {
 public:
  template <class T>
  void add(const std::vector<T>& values) noexcept {
    static_assert(sizeof(T) % sizeof(std::int32_t) == 0, "no padding bytes may reach the hash");
    mix(values.size());
    const char* bytes = reinterpret_cast<const char*>(values.data());
    for (std::size_t left = values.size() * sizeof(T); left > 0;) {
      const std::size_t step = std::min(left, sizeof(std::uint64_t));
      std::uint64_t word = 0;
      std::memcpy(&word, bytes, step);
      mix(word);
      bytes += step;
      left -= step;
    }
  }
  /// Never 0.
  std::uint64_t value() const noexcept { return state_ ? state_ : 1; }

 private:
  void mix(std::uint64_t word) noexcept {
    state_ = (state_ ^ word) * 0x9e3779b97f4a7c15u;
    state_ ^= state_ >> 32;
  }

  std::uint64_t state_ = 0xcbf29ce484222325u;
};

/// Everything else in a forest follows from these.
inline std::uint64_t fingerprint_of(const Forest& f) noexcept {
  Hash hash;
  hash.add(f.pools);
  hash.add(f.pages);
  hash.add(f.segments);
  hash.add(f.nodes);
  hash.add(f.sequences);
  hash.add(f.node_of_input);
  return hash.value();
}

/// Lays out a forest from checked input, stage by stage.
class ForestLayout {
 public:
  ForestLayout(const ForestInput& input, Forest* forest) noexcept : in_(input), f_(*forest) {}

  Status run() {
    f_.pools.assign(in_.pools.begin(), in_.pools.end());
    f_.pages.assign(in_.pages.begin(), in_.pages.end());
    f_.segments.assign(in_.segments.begin(), in_.segments.end());
    if (Status s = place_nodes()) return s;
    if (Status s = place_sequences()) return s;
    place_rows();
    f_.fingerprint = fingerprint_of(f_);
    return {};
  }

 private:
  static Status capacity(const char* argument, std::int64_t index, const char* field, std::int64_t got) noexcept {
    return refuse(StatusCode::capacity_exceeded, "make_forest", argument, index, field, got, "<=", kInt32Max);
  }

  /// Depth-first order, path positions, ends of subtrees.
  Status place_nodes() {
    const auto count = static_cast<std::int32_t>(in_.nodes.size());
    const auto n = static_cast<std::size_t>(count);
    const auto parent_of = [this](std::int32_t i) { return in_.nodes[i].parent; };
    const std::vector<std::int32_t> order = depth_first(count, parent_of);
    if (order.size() < n) {
      const std::int32_t i = node_on_cycle(count, order, parent_of);
      return refuse_cycle("make_forest", "nodes", "parent", i, parent_of(i));
    }
    f_.nodes.resize(n);
    f_.path_begin.resize(n);
    f_.subtree_end.resize(n);
    f_.node_of_input.resize(n);
    Span<Node> nodes = f_.nodes;
    Span<std::int32_t> path_begin = f_.path_begin, subtree_end = f_.subtree_end, place = f_.node_of_input;
    for (std::int32_t at = 0; at < count; ++at) {
      const std::int32_t i = Span<const std::int32_t>(order)[at];
      place[i] = at;
      nodes[at] = in_.nodes[i];
      if (nodes[at].parent >= 0) nodes[at].parent = place[nodes[at].parent];
      path_begin[at] = f_.path_end(nodes[at].parent);
      const std::int64_t end = std::int64_t{path_begin[at]} + nodes[at].length;
      if (end > kInt32Max) return capacity("nodes", i, "path_end", end);
    }
    for (std::int32_t at = 0; at < count; ++at) subtree_end[at] = at + 1;
    for (std::int32_t at = count - 1; at >= 0; --at) {
      const std::int32_t parent = nodes[at].parent;
      if (parent >= 0) subtree_end[parent] = std::max(subtree_end[parent], subtree_end[at]);
    }
    return {};
  }

  /// The caller's order; node indices become ours and orders are resolved.
  Status place_sequences() {
    f_.sequences.assign(in_.sequences.begin(), in_.sequences.end());
    std::int64_t rows = 0;
    for (std::int64_t i = 0; i < in_.sequences.size(); ++i) {
      Sequence& s = Span<Sequence>(f_.sequences)[i];
      if (s.node >= 0) s.node = Span<std::int32_t>(f_.node_of_input)[s.node];
      if (s.first_order == Sequence::kLastTokens) s.first_order = f_.path_end(s.node) - s.q_len;
      const std::int64_t end = std::int64_t{s.first_order} + s.q_len;
      if (end > kInt32Max) return capacity("sequences", i, "first_order+q_len", end);
      rows += s.q_len;
      if (rows > kInt32Max) return capacity("sequences", i, "rows", rows);
    }
    rows_ = static_cast<std::size_t>(rows);
    return {};
  }

  /// Rows in depth-first order: those of empty paths, then node by node, inside a node sequence by sequence.
  void place_rows() {
    const auto count = static_cast<std::int32_t>(f_.nodes.size());
    const auto sequences = static_cast<std::int32_t>(f_.sequences.size());
    Span<const Sequence> sequence = f_.sequences;
    std::vector<std::int32_t> first_of_node(f_.nodes.size() + 1, -1), next_of_node(f_.sequences.size());
    std::vector<std::int32_t> callers_row(f_.sequences.size());
    Span<std::int32_t> first = first_of_node, next = next_of_node, row = callers_row;
    std::int32_t rows = 0;
    for (std::int32_t s = 0; s < sequences; ++s) {
      row[s] = rows;
      rows += sequence[s].q_len;
    }
    for (std::int32_t s = sequences - 1; s >= 0; --s) {  // backwards, so that lists come out in sequence order
      next[s] = first[sequence[s].node + 1];
      first[sequence[s].node + 1] = s;
    }
    f_.row_map.reserve(rows_);
    f_.row_sequence.reserve(rows_);
    f_.row_order.reserve(rows_);
    f_.row_begin.resize(f_.nodes.size());
    f_.own_row_end.resize(f_.nodes.size());
    f_.row_end.resize(f_.nodes.size());
    for (std::int32_t at = -1; at < count; ++at) {
      if (at >= 0) f_.row_begin.data()[at] = f_.rows();
      for (std::int32_t s = first[at + 1]; s >= 0; s = next[s]) add_rows(s, row[s]);
      if (at >= 0) f_.own_row_end.data()[at] = f_.rows();
    }
    for (std::int32_t at = 0; at < count; ++at) {
      f_.row_end.data()[at] = f_.own_row_end.data()[f_.subtree_end.data()[at] - 1];
    }
  }

  void add_rows(std::int32_t sequence, std::int32_t callers_first_row) {
    const Sequence& s = f_.sequences.data()[sequence];
    for (std::int32_t r = 0; r < s.q_len; ++r) {
      f_.row_map.push_back(callers_first_row + r);
      f_.row_sequence.push_back(sequence);
      f_.row_order.push_back(s.first_order + r);
    }
  }

  const ForestInput& in_;
  Forest& f_;
  std::size_t rows_ = 0;
};

}  // namespace detail

inline Status make_forest(const ForestInput& input, Forest* forest) noexcept {
  if (Status s = detail::check_pointer("make_forest", "forest", forest)) return s;
  try {
    if (Status s = detail::ForestCheck(input).run()) return s;
    Forest built;
    if (Status s = detail::ForestLayout(input, &built).run()) return s;
    *forest = std::move(built);
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory("make_forest", "forest");
  }
}

}  // namespace v0_1
}  // namespace prefixshare
