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

/// Whether an implementation does arithmetic in `type` on this machine.
template <class Entry>
bool computes(const Entry& entry, DType type) {
  AttentionProblem problem;
  problem.kind.q_dtype = problem.kind.kv_dtype = type;
  return entry.accepts == nullptr || entry.accepts(problem).ok();
}

}  // namespace

std::vector<NamedContext> attention_contexts() {
  Context base;
  require_ok(create_context(&base));
  require_ok(reference::add_to(&base));
  std::vector<NamedContext> contexts;
  for (std::int32_t i = 0; i < base.tree_attention.count; ++i) {
    const auto& entry = base.tree_attention.entries[i];
    if (!computes(entry, DType::f32)) continue;  // not on this machine: machine_test.cpp says so
    NamedContext c;
    c.name = entry.name;
    c.widest = computes(entry, DType::f64) ? DType::f64 : DType::f32;
    c.context = base;
    require_ok(force_implementation(&c.context, entry.name));
    const char* forced = c.context.tree_attention_backward.forced;
    c.backward = forced[0] != 0 ? forced : base.tree_attention_backward.entries[0].name;
    contexts.push_back(std::move(c));
  }
  REQUIRE(contexts.size() >= 2);
  return contexts;
}

}  // namespace prefixshare::tests
