// SPDX-License-Identifier: Apache-2.0
// From tiles and their runs to items, reduce groups and slots of partial states. Comes with plan.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "prefixshare/detail/item_order.hpp"
#include "prefixshare/detail/plan_cost.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr const char* kPlanOp = "make_plan";
inline constexpr std::int32_t kMinKeysPerPart = 256;     // fast mode cuts keys no finer, so that merging stays cheap
inline constexpr std::int32_t kMinKeysPerHeadPart = 64;  // of one head: here min_item decides
/// Items of a worker, about, where the cost decides: the more, the more even, and the more partial states. Fewer are
/// enough where workers take the next one when they are free.
inline constexpr double kOrderedItems = 4, kQueuedItems = 1.5;
inline constexpr std::int32_t kStreamRows = 8;  // packed rows up to which attention is a matter of reading keys

inline Status plan_error(const char* argument, const char* field, std::int64_t index, const char* relation,
                         std::int64_t got, std::int64_t want, StatusCode code = StatusCode::invalid_argument) noexcept {
  Status s;
  s.code = code;
  s.op = kPlanOp;
  s.argument = argument;
  s.field = field;
  s.index = index;
  s.relation = relation;
  s.got = got;
  s.want = want;
  return s;
}

inline Status validate(const LayerKind& k, const char* op) noexcept {
  constexpr std::int32_t kLargest = 1 << 16;
  const std::pair<const char*, std::int32_t> sizes[] = {{"Hq", k.Hq}, {"Hkv", k.Hkv}, {"D", k.D}, {"Dv", k.Dv}};
  Status s;
  for (const auto& [field, value] : sizes) {
    if (value < 1) s = plan_error("kind", field, -1, ">=", value, 1);
    if (value > kLargest) s = plan_error("kind", field, -1, "<=", value, kLargest);
    if (!s.ok()) break;
  }
  if (s.ok() && k.Hq % k.Hkv != 0) s = plan_error("kind", "Hq", -1, "multiple of", k.Hq, k.Hkv);
  if (s.ok() && k.window != -1 && k.window < 1) s = plan_error("kind", "window", -1, ">=", k.window, 1);
  if (s.ok() && !is_valid(k.q_dtype)) s = plan_error("kind", "q_dtype", -1, "<", static_cast<int>(k.q_dtype), 4);
  if (s.ok() && !is_valid(k.kv_dtype)) s = plan_error("kind", "kv_dtype", -1, "<", static_cast<int>(k.kv_dtype), 4);
  s.op = s.ok() ? "" : op;
  return s;
}

inline std::int64_t tile_keys(const Plan& plan, const RowTile& t) noexcept {
  std::int64_t keys = 0;
  for (std::int32_t r = 0; r < t.run_count; ++r) keys += plan.runs[static_cast<std::size_t>(t.first_run + r)].length;
  return keys;
}

/// Turns tiles and their runs into the rest of a plan. Forests and rectangles differ only in how tiles are made.
class PlanBuilder {
 public:
  PlanBuilder(const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept
      : kind_(kind), options_(options), plan_(*plan), cost_(kind, options) {}

 protected:
  bool invariant() const noexcept { return options_.mode == Mode::batch_invariant; }

  void start(std::int32_t rows, std::uint64_t fingerprint) {
    const Plan empty;
    plan_.header = empty.header;
    plan_.header.mode = options_.mode;
    plan_.header.sharing = options_.sharing;
    plan_.header.backward = options_.backward;
    std::strncpy(plan_.header.backward_implementation, options_.backward ? "cpu:portable" : "", kNameCapacity - 1);
    plan_.header.target_parallelism = options_.target_parallelism;
    plan_.header.rows = rows;
    plan_.header.fingerprint = fingerprint;
    plan_.header.kind = kind_;
    plan_.deltas.clear();
    plan_.slot_capacity.clear();
    plan_.words.clear();
    plan_.instances.clear();
    plan_.tiles.clear();
    plan_.runs.clear();
    plan_.items.clear();
    plan_.groups.clear();
    plan_.group_rows.clear();
    plan_.parts.clear();
    plan_.tile_groups.clear();
    plan_.group_tiles.clear();
    plan_.blocks.clear();
    plan_.block_runs.clear();
    plan_.decisions.clear();
    first_tile_.clear();
  }

  std::int32_t delta_index(std::int32_t delta) const noexcept {
    const auto at = std::lower_bound(plan_.deltas.begin(), plan_.deltas.end(), delta);
    return static_cast<std::int32_t>(at - plan_.deltas.begin());
  }
  void sort_deltas() {
    plan_.deltas.push_back(0);
    std::sort(plan_.deltas.begin(), plan_.deltas.end());
    plan_.deltas.erase(std::unique(plan_.deltas.begin(), plan_.deltas.end()), plan_.deltas.end());
  }

  /// Lowest order that an instance can take at run time.
  std::int32_t lowest_order(const RowInstance& r) const noexcept {
    if (r.length_slot < 0) return r.order;
    const std::int64_t lowest = std::int64_t{r.order} - plan_.slot_capacity[static_cast<std::size_t>(r.length_slot)];
    return static_cast<std::int32_t>(std::max<std::int64_t>(lowest, INT32_MIN));
  }

  /// Opens a tile; runs that are added next belong to it. `first` tells that no tile before it holds its rows' keys.
  void open_tile(std::int32_t first_instance, std::int32_t count, bool first) {
    RowTile t;
    t.first = first_instance;
    t.count = count;
    t.first_run = static_cast<std::int32_t>(plan_.runs.size());
    plan_.tiles.push_back(t);
    first_tile_.push_back(first);
  }
  void add_run(KeyRun run) {
    RowTile& t = plan_.tiles.back();
    run.tile = static_cast<std::int32_t>(plan_.tiles.size()) - 1;
    plan_.runs.push_back(run);
    ++t.run_count;
  }

  Status finish(const std::vector<std::int32_t>& row_order) {
    if (plan_.tiles.size() > INT32_MAX || plan_.runs.size() > INT32_MAX || plan_.instances.size() > INT32_MAX) {
      return plan_error("plan", "runs", -1, "<=", static_cast<std::int64_t>(plan_.runs.size()), INT32_MAX,
                        StatusCode::capacity_exceeded);
    }
    for (const RowTile& t : plan_.tiles) plan_.header.tile_rows = std::max(plan_.header.tile_rows, t.count);
    place_rows();
    make_groups(row_order);
    make_items();
    link_parts();
    return Status{};
  }

 private:
  const KeyRun& run(const RowTile& t, std::int32_t i) const noexcept {
    return plan_.runs[static_cast<std::size_t>(t.first_run + i)];
  }
  double tile_cost(const RowTile& t) const noexcept {
    return cost_.item(t.count, kind_.Hkv) + static_cast<double>(tile_keys(plan_, t)) * cost_.key(t.count);
  }
  std::int64_t tile_chunks(const RowTile& t) const noexcept {
    if (t.run_count == 0) return 1;
    const KeyRun& last = run(t, t.run_count - 1);
    return (last.position + last.length - 1) / kInvariantChunk - run(t, 0).position / kInvariantChunk + 1;
  }

  /// row_tiles_ (CSR over caller's rows): the (tile, offset) of each row, in key order.
  void place_rows() {
    const std::size_t rows = static_cast<std::size_t>(plan_.header.rows);
    row_first_.assign(rows + 1, 0);
    for (const RowTile& t : plan_.tiles) {
      for (std::int32_t i = 0; i < t.count; ++i) ++row_first_[row_of(t, i) + 1];
    }
    for (std::size_t r = 0; r < rows; ++r) row_first_[r + 1] += row_first_[r];
    row_tiles_.resize(static_cast<std::size_t>(row_first_[rows]));
    std::vector<std::int64_t> fill(row_first_.begin(), row_first_.end());
    for (std::size_t t = 0; t < plan_.tiles.size(); ++t) {
      for (std::int32_t i = 0; i < plan_.tiles[t].count; ++i) {
        row_tiles_[static_cast<std::size_t>(fill[row_of(plan_.tiles[t], i)]++)] = {static_cast<std::int32_t>(t), i};
      }
    }
  }
  std::size_t row_of(const RowTile& t, std::int32_t i) const noexcept {
    return static_cast<std::size_t>(plan_.instances[static_cast<std::size_t>(t.first + i)].row);
  }
  Span<const GroupTile> tiles_of(std::size_t row) const noexcept {
    return {row_tiles_.data() + row_first_[row], row_first_[row + 1] - row_first_[row]};
  }
  /// Whether `next` stands right behind `row` in every tile of both.
  bool follows(std::size_t row, std::size_t next) const noexcept {
    const Span<const GroupTile> a = tiles_of(row), b = tiles_of(next);
    if (a.size() != b.size()) return false;
    for (std::int64_t i = 0; i < a.size(); ++i) {
      if (a[i].tile != b[i].tile || a[i].offset + 1 != b[i].offset) return false;
    }
    return true;
  }

  void make_groups(const std::vector<std::int32_t>& row_order) {
    plan_.group_rows.assign(row_order.begin(), row_order.end());
    for (std::size_t i = 0; i < row_order.size(); ++i) {
      const std::size_t row = static_cast<std::size_t>(row_order[i]);
      if (i > 0 && follows(static_cast<std::size_t>(row_order[i - 1]), row)) {
        ++plan_.groups.back().row_count;
        continue;
      }
      ReduceGroup g;
      g.first_row = static_cast<std::int32_t>(i);
      g.row_count = 1;
      g.first_tile = static_cast<std::int32_t>(plan_.group_tiles.size());
      g.tile_count = static_cast<std::int32_t>(tiles_of(row).size());
      for (const GroupTile& t : tiles_of(row)) plan_.group_tiles.push_back(t);
      plan_.groups.push_back(g);
    }
  }

  /// How a tile is cut into items, and where its states go.
  struct TileWork {
    std::int32_t head_parts = 1;
    std::int32_t key_parts = 1;
    std::int64_t states = 0;  // partial states per row; 0: the items write the output
    std::int64_t slot = -1;
  };

  void make_items() {
    double total = 0;
    for (const RowTile& t : plan_.tiles) total += tile_cost(t);
    const double each = options_.cost.by_head ? kQueuedItems : kOrderedItems;
    const double target = std::max(total / (each * options_.target_parallelism), options_.cost.min_item);
    std::int64_t budget = static_cast<std::int64_t>(kPartialRowsPerRow) * plan_.header.rows + kPartialRowsExtra;
    for (const GroupTile& t : row_tiles_) {
      if (tiles_of(row_of(plan_.tiles[static_cast<std::size_t>(t.tile)], t.offset)).size() > 1) --budget;
    }
    work_.assign(plan_.tiles.size(), TileWork{});
    for (std::size_t t = 0; t < plan_.tiles.size(); ++t) cut_tile(t, target, &budget);
    cut_runs();
    item_ns_.clear();
    for (std::size_t t = 0; t < plan_.tiles.size(); ++t) emit_items(t);
    order_items();
  }

  void order_items() {
    std::vector<char> reads;
    reads.reserve(plan_.items.size());
    for (const Item& i : plan_.items) reads.push_back(cost_.reads(plan_.tiles[static_cast<std::size_t>(i.tile)].count));
    std::vector<Item> items;
    items.reserve(plan_.items.size());
    double cost = 0;
    const std::vector<std::size_t> order = options_.cost.by_head
                                               ? queue_order(item_ns_, reads)
                                               : ItemOrder(item_ns_, reads, options_.target_parallelism).order();
    for (const std::size_t i : order) {
      items.push_back(plan_.items[i]);
      items.back().cost = static_cast<std::int64_t>(cost + item_ns_[i] / 2);
      cost += item_ns_[i];
    }
    plan_.items.swap(items);
    plan_.header.total_cost = static_cast<std::int64_t>(cost);
  }

  /// Many rows are cut by heads, which costs no partial states; few rows by keys, so that a part reads whole tokens,
  /// unless the implementation works by head anyway.
  std::int64_t key_parts_wanted(const RowTile& t, std::int64_t wanted) const noexcept {
    if (options_.cost.by_head) return ceil_div(wanted, cost_.pieces(t.count));
    return t.count * kind_.group() <= kStreamRows ? wanted : ceil_div(wanted, kind_.Hkv);
  }
  void cut_tile(std::size_t index, double target, std::int64_t* budget) {
    const RowTile& t = plan_.tiles[index];
    TileWork& w = work_[index];
    const std::int64_t wanted = static_cast<std::int64_t>(tile_cost(t) / target) + 1;
    bool alone = true;  // no row of the tile has keys elsewhere
    for (std::int32_t i = 0; i < t.count && alone; ++i) alone = tiles_of(row_of(t, i)).size() == 1;
    const bool fold = !invariant() || first_tile_[index];
    if (!invariant()) {
      const std::int32_t least = options_.cost.by_head ? kMinKeysPerHeadPart : kMinKeysPerPart;
      std::int64_t parts = std::min(key_parts_wanted(t, wanted), tile_keys(plan_, t) / least);
      if (parts > 1 && (parts - (alone ? 0 : 1)) * t.count <= *budget) {
        w.key_parts = static_cast<std::int32_t>(parts);
        *budget -= (parts - (alone ? 0 : 1)) * t.count;
      }
    }
    const std::int64_t head_parts = options_.cost.by_head ? kind_.Hkv : ceil_div(wanted, w.key_parts);
    w.head_parts = static_cast<std::int32_t>(std::min<std::int64_t>(head_parts, kind_.Hkv));
    if (!alone || w.key_parts > 1) {
      w.states = fold ? w.key_parts : tile_chunks(t);
      w.slot = plan_.header.partial_rows;
      plan_.header.partial_rows += w.states * t.count;
    }
  }

  void emit_items(std::size_t index) {
    const TileWork& w = work_[index];
    const RowTile& t = plan_.tiles[index];
    const std::int64_t keys = tile_keys(plan_, t);
    const bool fold = !invariant() || first_tile_[index] || w.slot < 0;
    std::int32_t next_run = t.first_run;
    std::int64_t done = 0;
    for (std::int32_t k = 0; k < w.key_parts; ++k) {
      const std::int64_t begin = done, end = keys * (k + 1) / w.key_parts;
      Item item;
      item.tile = static_cast<std::int32_t>(index);
      item.first_run = next_run;
      item.slot = w.slot < 0 ? -1 : w.slot + static_cast<std::int64_t>(k) * t.count;
      item.fold = fold;
      while (next_run < t.first_run + t.run_count && (done < end || k + 1 == w.key_parts)) {
        done += plan_.runs[static_cast<std::size_t>(next_run++)].length;
      }
      item.run_count = next_run - item.first_run;
      const double each = item_cost(t, done - begin, w);
      for (std::int32_t h = 0; h < w.head_parts; ++h) {
        item.head_begin = static_cast<std::int32_t>(std::int64_t{kind_.Hkv} * h / w.head_parts);
        item.head_end = static_cast<std::int32_t>(std::int64_t{kind_.Hkv} * (h + 1) / w.head_parts);
        plan_.items.push_back(item);
        const std::int32_t heads = item.head_end - item.head_begin;
        item_ns_.push_back(cost_.item(t.count, heads) + each * heads / kind_.Hkv);
      }
    }
  }
  double item_cost(const RowTile& t, std::int64_t keys, const TileWork& w) const noexcept {
    return static_cast<double>(keys) * cost_.key(t.count) + (w.states > 0 ? cost_.partials(t.count) : 0);
  }

  /// Cuts the runs of every tile where its key parts meet. Runs with bits stay whole.
  void cut_runs() {
    std::vector<KeyRun> cut;
    cut.reserve(plan_.runs.size());
    for (std::size_t index = 0; index < plan_.tiles.size(); ++index) {
      RowTile& t = plan_.tiles[index];
      const std::int32_t parts = work_[index].key_parts;
      const std::int64_t keys = tile_keys(plan_, t);
      const std::size_t first = cut.size();
      std::int64_t done = 0;
      for (std::int32_t i = 0, k = 1; i < t.run_count; ++i) {
        KeyRun rest = run(t, i);
        for (; k < parts && keys * k / parts < done + rest.length; ++k) {
          const std::int32_t head = static_cast<std::int32_t>(keys * k / parts - done);
          if (head <= 0 || rest.mask == MaskKind::bits) continue;
          cut.push_back(rest);
          cut.back().length = head;
          skip_keys(&rest, head);
          done += head;
        }
        done += rest.length;
        cut.push_back(rest);
      }
      t.first_run = static_cast<std::int32_t>(first);
      t.run_count = static_cast<std::int32_t>(cut.size() - first);
    }
    plan_.runs.swap(cut);
  }
  static void skip_keys(KeyRun* run, std::int32_t keys) noexcept {
    run->token += keys;
    run->position += keys;
    run->length -= keys;
    run->length_origin += keys;
  }

  void link_parts() {
    std::vector<std::int32_t> items_of(plan_.tiles.size(), 0);
    for (const Item& i : plan_.items) ++items_of[static_cast<std::size_t>(i.tile)];
    for (ReduceGroup& g : plan_.groups) {
      g.first_part = static_cast<std::int32_t>(plan_.parts.size());
      for (std::int32_t i = 0; i < g.tile_count; ++i) {
        const GroupTile& gt = plan_.group_tiles[static_cast<std::size_t>(g.first_tile + i)];
        const TileWork& w = work_[static_cast<std::size_t>(gt.tile)];
        RowTile& t = plan_.tiles[static_cast<std::size_t>(gt.tile)];
        for (std::int64_t s = 0; s < w.states; ++s) plan_.parts.push_back(w.slot + s * t.count + gt.offset);
        if (w.states > 0) g.arrivals += items_of[static_cast<std::size_t>(gt.tile)];
        ++t.group_count;
      }
      g.part_count = static_cast<std::int32_t>(plan_.parts.size()) - g.first_part;
    }
    std::int32_t next = 0;
    for (RowTile& t : plan_.tiles) {
      t.first_group = next;
      next += std::exchange(t.group_count, 0);
    }
    plan_.tile_groups.resize(static_cast<std::size_t>(next));
    for (std::size_t g = 0; g < plan_.groups.size(); ++g) {
      for (std::int32_t i = 0; i < plan_.groups[g].tile_count; ++i) {
        const std::int32_t tile = plan_.group_tiles[static_cast<std::size_t>(plan_.groups[g].first_tile + i)].tile;
        RowTile& t = plan_.tiles[static_cast<std::size_t>(tile)];
        plan_.tile_groups[static_cast<std::size_t>(t.first_group + t.group_count++)] = static_cast<std::int32_t>(g);
      }
    }
  }

 protected:
  const LayerKind& kind_;
  const PlanOptions& options_;
  Plan& plan_;
  TileCost cost_;

 private:
  std::vector<char> first_tile_;  // per tile: its rows have no keys in an earlier tile
  std::vector<std::int64_t> row_first_;
  std::vector<GroupTile> row_tiles_;
  std::vector<TileWork> work_;
  std::vector<double> item_ns_;  // predicted, per item
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
