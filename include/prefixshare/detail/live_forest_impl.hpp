// SPDX-License-Identifier: Apache-2.0
// LiveForest: entries of sequences, their changes, the batch's forest, accounting.
#pragma once

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "prefixshare/detail/live_layout.hpp"
#include "prefixshare/live_forest.hpp"

namespace prefixshare {
inline namespace v0_1 {

namespace detail {

/// Appends those of `pages` that nobody names, ascending. `freed` has room for all.
inline void add_unnamed(const PageNames& names, std::int32_t pool, std::vector<std::int32_t>* pages,
                        std::vector<PageId>* freed) noexcept {
  std::sort(pages->begin(), pages->end());
  pages->erase(std::unique(pages->begin(), pages->end()), pages->end());
  for (std::int32_t page : *pages) {
    if (names.count(pool, page) == 0) freed->push_back({pool, page});
  }
}

/// What some sequences of a PageTree read.
class PageReads {
 public:
  PageReads(const PageTree& tree, Span<const PoolShape> pools)
      : tree_(tree), page_size_(pools.empty() ? 1 : pools[0].page_size), ends_(tree.nodes(), 0) {}

  /// A sequence of kv_len tokens that ends at node n.
  void add(std::int32_t n, std::int32_t kv_len) noexcept {
    for (; !tree_.is_root(n); n = tree_.node(n).parent) {
      const std::int64_t end = std::min<std::int64_t>(kv_len, std::int64_t{tree_.end(n)} * page_size_);
      if (ends_.data()[n] >= end) break;  // and so are those above
      ends_.data()[n] = static_cast<std::int32_t>(end);
    }
  }
  bool reads(std::int32_t n) const noexcept { return ends_.data()[n] > 0; }

  /// Distinct slots. A page is read from its first slot on, wherever a path names it.
  std::int64_t slots() const {
    const std::int32_t pools = tree_.names().pools();
    std::vector<std::vector<std::int32_t>> read(static_cast<std::size_t>(pools));  // slots per page
    for (std::int32_t p = 0; p < pools; ++p) read.data()[p].assign(tree_.names().size(p), 0);
    std::int64_t sum = 0;
    for (std::size_t n = 0; n < ends_.size(); ++n) {
      if (ends_[n] == 0) continue;
      const PageTree::Node& node = tree_.node(static_cast<std::int32_t>(n));
      std::int32_t left = ends_[n] - node.first * page_size_;
      for (std::int32_t page : node.pages) {
        std::int32_t& before = read.data()[node.pool].data()[page];
        const std::int32_t count = std::max(before, std::min(left, page_size_));
        sum += count - before;
        before = count;
        left -= page_size_;
      }
    }
    return sum;
  }

 private:
  const PageTree& tree_;
  std::int32_t page_size_;
  std::vector<std::int32_t> ends_;  ///< per node: the path position up to which it is read; 0: not at all
};

}  // namespace detail

// ---- Ids, entries, checks ----

/// -1: it does not run.
inline std::int32_t LiveForest::index_of(SequenceId id) const noexcept {
  const SequenceId index = id & std::numeric_limits<std::uint32_t>::max();
  if (id < 0 || index >= static_cast<SequenceId>(sequences_.size())) return -1;
  const Running& r = sequences_[static_cast<std::size_t>(index)];
  return r.node >= 0 && r.generation == id >> 32 ? static_cast<std::int32_t>(index) : -1;
}
inline SequenceId LiveForest::id_of(std::int32_t index) const noexcept {
  return static_cast<SequenceId>(sequences_.data()[index].generation) << 32 | index;
}

inline Status LiveForest::check_id(const char* op, const char* argument, std::int64_t index, const char* field,
                                   SequenceId id) const noexcept {
  if (index_of(id) >= 0) return {};
  return detail::refuse(StatusCode::invalid_argument, op, argument, index, field, id, "one of the running", running_);
}

/// Of a running sequence that has no mark yet.
inline Status LiveForest::mark(const char* op, const char* argument, std::int64_t index, const char* field,
                               SequenceId id, std::vector<char>* marks) const noexcept {
  if (Status s = check_id(op, argument, index, field, id)) return s;
  char& mark = marks->data()[index_of(id)];
  if (mark) return detail::refuse(StatusCode::invalid_argument, op, argument, index, field, id, "!=", id);
  mark = 1;
  return {};
}

inline Status LiveForest::check_pages(const char* op, const char* argument, std::int32_t pool,
                                      Span<const std::int32_t> pages) const noexcept {
  constexpr StatusCode kInvalid = StatusCode::invalid_argument;
  if (Status s = detail::check_span(op, argument, pages)) return s;
  const std::int32_t num_pages = pools_.data()[pool].num_pages;
  for (std::int64_t i = 0; i < pages.size(); ++i) {
    if (pages[i] < 0) return detail::refuse(kInvalid, op, argument, i, "", pages[i], ">=", 0);
    if (pages[i] >= num_pages) return detail::refuse(kInvalid, op, argument, i, "", pages[i], "<", num_pages);
  }
  return {};
}

/// Pages that hold kv_len tokens.
inline std::int32_t LiveForest::pages_of(std::int32_t kv_len) const noexcept {
  const auto page_size = static_cast<std::uint32_t>(pools_.data()->page_size);
  return static_cast<std::int32_t>((static_cast<std::uint32_t>(kv_len) + page_size - 1) / page_size);
}

/// An entry that does not run: the first of the list, so that `start` takes it.
inline Status LiveForest::make_entry(const char* op, std::int32_t* index) {
  if (running_ >= detail::kMaxStrings) {
    return detail::refuse(StatusCode::capacity_exceeded, op, "sequences", -1, "", running_, "<", detail::kMaxStrings);
  }
  if (unused_ < 0) {
    sequences_.emplace_back();
    unused_ = static_cast<std::int32_t>(sequences_.size()) - 1;
  }
  *index = unused_;
  return {};
}

inline SequenceId LiveForest::start(std::int32_t index, Running&& sequence) noexcept {
  Running& entry = sequences_.data()[index];
  unused_ = entry.next_unused;
  sequence.generation = entry.generation;
  entry = std::move(sequence);
  ++running_;
  return id_of(index);
}

/// An entry whose generations are used up is never used again.
inline void LiveForest::retire(std::int32_t index) noexcept {
  Running ended;
  ended.generation = sequences_.data()[index].generation;
  --running_;
  if (ended.generation < std::numeric_limits<std::int32_t>::max()) {
    ++ended.generation;
    ended.next_unused = unused_;
    unused_ = index;
  }
  sequences_.data()[index] = std::move(ended);
}

// ---- Changes of sequences: all that may throw comes before the first change ----

inline Status LiveForest::begin_epoch(Span<const PoolShape> pools) noexcept {
  constexpr const char* kOp = "LiveForest::begin_epoch";
  constexpr StatusCode kInvalid = StatusCode::invalid_argument;
  if (Status s = detail::check_span(kOp, "pools", pools)) return s;
  if (pools.empty()) return detail::refuse(kInvalid, kOp, "pools", -1, "size", 0, ">=", 1);
  for (std::int64_t i = 0; i < pools.size(); ++i) {
    const std::int32_t page_size = pools[i].page_size, num_pages = pools[i].num_pages;
    if (page_size < 1) return detail::refuse(kInvalid, kOp, "pools", i, "page_size", page_size, ">=", 1);
    if (page_size != pools[0].page_size) {
      return detail::refuse(kInvalid, kOp, "pools", i, "page_size", page_size, "==", pools[0].page_size);
    }
    if (num_pages < 0) return detail::refuse(kInvalid, kOp, "pools", i, "num_pages", num_pages, ">=", 0);
  }
  try {
    std::vector<PoolShape> shapes(pools.begin(), pools.end());
    detail::PageTree tree(static_cast<std::int32_t>(pools.size()));
    std::vector<detail::LiveLayout::Member> nobody;
    Forest forest;
    if (Status s = detail::LiveLayout(tree, pools, &nobody).run(kOp, &forest)) return s;
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      if (sequences_[i].node >= 0) retire(static_cast<std::int32_t>(i));
    }
    pools_.swap(shapes);
    tree_ = std::move(tree);
    forest_ = std::move(forest);
    scheduled_.clear();
    actual_lengths_.clear();
    ++version_;
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "pools");
  }
}

inline Status LiveForest::add(Span<const std::int32_t> pages, std::int32_t kv_len, SequenceId* id,
                              std::int32_t pool) noexcept {
  constexpr const char* kOp = "LiveForest::add";
  constexpr StatusCode kInvalid = StatusCode::invalid_argument;
  const auto pools = static_cast<std::int64_t>(pools_.size());
  if (Status s = detail::check_pointer(kOp, "id", id)) return s;
  if (pool < 0) return detail::refuse(kInvalid, kOp, "pool", -1, "", pool, ">=", 0);
  if (pool >= pools) return detail::refuse(kInvalid, kOp, "pool", -1, "", pool, "<", pools);
  if (Status s = check_pages(kOp, "pages", pool, pages)) return s;
  if (kv_len < 0) return detail::refuse(kInvalid, kOp, "kv_len", -1, "", kv_len, ">=", 0);
  const std::int32_t used = pages_of(kv_len);
  if (pages.size() < used) return detail::refuse(kInvalid, kOp, "pages", -1, "size", pages.size(), ">=", used);
  try {
    std::int32_t index = -1;
    if (Status s = make_entry(kOp, &index)) return s;
    Running made;
    made.kv_len = kv_len;
    made.reserve.assign(pages.begin() + used, pages.end());
    std::reverse(made.reserve.begin(), made.reserve.end());
    tree_.names().cover(pool, pages);
    made.node = tree_.add_end(pool, 0, pages.subspan(0, used));
    tree_.names().add(pool, made.reserve, 1);
    *id = start(index, std::move(made));
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "pages");
  }
}

inline Status LiveForest::extend(SequenceId id, std::int32_t tokens, Span<const std::int32_t> new_pages) noexcept {
  constexpr const char* kOp = "LiveForest::extend";
  constexpr StatusCode kInvalid = StatusCode::invalid_argument;
  if (Status s = check_id(kOp, "id", -1, "", id)) return s;
  if (tokens < 0) return detail::refuse(kInvalid, kOp, "tokens", -1, "", tokens, ">=", 0);
  Running& r = sequences_.data()[index_of(id)];
  if (Status s = check_pages(kOp, "new_pages", tree_.node(r.node).pool, new_pages)) return s;
  if (tokens > detail::kInt32Max - r.kv_len) {
    return detail::refuse(StatusCode::capacity_exceeded, kOp, "tokens", -1, "", tokens,
                          "<=", detail::kInt32Max - r.kv_len);
  }
  const std::int32_t more = pages_of(r.kv_len + tokens) - pages_of(r.kv_len);
  const std::int64_t missing = more - static_cast<std::int64_t>(r.reserve.size());
  if (new_pages.size() < missing) {
    return detail::refuse(kInvalid, kOp, "new_pages", -1, "size", new_pages.size(), ">=", missing);
  }
  try {
    if (more > 0 || !new_pages.empty()) grow(&r, more, new_pages);
    r.kv_len += tokens;
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "new_pages");
  }
}

/// The path goes on for `pages` pages, from the reserve and then from `new_pages`, whose rest becomes reserve.
inline void LiveForest::grow(Running* sequence, std::int32_t pages, Span<const std::int32_t> new_pages) {
  std::vector<std::int32_t>& reserve = sequence->reserve;
  const std::int32_t pool = tree_.node(sequence->node).pool;
  const auto taken = std::min<std::int64_t>(pages, static_cast<std::int64_t>(reserve.size()));
  std::vector<std::int32_t> path(reserve.rbegin(), reserve.rbegin() + taken);
  path.insert(path.end(), new_pages.begin(), new_pages.begin() + (pages - taken));
  std::vector<std::int32_t> rest(new_pages.begin() + (pages - taken), new_pages.end());
  std::reverse(rest.begin(), rest.end());
  detail::make_room(&reserve, rest.size());
  tree_.names().cover(pool, new_pages);
  sequence->node = tree_.move_end(sequence->node, tree_.end(sequence->node), path);
  tree_.names().add(pool, {path.data(), taken}, -1);
  tree_.names().add(pool, rest, 1);
  reserve.resize(reserve.size() - static_cast<std::size_t>(taken));
  reserve.insert(reserve.begin(), rest.begin(), rest.end());
}

inline Status LiveForest::truncate(SequenceId id, std::int32_t kv_len) noexcept {
  constexpr const char* kOp = "LiveForest::truncate";
  constexpr StatusCode kInvalid = StatusCode::invalid_argument;
  if (Status s = check_id(kOp, "id", -1, "", id)) return s;
  Running& r = sequences_.data()[index_of(id)];
  if (kv_len < 0) return detail::refuse(kInvalid, kOp, "kv_len", -1, "", kv_len, ">=", 0);
  if (kv_len > r.kv_len) return detail::refuse(kInvalid, kOp, "kv_len", -1, "", kv_len, "<=", r.kv_len);
  try {
    const std::int32_t pool = tree_.node(r.node).pool, kept = pages_of(kv_len);
    std::vector<std::int32_t> tail;
    tree_.append_path(r.node, kept, &tail);
    detail::make_room(&r.reserve, tail.size());
    if (!tail.empty()) r.node = tree_.move_end(r.node, kept, {});
    tree_.names().add(pool, tail, 1);
    r.reserve.insert(r.reserve.end(), tail.rbegin(), tail.rend());
    r.kv_len = kv_len;
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "id");
  }
}

inline Status LiveForest::fork(SequenceId id, SequenceId* child) noexcept {
  constexpr const char* kOp = "LiveForest::fork";
  if (Status s = detail::check_pointer(kOp, "child", child)) return s;
  if (Status s = check_id(kOp, "id", -1, "", id)) return s;
  try {
    std::int32_t index = -1;
    if (Status s = make_entry(kOp, &index)) return s;
    Running made;
    made.node = sequences_.data()[index_of(id)].node;
    made.kv_len = sequences_.data()[index_of(id)].kv_len;
    tree_.add_end(made.node);
    *child = start(index, std::move(made));
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "child");
  }
}

inline Status LiveForest::replace_pages(SequenceId id, std::int32_t first_page, Span<const std::int32_t> pages,
                                        std::vector<PageId>* freed) noexcept {
  constexpr const char* kOp = "LiveForest::replace_pages";
  constexpr StatusCode kInvalid = StatusCode::invalid_argument;
  if (Status s = check_id(kOp, "id", -1, "", id)) return s;
  Running& r = sequences_.data()[index_of(id)];
  if (Status s = check_pages(kOp, "pages", tree_.node(r.node).pool, pages)) return s;
  const std::int32_t used = pages_of(r.kv_len);
  const std::int64_t all = used + static_cast<std::int64_t>(r.reserve.size());
  if (first_page < 0) return detail::refuse(kInvalid, kOp, "first_page", -1, "", first_page, ">=", 0);
  if (first_page > all) return detail::refuse(kInvalid, kOp, "first_page", -1, "", first_page, "<=", all);
  if (pages.size() < used - first_page) {
    return detail::refuse(kInvalid, kOp, "pages", -1, "size", pages.size(), ">=", used - first_page);
  }
  try {
    replace(&r, first_page, pages, freed);
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "pages");
  }
}

inline void LiveForest::replace(Running* sequence, std::int32_t first_page, Span<const std::int32_t> pages,
                                std::vector<PageId>* freed) {
  const std::int32_t pool = tree_.node(sequence->node).pool, used = pages_of(sequence->kv_len);
  const std::int32_t kept = std::min(first_page, used);
  std::vector<std::int32_t> lost;  // pages that it may have named alone
  tree_.append_path(sequence->node, kept, &lost);
  const Span<const std::int32_t> path = pages.subspan(0, used - kept);
  const auto same =
      static_cast<std::int32_t>(std::mismatch(path.begin(), path.end(), lost.begin()).first - path.begin());

  std::vector<std::int32_t>& old = sequence->reserve;
  const auto stays = old.end() - (first_page - kept);
  std::vector<std::int32_t> reserve(pages.begin() + path.size(), pages.end());
  std::reverse(reserve.begin(), reserve.end());
  reserve.insert(reserve.end(), stays, old.end());
  lost.insert(lost.end(), old.begin(), stays);

  if (freed) detail::make_room(freed, lost.size());
  tree_.names().cover(pool, pages);
  sequence->node = tree_.move_end(sequence->node, kept + same, path.subspan(same, path.size() - same));
  tree_.names().add(pool, reserve, 1);
  tree_.names().add(pool, old, -1);
  old.swap(reserve);
  ++sequence->replacements;
  if (freed) detail::add_unnamed(tree_.names(), pool, &lost, freed);
}

inline Status LiveForest::finish(SequenceId id, std::vector<PageId>* freed) noexcept {
  constexpr const char* kOp = "LiveForest::finish";
  if (Status s = check_id(kOp, "id", -1, "", id)) return s;
  try {
    const Running& r = sequences_.data()[index_of(id)];
    const std::int32_t pool = tree_.node(r.node).pool;
    std::vector<std::int32_t> lost = r.reserve;  // pages that it may have named alone
    tree_.append_path(r.node, tree_.shared_pages(r.node), &lost);
    if (freed) detail::make_room(freed, lost.size());
    tree_.names().add(pool, r.reserve, -1);
    tree_.remove_end(r.node);
    retire(index_of(id));
    if (freed) detail::add_unnamed(tree_.names(), pool, &lost, freed);
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "freed");
  }
}

// ---- The forest of a batch ----

inline bool LiveForest::keeps_forest(Span<const ScheduledSequence> batch) const noexcept {
  if (batch.size() != static_cast<std::int64_t>(scheduled_.size())) return false;
  for (std::int64_t i = 0; i < batch.size(); ++i) {
    const Scheduled& was = scheduled_.data()[i];
    const std::int32_t index = index_of(batch[i].id);
    if (index < 0 || batch[i].id != was.sequence.id || batch[i].q_len != was.sequence.q_len) return false;
    const Running& r = sequences_.data()[index];
    if (r.replacements != was.replacements || r.kv_len <= was.begin || r.kv_len > was.end) return false;
  }
  return true;
}

inline Status LiveForest::check_batch(Span<const ScheduledSequence> batch) const {
  constexpr const char* kOp = "LiveForest::schedule";
  constexpr StatusCode kInvalid = StatusCode::invalid_argument;
  std::vector<char> has_come(sequences_.size(), 0);
  std::int64_t rows = 0;
  for (std::int64_t i = 0; i < batch.size(); ++i) {
    if (Status s = mark(kOp, "batch", i, "id", batch[i].id, &has_come)) return s;
    if (batch[i].q_len < 0) return detail::refuse(kInvalid, kOp, "batch", i, "q_len", batch[i].q_len, ">=", 0);
    rows += batch[i].q_len;
  }
  if (rows <= detail::kInt32Max) return {};
  return detail::refuse(StatusCode::capacity_exceeded, kOp, "batch", -1, "rows", rows, "<=", detail::kInt32Max);
}

inline Status LiveForest::schedule(Span<const ScheduledSequence> batch) noexcept {
  constexpr const char* kOp = "LiveForest::schedule";
  if (Status s = detail::check_span(kOp, "batch", batch)) return s;
  try {
    if (!keeps_forest(batch)) {
      if (Status s = check_batch(batch)) return s;
      if (Status s = make_forest_of(batch)) return s;
    }
    for (const Scheduled& s : scheduled_) {
      if (s.slot < 0) continue;
      actual_lengths_.data()[s.slot] = sequences_.data()[index_of(s.sequence.id)].kv_len - s.begin;
    }
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "batch");
  }
}

/// forest_, scheduled_ and the size of actual_lengths_.
inline Status LiveForest::make_forest_of(Span<const ScheduledSequence> batch) {
  std::vector<detail::LiveLayout::Member> members;
  for (const ScheduledSequence& s : batch) {
    const Running& r = sequences_.data()[index_of(s.id)];
    members.push_back({r.node, r.kv_len, s.q_len, r.reserve});
  }
  Forest forest;
  if (Status s = detail::LiveLayout(tree_, pools_, &members).run_with_slots("LiveForest::schedule", &forest)) return s;
  std::vector<Scheduled> scheduled;
  std::size_t slots = 0;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const detail::LiveLayout::Member& m = members[i];
    const ScheduledSequence& s = batch[static_cast<std::int64_t>(i)];
    const bool grows = m.slot >= 0;
    scheduled.push_back({s, m.slot, grows ? m.begin : m.kv_len - 1, grows ? m.end : m.kv_len,
                         sequences_.data()[index_of(s.id)].replacements});
    slots += grows;
  }
  actual_lengths_.reserve(slots);
  actual_lengths_.resize(slots);
  scheduled_.swap(scheduled);
  forest_ = std::move(forest);
  ++version_;
  return {};
}

// ---- Accounting ----

inline Status LiveForest::stats(ForestStats* stats) const noexcept {
  constexpr const char* kOp = "LiveForest::stats";
  if (Status s = detail::check_pointer(kOp, "stats", stats)) return s;
  try {
    detail::PageReads reads(tree_, pools_);
    std::vector<detail::LiveLayout::Member> members;
    for (const Running& r : sequences_) {
      if (r.node < 0) continue;
      members.push_back({r.node, r.kv_len, 0, {}});
      reads.add(r.node, r.kv_len);
    }
    Forest forest;
    if (Status s = detail::LiveLayout(tree_, pools_, &members).run(kOp, &forest)) return s;
    *stats = detail::measure(forest, reads.slots());
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "stats");
  }
}

inline Status LiveForest::would_free(Span<const SequenceId> ids, FreedStorage* freed) const noexcept {
  constexpr const char* kOp = "LiveForest::would_free";
  if (Status s = detail::check_pointer(kOp, "freed", freed)) return s;
  if (Status s = detail::check_span(kOp, "ids", ids)) return s;
  try {
    std::vector<char> goes(sequences_.size(), 0);
    for (std::int64_t i = 0; i < ids.size(); ++i) {
      if (Status s = mark(kOp, "ids", i, "", ids[i], &goes)) return s;
    }
    detail::PageReads now(tree_, pools_), then(tree_, pools_);
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      const Running& r = sequences_[i];
      if (r.node < 0) continue;
      now.add(r.node, r.kv_len);
      if (!goes[i]) then.add(r.node, r.kv_len);
    }
    FreedStorage result;
    result.tokens = now.slots() - then.slots();
    result.pages = named_by(goes, then);
    *freed = std::move(result);
    return {};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(kOp, "freed");
  }
}

/// Pages that sequences which go are the only ones to name, given what the others read.
inline std::vector<PageId> LiveForest::named_by(const std::vector<char>& goes, const detail::PageReads& others) const {
  std::vector<char> counted(tree_.nodes(), 0);
  std::vector<std::pair<std::int32_t, std::int32_t>> lost;  // (pool, page), once per name that goes
  for (std::size_t i = 0; i < goes.size(); ++i) {
    if (!goes[i]) continue;
    const std::int32_t pool = tree_.node(sequences_[i].node).pool;
    for (std::int32_t page : sequences_[i].reserve) lost.push_back({pool, page});
    for (std::int32_t n = sequences_[i].node; !tree_.is_root(n) && !others.reads(n); n = tree_.node(n).parent) {
      if (counted.data()[n]) break;  // and so are those above
      counted.data()[n] = 1;
      for (std::int32_t page : tree_.node(n).pages) lost.push_back({pool, page});
    }
  }
  std::sort(lost.begin(), lost.end());
  std::vector<PageId> pages;
  for (auto first = lost.begin(), last = first; first != lost.end(); first = last) {
    last = std::find_if(first, lost.end(), [first](const auto& name) { return name != *first; });
    if (last - first == tree_.names().count(first->first, first->second))
      pages.push_back({first->first, first->second});
  }
  return pages;
}

}  // namespace v0_1
}  // namespace prefixshare
