// SPDX-License-Identifier: Apache-2.0
// What users of prefix sharing have been bitten by elsewhere, a test each.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "support/attention.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using prefixshare::testing::to_doubles;

constexpr double kInf = std::numeric_limits<double>::infinity();

LayerKind kind_of(DType type, std::int32_t Hq = 2, std::int32_t Hkv = 1, std::int32_t D = 8) {
  LayerKind kind;
  kind.Hq = Hq;
  kind.Hkv = Hkv;
  kind.D = kind.Dv = D;
  kind.q_dtype = kind.kv_dtype = type;
  return kind;
}

PlanOptions sharing_plan(bool backward = false) {
  PlanOptions options;
  options.cost = eager_cost();
  options.backward = backward;
  return options;
}

Problem problem_of(const Topology& topology, const ProblemOptions& options) {
  Problem p;
  require_ok(make_problem(topology, options, &p));
  return p;
}

/// Forward (and backward, where the problem has one) under a plan that shares.
void run(const NamedContext& c, Problem* p) {
  const Plan plan = proved_plan(c, p->forest, p->options.kind, sharing_plan(p->options.backward));
  run_forward(c.context, plan, p);
  if (p->options.backward) run_backward(c.context, plan, p);
}

/// Largest logit sum of these tests' N(0, 1) inputs, for tolerances.
constexpr double kA = 10;

/// Every implementation, with a head dim that fills vectors and with one that does not: kernels take other paths.
std::vector<std::pair<NamedContext, std::int32_t>> contexts_and_dims() {
  std::vector<std::pair<NamedContext, std::int32_t>> turns;
  for (const NamedContext& c : attention_contexts()) {
    for (const std::int32_t D : {16, 8}) turns.emplace_back(c, D);
  }
  return turns;
}

/// Whether two gradients are equal as far as `acc` knows them, relative to the largest value. What both lack is NaN.
bool equal_gradients(const std::vector<double>& a, const std::vector<double>& b, DType acc) {
  REQUIRE(a.size() == b.size());
  double most = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) != std::isnan(b[i])) return false;
    if (std::isnan(a[i])) continue;
    most = std::max(most, std::abs(a[i] - b[i]));
    size = std::max(size, std::abs(b[i]));
  }
  return most <= testing::gradient_tolerance(acc, kA) * size;
}

}  // namespace

TEST_CASE("pitfall 1: lse base: probabilities from scores and the natural lse sum to one", "[attention][pitfall]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    ProblemOptions options;
    options.kind = kind_of(c.widest, 1, 1);
    options.scale = 0.7;
    Problem p = problem_of(testing::chain(std::vector<std::int32_t>{20, 11}, 31), options);
    run(c, &p);
    const std::vector<double> q = to_doubles(p.q.view()), k = to_doubles(p.kv[0].k), lse = to_doubles(p.lse.view());
    for (std::size_t row = 0; row < 31; ++row) {
      double sum = 0;
      for (std::size_t t = 0; t <= row; ++t) {
        const Segment& s = p.forest.segments[t < 20 ? 0 : 1];
        const std::size_t slot = static_cast<std::size_t>(s.offset) + (t < 20 ? t : t - 20);
        double dot = 0;
        for (std::size_t d = 0; d < 8; ++d) dot += q[row * 8 + d] * k[slot * 8 + d];
        sum += std::exp(0.7 * dot - lse[row]);
      }
      CHECK(std::abs(sum - 1) <= testing::forward_tolerance(c.widest, kA) * std::max(1.0, std::abs(lse[row])));
      CHECK(lse_from_base2(lse_to_base2(lse[row])) == Approx(lse[row]).epsilon(1e-15));
    }
  }
}

TEST_CASE("pitfall 2: empty segments: o = 0 and lse = -inf, neutral in every merge, never NaN",
          "[attention][pitfall]") {
  for (const auto& [c, D] : contexts_and_dims()) {
    INFO(c.name << ", D " << D);
    ProblemOptions options;
    options.kind = kind_of(DType::f32, 2, 1, D);
    Topology t = testing::prefix_group(40, std::vector<std::int32_t>{0, 3, 0}, false);
    t.add_sequence(0, 2, -2);              // before the path begins
    t.add_sequence(t.add_node(-1, 0), 2);  // an empty root
    t.add_sequence(-1, 1);                 // no path
    t.sequences[0].q_len = 1;              // an empty suffix: its row is the prefix's last token
    Problem p = problem_of(t, options);
    run(c, &p);
    const std::vector<double> o = to_doubles(p.o.view()), lse = to_doubles(p.lse.view());
    const std::size_t rows = static_cast<std::size_t>(p.forest.rows()), width = static_cast<std::size_t>(D);
    REQUIRE(rows == 7);
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t h = 0; h < 2; ++h) {
        CHECK((lse[row * 2 + h] == -kInf) == (row >= 2));
        for (std::size_t d = 0; d < width; ++d) CHECK((o[(row * 2 + h) * width + d] == 0) == (row >= 2));
      }
    }
  }
  CHECK(lse_from_inf_empty(kInf) == -kInf);  // the empty value of other libraries
  CHECK(lse_to_inf_empty(-kInf) == kInf);
  CHECK(lse_from_inf_empty(1.5) == 1.5);
}

TEST_CASE("pitfall 3: strides: any layout gives the bits of the contiguous one", "[attention][pitfall]") {
  for (const auto& [c, D] : contexts_and_dims()) {
    INFO(c.name << ", D " << D);
    ProblemOptions options;
    options.kind = kind_of(DType::f32, 4, 2, D);
    options.backward = true;
    const Topology t = testing::prefix_group(19, std::vector<std::int32_t>{6, 2}, true);
    Problem plain = problem_of(t, options);
    options.strided = true;
    Problem strided = problem_of(t, options);
    REQUIRE(strided.kv[0].k.stride[1] < strided.kv[0].k.stride[2]);  // head-major
    run(c, &plain);
    run(c, &strided);
    CHECK(outputs_of(plain) == outputs_of(strided));
  }
}

TEST_CASE("pitfall 3: offsets beyond int32: pages further apart than 2^31 elements", "[attention][pitfall]") {
  // Reserved, not used: only the pages that are touched become memory.
  const std::int64_t stride = (std::int64_t{1} << 31) + 8, bytes = 3 * stride * 2;
  void* memory = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    WARN("no " << bytes << " bytes of address space");
    return;
  }
  for (const auto& [c, D] : contexts_and_dims()) {
    INFO(c.name << ", D " << D);
    ProblemOptions options;
    options.kind = kind_of(DType::bf16, 2, 1, D);
    options.page_size = 4;
    Problem p = problem_of(testing::chain(std::vector<std::int32_t>{4}, 2), options);
    REQUIRE(p.forest.pools[0].num_pages == 3);
    run(c, &p);
    const Outputs near = outputs_of(p);
    auto* place = static_cast<BFloat16*>(memory);
    for (TensorView<4>* cache : {&p.kv[0].k, &p.kv[0].v}) {
      TensorView<4> far = *cache;
      far.data = place;
      far.stride[0] = stride;
      for (std::int64_t i = 0; i < testing::count_of(far); ++i) {
        place[testing::offset_of(far, i)] = static_cast<const BFloat16*>(cache->data)[testing::offset_of(*cache, i)];
      }
      *cache = far;
      place += 1024;  // behind a page of keys: its values
    }
    run(c, &p);
    CHECK(outputs_of(p) == near);
  }
  munmap(memory, static_cast<std::size_t>(bytes));
}

TEST_CASE("pitfall 4: crossover: where sharing gains nothing the plan is the unshared one", "[attention][pitfall]") {
  const NamedContext c = portable_context();
  LayerKind kind = kind_of(DType::bf16, 32, 8, 128);
  const auto plan_of = [&](std::int32_t prefix, std::int32_t batch, std::int32_t own, Sharing sharing) {
    const std::vector<std::int32_t> suffixes(static_cast<std::size_t>(batch), own);
    ProblemOptions options;
    Random random(1);
    Forest forest;
    require_ok(
        testing::detail::place_forest(testing::prefix_group(prefix, suffixes, false), options, &random, &forest));
    PlanOptions plan_options;
    plan_options.sharing = sharing;
    return proved_plan(c, forest, kind, plan_options);
  };
  for (const std::int32_t own : {1, 128}) {
    CHECK(plan_of(4096, 1, own, Sharing::automatic) == plan_of(4096, 1, own, Sharing::never));  // one reader
    CHECK(plan_of(1, 4, own, Sharing::automatic) == plan_of(1, 4, own, Sharing::never));        // next to no prefix
    CHECK(plan_of(0, 64, own, Sharing::automatic) == plan_of(0, 64, own, Sharing::never));
    CHECK(plan_of(4096, 64, own, Sharing::automatic) != plan_of(4096, 64, own, Sharing::never));
  }
}

TEST_CASE("pitfall 5: low-precision partials: 16-bit output is the f32 output rounded once", "[attention][pitfall]") {
  for (const auto& [c, D] : contexts_and_dims()) {
    INFO(c.name << ", D " << D);
    for (const DType type : {DType::f16, DType::bf16}) {
      ProblemOptions options;
      options.kind = kind_of(type, 2, 1, D);
      Topology t;  // a chain of shared levels, so that every row merges several partial states
      std::int32_t parent = -1;
      for (int level = 0; level < 6; ++level) {
        parent = t.add_node(parent, 30);
        t.add_sequence(t.add_node(parent, 5), 1);
      }
      Problem stored = problem_of(t, options);
      options.wide_outputs = true;
      Problem wide = problem_of(t, options);
      run(c, &stored);
      run(c, &wide);
      const std::vector<double> rounded = to_doubles(stored.o.view()), exact = to_doubles(wide.o.view());
      for (std::size_t i = 0; i < exact.size(); ++i) CHECK(rounded[i] == testing::round_to(type, exact[i]));
    }
  }
}

TEST_CASE("pitfall 6: boundary token: the last prefix token answers every member, gradients sum",
          "[attention][pitfall]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    ProblemOptions options;
    options.kind = kind_of(c.widest);
    options.backward = true;
    const std::int32_t members = 3;
    Topology copies, once;
    copies.add_node(-1, 12);
    once.add_node(-1, 12);
    for (std::int32_t m = 0; m < members; ++m) copies.add_sequence(0, 1);  // the same row, once per member
    once.add_sequence(0, 1);
    Problem many = problem_of(copies, options), one = problem_of(once, options);
    REQUIRE(testing::same_bits(many.kv[0].k, one.kv[0].k));
    const std::vector<double> q = to_doubles(one.q.view()), dout = to_doubles(many.dout.view());
    const std::vector<double> dlse = to_doubles(many.dlse.view());
    for (std::size_t i = 0; i < 16; ++i) {
      double sum = 0;
      for (std::size_t m = 0; m < 3; ++m) {
        many.q.set(static_cast<std::int64_t>(m * 16 + i), q[i]);
        sum += dout[m * 16 + i];
      }
      one.dout.set(static_cast<std::int64_t>(i), sum);
    }
    for (std::size_t h = 0; h < 2; ++h) one.dlse.set(static_cast<std::int64_t>(h), dlse[h] + dlse[2 + h] + dlse[4 + h]);
    run(c, &many);
    run(c, &one);
    std::vector<double> dq(16);
    const std::vector<double> each = to_doubles(many.dq.view());
    for (std::size_t i = 0; i < each.size(); ++i) dq[i % 16] += each[i];
    CHECK(equal_gradients(dq, to_doubles(one.dq.view()), c.widest));
    for (const auto& [a, b] : {std::pair(many.dkv[0].dk, one.dkv[0].dk), std::pair(many.dkv[0].dv, one.dkv[0].dv)}) {
      std::vector<double> x = to_doubles(a), y = to_doubles(b);
      const auto unnamed = [](double v) { return std::isnan(v); };
      x.erase(std::remove_if(x.begin(), x.end(), unnamed), x.end());
      y.erase(std::remove_if(y.begin(), y.end(), unnamed), y.end());
      CHECK(x.size() == 12 * 8);
      CHECK(equal_gradients(x, y, c.widest));
    }
  }
}

TEST_CASE("pitfall 7: multi-level masks: every level of deep trees against the ancestor oracle",
          "[attention][pitfall]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    for (std::uint64_t seed = 1; seed <= 30; ++seed) {
      Random random(seed);
      Topology t;
      for (std::int32_t n = 0; n < 31; ++n) {  // a binary tree of five levels with rows everywhere
        const std::int32_t length = random.between(1, 5);
        t.add_sequence(t.add_node(n == 0 ? -1 : (n - 1) / 2, length), length);
      }
      ProblemOptions options;
      options.kind = kind_of(c.widest, 1, 1, seed % 2 == 0 ? 16 : 4);
      options.backward = true;
      options.seed = seed;
      Problem p = problem_of(t, options);
      run(c, &p);
      const testing::Answer answer = testing::answer_backward(p.forest, options.kind, p.attend_grad());
      INFO("seed " << seed);
      check_comparison(testing::check_forward(answer, p.attend()));
      check_comparison(testing::check_backward(answer, p.attend_grad()));
    }
  }
}

TEST_CASE("pitfall 8: determinism: shared gradients have the same bits for any team, and nearly for any member order",
          "[attention][pitfall]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    ProblemOptions options;
    options.kind = kind_of(c.widest, 4, 2);
    options.backward = true;
    const std::vector<std::int32_t> own = {6, 6, 6, 6, 6};
    Problem p = problem_of(testing::prefix_group(140, own, true), options);
    const Plan plan = proved_plan(c, p.forest, options.kind, sharing_plan(true));
    run_forward(c.context, plan, &p);
    run_backward(c.context, plan, &p);
    const Outputs first = outputs_of(p);
    for (const std::int32_t parts : {1, 2, 4, 8}) {
      run_forward(c.context, plan, &p, parts);
      run_on_threads(parts, [&](std::int32_t i) {
        return tree_attention_backward_part(c.context, plan, p.attend_grad(), i, parts);
      });
      CHECK(outputs_of(p) == first);
    }
    // The same members in reverse order of the batch: the sums run in another order.
    std::vector<Sequence> reversed = p.forest.sequences;
    std::reverse(reversed.begin() + 1, reversed.end());
    ForestInput input{p.forest.pools, p.forest.pages, p.forest.segments, p.forest.nodes, reversed};
    Problem other = problem_of(testing::prefix_group(140, own, true), options);
    require_ok(make_forest(input, &other.forest));
    const std::int64_t prefix_rows = 140, width = 4 * 8;
    const std::vector<double> q = to_doubles(p.q.view()), dout = to_doubles(p.dout.view()),
                              dlse = to_doubles(p.dlse.view());
    for (std::int64_t row = prefix_rows; row < p.forest.rows(); ++row) {
      const std::int64_t member = (row - prefix_rows) / 6,
                         from = prefix_rows + (4 - member) * 6 + (row - prefix_rows) % 6;
      for (std::int64_t i = 0; i < width; ++i) {
        other.q.set(row * width + i, q[static_cast<std::size_t>(from * width + i)]);
        other.dout.set(row * width + i, dout[static_cast<std::size_t>(from * width + i)]);
      }
      for (std::int64_t h = 0; h < 4; ++h) other.dlse.set(row * 4 + h, dlse[static_cast<std::size_t>(from * 4 + h)]);
    }
    run(c, &other);
    CHECK(equal_gradients(to_doubles(p.dkv[0].dk), to_doubles(other.dkv[0].dk), c.widest));
  }
}

TEST_CASE("pitfall 9: dynamic lengths: ragged and zero lengths run on one workspace, nothing is padded or rebuilt",
          "[attention][pitfall]") {
  for (const auto& [c, D] : contexts_and_dims()) {
    INFO(c.name << ", D " << D);
    ProblemOptions options;
    options.kind = kind_of(DType::f32, 2, 1, D);
    PlanLimits limits;
    limits.rows = 200;
    limits.max_context = 200;
    std::int64_t bytes = 0;
    require_ok(forward_workspace(options.kind, limits, &bytes));
    std::vector<unsigned char> memory(static_cast<std::size_t>(bytes) + 256);
    void* data = memory.data();
    std::size_t space = memory.size();
    REQUIRE(std::align(256, static_cast<std::size_t>(bytes), data, space) != nullptr);
    Workspace workspace;
    require_ok(init_workspace(options.kind, limits, data, bytes, &workspace));
    Random random(9);
    for (int step = 0; step < 60; ++step) {
      std::vector<std::int32_t> own;
      for (std::int32_t n = random.between(0, 6); n > 0; --n)
        own.push_back(random.chance(0.3) ? 0 : random.between(1, 20));
      const std::int32_t prefix = random.chance(0.3) ? 0 : random.between(1, 60);
      Problem p = problem_of(testing::prefix_group(prefix, own, random.chance(0.5)), options);
      const Plan plan = proved_plan(c, p.forest, options.kind, sharing_plan());
      const testing::Answer answer = testing::answer_forward(p.forest, options.kind, p.attend());
      Attend args = p.attend();
      args.workspace = workspace;
      require_ok(tree_attention(c.context, plan, args));
      INFO("step " << step);
      check_comparison(testing::check_forward(answer, args));
      CHECK(p.guards_intact());
    }
  }
}

TEST_CASE("pitfall 10: scaling of prefix gradients: plain sums, weights enter through dout", "[attention][pitfall]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    ProblemOptions options;
    options.kind = kind_of(c.widest);
    options.backward = true;
    const std::int32_t members = 4;
    // The same one-token answer, four times: the prefix receives four times what one gives, not the mean.
    Topology four = testing::prefix_group(10, std::vector<std::int32_t>(4, 1), false);
    for (std::size_t n = 1; n < 5; ++n) four.nodes[n].segment = 1;
    four.segments.resize(2);
    Problem many = problem_of(four, options);
    Problem one = problem_of(testing::prefix_group(10, std::vector<std::int32_t>{1}, false), options);
    REQUIRE(testing::same_bits(many.kv[0].k, one.kv[0].k));
    const auto copy = [&](auto& to, const auto& from) {
      const std::vector<double> x = to_doubles(from.view());
      for (std::int64_t i = 0; i < testing::count_of(to.view()); ++i) {
        to.set(i, x[static_cast<std::size_t>(i) % x.size()]);
      }
    };
    copy(many.q, one.q);
    copy(many.dout, one.dout);
    copy(many.dlse, one.dlse);
    run(c, &many);
    run(c, &one);
    std::vector<double> each = to_doubles(one.dkv[0].dk);
    for (double& x : each) x *= members;
    CHECK(equal_gradients(to_doubles(many.dkv[0].dk), each, c.widest));
  }
}

TEST_CASE("pitfall 11: forests: several roots, groups of unequal size that are not adjacent in the batch",
          "[attention][pitfall]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    Topology t;
    const std::int32_t a = t.add_node(-1, 30), b = t.add_node(-1, 7), lone = t.add_node(-1, 12);
    for (const std::int32_t root : {a, b, lone, a, b, a, a}) {  // interleaved in the caller's order
      t.add_sequence(root == lone ? lone : t.add_node(root, 4 + root), 2);
    }
    ProblemOptions options;
    options.kind = kind_of(c.widest);
    options.backward = true;
    options.page_size = 5;
    Problem p = problem_of(t, options);
    run(c, &p);
    const testing::Answer answer = testing::answer_backward(p.forest, options.kind, p.attend_grad());
    check_comparison(testing::check_forward(answer, p.attend()));
    check_comparison(testing::check_backward(answer, p.attend_grad()));
  }
}
