// SPDX-License-Identifier: Apache-2.0
// Malformed calls of the builders as generated tables: forests, plans, append slots, workspaces, contexts.
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "prefixshare/prefixshare.hpp"
#include "support/malformed.hpp"

using namespace prefixshare;
using tests::Arena;
using tests::kInt64Max;
using tests::kNaN;
using tests::Refusal;
using tests::Table;
using tests::Undo;

namespace {

using Ints = std::vector<std::int32_t>;

/// Everything in a forest.
auto contents(const Forest& f) {
  std::vector<std::int64_t> all = {static_cast<std::int64_t>(f.fingerprint)};
  for (const Ints* list : {&f.pages, &f.path_begin, &f.subtree_end, &f.row_begin, &f.own_row_end, &f.row_end,
                           &f.row_map, &f.row_sequence, &f.row_order, &f.node_of_input}) {
    all.push_back(static_cast<std::int64_t>(list->size()));
    all.insert(all.end(), list->begin(), list->end());
  }
  for (const Node& n : f.nodes) {
    for (const std::int32_t x : {n.parent, n.segment, n.begin, n.length, n.delta, n.length_slot}) all.push_back(x);
  }
  for (const Segment& s : f.segments) {
    for (const std::int32_t x : {s.pool, s.first_page, s.offset, s.length}) all.push_back(x);
  }
  for (const PoolShape& p : f.pools) {
    for (const std::int32_t x : {p.page_size, p.num_pages}) all.push_back(x);
  }
  return all;
}

/// A forest that another call made before: an error leaves it as it is.
Forest other_forest() {
  const Ints parents = {-1, 0, 0};
  Forest forest;
  REQUIRE(forest_from_parents({parents, {}, {}}, &forest).ok());
  return forest;
}

/// Runs a table whose one result is a forest, behind `*result`.
std::int64_t check_forest(Table* table, Forest** result) {
  Forest forest;
  *result = &forest;
  const Forest other = other_forest();
  table->add("null", result, nullptr, {"forest", "", 0});
  return table->check([&] { forest = other; }, [&] { return contents(forest); });
}

}  // namespace

TEST_CASE("make_forest: every malformed input is refused by name and changes nothing", "[malformed][forest]") {
  std::vector<PoolShape> pools = {{4, 6}, {1, 9}};
  Ints pages = {3, 0, 5, 8, 7};
  std::vector<Segment> segments = {{0, 0, 1, 9}, {1, 3, 0, 2}};
  std::vector<Node> nodes = {{-1, 0, 0, 5, 0, -1}, {0, 0, 5, 4, 0, -1}, {0, 1, 0, 2, 7, 0}};
  std::vector<Sequence> sequences = {{1, 2, Sequence::kLastTokens}, {2, 1, 3}};
  ForestInput input{pools, pages, segments, nodes, sequences};
  Forest* result = nullptr;

  Table table("make_forest");
  table.add_way("typed", [&] { return make_forest(input, result); });
  table.add_array(&input.pools, "pools", "", false);
  table.add_array(&input.pages, "pages", "", false);
  table.add_array(&input.segments, "segments", "", false);
  table.add_array(&input.nodes, "nodes", "", false);
  table.add_array(&input.sequences, "sequences", "", false);
  const std::int64_t many = std::int64_t{1} << 31;
  table.add("more than int32", &input.nodes, Span<const Node>(nodes.data(), many),
            {"nodes", "size", many, -1, StatusCode::capacity_exceeded});
  table.add("zero", &pools[0].page_size, 0, {"pools", "page_size", 0, 0});
  table.add("negative", &pools[1].num_pages, -1, {"pools", "num_pages", -1, 1});
  for (const std::int32_t page : {-1, 6, INT32_MAX, INT32_MIN}) {
    table.add("out of range", &pages[1], page, {"pages", "", page, 1});
  }
  for (const std::int32_t pool : {-1, 2}) {
    table.add("out of range", &segments[1].pool, pool, {"segments", "pool", pool, 1});
  }
  for (const std::int32_t offset : {-1, 4}) {
    table.add("out of range", &segments[0].offset, offset, {"segments", "offset", offset, 0});
  }
  for (const std::int32_t first : {-1, 3, INT32_MAX}) {
    table.add("out of range", &segments[0].first_page, first, {"segments", "first_page", first, 0});
  }
  table.add("negative", &segments[0].length, -1, {"segments", "length", -1, 0});
  table.add("past the pages", &segments[0].length, INT32_MAX, {"segments", "first_page", 0, 0});
  for (const std::int32_t parent : {-2, 3}) {
    table.add("out of range", &nodes[2].parent, parent, {"nodes", "parent", parent, 2});
  }
  table.add("cycle", &nodes[0].parent, 1, {"nodes", "parent", 1, 0});
  table.add("itself", &nodes[1].parent, 1, {"nodes", "parent", 1, 1});
  for (const std::int32_t segment : {-1, 2}) {
    table.add("out of range", &nodes[1].segment, segment, {"nodes", "segment", segment, 1});
  }
  table.add("negative", &nodes[1].begin, -1, {"nodes", "begin", -1, 1});
  table.add("past the segment", &nodes[1].begin, INT32_MAX, {"nodes", "begin+length", std::int64_t{INT32_MAX} + 4, 1});
  table.add("negative", &nodes[1].length, -3, {"nodes", "length", -3, 1});
  table.add("past the segment", &nodes[1].length, 5, {"nodes", "begin+length", 10, 1});
  table.add("of an inner node", &nodes[0].length_slot, 0, {"nodes", "length_slot", 0, 0});
  table.add("not dense", &nodes[2].length_slot, 1, {"nodes", "length_slot", 1, 2});
  table.add("taken", &nodes[1].length_slot, 0, {"nodes", "length_slot", 0, 2});
  table.add("negative", &nodes[2].length_slot, -2, {"nodes", "length_slot", -2, 2});
  for (const std::int32_t node : {-2, 3}) {
    table.add("out of range", &sequences[0].node, node, {"sequences", "node", node, 0});
  }
  table.add("negative", &sequences[1].q_len, -1, {"sequences", "q_len", -1, 1});
  table.add("overflow", &sequences[1].first_order, INT32_MAX,
            {"sequences", "first_order+q_len", std::int64_t{INT32_MAX} + 1, 1, StatusCode::capacity_exceeded});
  CHECK(check_forest(&table, &result) >= 40);
}

TEST_CASE("forest_from_block_tables: every malformed input is refused by name and changes nothing",
          "[malformed][forest]") {
  Ints ids = {4, 2, 0, 4, 7, 0}, kv_len = {5, 8}, q_len = {1, 2};
  BlockTables input{ids, 3, kv_len, q_len, {4, 8}};
  Forest* result = nullptr;

  Table table("forest_from_block_tables");
  table.add_way("typed", [&] { return forest_from_block_tables(input, result); });
  table.add_array(&input.ids, "ids", "", false);
  table.add_array(&input.kv_len, "kv_len", "", false);
  table.add_array(&input.q_len, "q_len", "");
  table.add("one row", &input.ids, Span<const std::int32_t>(ids.data(), 3), {"ids", "rows", 1});
  table.add("negative", &input.row_stride, -1, {"row_stride", "", -1});
  table.add("shorter than a row", &input.row_stride, 1, {"kv_len", "pages", 2, 0});
  table.add("overflow", &input.row_stride, kInt64Max, {"ids", "rows", 1});
  for (const std::int32_t id : {-1, 8, INT32_MAX, INT32_MIN}) {
    table.add("out of range", &ids[4], id, {"ids", "", id, 4});
  }
  table.add("negative", &kv_len[1], -1, {"kv_len", "", -1, 1});
  table.add("overflow", &kv_len[1], INT32_MAX, {"kv_len", "pages", std::int64_t{1} << 29, 1});
  table.add("negative", &q_len[0], -2, {"q_len", "", -2, 0});
  table.add("overflow", &q_len[0], INT32_MAX,
            {"q_len", "sum", std::int64_t{INT32_MAX} + 2, -1, StatusCode::capacity_exceeded});
  table.add("zero", &input.pool.page_size, 0, {"pool", "page_size", 0});
  table.add("negative", &input.pool.page_size, INT32_MIN, {"pool", "page_size", INT32_MIN});
  table.add("negative", &input.pool.num_pages, -1, {"pool", "num_pages", -1});
  CHECK(check_forest(&table, &result) >= 22);
}

TEST_CASE("forest_from_tokens: every malformed input is refused by name and changes nothing", "[malformed][forest]") {
  const Ints tokens = {1, 2, 3, 1, 2, 4};
  std::vector<std::int64_t> offsets = {0, 3, 6};
  Ints q_len = {1, 1};
  TokenSequences input{tokens, offsets, q_len};
  Forest* result = nullptr;

  Table table("forest_from_tokens");
  table.add_way("typed", [&] { return forest_from_tokens(input, result); });
  table.add_array(&input.tokens, "tokens", "", false);
  table.add_array(&input.offsets, "offsets", "", false);
  table.add_array(&input.q_len, "q_len", "");
  table.add("empty", &input.offsets, Span<const std::int64_t>(), {"offsets", "size", 0});
  table.add("not from 0", &offsets[0], 1, {"offsets", "", 1, 0});
  table.add("unsorted", &offsets[2], 2, {"offsets", "", 2, 2});
  table.add("negative", &offsets[1], -1, {"offsets", "", -1, 1});
  table.add("past the tokens", &offsets[2], 7, {"offsets", "", 7, 2});
  table.add("far past the tokens", &offsets[2], kInt64Max, {"offsets", "", kInt64Max, 2});
  table.add("negative", &q_len[1], -1, {"q_len", "", -1, 1});
  table.add("overflow", &q_len[1], INT32_MAX,
            {"q_len", "sum", std::int64_t{INT32_MAX} + 1, -1, StatusCode::capacity_exceeded});
  CHECK(check_forest(&table, &result) >= 16);
}

TEST_CASE("forest_from_parents: every malformed input is refused by name and changes nothing", "[malformed][forest]") {
  Ints parents = {-1, 0, 1, -1}, lengths = {3, 1, 2, 2}, q_len = {0, 1, 2, 1};
  ParentArray input{parents, lengths, q_len};
  Forest* result = nullptr;

  Table table("forest_from_parents");
  table.add_way("typed", [&] { return forest_from_parents(input, result); });
  table.add_array(&input.parents, "parents", "", false);
  table.add_array(&input.lengths, "lengths", "");
  table.add_array(&input.q_len, "q_len", "");
  for (const std::int32_t parent : {-2, 4, INT32_MAX, INT32_MIN}) {
    table.add("out of range", &parents[1], parent, {"parents", "", parent, 1});
  }
  table.add("cycle", &parents[0], 2, {"parents", "", 2, 0});
  table.add("itself", &parents[3], 3, {"parents", "", 3, 3});
  for (const auto& [name, array] : {std::pair("lengths", &lengths), std::pair("q_len", &q_len)}) {
    table.add("negative", &(*array)[2], -1, {name, "", -1, 2});
    table.add("overflow", &(*array)[2], INT32_MAX, {name, "sum", {}, -1, StatusCode::capacity_exceeded});
  }
  CHECK(check_forest(&table, &result) >= 18);
}

TEST_CASE("forest_from_groups: every malformed input is refused by name and changes nothing", "[malformed][forest]") {
  Ints prefix_len = {5, 2}, suffix_begin = {0, 2, 3}, suffix_len = {3, 1, 4};
  PrefixGroups input{prefix_len, suffix_begin, suffix_len, 0};
  Forest* result = nullptr;

  Table table("forest_from_groups");
  table.add_way("typed", [&] { return forest_from_groups(input, result); });
  table.add_array(&input.prefix_len, "prefix_len", "", false);
  table.add_array(&input.suffix_begin, "suffix_begin");
  table.add_array(&input.suffix_len, "suffix_len");
  for (const auto& [name, array] : {std::pair("prefix_len", &prefix_len), std::pair("suffix_len", &suffix_len)}) {
    table.add("negative", &(*array)[1], -1, {name, "", -1, 1});
    table.add("overflow", &(*array)[1], INT32_MAX, {"suffix_len", "sum", {}, -1, StatusCode::capacity_exceeded});
  }
  table.add("not from 0", &suffix_begin[0], 1, {"suffix_begin", "", 1, 0});
  table.add("unsorted", &suffix_begin[1], 4, {"suffix_begin", "", 3, 2});
  table.add("negative", &suffix_begin[1], -1, {"suffix_begin", "", -1, 1});
  table.add("past the suffixes", &suffix_begin[2], 4, {"suffix_len", "size", 3});
  table.add("negative", &input.q_suffix_last, -1, {"q_suffix_last", "", -1});
  CHECK(check_forest(&table, &result) >= 18);
}

namespace {

LayerKind small_kind() {
  LayerKind kind;
  kind.Hq = 4;
  kind.Hkv = 2;
  kind.D = kind.Dv = 8;
  return kind;
}

Context context_of_build() {
  Context context;
  REQUIRE(create_context(&context).ok());
  return context;
}

void add_options(Table* table, PlanOptions* options) {
  table->add("zero", &options->target_parallelism, 0, {"options", "target_parallelism", 0});
  table->add("negative", &options->target_parallelism, INT32_MIN, {"options", "target_parallelism", INT32_MIN});
  table->add("unknown", &options->mode, static_cast<Mode>(9), {"options", "mode", 9});
  table->add("unknown", &options->sharing, static_cast<Sharing>(9), {"options", "sharing", 9});
  CostModel& cost = options->cost;
  const std::pair<const char*, double*> times[] = {
      {"item", &cost.item},        {"kv_element", &cost.kv_element},         {"mac", &cost.mac},
      {"partial", &cost.partial},  {"few_kv_element", &cost.few_kv_element}, {"few_mac", &cost.few_mac},
      {"min_item", &cost.min_item}};
  Refusal r{"options.cost", "", {}};
  r.only = "typed";  // a context brings its own constants
  for (const auto& [field, time] : times) {
    r.field = field;
    for (const double bad : {kNaN, -1.0, 1e30}) table->add("out of range", time, bad, r);
  }
  r.field = "row_step";
  table->add("zero", &cost.row_step, 0, r);
  r.field = "few_rows";
  table->add("negative", &cost.few_rows, -1, r);
}

/// What the overload with a Context can get wrong beside the rest.
void add_context(Table* table, Context* context, MemorySpace* space) {
  Refusal r{"space", "", 1, -1, StatusCode::backend_unavailable};
  r.only = "context";
  table->add("no such backend", space, MemorySpace::device, r);
  r.field = "implementations";
  r.got = 0;
  table->add("no implementations", &context->tree_attention.count, 0, r);
  table->add("no implementations", &context->tree_attention_backward.count, 0, r);
}

/// On error a plan is unspecified: only the status is promised.
Status clear_on_error(const Status& s, Plan* plan) {
  if (!s.ok() && plan != nullptr) *plan = Plan();
  return s;
}

std::int64_t check_plan_table(Table* table, Plan** result) {
  Plan plan;
  *result = &plan;
  table->add("null", result, nullptr, {"plan", "", 0});
  return table->check([&] { plan = Plan(); },
                      [&] { return plan.header.rows > 0 ? to_string(plan) : std::string("no plan"); });
}

}  // namespace

TEST_CASE("make_plan: every malformed call on a forest is refused by name", "[malformed][plan]") {
  const Ints parents = {-1, 0, 0}, lengths = {6, 2, 3};
  Forest forest;
  REQUIRE(forest_from_parents({parents, lengths, {}}, &forest).ok());
  Context context = context_of_build();
  LayerKind kind = small_kind();
  PlanOptions options;
  options.backward = true;
  MemorySpace space = MemorySpace::host;
  Plan* result = nullptr;

  Table table("make_plan");
  table.add_way("typed", [&] { return clear_on_error(make_plan(forest, kind, options, result), result); });
  table.add_way("context",
                [&] { return clear_on_error(make_plan(context, forest, kind, options, result, space), result); });
  table.add_kind(&kind);
  add_options(&table, &options);
  add_context(&table, &context, &space);
  CHECK(check_plan_table(&table, &result) >= 40);
}

TEST_CASE("make_plan: every malformed call on rectangles is refused by name", "[malformed][plan]") {
  std::vector<PoolShape> pools = {{4, 6}};
  Ints pages = {3, 0, 5, 1};
  std::vector<Segment> segments = {{0, 0, 1, 9}, {0, 3, 0, 4}};
  std::vector<RowInstance> rows = {{0, 8, 8, 0, -1}, {1, 9, 9, 0, -1}, {0, 3, 3, 5, -1}};
  std::vector<Rectangle> rectangles = {{0, 2, 0, 0, 9, 0, MaskKind::interval, 0},
                                       {0, 2, 1, 0, 4, 9, MaskKind::bits, 1}};
  const std::vector<std::uint64_t> words = {0, 5, 15};
  RectangleInput input{pools, pages, segments, rows, rectangles, words, 2};
  Context context = context_of_build();
  LayerKind kind = small_kind();
  PlanOptions options;
  options.backward = true;
  MemorySpace space = MemorySpace::host;
  Plan* result = nullptr;

  Table table("make_plan");
  table.add_way("typed", [&] { return clear_on_error(make_plan(input, kind, options, result), result); });
  table.add_way("context",
                [&] { return clear_on_error(make_plan(context, input, kind, options, result, space), result); });
  table.add_kind(&kind);
  add_options(&table, &options);
  add_context(&table, &context, &space);
  table.add("batch_invariant", &options.mode, Mode::batch_invariant,
            {"options", "mode", 1, -1, StatusCode::unsupported});
  table.add_array(&input.pools, "pools", "", false);
  table.add_array(&input.pages, "pages", "", false);
  table.add_array(&input.segments, "segments", "", false);
  table.add_array(&input.rows, "rows", "", false);
  table.add_array(&input.rectangles, "rectangles", "", false);
  table.add_array(&input.words, "words", "", false);
  table.add("negative", &input.q_rows, -1, {"q_rows", "", -1});
  table.add("fewer", &input.q_rows, 1, {"rows", "row", 1, 1});
  table.add("zero", &pools[0].page_size, 0, {"pools", "page_size", 0, 0});
  table.add("negative", &pools[0].num_pages, -1, {"pools", "num_pages", -1, 0});
  for (const std::int32_t page : {-1, 6, INT32_MAX}) {
    table.add("out of range", &pages[2], page, {"pages", "", page, 2});
  }
  for (const std::int32_t bad : {-1, 1})
    table.add("out of range", &segments[1].pool, bad, {"segments", "pool", bad, 1});
  for (const std::int32_t bad : {-1, 4}) {
    table.add("out of range", &segments[1].offset, bad, {"segments", "offset", bad, 1});
  }
  table.add("negative", &segments[0].first_page, -1, {"segments", "first_page", -1, 0});
  table.add("past the pages", &segments[0].first_page, 2, {"segments", "first_page", 5, 0});
  table.add("negative", &segments[0].length, -1, {"segments", "length", -1, 0});
  table.add("past the pages", &segments[0].length, INT32_MAX, {"segments", "first_page", {}, 0});
  table.add("over another", &pages[3], 0, {"segments", "slot", {}, 1});
  for (const std::int32_t bad : {-1, 2}) table.add("out of range", &rows[1].row, bad, {"rows", "row", bad, 1});
  table.add("with a length slot", &rows[0].length_slot, 0, {"rows", "length_slot", 0, 0});
  table.add("twice in a rectangle", &rows[1].row, 0, {"rectangles", "row", 0, 0});
  table.add("negative", &rectangles[0].first_row, -1, {"rectangles", "first_row", -1, 0});
  table.add("past the rows", &rectangles[0].first_row, 2, {"rectangles", "row_count", 4, 0});
  table.add("negative", &rectangles[0].row_count, -1, {"rectangles", "row_count", -1, 0});
  table.add("past the rows", &rectangles[1].row_count, INT32_MAX, {"rectangles", "row_count", INT32_MAX, 1});
  for (const std::int32_t bad : {-1, 2}) {
    table.add("out of range", &rectangles[0].segment, bad, {"rectangles", "segment", bad, 0});
  }
  table.add("negative", &rectangles[0].token, -1, {"rectangles", "token", -1, 0});
  table.add("past the segment", &rectangles[0].token, 1, {"rectangles", "length", 10, 0});
  table.add("negative", &rectangles[1].length, -4, {"rectangles", "length", -4, 1});
  table.add("past the segment", &rectangles[1].length, INT32_MAX, {"rectangles", "length", INT32_MAX, 1});
  table.add("overflow", &rectangles[0].position, INT32_MAX, {"rectangles", "position", INT32_MAX, 0});
  table.add("unknown", &rectangles[0].mask, static_cast<MaskKind>(7), {"rectangles", "mask", 7, 0});
  for (const std::int64_t bad : {std::int64_t{2}, kInt64Max}) {
    table.add("past the words", &rectangles[1].first_word, bad, {"rectangles", "first_word", bad, 1});
  }
  table.add("negative", &rectangles[1].first_word, -1, {"rectangles", "first_word", -1, 1});
  CHECK(check_plan_table(&table, &result) >= 130);
}

TEST_CASE("append_slots: every malformed call is refused by name and writes nothing", "[malformed][plan]") {
  const std::vector<PoolShape> pools = {{4, 6}};
  const Ints pages = {3, 0, 5};
  const std::vector<Segment> segments = {{0, 0, 1, 9}};
  const std::vector<Node> nodes = {{-1, 0, 0, 5, 0, -1}, {0, 0, 5, 4, 0, 0}};
  const std::vector<Sequence> sequences = {{1, 2, Sequence::kLastTokens}, {0, 1, 3}};
  Forest forest;
  REQUIRE(make_forest({pools, pages, segments, nodes, sequences}, &forest).ok());
  Arena arena;
  std::int32_t pool = 0;
  Span<std::int64_t> slots(arena.take<std::int64_t>(forest.rows()), forest.rows());
  Span<std::int32_t> positions(arena.take<std::int32_t>(forest.rows()), forest.rows());
  const Span<std::int32_t> length = arena.array<std::int32_t>({3});
  Span<const std::int32_t> lengths = length;

  Table table("append_slots");
  table.add_way("typed", [&] { return append_slots(forest, pool, slots, positions, lengths); });
  for (const std::int32_t bad : {-1, 1, INT32_MAX}) table.add("out of range", &pool, bad, {"pool", "", bad});
  const auto add_array = [&](auto* span, const char* name) {
    using Array = std::remove_pointer_t<decltype(span)>;
    const Array good = *span;
    table.add("null", span, Array(nullptr, good.size()), {name, "", 0});
    for (const std::int64_t size : {std::int64_t{-1}, good.size() + 1}) {
      table.add("size", span, Array(good.data(), size), {name, "size", size});
    }
  };
  add_array(&slots, "slots");
  add_array(&positions, "positions");
  add_array(&lengths, "actual_lengths");
  table.add("negative", length.data(), -1, {"actual_lengths", "", -1, 0});
  table.add("beyond the capacity", length.data(), 5, {"actual_lengths", "", 5, 0, StatusCode::capacity_exceeded});
  CHECK(table.check(&arena) >= 14);
}

namespace {

void add_limits(Table* table, LayerKind* kind, PlanLimits* limits) {
  table->add_kind(kind);
  table->add("negative", &limits->rows, -1, {"limits", "rows", -1});
  table->add("beyond int32", &limits->rows, kInt64Max, {"limits", "rows", kInt64Max});
  table->add("negative", &limits->max_context, -1, {"limits", "max_context", -1});
  table->add("overflow", &limits->max_context, kInt64Max, {"limits", "max_context", kInt64Max});
  table->add("zero", &limits->parts, 0, {"limits", "parts", 0});
  table->add("negative", &limits->parts, INT32_MIN, {"limits", "parts", INT32_MIN});
  table->add("unknown", &limits->mode, static_cast<Mode>(9), {"limits", "mode", 9});
  table->add("negative", &limits->partial_rows, -2, {"limits", "partial_rows", -2});
  table->add("overflow", {"limits", "parts", INT32_MAX}, [kind, limits]() -> Undo {
    const auto good = std::tuple(*kind, *limits);
    kind->Hq = kind->D = kind->Dv = 1 << 16;
    kind->Hkv = 1;
    limits->parts = INT32_MAX;
    return [kind, limits, good] { std::tie(*kind, *limits) = good; };
  });
}
void add_partial_rows(Table* table, PlanLimits* limits) {
  table->add("overflow", &limits->partial_rows, kInt64Max, {"limits", "partial_rows", kInt64Max});
}

PlanLimits small_limits() {
  PlanLimits limits;
  limits.rows = 5;
  limits.max_context = 100;
  limits.parts = 2;
  return limits;
}

}  // namespace

TEST_CASE("forward_workspace, backward_workspace: every malformed call is refused by name", "[malformed][workspace]") {
  for (const bool forward : {true, false}) {
    LayerKind kind = small_kind();
    PlanLimits limits = small_limits();
    std::int64_t bytes = 0, *result = &bytes;
    Table table(forward ? "forward_workspace" : "backward_workspace");
    table.add_way("typed", [&] {
      return forward ? forward_workspace(kind, limits, result) : backward_workspace(kind, limits, result);
    });
    add_limits(&table, &kind, &limits);
    if (forward) add_partial_rows(&table, &limits);
    table.add("null", &result, nullptr, {"bytes", "", 0});
    CHECK(table.check([&] { bytes = -7; }, [&] { return bytes; }) >= 20);
  }
}

TEST_CASE("init_workspace: every malformed call is refused by name and writes nothing", "[malformed][workspace]") {
  Arena arena;
  LayerKind kind = small_kind();
  PlanLimits limits = small_limits();
  limits.partial_rows = 16;
  std::int64_t bytes = 0;
  REQUIRE(forward_workspace(kind, limits, &bytes).ok());
  char* data = arena.take<char>(bytes);
  Workspace workspace, *result = &workspace;

  Table table("init_workspace");
  table.add_way("typed", [&] { return init_workspace(kind, limits, data, bytes, result); });
  add_limits(&table, &kind, &limits);
  add_partial_rows(&table, &limits);
  table.add("null", &result, nullptr, {"workspace", "", 0});
  table.add("null", &data, nullptr, {"data", "", 0});
  table.add("alignment", &data, data + 8, {"workspace", "alignment", 8});
  for (const std::int64_t short_bytes : {bytes - 1, std::int64_t{0}, std::int64_t{-1}, INT64_MIN}) {
    table.add("short", &bytes, short_bytes, {"workspace", "bytes", short_bytes, -1, StatusCode::workspace_too_small});
  }
  const std::vector<unsigned char> before = arena.image();
  const auto reset = [&] {
    arena.restore(before);
    workspace = Workspace();
  };
  const auto state = [&] {
    return std::tuple(arena.image(), workspace.data, workspace.bytes, workspace.counter_bytes);
  };
  CHECK(table.check(reset, state) >= 26);
}

TEST_CASE("Context: every malformed entry and name is refused by name and changes nothing", "[malformed][context]") {
  const Context build = context_of_build();
  Context context;
  Implementation<RopeApply, RopeApply> entry = build.rope_apply.entries[0];
  entry.name = "cpu:mine";
  const char* force = "cpu:portable";
  const char* force_all = "cpu:portable";
  Context* target = &context;

  Table table("context");
  table.add_way("add", [&] { return context.rope_apply.add(entry); });
  table.add_way("force", [&] { return context.rope_apply.force(force); });
  table.add_way("force_implementation", [&] { return force_implementation(target, force_all); });
  const auto only = [](Refusal r, const char* way) {
    r.only = way;
    return r;
  };
  table.add("null", &entry.name, nullptr, only({"implementation", "name", 0}, "add"));
  table.add("empty", &entry.name, "", only({"implementation", "name", 0}, "add"));
  table.add("too long", &entry.name, "cpu:a-name-of-thirty-two-letters", only({"implementation", "name", 32}, "add"));
  table.add("taken", &entry.name, "cpu:portable", only({"implementation", "name (taken)", 1}, "add"));
  table.add("null", &entry.part, nullptr, only({"implementation", "part", 0}, "add"));
  Refusal full{"implementations", "count", 16, -1, StatusCode::capacity_exceeded};
  table.add("full", only(full, "add"), [&context]() -> Undo {
    const std::int32_t count = context.rope_apply.count;
    for (std::int32_t i = count; i < 16; ++i) context.rope_apply.entries[i].name = "cpu:other";
    context.rope_apply.count = 16;
    return [&context, count] { context.rope_apply.count = count; };
  });
  for (const auto& [way, name] : {std::pair("force", &force), std::pair("force_implementation", &force_all)}) {
    table.add("null", name, nullptr, only({"name", "", 0}, way));
    table.add("unknown", name, "cpu:none", only({"name", "implementations", 0}, way));
  }
  table.add("null", &target, nullptr, only({"context", "", 0}, "force_implementation"));
  const auto reset = [&] { context = build; };
  const auto state = [&] {
    return std::tuple(context.rope_apply.count, std::string(context.rope_apply.entries[0].name),
                      std::string(context.rope_apply.forced), std::string(context.kv_append.forced));
  };
  CHECK(table.check(reset, state) >= 11);

  const Status s = create_context(nullptr);
  CHECK(to_string(s) == "create_context: context got null, want != null (invalid_argument)");
}
