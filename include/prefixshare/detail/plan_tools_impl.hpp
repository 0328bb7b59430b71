// SPDX-License-Identifier: Apache-2.0
// What surrounds a finished plan: view, comparison, limits, append slots, text.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <tuple>

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline auto fields(const PoolShape& x) { return std::tie(x.page_size, x.num_pages); }
inline auto fields(const Segment& x) { return std::tie(x.pool, x.first_page, x.offset, x.length); }
inline auto fields(const RowInstance& x) { return std::tie(x.row, x.order, x.position, x.delta, x.length_slot); }
inline auto fields(const RowTile& x) {
  return std::tie(x.first, x.count, x.first_run, x.run_count, x.first_group, x.group_count);
}
inline auto fields(const KeyRun& x) {
  return std::tie(x.tile, x.segment, x.token, x.length, x.position, x.first_instance, x.length_slot, x.length_origin,
                  x.mask, x.first_word);
}
inline auto fields(const Item& x) {
  return std::tie(x.tile, x.first_run, x.run_count, x.head_begin, x.head_end, x.slot, x.fold, x.cost);
}
inline auto fields(const ReduceGroup& x) {
  return std::tie(x.first_row, x.row_count, x.first_part, x.part_count, x.arrivals, x.first_tile, x.tile_count, x.cost);
}
inline auto fields(const GroupTile& x) { return std::tie(x.tile, x.offset); }
inline auto fields(const KeyBlock& x) {
  return std::tie(x.segment, x.token, x.length, x.first_run, x.run_count, x.cost);
}
inline auto fields(const LayerKind& x) { return std::tie(x.Hq, x.Hkv, x.D, x.Dv, x.window, x.q_dtype, x.kv_dtype); }
inline auto fields(const PlanHeader& x) {
  return std::tie(x.version, x.mode, x.backward, x.space, x.target_parallelism, x.rows, x.tile_rows, x.length_slots,
                  x.partial_rows, x.total_cost, x.total_group_cost, x.total_block_cost);
}

template <class T>
bool equal_lists(const std::vector<T>& a, const std::vector<T>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const T& x, const T& y) { return fields(x) == fields(y); });
}

}  // namespace detail

inline PlanView Plan::view() const noexcept {
  PlanView v;
  v.header = header;
  v.pools = pools;
  v.pages = pages;
  v.segments = segments;
  v.deltas = deltas;
  v.slot_capacity = slot_capacity;
  v.words = words;
  v.instances = instances;
  v.tiles = tiles;
  v.runs = runs;
  v.items = items;
  v.groups = groups;
  v.group_rows = group_rows;
  v.parts = parts;
  v.tile_groups = tile_groups;
  v.group_tiles = group_tiles;
  v.blocks = blocks;
  v.block_runs = block_runs;
  return v;
}

inline bool operator==(const LayerKind& a, const LayerKind& b) noexcept {
  return detail::fields(a) == detail::fields(b);
}

namespace detail {

/// Headers of equal work: all but `sharing` and the fingerprint.
inline bool equal_headers(const PlanHeader& a, const PlanHeader& b) noexcept {
  return fields(a) == fields(b) && a.kind == b.kind && std::strcmp(a.implementation, b.implementation) == 0 &&
         std::strcmp(a.backward_implementation, b.backward_implementation) == 0;
}

}  // namespace detail

inline bool operator==(const Plan& a, const Plan& b) noexcept {
  using detail::equal_lists;
  return detail::equal_headers(a.header, b.header) && equal_lists(a.pools, b.pools) && a.pages == b.pages &&
         equal_lists(a.segments, b.segments) && a.deltas == b.deltas && a.slot_capacity == b.slot_capacity &&
         a.words == b.words && equal_lists(a.instances, b.instances) && equal_lists(a.tiles, b.tiles) &&
         equal_lists(a.runs, b.runs) && equal_lists(a.items, b.items) && equal_lists(a.groups, b.groups) &&
         a.group_rows == b.group_rows && a.parts == b.parts && a.tile_groups == b.tile_groups &&
         equal_lists(a.group_tiles, b.group_tiles) && equal_lists(a.blocks, b.blocks) && a.block_runs == b.block_runs;
}

inline PlanLimits limits_of(const Plan& plan, std::int32_t parts) noexcept {
  PlanLimits limits;
  limits.rows = plan.header.rows;
  limits.parts = parts;
  limits.mode = plan.header.mode;
  limits.partial_rows = plan.header.partial_rows;
  limits.space = plan.header.space;
  for (const KeyRun& r : plan.runs) {
    limits.max_context = std::max<std::int64_t>(limits.max_context, std::int64_t{r.position} + r.length);
  }
  return limits;
}

namespace detail {

/// Path node that holds position `at` on the way up from node n; -1 if none does.
inline std::int32_t node_at(const Forest& f, std::int32_t n, std::int64_t at) noexcept {
  while (n >= 0 && f.path_begin[static_cast<std::size_t>(n)] > at) n = f.nodes[static_cast<std::size_t>(n)].parent;
  while (n >= 0 && f.path_end(n) <= at) n = -1;
  return at < 0 ? -1 : n;
}

inline constexpr const char* kSlotsOp = "append_slots";

/// An array of exactly `size` elements.
template <class T>
Status check_slot_array(const char* argument, Span<T> array, std::int64_t size) noexcept {
  if (array.size() == size) return check_span(kSlotsOp, argument, array);
  return refuse(StatusCode::invalid_argument, kSlotsOp, argument, -1, "size", array.size(), "==", size);
}

/// One actual length per length slot, or none at all, within its capacity.
inline Status check_slot_lengths(const Forest& f, Span<const std::int32_t> lengths) noexcept {
  if (lengths.empty()) return {};
  std::int64_t slots = 0;
  for (const Node& n : f.nodes) slots += n.length_slot >= 0;
  if (Status s = check_slot_array("actual_lengths", lengths, slots); !s.ok()) return s;
  for (const Node& n : f.nodes) {
    const std::int32_t slot = n.length_slot, length = slot < 0 ? 0 : lengths[slot];
    if (length < 0) return refuse(StatusCode::invalid_argument, kSlotsOp, "actual_lengths", slot, "", length, ">=", 0);
    if (slot >= 0 && length > n.length) {
      return refuse(StatusCode::capacity_exceeded, kSlotsOp, "actual_lengths", slot, "", length, "<=", n.length);
    }
  }
  return {};
}

inline Status check_append_slots(const Forest& f, std::int32_t pool, Span<std::int64_t> slots,
                                 Span<std::int32_t> positions, Span<const std::int32_t> actual_lengths) noexcept {
  constexpr StatusCode kInvalid = StatusCode::invalid_argument;
  const std::int64_t pools = static_cast<std::int64_t>(f.pools.size());
  if (pool < 0) return refuse(kInvalid, kSlotsOp, "pool", -1, "", pool, ">=", 0);
  if (pool >= pools) return refuse(kInvalid, kSlotsOp, "pool", -1, "", pool, "<", pools);
  if (Status s = check_slot_array("slots", slots, f.rows()); !s.ok()) return s;
  if (Status s = check_slot_array("positions", positions, f.rows()); !s.ok()) return s;
  return check_slot_lengths(f, actual_lengths);
}

/// Finds the slot of each row's token; duplicates are resolved afterwards.
inline void find_slots(const Forest& f, std::int32_t pool, Span<std::int64_t> slots, Span<std::int32_t> positions,
                       Span<const std::int32_t> actual_lengths) noexcept {
  for (std::int32_t r = 0; r < f.rows(); ++r) {
    const std::int32_t row = f.row_map[static_cast<std::size_t>(r)];
    slots[row] = -1;
    positions[row] = 0;
    std::int32_t n = f.sequences[static_cast<std::size_t>(f.row_sequence[static_cast<std::size_t>(r)])].node;
    if (n < 0) continue;
    std::int64_t at = f.order(r);
    const std::int32_t slot = f.nodes[static_cast<std::size_t>(n)].length_slot;
    if (slot >= 0 && !actual_lengths.empty()) at -= f.nodes[static_cast<std::size_t>(n)].length - actual_lengths[slot];
    n = node_at(f, n, at);
    if (n < 0) continue;
    const Node& node = f.nodes[static_cast<std::size_t>(n)];
    const Segment& segment = f.segments[static_cast<std::size_t>(node.segment)];
    if (segment.pool != pool) continue;
    const std::int64_t size = f.pools[static_cast<std::size_t>(pool)].page_size;
    const std::int64_t token = segment.offset + node.begin + (at - f.path_begin[static_cast<std::size_t>(n)]);
    slots[row] = f.pages[static_cast<std::size_t>(segment.first_page + token / size)] * size + token % size;
    positions[row] = static_cast<std::int32_t>(at - node.delta);
  }
}

}  // namespace detail

inline Status append_slots(const Forest& forest, std::int32_t pool, Span<std::int64_t> slots,
                           Span<std::int32_t> positions, Span<const std::int32_t> actual_lengths) noexcept {
  if (Status s = detail::check_append_slots(forest, pool, slots, positions, actual_lengths); !s.ok()) return s;
  try {
    std::vector<std::pair<std::int64_t, std::int32_t>> order;  // (slot, depth-first row)
    order.reserve(static_cast<std::size_t>(forest.rows()));
    detail::find_slots(forest, pool, slots, positions, actual_lengths);
    for (std::int32_t r = 0; r < forest.rows(); ++r) {
      const std::int64_t slot = slots[forest.row_map[static_cast<std::size_t>(r)]];
      if (slot >= 0) order.push_back({slot, r});
    }
    std::sort(order.begin(), order.end());
    for (std::size_t i = 1; i < order.size(); ++i) {
      if (order[i].first == order[i - 1].first) slots[forest.row_map[static_cast<std::size_t>(order[i].second)]] = -1;
    }
    return Status{};
  } catch (...) {  // only allocation throws here
    return detail::out_of_memory(detail::kSlotsOp, "slots");
  }
}

inline std::string to_string(const Plan& plan, int max_items) {
  char line[256];
  const PlanHeader& h = plan.header;
  std::snprintf(line, sizeof line, "plan %s, %s: %d rows, Hq %d, Hkv %d, D %d, Dv %d, window %d, q %s, kv %s\n",
                h.implementation, h.mode == Mode::fast ? "fast" : "batch_invariant", h.rows, h.kind.Hq, h.kind.Hkv,
                h.kind.D, h.kind.Dv, h.kind.window, to_string(h.kind.q_dtype), to_string(h.kind.kv_dtype));
  std::string text = line;
  std::snprintf(line, sizeof line,
                "%zu tiles, %zu runs, %zu items, %zu groups, %lld partial rows, %zu key blocks, %.3f ms predicted\n",
                plan.tiles.size(), plan.runs.size(), plan.items.size(), plan.groups.size(),
                static_cast<long long>(h.partial_rows), plan.blocks.size(), static_cast<double>(h.total_cost) * 1e-6);
  text += line;
  for (std::size_t i = 0; i < plan.items.size() && i < static_cast<std::size_t>(max_items); ++i) {
    const Item& item = plan.items[i];
    const RowTile& tile = plan.tiles[static_cast<std::size_t>(item.tile)];
    std::snprintf(line, sizeof line, "  item %zu: %d rows from row %d, heads [%d, %d), %s:", i, tile.count,
                  plan.instances[static_cast<std::size_t>(tile.first)].row, item.head_begin, item.head_end,
                  item.slot < 0 ? "final" : "partial");
    text += line;
    for (std::int32_t r = 0; r < item.run_count; ++r) {
      static constexpr const char* kMasks[] = {"full", "interval", "bits"};
      const KeyRun& run = plan.runs[static_cast<std::size_t>(item.first_run + r)];
      std::snprintf(line, sizeof line, " %d[%d,%d)@%d %s", run.segment, run.token, run.token + run.length, run.position,
                    kMasks[static_cast<int>(run.mask)]);
      text += line;
    }
    text += '\n';
  }
  if (plan.items.size() > static_cast<std::size_t>(max_items)) {
    text += "  ... " + std::to_string(plan.items.size() - static_cast<std::size_t>(max_items)) + " more items\n";
  }
  return text;
}

namespace detail {

/// "  node 3: path [1000, 1064), 4 of 12 rows its own: shared from 1000 (shared 12.3 us, folded 20.1 us)"
inline std::string decision_line(const NodeDecision& d) {
  static constexpr const char* kReadings[] = {"shared", "folded into what is below", "read alone",
                                              "read with its draft tree"};
  static constexpr const char* kReasons[] = {"", "one reader", "asked for", "no whole chunk",
                                             "no room for partial states"};
  char line[256];
  std::snprintf(line, sizeof line, "  node %d: path [%d, %d), %d of %d rows its own: %s from %d", d.node, d.begin,
                d.end, d.own_rows, d.all_rows, kReadings[static_cast<int>(d.reading)], d.from);
  if (d.reading == NodeDecision::Reading::draft) return line + std::string("\n");
  std::string text = line + std::string(" (") + kReasons[static_cast<int>(d.reason)];
  if (d.shared_cost > 0 || d.folded_cost > 0) {
    const bool named = d.reason != NodeDecision::Reason::cost;
    std::snprintf(line, sizeof line, "%sshared %.1f us, folded %.1f us", named ? "; " : "", 1e-3 * d.shared_cost,
                  1e-3 * d.folded_cost);
    text += line;
  }
  return text + ")\n";
}

}  // namespace detail

inline std::string explain(const Plan& plan, int max_nodes) {
  using Reading = NodeDecision::Reading;
  const auto nodes = [&plan](Reading r) {
    return std::count_if(plan.decisions.begin(), plan.decisions.end(),
                         [r](const NodeDecision& d) { return d.reading == r; });
  };
  char line[256];
  std::snprintf(
      line, sizeof line,
      "plan %s, %.1f us predicted on one thread: %d nodes shared, %d folded, %d read alone, %d with draft trees; "
      "%zu items, %lld partial rows\n",
      plan.header.implementation, 1e-3 * static_cast<double>(plan.header.total_cost),
      static_cast<int>(nodes(Reading::shared)), static_cast<int>(nodes(Reading::folded)),
      static_cast<int>(nodes(Reading::alone)), static_cast<int>(nodes(Reading::draft)), plan.items.size(),
      static_cast<long long>(plan.header.partial_rows));
  std::string text = line;
  const std::size_t shown = std::min(plan.decisions.size(), static_cast<std::size_t>(std::max(max_nodes, 0)));
  for (std::size_t i = 0; i < shown; ++i) text += detail::decision_line(plan.decisions[i]);
  if (shown < plan.decisions.size()) text += "  and " + std::to_string(plan.decisions.size() - shown) + " nodes more\n";
  return text;
}

}  // namespace v0_1
}  // namespace prefixshare
