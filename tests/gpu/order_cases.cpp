// SPDX-License-Identifier: Apache-2.0
// tree_attention and what is around a call: other work on the device, neighbours in the batch, lengths that change on
// the device, graphs that are replayed with new plans. Bits are a function of plan, implementation and inputs alone.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "gpu/conformance.hpp"

namespace prefixshare::gpu {
namespace {

using testing::Problem;
using tests::Random;

LayerKind small_heads() {
  LayerKind kind;
  kind.q_dtype = kind.kv_dtype = DType::bf16;
  kind.Hq = 8, kind.Hkv = 2;
  kind.D = kind.Dv = 128;
  return kind;
}

/// Ragged sequences behind a prefix: split keys, partial states, groups of several sizes.
AttentionCase ragged(bool small, bool training = false) {
  AttentionCase c;
  c.options.kind = small_heads();
  c.options.page_size = 16;
  c.options.backward = c.plan.backward = training;
  std::vector<std::int32_t> own = {0, 1, 7, 33, 64, 65, 200, 3, 17};
  if (small) own.resize(4);
  c.topology = testing::prefix_group(small ? 40 : training ? 300 : 2500, own, training);
  return c;
}

// ---- Other work on the device

/// Runs a call on the default stream alone, then on streams of every priority beside other work: always the same bits.
Result same_bits(const Target& target, const AttentionCase& c, int repeats) {
  Problem p;
  throw_if_error(make_problem(c.topology, c.options, &p));
  p.poison_outputs();
  ProblemThere there(target, &p);
  const PlannedCall call(target, p.forest, c.options.kind, c.plan);
  const std::vector<Stream> streams = target.machine->streams();
  std::vector<unsigned char> bits;
  for (int n = 0; n < repeats; ++n) {
    Stream stream;
    if (n > 0 && !streams.empty()) stream = streams[static_cast<std::size_t>(n) % streams.size()];
    p.poison_outputs();
    there.send_outputs();
    if (n > 0) target.machine->disturb(n % 5);
    if (Status s = call.forward(there.attend(), stream); !s.ok()) return failed(s);
    if (c.options.backward) {
      if (Status s = call.backward(there.attend_grad(), stream); !s.ok()) return failed(s);
    }
    there.fetch_outputs();
    if (n == 0) bits = output_bytes(&p);
    if (bits != output_bytes(&p)) return Result::failure("other bits in run " + std::to_string(n + 1));
  }
  return {Outcome::passed, "", Record().add("runs", repeats)};
}

// ---- Neighbours

/// The rows of one sequence alone have the bits that they have in the batch.
Result same_bits_alone(const Target& target, const AttentionCase& c) {
  Problem p;
  throw_if_error(make_problem(c.topology, c.options, &p));
  p.poison_outputs();
  ProblemThere there(target, &p);
  const PlannedCall batch(target, p.forest, c.options.kind, c.plan);
  if (Status s = batch.forward(there.attend()); !s.ok()) return failed(s);
  there.fetch_outputs();
  const testing::Tensor<3> o = p.o;
  const testing::Tensor<2> lse = p.lse;
  std::int32_t first_row = 0;
  for (std::size_t s = 0; s < p.forest.sequences.size(); ++s) {
    const std::int32_t rows = p.forest.sequences[s].q_len;
    std::vector<std::uint8_t> keep(p.forest.sequences.size(), 0);
    keep[s] = 1;
    Forest alone;
    throw_if_error(prune_forest(p.forest, keep, &alone));
    const PlannedCall call(target, alone, c.options.kind, c.plan);
    p.poison_outputs();
    there.send_outputs();
    Attend args = there.attend();
    args.q.data = args.q.ptr(first_row), args.q.shape[0] = rows;
    args.o.data = args.o.ptr(first_row), args.o.shape[0] = rows;
    args.lse.data = args.lse.ptr(first_row), args.lse.shape[0] = rows;
    args.fingerprint = alone.fingerprint;
    if (Status status = call.forward(args); !status.ok()) return failed(status);
    there.fetch_outputs();
    for (std::int32_t r = first_row; r < first_row + rows; ++r) {
      const std::size_t width = static_cast<std::size_t>(c.options.kind.Hq * c.options.kind.Dv * 2);
      const bool same = std::memcmp(o.view().ptr(r), p.o.view().ptr(r), width) == 0 &&
                        std::memcmp(lse.view().ptr(r), p.lse.view().ptr(r),
                                    static_cast<std::size_t>(c.options.kind.Hq) * sizeof(float)) == 0;
      if (!same) return Result::failure("row " + std::to_string(r) + " has other bits without its neighbours");
    }
    first_row += rows;
  }
  return {};
}

// ---- Lengths on the device

/// One plan for capacities, one graph, and lengths that are written in the same stream before each replay.
Result lengths_change(const Target& target, AttentionCase c) {
  std::int32_t slots = 0;
  for (std::size_t n = 1; n < c.topology.nodes.size(); ++n) c.topology.nodes[n].length_slot = slots++;
  Problem p;
  throw_if_error(make_problem(c.topology, c.options, &p));
  p.actual_lengths.assign(p.actual_lengths.size(), 0);
  for (std::size_t n = 0; n < p.forest.nodes.size(); ++n) {  // keys and values up to the capacities
    const Node& node = p.forest.nodes[n];
    if (node.length_slot >= 0) p.actual_lengths[static_cast<std::size_t>(node.length_slot)] = node.length;
  }
  testing::detail::fill_pools(std::make_unique<Random>(5).get(), &p);
  p.poison_outputs();
  ProblemThere there(target, &p);
  const PlannedCall call(target, p.forest, c.options.kind, c.plan);
  ArrayThere<std::int32_t> lengths(target, p.actual_lengths);
  Attend args = there.attend();
  args.actual_lengths = lengths.span();
  Random random(11);
  const auto run = [&](Stream stream) { throw_if_error(call.forward(args, stream)); };
  std::function<void()> replay = target.machine->record(run);
  if (!replay) replay = [&] { run({}); };
  for (int n = 0; n < 4; ++n) {
    for (const Node& node : p.forest.nodes) {
      if (node.length_slot < 0) continue;
      p.actual_lengths[static_cast<std::size_t>(node.length_slot)] = random.between(0, node.length);
    }
    lengths.write(p.actual_lengths);
    p.poison_outputs();
    there.send_outputs();
    replay();
    there.fetch_outputs();
    const Result r = judged_forward(p.forest, &p, call.plan.header.implementation);
    if (r.outcome != Outcome::passed) return r;
  }
  return {};
}

// ---- Graphs

/// A captured call runs whatever plan was uploaded last: of the same pools and rows, with other paths.
Result graph_takes_new_plans(const Target& target, const AttentionCase& c) {
  Problem p;
  throw_if_error(make_problem(c.topology, c.options, &p));
  p.poison_outputs();
  ProblemThere there(target, &p);
  PlannedCall call(target, p.forest, c.options.kind, c.plan);
  Attend args = there.attend();
  args.fingerprint = 0;
  const auto run = [&](Stream stream) { throw_if_error(call.forward(args, stream)); };
  const std::function<void()> replay = target.machine->record(run);
  if (!replay) return Result::skip("nothing is recorded here");
  for (int turn = 0; turn < 3; ++turn) {
    // Other sequences at other nodes, the same number of rows.
    std::vector<Sequence> sequences = p.forest.sequences;
    std::rotate(sequences.begin(), sequences.begin() + turn, sequences.end());
    for (Sequence& s : sequences)
      s.node = p.forest.nodes[static_cast<std::size_t>(s.node)].parent >= 0 && turn == 2 ? 0 : s.node;
    for (Sequence& s : sequences) s.first_order = Sequence::kLastTokens;
    Forest forest;
    throw_if_error(
        make_forest({p.forest.pools, p.forest.pages, p.forest.segments, p.forest.nodes, sequences}, &forest));
    call.replan(forest, c.plan);
    p.poison_outputs();
    there.send_outputs();
    replay();
    there.fetch_outputs();
    const Result r = judged_forward(forest, &p, call.plan.header.implementation);
    if (r.outcome != Outcome::passed) return Result::failure("turn " + std::to_string(turn) + ": " + r.text);
  }
  return {};
}

// ---- accumulate

/// Gradients added to ones are the gradients plus one, as far as their storage holds them.
Result gradients_add_up(const Target& target, AttentionCase c) {
  c.options.wide_outputs = true;  // f32 gradients: adding loses little
  Problem p;
  throw_if_error(make_problem(c.topology, c.options, &p));
  p.poison_outputs();
  ProblemThere there(target, &p);
  const PlannedCall call(target, p.forest, c.options.kind, c.plan);
  if (Status s = call.forward(there.attend()); !s.ok()) return failed(s);
  if (Status s = call.backward(there.attend_grad()); !s.ok()) return failed(s);
  there.fetch_outputs();
  const std::vector<double> dq = testing::to_doubles(p.dq.view()), dk = testing::to_doubles(p.pools[0].dk.view());
  const auto add_one = [](testing::Tensor<4>* x, const std::vector<double>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!std::isnan(values[i])) x->set(static_cast<std::int64_t>(i), 1.0);
    }
  };
  for (std::size_t i = 0; i < dq.size(); ++i) p.dq.set(static_cast<std::int64_t>(i), 1.0);
  add_one(&p.pools[0].dk, dk);
  add_one(&p.pools[0].dv, testing::to_doubles(p.pools[0].dv.view()));
  there.send_gradients();
  AttendGrad args = there.attend_grad();
  args.accumulate = true;
  if (Status s = call.backward(args); !s.ok()) return failed(s);
  there.fetch_outputs();
  const auto check_sums = [](const std::vector<double>& before, const std::vector<double>& after) {
    for (std::size_t i = 0; i < before.size(); ++i) {
      const double want = static_cast<double>(static_cast<float>(1.0 + before[i]));
      const bool same =
          std::isnan(before[i]) ? std::isnan(after[i]) : std::abs(after[i] - want) <= 0x1p-22 * (1 + std::abs(want));
      if (!same) return false;
    }
    return true;
  };
  if (!check_sums(dq, testing::to_doubles(p.dq.view()))) return Result::failure("dq");
  if (!check_sums(dk, testing::to_doubles(p.pools[0].dk.view()))) return Result::failure("dk");
  return {};
}

}  // namespace

void add_order_cases(const CaseOptions& options, std::vector<Case>* cases) {
  const MakeTarget make = options.target;
  const bool small = options.small;
  const int repeats = small ? 3 : 25;
  const auto add = [&](const std::string& name, const AttentionCase& c, const auto& run) {
    cases->push_back({"order/" + name, [=] { return on_each(target_of(make), c, run); }, kSecondsEach});
  };
  const auto repeated = [=](const Target& t, const AttentionCase& c) { return same_bits(t, c, repeats); };
  AttentionCase invariant = ragged(small);
  invariant.plan.mode = Mode::batch_invariant;
  add("forward beside other work", ragged(small), repeated);
  add("invariant beside other work", invariant, repeated);
  add("alone as in the batch", invariant, same_bits_alone);
  add("lengths on the device", ragged(small), lengths_change);
  add("a graph and new plans", ragged(small), graph_takes_new_plans);
  add("training beside other work", ragged(small, true), repeated);
  add("gradients add up", ragged(small, true), gradients_add_up);
}

}  // namespace prefixshare::gpu
