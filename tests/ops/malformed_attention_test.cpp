// SPDX-License-Identifier: Apache-2.0
// Malformed calls of tree_attention and shared_prefix_attention, forward and backward, as generated tables.
#include <string>
#include <vector>

#include "prefixshare/portable/tree_attention.hpp"
#include "prefixshare/prefixshare.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/malformed.hpp"

using namespace prefixshare;
using tests::Arena;
using tests::Region;
using tests::Table;
using tests::Undo;
using tests::ViewTraits;

namespace {

LayerKind small_kind() {
  LayerKind kind;
  kind.Hq = 4;
  kind.Hkv = 2;
  kind.D = 8;
  kind.Dv = 6;
  return kind;
}

PlanOptions shared_options(bool backward) {
  PlanOptions options;
  options.sharing = Sharing::always;
  options.backward = backward;
  return options;
}

/// A workspace of exactly the size that is asked for.
Workspace exact_workspace(Arena* arena, const Plan& plan, bool backward) {
  const PlanLimits limits = limits_of(plan, 1);
  std::int64_t forward_bytes = 0, bytes = 0;
  REQUIRE(forward_workspace(plan.header.kind, limits, &forward_bytes).ok());
  Workspace workspace;
  REQUIRE(init_workspace(plan.header.kind, limits, arena->take<char>(forward_bytes), forward_bytes, &workspace).ok());
  // The bytes that the call needs, no more.
  if (!backward) {
    workspace.counter_bytes = detail::counter_bytes(static_cast<std::int64_t>(plan.groups.size()));
    workspace.bytes = workspace.counter_bytes + detail::forward_bytes(plan.header.kind, 1, plan.header.partial_rows);
    return workspace;
  }
  REQUIRE(backward_workspace(plan.header.kind, limits, &bytes).ok());
  return {arena->take<char>(bytes), bytes, detail::counter_bytes(limits.rows)};
}

void add_workspace(Table* table, Workspace* ws, bool counters) {
  constexpr StatusCode kSmall = StatusCode::workspace_too_small;
  const std::int64_t bytes = ws->bytes;
  table->add("null", &ws->data, nullptr, {"workspace", "data", 0, -1, kSmall});
  table->add("alignment", &ws->data, static_cast<char*>(ws->data) + 16, {"workspace", "alignment", 16});
  table->add("one byte short", &ws->bytes, bytes - 1, {"workspace", "bytes", bytes - 1, -1, kSmall});
  table->add("empty", &ws->bytes, 0, {"workspace", "bytes", 0, -1, kSmall});
  table->add("most negative", &ws->bytes, INT64_MIN, {"workspace", "bytes", INT64_MIN, -1, kSmall});
  table->add("negative", &ws->counter_bytes, -256, {"workspace", "counter_bytes", -256, -1, kSmall});
  const std::int64_t odd = ws->counter_bytes + 8;
  table->add("odd", &ws->counter_bytes, odd, {"workspace", "counter_bytes", odd});
  const std::int64_t huge = tests::kInt64Max - 255;
  table->add("overflow", &ws->counter_bytes, huge, {"workspace", "counter_bytes", huge});
  if (counters) table->add("not initialised", &ws->counter_bytes, 0, {"workspace", "counter_bytes", 0, -1, kSmall});
}

/// Scale, soft cap and sinks, which both operators have.
template <class Args>
void add_logits(Table* table, Args* args) {
  table->add("NaN", &args->scale, tests::kNaN, {"scale", "isfinite", 0});
  table->add("infinite", &args->scale, std::numeric_limits<double>::infinity(), {"scale", "isfinite", 0});
  table->add("NaN", &args->softcap, tests::kNaN, {"softcap", "isfinite", 0});
  table->add("negative", &args->softcap, -1.0, {"softcap", "sign", -1});
  table->add_array(&args->sinks, "sinks");
}

template <int Rank>
void add_output(Table* table, TensorView<Rank>* view, const std::string& argument, std::int64_t index = -1) {
  ViewTraits t{argument, index, true, true};
  t.unit_inner = Rank != 2;  // any strides for lse
  table->add_view(view, t);
}
/// lse and dlse as inputs.
void add_lse_input(Table* table, TensorView<2>* view, const std::string& argument, bool optional) {
  ViewTraits t{argument, -1, false, optional};
  t.unit_inner = false;
  t.zero_strides = true;
  table->add_view(view, t);
}

/// The plan is of another version, for another forest's tokens, or names an implementation that is not there.
void add_plan(Table* table, Plan* plan, char (*implementation)[kNameCapacity]) {
  table->add("of another version", &plan->header.version, kPlanVersion + 1,
             {"plan", "version", kPlanVersion + 1, -1, StatusCode::stale_plan});
  tests::Refusal missing{"plan", "implementation (in the context)", 0, -1, StatusCode::unsupported};
  missing.only = "dispatch";
  table->add("of no implementation", missing, [implementation]() -> Undo {
    const char good = (*implementation)[0];
    (*implementation)[0] = '?';
    return [implementation, good] { (*implementation)[0] = good; };
  });
}

/// A forward and its backward on two pools, with pages, shared segments, deltas, length slots, sinks, bias and scales.
struct TreeCall {
  Arena arena;
  Context context;
  Forest forest;
  Plan plan;
  Attend args;
  AttendGrad grad;
  std::vector<KvPool> kv{2};
  std::vector<KvGrad> dkv{2};
  RopeTable rope;
  std::vector<Region> inputs;
  std::int32_t part = 0, parts = 1;

  explicit TreeCall(bool backward) {
    REQUIRE(create_context(&context).ok());
    place();
    REQUIRE(make_plan(context, forest, small_kind(), shared_options(backward), &plan).ok());
    REQUIRE(plan.header.partial_rows > 0);
    for (std::size_t p = 0; p < kv.size(); ++p) fill_pool(p);
    fill_rows();
    (backward ? grad.workspace : args.workspace) = exact_workspace(&arena, plan, backward);
    if (backward) fill_gradients();
  }

  void place() {
    testing::Topology t;
    const std::int32_t root = t.add_node(-1, 6);
    const std::int32_t leaves[] = {t.add_node(root, 5), t.add_node(root, 3), t.add_node(root, 4)};
    t.nodes[static_cast<std::size_t>(leaves[1])].delta = 2;
    t.nodes[static_cast<std::size_t>(leaves[2])].length_slot = 0;
    t.add_sequence(leaves[0], 1);
    t.add_sequence(leaves[1], 2);
    t.add_sequence(leaves[2], 1);
    testing::ProblemOptions options;
    options.page_size = 4;
    options.pools = 2;
    testing::Random random(3);
    REQUIRE(testing::detail::place_forest(t, options, &random, &forest).ok());
  }
  void fill_pool(std::size_t p) {
    const LayerKind& kind = plan.header.kind;
    const std::int64_t pages = plan.pools[p].num_pages, page_size = plan.pools[p].page_size;
    const std::string index = "[" + std::to_string(p) + "]";
    kv[p].k = arena.input({pages, page_size, kind.Hkv, kind.D});
    kv[p].v = arena.input({pages, page_size, kind.Hkv, kind.Dv});
    kv[p].bias = arena.input({pages, page_size, kind.Hq});
    const Span<float> k_scale = arena.array<float>({0.5f, 2.0f}), v_scale = arena.array<float>({1.5f});
    kv[p].k_scale = {k_scale.data(), ScaleGranularity::head};
    kv[p].v_scale = {v_scale.data(), ScaleGranularity::tensor};
    inputs.push_back({"kv.k" + index, kv[p].k.data});
    inputs.push_back({"kv.v" + index, kv[p].v.data});
    inputs.push_back({"kv.bias" + index, kv[p].bias.data});
    inputs.push_back({"kv.k_scale" + index, k_scale.data()});
    inputs.push_back({"kv.v_scale" + index, v_scale.data()});
  }
  void fill_rows() {
    const LayerKind& kind = plan.header.kind;
    args.q = arena.input({plan.header.rows, kind.Hq, kind.D});
    args.kv = kv;
    args.o = arena.output({plan.header.rows, kind.Hq, kind.Dv});
    args.lse = arena.output({plan.header.rows, kind.Hq});
    const Span<float> sinks = arena.array<float>({0.5f, -1, 0, 2});
    const Span<std::int32_t> lengths = arena.array<std::int32_t>({3});
    const Span<double> frequencies = arena.array<double>({1, 0.5, 0.25});
    rope.dim = 6;
    rope.inv_freq = frequencies;
    args.rope = &rope;
    args.sinks = sinks;
    args.actual_lengths = lengths;
    args.fingerprint = forest.fingerprint;
    inputs.push_back({"q", args.q.data});
    inputs.push_back({"sinks", sinks.data()});
    inputs.push_back({"actual_lengths", lengths.data()});
    inputs.push_back({"rope.inv_freq", frequencies.data()});
  }
  void fill_gradients() {
    const LayerKind& kind = plan.header.kind;
    const std::int64_t rows = plan.header.rows;
    grad.fwd = args;
    grad.fwd.o = arena.input({rows, kind.Hq, kind.Dv});
    grad.fwd.lse = arena.input({rows, kind.Hq});
    grad.dout = arena.input({rows, kind.Hq, kind.Dv});
    grad.dlse = arena.input({rows, kind.Hq});
    grad.dq = arena.output({rows, kind.Hq, kind.D});
    for (std::size_t p = 0; p < dkv.size(); ++p) {
      const std::int64_t pages = plan.pools[p].num_pages, page_size = plan.pools[p].page_size;
      dkv[p].dk = arena.output({pages, page_size, kind.Hkv, kind.D});
      dkv[p].dv = arena.output({pages, page_size, kind.Hkv, kind.Dv});
    }
    grad.dkv = dkv;
    grad.dsinks = {arena.take<float>(kind.Hq), kind.Hq};
    inputs.push_back({"o", grad.fwd.o.data});
    inputs.push_back({"lse", grad.fwd.lse.data});
    inputs.push_back({"dout", grad.dout.data});
    inputs.push_back({"dlse", grad.dlse.data});
  }

  /// What `a`, the forward's arguments of either direction, can get wrong.
  void add_inputs(Table* table, Attend* a, char (*implementation)[kNameCapacity]) {
    add_plan(table, &plan, implementation);
    table->add("of another forest", &a->fingerprint, a->fingerprint + 1,
               {"plan", "fingerprint", static_cast<std::int64_t>(forest.fingerprint), -1, StatusCode::stale_plan});
    table->add_view(&a->q, {"q"});
    table->add_array(&a->kv, "kv");
    for (std::size_t p = 0; p < kv.size(); ++p) add_pool(table, p);
    add_logits(table, a);
    table->add("null", &a->rope, nullptr, {"rope", "", 0});
    table->add_rope(&rope, "rope", plan.header.kind.D);
    table->add_array(&a->actual_lengths, "actual_lengths");
    auto* length = const_cast<std::int32_t*>(a->actual_lengths.data());
    table->add("elsewhere", &a->lengths_space, MemorySpace::device,
               {"actual_lengths", "space", 1, -1, StatusCode::backend_unavailable});
    table->add("negative", length, -1, {"actual_lengths", "", -1, 0});
    table->add("beyond the capacity", length, 5, {"actual_lengths", "", 5, 0, StatusCode::capacity_exceeded});
  }
  void add_pool(Table* table, std::size_t p) {
    const auto index = static_cast<std::int64_t>(p);
    ViewTraits t{"kv.k", index};
    t.at_least = 1;
    table->add_view(&kv[p].k, t);
    t.argument = "kv.v";
    table->add_view(&kv[p].v, t);
    table->add_scale(&kv[p].k_scale, "kv.k_scale", index);
    table->add_scale(&kv[p].v_scale, "kv.v_scale", index);
    t.argument = "kv.bias";
    t.optional = t.zero_strides = true;
    t.unit_inner = false;
    table->add_view(&kv[p].bias, t);
  }
  /// Faults of the entry that runs one part.
  void add_parts(Table* table) {
    const auto refusal = [](const char* argument, std::int64_t got) {
      tests::Refusal r{argument, "", got};
      r.only = "part";
      return r;
    };
    table->add("negative", &part, -1, refusal("part", -1));
    table->add("past the last", &part, 1, refusal("part", 1));
    table->add("zero", &parts, 0, refusal("parts", 0));
    table->add("negative", &parts, -3, refusal("parts", -3));
  }
};

}  // namespace

TEST_CASE("tree_attention: every malformed call is refused by name and writes nothing", "[malformed][tree_attention]") {
  TreeCall c(false);
  Table table("tree_attention");
  table.add_way("dispatch", [&] { return tree_attention(c.context, c.plan, c.args); });
  table.add_way("typed", [&] { return portable::tree_attention(c.plan, c.args); });
  table.add_way("part", [&] { return tree_attention_part(c.context, c.plan, c.args, c.part, c.parts); });
  c.add_inputs(&table, &c.args, &c.plan.header.implementation);
  add_output(&table, &c.args.o, "o");
  add_output(&table, &c.args.lse, "lse");
  add_workspace(&table, &c.args.workspace, true);
  c.add_parts(&table);
  table.add_overlaps(&c.args.workspace.data, "workspace", -1, c.inputs);
  std::vector<Region> others = c.inputs;
  others.push_back({"workspace", c.args.workspace.data});
  table.add_overlaps(&c.args.o.data, "o", -1, others);
  others.push_back({"o", c.args.o.data});
  table.add_overlaps(&c.args.lse.data, "lse", -1, others);
  CHECK(table.check(&c.arena) >= 900);
}

TEST_CASE("tree_attention_backward: every malformed call is refused by name and writes nothing",
          "[malformed][tree_attention]") {
  TreeCall c(true);
  Table table("tree_attention_backward");
  table.add_way("dispatch", [&] { return tree_attention_backward(c.context, c.plan, c.grad); });
  table.add_way("typed", [&] { return portable::tree_attention_backward(c.plan, c.grad); });
  table.add_way("part", [&] { return tree_attention_backward_part(c.context, c.plan, c.grad, c.part, c.parts); });
  c.add_inputs(&table, &c.grad.fwd, &c.plan.header.backward_implementation);
  table.add("without backward lists", &c.plan.header.backward, false,
            {"plan", "backward", 0, -1, StatusCode::unsupported});
  table.add_view(&c.grad.fwd.o, {"o"});
  add_lse_input(&table, &c.grad.fwd.lse, "lse", false);
  table.add_view(&c.grad.dout, {"dout"});
  add_lse_input(&table, &c.grad.dlse, "dlse", true);
  add_output(&table, &c.grad.dq, "dq");
  table.add_array(&c.grad.dkv, "dkv");
  table.add_array(&c.grad.dsinks, "dsinks");
  table.add("without sinks", &c.grad.fwd.sinks, Span<const float>(), {"sinks", "size", 0});
  add_workspace(&table, &c.grad.workspace, false);
  c.add_parts(&table);

  std::vector<Region> others = c.inputs;
  table.add_overlaps(&c.grad.workspace.data, "workspace", -1, others);
  others.push_back({"workspace", c.grad.workspace.data});
  table.add_overlaps(&c.grad.dq.data, "dq", -1, others);
  others.push_back({"dq", c.grad.dq.data});
  others.push_back({"dsinks", c.grad.dsinks.data()});
  for (std::size_t p = 0; p < c.dkv.size(); ++p) {
    const auto index = static_cast<std::int64_t>(p);
    ViewTraits t{"dkv.dk", index, true, true};
    t.at_least = 1;
    table.add_view(&c.dkv[p].dk, t);
    t.argument = "dkv.dv";
    table.add_view(&c.dkv[p].dv, t);
    table.add_overlaps(&c.dkv[p].dk.data, "dkv.dk", index, others);
    others.push_back({"dkv.dk", c.dkv[p].dk.data});
    table.add_overlaps(&c.dkv[p].dv.data, "dkv.dv", index, others);
    others.push_back({"dkv.dv", c.dkv[p].dv.data});
  }
  for (const Region& region : others) {
    if (region.argument == "dsinks") continue;
    tests::Refusal r{"dsinks", "overlap", 1};
    r.other = region.argument;
    table.add("over " + region.argument, &c.grad.dsinks, Span<float>(static_cast<float*>(region.address), 4), r);
  }
  CHECK(table.check(&c.arena) >= 1200);
}

namespace {

/// Two groups; every token a query row.
struct PackedCall {
  Arena arena;
  Context context;
  Plan plan;
  SharedPrefixAttend args;
  SharedPrefixAttendGrad grad;
  std::vector<Region> inputs;

  explicit PackedCall(bool backward) {
    REQUIRE(create_context(&context).ok());
    const std::vector<std::int32_t> prefix_len = {5, 2}, suffix_begin = {0, 2, 3}, suffix_len = {3, 1, 4};
    Forest forest;
    REQUIRE(forest_from_groups({prefix_len, suffix_begin, suffix_len, 0}, &forest).ok());
    const LayerKind kind = small_kind();
    REQUIRE(make_plan(context, forest, kind, shared_options(backward), &plan).ok());
    const std::int64_t rows = plan.header.rows;
    args.q = arena.input({rows, kind.Hq, kind.D});
    args.k = arena.input({rows, kind.Hkv, kind.D});
    args.v = arena.input({rows, kind.Hkv, kind.Dv});
    args.o = arena.output({rows, kind.Hq, kind.Dv});
    args.lse = arena.output({rows, kind.Hq});
    const Span<float> sinks = arena.array<float>({0.5f, -1, 0, 2});
    args.sinks = sinks;
    inputs = {{"q", args.q.data}, {"k", args.k.data}, {"v", args.v.data}, {"sinks", sinks.data()}};
    (backward ? grad.workspace : args.workspace) = exact_workspace(&arena, plan, backward);
    if (!backward) return;
    grad.fwd = args;
    grad.fwd.o = arena.input({rows, kind.Hq, kind.Dv});
    grad.fwd.lse = arena.input({rows, kind.Hq});
    grad.dout = arena.input({rows, kind.Hq, kind.Dv});
    grad.dlse = arena.input({rows, kind.Hq});
    grad.dq = arena.output({rows, kind.Hq, kind.D});
    grad.dk = arena.output({rows, kind.Hkv, kind.D});
    grad.dv = arena.output({rows, kind.Hkv, kind.Dv});
    grad.dsinks = {arena.take<float>(kind.Hq), kind.Hq};
    for (const auto& [name, data] : {std::pair("o", grad.fwd.o.data), std::pair("lse", grad.fwd.lse.data),
                                     std::pair("dout", grad.dout.data), std::pair("dlse", grad.dlse.data)}) {
      inputs.push_back({name, data});
    }
  }
  void add_inputs(Table* table, SharedPrefixAttend* a, char (*implementation)[kNameCapacity]) {
    add_plan(table, &plan, implementation);
    table->add("of two pools", {"plan", "pools", 2}, [this]() -> Undo {
      plan.pools.push_back(plan.pools[0]);
      return [this] { plan.pools.pop_back(); };
    });
    table->add("of two pages", {"plan", "pages", 2}, [this]() -> Undo {
      plan.pools[0].num_pages = 2;
      return [this] { plan.pools[0].num_pages = 1; };
    });
    table->add("with deltas", {"plan", "deltas", 2}, [this]() -> Undo {
      plan.deltas.push_back(4);
      return [this] { plan.deltas.pop_back(); };
    });
    table->add("with lengths of the call", &plan.header.length_slots, 1, {"plan", "length_slots", 1});
    table->add_view(&a->q, {"q"});
    table->add_view(&a->k, {"k"});
    table->add_view(&a->v, {"v"});
    add_logits(table, a);
  }
};

}  // namespace

TEST_CASE("shared_prefix_attention: every malformed call is refused by name and writes nothing",
          "[malformed][shared_prefix_attention]") {
  PackedCall c(false);
  Table table("shared_prefix_attention");
  table.add_way("dispatch", [&] { return shared_prefix_attention(c.context, c.plan, c.args); });
  c.add_inputs(&table, &c.args, &c.plan.header.implementation);
  add_output(&table, &c.args.o, "o");
  add_output(&table, &c.args.lse, "lse");
  add_workspace(&table, &c.args.workspace, true);
  table.add_overlaps(&c.args.workspace.data, "workspace", -1, c.inputs);
  std::vector<Region> others = c.inputs;
  others.push_back({"workspace", c.args.workspace.data});
  table.add_overlaps(&c.args.o.data, "o", -1, others);
  others.push_back({"o", c.args.o.data});
  table.add_overlaps(&c.args.lse.data, "lse", -1, others);
  CHECK(table.check(&c.arena) >= 150);
}

TEST_CASE("shared_prefix_attention_backward: every malformed call is refused by name and writes nothing",
          "[malformed][shared_prefix_attention]") {
  PackedCall c(true);
  Table table("shared_prefix_attention_backward");
  table.add_way("dispatch", [&] { return shared_prefix_attention_backward(c.context, c.plan, c.grad); });
  c.add_inputs(&table, &c.grad.fwd, &c.plan.header.backward_implementation);
  table.add_view(&c.grad.fwd.o, {"o"});
  add_lse_input(&table, &c.grad.fwd.lse, "lse", false);
  table.add_view(&c.grad.dout, {"dout"});
  add_lse_input(&table, &c.grad.dlse, "dlse", true);
  table.add_array(&c.grad.dsinks, "dsinks");
  add_workspace(&table, &c.grad.workspace, false);
  table.add_overlaps(&c.grad.workspace.data, "workspace", -1, c.inputs);
  std::vector<Region> others = c.inputs;
  others.push_back({"workspace", c.grad.workspace.data});
  others.push_back({"dsinks", c.grad.dsinks.data()});
  for (const auto& [name, view] :
       {std::pair("dq", &c.grad.dq), std::pair("dk", &c.grad.dk), std::pair("dv", &c.grad.dv)}) {
    add_output(&table, view, name);
    table.add_overlaps(&view->data, name, -1, others);
    others.push_back({name, view->data});
  }
  CHECK(table.check(&c.arena) >= 250);
}
