// SPDX-License-Identifier: Apache-2.0
// Plan: a forest (or explicit rectangles) lowered to balanced work items. Made once per step on the host, used by every
// layer of one kind. Plain data without pointers: compare, copy and print it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/span.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/tensor.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// All of a layer that changes work or visibility. One plan serves every layer of one kind.
struct LayerKind {
  std::int32_t Hq = 1;       ///< query heads, a multiple of Hkv
  std::int32_t Hkv = 1;      ///< key/value heads
  std::int32_t D = 64;       ///< head dim of q and k
  std::int32_t Dv = 64;      ///< head dim of v and o
  std::int32_t window = -1;  ///< W >= 1: a row sees the last W path tokens up to its own; -1: all of them
  DType q_dtype = DType::f32;
  DType kv_dtype = DType::f32;

  /// Query heads per key/value head.
  constexpr std::int32_t group() const noexcept { return Hq / Hkv; }
  /// Arithmetic, partial states and lse are f64 if any storage type is, else f32.
  constexpr DType acc_dtype() const noexcept {
    return q_dtype == DType::f64 || kv_dtype == DType::f64 ? DType::f64 : DType::f32;
  }
};

/// fast: cuts follow the cost model. batch_invariant: the bits of a sequence's forward do not depend on its neighbours;
/// keys are cut at absolute path positions (multiples of kInvariantChunk) and only whole chunks are shared.
enum class Mode : std::uint8_t { fast, batch_invariant };

/// automatic: the cost model decides per node; never: every sequence reads its whole path alone; always: every node
/// with two or more readers is read once; given: as `PlanOptions::shared` says.
enum class Sharing : std::uint8_t { automatic, never, always, given };

/// Constants of an implementation's time, nanoseconds on one thread. A tile with p = rows * group packed rows per KV
/// head, on k keys, takes
///   item + k * Hkv * (D + Dv) * (kv_element + ceil(p / row_step) * row_step * mac)
/// or, where p <= few_rows and a body for few rows runs (not in batch_invariant mode),
///   item + k * Hkv * (D + Dv) * (few_kv_element + p * few_mac),
/// and partial * Hq * (Dv + 1) for every row whose state is merged with others. Keys come from a cache: what sharing
/// saves is reading them again. An implementation that works by head starts Hkv * ceil(p / row_step) pieces for a tile,
/// and `item` is of each. The defaults are those of `cpu:portable`.
struct CostModel {
  double item = 500;         ///< starting an item
  double kv_element = 0.15;  ///< bringing one key or value element to the arithmetic units
  double mac = 0.074;        ///< one multiply-add
  double partial = 1.4;      ///< writing, reading and merging one element of a partial state
  double few_kv_element = 0;
  double few_mac = 0;
  double min_item = 20000;    ///< smaller items are not cut further
  std::int32_t row_step = 4;  ///< packed rows that are multiplied together
  std::int32_t few_rows = 0;  ///< packed rows that have a body of their own, at most; 0: there is none
  bool by_head = false;       ///< an item is of one KV head: keys are cut where heads are not enough
};

inline constexpr std::int32_t kInvariantChunk = 512;  ///< path tokens of a chunk in batch_invariant mode
inline constexpr std::int32_t kTileRows = 128;  ///< packed rows (query rows x group) of a row tile, at most (or group)
inline constexpr std::int32_t kKeyBlock = 128;  ///< keys of one dK/dV owner, at most
inline constexpr std::int32_t kPartialRowsPerRow = 8;  ///< fast mode: partial rows <= 8 * rows + kPartialRowsExtra
inline constexpr std::int32_t kPartialRowsExtra = 8192;
inline constexpr std::int32_t kPlanVersion = 1;
inline constexpr int kNameCapacity = 32;  ///< of an implementation's name, with the terminating zero

struct PlanOptions {
  Mode mode = Mode::fast;
  Sharing sharing = Sharing::automatic;
  Span<const std::uint8_t> shared;      ///< Sharing::given: per node of the forest, whether to read it once (not 0)
  bool backward = false;                ///< also build the transposed lists
  std::int32_t target_parallelism = 8;  ///< workers to balance for; an input of the plan, never read from the machine
  CostModel cost;
};

/// How a rectangle's keys are visible to its rows.
enum class MaskKind : std::uint8_t {
  full,      ///< every row sees every key
  interval,  ///< key at mask position p is visible to a row of order t iff p <= t and (no window or p > t - window)
  bits       ///< bit j of the row's words says whether key j is visible
};

/// A query row as one list of keys meets it.
struct RowInstance {
  std::int32_t row = 0;           ///< caller's query row
  std::int32_t order = 0;         ///< mask order
  std::int32_t position = 0;      ///< RoPE position of the query
  std::int32_t delta = 0;         ///< index into Plan::deltas; the query turns by minus that
  std::int32_t length_slot = -1;  ///< order and position fall by capacity - actual length of this slot
};

/// Consecutive instances that are worked on together.
struct RowTile {
  std::int32_t first = 0;  ///< into Plan::instances: the canonical instances (the rows) of the tile
  std::int32_t count = 0;
  std::int32_t first_run = 0;  ///< its key runs, in key order
  std::int32_t run_count = 0;
  std::int32_t first_group = 0;  ///< into Plan::tile_groups: reduce groups that its rows belong to
  std::int32_t group_count = 0;
};

/// A rectangle: the rows of a tile against consecutive keys of a segment.
struct KeyRun {
  std::int32_t tile = 0;
  std::int32_t segment = 0;
  std::int32_t token = 0;           ///< first token inside the segment
  std::int32_t length = 0;          ///< keys; a capacity when length_slot >= 0
  std::int32_t position = 0;        ///< mask position (path position) of the first key
  std::int32_t first_instance = 0;  ///< instances of the tile's rows for this run, same count and order as the tile
  std::int32_t length_slot = -1;    ///< actual keys: clamp(actual[slot] - length_origin, 0, length)
  std::int32_t length_origin = 0;
  MaskKind mask = MaskKind::interval;
  std::int64_t first_word = 0;  ///< bits: word of row 0; row i starts at first_word + i * ceil(length / 64)
};

/// One piece of forward work: a tile against some of its runs for some KV heads.
struct Item {
  std::int32_t tile = 0;
  std::int32_t first_run = 0;
  std::int32_t run_count = 0;
  std::int32_t head_begin = 0;  ///< KV heads
  std::int32_t head_end = 0;
  std::int64_t slot = -1;  ///< partial row of the tile's first row; -1: the item finishes its rows
  bool fold = true;        ///< one state for all keys; false (batch_invariant): one per chunk, tile.count rows apart
  std::int64_t cost = 0;   ///< predicted nanoseconds of all items before this one and half of its own
};

/// Rows whose partial states come from the same slots in the same order.
struct ReduceGroup {
  std::int32_t first_row = 0;  ///< into Plan::group_rows
  std::int32_t row_count = 0;
  std::int32_t first_part = 0;  ///< into Plan::parts, in key order
  std::int32_t part_count = 0;
  std::int32_t arrivals = 0;    ///< items that write these parts; 0: no partial states, the item writes the output
  std::int32_t first_tile = 0;  ///< into Plan::group_tiles: where the rows are in each tile (backward)
  std::int32_t tile_count = 0;
  std::int64_t cost = 0;  ///< predicted dQ nanoseconds of all groups before this one (backward plans)
};

/// Rows of a reduce group inside a tile: tile rows [offset, offset + row_count).
struct GroupTile {
  std::int32_t tile = 0;
  std::int32_t offset = 0;
};

/// Consecutive keys of a segment with one owner in the backward, and the runs that read them.
struct KeyBlock {
  std::int32_t segment = 0;
  std::int32_t token = 0;
  std::int32_t length = 0;
  std::int32_t first_run = 0;  ///< into Plan::block_runs
  std::int32_t run_count = 0;
  std::int64_t cost = 0;  ///< predicted nanoseconds of all blocks before this one
};

/// What make_plan decided about the tokens of a node, and why. Nodes of a forest at which there is nothing to decide
/// are one with others: a node without rows of its own and with one child, with that child; a node without tokens, with
/// its parent; rows along a spine and draft trees, with the node that they go on from.
struct NodeDecision {
  enum class Reading : std::uint8_t {
    shared,  ///< once, for all rows at and below
    folded,  ///< again by the rows of each child, and by its own
    alone,   ///< by its own rows: nothing is below
    draft    ///< by its own rows and those of a draft tree, which is one run with ancestor bits
  };
  enum class Reason : std::uint8_t {
    cost,    ///< the cheaper one
    reader,  ///< it has one reader
    asked,   ///< PlanOptions::sharing says so
    chunk,   ///< batch_invariant: no whole chunk lies between `from` and `end`
    budget   ///< fast: the plan has as many partial states as it may
  };
  std::int32_t node = -1;  ///< of the forest, the deepest
  std::int32_t begin = 0;  ///< path positions of its tokens
  std::int32_t end = 0;
  std::int32_t from = 0;  ///< path position from which its rows read: `begin`, or before that where nodes above folded
  std::int32_t own_rows = 0;
  std::int32_t all_rows = 0;  ///< at and below
  Reading reading = Reading::alone;
  Reason reason = Reason::reader;
  double shared_cost = 0;  ///< predicted nanoseconds, on one thread, of all at and below it if it is shared,
  double folded_cost = 0;  ///< and if not; 0 where it was not compared
};

/// What a plan is, beside its lists.
struct PlanHeader {
  std::int32_t version = kPlanVersion;
  Mode mode = Mode::fast;
  Sharing sharing = Sharing::automatic;
  bool backward = false;
  MemorySpace space = MemorySpace::host;  ///< where calls of the plan's implementation run
  std::int32_t target_parallelism = 1;
  std::int32_t rows = 0;              ///< query rows of a call, q.shape[0]
  std::int32_t tile_rows = 0;         ///< largest RowTile::count
  std::int32_t length_slots = 0;      ///< entries that a call's actual_lengths must have
  std::int64_t partial_rows = 0;      ///< rows of partial state in the workspace
  std::int64_t total_cost = 0;        ///< predicted forward nanoseconds on one thread
  std::int64_t total_group_cost = 0;  ///< the same of dQ over the reduce groups
  std::int64_t total_block_cost = 0;  ///< the same of dK and dV over the key blocks
  std::uint64_t fingerprint = 0;      ///< of the forest or the rectangles
  LayerKind kind;
  char implementation[kNameCapacity] = "cpu:portable";
  char backward_implementation[kNameCapacity] = "";
};

/// The lists of a plan as spans: what kernels read. Standard layout.
struct PlanView {
  PlanHeader header;
  Span<const PoolShape> pools;
  Span<const std::int32_t> pages;
  Span<const Segment> segments;
  Span<const std::int32_t> deltas;
  Span<const std::int32_t> slot_capacity;
  Span<const std::uint64_t> words;
  Span<const RowInstance> instances;
  Span<const RowTile> tiles;
  Span<const KeyRun> runs;
  Span<const Item> items;
  Span<const ReduceGroup> groups;
  Span<const std::int32_t> group_rows;
  Span<const std::int64_t> parts;
  Span<const std::int32_t> tile_groups;
  Span<const GroupTile> group_tiles;
  Span<const KeyBlock> blocks;
  Span<const std::int32_t> block_runs;
};

/// An immutable schedule. May be run from many threads and for many layers at once.
struct Plan {
  PlanHeader header;
  std::vector<PoolShape> pools;
  std::vector<std::int32_t> pages;
  std::vector<Segment> segments;
  std::vector<std::int32_t> deltas;         ///< distinct RoPE deltas
  std::vector<std::int32_t> slot_capacity;  ///< per length slot: the leaf's capacity
  std::vector<std::uint64_t> words;         ///< visibility bits
  std::vector<RowInstance> instances;
  std::vector<RowTile> tiles;
  std::vector<KeyRun> runs;
  std::vector<Item> items;
  std::vector<ReduceGroup> groups;       ///< every query row is in exactly one
  std::vector<std::int32_t> group_rows;  ///< caller's rows
  std::vector<std::int64_t> parts;       ///< partial row of the group's first row, per part
  std::vector<std::int32_t> tile_groups;
  std::vector<GroupTile> group_tiles;
  std::vector<KeyBlock> blocks;
  std::vector<std::int32_t> block_runs;
  std::vector<NodeDecision> decisions;  ///< of a forest's plan, in depth-first order; says, does no work

  PlanView view() const noexcept;
};

bool operator==(const LayerKind& a, const LayerKind& b) noexcept;
/// Equal work: every list and the header, except decisions, the `sharing` that was asked for and the fingerprint.
bool operator==(const Plan& a, const Plan& b) noexcept;
inline bool operator!=(const Plan& a, const Plan& b) noexcept { return !(a == b); }

/// Lowers a forest for one layer kind. May allocate; reuses the plan's memory; on error `*plan` is unspecified but
/// valid to destroy or rebuild. Deterministic in its arguments. Sharing::automatic takes the cheapest assignment under
/// the cost model, exactly so on trees up to 32 levels deep; results never depend on it beyond rounding. Sharing never
/// loses: where the model sees nothing to gain the plan equals the one of Sharing::never. Bits of the operators are a
/// function of (plan, implementation, inputs). This form plans for the typed operators; with a Context use the overload
/// of context.hpp, which picks the implementation and its cost constants. Errors: invalid_argument (head counts, dims,
/// window, dtype, options), capacity_exceeded, out_of_memory.
Status make_plan(const Forest& forest, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept;

/// An explicit rectangle: `row_count` instances from `first_row` against tokens [token, token + length) of a segment.
struct Rectangle {
  std::int32_t first_row = 0;
  std::int32_t row_count = 0;
  std::int32_t segment = 0;
  std::int32_t token = 0;
  std::int32_t length = 0;
  std::int32_t position = 0;  ///< mask position of the first key
  MaskKind mask = MaskKind::interval;
  std::int64_t first_word = 0;  ///< bits: see KeyRun
};

/// Any pattern that is not a forest: Hogwild fragments, diffusion streams, a ring step. `rows[i].delta` is the delta
/// itself here, not an index. A row's keys are merged in the order of the rectangles. A query row that no rectangle
/// names is an empty row.
struct RectangleInput {
  Span<const PoolShape> pools;
  Span<const std::int32_t> pages;
  Span<const Segment> segments;
  Span<const RowInstance> rows;
  Span<const Rectangle> rectangles;
  Span<const std::uint64_t> words;
  std::int32_t q_rows = 0;
};
/// Errors: as above, and invalid_argument for an index out of range. batch_invariant is unsupported.
Status make_plan(const RectangleInput& input, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept;

/// Capacities for start-up sizing. Workspace sizes grow monotonically in every number.
struct PlanLimits {
  std::int64_t rows = 0;         ///< query rows
  std::int64_t max_context = 0;  ///< tokens of the longest path
  std::int32_t parts = 1;        ///< largest `parts` of a call: threads; on a device its target_parallelism
  Mode mode = Mode::fast;
  std::int64_t partial_rows = -1;  ///< rows of partial state; -1: the most that make_plan produces within these limits
  MemorySpace space = MemorySpace::host;  ///< where the calls run
};
/// The smallest limits that hold this plan, in its space.
PlanLimits limits_of(const Plan& plan, std::int32_t parts) noexcept;

/// For kv_append: per query row, the slot of `pool` that holds the row's token (page * page_size + slot) and the RoPE
/// position of its key in the segment's frame; slot -1 where the token lies in another pool, is beyond the path, or is
/// another row's to write (rows that share a token: the first row in depth-first order writes it).
/// Spans have forest.rows() elements. `actual_lengths` as in Attend; empty: capacities.
/// Errors: invalid_argument, capacity_exceeded (an actual length beyond its capacity), out_of_memory.
Status append_slots(const Forest& forest, std::int32_t pool, Span<std::int64_t> slots, Span<std::int32_t> positions,
                    Span<const std::int32_t> actual_lengths = {}) noexcept;

/// A few lines of text: header, counts, then at most `max_items` items.
std::string to_string(const Plan& plan, int max_items = 20);

/// What was decided about each node and why, at most `max_nodes` of them, after a line of totals. A plan of rectangles
/// has no nodes.
std::string explain(const Plan& plan, int max_nodes = 40);

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/plan_impl.hpp"
