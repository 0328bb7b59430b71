// SPDX-License-Identifier: Apache-2.0
// shared_prefix_attention: the wrapper against tree_attention and the oracle, and the exact counts of its work.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "prefixshare/counters.hpp"
#include "prefixshare/testing/catalogue.hpp"
#include "support/attention.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

/// Groups in CSR form with memory of their own.
struct Groups {
  std::vector<std::int32_t> prefix, begin, suffix;
  std::int32_t q_suffix_last = 0;
  PrefixGroups view() const {
    PrefixGroups g;
    g.prefix_len = prefix;
    g.suffix_begin = begin;
    g.suffix_len = suffix;
    g.q_suffix_last = q_suffix_last;
    return g;
  }
};

/// Packed operands of a call.
struct Packed {
  testing::Tensor<3> q, k, v, o, dout, dq, dk, dv;
  testing::Tensor<2> lse, dlse;
  std::vector<float> sinks, dsinks;
  std::vector<unsigned char> memory;
  Workspace workspace;

  Packed(const LayerKind& kind, std::int64_t rows, std::int64_t tokens, const testing::TensorLayout& layout) {
    Random random(4);
    q = testing::Tensor<3>(kind.q_dtype, {rows, kind.Hq, kind.D}, layout);
    k = testing::Tensor<3>(kind.kv_dtype, {tokens, kind.Hkv, kind.D}, layout);
    v = testing::Tensor<3>(kind.kv_dtype, {tokens, kind.Hkv, kind.Dv}, layout);
    dout = testing::Tensor<3>(kind.q_dtype, {rows, kind.Hq, kind.Dv}, layout);
    dlse = testing::Tensor<2>(kind.acc_dtype(), {rows, kind.Hq});
    for (auto* x : {&q, &k, &v, &dout}) x->fill_normal(&random);
    dlse.fill_normal(&random);
    o = testing::Tensor<3>(kind.q_dtype, {rows, kind.Hq, kind.Dv}, layout);
    lse = testing::Tensor<2>(kind.acc_dtype(), {rows, kind.Hq});
    dq = testing::Tensor<3>(kind.q_dtype, {rows, kind.Hq, kind.D}, layout);
    dk = testing::Tensor<3>(kind.kv_dtype, {tokens, kind.Hkv, kind.D}, layout);
    dv = testing::Tensor<3>(kind.kv_dtype, {tokens, kind.Hkv, kind.Dv}, layout);
    for (std::int32_t h = 0; h < kind.Hq; ++h) sinks.push_back(static_cast<float>(random.normal()));
    dsinks.assign(sinks.size(), 0.0f);
  }
  void bind(const Plan& plan) {
    const PlanLimits limits = limits_of(plan, 1);
    std::int64_t forward = 0, backward = 0;
    require_ok(forward_workspace(plan.header.kind, limits, &forward));
    require_ok(backward_workspace(plan.header.kind, limits, &backward));
    const std::int64_t bytes = std::max(forward, backward);
    memory.resize(static_cast<std::size_t>(bytes) + 256);
    void* data = memory.data();
    std::size_t space = memory.size();
    REQUIRE(std::align(256, static_cast<std::size_t>(bytes), data, space) != nullptr);
    require_ok(init_workspace(plan.header.kind, limits, data, bytes, &workspace));
  }
  SharedPrefixAttendGrad args() {
    SharedPrefixAttendGrad a;
    a.fwd.q = q.view();
    a.fwd.k = k.view();
    a.fwd.v = v.view();
    a.fwd.o = o.view();
    a.fwd.lse = lse.view();
    a.fwd.softcap = 4;
    a.fwd.sinks = sinks;
    a.fwd.workspace = workspace;
    a.dout = dout.view();
    a.dlse = dlse.view();
    a.dq = dq.view();
    a.dk = dk.view();
    a.dv = dv.view();
    a.dsinks = dsinks;
    a.workspace = workspace;
    return a;
  }
};

/// [tokens, H, D] as a pool of one page.
TensorView<4> page_of(const TensorView<3>& x) {
  TensorView<4> page;
  page.data = x.data;
  page.dtype = x.dtype;
  page.shape[0] = 1;
  page.stride[0] = x.shape[0] * x.stride[0];
  for (int d = 0; d < 3; ++d) {
    page.shape[d + 1] = x.shape[d];
    page.stride[d + 1] = x.stride[d];
  }
  return page;
}

AttendGrad unwrapped(const SharedPrefixAttendGrad& a, const KvPool& pool, const KvGrad& grad) {
  AttendGrad g;
  g.fwd.q = a.fwd.q;
  g.fwd.kv = {&pool, 1};
  g.fwd.o = a.fwd.o;
  g.fwd.lse = a.fwd.lse;
  g.fwd.softcap = a.fwd.softcap;
  g.fwd.sinks = a.fwd.sinks;
  g.fwd.workspace = a.fwd.workspace;
  g.dout = a.dout;
  g.dlse = a.dlse;
  g.dq = a.dq;
  g.dkv = {&grad, 1};
  g.dsinks = a.dsinks;
  g.workspace = a.workspace;
  return g;
}

std::vector<std::vector<double>> values(const Packed& p) {
  return {testing::to_doubles(p.o.view()),  testing::to_doubles(p.lse.view()),
          testing::to_doubles(p.dq.view()), testing::to_doubles(p.dk.view()),
          testing::to_doubles(p.dv.view()), testing::to_doubles(Span<const float>(p.dsinks))};
}

void poison(Packed* p) {
  for (auto* x : {&p->o, &p->dq, &p->dk, &p->dv}) x->poison();
  p->lse.poison();
}

}  // namespace

TEST_CASE("shared_prefix_attention: the bits of tree_attention, and the values of the oracle",
          "[attention][shared_prefix]") {
  const Groups shapes[] = {{{17}, {0, 3}, {0, 7, 64}, 0},
                           {{5, 0, 40}, {0, 2, 4, 5}, {3, 0, 1, 9, 2}, 0},
                           {{30, 0, 1}, {0, 4, 4, 6}, {6, 1, 0, 2, 5, 5}, 2},
                           {{0}, {0, 0}, {}, 0}};
  for (const NamedContext& c : attention_contexts(DType::bf16)) {
    INFO(c.name);
    for (const Groups& groups : shapes) {
      for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
        LayerKind kind;
        kind.Hq = 4;
        kind.Hkv = 2;
        kind.D = 16;
        kind.Dv = type == DType::bf16 ? 16 : 8;
        kind.q_dtype = kind.kv_dtype = type;
        if (!c.takes(kind)) continue;
        Forest forest;
        require_ok(forest_from_groups(groups.view(), &forest));
        PlanOptions options;
        options.backward = true;
        options.cost = eager_cost();
        const Plan plan = proved_plan(c, forest, kind, options);
        std::int64_t tokens = 0;
        for (std::int32_t n : groups.prefix) tokens += n;
        for (std::int32_t n : groups.suffix) tokens += n;
        Packed p(kind, forest.rows(), tokens, {3, type == DType::f32});
        p.bind(plan);
        require_ok(shared_prefix_attention(c.context, plan, p.args().fwd));
        require_ok(shared_prefix_attention_backward(c.context, plan, p.args()));
        const auto wrapped = values(p);
        KvPool pool;
        pool.k = page_of(p.k.view());
        pool.v = page_of(p.v.view());
        KvGrad grad;
        grad.dk = page_of(p.dk.view());
        grad.dv = page_of(p.dv.view());
        if (tokens > 0) {
          const AttendGrad direct = unwrapped(p.args(), pool, grad);
          const testing::Answer answer = testing::answer_backward(forest, kind, direct);
          check_comparison(testing::check_forward(answer, direct.fwd));
          check_comparison(testing::check_backward(answer, direct));
          poison(&p);
          require_ok(tree_attention(c.context, plan, direct.fwd));
          require_ok(tree_attention_backward(c.context, plan, direct));
          CHECK(values(p) == wrapped);
        }
        CHECK((p.o.guards_intact() && p.lse.guards_intact() && p.dq.guards_intact() && p.dk.guards_intact()));
      }
    }
  }
}

TEST_CASE("forest_from_groups: rows and tokens in packed order", "[forest][shared_prefix]") {
  Groups g{{3, 2}, {0, 2, 3}, {2, 1, 4}, 0};
  Forest forest;
  require_ok(forest_from_groups(g.view(), &forest));
  CHECK(forest.rows() == 12);
  std::vector<std::int32_t> order;
  std::int64_t row = 0;
  testing::for_each_row(forest, -1, {}, [&](const testing::VisibleRow& r) {
    CHECK(r.keys.back().slot == row++);  // a row's own token is its last key
    order.push_back(static_cast<std::int32_t>(r.keys.size()));
  });
  CHECK(order == std::vector<std::int32_t>{1, 2, 3, 4, 5, 4, 1, 2, 3, 4, 5, 6});
  g.q_suffix_last = 2;
  require_ok(forest_from_groups(g.view(), &forest));
  CHECK(forest.rows() == 2 + 1 + 2);
}

TEST_CASE("counters: pairs and FLOPs of grouped rollouts, repeated and shared, to the digit", "[counters]") {
  struct Row {
    std::int32_t prefix, members, own;
    std::int64_t repeated, shared;
  };
  const Row table[] = {{4096, 16, 128, 142771200, 16911360},    {4096, 8, 128, 71385600, 12651008},
                       {16384, 16, 512, 2283933696, 270544896}, {512, 8, 64, 1329408, 410112},
                       {1024, 8, 1024, 16785408, 13111808},     {4096, 4, 4096, 134234112, 109062144}};
  const NamedContext c = portable_context();
  LayerKind kind;
  kind.Hq = 8;
  kind.Hkv = 2;
  kind.D = kind.Dv = 128;
  const auto counted = [&](const PrefixGroups& groups) {
    Forest forest;
    require_ok(forest_from_groups(groups, &forest));
    Plan plan;
    require_ok(make_plan(c.context, forest, kind, {}, &plan));
    return count(plan);
  };
  for (const Row& row : table) {
    INFO(row.prefix << ", " << row.members << ", " << row.own);
    const std::size_t members = static_cast<std::size_t>(row.members);
    const Groups shared{{row.prefix}, {0, row.members}, std::vector<std::int32_t>(members, row.own), 0};
    Groups repeated{std::vector<std::int32_t>(members, row.prefix), {}, shared.suffix, 0};
    for (std::int32_t m = 0; m <= row.members; ++m) repeated.begin.push_back(m);
    const Counters once = counted(shared.view()), again = counted(repeated.view());
    CHECK(once.pairs == row.shared);
    CHECK(again.pairs == row.repeated);
    CHECK(once.flops_forward == 4 * std::int64_t{128} * 8 * row.shared);
    CHECK(once.flops_backward == 10 * std::int64_t{128} * 8 * row.shared);
    CHECK(once.exps == 8 * row.shared);
    const testing::Workload* w = testing::find_workload("train/" + std::to_string(row.prefix) + "x" +
                                                        std::to_string(row.members) + "x" + std::to_string(row.own));
    REQUIRE(w != nullptr);
    Forest forest;
    require_ok(testing::make_forest(*w, 1, &forest));
    Plan plan;
    require_ok(make_plan(c.context, forest, w->kind, {}, &plan));
    CHECK(count(plan).pairs == row.shared);
  }
}

TEST_CASE("counters: D and Dv count apart, forward 2 (D + Dv) and backward 6 D + 4 Dv", "[counters]") {
  const NamedContext c = portable_context();
  LayerKind kind;
  kind.Hq = 16;
  kind.D = 576;
  kind.Dv = 512;
  kind.window = 3;
  const Groups g{{5}, {0, 2}, {2, 0}, 0};
  Forest forest;
  require_ok(forest_from_groups(g.view(), &forest));
  Plan plan;
  require_ok(make_plan(c.context, forest, kind, {}, &plan));
  const Counters n = count(plan);
  CHECK(n.pairs == 1 + 2 + 3 + 3 + 3 + 3 + 3);
  CHECK(n.flops_forward == n.pairs * 16 * 2 * (576 + 512));
  CHECK(n.flops_backward == n.pairs * 16 * (6 * 576 + 4 * 512));
}
