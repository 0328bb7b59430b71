// SPDX-License-Identifier: Apache-2.0
// plan_checker: proves a plan by brute force against the forest or the rectangles that it was made from.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "prefixshare/plan.hpp"
#include "prefixshare/testing/oracle.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {
namespace detail {

/// One check per stage; each returns false and says why. Later stages rely on the index ranges that `ranges` checks.
class PlanChecker {
 public:
  PlanChecker(const Plan& plan, Span<const std::int32_t> actual_lengths, std::string* why)
      : plan_(plan), actual_(actual_lengths), why_(why) {}

  template <class Topology>
  bool run(const Topology& topology) {
    return header(topology) && ranges() && coverage(topology) && items() && groups() && costs() &&
           part_order(std::is_same_v<Topology, Forest>) && backward(topology) && invariant();
  }

 private:
  using Key = std::array<std::int64_t, 6>;  ///< pool, page, slot, delta, query position, mask position

  bool fail(const std::string& text) const {
    if (why_ != nullptr) *why_ = text;
    return false;
  }
  bool fail(const char* what, std::int64_t index, const std::string& text) const {
    return fail(std::string(what) + "[" + std::to_string(index) + "]: " + text);
  }
  template <class T>
  static std::int64_t size(const std::vector<T>& x) {
    return static_cast<std::int64_t>(x.size());
  }
  template <class T>
  static const T& at(const std::vector<T>& x, std::int64_t i) {
    return x[static_cast<std::size_t>(i)];
  }
  template <class T>
  static T& at(std::vector<T>& x, std::int64_t i) {
    return x[static_cast<std::size_t>(i)];
  }
  template <class T>
  static bool inside(std::int64_t first, std::int64_t count, const std::vector<T>& x) {
    return first >= 0 && count >= 0 && first + count <= size(x);
  }
  std::int32_t heads() const { return plan_.header.kind.Hkv; }

  template <class Topology>
  bool header(const Topology& topology) const {
    const PlanHeader& h = plan_.header;
    if (h.version != kPlanVersion) return fail("header.version");
    if (h.rows != rows_of(topology)) return fail("header.rows is " + std::to_string(h.rows));
    if (h.length_slots != size(plan_.slot_capacity)) return fail("header.length_slots");
    std::int32_t most = 0;
    for (const RowTile& t : plan_.tiles) most = std::max(most, t.count);
    if (h.tile_rows != most) return fail("header.tile_rows");
    if (most > std::max(1, kTileRows / h.kind.group())) return fail("a tile has more than kTileRows packed rows");
    const std::int64_t budget = std::int64_t{kPartialRowsPerRow} * h.rows + kPartialRowsExtra;
    if (h.mode == Mode::fast && h.partial_rows > budget) return fail("header.partial_rows is above its bound");
    if constexpr (std::is_same_v<Topology, Forest>) {
      if (h.fingerprint != topology.fingerprint) return fail("header.fingerprint");
    }
    return true;
  }

  // ---- Every index of every list is in range ----

  bool ranges() const { return tile_ranges() && run_ranges() && item_ranges() && group_ranges() && block_ranges(); }

  bool tile_ranges() const {
    for (std::int64_t i = 0; i < size(plan_.instances); ++i) {
      const RowInstance& r = at(plan_.instances, i);
      if (r.row < 0 || r.row >= plan_.header.rows || !inside(r.delta, 1, plan_.deltas) ||
          (r.length_slot >= 0 && !inside(r.length_slot, 1, plan_.slot_capacity))) {
        return fail("instances", i, "an index is out of range");
      }
    }
    std::int32_t next_run = 0;
    for (std::int64_t i = 0; i < size(plan_.tiles); ++i) {
      const RowTile& t = at(plan_.tiles, i);
      if (t.count < 1 || !inside(t.first, t.count, plan_.instances) || t.first_run != next_run ||
          !inside(t.first_run, t.run_count, plan_.runs) || !inside(t.first_group, t.group_count, plan_.tile_groups)) {
        return fail("tiles", i, "a range is wrong");
      }
      next_run += t.run_count;
    }
    return next_run == size(plan_.runs) || fail("runs that belong to no tile");
  }

  bool run_ranges() const {
    for (std::int64_t i = 0; i < size(plan_.runs); ++i) {
      const KeyRun& r = at(plan_.runs, i);
      if (!inside(r.tile, 1, plan_.tiles) || !inside(r.segment, 1, plan_.segments)) {
        return fail("runs", i, "tile or segment is out of range");
      }
      const RowTile& t = at(plan_.tiles, r.tile);
      if (i < t.first_run || i >= t.first_run + t.run_count) return fail("runs", i, "is not in its tile's range");
      const Segment& s = at(plan_.segments, r.segment);
      if (r.length < 1 || r.token < 0 || r.token + r.length > s.length) return fail("runs", i, "keys out of range");
      if (!inside(r.first_instance, t.count, plan_.instances)) return fail("runs", i, "instances out of range");
      for (std::int32_t k = 0; k < t.count; ++k) {
        if (at(plan_.instances, r.first_instance + k).row != at(plan_.instances, t.first + k).row) {
          return fail("runs", i, "instances are not those of the tile's rows");
        }
      }
      const std::int64_t words = std::int64_t{t.count} * ((r.length + 63) / 64);
      if (r.mask == MaskKind::bits && !inside(r.first_word, words, plan_.words))
        return fail("runs", i, "no such words");
      if (r.length_slot >= 0 && !inside(r.length_slot, 1, plan_.slot_capacity)) return fail("runs", i, "length_slot");
    }
    return true;
  }

  bool item_ranges() const {
    for (std::int64_t i = 0; i < size(plan_.items); ++i) {
      const Item& m = at(plan_.items, i);
      if (!inside(m.tile, 1, plan_.tiles)) return fail("items", i, "tile is out of range");
      const RowTile& t = at(plan_.tiles, m.tile);
      if (m.run_count < 0 || m.first_run < t.first_run || m.first_run + m.run_count > t.first_run + t.run_count) {
        return fail("items", i, "runs are not in the tile");
      }
      if (m.head_begin < 0 || m.head_begin >= m.head_end || m.head_end > heads()) return fail("items", i, "heads");
      if (m.slot < -1 || (m.slot >= 0 && m.slot + states(m) * t.count > plan_.header.partial_rows)) {
        return fail("items", i, "slot is out of range");
      }
    }
    return true;
  }

  bool group_ranges() const {
    for (std::int64_t i = 0; i < size(plan_.groups); ++i) {
      const ReduceGroup& g = at(plan_.groups, i);
      if (g.row_count < 1 || !inside(g.first_row, g.row_count, plan_.group_rows) ||
          !inside(g.first_part, g.part_count, plan_.parts) || g.tile_count < 1 ||
          !inside(g.first_tile, g.tile_count, plan_.group_tiles)) {
        return fail("groups", i, "a range is wrong");
      }
    }
    for (std::int64_t i = 0; i < size(plan_.group_tiles); ++i) {
      if (!inside(at(plan_.group_tiles, i).tile, 1, plan_.tiles)) return fail("group_tiles", i, "tile is out of range");
    }
    for (std::int64_t i = 0; i < size(plan_.tile_groups); ++i) {
      if (!inside(at(plan_.tile_groups, i), 1, plan_.groups)) return fail("tile_groups", i, "group is out of range");
    }
    return true;
  }

  bool block_ranges() const {
    for (std::int64_t i = 0; i < size(plan_.blocks); ++i) {
      const KeyBlock& b = at(plan_.blocks, i);
      if (!inside(b.segment, 1, plan_.segments)) return fail("blocks", i, "segment is out of range");
      if (b.length < 1 || b.length > kKeyBlock || b.token < 0 ||
          b.token + b.length > at(plan_.segments, b.segment).length) {
        return fail("blocks", i, "keys out of range");
      }
      if (!inside(b.first_run, b.run_count, plan_.block_runs)) return fail("blocks", i, "runs out of range");
      for (std::int32_t k = 0; k < b.run_count; ++k) {
        const std::int32_t run = at(plan_.block_runs, b.first_run + k);
        if (!inside(run, 1, plan_.runs)) return fail("blocks", i, "no such run");
        if (k > 0 && run <= at(plan_.block_runs, b.first_run + k - 1)) return fail("blocks", i, "runs out of order");
      }
    }
    return true;
  }

  // ---- Every visible (row, path position) pair exactly once ----

  std::int32_t shortfall(std::int32_t slot) const {
    return slot < 0 || actual_.empty() ? 0 : at(plan_.slot_capacity, slot) - actual_[slot];
  }
  std::int32_t actual_keys(const KeyRun& r) const {
    if (r.length_slot < 0 || actual_.empty()) return r.length;
    return std::clamp(actual_[r.length_slot] - r.length_origin, 0, r.length);
  }
  bool visible(const KeyRun& r, const RowInstance& row, std::int32_t row_in_tile, std::int32_t j) const {
    if (r.mask == MaskKind::full) return true;
    if (r.mask == MaskKind::interval) {
      return in_window(r.position + j, row.order - shortfall(row.length_slot), plan_.header.kind.window);
    }
    const std::int64_t word = r.first_word + std::int64_t{row_in_tile} * ((r.length + 63) / 64) + j / 64;
    return at(plan_.words, word) >> (j % 64) & 1u;
  }

  /// What the tiles cover, per row. A run with bits names no path positions: those keys go to `unplaced`.
  void collect(std::vector<std::vector<Key>>* placed, std::vector<std::vector<Key>>* unplaced) const {
    for (const KeyRun& r : plan_.runs) {
      const RowTile& t = at(plan_.tiles, r.tile);
      for (std::int32_t i = 0; i < t.count; ++i) {
        const RowInstance& row = at(plan_.instances, r.first_instance + i);
        for (std::int32_t j = 0; j < actual_keys(r); ++j) {
          if (!visible(r, row, i, j)) continue;
          VisibleKey k;
          locate(plan_.pools, plan_.pages, plan_.segments, r.segment, r.token + j, &k);
          Key key{k.pool,        k.page, k.slot, at(plan_.deltas, row.delta), row.position - shortfall(row.length_slot),
                  r.position + j};
          if (r.mask == MaskKind::bits) key[5] = 0;
          at(r.mask == MaskKind::bits ? *unplaced : *placed, row.row).push_back(key);
        }
      }
    }
  }

  template <class Topology>
  bool coverage(const Topology& topology) const {
    std::vector<std::vector<Key>> placed(static_cast<std::size_t>(plan_.header.rows)), unplaced(placed.size());
    collect(&placed, &unplaced);
    bool ok = true;
    for_each_row(topology, plan_.header.kind.window, actual_, [&](const VisibleRow& row) {
      std::vector<Key> want;
      for (const VisibleKey& k : row.keys) {
        want.push_back({k.pool, k.page, k.slot, k.delta, k.query_position, k.position});
      }
      ok = ok && same_keys(row.row, std::move(want), at(placed, row.row), at(unplaced, row.row));
    });
    return ok;
  }

  bool same_keys(std::int32_t row, std::vector<Key> want, std::vector<Key>& placed, std::vector<Key>& unplaced) const {
    std::sort(want.begin(), want.end());
    std::sort(placed.begin(), placed.end());
    std::vector<Key> extra, rest;
    std::set_difference(placed.begin(), placed.end(), want.begin(), want.end(), std::back_inserter(extra));
    std::set_difference(want.begin(), want.end(), placed.begin(), placed.end(), std::back_inserter(rest));
    if (!extra.empty()) return fail("row", row, "covers what it must not: " + text(extra.front()));
    for (Key& k : rest) k[5] = 0;
    std::sort(rest.begin(), rest.end());
    std::sort(unplaced.begin(), unplaced.end());
    std::set_difference(unplaced.begin(), unplaced.end(), rest.begin(), rest.end(), std::back_inserter(extra));
    if (!extra.empty()) return fail("row", row, "bits cover what they must not: " + text(extra.front()));
    std::set_difference(rest.begin(), rest.end(), unplaced.begin(), unplaced.end(), std::back_inserter(extra));
    if (!extra.empty()) return fail("row", row, "misses " + text(extra.front()));
    return true;
  }
  static std::string text(const Key& k) {
    return "(pool " + std::to_string(k[0]) + ", page " + std::to_string(k[1]) + ", slot " + std::to_string(k[2]) +
           ", delta " + std::to_string(k[3]) + ", query at " + std::to_string(k[4]) + ", key at " +
           std::to_string(k[5]) + ")";
  }

  // ---- Items cover runs x heads, their states do not overlap ----

  const KeyRun& run(std::int64_t i) const { return at(plan_.runs, i); }
  /// Partial states per row that an item writes.
  std::int64_t states(const Item& m) const {
    if (m.fold || m.run_count == 0) return 1;
    const KeyRun &first = run(m.first_run), &last = run(m.first_run + m.run_count - 1);
    return (last.position + last.length - 1) / kInvariantChunk - first.position / kInvariantChunk + 1;
  }

  bool items() const {
    const std::int64_t h = heads();
    std::vector<std::int32_t> covered(plan_.runs.size() * static_cast<std::size_t>(h), 0);
    std::vector<std::int32_t> finishes(plan_.tiles.size() * static_cast<std::size_t>(h), 0);
    std::vector<char> state(static_cast<std::size_t>(plan_.header.partial_rows * h), 0);
    for (std::int64_t i = 0; i < size(plan_.items); ++i) {
      const Item& m = at(plan_.items, i);
      const RowTile& t = at(plan_.tiles, m.tile);
      for (std::int64_t k = m.head_begin; k < m.head_end; ++k) {
        for (std::int64_t r = m.first_run; r < m.first_run + m.run_count; ++r) ++at(covered, r * h + k);
        if (m.slot < 0 || m.run_count == t.run_count) ++at(finishes, m.tile * h + k);
        for (std::int64_t p = 0; m.slot >= 0 && p < states(m) * t.count; ++p) {
          char& used = at(state, (m.slot + p) * h + k);
          if (used) return fail("items", i, "writes a partial state that another item writes");
          used = 1;
        }
      }
      if (m.slot < 0 && m.run_count != t.run_count) return fail("items", i, "finishes rows without all of their keys");
    }
    for (std::int64_t i = 0; i < size(covered); ++i) {
      if (at(covered, i) != 1) return fail("runs", i / h, "covered " + std::to_string(at(covered, i)) + " times");
    }
    for (std::int64_t i = 0; i < size(finishes); ++i) {
      if (at(finishes, i) > 1) return fail("tiles", i / h, "finished twice");
      if (at(plan_.tiles, i / h).run_count == 0 && at(finishes, i) != 1) return fail("tiles", i / h, "never written");
    }
    return true;
  }

  // ---- Every row is reduced once, from the states that items write ----

  bool groups() const {
    std::vector<std::int32_t> grouped(static_cast<std::size_t>(plan_.header.rows), 0);
    for (std::int64_t i = 0; i < size(plan_.groups); ++i) {
      const ReduceGroup& g = at(plan_.groups, i);
      for (std::int32_t k = 0; k < g.row_count; ++k) {
        const std::int32_t row = at(plan_.group_rows, g.first_row + k);
        if (row < 0 || row >= plan_.header.rows || ++at(grouped, row) > 1) return fail("groups", i, "a row is wrong");
      }
      if (!group_parts(i, g)) return false;
    }
    for (std::int64_t r = 0; r < size(grouped); ++r) {
      if (at(grouped, r) != 1) return fail("row", r, "is in no reduce group");
    }
    return tile_groups();
  }

  bool group_parts(std::int64_t index, const ReduceGroup& g) const {
    std::vector<std::int64_t> writes(static_cast<std::size_t>(g.part_count), 0);
    const auto first = plan_.parts.begin() + g.first_part, last = first + g.part_count;
    std::int32_t arrivals = 0, finishing = 0;
    for (std::int32_t k = 0; k < g.tile_count; ++k) {
      const GroupTile& gt = at(plan_.group_tiles, g.first_tile + k);
      const RowTile& t = at(plan_.tiles, gt.tile);
      if (gt.offset < 0 || gt.offset + g.row_count > t.count) return fail("groups", index, "rows are not in the tile");
      for (std::int32_t r = 0; r < g.row_count; ++r) {
        if (at(plan_.instances, t.first + gt.offset + r).row != at(plan_.group_rows, g.first_row + r)) {
          return fail("groups", index, "other rows are in the tile");
        }
      }
      for (const Item& m : plan_.items) {
        if (m.tile != gt.tile) continue;
        finishing += m.slot < 0;
        arrivals += m.slot >= 0;
        for (std::int64_t s = 0; m.slot >= 0 && s < states(m); ++s) {
          const auto part = std::find(first, last, m.slot + s * t.count + gt.offset);
          if (part == last) return fail("groups", index, "lacks a part that an item writes");
          at(writes, part - first) += m.head_end - m.head_begin;
        }
      }
    }
    if (arrivals != g.arrivals) return fail("groups", index, std::to_string(arrivals) + " items arrive");
    if (finishing > 0 && (arrivals > 0 || g.tile_count != 1))
      return fail("groups", index, "is finished by an item too");
    if (finishing == 0 && arrivals == 0) return fail("groups", index, "is never written");
    for (std::int64_t w : writes) {
      if (w != heads()) return fail("groups", index, "a part is not written once per head");
    }
    return true;
  }

  /// The lists by tile and by group say the same, and a tile's groups are all of its rows.
  bool tile_groups() const {
    std::vector<std::int32_t> rows(plan_.tiles.size(), 0);
    for (std::int64_t i = 0; i < size(plan_.groups); ++i) {
      const ReduceGroup& g = at(plan_.groups, i);
      for (std::int32_t k = 0; k < g.tile_count; ++k) {
        const std::int32_t tile = at(plan_.group_tiles, g.first_tile + k).tile;
        const RowTile& t = at(plan_.tiles, tile);
        const auto first = plan_.tile_groups.begin() + t.first_group;
        if (std::count(first, first + t.group_count, static_cast<std::int32_t>(i)) != 1) {
          return fail("tiles", tile, "does not list group " + std::to_string(i) + " once");
        }
        at(rows, tile) += g.row_count;
      }
    }
    std::int64_t listed = 0;
    for (std::int64_t t = 0; t < size(plan_.tiles); ++t) {
      if (at(rows, t) != at(plan_.tiles, t).count) return fail("tiles", t, "groups are not its rows");
      listed += at(plan_.tiles, t).group_count;
    }
    return listed == size(plan_.group_tiles) || fail("tile_groups and group_tiles differ");
  }

  /// Costs are sums over what comes before.
  bool costs() const {
    const auto rising = [](const auto& list, std::int64_t total) {
      std::int64_t last = 0;
      for (const auto& x : list) {
        if (x.cost < last) return false;
        last = x.cost;
      }
      return last <= total;
    };
    if (!rising(plan_.items, plan_.header.total_cost)) return fail("items: cost does not rise");
    if (!rising(plan_.groups, plan_.header.total_group_cost)) return fail("groups: cost does not rise");
    return rising(plan_.blocks, plan_.header.total_block_cost) || fail("blocks: cost does not rise");
  }

  /// Parts of a group follow the path.
  bool part_order(bool is_forest) const {
    constexpr std::int64_t kNoKeys = INT32_MIN;
    if (!is_forest) return true;
    std::vector<std::int64_t> position(static_cast<std::size_t>(plan_.header.partial_rows), 0);
    for (const Item& m : plan_.items) {
      for (std::int64_t s = 0; m.slot >= 0 && s < states(m); ++s) {
        const std::int64_t begin = m.run_count == 0 ? kNoKeys : run(m.first_run).position;
        const std::int64_t count = at(plan_.tiles, m.tile).count;
        for (std::int64_t r = 0; r < count; ++r) at(position, m.slot + s * count + r) = begin + s * kInvariantChunk;
      }
    }
    for (std::int64_t i = 0; i < size(plan_.groups); ++i) {
      const ReduceGroup& g = at(plan_.groups, i);
      std::int64_t last = 0;
      for (std::int32_t k = 0; k < g.part_count; ++k) {
        const std::int64_t p = at(position, at(plan_.parts, g.first_part + k));
        if (p >= 0 && p < last) return fail("groups", i, "parts are not in key order");
        last = std::max(last, p);
      }
    }
    return true;
  }

  // ---- Backward: every (run, key) in one block, every named token in one block ----

  template <class Topology>
  bool backward(const Topology& topology) const {
    if (!plan_.header.backward) return (plan_.blocks.empty() && plan_.block_runs.empty()) || fail("blocks unasked for");
    std::vector<std::vector<std::int32_t>> owners;
    for (const KeyRun& r : plan_.runs) owners.emplace_back(static_cast<std::size_t>(r.length), 0);
    std::vector<Key> owned, named;
    for (const KeyBlock& b : plan_.blocks) {
      for (std::int32_t k = 0; k < b.run_count; ++k) {
        const std::int32_t index = at(plan_.block_runs, b.first_run + k);
        const KeyRun& r = run(index);
        if (r.segment != b.segment) return fail("runs", index, "is in a block of another segment");
        for (std::int32_t t = std::max(b.token, r.token); t < std::min(b.token + b.length, r.token + r.length); ++t) {
          ++at(at(owners, index), t - r.token);
        }
      }
      for (std::int32_t t = 0; t < b.length; ++t) {
        VisibleKey key;
        locate(plan_.pools, plan_.pages, plan_.segments, b.segment, b.token + t, &key);
        owned.push_back({key.pool, key.page, key.slot, 0, 0, 0});
      }
    }
    for (std::int64_t r = 0; r < size(owners); ++r) {
      for (std::int32_t n : at(owners, r)) {
        if (n != 1) return fail("runs", r, "a key is in " + std::to_string(n) + " blocks");
      }
    }
    for_each_named_token(topology, [&](const VisibleKey& key) {
      named.push_back({key.pool, key.page, key.slot, 0, 0, 0});
    });
    std::sort(owned.begin(), owned.end());
    std::sort(named.begin(), named.end());
    named.erase(std::unique(named.begin(), named.end()), named.end());
    return owned == named || fail("blocks own other tokens than those that nodes name, or one twice");
  }

  // ---- batch_invariant: states are cut at absolute multiples of the chunk ----

  bool invariant() const {
    if (plan_.header.mode != Mode::batch_invariant) return true;
    std::vector<std::int32_t> first_tile(static_cast<std::size_t>(plan_.header.rows), -1);
    for (std::int64_t i = 0; i < size(plan_.tiles); ++i) {
      const RowTile& t = at(plan_.tiles, i);
      if (t.run_count > 0 && run(t.first_run).position % kInvariantChunk != 0) {
        return fail("tiles", i, "starts inside a chunk");
      }
      for (std::int32_t r = t.first_run + 1; r < t.first_run + t.run_count; ++r) {
        if (run(r).position != run(r - 1).position + run(r - 1).length) return fail("runs", r, "leaves a gap");
      }
      for (std::int32_t k = 0; k < t.count; ++k) {
        std::int32_t& first = at(first_tile, at(plan_.instances, t.first + k).row);
        if (first < 0) first = static_cast<std::int32_t>(i);
      }
    }
    for (std::int64_t i = 0; i < size(plan_.items); ++i) {
      const Item& m = at(plan_.items, i);
      const RowTile& t = at(plan_.tiles, m.tile);
      if (m.run_count != t.run_count) return fail("items", i, "cuts the keys of a tile");
      for (std::int32_t k = 0; k < t.count && m.fold; ++k) {
        if (at(first_tile, at(plan_.instances, t.first + k).row) != m.tile) {
          return fail("items", i, "folds chunks that do not begin the path");
        }
      }
    }
    return true;
  }

  const Plan& plan_;
  Span<const std::int32_t> actual_;
  std::string* why_;
};

}  // namespace detail

/// Whether every visible (row, path position) pair is covered exactly once by (tile x run) with the right delta and
/// query position; items cover each (run, KV head) once and their states do not overlap; each row is reduced once, from
/// exactly the states that items write, in key order; and the backward's blocks own every run's keys and every named
/// token once. In batch_invariant mode also that states are cut at absolute multiples of kInvariantChunk. `why` (may be
/// null) says what is wrong. `Topology` is the Forest or the RectangleInput that the plan was made from. Masks are
/// evaluated under `actual_lengths`; empty: at capacity.
template <class Topology>
bool check_plan(const Topology& topology, const Plan& plan, std::string* why,
                Span<const std::int32_t> actual_lengths = {}) {
  return detail::PlanChecker(plan, actual_lengths, why).run(topology);
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
