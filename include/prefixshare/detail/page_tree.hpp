// SPDX-License-Identifier: Apache-2.0
// PageTree: the pages of running sequences as a radix tree that follows them, and how often each page is named.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/span.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Makes room for `more` elements, so that adding them cannot throw. Grows as push_back does.
template <class T>
void make_room(std::vector<T>* values, std::size_t more) {
  const std::size_t needed = values->size() + more;
  if (needed > values->capacity()) values->reserve(std::max(needed, 2 * values->capacity()));
}

/// How often each page of each pool is named.
class PageNames {
 public:
  PageNames() = default;
  explicit PageNames(std::int64_t pools) : counts_(static_cast<std::size_t>(pools)) {}

  /// Makes room for these pages, so that `add` need not allocate.
  void cover(std::int32_t pool, Span<const std::int32_t> pages) {
    std::vector<std::int64_t>& counts = counts_.data()[pool];
    std::int32_t highest = -1;
    for (std::int32_t page : pages) highest = std::max(highest, page);
    if (highest >= static_cast<std::int64_t>(counts.size())) counts.resize(static_cast<std::size_t>(highest) + 1, 0);
  }
  void add(std::int32_t pool, Span<const std::int32_t> pages, std::int64_t times) noexcept {
    for (std::int32_t page : pages) counts_.data()[pool].data()[page] += times;
  }
  std::int64_t count(std::int32_t pool, std::int32_t page) const noexcept { return counts_.data()[pool].data()[page]; }
  /// One past the highest page of a pool that was ever named.
  std::size_t size(std::int32_t pool) const noexcept { return counts_.data()[pool].size(); }
  std::int32_t pools() const noexcept { return static_cast<std::int32_t>(counts_.size()); }

 private:
  std::vector<std::vector<std::int64_t>> counts_;
};

/// A radix tree over the pages of sequences: a node is a run of pages below a parent, where sequences may end. One root
/// per pool, without pages, whose index is the pool's. Canonical: every other node has two children or a sequence that
/// ends there. A node keeps its index while sequences end there.
/// Calls that may throw (out of memory) change nothing then.
class PageTree {
 public:
  struct Node {
    std::int32_t parent = -1;  ///< -1: a root, or not in use
    std::int32_t pool = 0;
    std::int32_t first = 0;      ///< path pages above it
    std::int32_t ends = 0;       ///< sequences that end here
    std::int32_t children = 0;   ///< how many
    std::int32_t child_xor = 0;  ///< XOR of their indices: an only child is known without a list
    std::int32_t next = -1;      ///< in its bucket, or among the nodes that are not in use
    std::vector<std::int32_t> pages;
  };

  PageTree() = default;
  explicit PageTree(std::int32_t pools) : names_(pools) {
    reserve(static_cast<std::size_t>(pools));
    for (Node root; root.pool < pools; ++root.pool) nodes_.push_back(root);
  }

  const Node& node(std::int32_t n) const noexcept { return nodes_.data()[n]; }
  bool is_root(std::int32_t n) const noexcept { return node(n).parent < 0; }
  /// Path pages up to and including node n.
  std::int32_t end(std::int32_t n) const noexcept { return node(n).first + size(n); }
  /// One past the highest index of a node.
  std::size_t nodes() const noexcept { return nodes_.size(); }
  PageNames& names() noexcept { return names_; }  // a node names each of its pages once, whoever else does
  const PageNames& names() const noexcept { return names_; }

  /// Appends the pages of node n's path from path page `first` on.
  void append_path(std::int32_t n, std::int32_t first, std::vector<std::int32_t>* pages) const {
    if (first >= end(n)) return;
    pages->resize(pages->size() + static_cast<std::size_t>(end(n) - first));
    for (auto to = pages->end(); end(n) > first; n = node(n).parent) {
      const std::vector<std::int32_t>& own = node(n).pages;
      to = std::copy_backward(own.end() - std::min(size(n), end(n) - first), own.end(), to);
    }
  }

  /// Pages of the path to node n that will still be on another's path when one sequence less ends there.
  std::int32_t shared_pages(std::int32_t n) const noexcept {
    if (node(n).ends > 1 || node(n).children > 0) return end(n);
    do {
      n = node(n).parent;
    } while (n >= 0 && !is_root(n) && node(n).ends == 0 && node(n).children == 1);
    return n < 0 ? 0 : end(n);
  }

  /// One sequence more ends at node n.
  void add_end(std::int32_t n) noexcept { ++nodes_.data()[n].ends; }

  /// One sequence more ends where the first `keep` pages of node `from`'s path followed by `pages` do; returns the
  /// node. The first of `pages` is not what followed on that path.
  std::int32_t add_end(std::int32_t from, std::int32_t keep, Span<const std::int32_t> pages) {
    const Place place = find(from, keep, pages);
    const std::vector<std::int32_t>& there = node(place.node).pages;
    Node upper, leaf;
    if (place.cut < size(place.node)) upper.pages.assign(there.begin(), there.begin() + place.cut);
    leaf.pages.assign(pages.begin() + place.rest, pages.end());
    names_.cover(node(from).pool, leaf.pages);
    reserve(2);  // nothing throws from here on
    std::int32_t n = place.node;
    if (!upper.pages.empty()) n = split(n, std::move(upper));
    if (!leaf.pages.empty()) n = hang(n, std::move(leaf));
    add_end(n);
    return n;
  }

  /// The same for a sequence that ended at `from`.
  std::int32_t move_end(std::int32_t from, std::int32_t keep, Span<const std::int32_t> pages) {
    if (node(from).ends == 1 && node(from).children == 0 && keep > node(from).first) {
      change(from, keep, pages);
      return from;
    }
    const std::int32_t to = add_end(from, keep, pages);
    remove_end(from);
    return to;
  }

  /// One sequence less ends at node n. Nodes that nobody needs go.
  void remove_end(std::int32_t n) noexcept {
    --nodes_.data()[n].ends;
    while (!is_root(n) && node(n).ends == 0 && node(n).children == 0) {
      const std::int32_t parent = node(n).parent;
      names_.add(node(n).pool, node(n).pages, -1);
      unlink(n);
      discard(n);
      n = parent;
    }
    if (!is_root(n) && node(n).ends == 0 && node(n).children == 1) merge(n);
  }

 private:
  /// Where a path goes: it leaves `node` after `cut` of its pages and goes on with new ones from `rest` on.
  struct Place {
    std::int32_t node;
    std::int32_t cut;
    std::int64_t rest;
  };

  std::int32_t size(std::int32_t n) const noexcept { return static_cast<std::int32_t>(node(n).pages.size()); }

  Place find(std::int32_t from, std::int32_t keep, Span<const std::int32_t> pages) const noexcept {
    while (!is_root(from) && node(from).first >= keep) from = node(from).parent;
    Place place = {from, keep - node(from).first, 0};
    while (place.cut == size(place.node) && place.rest < pages.size()) {
      const std::int32_t next = child(place.node, pages[place.rest]);
      if (next < 0) break;
      const std::vector<std::int32_t>& label = node(next).pages;
      const auto most = std::min<std::int64_t>(size(next), pages.size() - place.rest);
      const auto common = std::mismatch(label.begin(), label.begin() + most, pages.begin() + place.rest).first;
      place.node = next;
      place.cut = static_cast<std::int32_t>(common - label.begin());
      place.rest += place.cut;
    }
    return place;
  }

  /// Pages of a leaf that is one sequence's own, from path page `keep` on.
  void change(std::int32_t leaf, std::int32_t keep, Span<const std::int32_t> pages) {
    std::vector<std::int32_t>& own = nodes_.data()[leaf].pages;
    const std::int32_t pool = node(leaf).pool;
    const auto kept = static_cast<std::size_t>(keep - node(leaf).first);
    names_.cover(pool, pages);
    make_room(&own, static_cast<std::size_t>(pages.size()));  // nothing throws from here on
    names_.add(pool, {own.data() + kept, static_cast<std::int64_t>(own.size() - kept)}, -1);
    names_.add(pool, pages, 1);
    own.resize(kept);
    own.insert(own.end(), pages.begin(), pages.end());
  }

  /// Cuts a node before the pages of `upper`, which are its first, end. Returns the new node; the lower part keeps the
  /// index, the children and the ends.
  std::int32_t split(std::int32_t lower, Node&& upper) noexcept {
    unlink(lower);
    upper.parent = node(lower).parent;
    upper.pool = node(lower).pool;
    upper.first = node(lower).first;
    const std::int32_t n = place(std::move(upper));
    Node& rest = nodes_.data()[lower];
    rest.pages.erase(rest.pages.begin(), rest.pages.begin() + size(n));
    rest.parent = n;
    rest.first = end(n);
    link(n);
    link(lower);
    return n;
  }

  /// A new leaf below a node.
  std::int32_t hang(std::int32_t parent, Node&& leaf) noexcept {
    leaf.parent = parent;
    leaf.pool = node(parent).pool;
    leaf.first = end(parent);
    const std::int32_t n = place(std::move(leaf));
    names_.add(node(n).pool, node(n).pages, 1);
    link(n);
    return n;
  }

  /// An inner node's only child takes over its pages. Without memory for them the tree stays as it is, which is only
  /// less compact.
  void merge(std::int32_t n) noexcept {
    const std::int32_t child = node(n).child_xor;
    std::vector<std::int32_t>& pages = nodes_.data()[n].pages;
    try {
      pages.insert(pages.end(), node(child).pages.begin(), node(child).pages.end());
    } catch (...) {
      return;
    }
    unlink(child);
    unlink(n);
    nodes_.data()[child].pages.swap(pages);
    nodes_.data()[child].parent = node(n).parent;
    nodes_.data()[child].first = node(n).first;
    link(child);
    discard(n);
  }

  // ---- Memory of the nodes, and the hash table of children: chains through `next`, by parent and first page ----

  /// Makes room for `count` nodes more.
  void reserve(std::size_t count) {
    const std::size_t needed = nodes_.size() + count;
    make_room(&nodes_, count);
    if (needed <= buckets_.size()) return;
    std::size_t size = 16;
    while (size < 2 * needed) size *= 2;
    buckets_ = std::vector<std::int32_t>(size, -1);
    for (std::size_t n = 0; n < nodes_.size(); ++n) {
      if (nodes_[n].parent >= 0) push(static_cast<std::int32_t>(n));
    }
  }

  std::int32_t place(Node&& made) noexcept {
    const std::int32_t n = unused_ < 0 ? static_cast<std::int32_t>(nodes_.size()) : unused_;
    if (unused_ < 0) {
      nodes_.push_back(std::move(made));
    } else {
      unused_ = node(n).next;
      nodes_.data()[n] = std::move(made);
    }
    return n;
  }

  void discard(std::int32_t n) noexcept {
    nodes_.data()[n] = Node{};
    nodes_.data()[n].next = unused_;
    unused_ = n;
  }

  std::int32_t& bucket(std::int32_t parent, std::int32_t page) noexcept {
    return buckets_.data()[bucket_index(parent, page)];
  }
  std::size_t bucket_index(std::int32_t parent, std::int32_t page) const noexcept {
    std::uint64_t key = static_cast<std::uint64_t>(parent) << 32 | static_cast<std::uint32_t>(page);
    key *= 0x9e3779b97f4a7c15u;
    return static_cast<std::size_t>(key >> 32) & (buckets_.size() - 1);
  }

  std::int32_t child(std::int32_t parent, std::int32_t page) const noexcept {
    std::int32_t n = buckets_.data()[bucket_index(parent, page)];
    while (n >= 0 && (node(n).parent != parent || node(n).pages.front() != page)) n = node(n).next;
    return n;
  }

  void push(std::int32_t n) noexcept {
    std::int32_t& head = bucket(node(n).parent, node(n).pages.front());
    nodes_.data()[n].next = head;
    head = n;
  }

  /// Makes a node, whose parent and pages are set, a child of its parent.
  void link(std::int32_t n) noexcept {
    Node& parent = nodes_.data()[node(n).parent];
    ++parent.children;
    parent.child_xor ^= n;
    push(n);
  }

  void unlink(std::int32_t n) noexcept {
    Node& parent = nodes_.data()[node(n).parent];
    --parent.children;
    parent.child_xor ^= n;
    std::int32_t* at = &bucket(node(n).parent, node(n).pages.front());
    while (*at != n) at = &nodes_.data()[*at].next;
    *at = node(n).next;
  }

  std::vector<Node> nodes_;
  std::vector<std::int32_t> buckets_;  ///< heads of chains; as many as a power of two
  std::int32_t unused_ = -1;
  PageNames names_;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
