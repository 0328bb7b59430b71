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

std::vector<NamedContext> attention_contexts() {
  Context base;
  require_ok(create_context(&base));
  require_ok(reference::add_to(&base));
  std::vector<NamedContext> contexts;
  for (std::int32_t i = 0; i < base.tree_attention.count; ++i) {
    contexts.push_back({base.tree_attention.entries[i].name, base});
    require_ok(force_implementation(&contexts.back().context, contexts.back().name.c_str()));
  }
  REQUIRE(contexts.size() >= 2);
  return contexts;
}

}  // namespace prefixshare::tests
