// SPDX-License-Identifier: Apache-2.0
#include "support/attention.hpp"

#include "prefixshare/reference/register.hpp"

namespace prefixshare::testing {

template Answer answer_forward(const Forest&, const LayerKind&, const Attend&);
template Answer answer_backward(const Forest&, const LayerKind&, const AttendGrad&);
template Answer answer_forward(const RectangleInput&, const LayerKind&, const Attend&);
template Answer answer_backward(const RectangleInput&, const LayerKind&, const AttendGrad&);

}  // namespace prefixshare::testing

namespace prefixshare::tests {

namespace {

template <class Entry>
bool accepts(const Entry& entry, const LayerKind& kind) {
  AttentionProblem problem;
  problem.kind = kind;
  return entry.accepts == nullptr || entry.accepts(problem).ok();
}

LayerKind stored_in(DType type) {
  LayerKind kind;
  kind.q_dtype = kind.kv_dtype = type;
  return kind;
}

}  // namespace

bool NamedContext::takes(const LayerKind& kind) const noexcept {
  return accepts(*detail::find(context.tree_attention, name.c_str()), kind);
}

std::vector<NamedContext> attention_contexts(DType storage) {
  Context base;
  require_ok(create_context(&base));
  require_ok(reference::add_to(&base));
  std::vector<NamedContext> contexts;
  for (std::int32_t i = 0; i < base.tree_attention.count; ++i) {
    const auto& entry = base.tree_attention.entries[i];
    if (!accepts(entry, stored_in(storage))) continue;  // not on this machine: machine_test.cpp says so
    NamedContext c;
    c.name = entry.name;
    c.widest = accepts(entry, stored_in(DType::f64)) ? DType::f64 : DType::f32;
    c.context = base;
    require_ok(force_implementation(&c.context, entry.name));
    const char* forced = c.context.tree_attention_backward.forced;
    c.backward = forced[0] != 0 ? forced : base.tree_attention_backward.entries[0].name;
    contexts.push_back(std::move(c));
  }
  REQUIRE(contexts.size() >= 2);
  return contexts;
}

void run_problem(const std::vector<NamedContext>& contexts, const PlanOptions& plan_options, Problem* p) {
  const LayerKind& kind = p->options.kind;
  const prefixshare::testing::Answer answer = prefixshare::testing::answer_forward(p->forest, kind, p->attend());
  for (const NamedContext& c : contexts) {
    if (!c.takes(kind)) continue;
    INFO(c.name);
    run_forward(c.context, proved_plan(c, p->forest, kind, plan_options), p);
    check_comparison(check_forward(answer, p->attend()));
  }
}

void run_case(const std::vector<NamedContext>& contexts, const ForwardCase& c) {
  Problem p;
  require_ok(make_problem(c.topology, c.options, &p));
  if (c.options.bias) hide_with_bias(&p);
  run_problem(contexts, c.plan, &p);
}

}  // namespace prefixshare::tests
