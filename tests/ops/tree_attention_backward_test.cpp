// SPDX-License-Identifier: Apache-2.0
// tree_attention, backward: against repeated-prefix attention, the brute-force oracle and central differences.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "support/attention.hpp"
#include "support/data.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using prefixshare::testing::Answer;
using prefixshare::testing::answer_backward;
using prefixshare::testing::check_backward;
using prefixshare::testing::check_forward;
using prefixshare::testing::to_doubles;

struct BackwardCase {
  Topology topology;
  ProblemOptions options;
  PlanOptions plan;
  BackwardCase() { options.backward = plan.backward = true; }
};

/// Forward and backward of a case on every implementation, judged.
void run_case(const std::vector<NamedContext>& contexts, const BackwardCase& c) {
  Problem p;
  require_ok(make_problem(c.topology, c.options, &p));
  const NamedContext& first =
      *std::find_if(contexts.begin(), contexts.end(), [&](const NamedContext& x) { return x.takes(c.options.kind); });
  run_forward(first.context, proved_plan(first, p.forest, c.options.kind, c.plan), &p);
  const Answer answer = answer_backward(p.forest, c.options.kind, p.attend_grad());
  const SavedState state(p);
  for (const NamedContext& context : contexts) {
    if (!context.takes(c.options.kind)) continue;
    INFO(context.name);
    const Plan plan = proved_plan(context, p.forest, c.options.kind, c.plan);
    run_forward(context.context, plan, &p);
    check_comparison(check_forward(answer, p.attend()));
    state.restore(&p);
    run_backward(context.context, plan, &p);
    check_comparison(check_backward(answer, p.attend_grad()));
  }
}

// ---- Repeated-prefix attention, written for this test alone
// ----------------------------------------------------------

using Rows = std::vector<std::vector<double>>;  ///< [tokens][heads * dim]

/// One sequence of its own: causal attention over its tokens, all of them queries.
struct Sequence {
  Rows q, k, v, dout, dlse;  // inputs
  Rows o, lse, dq, dk, dv;   // results
  double a = 0;              // largest absolute logit sum
};

/// Query rows before `first` are not wanted.
void attend_alone(std::int32_t Hq, std::int32_t Hkv, std::int32_t D, std::size_t first, Sequence* s) {
  const std::size_t n = s->q.size(), d = static_cast<std::size_t>(D);
  const double scale = 1 / std::sqrt(static_cast<double>(D));
  s->o = s->dq = Rows(n, std::vector<double>(static_cast<std::size_t>(Hq) * d));
  s->dk = s->dv = Rows(n, std::vector<double>(static_cast<std::size_t>(Hkv) * d));
  s->lse = Rows(n, std::vector<double>(static_cast<std::size_t>(Hq)));
  for (std::size_t h = 0; h < static_cast<std::size_t>(Hq); ++h) {
    const std::size_t qh = h * d, kh = h / static_cast<std::size_t>(Hq / Hkv) * d;
    for (std::size_t i = first; i < n; ++i) {
      std::vector<double> p(i + 1);
      double maximum = -std::numeric_limits<double>::infinity(), sum = 0;
      for (std::size_t j = 0; j <= i; ++j) {
        double size = 0;
        for (std::size_t x = 0; x < d; ++x) {
          const double term = scale * s->q[i][qh + x] * s->k[j][kh + x];
          p[j] += term;
          size += std::abs(term);
        }
        maximum = std::max(maximum, p[j]);
        s->a = std::max(s->a, size);
      }
      for (double& x : p) sum += x = std::exp(x - maximum);
      for (double& x : p) x /= sum;
      s->lse[i][h] = maximum + std::log(sum);
      double delta = -s->dlse[i][h];
      for (std::size_t x = 0; x < d; ++x) {
        for (std::size_t j = 0; j <= i; ++j) s->o[i][qh + x] += p[j] * s->v[j][kh + x];
        delta += s->dout[i][qh + x] * s->o[i][qh + x];
      }
      for (std::size_t j = 0; j <= i; ++j) {
        double dp = 0;
        for (std::size_t x = 0; x < d; ++x) dp += s->dout[i][qh + x] * s->v[j][kh + x];
        const double ds = scale * p[j] * (dp - delta);
        for (std::size_t x = 0; x < d; ++x) {
          s->dv[j][kh + x] += p[j] * s->dout[i][qh + x];
          s->dq[i][qh + x] += ds * s->k[j][kh + x];
          s->dk[j][kh + x] += ds * s->q[i][qh + x];
        }
      }
    }
  }
}

/// Row `index` of a flat [rows][width] array.
std::vector<double> row_of(const std::vector<double>& flat, std::size_t index, std::size_t width) {
  const auto first = flat.begin() + static_cast<std::ptrdiff_t>(index * width);
  return std::vector<double>(first, first + static_cast<std::ptrdiff_t>(width));
}
void add_row(const std::vector<double>& x, std::size_t index, std::vector<double>* flat) {
  for (std::size_t i = 0; i < x.size(); ++i) (*flat)[index * x.size() + i] += x[i];
}

/// Zeros for vectors [first[b], first[b] + lengths[b]) x heads in block row b, of `vectors` x heads in all.
testing::Expected zeros(std::int64_t vectors, const std::vector<std::int64_t>& first,
                        const std::vector<std::int32_t>& lengths, std::int32_t heads, std::int32_t width, double size) {
  testing::Expected e =
      testing::detail::make_expected(vectors * heads, width, static_cast<std::int64_t>(lengths.size()) * heads, size);
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    for (std::int64_t i = 0; i < std::int64_t{lengths[b]} * heads; ++i) {
      e.block[static_cast<std::size_t>(first[b] * heads + i)] =
          static_cast<std::int32_t>(static_cast<std::int64_t>(b) * heads + i % heads);
    }
  }
  return e;
}

/// What training on repeated prompts gives: each member carries its own copy of the prefix's keys and values. The query
/// rows of the prefix are in the packed batch once: with the first member. Errors are relative to the largest value of
/// a block alone.
Answer repeated(const Problem& p, std::int32_t prefix, const std::vector<std::int32_t>& own) {
  const LayerKind& kind = p.options.kind;
  const std::size_t q_width = static_cast<std::size_t>(kind.Hq * kind.D);
  const std::size_t kv_width = static_cast<std::size_t>(kind.Hkv * kind.D);
  const std::vector<double> q = to_doubles(p.q.view()), dout = to_doubles(p.dout.view());
  const std::vector<double> dlse = to_doubles(p.dlse.view()), k = to_doubles(p.kv[0].k), v = to_doubles(p.kv[0].v);
  std::vector<std::int32_t> lengths = {prefix};
  lengths.insert(lengths.end(), own.begin(), own.end());
  std::vector<std::int64_t> first_row = {0}, first_token;
  for (std::size_t b = 1; b < lengths.size(); ++b) first_row.push_back(first_row[b - 1] + lengths[b - 1]);
  for (const Segment& s : p.forest.segments) first_token.push_back(s.offset);
  Answer answer;
  answer.acc = kind.acc_dtype();
  testing::AttentionExpectation& e = answer.exact;
  e.o = e.dq = zeros(p.forest.rows(), first_row, lengths, kind.Hq, kind.D, 0);
  e.lse = zeros(p.forest.rows(), first_row, lengths, kind.Hq, 1, 8);
  e.dk = e.dv = {zeros(p.kv[0].k.shape[1], first_token, lengths, kind.Hkv, kind.D, 0)};
  for (std::size_t member = 1; member < lengths.size(); ++member) {
    Sequence s;
    std::vector<std::size_t> rows, tokens;
    for (std::int32_t t = 0; t < prefix + lengths[member]; ++t) {
      const bool shared = t < prefix;
      const std::int32_t at = shared ? t : t - prefix;
      rows.push_back(static_cast<std::size_t>(first_row[shared ? 0 : member] + at));
      tokens.push_back(static_cast<std::size_t>(first_token[shared ? 0 : member] + at));
      s.q.push_back(row_of(q, rows.back(), q_width));
      s.k.push_back(row_of(k, tokens.back(), kv_width));
      s.v.push_back(row_of(v, tokens.back(), kv_width));
      s.dout.push_back(row_of(dout, rows.back(), q_width));
      s.dlse.push_back(row_of(dlse, rows.back(), static_cast<std::size_t>(kind.Hq)));
    }
    const std::size_t first_query = member == 1 ? 0 : static_cast<std::size_t>(prefix);
    attend_alone(kind.Hq, kind.Hkv, kind.D, first_query, &s);
    e.a = std::max(e.a, s.a);
    for (std::size_t t = 0; t < rows.size(); ++t) {
      add_row(s.dk[t], tokens[t], &e.dk[0].value);
      add_row(s.dv[t], tokens[t], &e.dv[0].value);
      if (t < first_query) continue;
      add_row(s.o[t], rows[t], &e.o.value);
      add_row(s.lse[t], rows[t], &e.lse.value);
      add_row(s.dq[t], rows[t], &e.dq.value);
    }
  }
  return answer;
}

}  // namespace

namespace {

/// A prefix and its members in `type`, on every implementation that takes it.
void against_repeated(const std::vector<NamedContext>& contexts, LayerKind kind, DType type, std::int32_t prefix,
                      const std::vector<std::int32_t>& own) {
  BackwardCase c;
  c.topology = testing::prefix_group(prefix, own, true);
  kind.q_dtype = kind.kv_dtype = type;
  c.options.kind = kind;
  c.plan.cost = eager_cost();
  Problem p;
  require_ok(make_problem(c.topology, c.options, &p));
  const Answer answer = repeated(p, prefix, own);
  for (const NamedContext& context : contexts) {
    if (!context.takes(kind)) continue;
    INFO(context.name << ", " << to_string(type));
    const Plan plan = proved_plan(context, p.forest, kind, c.plan);
    run_forward(context.context, plan, &p);
    run_backward(context.context, plan, &p);
    check_comparison(check_forward(answer, p.attend()));
    check_comparison(check_backward(answer, p.attend_grad()));
  }
}

}  // namespace

TEST_CASE("tree_attention backward: f64 and f32 exact against repeated-prefix attention", "[attention][backward]") {
  const std::vector<NamedContext> contexts = attention_contexts();
  const std::int32_t ragged[] = {0, 1, 7, 64};
  const std::pair<std::int32_t, std::int32_t> heads[] = {{1, 1}, {4, 2}};
  LayerKind kind;
  for (const auto& [Hq, Hkv] : heads) {
    kind.Hq = Hq;
    kind.Hkv = Hkv;
    for (const std::int32_t D : {32, 64}) {
      kind.D = kind.Dv = D;
      for (const std::int32_t prefix : {0, 1, 17, 256}) {
        for (const std::int32_t members : {1, 2, 8}) {
          // A lone member takes each length in turn; members together take them all.
          for (std::int32_t turn = 0; turn < (members == 1 ? 4 : members == 2 ? 2 : 1); ++turn) {
            std::vector<std::int32_t> own;
            for (std::int32_t m = 0; m < members; ++m) own.push_back(ragged[(m + turn * members) % 4]);
            INFO("Hq " << Hq << " D " << D << " P " << prefix << " G " << members << " turn " << turn);
            against_repeated(contexts, kind, DType::f64, prefix, own);
            if (D == 64 && Hq == 4) against_repeated(contexts, kind, DType::f32, prefix, own);
          }
        }
      }
    }
  }
}

TEST_CASE("tree_attention backward: 1,000 random forests in f64 and 500 in f32 agree with the oracle",
          "[attention][backward]") {
  const std::vector<NamedContext> contexts = attention_contexts();
  for (std::uint64_t seed = 1; seed <= 1500; ++seed) {
    BackwardCase c;
    Random random(seed);
    testing::RandomForest limits;
    limits.max_length = 6;
    limits.length_slots = random.chance(0.3);
    c.topology = testing::random_topology(&random, limits);
    LayerKind& kind = c.options.kind;
    kind.Hq = random.between(1, 2) * 2;
    kind.Hkv = 2;
    kind.D = seed <= 1000 || random.chance(0.5) ? 4 : 16;
    kind.Dv = random.chance(0.5) ? kind.D : kind.D - 1;
    kind.window = random.chance(0.3) ? random.between(1, 20) : -1;
    kind.q_dtype = kind.kv_dtype = seed <= 1000 ? DType::f64 : DType::f32;
    c.options.seed = seed;
    c.options.page_size = random.between(0, 5);
    c.options.pools = random.between(1, 2);
    c.options.sinks = random.chance(0.3);
    c.options.softcap = random.chance(0.3) ? 2.0 : 0.0;
    c.options.q_rotated = random.chance(0.7);
    c.options.dlse = random.chance(0.8);
    c.plan.sharing = static_cast<Sharing>(random.between(0, 2));
    if (random.chance(0.5)) c.plan.cost = eager_cost();
    if (random.chance(0.2)) c.plan.mode = Mode::batch_invariant;
    INFO("seed " << seed);
    run_case(contexts, c);
  }
}

namespace {

enum Factor { kTypes, kHeads, kDims, kPages, kShape, kOptions, kScales, kRotation, kSharing, kWindow };
const std::vector<std::int32_t> kLevels = {7, 5, 7, 4, 4, 5, 5, 4, 3, 3};

BackwardCase backward_case(const std::vector<std::int32_t>& row, std::uint64_t seed) {
  const std::pair<DType, DType> types[] = {
      {DType::f64, DType::f64},  {DType::f32, DType::f32},  {DType::f16, DType::f16}, {DType::bf16, DType::bf16},
      {DType::f32, DType::bf16}, {DType::bf16, DType::f32}, {DType::f16, DType::bf16}};
  const std::pair<std::int32_t, std::int32_t> heads[] = {{3, 3}, {8, 2}, {5, 1}, {8, 1}, {71, 1}};
  const std::pair<std::int32_t, std::int32_t> dims[] = {{8, 8},     {64, 64},   {80, 80},  {96, 96},
                                                        {128, 128}, {192, 128}, {576, 512}};
  const std::int32_t pages[] = {0, 1, 5, 16}, windows[] = {-1, 1, 6};
  BackwardCase c;
  ProblemOptions& o = c.options;
  std::tie(o.kind.q_dtype, o.kind.kv_dtype) = types[row[kTypes]];
  std::tie(o.kind.Hq, o.kind.Hkv) = heads[row[kHeads]];
  std::tie(o.kind.D, o.kind.Dv) = dims[row[kDims]];
  o.kind.window = windows[row[kWindow]];
  o.page_size = pages[row[kPages]];
  o.v_in_k = o.kind.D == 576;
  o.strided = row[kOptions] == 1 || row[kOptions] == 4;
  o.softcap = row[kOptions] >= 2 ? 3.0 : 0.0;
  o.sinks = row[kOptions] >= 3;
  o.bias = row[kOptions] == 2 || row[kOptions] == 4;
  o.wide_outputs = row[kOptions] == 3;
  o.dlse = row[kOptions] != 1;
  o.k_scale = static_cast<ScaleGranularity>(row[kScales]);
  o.v_scale = static_cast<ScaleGranularity>((row[kScales] * 3) % 5);
  o.q_rotated = row[kRotation] <= 1;
  o.rope = row[kRotation] >= 1;
  o.pairing = row[kRotation] == 2 ? RopePairing::interleaved : RopePairing::half;
  if (row[kRotation] >= 2) {
    o.rope_dim = o.kind.D / 4 * 2;
    o.rope_offset = row[kRotation] == 3 ? o.kind.D - o.rope_dim : 0;
    o.mscale = 1.25;
  }
  o.seed = seed;
  Random random(seed);
  testing::RandomForest limits;
  limits.max_nodes = 10;
  limits.max_length = 6;
  limits.max_rows = 3;
  limits.length_slots = row[kShape] == 1;
  const std::vector<std::int32_t> own = {0, 1, 7, 3};
  c.topology = row[kShape] <= 1   ? testing::random_topology(&random, limits)
               : row[kShape] == 2 ? testing::prefix_group(20, own, false)
                                  : testing::prefix_group(5, own, true);
  c.plan.sharing = static_cast<Sharing>(row[kSharing]);
  if (row[kSharing] == 0) c.plan.cost = eager_cost();
  return c;
}

}  // namespace

TEST_CASE("tree_attention backward: types, heads, dims, pages, masks and options agree with the oracle",
          "[attention][backward]") {
  const std::vector<NamedContext> contexts = attention_contexts();
  std::vector<std::vector<std::int32_t>> rows = pairwise(kLevels);
  for (std::uint64_t more = 2; test_all() && more < 12; ++more) {
    for (auto& row : pairwise(kLevels, more)) rows.push_back(std::move(row));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    INFO("row " << i << ": " << ::Catch::Detail::stringify(rows[i]));
    run_case(contexts, backward_case(rows[i], i + 1));
  }
}

TEST_CASE("tree_attention backward: long prefixes span several key blocks and tiles", "[attention][backward]") {
  const std::vector<NamedContext> contexts = attention_contexts();
  BackwardCase c;
  c.topology = testing::prefix_group(300, std::vector<std::int32_t>{150, 1, 40}, true);
  c.options.kind.Hq = 4;
  c.options.kind.Hkv = 2;
  c.options.kind.D = c.options.kind.Dv = 8;
  c.options.page_size = 16;
  run_case(contexts, c);
}

TEST_CASE("tree_attention backward: central differences of the forward", "[attention][backward]") {
  // loss = sum(dout . o) + sum(dlse . lse), all in f64, with every option that has a gradient.
  for (const NamedContext& c : attention_contexts()) {
    if (c.widest != DType::f64) continue;
    INFO(c.name);
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      BackwardCase b;
      b.topology = testing::prefix_group(4, std::vector<std::int32_t>{2, 3}, true);
      b.topology.nodes[2].delta = 5;
      ProblemOptions& o = b.options;
      o.kind.Hq = 2;
      o.kind.D = o.kind.Dv = 4;
      o.kind.q_dtype = o.kind.kv_dtype = DType::f64;
      o.seed = seed;
      o.softcap = seed == 1 ? 0.0 : 2.0;
      o.sinks = o.bias = true;
      o.q_rotated = seed == 1;
      o.k_scale = o.v_scale = ScaleGranularity::head;
      Problem p;
      require_ok(make_problem(b.topology, o, &p));
      const Plan plan = proved_plan(c, p.forest, o.kind, b.plan);
      run_forward(c.context, plan, &p);
      run_backward(c.context, plan, &p);
      const std::vector<double> dq = to_doubles(p.dq.view()), dk = to_doubles(p.dkv[0].dk),
                                dv = to_doubles(p.dkv[0].dv);
      const std::vector<double> dout = to_doubles(p.dout.view()), dlse = to_doubles(p.dlse.view());
      const auto loss = [&] {
        require_ok(tree_attention(c.context, plan, p.attend()));
        const std::vector<double> out = to_doubles(p.o.view()), lse = to_doubles(p.lse.view());
        double sum = 0;
        for (std::size_t i = 0; i < out.size(); ++i) sum += dout[i] * out[i];
        for (std::size_t i = 0; i < lse.size(); ++i) sum += dlse[i] * lse[i];
        return sum;
      };
      // Two step sizes give the truncation error of order h^2, and take it away.
      const auto check = [&](auto view, const std::vector<double>& gradient) {
        for (std::int64_t i = 0; i < testing::count_of(view); ++i) {
          double& x = static_cast<double*>(view.data)[testing::offset_of(view, i)];
          if (std::isnan(x)) continue;
          const double at = x, h = 1e-3;
          double slope[2];
          for (int step = 0; step < 2; ++step) {
            const double e = step == 0 ? h : h / 2;
            x = at + e;
            const double above = loss();
            x = at - e;
            slope[step] = (above - loss()) / (2 * e);
          }
          x = at;
          const double difference = (4 * slope[1] - slope[0]) / 3;
          CHECK(std::abs(difference - gradient[static_cast<std::size_t>(i)]) <= testing::kFiniteDifferenceTolerance);
        }
      };
      check(p.q.view(), dq);
      check(p.kv[0].k, dk);
      check(p.kv[0].v, dv);
      CHECK(std::any_of(dq.begin(), dq.end(), [](double x) { return std::abs(x) > 1e-3; }));
    }
  }
}

TEST_CASE("tree_attention backward: any number of parts, in any order, on one thread or many, gives the same bits",
          "[attention][backward]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    BackwardCase b;
    b.topology = testing::prefix_group(200, std::vector<std::int32_t>{30, 0, 60, 7}, true);
    b.options.kind.Hq = 4;
    b.options.kind.Hkv = 2;
    b.options.kind.D = b.options.kind.Dv = 8;
    b.options.sinks = true;
    Problem p;
    require_ok(make_problem(b.topology, b.options, &p));
    b.plan.cost = eager_cost();
    b.plan.target_parallelism = 16;
    const Plan plan = proved_plan(c, p.forest, b.options.kind, b.plan);
    run_forward(c.context, plan, &p);
    run_backward(c.context, plan, &p);
    const Outputs one = outputs_of(p);
    for (const std::int32_t parts : {1, 2, 3, 4, 8, 64}) {
      for (std::uint64_t order = 0; order < 3; ++order) {
        run_forward(c.context, plan, &p, parts, order);
        run_backward(c.context, plan, &p, parts, order);
        CHECK(outputs_of(p) == one);
      }
    }
    for (const std::int32_t parts : {2, 8}) {
      run_forward(c.context, plan, &p, parts);
      run_on_threads(parts, [&](std::int32_t i) {
        return tree_attention_backward_part(c.context, plan, p.attend_grad(), i, parts);
      });
      CHECK(outputs_of(p) == one);
    }
  }
}

TEST_CASE("tree_attention backward: accumulate adds to what is there", "[attention][backward]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    BackwardCase b;
    b.topology = testing::prefix_group(9, std::vector<std::int32_t>{3, 0, 5}, true);
    b.options.kind.Hq = 2;
    b.options.kind.D = b.options.kind.Dv = 8;
    b.options.kind.q_dtype = b.options.kind.kv_dtype = c.widest;
    b.options.sinks = true;
    b.options.page_size = 5;
    Problem p;
    require_ok(make_problem(b.topology, b.options, &p));
    const Plan plan = proved_plan(c, p.forest, b.options.kind, b.plan);
    run_forward(c.context, plan, &p);
    Answer answer = answer_backward(p.forest, b.options.kind, p.attend_grad());
    run_backward(c.context, plan, &p);
    AttendGrad again = p.attend_grad();
    again.accumulate = true;
    require_ok(tree_attention_backward(c.context, plan, again));
    for (testing::Expected* e : {&answer.exact.dq, &answer.exact.dk[0], &answer.exact.dv[0], &answer.exact.dsinks}) {
      for (double& x : e->value) x *= 2;
      for (double& x : e->magnitude) x *= 2;
    }
    check_comparison(check_backward(answer, p.attend_grad()));
    CHECK(p.guards_intact());
  }
}

TEST_CASE("tree_attention backward: dv, dsinks and dlse may be absent", "[attention][backward]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    BackwardCase b;
    b.topology = testing::prefix_group(6, std::vector<std::int32_t>{3, 4}, true);
    b.options.kind.D = b.options.kind.Dv = 8;
    b.options.sinks = true;
    b.options.dlse = false;
    Problem p;
    require_ok(make_problem(b.topology, b.options, &p));
    const Plan plan = proved_plan(c, p.forest, b.options.kind, b.plan);
    run_forward(c.context, plan, &p);
    const Answer answer = answer_backward(p.forest, b.options.kind, p.attend_grad());
    AttendGrad g = p.attend_grad();
    std::vector<KvGrad> only_dk = p.dkv;
    only_dk[0].dv = {};
    g.dkv = only_dk;
    g.dsinks = {};
    require_ok(tree_attention_backward(c.context, plan, g));
    check_comparison(check_backward(answer, g));
    CHECK(p.pools[0].dv.poisoned(0, testing::count_of(p.pools[0].dv.view())));
    CHECK(std::isnan(p.dsinks[0]));
  }
}

TEST_CASE("tree_attention backward: rows that see nothing, and keys that nobody sees, get zeros",
          "[attention][backward]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    BackwardCase b;
    b.topology = testing::prefix_group(5, std::vector<std::int32_t>{3}, false);
    b.topology.sequences[0].first_order = 2;  // sees tokens 0 to 2
    b.topology.add_sequence(-1, 2);           // sees nothing
    b.options.kind.D = b.options.kind.Dv = 8;
    Problem p;
    require_ok(make_problem(b.topology, b.options, &p));
    const Plan plan = proved_plan(c, p.forest, b.options.kind, b.plan);
    run_forward(c.context, plan, &p);
    const Answer answer = answer_backward(p.forest, b.options.kind, p.attend_grad());
    run_backward(c.context, plan, &p);
    check_comparison(check_backward(answer, p.attend_grad()));
    const std::vector<double> dq = to_doubles(p.dq.view()), dk = to_doubles(p.dkv[0].dk);
    for (std::size_t i = 8; i < 24; ++i) CHECK(dq[i] == 0);
    const Segment& root = p.forest.segments[0];
    for (std::int32_t d = 0; d < 16; ++d) CHECK(dk[static_cast<std::size_t>((root.offset + 3) * 8 + d)] == 0);
  }
}
