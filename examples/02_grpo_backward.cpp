// SPDX-License-Identifier: Apache-2.0
// A training step of GRPO: a question and four answers, every token a query row. The question's gradients are the sums
// over all answers; a finite difference on one of its keys confirms it.
#include <cstdio>

#include "example.hpp"

using namespace prefixshare;

int main() {
  const std::vector<std::int32_t> prefix_len = {20}, suffix_begin = {0, 4}, suffix_len = {6, 11, 3, 9};
  Forest forest;
  throw_if_error(forest_from_groups({prefix_len, suffix_begin, suffix_len, 0}, &forest));
  const std::int64_t tokens = forest.rows();

  LayerKind kind;
  kind.Hq = 4;
  kind.Hkv = 2;
  kind.D = kind.Dv = 32;
  kind.q_dtype = kind.kv_dtype = DType::f64;
  PlanOptions options;
  options.backward = true;
  Context context;
  throw_if_error(create_context(&context));
  Plan plan;
  throw_if_error(make_plan(context, forest, kind, options, &plan));

  std::vector<double> q = example::random<double>(tokens * 4 * 32, 1),
                      dout = example::random<double>(tokens * 4 * 32, 2);
  std::vector<double> k = example::random<double>(tokens * 2 * 32, 3), v = example::random<double>(tokens * 2 * 32, 4);
  std::vector<double> o(q.size()), lse(static_cast<std::size_t>(tokens * 4)), dq(q.size()), dk(k.size()), dv(v.size());
  const example::WorkspaceMemory memory(plan);

  SharedPrefixAttendGrad grad;
  grad.fwd.q = make_view(q.data(), {tokens, 4, 32});
  grad.fwd.k = make_view(k.data(), {tokens, 2, 32});
  grad.fwd.v = make_view(v.data(), {tokens, 2, 32});
  grad.fwd.o = make_view(o.data(), {tokens, 4, 32});
  grad.fwd.lse = make_view(lse.data(), {tokens, 4});
  grad.fwd.workspace = memory.workspace();
  grad.dout = make_view(dout.data(), {tokens, 4, 32});
  grad.dq = make_view(dq.data(), {tokens, 4, 32});
  grad.dk = make_view(dk.data(), {tokens, 2, 32});
  grad.dv = make_view(dv.data(), {tokens, 2, 32});
  grad.workspace = memory.workspace();

  // The loss is sum(dout * o), as a function of one element of the question's key 5, head 0.
  const std::size_t element = 5 * 2 * 32;
  const double centre = k[element];
  const auto loss = [&](double change) {
    k[element] = centre + change;
    throw_if_error(shared_prefix_attention(context, plan, grad.fwd));
    double sum = 0;
    for (std::size_t i = 0; i < o.size(); ++i) sum += dout[i] * o[i];
    return sum;
  };
  const double difference = (loss(1e-5) - loss(-1e-5)) / 2e-5;
  loss(0);  // the backward needs o and lse of the point itself
  throw_if_error(shared_prefix_attention_backward(context, plan, grad));
  std::printf("dk of a shared key: %.9f, by central difference %.9f\n", dk[element], difference);
  return std::abs(dk[element] - difference) < 1e-7 ? 0 : 1;
}
