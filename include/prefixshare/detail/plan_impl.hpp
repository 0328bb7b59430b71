// SPDX-License-Identifier: Apache-2.0
// The planner: forest or rectangles -> tiles and runs -> items, reduce groups and the backward's key blocks.
#pragma once

#include <algorithm>
#include <cstring>
#include <new>
#include <tuple>
#include <utility>

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr const char* kPlanOp = "make_plan";
inline constexpr std::int64_t kMinItemCost = 20000;   // ns; smaller items are not cut further
inline constexpr std::int32_t kMinKeysPerPart = 256;  // fast mode cuts keys no finer, so that merging stays cheap
inline constexpr std::int32_t kDraftTokens = 64;      // a draft subtree up to one word of bits becomes one run

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

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) noexcept { return (a + b - 1) / b; }

/// Rows of a row tile: what fills kTileRows with the group's heads packed in.
constexpr std::int32_t tile_row_limit(const LayerKind& k) noexcept {
  return k.group() >= kTileRows ? 1 : kTileRows / k.group();
}

/// Turns tiles and their runs into the rest of a plan. Forests and rectangles differ only in how tiles are made.
class PlanBuilder {
 public:
  PlanBuilder(const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept
      : kind_(kind), options_(options), plan_(*plan) {}

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

  Status make_backward() {
    cost_groups();
    if (Status s = check_disjoint_segments(); !s.ok()) return s;
    make_blocks();
    return Status{};
  }

  /// A range of a segment's tokens that the plan names (and whose gradients the backward writes).
  struct NamedRange {
    std::int32_t segment, begin, end;
  };
  std::vector<NamedRange> named_;

 private:
  double key_cost() const noexcept { return options_.cost.kv_element * kind_.Hkv * (kind_.D + kind_.Dv); }
  double pair_cost() const noexcept { return options_.cost.mac * kind_.Hq * (kind_.D + kind_.Dv); }

  std::int64_t tile_keys(const RowTile& t) const noexcept {
    std::int64_t keys = 0;
    for (std::int32_t r = 0; r < t.run_count; ++r) keys += run(t, r).length;
    return keys;
  }
  const KeyRun& run(const RowTile& t, std::int32_t i) const noexcept {
    return plan_.runs[static_cast<std::size_t>(t.first_run + i)];
  }
  double tile_cost(const RowTile& t) const noexcept {
    const double keys = static_cast<double>(tile_keys(t));
    return options_.cost.item + keys * (key_cost() + t.count * pair_cost());
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
    const double target = std::max(total / (4.0 * options_.target_parallelism), static_cast<double>(kMinItemCost));
    std::int64_t budget = static_cast<std::int64_t>(kPartialRowsPerRow) * plan_.header.rows + kPartialRowsExtra;
    for (const GroupTile& t : row_tiles_) {
      if (tiles_of(row_of(plan_.tiles[static_cast<std::size_t>(t.tile)], t.offset)).size() > 1) --budget;
    }
    work_.assign(plan_.tiles.size(), TileWork{});
    double cost = 0;
    for (std::size_t t = 0; t < plan_.tiles.size(); ++t) cut_tile(t, target, &budget);
    cut_runs();
    for (std::size_t t = 0; t < plan_.tiles.size(); ++t) emit_items(t, &cost);
    plan_.header.total_cost = static_cast<std::int64_t>(cost);
  }

  void cut_tile(std::size_t index, double target, std::int64_t* budget) {
    const RowTile& t = plan_.tiles[index];
    TileWork& w = work_[index];
    const std::int64_t wanted = static_cast<std::int64_t>(tile_cost(t) / target) + 1;
    w.head_parts = static_cast<std::int32_t>(std::min<std::int64_t>(wanted, kind_.Hkv));
    bool alone = true;  // no row of the tile has keys elsewhere
    for (std::int32_t i = 0; i < t.count && alone; ++i) alone = tiles_of(row_of(t, i)).size() == 1;
    const bool fold = !invariant() || first_tile_[index];
    if (!invariant()) {
      std::int64_t parts = std::min(ceil_div(wanted, w.head_parts), tile_keys(t) / kMinKeysPerPart);
      if (parts > 1 && (parts - (alone ? 0 : 1)) * t.count <= *budget) {
        w.key_parts = static_cast<std::int32_t>(parts);
        *budget -= (parts - (alone ? 0 : 1)) * t.count;
      }
    }
    if (!alone || w.key_parts > 1) {
      w.states = fold ? w.key_parts : tile_chunks(t);
      w.slot = plan_.header.partial_rows;
      plan_.header.partial_rows += w.states * t.count;
    }
  }

  void emit_items(std::size_t index, double* cost) {
    const TileWork& w = work_[index];
    const RowTile& t = plan_.tiles[index];
    const std::int64_t keys = tile_keys(t);
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
        item.cost = static_cast<std::int64_t>(*cost);
        *cost += options_.cost.item + each * (item.head_end - item.head_begin) / kind_.Hkv;
        plan_.items.push_back(item);
      }
    }
  }
  double item_cost(const RowTile& t, std::int64_t keys, const TileWork& w) const noexcept {
    const double partial = w.states > 0 ? options_.cost.partial * t.count * kind_.Hq * (kind_.Dv + 1.0) : 0.0;
    return static_cast<double>(keys) * (key_cost() + t.count * pair_cost()) + partial;
  }

  /// Cuts the runs of every tile where its key parts meet. Runs with bits stay whole.
  void cut_runs() {
    std::vector<KeyRun> cut;
    cut.reserve(plan_.runs.size());
    for (std::size_t index = 0; index < plan_.tiles.size(); ++index) {
      RowTile& t = plan_.tiles[index];
      const std::int32_t parts = work_[index].key_parts;
      const std::int64_t keys = tile_keys(t);
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

  void cost_groups() {
    double cost = 0;
    for (ReduceGroup& g : plan_.groups) {
      g.cost = static_cast<std::int64_t>(cost);
      for (std::int32_t i = 0; i < g.tile_count; ++i) {
        const std::int32_t tile = plan_.group_tiles[static_cast<std::size_t>(g.first_tile + i)].tile;
        const double keys = static_cast<double>(tile_keys(plan_.tiles[static_cast<std::size_t>(tile)]));
        cost += options_.cost.item + keys * (key_cost() + 1.5 * g.row_count * pair_cost());
      }
    }
    plan_.header.total_group_cost = static_cast<std::int64_t>(cost);
  }

  /// Two segments on the same slots would give one dK two owners.
  Status check_disjoint_segments() {
    struct Piece {
      std::int32_t pool, page, begin, end, segment;
    };
    std::vector<char> used(plan_.segments.size(), 0);
    for (const NamedRange& n : named_) used[static_cast<std::size_t>(n.segment)] |= n.end > n.begin;
    std::vector<Piece> pieces;
    for (std::size_t s = 0; s < plan_.segments.size(); ++s) {
      if (!used[s]) continue;
      const Segment& seg = plan_.segments[s];
      const std::int64_t size = plan_.pools[static_cast<std::size_t>(seg.pool)].page_size;
      for (std::int64_t at = seg.offset, end = std::int64_t{seg.offset} + seg.length; at < end;) {
        const std::int64_t stop = std::min(end, (at / size + 1) * size);
        const std::int32_t page = plan_.pages[static_cast<std::size_t>(seg.first_page + at / size)];
        pieces.push_back({seg.pool, page, static_cast<std::int32_t>(at % size),
                          static_cast<std::int32_t>(stop - at / size * size), static_cast<std::int32_t>(s)});
        at = stop;
      }
    }
    std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
      return std::tie(a.pool, a.page, a.begin) < std::tie(b.pool, b.page, b.begin);
    });
    for (std::size_t i = 1; i < pieces.size(); ++i) {
      const Piece &a = pieces[i - 1], &b = pieces[i];
      if (a.pool == b.pool && a.page == b.page && b.begin < a.end) {
        return plan_error("segments", "slot", b.segment, ">=", b.begin, a.end);
      }
    }
    return Status{};
  }

  /// Blocks of at most kKeyBlock named keys, and for each the runs that cross it, in plan order.
  void make_blocks() {
    std::sort(named_.begin(), named_.end(), [](const NamedRange& a, const NamedRange& b) {
      return std::tie(a.segment, a.begin, a.end) < std::tie(b.segment, b.begin, b.end);
    });
    std::vector<std::int32_t> by_token(plan_.runs.size());
    for (std::size_t r = 0; r < by_token.size(); ++r) by_token[r] = static_cast<std::int32_t>(r);
    const auto key = [&](std::int32_t r) {
      const KeyRun& k = plan_.runs[static_cast<std::size_t>(r)];
      return std::make_tuple(k.segment, k.token, r);
    };
    std::sort(by_token.begin(), by_token.end(), [&](std::int32_t a, std::int32_t b) { return key(a) < key(b); });
    std::size_t next_run = 0;
    std::vector<std::int32_t> active;
    double cost = 0;
    for (std::size_t i = 0; i < named_.size();) {
      NamedRange range = named_[i++];
      while (i < named_.size() && named_[i].segment == range.segment && named_[i].begin <= range.end) {
        range.end = std::max(range.end, named_[i++].end);
      }
      for (std::int32_t at = range.begin; at < range.end; at += kKeyBlock) {
        KeyBlock b;
        b.segment = range.segment;
        b.token = at;
        b.length = std::min(kKeyBlock, range.end - at);
        b.cost = static_cast<std::int64_t>(cost);
        cost += fill_block(&b, by_token, &next_run, &active);
        plan_.blocks.push_back(b);
      }
    }
    plan_.header.total_block_cost = static_cast<std::int64_t>(cost);
  }
  double fill_block(KeyBlock* b, const std::vector<std::int32_t>& by_token, std::size_t* next_run,
                    std::vector<std::int32_t>* active) {
    const auto run_at = [&](std::int32_t r) -> const KeyRun& { return plan_.runs[static_cast<std::size_t>(r)]; };
    const auto starts_before_end = [&](const KeyRun& k) {
      return k.segment < b->segment || (k.segment == b->segment && k.token < b->token + b->length);
    };
    while (*next_run < by_token.size() && starts_before_end(run_at(by_token[*next_run]))) {
      active->push_back(by_token[(*next_run)++]);
    }
    active->erase(std::remove_if(active->begin(), active->end(),
                                 [&](std::int32_t r) {
                                   const KeyRun& k = run_at(r);
                                   return k.segment != b->segment || k.token + k.length <= b->token;
                                 }),
                  active->end());
    b->first_run = static_cast<std::int32_t>(plan_.block_runs.size());
    b->run_count = static_cast<std::int32_t>(active->size());
    plan_.block_runs.insert(plan_.block_runs.end(), active->begin(), active->end());
    std::sort(plan_.block_runs.begin() + b->first_run, plan_.block_runs.end());
    double cost = options_.cost.item + b->length * key_cost();
    for (std::int32_t r : *active) {
      cost += 2.5 * b->length * pair_cost() * plan_.tiles[static_cast<std::size_t>(run_at(r).tile)].count;
    }
    return cost;
  }

 protected:
  const LayerKind& kind_;
  const PlanOptions& options_;
  Plan& plan_;

 private:
  std::vector<char> first_tile_;  // per tile: its rows have no keys in an earlier tile
  std::vector<std::int64_t> row_first_;
  std::vector<GroupTile> row_tiles_;
  std::vector<TileWork> work_;
};

/// Forest -> tiles. A tile is (rows, deepest node, path range); sharing decides at which node a range is read.
class ForestPlanner : PlanBuilder {
 public:
  ForestPlanner(const Forest& forest, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept
      : PlanBuilder(kind, options, plan), forest_(forest) {}

  Status build() {
    start(forest_.rows(), forest_.fingerprint);
    plan_.pools = forest_.pools;
    plan_.pages = forest_.pages;
    plan_.segments = forest_.segments;
    for (const Node& n : forest_.nodes) {
      plan_.deltas.push_back(n.delta);
      if (n.length_slot < 0) continue;
      const std::size_t slot = static_cast<std::size_t>(n.length_slot);
      if (plan_.slot_capacity.size() <= slot) plan_.slot_capacity.resize(slot + 1, 0);
      plan_.slot_capacity[slot] = n.length;
    }
    plan_.header.length_slots = static_cast<std::int32_t>(plan_.slot_capacity.size());
    sort_deltas();
    make_tiles();
    if (Status s = finish(forest_.row_map); !s.ok()) return s;
    if (!options_.backward) return Status{};
    named_.clear();
    for (const Node& n : forest_.nodes) {
      if (n.length > 0) named_.push_back({n.segment, n.begin, n.begin + n.length});
    }
    return make_backward();
  }

 private:
  using Index = std::size_t;

  void make_tiles() {
    const std::int32_t nodes = static_cast<std::int32_t>(forest_.nodes.size());
    const std::int32_t before = nodes > 0 ? forest_.row_begin[0] : forest_.rows();
    emit_sequences(0, before, -1, 0);  // empty paths
    start_.assign(static_cast<Index>(nodes), 0);
    partial_budget_ = std::int64_t{kPartialRowsPerRow - 1} * forest_.rows() + kPartialRowsExtra;
    for (std::int32_t v = 0; v < nodes;) {
      const std::int32_t parent = forest_.nodes[static_cast<Index>(v)].parent;
      const std::int32_t x = parent < 0 ? 0 : start_[static_cast<Index>(parent)];
      if (forest_.row_end[static_cast<Index>(v)] == forest_.row_begin[static_cast<Index>(v)]) {
        v = forest_.subtree_end[static_cast<Index>(v)];  // nobody asks below it
      } else if (is_draft_root(v)) {
        emit_draft(v, x);
        v = forest_.subtree_end[static_cast<Index>(v)];
      } else {
        start_[static_cast<Index>(v)] = visit(v, x);
        ++v;
      }
    }
  }

  /// Emits the tiles that end at node v and returns where the paths below it go on.
  std::int32_t visit(std::int32_t v, std::int32_t x) {
    const std::int32_t row_begin = forest_.row_begin[static_cast<Index>(v)];
    const std::int32_t own_end = forest_.own_row_end[static_cast<Index>(v)];
    const std::int32_t row_end = forest_.row_end[static_cast<Index>(v)];
    const std::int32_t end = forest_.path_end(v);
    const std::int32_t shared_end = invariant() ? end / kInvariantChunk * kInvariantChunk : end;
    if (!share(v, x, shared_end)) {
      emit_own(row_begin, own_end, v, x, end);
      return x;
    }
    partial_budget_ -= row_end - row_begin;
    if (row_end - row_begin <= tile_row_limit(kind_)) {
      emit_tiles(row_begin, row_end, v, x, shared_end);
      if (shared_end < end) emit_own(row_begin, own_end, v, shared_end, end);
    } else {  // own rows stay out of the shared tiles: they end here and need no partial state
      emit_own(row_begin, own_end, v, x, end);
      emit_tiles(own_end, row_end, v, x, shared_end);
    }
    return shared_end;
  }

  /// Whether reading path [x, end) once for all rows below v beats reading it once per child and for v's own rows.
  bool share(std::int32_t v, std::int32_t x, std::int32_t end) const noexcept {
    if (options_.sharing == Sharing::never || end <= x) return false;
    const std::int32_t limit = tile_row_limit(kind_);
    const std::int64_t rows = forest_.row_end[static_cast<Index>(v)] - forest_.row_begin[static_cast<Index>(v)];
    const std::int64_t own = forest_.own_row_end[static_cast<Index>(v)] - forest_.row_begin[static_cast<Index>(v)];
    std::int64_t readers = own > 0, reads = ceil_div(own, limit);
    for (std::int32_t c = v + 1; c < forest_.subtree_end[static_cast<Index>(v)];
         c = forest_.subtree_end[static_cast<Index>(c)]) {
      const std::int64_t below = forest_.row_end[static_cast<Index>(c)] - forest_.row_begin[static_cast<Index>(c)];
      readers += below > 0;
      reads += ceil_div(below, limit);
    }
    if (readers < 2 || (!invariant() && rows > partial_budget_)) return false;
    if (options_.sharing == Sharing::always) return true;
    const std::int64_t tiles = ceil_div(rows, limit);
    const CostModel& c = options_.cost;
    const double saved =
        static_cast<double>(reads - tiles) * (end - x) * kind_.Hkv * (kind_.D + kind_.Dv) * c.kv_element;
    const double spent =
        static_cast<double>(rows) * kind_.Hq * (kind_.Dv + 1) * c.partial * 2 + static_cast<double>(tiles) * c.item;
    return saved > spent;
  }

  /// Private tiles: all own rows of a node together, or each sequence alone when nothing is shared.
  void emit_own(std::int32_t begin, std::int32_t end, std::int32_t v, std::int32_t x, std::int32_t y) {
    if (options_.sharing == Sharing::never) {
      emit_sequences(begin, end, v, y);
    } else {
      emit_tiles(begin, end, v, x, y);
    }
  }
  void emit_sequences(std::int32_t begin, std::int32_t end, std::int32_t v, std::int32_t y) {
    while (begin < end) {
      std::int32_t stop = begin + 1;
      const std::int32_t sequence = forest_.row_sequence[static_cast<Index>(begin)];
      while (stop < end && forest_.row_sequence[static_cast<Index>(stop)] == sequence) ++stop;
      emit_tiles(begin, stop, v, 0, y);
      begin = stop;
    }
  }

  /// Tiles of depth-first rows [begin, end) against path positions [x, y) of node v's path.
  void emit_tiles(std::int32_t begin, std::int32_t end, std::int32_t v, std::int32_t x, std::int32_t y) {
    for (std::int32_t at = begin; at < end; at += tile_row_limit(kind_)) {
      const std::int32_t count = std::min(tile_row_limit(kind_), end - at);
      open(at, count, x == 0);
      add_path(at, count, v, x, y);
      close();
    }
  }
  void open(std::int32_t row, std::int32_t count, bool first) {
    open_tile(static_cast<std::int32_t>(plan_.instances.size()), count, first);
    tile_row_ = row;
    tile_deltas_.clear();
  }
  /// A tile without runs still needs its rows.
  void close() {
    if (tile_deltas_.empty()) instances_for(delta_index(0));
  }

  /// First instance of the open tile's rows for a delta; made when first asked for.
  std::int32_t instances_for(std::int32_t delta) {
    for (const auto& [known, first] : tile_deltas_) {
      if (known == delta) return first;
    }
    const std::int32_t first = static_cast<std::int32_t>(plan_.instances.size());
    for (std::int32_t i = 0; i < plan_.tiles.back().count; ++i) {
      RowInstance r = row_instance(tile_row_ + i);
      r.delta = delta;
      plan_.instances.push_back(r);
    }
    tile_deltas_.push_back({delta, first});
    return first;
  }
  RowInstance row_instance(std::int32_t row) const noexcept {
    RowInstance r;
    r.row = forest_.row_map[static_cast<Index>(row)];
    r.order = r.position = forest_.order(row);
    const std::int32_t node = forest_.sequences[static_cast<Index>(forest_.row_sequence[static_cast<Index>(row)])].node;
    r.length_slot = node < 0 ? -1 : forest_.nodes[static_cast<Index>(node)].length_slot;
    return r;
  }

  struct Orders {
    std::int32_t low, lowest, high;  // least and greatest order at capacity; least at any actual length
  };
  Orders orders(std::int32_t row, std::int32_t count) const noexcept {
    Orders o{INT32_MAX, INT32_MAX, INT32_MIN};
    for (std::int32_t i = 0; i < count; ++i) {
      const RowInstance r = row_instance(row + i);
      o.low = std::min(o.low, r.order);
      o.lowest = std::min(o.lowest, lowest_order(r));
      o.high = std::max(o.high, r.order);
    }
    return o;
  }

  /// Runs of path positions [x, y) of node v, less what no row of the tile can see, in path order.
  void add_path(std::int32_t row, std::int32_t count, std::int32_t v, std::int32_t x, std::int32_t y) {
    const Orders o = orders(row, count);
    y = static_cast<std::int32_t>(std::min<std::int64_t>(y, std::int64_t{o.high} + 1));
    if (kind_.window >= 0) {
      std::int64_t low = std::max<std::int64_t>(x, std::int64_t{o.lowest} - kind_.window + 1);
      if (invariant()) low = low / kInvariantChunk * kInvariantChunk;
      x = static_cast<std::int32_t>(std::min<std::int64_t>(std::max<std::int64_t>(x, low), y));
    }
    path_.clear();
    for (std::int32_t n = v; n >= 0 && forest_.path_end(n) > x; n = forest_.nodes[static_cast<Index>(n)].parent) {
      if (forest_.path_begin[static_cast<Index>(n)] < y) path_.push_back(n);
    }
    bool joined = false;
    for (auto n = path_.rbegin(); n != path_.rend(); ++n) joined = add_piece(*n, x, y, o, joined);
  }

  /// The part of node n inside [x, y); grows the run before it where the keys go on without a seam.
  bool add_piece(std::int32_t n, std::int32_t x, std::int32_t y, const Orders& o, bool joinable) {
    const Node& node = forest_.nodes[static_cast<Index>(n)];
    const std::int32_t path = forest_.path_begin[static_cast<Index>(n)];
    const std::int32_t from = std::max(x, path), to = std::min(y, path + node.length);
    if (from >= to) return joinable;
    KeyRun run;
    run.segment = node.segment;
    run.token = node.begin + (from - path);
    run.length = to - from;
    run.position = from;
    run.length_slot = node.length_slot;
    run.length_origin = from - path;
    run.first_instance = instances_for(delta_index(node.delta));
    if (joinable && node.length_slot < 0) {
      KeyRun& last = plan_.runs.back();
      if (last.segment == run.segment && last.token + last.length == run.token &&
          last.first_instance == run.first_instance) {
        last.length += run.length;
        last.mask = mask_of(last, o);
        return true;
      }
    }
    run.mask = mask_of(run, o);
    add_run(run);
    return node.length_slot < 0;
  }
  MaskKind mask_of(const KeyRun& run, const Orders& o) const noexcept {
    const bool below = run.position + run.length - 1 <= o.lowest;
    const bool inside = kind_.window < 0 || std::int64_t{run.position} > std::int64_t{o.high} - kind_.window;
    return below && inside && run.length_slot < 0 ? MaskKind::full : MaskKind::interval;
  }

  /// Whether everything below v is a draft tree: up to 64 tokens in short nodes, consecutive slots of one segment.
  bool is_draft_root(std::int32_t v) const noexcept {
    const std::int32_t end = forest_.subtree_end[static_cast<Index>(v)];
    const std::int32_t nodes = end - v - 1;
    const std::int32_t rows = forest_.row_end[static_cast<Index>(v)] - forest_.own_row_end[static_cast<Index>(v)];
    if (invariant() || options_.sharing == Sharing::never || nodes < 2 || nodes > kDraftTokens || rows < 2)
      return false;
    const Node& first = forest_.nodes[static_cast<Index>(v + 1)];
    std::int32_t low = INT32_MAX, high = INT32_MIN, tokens = 0;
    for (std::int32_t n = v + 1; n < end; ++n) {
      const Node& node = forest_.nodes[static_cast<Index>(n)];
      if (node.length < 1 || node.segment != first.segment || node.delta != first.delta || node.length_slot >= 0)
        return false;
      low = std::min(low, node.begin);
      high = std::max(high, node.begin + node.length);
      tokens += node.length;
      if (tokens > kDraftTokens) return false;
    }
    if (high - low != tokens || tokens > 2 * nodes) return false;
    std::uint64_t seen = 0;  // disjoint: every slot exactly once
    for (std::int32_t n = v + 1; n < end; ++n) seen |= token_bits(n, low, forest_.nodes[static_cast<Index>(n)].length);
    return seen == low_bits(tokens);
  }
  static std::uint64_t low_bits(std::int32_t n) noexcept {
    return n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
  }
  std::uint64_t token_bits(std::int32_t n, std::int32_t low, std::int32_t count) const noexcept {
    return count <= 0 ? 0 : low_bits(count) << (forest_.nodes[static_cast<Index>(n)].begin - low);
  }

  /// Rows of v's subtree: the path up to and with v, then the whole draft tree as one run with ancestor bits.
  void emit_draft(std::int32_t v, std::int32_t x) {
    KeyRun draft;
    const std::int32_t end = forest_.subtree_end[static_cast<Index>(v)];
    std::int32_t low = INT32_MAX, tokens = 0;
    for (std::int32_t n = v + 1; n < end; ++n) {
      low = std::min(low, forest_.nodes[static_cast<Index>(n)].begin);
      tokens += forest_.nodes[static_cast<Index>(n)].length;
    }
    draft.segment = forest_.nodes[static_cast<Index>(v + 1)].segment;
    draft.token = low;
    draft.length = tokens;
    draft.position = forest_.path_end(v);
    draft.mask = MaskKind::bits;
    const std::int32_t row_end = forest_.row_end[static_cast<Index>(v)];
    for (std::int32_t at = forest_.row_begin[static_cast<Index>(v)]; at < row_end; at += tile_row_limit(kind_)) {
      const std::int32_t count = std::min(tile_row_limit(kind_), row_end - at);
      open(at, count, x == 0);
      add_path(at, count, v, x, forest_.path_end(v));
      draft.first_instance = instances_for(delta_index(forest_.nodes[static_cast<Index>(v + 1)].delta));
      draft.first_word = static_cast<std::int64_t>(plan_.words.size());
      for (std::int32_t i = 0; i < count; ++i) plan_.words.push_back(draft_word(at + i, v, low));
      add_run(draft);
    }
  }
  /// Visible draft tokens of a row: ancestors-or-self up to its order and inside the window, which cannot go stale here
  /// because a draft tree has no length slots.
  std::uint64_t draft_word(std::int32_t row, std::int32_t root, std::int32_t low) const noexcept {
    const std::int64_t order = forest_.order(row);
    const std::int64_t first = kind_.window < 0 ? INT32_MIN : order - kind_.window + 1;
    std::uint64_t word = 0;
    std::int32_t n = forest_.sequences[static_cast<Index>(forest_.row_sequence[static_cast<Index>(row)])].node;
    for (; n != root; n = forest_.nodes[static_cast<Index>(n)].parent) {
      const std::int64_t path = forest_.path_begin[static_cast<Index>(n)];
      const std::int32_t length = forest_.nodes[static_cast<Index>(n)].length;
      const auto upto = [&](std::int64_t position) {
        return static_cast<std::int32_t>(std::clamp<std::int64_t>(position - path, 0, length));
      };
      word |= token_bits(n, low, upto(order + 1)) & ~token_bits(n, low, upto(first));
    }
    return word;
  }

  const Forest& forest_;
  std::vector<std::int32_t> start_;  // per node: path position where the ranges of its children start
  std::int64_t partial_budget_ = 0;
  std::int32_t tile_row_ = 0;
  std::vector<std::pair<std::int32_t, std::int32_t>> tile_deltas_;  // of the open tile: delta index, first instance
  std::vector<std::int32_t> path_;
};

/// Explicit rectangles -> tiles. Consecutive rectangles on the same rows become one tile.
class RectanglePlanner : PlanBuilder {
 public:
  RectanglePlanner(const RectangleInput& input, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept
      : PlanBuilder(kind, options, plan), input_(input) {}

  Status build() {
    if (Status s = check(); !s.ok()) return s;
    start(input_.q_rows, hash());
    plan_.pools.assign(input_.pools.begin(), input_.pools.end());
    plan_.pages.assign(input_.pages.begin(), input_.pages.end());
    plan_.segments.assign(input_.segments.begin(), input_.segments.end());
    plan_.words.assign(input_.words.begin(), input_.words.end());
    for (const RowInstance& r : input_.rows) plan_.deltas.push_back(r.delta);
    sort_deltas();
    for (RowInstance r : input_.rows) {
      r.delta = delta_index(r.delta);
      plan_.instances.push_back(r);
    }
    make_tiles();
    std::vector<std::int32_t> row_order(static_cast<std::size_t>(input_.q_rows));
    for (std::size_t i = 0; i < row_order.size(); ++i) row_order[i] = static_cast<std::int32_t>(i);
    if (Status s = finish(row_order); !s.ok()) return s;
    if (!options_.backward) return Status{};
    named_.clear();
    for (const Rectangle& r : input_.rectangles) named_.push_back({r.segment, r.token, r.token + r.length});
    return make_backward();
  }

 private:
  void make_tiles() {
    const std::int32_t limit = tile_row_limit(kind_);
    std::vector<char> seen(static_cast<std::size_t>(input_.q_rows), 0);
    for (std::int64_t i = 0; i < input_.rectangles.size();) {
      std::int64_t end = i + 1;
      while (end < input_.rectangles.size() && same_rows(input_.rectangles[i], input_.rectangles[end])) ++end;
      const Rectangle& first = input_.rectangles[i];
      for (std::int32_t at = 0; at < first.row_count; at += limit) {
        open_tile(first.first_row + at, std::min(limit, first.row_count - at), false);
        for (std::int64_t r = i; r < end; ++r) add_rectangle(input_.rectangles[r], at);
      }
      for (std::int32_t k = 0; k < first.row_count; ++k) seen[row_index(first.first_row + k)] = 1;
      i = end;
    }
    for (std::int32_t row = 0; row < input_.q_rows; ++row) {  // empty rows
      if (seen[static_cast<std::size_t>(row)]) continue;
      RowInstance r;
      r.row = row;
      r.delta = delta_index(0);
      open_tile(static_cast<std::int32_t>(plan_.instances.size()), 1, true);
      plan_.instances.push_back(r);
    }
  }
  std::size_t row_index(std::int32_t i) const noexcept { return static_cast<std::size_t>(input_.rows[i].row); }
  bool same_rows(const Rectangle& a, const Rectangle& b) const noexcept {
    if (a.row_count != b.row_count) return false;
    for (std::int32_t i = 0; i < a.row_count; ++i) {
      if (input_.rows[a.first_row + i].row != input_.rows[b.first_row + i].row) return false;
    }
    return true;
  }
  void add_rectangle(const Rectangle& r, std::int32_t row) {
    if (r.length == 0) return;
    KeyRun run;
    run.segment = r.segment;
    run.token = r.token;
    run.length = r.length;
    run.position = r.position;
    run.first_instance = r.first_row + row;
    run.mask = r.mask;
    run.first_word = r.first_word + static_cast<std::int64_t>(row) * ceil_div(r.length, 64);
    add_run(run);
  }

  Status check() const {
    const auto bad = [](const char* argument, const char* field, std::int64_t index, const char* relation,
                        std::int64_t got,
                        std::int64_t want) { return plan_error(argument, field, index, relation, got, want); };
    if (options_.mode == Mode::batch_invariant) {
      return plan_error("options", "mode", -1, "==", static_cast<int>(options_.mode), 0, StatusCode::unsupported);
    }
    if (Status s = check_spans(); !s.ok()) return s;
    if (input_.q_rows < 0) return bad("q_rows", "", -1, ">=", input_.q_rows, 0);
    for (std::int64_t i = 0; i < input_.rows.size(); ++i) {
      const RowInstance& r = input_.rows[i];
      if (r.row < 0) return bad("rows", "row", i, ">=", r.row, 0);
      if (r.row >= input_.q_rows) return bad("rows", "row", i, "<", r.row, input_.q_rows);
      if (r.length_slot != -1) return bad("rows", "length_slot", i, "==", r.length_slot, -1);
    }
    if (Status s = check_segments(); !s.ok()) return s;
    return check_rectangles();
  }
  Status check_spans() const noexcept {
    if (Status s = check_span(kPlanOp, "pools", input_.pools); !s.ok()) return s;
    if (Status s = check_span(kPlanOp, "pages", input_.pages); !s.ok()) return s;
    if (Status s = check_span(kPlanOp, "segments", input_.segments); !s.ok()) return s;
    if (Status s = check_span(kPlanOp, "rows", input_.rows); !s.ok()) return s;
    if (Status s = check_span(kPlanOp, "rectangles", input_.rectangles); !s.ok()) return s;
    return check_span(kPlanOp, "words", input_.words, INT64_MAX);
  }
  Status check_segments() const {
    for (std::int64_t i = 0; i < input_.pools.size(); ++i) {
      const PoolShape& pool = input_.pools[i];
      if (pool.page_size < 1) return plan_error("pools", "page_size", i, ">=", pool.page_size, 1);
      if (pool.num_pages < 0) return plan_error("pools", "num_pages", i, ">=", pool.num_pages, 0);
    }
    for (std::int64_t i = 0; i < input_.segments.size(); ++i) {
      const Segment& s = input_.segments[i];
      if (s.pool < 0 || s.pool >= input_.pools.size()) {
        return plan_error("segments", "pool", i, s.pool < 0 ? ">=" : "<", s.pool, s.pool < 0 ? 0 : input_.pools.size());
      }
      const PoolShape& pool = input_.pools[s.pool];
      if (s.length < 0) return plan_error("segments", "length", i, ">=", s.length, 0);
      if (s.offset < 0) return plan_error("segments", "offset", i, ">=", s.offset, 0);
      if (s.offset >= pool.page_size) return plan_error("segments", "offset", i, "<", s.offset, pool.page_size);
      if (s.first_page < 0) return plan_error("segments", "first_page", i, ">=", s.first_page, 0);
      const std::int64_t pages = s.length == 0 ? 0 : ceil_div(std::int64_t{s.offset} + s.length, pool.page_size);
      if (s.first_page + pages > input_.pages.size()) {
        return plan_error("segments", "first_page", i, "<=", s.first_page + pages, input_.pages.size());
      }
      for (std::int64_t p = s.first_page; p < s.first_page + pages; ++p) {
        const std::int32_t page = input_.pages[p];
        if (page < 0) return plan_error("pages", "", p, ">=", page, 0);
        if (page >= pool.num_pages) return plan_error("pages", "", p, "<", page, pool.num_pages);
      }
    }
    return Status{};
  }
  Status check_rectangles() const {
    std::vector<std::int64_t> last(static_cast<std::size_t>(input_.q_rows), -1);
    for (std::int64_t i = 0; i < input_.rectangles.size(); ++i) {
      const Rectangle& r = input_.rectangles[i];
      if (r.first_row < 0) return plan_error("rectangles", "first_row", i, ">=", r.first_row, 0);
      if (r.row_count < 0) return plan_error("rectangles", "row_count", i, ">=", r.row_count, 0);
      if (std::int64_t{r.first_row} + r.row_count > input_.rows.size()) {
        return plan_error("rectangles", "row_count", i, "<=", std::int64_t{r.first_row} + r.row_count,
                          input_.rows.size());
      }
      if (r.segment < 0) return plan_error("rectangles", "segment", i, ">=", r.segment, 0);
      if (r.segment >= input_.segments.size())
        return plan_error("rectangles", "segment", i, "<", r.segment, input_.segments.size());
      if (r.length < 0) return plan_error("rectangles", "length", i, ">=", r.length, 0);
      if (r.token < 0) return plan_error("rectangles", "token", i, ">=", r.token, 0);
      const std::int64_t end = std::int64_t{r.token} + r.length;
      if (end > input_.segments[r.segment].length)
        return plan_error("rectangles", "length", i, "<=", end, input_.segments[r.segment].length);
      if (std::int64_t{r.position} + r.length > INT32_MAX)
        return plan_error("rectangles", "position", i, "<=", r.position, INT32_MAX - r.length);
      if (static_cast<int>(r.mask) > 2) return plan_error("rectangles", "mask", i, "<=", static_cast<int>(r.mask), 2);
      const std::int64_t words = r.mask == MaskKind::bits ? r.row_count * ceil_div(r.length, 64) : 0;
      if (words > 0 && r.first_word < 0) return plan_error("rectangles", "first_word", i, ">=", r.first_word, 0);
      if (words > 0 && r.first_word > input_.words.size() - words) {
        return plan_error("rectangles", "first_word", i, "<=", r.first_word, input_.words.size() - words);
      }
      for (std::int32_t k = 0; k < r.row_count; ++k) {  // a row twice in one rectangle would count its keys twice
        std::int64_t& mark = last[row_index(r.first_row + k)];
        if (mark == i)
          return plan_error("rectangles", "row", i, "!=", input_.rows[r.first_row + k].row,
                            input_.rows[r.first_row + k].row);
        mark = i;
      }
    }
    return Status{};
  }

  std::uint64_t hash() const noexcept {
    std::uint64_t h = 0xcbf29ce484222325u;
    const auto mix = [&h](std::int64_t value) {
      h = (h ^ static_cast<std::uint64_t>(value)) * 0x9e3779b97f4a7c15u;
      h ^= h >> 29;
    };
    for (const RowInstance& r : input_.rows) mix(r.row), mix(r.order), mix(r.position), mix(r.delta);
    for (const Rectangle& r : input_.rectangles)
      mix(r.first_row), mix(r.row_count), mix(r.segment), mix(r.token), mix(r.length), mix(r.position);
    for (const std::int32_t p : input_.pages) mix(p);
    for (const std::uint64_t w : input_.words) mix(static_cast<std::int64_t>(w));
    return h | 1u;
  }

  const RectangleInput& input_;
};

inline Status check_options(const LayerKind& kind, const PlanOptions& options, const Plan* plan) noexcept {
  if (Status s = validate(kind, kPlanOp); !s.ok()) return s;
  if (plan == nullptr) {
    Status s = plan_error("plan", "", -1, "==", 0, 1);
    s.unit = StatusUnit::pointer;
    return s;
  }
  if (options.target_parallelism < 1) {
    return plan_error("options", "target_parallelism", -1, ">=", options.target_parallelism, 1);
  }
  if (static_cast<int>(options.mode) > 1)
    return plan_error("options", "mode", -1, "<=", static_cast<int>(options.mode), 1);
  if (static_cast<int>(options.sharing) > 2)
    return plan_error("options", "sharing", -1, "<=", static_cast<int>(options.sharing), 2);
  const double costs[] = {options.cost.item, options.cost.kv_element, options.cost.mac, options.cost.partial};
  for (const double c : costs) {
    if (!(c >= 0 && c < 1e9))
      return plan_error("options", "cost", -1, "in [0, 1e9)", static_cast<std::int64_t>(c < 0 ? -1 : 0), 0);
  }
  return Status{};
}

template <class Planner, class Input>
Status run_planner(const Input& input, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept {
  if (Status s = check_options(kind, options, plan); !s.ok()) return s;
  try {
    return Planner(input, kind, options, plan).build();
  } catch (...) {  // only allocation throws here
    return out_of_memory(kPlanOp, "plan");
  }
}

}  // namespace detail

inline Status make_plan(const Forest& forest, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept {
  return detail::run_planner<detail::ForestPlanner>(forest, kind, options, plan);
}

inline Status make_plan(const RectangleInput& input, const LayerKind& kind, const PlanOptions& options,
                        Plan* plan) noexcept {
  return detail::run_planner<detail::RectanglePlanner>(input, kind, options, plan);
}

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/plan_tools_impl.hpp"
