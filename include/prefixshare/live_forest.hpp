// SPDX-License-Identifier: Apache-2.0
// LiveForest: the forest of a running engine. Sequences come, grow, fork, are cut back and go; every step gets the
// forest of its batch, and keeps the one of the step before while sequences only grow into pages that they have.
#pragma once

#include <cstdint>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/span.hpp"
#include "prefixshare/status.hpp"

namespace prefixshare {
inline namespace v0_1 {

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
/// Not thread-safe; a value: copy it freely. Every call but `schedule` is O(pages that it names or moves).
/// Errors of all calls: invalid_argument (null, negative, an id that does not run, a page id out of range, too few
/// pages), capacity_exceeded (an index type), out_of_memory. On error nothing changes.
class LiveForest {
 public:
  /// Drops every sequence and starts anew with these pools, which have one page size. Page ids of before mean nothing
  /// any more. Errors: invalid_argument (no pool, page sizes differ, < 1, negative num_pages).
  Status begin_epoch(Span<const PoolShape> pools) noexcept;

  /// A new sequence of kv_len tokens in `pages` of one pool, in order.
  Status add(Span<const std::int32_t> pages, std::int32_t kv_len, SequenceId* id, std::int32_t pool = 0) noexcept;
  /// Appends `new_pages` to the sequence's pages, then lets it grow by `tokens` >= 0.
  Status extend(SequenceId id, std::int32_t tokens, Span<const std::int32_t> new_pages = {}) noexcept;
  /// Cuts the sequence back to its first kv_len tokens (draft tokens that were rejected). Its pages stay its own.
  Status truncate(SequenceId id, std::int32_t kv_len) noexcept;
  /// A second sequence with the same tokens. The reserve stays with the first.
  Status fork(SequenceId id, SequenceId* child) noexcept;
  /// From its page `first_page` on, the sequence's pages are these; kv_len stays (copy on write, eviction).
  Status replace_pages(SequenceId id, std::int32_t first_page, Span<const std::int32_t> pages) noexcept;
  /// Ends a sequence. Appends to `freed`, if given, the pages that nobody names any more, ascending.
  Status finish(SequenceId id, std::vector<PageId>* freed = nullptr) noexcept;

  /// Makes forest() and actual_lengths() those of this batch: its sequences in this order, each at most once. The
  /// forest is canonical: nodes end where sequences part or end, and nowhere else. A leaf that is one sequence's own
  /// has a length slot; its capacity is all pages of the sequence. While the batch stays the same and every sequence
  /// stays within its capacity the forest stays as it is, with its fingerprint, and plans made for it stay good: only
  /// the lengths change, in O(batch). Else it is made anew, in O(nodes + pages of the batch). Errors: also
  /// invalid_argument for an id that comes twice.
  Status schedule(Span<const ScheduledSequence> batch) noexcept;
  /// The forest of the batch that was scheduled last.
  const Forest& forest() const noexcept { return forest_; }
  /// Tokens of each length slot, as Attend and append_slots take them.
  Span<const std::int32_t> actual_lengths() const noexcept { return actual_lengths_; }
  /// How often the forest was made anew: plans of another version are stale.
  std::int64_t version() const noexcept { return version_; }

  /// Accounting of all running sequences, scheduled or not, at their actual lengths; `rows` is 0.
  Status stats(ForestStats* stats) const noexcept;
  /// What finishing these sequences would free.
  Status would_free(Span<const SequenceId> ids, FreedStorage* freed) const noexcept;

 private:
  Forest forest_;
  std::vector<std::int32_t> actual_lengths_;
  std::int64_t version_ = 0;
};

}  // namespace v0_1
}  // namespace prefixshare
