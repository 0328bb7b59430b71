// SPDX-License-Identifier: Apache-2.0
// LiveForest: the forest of a running engine. Sequences come, grow, fork, are cut back and go; every step gets the
// forest of its batch, and keeps the one of the step before while sequences only grow into pages that they have.
#pragma once

#include <cstdint>
#include <vector>

#include "prefixshare/detail/page_tree.hpp"
#include "prefixshare/forest.hpp"
#include "prefixshare/span.hpp"
#include "prefixshare/status.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {
class PageReads;
}

/// A running sequence. Never given twice in the life of a LiveForest: a finished one is refused, not mistaken for its
/// successor.
using SequenceId = std::int64_t;

/// A sequence of a step's batch; its query rows are the last q_len tokens of its path.
struct ScheduledSequence {
  SequenceId id = -1;
  std::int32_t q_len = 1;
};

/// What an engine tells of its paged cache as it happens. Identity of a page is (pool, id): paths that name equal pages
/// at equal positions from the start share them, and nothing else is shared. A page that two sequences fill to
/// different lengths is shared up to the shorter. Who writes into a page that others read gives itself a copy first
/// (replace_pages). A page id may be issued again as soon as nobody names it.
///
/// A sequence has kv_len tokens in the first ceil(kv_len / page_size) of its pages; the pages behind those are its
/// reserve, into which it grows.
///
/// Not thread-safe; a value: copy it freely. Changes of a sequence are O(pages that they name or move), and of nodes
/// that they split or join.
/// Errors of all calls: invalid_argument (null, negative, an id that does not run, a page id out of range, too few
/// pages), capacity_exceeded (an index type), out_of_memory. On error nothing changes.
/// Source: the tree over block ids is that of PAT (arXiv 2511.22333), kept up to date instead of made anew.
class LiveForest {
 public:
  /// Drops every sequence and starts anew with these pools, which have one page size. Page ids of before mean nothing
  /// any more; forest() is that of no sequences. Errors: invalid_argument (no pool, page sizes differ, < 1, negative
  /// num_pages).
  Status begin_epoch(Span<const PoolShape> pools) noexcept;

  /// A new sequence of kv_len tokens in `pages` of one pool, in order.
  Status add(Span<const std::int32_t> pages, std::int32_t kv_len, SequenceId* id, std::int32_t pool = 0) noexcept;
  /// Appends `new_pages` to the sequence's pages, then lets it grow by `tokens` >= 0.
  Status extend(SequenceId id, std::int32_t tokens, Span<const std::int32_t> new_pages = {}) noexcept;
  /// Cuts the sequence back to its first kv_len tokens (draft tokens that were rejected). Its pages stay its own.
  Status truncate(SequenceId id, std::int32_t kv_len) noexcept;
  /// A second sequence with the same tokens. The reserve stays with the first.
  Status fork(SequenceId id, SequenceId* child) noexcept;
  /// From its page `first_page` on, the sequence's pages are these; kv_len stays (copy on write, eviction, giving back
  /// reserve). Appends to `freed`, if given, the pages that nobody names any more, ascending.
  Status replace_pages(SequenceId id, std::int32_t first_page, Span<const std::int32_t> pages,
                       std::vector<PageId>* freed = nullptr) noexcept;
  /// Ends a sequence. Appends to `freed`, if given, the pages that nobody names any more, ascending.
  Status finish(SequenceId id, std::vector<PageId>* freed = nullptr) noexcept;

  /// Makes forest() and actual_lengths() those of this batch: its sequences in this order, each at most once. The
  /// forest is canonical: nodes end where sequences of the batch part or end, and nowhere else; sequences that are not
  /// in the batch leave no trace. Nodes and rows are those of forest_from_block_tables, except that a leaf where one
  /// sequence ends has a length slot, numbered in the batch's order, and the capacity of all pages of the sequence
  /// (up to INT32_MAX path tokens). A sequence without a token of its own has no leaf and no slot: the empty path if
  /// kv_len is 0, whatever its reserve.
  ///
  /// While the batch is the same and every sequence stays inside its leaf (or as it was, if it has none), the forest
  /// stays as it is, with its fingerprint, and plans made for it stay good: only the lengths change, in O(batch).
  /// Pages that come as new reserve count when the forest is made next. Else it is made anew, in O(nodes and pages of
  /// the batch), and a word per running sequence and node. Errors: also invalid_argument for an id that comes twice.
  Status schedule(Span<const ScheduledSequence> batch) noexcept;
  /// The forest of the batch that was scheduled last.
  const Forest& forest() const noexcept { return forest_; }
  /// Tokens of each length slot, as Attend and append_slots take them.
  Span<const std::int32_t> actual_lengths() const noexcept { return actual_lengths_; }
  /// How often the forest was made anew: plans of another version are stale.
  std::int64_t version() const noexcept { return version_; }

  /// Accounting of all running sequences, scheduled or not, at their actual lengths; `rows` is 0. O(their pages).
  Status stats(ForestStats* stats) const noexcept;
  /// What finishing these sequences would free: the slots that they alone read, the pages that they alone name.
  /// O(pages of all running sequences). Errors: also invalid_argument for an id that comes twice.
  Status would_free(Span<const SequenceId> ids, FreedStorage* freed) const noexcept;

 private:
  /// A sequence, or an entry for one to come.
  struct Running {
    std::int32_t generation = 0;  ///< the upper half of the id; the lower is the index of the entry
    std::int32_t node = -1;       ///< where its path ends; -1: does not run
    std::int32_t kv_len = 0;
    std::int32_t next_unused = -1;
    std::int64_t replacements = 0;      ///< calls of replace_pages
    std::vector<std::int32_t> reserve;  ///< the next page last
  };
  /// What the forest was made for: a sequence that keeps its pages may have `begin` < kv_len <= `end`.
  struct Scheduled {
    ScheduledSequence sequence;
    std::int32_t slot;  ///< of the leaf that begins at `begin`; -1: none
    std::int32_t begin;
    std::int32_t end;
    std::int64_t replacements;
  };

  std::int32_t index_of(SequenceId id) const noexcept;
  SequenceId id_of(std::int32_t index) const noexcept;
  std::int32_t pages_of(std::int32_t kv_len) const noexcept;
  Status check_id(const char* op, const char* argument, std::int64_t index, const char* field,
                  SequenceId id) const noexcept;
  Status mark(const char* op, const char* argument, std::int64_t index, const char* field, SequenceId id,
              std::vector<char>* marks) const noexcept;
  Status check_pages(const char* op, const char* argument, std::int32_t pool,
                     Span<const std::int32_t> pages) const noexcept;
  Status check_batch(Span<const ScheduledSequence> batch) const;

  Status make_entry(const char* op, std::int32_t* index);
  SequenceId start(std::int32_t index, Running&& sequence) noexcept;
  void retire(std::int32_t index) noexcept;
  void grow(Running* sequence, std::int32_t pages, Span<const std::int32_t> new_pages);
  void replace(Running* sequence, std::int32_t first_page, Span<const std::int32_t> pages, std::vector<PageId>* freed);
  bool keeps_forest(Span<const ScheduledSequence> batch) const noexcept;
  Status make_forest_of(Span<const ScheduledSequence> batch);
  std::vector<PageId> named_by(const std::vector<char>& goes, const detail::PageReads& others) const;

  std::vector<PoolShape> pools_;
  detail::PageTree tree_;
  std::vector<Running> sequences_;
  std::int32_t unused_ = -1;  ///< first entry that does not run
  std::int32_t running_ = 0;

  std::vector<Scheduled> scheduled_;
  Forest forest_;
  std::vector<std::int32_t> actual_lengths_;
  std::int64_t version_ = 0;
};

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/live_forest_impl.hpp"
