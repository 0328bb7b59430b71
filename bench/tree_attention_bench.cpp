// SPDX-License-Identifier: Apache-2.0
// tree_attention forward: cases C1 to C5 and C7, and sweeps of one length each. Every implementation and every team
// runs each case with and without sharing.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/counters.hpp"
#include "prefixshare/tree_attention.hpp"
#include "support/answers.hpp"
#include "support/attention_input.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

struct Heads {
  std::int32_t Hq, Hkv, D;
};
constexpr Heads kGrouped{32, 8, 128};
constexpr Heads kEqual{32, 32, 128};

/// One problem. `tree` as in the catalogue: nodes of each level | tokens of each.
struct Case {
  std::string name;
  std::string tree;
  std::int32_t rows = 1;  ///< query rows of a leaf: the last tokens of its path
  Heads heads = kGrouped;
  std::vector<DType> dtypes = {DType::bf16};
  bool cold = false;  ///< caches are flushed before each call
  KvLayout layout = {};
};

std::string prefix_tree(std::int32_t batch, std::int32_t prefix, std::int32_t own) {
  return "1," + std::to_string(batch) + "|" + std::to_string(prefix) + "," + std::to_string(own);
}

std::vector<Case> fixed_cases() {
  const std::vector<DType> all = {DType::bf16, DType::f32, DType::f16}, f32 = {DType::f32};
  const std::vector<DType> halves = {DType::bf16, DType::f16}, two = {DType::f32, DType::bf16};
  const KvLayout head_major{0, true};
  std::vector<Case> cases = {
      {"C1", prefix_tree(32, 4096, 128), 1, kGrouped, all},
      {"C1/flushed", prefix_tree(32, 4096, 128), 1, kGrouped, all, true},
      {"C2/prompt:1024/shared:1024", prefix_tree(32, 1024, 0), 1, kEqual, f32},
      {"C2/prompt:4096/shared:4096", prefix_tree(32, 4096, 0), 1, kEqual, f32},
      {"C2/prompt:1024/shared:0", "32|1024", 1, kEqual, f32},
      {"C3", "1|4352", 1, kGrouped, halves, true},
      {"C3/head-major", "1|4352", 1, kGrouped, halves, true, head_major},
      {"C4", prefix_tree(8, 1024, 256), 256, kGrouped, two},
      {"C5", "1|4608", 512},
      {"C7/batch:1", prefix_tree(1, 4096, 128)},
  };
  for (const std::int32_t prefix : {1, 8, 16, 32, 63}) {
    cases.push_back({join({"C7", label("prefix", prefix)}), prefix_tree(32, prefix, 128)});
  }
  return cases;
}

/// Trees of 32 leaves below paths of 2048 tokens, by depth.
std::string deep_tree(std::size_t depth) {
  const std::vector<std::string> nodes = {"32", "1,32", "1,4,32", "1,2,8,32", "1,2,4,8,16,32"};
  const std::vector<std::size_t> depths = {1, 2, 3, 4, 6};
  const std::size_t at = static_cast<std::size_t>(std::find(depths.begin(), depths.end(), depth) - depths.begin());
  std::string tokens;
  for (std::size_t level = 0; level < depth; ++level) tokens += (level ? "," : "|") + std::to_string(2048 / depth);
  return nodes[at] + tokens;
}

/// Each changes one thing.
std::vector<Case> sweeps() {
  std::vector<Case> cases;
  const auto add = [&](const char* what, std::int64_t value, const std::string& tree) -> Case& {
    cases.push_back({join({"sweep", label(what, value)}), tree});
    return cases.back();
  };
  for (const std::int32_t p : {1024, 4096, 16384, 65536}) add("prefix", p, prefix_tree(8, p, 64));
  for (const std::int32_t b : {1, 4, 16, 64, 256, 512}) add("batch", b, prefix_tree(b, 1024, 32));
  for (const std::int32_t d : {1, 2, 3, 4, 6}) add("depth", d, deep_tree(static_cast<std::size_t>(d)));
  for (const std::int32_t d : {64, 96, 128, 192, 256}) add("D", d, prefix_tree(16, 1024, 128)).heads.D = d;
  for (const std::int32_t p : {1, 4, 16, 64}) add("page", p, prefix_tree(16, 1024, 128)).layout.page_size = p;
  return cases;
}

LayerKind kind_of(const Case& c, DType dtype) {
  LayerKind kind;
  kind.Hq = c.heads.Hq;
  kind.Hkv = c.heads.Hkv;
  kind.D = kind.Dv = c.heads.D;
  kind.q_dtype = kind.kv_dtype = dtype;
  return kind;
}

testing::Topology topology_of(const Case& c, std::int32_t scale) {
  testing::Topology t = tree_topology(c.tree, scale);
  for (Sequence& s : t.sequences) s.q_len = (c.rows + scale - 1) / scale;
  return t;
}

/// The problem that was asked for last and its answer: one at a time, since they are large.
class Workbench {
 public:
  AttentionInput& input(const Case& c, DType dtype, std::int32_t scale) {
    const std::string key = join({c.name, to_string(dtype)});
    if (key == key_) return input_;
    input_ = AttentionInput(topology_of(c, scale), kind_of(c, dtype), c.layout);
    answer_ = answer(input_.forest(), input_.kind(), input_.attend());
    key_ = key;
    return input_;
  }
  testing::Comparison judge() const { return testing::check_forward(answer_, input_.attend()); }

 private:
  std::string key_;
  AttentionInput input_;
  testing::Answer answer_;
};

/// One registered benchmark.
struct Variant {
  Case problem;
  DType dtype = DType::f32;
  Team team;
  std::string implementation;
};

struct Times {
  double unshared = 0;
  double shared = 0;
};

Work work_of(const Case& c, const Counters& n, double distinct_bytes, DType storage) {
  Work work;
  work.distinct_bytes = distinct_bytes + static_cast<double>(n.partial_bytes) / 2;
  work.bytes = static_cast<double>(n.kv_bytes + n.q_bytes + n.partial_bytes);
  work.flops = static_cast<double>(n.flops_forward);
  work.exponentials = static_cast<double>(n.exps);
  work.storage = storage;
  work.cold = c.cold;
  return work;
}

void report(Session* session, const Variant& v, const AttentionInput& input, const PlannedCall& call,
            const Times& times, benchmark::State* state) {
  const Counters n = count(call.plan);
  const Work work = work_of(v.problem, n, input.distinct_bytes(), v.dtype);
  const Ceilings& ceilings = session->ceilings(v.team);
  report_floor(state, floor_of(work, ceilings), ceilings, times.shared);
  state->counters["vs_unshared"] = times.unshared / times.shared;
  state->counters["unshared_ms"] = 1e3 * times.unshared;
  state->counters["FLOP/s"] = work.flops / times.shared;
  state->counters["fma_fraction"] = work.flops / ceilings.flops(DType::f32) / times.shared;
  state->counters["kv_rows"] = static_cast<double>(n.kv_rows);
}

/// Where the plan is the one without sharing, its time is that of the unshared way too.
void run(Session* session, Workbench* bench, const Variant& v, benchmark::State* state) {
  AttentionInput& input = bench->input(v.problem, v.dtype, session->quick ? 8 : 1);
  const Context context = session->context_for(v.implementation, v.team);
  const PlannedCall shared(context, input, Sharing::automatic), unshared(context, input, Sharing::never);
  const bool equal = shared.plan == unshared.plan;
  state->counters["plan_equal"] = equal ? 1 : 0;
  for (const PlannedCall* call : {&unshared, &shared}) {
    input.poison_outputs();
    const auto once = [&] { return call->run(context, input); };
    if (!is_right(session, state, once, [&] { return bench->judge(); })) return;
  }
  const auto before = [&] {
    if (v.problem.cold) session->flush();
  };
  const auto time = [&](const PlannedCall& call) {
    return median_seconds(before, [&] { return call.run(context, input); });
  };
  const Observed<Times> times = quietly([&] {
    Times t;
    if (!equal) t.unshared = time(unshared);
    t.shared = time(shared);
    if (equal) t.unshared = t.shared;
    return t;
  });
  report_time(state, times.result.shared, times.busy);
  report(session, v, input, shared, times.result, state);
}

void register_case(Session* session, const std::shared_ptr<Workbench>& bench, const Case& c) {
  const auto& list = session->context.tree_attention;
  for (const DType dtype : c.dtypes) {
    for (const Team& team : session->teams) {
      for (std::int32_t i = 0; i < list.count; ++i) {
        const auto& entry = list.entries[i];
        if (entry.space != MemorySpace::host) continue;
        if (entry.accepts && !entry.accepts({kind_of(c, dtype), Mode::fast, MemorySpace::host}).ok()) continue;
        const Variant v{c, dtype, team, entry.name};
        const std::string name =
            join({session->quick ? c.name + "/scale:8" : c.name, to_string(dtype), team.name, v.implementation});
        add_case(name, [session, bench, v](benchmark::State& state) { run(session, bench.get(), v, &state); });
      }
    }
  }
}

}  // namespace

void register_tree_attention(Session* session) {
  const auto bench = std::make_shared<Workbench>();
  for (const Case& c : fixed_cases()) register_case(session, bench, c);
  for (const Case& c : sweeps()) register_case(session, bench, c);
}

}  // namespace prefixshare::bench
