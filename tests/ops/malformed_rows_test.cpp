// SPDX-License-Identifier: Apache-2.0
// Malformed calls of the operators on rows, forward and backward, as generated tables.
#include <vector>

#include "prefixshare/portable/kv_append.hpp"
#include "prefixshare/portable/merge_states.hpp"
#include "prefixshare/portable/rope.hpp"
#include "prefixshare/portable/rope_rebase.hpp"
#include "prefixshare/prefixshare.hpp"
#include "support/malformed.hpp"

using namespace prefixshare;
using tests::Arena;
using tests::Region;
using tests::Table;
using tests::ViewTraits;

namespace {

constexpr std::int64_t kRows = 4, kHeads = 3, kDv = 6;

State input_state(Arena* arena) { return {arena->input({kRows, kHeads, kDv}), arena->input({kRows, kHeads})}; }
State output_state(Arena* arena) { return {arena->output({kRows, kHeads, kDv}), arena->output({kRows, kHeads})}; }

/// o and lse of one state. `first`: its o is what the other tensors are measured against.
void add_state(Table* table, State* state, const std::string& o, const std::string& lse, std::int64_t index,
               bool output, bool first = false) {
  ViewTraits t{o, index, output};
  if (first) t.exact = 0;
  t.wrong_dtype.reset();
  table->add_view(&state->o, t);
  t = {lse, index, output};
  t.unit_inner = false;
  t.zero_strides = !output;
  table->add_view(&state->lse, t);
}

std::vector<Region> regions_of(const std::vector<State>& states, const std::string& name) {
  std::vector<Region> regions;
  for (const State& s : states) {
    regions.push_back({name + ".o", s.o.data});
    regions.push_back({name + ".lse", s.lse.data});
  }
  return regions;
}

template <class T>
void join(std::vector<T>* a, const std::vector<T>& b) {
  a->insert(a->end(), b.begin(), b.end());
}

RopeTable rope_table(Arena* arena, std::int32_t dim) {
  RopeTable table;
  table.dim = dim;
  std::vector<double> frequencies;
  for (std::int32_t i = 0; i < dim / 2; ++i) frequencies.push_back(1.0 / (1 + i));
  table.inv_freq = arena->array(frequencies);
  return table;
}

Context context_of_build() {
  Context context;
  REQUIRE(create_context(&context).ok());
  return context;
}

}  // namespace

TEST_CASE("merge_states: every malformed call is refused by name and writes nothing", "[malformed][merge_states]") {
  Arena arena;
  const Context context = context_of_build();
  std::vector<State> parts = {input_state(&arena), input_state(&arena), input_state(&arena)};
  MergeStates args;
  args.out = output_state(&arena);
  args.parts = parts;

  Table table("merge_states");
  table.add_way("dispatch", [&] { return merge_states(context, args); });
  table.add_way("typed", [&] { return portable::merge_states(args); });
  add_state(&table, &args.out, "out.o", "out.lse", -1, true, true);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    add_state(&table, &parts[p], "parts.o", "parts.lse", static_cast<std::int64_t>(p), false);
  }
  table.add_array(&args.parts, "parts", "data", false);
  std::vector<Region> others = regions_of(parts, "parts");
  table.add_overlaps(&args.out.lse.data, "out.lse", -1, others);
  others.push_back({"out.lse", args.out.lse.data});
  table.add_overlaps(&args.out.o.data, "out.o", -1, others);
  CHECK(table.check(&arena) >= 300);
}

TEST_CASE("merge_states_backward: every malformed call is refused by name and writes nothing",
          "[malformed][merge_states]") {
  Arena arena;
  const Context context = context_of_build();
  std::vector<State> parts = {input_state(&arena), input_state(&arena)};
  std::vector<State> dparts = {output_state(&arena), output_state(&arena)};
  MergeStatesGrad args;
  args.parts = parts;
  args.out = input_state(&arena);
  args.dout = arena.input({kRows, kHeads, kDv});
  args.dlse = arena.input({kRows, kHeads});
  args.dparts = dparts;

  Table table("merge_states_backward");
  table.add_way("dispatch", [&] { return merge_states_backward(context, args); });
  table.add_way("typed", [&] { return portable::merge_states_backward(args); });
  add_state(&table, &args.out, "out.o", "out.lse", -1, false, true);
  ViewTraits dout{"dout"};
  dout.wrong_dtype.reset();
  table.add_view(&args.dout, dout);
  ViewTraits dlse{"dlse"};
  dlse.optional = true;
  dlse.unit_inner = false;
  dlse.zero_strides = true;
  table.add_view(&args.dlse, dlse);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const auto index = static_cast<std::int64_t>(p);
    add_state(&table, &parts[p], "parts.o", "parts.lse", index, false);
    add_state(&table, &dparts[p], "dparts.o", "dparts.lse", index, true);
  }
  table.add_array(&args.parts, "parts", "data", false);
  table.add_array(&args.dparts, "dparts");
  std::vector<Region> others = regions_of(parts, "parts");
  join(&others, regions_of({args.out, {args.dout, args.dlse}}, "inputs"));
  for (std::size_t p = 0; p < dparts.size(); ++p) {
    std::vector<Region> all = others;
    join(&all, regions_of({dparts[1 - p]}, "dparts"));
    const auto index = static_cast<std::int64_t>(p);
    table.add_overlaps(&dparts[p].lse.data, "dparts.lse", index, all);
    all.push_back({"dparts.lse", dparts[p].lse.data});
    table.add_overlaps(&dparts[p].o.data, "dparts.o", index, all);
  }
  CHECK(table.check(&arena) >= 400);
}

namespace {

/// What both rope operators have in common.
template <class Args>
void add_rope_rows(Table* table, Args* args, const Region& numbers) {
  ViewTraits x{"x"};
  x.exact = 0;
  x.wrong_dtype.reset();
  table->add_view(&args->x, x);
  ViewTraits out{"out"};
  out.output = true;
  table->add_view(&args->out, out);
  table->add_rope(&args->table, "table", 8);
  table->add_overlaps(&args->out.data, "out", -1, {{"x", args->x.data}}, sizeof(float));
  table->add_overlaps(&args->out.data, "out", -1,
                      {numbers, {"table.inv_freq", const_cast<double*>(args->table.inv_freq.data())}});
}

}  // namespace

TEST_CASE("rope_apply: every malformed call is refused by name and writes nothing", "[malformed][rope]") {
  Arena arena;
  const Context context = context_of_build();
  RopeApply args;
  args.x = arena.input({kRows, kHeads, 8});
  args.out = arena.output({kRows, kHeads, 8});
  const Span<std::int32_t> positions = arena.array<std::int32_t>({0, 1, 5, -2});
  args.positions = positions;
  args.table = rope_table(&arena, 6);

  Table table("rope_apply");
  table.add_way("dispatch", [&] { return rope_apply(context, args); });
  table.add_way("typed", [&] { return portable::rope_apply(args); });
  add_rope_rows(&table, &args, {"positions", positions.data()});
  table.add_array(&args.positions, "positions");
  CHECK(table.check(&arena) >= 120);
}

TEST_CASE("rope_shift: every malformed call is refused by name and writes nothing", "[malformed][rope]") {
  for (const bool each : {true, false}) {  // a delta per token, or one for all
    Arena arena;
    const Context context = context_of_build();
    RopeShift args;
    args.x = arena.input({kRows, kHeads, 8});
    args.out = arena.output({kRows, kHeads, 8});
    const std::vector<std::int32_t> values = {3, -1, 0, 7};
    const Span<std::int32_t> deltas = each ? arena.array(values) : arena.array<std::int32_t>({3});
    args.deltas = deltas;
    args.table = rope_table(&arena, 6);

    Table table("rope_shift");
    table.add_way("dispatch", [&] { return rope_shift(context, args); });
    table.add_way("typed", [&] { return portable::rope_shift(args); });
    add_rope_rows(&table, &args, {"deltas", deltas.data()});
    table.add_array(&args.deltas, "deltas");
    CHECK(table.check(&arena) >= 120);
  }
}

TEST_CASE("kv_append: every malformed call is refused by name and writes nothing", "[malformed][kv_append]") {
  Arena arena;
  const Context context = context_of_build();
  constexpr std::int64_t kPages = 3, kPageSize = 4, kKvHeads = 2, kD = 8;
  const RopeTable rope_good = rope_table(&arena, 8);
  RopeTable rope = rope_good;
  KvAppend args;
  args.k = arena.input({kRows, kKvHeads, kD});
  args.v = arena.input({kRows, kKvHeads, kDv});
  args.pool.k = arena.output({kPages, kPageSize, kKvHeads, kD});
  args.pool.v = arena.output({kPages, kPageSize, kKvHeads, kDv});
  const Span<float> head_scales = arena.array<float>({0.5f, 2.0f}),
                    page_scales = arena.array<float>({1, 2, 3, 4, 5, 6});
  args.pool.k_scale = {head_scales.data(), ScaleGranularity::head};
  args.pool.v_scale = {page_scales.data(), ScaleGranularity::page};
  const Span<std::int64_t> slots = arena.array<std::int64_t>({5, -1, 0, 11});
  const Span<std::int32_t> positions = arena.array<std::int32_t>({9, 0, 3, 4});
  args.slots = slots;
  args.positions = positions;
  args.rope = &rope;

  Table table("kv_append");
  table.add_way("dispatch", [&] { return kv_append(context, args); });
  table.add_way("typed", [&] { return portable::kv_append(args); });
  ViewTraits t;
  t.wrong_dtype.reset();  // any storage type may meet any other
  for (const bool values : {false, true}) {
    t.output = false;
    t.negative_strides = false;
    t.argument = values ? "v" : "k";
    t.exact = 7;
    table.add_view(values ? &args.v : &args.k, t);
    t.output = true;
    t.negative_strides = true;
    t.argument = values ? "pool.v" : "pool.k";
    t.exact = values ? 7 : 0;
    table.add_view(values ? &args.pool.v : &args.pool.k, t);
  }
  table.add_array(&args.slots, "slots", "data", false);
  table.add_array(&args.positions, "positions");
  table.add("before the pool", &slots[1], -2, {"slots", "", -2, 1});
  table.add("past the pool", &slots[3], 12, {"slots", "", 12, 3});
  table.add("far past the pool", &slots[0], tests::kInt64Max, {"slots", "", tests::kInt64Max, 0});
  table.add_rope(&rope, "rope", 8);
  table.add_scale(&args.pool.k_scale, "pool.k_scale");
  table.add_scale(&args.pool.v_scale, "pool.v_scale");
  std::vector<Region> inputs = {{"k", args.k.data},
                                {"v", args.v.data},
                                {"slots", slots.data()},
                                {"positions", positions.data()},
                                {"rope", const_cast<double*>(rope.inv_freq.data())},
                                {"pool.k_scale", head_scales.data()},
                                {"pool.v_scale", page_scales.data()}};
  table.add_overlaps(&args.pool.k.data, "pool.k", -1, inputs);
  inputs.push_back({"pool.k", args.pool.k.data});
  table.add_overlaps(&args.pool.v.data, "pool.v", -1, inputs);
  CHECK(table.check(&arena) >= 200);
}

TEST_CASE("rope_rebase: every malformed call is refused by name and writes nothing", "[malformed][rope_rebase]") {
  Arena arena;
  const Context context = context_of_build();
  std::vector<KvPool> layers(2);
  const Span<float> scales = arena.array<float>({0.5f, 2.0f, 1.0f});
  for (KvPool& layer : layers) {
    layer.k = arena.input({4, 3, 2, 8});
    layer.v = arena.input({4, 3, 2, 6});
    layer.k_scale = {scales.data(), ScaleGranularity::head};
    layer.v_scale = {scales.data() + 2, ScaleGranularity::tensor};
  }
  const Span<std::int32_t> from = arena.array<std::int32_t>({0, 2}), to = arena.array<std::int32_t>({1, 2}),
                           deltas = arena.array<std::int32_t>({7, -3});
  const Span<double> inv_freq = arena.array<double>({1.0, 0.5, 0.25});
  RopeRebase args;
  args.layers = layers;
  args.from_pages = from;
  args.to_pages = to;
  args.deltas = deltas;
  args.table.inv_freq = inv_freq;
  args.table.dim = 6;

  Table table("rope_rebase");
  table.add_way("dispatch", [&] { return rope_rebase(context, args); });
  table.add_way("typed", [&] { return portable::rope_rebase(args); });
  table.add_array(&args.layers, "layers", "data", false);
  table.add_array(&args.from_pages, "from_pages", "data", false);
  table.add_array(&args.to_pages, "to_pages");
  table.add_array(&args.deltas, "deltas", "data", false);
  table.add("long", &args.deltas, Span<const std::int32_t>(deltas.data(), 3), {"deltas", "size", 3});
  table.add_rope(&args.table, "table", 8);
  std::vector<Region> regions = {{"from_pages", from.data()},
                                 {"to_pages", to.data()},
                                 {"deltas", deltas.data()},
                                 {"table.inv_freq", inv_freq.data()},
                                 {"layers.k_scale", scales.data()}};
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const auto index = static_cast<std::int64_t>(l);
    ViewTraits t{"layers.k", index, true};
    t.exact = l == 0 ? 0 : 0xf;
    t.negative_strides = true;
    if (l == 0) t.wrong_dtype.reset();
    table.add_view(&layers[l].k, t);
    t.argument = "layers.v";
    t.exact = l == 0 ? 7 : 0xf;
    t.optional = l == 0;  // without it the second one is too many, see below
    table.add_view(&layers[l].v, t);
    table.add_scale(&layers[l].k_scale, "layers.k_scale", index);
    table.add_scale(&layers[l].v_scale, "layers.v_scale", index);
    for (const ScaleGranularity by : {ScaleGranularity::token, ScaleGranularity::page}) {
      tests::Refusal r{"layers.k_scale", "granularity", static_cast<int>(by), index, StatusCode::unsupported};
      table.add("of what stays behind", &layers[l].k_scale.granularity, by, r);
    }
    table.add_overlaps(&layers[l].k.data, "layers.k", index, regions);
    regions.push_back({"layers.k", layers[l].k.data});
    table.add_overlaps(&layers[l].v.data, "layers.v", index, regions);
    regions.push_back({"layers.v", layers[l].v.data});
  }
  table.add("absent in the first layer alone", &layers[0].v.data, nullptr, {"layers.v", "data", 1, 1});
  CHECK(table.check(&arena) >= 250);
}
