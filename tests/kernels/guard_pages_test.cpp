// SPDX-License-Identifier: Apache-2.0
// Every vector of every buffer of a call lies beside a page that nobody may touch, behind it or before it: an
// implementation that reads or writes one byte too far does not survive.
#include "support/attention.hpp"
#include "support/data.hpp"

#if defined(__linux__)
#include <tuple>

#include "kernels/guarded_memory.hpp"
#endif

using namespace prefixshare;
using namespace prefixshare::tests;

#if defined(__linux__)

namespace {

using prefixshare::testing::to_doubles;

/// A problem's call, forward and backward, in guarded memory.
class GuardedCall {
 public:
  GuardedCall(const Problem& p, AttendGrad from, Guard guard) : copies_(guard), grad_(from) {
    Attend& a = grad_.fwd;
    a.q = copies_.tensor(a.q);
    a.o = copies_.tensor(a.o);
    a.lse = copies_.tensor(a.lse, true);
    a.sinks = copies_.array(a.sinks);
    a.actual_lengths = copies_.array(a.actual_lengths);
    if (a.rope != nullptr) {
      rope_ = *a.rope;
      rope_.inv_freq = copies_.array(rope_.inv_freq);
      a.rope = &rope_;
    }
    for (const KvPool& pool : a.kv) kv_.push_back(copy_of(pool, p.options));
    a.kv = kv_;
    if (!from.dout) return;
    grad_.dout = copies_.tensor(from.dout);
    grad_.dlse = copies_.tensor(from.dlse, true);
    grad_.dq = copies_.tensor(from.dq);
    grad_.dsinks = copies_.array(from.dsinks);
    for (const KvGrad& g : from.dkv) dkv_.push_back({copies_.tensor(g.dk), copies_.tensor(g.dv)});
    grad_.dkv = dkv_;
  }
  GuardedCall(const GuardedCall&) = delete;
  GuardedCall& operator=(const GuardedCall&) = delete;

  /// The arguments, with a fresh workspace of just the bytes that forward and backward ask for.
  const AttendGrad& args(const Plan& plan, std::int32_t parts) {
    const LayerKind& kind = plan.header.kind;
    const PlanLimits limits = limits_of(plan, parts);
    std::int64_t forward = 0, backward = 0;
    require_ok(forward_workspace(kind, limits, &forward));
    require_ok(backward_workspace(kind, limits, &backward));
    require_ok(init_workspace(kind, limits, copies_.bytes(forward), forward, &grad_.fwd.workspace));
    grad_.workspace = {copies_.bytes(backward), backward, grad_.fwd.workspace.counter_bytes};
    return grad_;
  }

  /// Names a packed copy of every segment, of just the bytes that it needs.
  void pack(const NamedContext& c, const Plan& plan) {
    std::vector<std::vector<PackedSegment>> of_pool(kv_.size());
    for (std::size_t s = 0; s < plan.segments.size(); ++s) {
      const Segment& segment = plan.segments[s];
      PackSegment args;
      args.segment = static_cast<std::int32_t>(s);
      args.tokens = segment.length;
      args.pool = kv_[static_cast<std::size_t>(segment.pool)];
      args.bytes = packed_segment_bytes(plan.header.kind, segment.length);
      args.out = copies_.bytes(args.bytes);
      require_ok(pack_segment(c.context, plan, args));
      of_pool[static_cast<std::size_t>(segment.pool)].push_back({args.segment, args.tokens, args.out});
    }
    for (std::size_t p = 0; p < kv_.size(); ++p) {
      const Span<const PackedSegment> packed = of_pool[p];
      kv_[p].packed = copies_.array(packed);
    }
  }
  void unpack() {
    for (KvPool& pool : kv_) pool.packed = {};
  }

 private:
  KvPool copy_of(const KvPool& pool, const ProblemOptions& options) {
    KvPool copy = pool;
    copy.k = copies_.tensor(pool.k);
    if (options.v_in_k) {
      copy.v = copy.k;
      copy.v.shape[3] = pool.v.shape[3];
    } else {
      copy.v = copies_.tensor(pool.v);
    }
    copy.bias = copies_.tensor(pool.bias, true);
    copy.k_scale.data = copies_.array(pool.k_scale.data, scales_of(pool.k_scale, pool.k));
    copy.v_scale.data = copies_.array(pool.v_scale.data, scales_of(pool.v_scale, pool.k));
    return copy;
  }
  static std::int64_t scales_of(const KvScale& scale, const TensorView<4>& k) {
    switch (scale.granularity) {
      case ScaleGranularity::none: break;
      case ScaleGranularity::tensor: return 1;
      case ScaleGranularity::head: return k.shape[2];
      case ScaleGranularity::token: return k.shape[0] * k.shape[1] * k.shape[2];
      case ScaleGranularity::page: return k.shape[0] * k.shape[2];
    }
    return 0;
  }

  GuardedCopies copies_;
  AttendGrad grad_;
  RopeTable rope_;
  std::vector<KvPool> kv_;
  std::vector<KvGrad> dkv_;
};

/// All that a call writes.
std::vector<std::vector<double>> values_of(const AttendGrad& args) {
  std::vector<std::vector<double>> values = {to_doubles(args.fwd.o), to_doubles(args.fwd.lse)};
  if (!args.dq) return values;
  values.push_back(to_doubles(args.dq));
  values.push_back(to_doubles(Span<const float>(args.dsinks)));
  for (const KvGrad& g : args.dkv) {
    values.push_back(to_doubles(g.dk));
    values.push_back(to_doubles(g.dv));
  }
  return values;
}
bool same_values(const std::vector<std::vector<double>>& a, const std::vector<std::vector<double>>& b) {
  return Outputs{a} == Outputs{b};
}

bool has_format(const NamedContext& c) { return detail::find(c.context.pack_segment, c.name.c_str()) != nullptr; }

/// A problem on every implementation, plain and then guarded: the same bits.
void run_guarded(const std::vector<NamedContext>& contexts, Problem* p, const PlanOptions& plan_options) {
  const bool backward = plan_options.backward;
  const testing::Answer answer = testing::answer_forward(p->forest, p->options.kind, p->attend());
  p->poison_outputs();
  GuardedCall behind(*p, p->attend_grad(), Guard::behind), before(*p, p->attend_grad(), Guard::before);
  for (const NamedContext& c : contexts) {
    if (!c.takes(p->options.kind)) continue;
    INFO(c.name);
    const Plan plan = proved_plan(c, p->forest, p->options.kind, plan_options);
    for (const std::int32_t parts : {1, 3}) {
      run_forward(c.context, plan, p, parts);
      if (backward) run_backward(c.context, plan, p, parts);
      for (GuardedCall* call : {&behind, &before}) {
        INFO("guard " << (call == &behind ? "behind" : "before") << ", parts " << parts);
        const AttendGrad& args = call->args(plan, parts);
        for (std::int32_t i = 0; i < parts; ++i) require_ok(tree_attention_part(c.context, plan, args.fwd, i, parts));
        for (std::int32_t i = 0; backward && i < parts; ++i) {
          require_ok(tree_attention_backward_part(c.context, plan, args, i, parts));
        }
        CHECK(same_values(values_of(args), values_of(p->attend_grad())));
        if (!has_format(c)) continue;
        call->pack(c, plan);
        for (std::int32_t i = 0; i < parts; ++i) require_ok(tree_attention_part(c.context, plan, args.fwd, i, parts));
        check_comparison(testing::check_forward(answer, args.fwd));
        call->unpack();
      }
    }
  }
}

/// What the shapes vary, as indices into the lists of `guarded_case`.
enum Factor { kTypes, kHeads, kDims, kPages, kShape, kOptions, kScales };
const std::vector<std::int32_t> kLevels = {6, 4, 8, 3, 5, 4, 5};

Topology choose_topology(std::int32_t shape, Random* random) {
  testing::RandomForest limits;
  limits.max_nodes = 6;
  limits.max_length = 9;
  limits.length_slots = true;
  const std::int32_t keys = random->between(1, 70);
  if (shape == 0) return testing::chain(std::vector<std::int32_t>{keys}, 1);                   // few packed rows
  if (shape == 1) return testing::chain(std::vector<std::int32_t>{keys, 3}, 3 + keys % 30);    // many
  if (shape == 2) return testing::prefix_group(keys, std::vector<std::int32_t>(9, 2), false);  // shared, then own
  if (shape == 3) return draft_tree(keys, 7, random);
  return testing::random_topology(random, limits);
}

ForwardCase guarded_case(const std::vector<std::int32_t>& row, std::uint64_t seed) {
  const std::pair<DType, DType> types[] = {{DType::f32, DType::f32},   {DType::f16, DType::f16},
                                           {DType::bf16, DType::bf16}, {DType::f32, DType::bf16},
                                           {DType::bf16, DType::f32},  {DType::f64, DType::f64}};
  const std::pair<std::int32_t, std::int32_t> heads[] = {{1, 1}, {8, 2}, {5, 1}, {6, 3}};
  const std::pair<std::int32_t, std::int32_t> dims[] = {{16, 16}, {20, 17},   {64, 64},   {80, 80},
                                                        {8, 8},   {192, 128}, {576, 512}, {33, 48}};
  const std::int32_t pages[] = {0, 1, 5};
  ForwardCase c;
  ProblemOptions& o = c.options;
  std::tie(o.kind.q_dtype, o.kind.kv_dtype) = types[row[kTypes]];
  std::tie(o.kind.Hq, o.kind.Hkv) = heads[row[kHeads]];
  std::tie(o.kind.D, o.kind.Dv) = dims[row[kDims]];
  o.kind.window = seed % 4 == 0 ? 11 : -1;
  o.page_size = pages[row[kPages]];
  o.v_in_k = o.kind.D == 576;
  o.softcap = row[kOptions] == 1 ? 3.0 : 0.0;
  o.sinks = o.bias = row[kOptions] == 1 || row[kOptions] == 2;
  o.wide_outputs = row[kOptions] == 2;
  o.q_rotated = row[kOptions] != 3;
  o.rope_dim = o.kind.D / 4 * 2;
  o.k_scale = static_cast<ScaleGranularity>(row[kScales]);
  o.v_scale = static_cast<ScaleGranularity>((row[kScales] * 3) % 5);
  o.backward = c.plan.backward = true;
  o.seed = seed;
  Random random(seed);
  c.topology = choose_topology(row[kShape], &random);
  c.plan.sharing = Sharing::always;
  c.plan.cost = eager_cost();
  return c;
}

}  // namespace

TEST_CASE("guard pages: nothing is read or written beside any vector of any buffer", "[kernels]") {
  const std::vector<NamedContext> contexts = attention_contexts(DType::bf16);
  std::vector<std::vector<std::int32_t>> rows = pairwise(kLevels);
  for (std::uint64_t more = 2; test_all() && more < 8; ++more) {
    for (auto& row : pairwise(kLevels, more)) rows.push_back(std::move(row));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    INFO("row " << i << ": " << ::Catch::Detail::stringify(rows[i]));
    const ForwardCase c = guarded_case(rows[i], i + 1);
    Problem p;
    require_ok(make_problem(c.topology, c.options, &p));
    run_guarded(contexts, &p, c.plan);
  }
}

#else

TEST_CASE("guard pages: nothing is read or written beside any vector of any buffer", "[kernels]") {
  skip("guard pages", "the test knows them on Linux only");
}

#endif
