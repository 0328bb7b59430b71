// SPDX-License-Identifier: Apache-2.0
// The cases of the GPU kit without a GPU: they pass on the host, and find fault with implementations that are wrong in
// one way each.
#include <cstring>
#include <string>
#include <vector>

#include "gpu/conformance.hpp"
#include "prefixshare/portable/kv_append.hpp"
#include "prefixshare/portable/merge_states.hpp"
#include "prefixshare/portable/rope.hpp"
#include "prefixshare/portable/tree_attention.hpp"
#include "prefixshare/portable/tree_attention_backward.hpp"
#include "support/catch.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::gpu;

/// The part of an operator that is right, and what spoils its call afterwards.
template <auto Part, auto Spoil, class Call>
Status spoiled(const Call& call, std::int32_t part, std::int32_t parts) noexcept {
  const Status s = Part(call, part, parts);
  if (s.ok()) Spoil(call);
  return s;
}

template <auto Part, auto Spoil, class Problem, class Call>
Target target_with(ImplementationList<Problem, Call> Context::*list) {
  Target t = host_target();
  Implementation<Problem, Call> entry;
  entry.name = "test:wrong";
  entry.part = &spoiled<Part, Spoil, Call>;
  throw_if_error((t.context.*list).add(entry));
  throw_if_error((t.context.*list).force("test:wrong"));
  return t;
}

/// Element i of the first row and head, changed by a factor.
template <int Rank>
void scale_element(const TensorView<Rank>& x, double factor) {
  if (x.data == nullptr || testing::count_of(x) == 0) return;
  prefixshare::detail::with_storage(x.dtype, [&](auto tag) {
    auto* element = static_cast<decltype(tag)*>(x.data);
    *element = store_as<decltype(tag)>(load_as<double>(*element) * factor + (factor - 1));
  });
}

// ---- Faults of attention

void wrong_value(const AttendCall& c) { scale_element(c.args.o, 1.25); }
void wrong_lse(const AttendCall& c) { scale_element(c.args.lse, 1.01); }
void beside_the_output(const AttendCall& c) {
  if (c.plan.header.rows > 0) static_cast<unsigned char*>(c.args.o.data)[-1] = 0;
}
void row_left_out(const AttendCall& c) {
  if (c.plan.header.rows == 0) return;
  const std::int64_t last = c.plan.header.rows - 1;
  std::memset(c.args.o.ptr(last), 0xff, static_cast<std::size_t>(c.plan.header.kind.Dv * size_of(c.args.o.dtype)));
}
/// Rounds the other way in every second call.
void other_bits(const AttendCall& c) {
  static int calls = 0;
  if (c.plan.header.rows > 0) static_cast<unsigned char*>(c.args.o.data)[0] ^= static_cast<unsigned char>(++calls % 2);
}
/// Bits that depend on how many rows there are.
void depends_on_neighbours(const AttendCall& c) {
  if (c.plan.header.rows > 1) static_cast<unsigned char*>(c.args.lse.data)[0] ^= 1;
}
/// As if the lengths were those of the first call.
void old_lengths(const AttendCall& c) {
  static std::vector<float> first;
  if (c.args.actual_lengths.empty()) return;
  if (first.empty()) first.push_back(*static_cast<float*>(c.args.lse.data));
  *static_cast<float*>(c.args.lse.data) = first[0];
}
void no_dq(const AttendGradCall& c) {
  if (c.plan.header.rows > 0) scale_element(c.args.dq, 0);
}
void dk_twice(const AttendGradCall& c) {
  for (const KvGrad& g : c.args.dkv) {
    for (std::int64_t page = 0; page < g.dk.shape[0]; ++page) {
      TensorView<4> one = g.dk;
      one.data = g.dk.ptr(page);
      scale_element(one, 2);
    }
  }
}
void nothing_added(const AttendGradCall& c) {
  if (c.args.accumulate && c.plan.header.rows > 0) scale_element(c.args.dq, 2);
}

// ---- Faults of the operators on rows

void wrong_merge(const MergeStates& a) { scale_element(a.out.o, 1.25); }
void wrong_merge_lse(const MergeStatesGrad& a) {
  if (!a.dparts.empty()) scale_element(a.dparts[0].lse, 1.25);
}
void wrong_turn(const RopeApply& a) { scale_element(a.out, -1); }
void wrong_shift(const RopeShift& a) { scale_element(a.out, -1); }
void unnamed_slot(const KvAppend& a) {
  for (std::int64_t slot = 0; slot < a.pool.k.shape[0] * a.pool.k.shape[1]; ++slot) {
    bool named = false;
    for (const std::int64_t s : a.slots) named = named || s == slot;
    if (named) continue;
    const std::int64_t page = slot / a.pool.k.shape[1];
    std::memset(a.pool.k.ptr(page, slot % a.pool.k.shape[1]), 0, 2);
    return;
  }
}

// ---- Each fault, and the cases one of which has to fail

struct Fault {
  const char* name;
  const char* group;  ///< of cases
  MakeTarget target;
};

template <auto Spoil>
Target forward_fault() {
  return target_with<&portable::tree_attention_part, Spoil>(&Context::tree_attention);
}
template <auto Spoil>
Target backward_fault() {
  return target_with<&portable::tree_attention_backward_part, Spoil>(&Context::tree_attention_backward);
}

const Fault kFaults[] = {
    {"a wrong value", "instantiation", &forward_fault<&wrong_value>},
    {"a wrong lse", "matrix", &forward_fault<&wrong_lse>},
    {"a byte beside the output", "instantiation", &forward_fault<&beside_the_output>},
    {"a row left out", "matrix", &forward_fault<&row_left_out>},
    {"other bits in the next run", "instantiation", &forward_fault<&other_bits>},
    {"other bits beside other work", "order", &forward_fault<&other_bits>},
    {"bits that depend on the neighbours", "order", &forward_fault<&depends_on_neighbours>},
    {"lengths of another call", "order", &forward_fault<&old_lengths>},
    {"no dq", "backward instantiation", &backward_fault<&no_dq>},
    {"dk twice", "backward matrix", &backward_fault<&dk_twice>},
    {"gradients that are not added", "order", &backward_fault<&nothing_added>},
    {"a wrong merge", "merge",
     [] { return target_with<&portable::merge_states_part, &wrong_merge>(&Context::merge_states); }},
    {"a wrong gradient of a merge", "merge backward",
     [] {
       return target_with<&portable::merge_states_backward_part, &wrong_merge_lse>(&Context::merge_states_backward);
     }},
    {"a wrong turn", "rope apply",
     [] { return target_with<&portable::rope_apply_part, &wrong_turn>(&Context::rope_apply); }},
    {"a wrong shift", "rope shift",
     [] { return target_with<&portable::rope_shift_part, &wrong_shift>(&Context::rope_shift); }},
    {"a slot that no token names", "kv append",
     [] { return target_with<&portable::kv_append_part, &unnamed_slot>(&Context::kv_append); }},
};

std::vector<Case> small_cases(MakeTarget target) {
  CaseOptions options;
  options.target = target;
  options.seeds = 1;
  options.small = true;
  std::vector<Case> cases;
  add_conformance_cases(options, &cases);
  return cases;
}

}  // namespace

TEST_CASE("gpu kit: its cases pass on cpu:portable", "[gpu]") {
  for (const Case& c : small_cases(&host_target)) {
    const Result r = c.run();
    INFO(c.name << ": " << r.text);
    CHECK((r.outcome == Outcome::passed || r.text == "nothing is recorded here"));
  }
}

TEST_CASE("gpu kit: its cases find an implementation that is wrong in one way", "[gpu]") {
  for (const Fault& fault : kFaults) {
    std::string found;
    for (const Case& c : small_cases(fault.target)) {
      if (c.group() != fault.group) continue;
      const Result r = c.run();
      if (r.outcome == Outcome::failed) found = c.name + ": " + r.text;
      if (!found.empty()) break;
    }
    INFO(fault.name);
    CHECK(found != "");
  }
}
