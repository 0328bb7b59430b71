// SPDX-License-Identifier: Apache-2.0
// A brute-force model of LiveForest: plain page lists per sequence, and what a forest must be for them; and both side
// by side. Checks return what is wrong; empty: nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/live_forest.hpp"
#include "support/catch.hpp"

namespace prefixshare::tests {

class EngineModel {
 public:
  struct Running {
    SequenceId id = -1;
    std::int32_t pool = 0;
    std::vector<std::int32_t> pages;
    std::int32_t kv_len = 0;
    std::int32_t replacements = 0;  ///< calls of replace_pages
  };

  EngineModel() = default;
  EngineModel(std::int32_t page_size, std::vector<std::int32_t> num_pages) : page_size_(page_size) {
    for (std::int32_t count : num_pages) pools.push_back({page_size, count}), pages_ = std::max(pages_, count);
  }

  std::vector<PoolShape> pools;
  std::vector<Running> running;

  std::int32_t page_size() const { return page_size_; }
  Running& of(SequenceId id) {
    const auto found = std::find_if(running.begin(), running.end(), [id](const Running& r) { return r.id == id; });
    REQUIRE(found != running.end());
    return *found;
  }
  const Running& of(SequenceId id) const { return const_cast<EngineModel*>(this)->of(id); }

  std::int32_t used(const Running& r) const { return (r.kv_len + page_size_ - 1) / page_size_; }
  /// All pools in one: pool p's page i is page p * pages_per_pool() + i.
  std::int32_t pages_per_pool() const { return pages_; }
  std::int32_t page(const Running& r, std::int32_t i) const { return r.pool * pages_ + r.pages[at(i)]; }
  std::int32_t slot(const Running& r, std::int32_t token) const {
    return page(r, token / page_size_) * page_size_ + token % page_size_;
  }
  PoolShape one_pool() const { return {page_size_, static_cast<std::int32_t>(pools.size()) * pages_}; }

  /// Per page of the one pool: whether a sequence names it, those in `without` apart.
  std::vector<char> named(const std::vector<SequenceId>& without = {}) const {
    std::vector<char> is_named(at(one_pool().num_pages), 0);
    for (const Running& r : running) {
      if (std::count(without.begin(), without.end(), r.id) > 0) continue;
      for (std::int32_t i = 0; i < static_cast<std::int32_t>(r.pages.size()); ++i) is_named[at(page(r, i))] = 1;
    }
    return is_named;
  }
  /// Per slot of the one pool: whether a sequence reads it.
  std::vector<char> read(const std::vector<SequenceId>& without = {}) const {
    std::vector<char> is_read(at(one_pool().num_pages) * at(page_size_), 0);
    for (const Running& r : running) {
      if (std::count(without.begin(), without.end(), r.id) > 0) continue;
      for (std::int32_t t = 0; t < r.kv_len; ++t) is_read[at(slot(r, t))] = 1;
    }
    return is_read;
  }
  /// Pages that were named and are not any more, ascending.
  std::vector<std::pair<std::int32_t, std::int32_t>> lost(const std::vector<char>& before,
                                                          const std::vector<char>& after) const {
    std::vector<std::pair<std::int32_t, std::int32_t>> pages;
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(before.size()); ++i) {
      if (before[at(i)] && !after[at(i)]) pages.emplace_back(i / pages_, i % pages_);
    }
    return pages;
  }

  /// What forest_from_block_tables makes of these sequences in the one pool.
  Forest forest_of(const std::vector<ScheduledSequence>& batch) const {
    std::vector<std::int32_t> ids, kv_len, q_len;
    std::int32_t stride = 0;
    for (const ScheduledSequence& s : batch) stride = std::max(stride, used(of(s.id)));
    for (const ScheduledSequence& s : batch) {
      const Running& r = of(s.id);
      for (std::int32_t i = 0; i < stride; ++i) ids.push_back(i < used(r) ? page(r, i) : -1);
      kv_len.push_back(r.kv_len);
      q_len.push_back(s.q_len);
    }
    Forest forest;
    REQUIRE(forest_from_block_tables({ids, stride, kv_len, q_len, one_pool()}, &forest).ok());
    return forest;
  }

  /// Whether live.forest() is `want` = forest_of(batch) with length slots where they belong.
  std::string check_forest(const LiveForest& live, const Forest& want,
                           const std::vector<ScheduledSequence>& batch) const {
    const Forest& f = live.forest();
    if (f.nodes.size() != want.nodes.size()) return "nodes";
    if (f.path_begin != want.path_begin || f.subtree_end != want.subtree_end) return "shape";
    if (f.row_begin != want.row_begin || f.own_row_end != want.own_row_end || f.row_end != want.row_end) return "rows";
    if (f.row_map != want.row_map || f.row_sequence != want.row_sequence) return "row lists";
    if (f.sequences.size() != want.sequences.size() || f.sequences.size() != batch.size()) return "sequences";
    for (std::size_t n = 0; n < f.nodes.size(); ++n) {
      if (f.nodes[n].parent != want.nodes[n].parent) return "parent of node " + std::to_string(n);
      if (actual(live, n) != want.nodes[n].length) return "length of node " + std::to_string(n);
    }
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const Sequence &got = f.sequences[i], &expected = want.sequences[i];
      if (got.node != expected.node || got.q_len != expected.q_len) return "sequence " + std::to_string(i);
      const std::int32_t beyond = got.node < 0 ? 0 : f.nodes[at(got.node)].length - actual(live, at(got.node));
      if (got.first_order - beyond != expected.first_order) return "order of sequence " + std::to_string(i);
      if (!has_slots(f, got.node, of(batch[i].id))) return "slots of sequence " + std::to_string(i);
    }
    return check_length_slots(live, want);
  }

  /// Accounting against sets of slots and the forest of all.
  std::string check_stats(const LiveForest& live) const {
    std::vector<ScheduledSequence> all;
    for (const Running& r : running) all.push_back({r.id, 0});
    ForestStats want, got;
    REQUIRE(forest_stats(forest_of(all), &want).ok());
    REQUIRE(live.stats(&got).ok());
    const std::vector<char> slots = read();
    if (got.unique_tokens != std::count(slots.begin(), slots.end(), 1)) return "unique_tokens";
    if (got.sequences != want.sequences || got.nodes != want.nodes || got.roots != want.roots) return "counts";
    if (got.depth != want.depth || got.max_path != want.max_path || got.rows != 0) return "depth, max_path, rows";
    return got.logical_tokens == want.logical_tokens ? "" : "logical_tokens";
  }

  std::string check_would_free(const LiveForest& live, const std::vector<SequenceId>& ids) const {
    FreedStorage freed;
    REQUIRE(live.would_free(ids, &freed).ok());
    const std::vector<char> now = read(), then = read(ids);
    if (freed.tokens != std::count(now.begin(), now.end(), 1) - std::count(then.begin(), then.end(), 1))
      return "tokens";
    return pairs(freed.pages) == lost(named(), named(ids)) ? "" : "pages";
  }

  static std::vector<std::pair<std::int32_t, std::int32_t>> pairs(const std::vector<PageId>& pages) {
    std::vector<std::pair<std::int32_t, std::int32_t>> result;
    for (const PageId& p : pages) result.emplace_back(p.pool, p.page);
    return result;
  }
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  /// Tokens of a node at the call.
  static std::int32_t actual(const LiveForest& live, std::size_t n) {
    const Node& node = live.forest().nodes[n];
    return node.length_slot < 0 ? node.length : live.actual_lengths()[node.length_slot];
  }

 private:
  /// Whether the path to a node is this sequence's slots, as far as it has pages.
  bool has_slots(const Forest& f, std::int32_t n, const Running& r) const {
    for (; n >= 0; n = f.nodes[at(n)].parent) {
      const Node& node = f.nodes[at(n)];
      const Segment& segment = f.segments[at(node.segment)];
      if (segment.pool != r.pool || f.path_end(n) > static_cast<std::int32_t>(r.pages.size()) * page_size_)
        return false;
      for (std::int32_t t = 0; t < node.length; ++t) {
        const std::int32_t in = segment.offset + node.begin + t;
        const std::int32_t page = r.pool * pages_ + f.pages[at(segment.first_page + in / page_size_)];
        if (page * page_size_ + in % page_size_ != slot(r, f.path_begin[at(n)] + t)) return false;
      }
    }
    return true;
  }

  /// On leaves where one sequence ends, numbered in the order of the sequences.
  static std::string check_length_slots(const LiveForest& live, const Forest& want) {
    const Forest& f = live.forest();
    std::int32_t slots = 0;
    std::vector<std::int32_t> ends(want.nodes.size(), 0);
    for (const Sequence& s : want.sequences) {
      if (s.node >= 0) ++ends[at(s.node)];
    }
    for (const Sequence& s : want.sequences) {
      if (s.node < 0) continue;
      const bool is_own = ends[at(s.node)] == 1 && want.subtree_end[at(s.node)] == s.node + 1;
      if (f.nodes[at(s.node)].length_slot != (is_own ? slots++ : -1)) return "length slot of " + std::to_string(s.node);
    }
    for (std::size_t n = 0; n < want.nodes.size(); ++n) {
      if (ends[n] == 0 && f.nodes[n].length_slot >= 0) return "length slot of inner node " + std::to_string(n);
    }
    return live.actual_lengths().size() == slots ? "" : "actual_lengths";
  }

  std::int32_t page_size_ = 1;
  std::int32_t pages_ = 0;
};

/// LiveForest beside the model: every change is made to both.
class ModelledForest {
 public:
  LiveForest live;
  EngineModel model;

  void begin_epoch(std::int32_t page_size, const std::vector<std::int32_t>& num_pages) {
    model = EngineModel(page_size, num_pages);
    require_ok(live.begin_epoch(model.pools));
  }
  SequenceId add(const std::vector<std::int32_t>& pages, std::int32_t kv_len, std::int32_t pool = 0) {
    EngineModel::Running r;
    r.pool = pool;
    r.pages = pages;
    r.kv_len = kv_len;
    require_ok(live.add(pages, kv_len, &r.id, pool));
    model.running.push_back(r);
    return r.id;
  }
  void extend(SequenceId id, std::int32_t tokens, const std::vector<std::int32_t>& pages = {}) {
    EngineModel::Running& r = model.of(id);
    require_ok(live.extend(id, tokens, pages));
    r.pages.insert(r.pages.end(), pages.begin(), pages.end());
    r.kv_len += tokens;
  }
  void truncate(SequenceId id, std::int32_t kv_len) {
    require_ok(live.truncate(id, kv_len));
    model.of(id).kv_len = kv_len;
  }
  SequenceId fork(SequenceId id) {
    EngineModel::Running child = model.of(id);
    child.pages.resize(EngineModel::at(model.used(child)));
    require_ok(live.fork(id, &child.id));
    model.running.push_back(child);
    return child.id;
  }
  std::vector<PageId> replace_pages(SequenceId id, std::int32_t first, const std::vector<std::int32_t>& pages) {
    EngineModel::Running& r = model.of(id);
    const std::vector<char> before = model.named();
    r.pages.resize(EngineModel::at(first));
    r.pages.insert(r.pages.end(), pages.begin(), pages.end());
    ++r.replacements;
    std::vector<PageId> freed;
    require_ok(live.replace_pages(id, first, pages, &freed));
    REQUIRE(EngineModel::pairs(freed) == model.lost(before, model.named()));
    return freed;
  }
  std::vector<PageId> finish(SequenceId id) {
    const std::vector<char> before = model.named();
    model.running.erase(model.running.begin() + (&model.of(id) - model.running.data()));
    std::vector<PageId> freed;
    require_ok(live.finish(id, &freed));
    REQUIRE(EngineModel::pairs(freed) == model.lost(before, model.named()));
    return freed;
  }

  /// Schedules, and checks forest and accounting.
  void check(const std::vector<ScheduledSequence>& batch) {
    require_ok(live.schedule(batch));
    REQUIRE(model.check_forest(live, model.forest_of(batch), batch) == "");
    REQUIRE(model.check_stats(live) == "");
    std::vector<SequenceId> ids;
    for (const EngineModel::Running& r : model.running) {
      REQUIRE(model.check_would_free(live, {r.id}) == "");
      ids.push_back(r.id);
      REQUIRE(model.check_would_free(live, ids) == "");
    }
  }

 private:
  static void require_ok(const Status& status) {
    INFO(to_string(status));
    REQUIRE(status.ok());
  }
};

}  // namespace prefixshare::tests
