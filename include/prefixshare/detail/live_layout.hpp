// SPDX-License-Identifier: Apache-2.0
// LiveLayout: the canonical forest of some of the sequences that end in a PageTree.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "prefixshare/detail/forest_builders_impl.hpp"
#include "prefixshare/detail/forest_stats_impl.hpp"
#include "prefixshare/detail/page_tree.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// What BlockTableForest makes of the block tables of these sequences, node by node, without reading the pages that
/// they share more than once. Leaves of one sequence may have a length slot, and the sequence's reserve.
class LiveLayout {
 public:
  struct Member {
    std::int32_t node;    ///< of the tree, where its path ends
    std::int32_t kv_len;  ///< tokens
    std::int32_t q_len;
    Span<const std::int32_t> reserve;  ///< pages to grow into, the next one last

    std::int32_t cut = -1;   ///< result: where its path ends, an index into `cuts_`; -1: the empty path
    std::int32_t slot = -1;  ///< result: length slot; -1: none
    std::int32_t begin = 0;  ///< result: path positions of the leaf that has the slot
    std::int32_t end = 0;
  };

  LiveLayout(const PageTree& tree, Span<const PoolShape> pools, std::vector<Member>* members)
      : tree_(tree), pools_(pools), members_(*members), page_size_(pools.empty() ? 1 : pools[0].page_size) {}

  /// All lengths are actual.
  Status run(const char* op, Forest* forest) {
    visit();
    find_cuts();
    find_ends();
    return build(op, forest);
  }
  /// Leaves of one sequence get a length slot, and its reserve.
  Status run_with_slots(const char* op, Forest* forest) {
    visit();
    find_cuts();
    find_ends();
    find_slots();
    return build(op, forest);
  }

 private:
  /// A node of the tree on the path of a member.
  struct Entry {
    std::int32_t node;
    std::int32_t above;          ///< entry of its parent; -1: a root
    std::int32_t children = 0;   ///< entries
    std::int32_t last_cut = -1;  ///< in it or, if it has none, above it
  };
  /// A forest node to be: it ends at path position `end`, in the pages of an entry.
  struct Cut {
    std::int32_t entry;
    std::int32_t end;
    std::int32_t members = 0;  ///< that end here
    std::int32_t owner = -1;   ///< the member whose leaf it is, with a length slot
    bool operator<(const Cut& other) const noexcept {
      return entry != other.entry ? entry < other.entry : end < other.end;
    }
    bool operator==(const Cut& other) const noexcept { return entry == other.entry && end == other.end; }
  };

  /// Entries in order of first appearance, then downwards. A member's `cut` is the entry of its end until find_ends.
  void visit() {
    std::vector<std::int32_t> entry_of(tree_.nodes(), -1), path;
    for (Member& m : members_) {
      for (std::int32_t n = m.node; !tree_.is_root(n) && entry_of.data()[n] < 0; n = tree_.node(n).parent) {
        path.push_back(n);
      }
      for (; !path.empty(); path.pop_back()) {
        const std::int32_t n = path.back(), above = entry_of.data()[tree_.node(n).parent];
        entry_of.data()[n] = static_cast<std::int32_t>(entries_.size());
        entries_.push_back({n, above});
        if (above >= 0) ++entries_.data()[above].children;
      }
      m.cut = entry_of.data()[m.node];
    }
  }

  /// Where members end, and where the last page of an entry with several children does. Before an only child the rest
  /// of the page belongs to the child.
  void find_cuts() {
    for (const Member& m : members_) {
      if (m.cut >= 0) cuts_.push_back({m.cut, m.kv_len});
    }
    for (std::size_t e = 0; e < entries_.size(); ++e) {
      if (entries_[e].children < 2) continue;
      cuts_.push_back({static_cast<std::int32_t>(e), tree_.end(entries_[e].node) * page_size_});
    }
    std::sort(cuts_.begin(), cuts_.end());
    cuts_.erase(std::unique(cuts_.begin(), cuts_.end()), cuts_.end());
  }

  void find_ends() {
    for (Member& m : members_) {
      if (m.cut < 0) continue;
      const auto cut = std::lower_bound(cuts_.begin(), cuts_.end(), Cut{m.cut, m.kv_len});
      m.cut = static_cast<std::int32_t>(cut - cuts_.begin());
      ++cut->members;
    }
  }

  bool is_leaf(std::int32_t cut) const noexcept {
    const std::int32_t entry = cuts_.data()[cut].entry;
    const auto next = static_cast<std::size_t>(cut) + 1;
    return entries_.data()[entry].children == 0 && (next == cuts_.size() || cuts_[next].entry != entry);
  }

  void find_slots() {
    std::int32_t slots = 0;
    for (std::size_t i = 0; i < members_.size(); ++i) {
      Member& m = members_[i];
      if (m.cut < 0 || cuts_.data()[m.cut].members > 1 || !is_leaf(m.cut)) continue;
      cuts_.data()[m.cut].owner = static_cast<std::int32_t>(i);
      m.slot = slots++;
    }
  }

  /// Node and segment k are cut k's. The cuts of an entry share its page list: its pages and those of the entries above
  /// without a cut, from the page in which the parent ends.
  void add_nodes() {
    std::size_t k = 0;
    for (std::size_t e = 0; e < entries_.size(); ++e) {
      const std::int32_t above = entries_[e].above;
      std::int32_t parent = above < 0 ? -1 : entries_.data()[above].last_cut;
      const auto list = static_cast<std::int32_t>(out_.pages.size());
      const std::int32_t list_page = (parent < 0 ? 0 : cuts_.data()[parent].end) / page_size_;
      const bool has_cuts = k < cuts_.size() && cuts_[k].entry == static_cast<std::int32_t>(e);
      if (has_cuts) tree_.append_path(entries_[e].node, list_page, &out_.pages);
      for (; k < cuts_.size() && cuts_[k].entry == static_cast<std::int32_t>(e); ++k) {
        const std::int32_t begin = parent < 0 ? 0 : cuts_.data()[parent].end;
        add_node(cuts_[k], parent, begin, list + begin / page_size_ - list_page);
        parent = static_cast<std::int32_t>(k);
      }
      entries_[e].last_cut = parent;
    }
  }

  void add_node(const Cut& cut, std::int32_t parent, std::int32_t begin, std::int32_t first_page) {
    const std::int32_t tree_node = entries_.data()[cut.entry].node;
    std::int32_t end = cut.end, slot = -1;
    if (cut.owner >= 0) {
      Member& m = members_.data()[cut.owner];
      const std::int64_t slots = (tree_.end(tree_node) + m.reserve.size()) * page_size_;
      for (std::int64_t i = m.reserve.size(); i-- > 0;) out_.pages.push_back(m.reserve[i]);
      end = static_cast<std::int32_t>(std::min(slots, kInt32Max));
      slot = m.slot;
      m.begin = begin;
      m.end = end;
    }
    out_.nodes.push_back({parent, static_cast<std::int32_t>(out_.segments.size()), 0, end - begin, 0, slot});
    out_.segments.push_back({tree_.node(tree_node).pool, first_page, begin % page_size_, end - begin});
  }

  /// Checks nothing that the tree's owner has checked.
  Status build(const char* op, Forest* forest) {
    add_nodes();
    if (Status s = check_span(op, "pages", Span<const std::int32_t>(out_.pages))) return s;
    for (const Member& m : members_) out_.sequences.push_back({m.cut, m.q_len});
    return ForestLayout({pools_, out_.pages, out_.segments, out_.nodes, out_.sequences}, forest).run();
  }

  const PageTree& tree_;
  Span<const PoolShape> pools_;
  std::vector<Member>& members_;
  std::int32_t page_size_;
  std::vector<Entry> entries_;
  std::vector<Cut> cuts_;
  ForestArrays out_;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
