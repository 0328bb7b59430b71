// SPDX-License-Identifier: Apache-2.0
// rope_apply and rope_shift: every implementation, over the keys of a prefix.
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "prefixshare/reference/rope.hpp"
#include "prefixshare/rope.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

constexpr std::int64_t kHeads = 8;
constexpr std::int64_t kDim = 128;
constexpr std::int32_t kDelta = 1000;

/// Random keys at positions 0, 1, ...
struct Keys {
  Keys(DType dtype, std::int64_t tokens)
      : x(dtype, {tokens, kHeads, kDim}),
        out(dtype, {tokens, kHeads, kDim}),
        positions(static_cast<std::size_t>(tokens)) {
    testing::Random random(1);
    x.fill_normal(&random);
    std::iota(positions.begin(), positions.end(), 0);
    for (int i = 0; i < kDim / 2; ++i) inv_freq.push_back(std::pow(500000.0, -2.0 * i / kDim));
    table.inv_freq = inv_freq;
    table.dim = kDim;
  }
  Keys(const Keys&) = delete;
  Keys& operator=(const Keys&) = delete;

  RopeApply apply() const { return {x.view(), out.view(), positions, table}; }
  RopeShift shift() const { return {x.view(), out.view(), {&delta, 1}, table}; }

  testing::Tensor<3> x;
  testing::Tensor<3> out;
  std::vector<std::int32_t> positions;
  std::int32_t delta = kDelta;
  std::vector<double> inv_freq;
  RopeTable table;
};

Status call_operator(const Context& context, const RopeApply& args) { return rope_apply(context, args); }
Status call_operator(const Context& context, const RopeShift& args) { return rope_shift(context, args); }
Status call_reference(const RopeApply& args) { return reference::rope_apply(args); }
Status call_reference(const RopeShift& args) { return reference::rope_shift(args); }

/// Against the reference on the same keys in f64.
template <class Args>
testing::Comparison check(Args args, std::int64_t last_position) {
  const std::vector<double> got = testing::to_doubles(args.out);
  const DType dtype = args.out.dtype;
  std::vector<double> exact = testing::to_doubles(args.x);
  args.x = args.out = make_view(exact.data(), {args.x.shape[0], kHeads, kDim});
  throw_if_error(call_reference(args));
  testing::Expected expected;
  expected.width = kDim;
  expected.value = exact;
  expected.block.assign(exact.size() / kDim, 0);
  expected.magnitude = {1};
  const DType acc = dtype == DType::f64 ? DType::f64 : DType::f32;
  return compare(got, expected, testing::rope_tolerance(acc, static_cast<double>(last_position)), dtype);
}

template <class Args>
void run(Session* session, const Context& context, const Args& args, benchmark::State* state) {
  const auto call = [&] { return call_operator(context, args); };
  if (!is_right(session, state, call, [&] { return check(args, args.x.shape[0] + kDelta); })) return;
  const double seconds = time_calls(state, call);
  const std::int64_t bytes = 2 * args.x.shape[0] * kHeads * kDim * size_of(args.x.dtype);
  state->counters["GB/s"] = static_cast<double>(bytes) / seconds * 1e-9;
}

template <class List, class MakeArgs>
void register_operator(Session* session, const char* op, const List& list, MakeArgs make_args) {
  for (const std::int64_t tokens : {1024, 16384}) {
    if (session->quick && tokens > 1024) continue;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (std::int32_t i = 0; i < list.count; ++i) {
        if (list.entries[i].space != MemorySpace::host) continue;
        for (const Team& team : session->teams) {
          const std::string implementation = list.entries[i].name;
          const std::string name = join({op, implementation, to_string(dtype), label("tokens", tokens), team.name});
          add_case(name, [=](benchmark::State& state) {
            const Keys keys(dtype, tokens);
            run(session, session->context_for(implementation, team), make_args(keys), &state);
          });
        }
      }
    }
  }
}

}  // namespace

void register_rope(Session* session) {
  register_operator(session, "rope_apply", session->context.rope_apply, [](const Keys& keys) { return keys.apply(); });
  register_operator(session, "rope_shift", session->context.rope_shift, [](const Keys& keys) { return keys.shift(); });
}

}  // namespace prefixshare::bench
