// SPDX-License-Identifier: Apache-2.0
// run_conformance: the library's own implementations conform, a toy kernel does, and each kind of liar is caught and
// named.
#include "prefixshare/testing/conformance.hpp"

#include <atomic>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/portable/tree_attention.hpp"
#include "prefixshare/portable/tree_attention_backward.hpp"
#include "prefixshare/testing/catalogue.hpp"
#include "prefixshare/testing/workload_times.hpp"
#include "support/attention.hpp"
#include "support/data.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using testing::ConformanceReport;
using testing::Fault;

using Part = Status (*)(const AttendCall&, std::int32_t, std::int32_t) noexcept;
using GradPart = Status (*)(const AttendGradCall&, std::int32_t, std::int32_t) noexcept;
using Accepts = Status (*)(const AttentionProblem&) noexcept;

constexpr const char* kToy = "cpu:toy";

Status refuse(const char* what) noexcept {
  return {StatusCode::unsupported, StatusUnit::number, "tree_attention", what, "", "==", 1, 0, 0};
}

/// Declines most kinds, so that the tests stay short.
Status accepts_f32(const AttentionProblem& p) noexcept {
  const LayerKind& k = p.kind;
  if (k.q_dtype != DType::f32 || k.kv_dtype != DType::f32) return refuse("type");
  return k.D <= 96 ? Status{} : refuse("D");
}

Context context_with(Part part, Accepts accepts = &accepts_f32, GradPart backward = nullptr) {
  Context c;
  require_ok(create_context(&c));
  Implementation<AttentionProblem, AttendCall> toy;
  toy.name = kToy;
  toy.accepts = accepts;
  toy.part = part;
  require_ok(c.tree_attention.add(toy));
  if (backward == nullptr) return c;
  Implementation<AttentionProblem, AttendGradCall> gradient;
  gradient.name = kToy;
  gradient.accepts = accepts;
  gradient.part = backward;
  require_ok(c.tree_attention_backward.add(gradient));
  return c;
}

/// How much of it is run.
enum class Depth { options, combinations, all };

ConformanceReport judge(const Context& context, const std::string& name = kToy, Depth depth = Depth::options) {
  testing::ConformanceOptions options;
  options.seeds = depth == Depth::options ? 0 : 1;
  options.walk = depth == Depth::all;
  return testing::run_conformance(context, name, options);
}

/// The faults that a report names.
std::vector<Fault> faults_of(const ConformanceReport& report) {
  std::vector<Fault> faults;
  for (std::size_t f = 0; f < testing::kFaults; ++f) {
    if (report.checks[f].failed > 0) faults.push_back(static_cast<Fault>(f));
  }
  return faults;
}

void check_caught(const ConformanceReport& report, Fault fault) {
  INFO(to_string(report));
  CHECK_FALSE(report.ok());
  CHECK(faults_of(report) == std::vector<Fault>{fault});
  CHECK(report[fault].first.size() > 20);  // where and what
  CHECK(to_string(report).find(testing::to_string(fault)) != std::string::npos);
}

// ---- Kernels. All compute as cpu:portable does, and then do their worst.

Status honest(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  return portable::tree_attention_part(call, i, n);
}
Status honest_gradient(const AttendGradCall& call, std::int32_t i, std::int32_t n) noexcept {
  return portable::tree_attention_backward_part(call, i, n);
}

bool is_last(std::int32_t i, std::int32_t n) noexcept { return i == n - 1; }
/// An element of o that every problem with rows has, in f32 outputs.
float* element(const Attend& a) noexcept { return a.o && a.o.shape[0] > 0 ? a.o.at<float>(0, 0) : nullptr; }
void change_last_bit(const Attend& a) noexcept {
  if (float* x = element(a)) *x = std::nextafter(*x, 2 * *x);
}

/// Wrong where a run of keys ends on one remainder of 32 alone.
Status wrong_on_a_tail(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  const Status s = honest(call, i, n);
  bool tail = false;
  for (const KeyRun& run : call.plan.runs) tail = tail || run.length % 32 == 29;
  float* x = element(call.args);
  if (s.ok() && tail && is_last(i, n) && x != nullptr) *x += 0.01f;
  return s;
}
Status wrong_gradient(const AttendGradCall& call, std::int32_t i, std::int32_t n) noexcept {
  const Status s = honest_gradient(call, i, n);
  const TensorView<3>& dq = call.args.dq;
  if (s.ok() && is_last(i, n) && dq.shape[0] > 3) *dq.at<float>(3, 0) += 0.01f;
  return s;
}
Status never_the_same(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  static std::atomic<int> calls{0};
  const Status s = honest(call, i, n);
  if (s.ok() && is_last(i, n) && calls++ % 2 == 0) change_last_bit(call.args);
  return s;
}
Status follows_the_parts(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  const Status s = honest(call, i, n);
  if (s.ok() && n > 1 && is_last(i, n)) change_last_bit(call.args);
  return s;
}
Status writes_beside(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  const Status s = honest(call, i, n);
  if (float* x = element(call.args)) x[-1] = 0;
  return s;
}
Status writes_to_keys(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  const Status s = honest(call, i, n);
  const KvPool& pool = call.args.kv[0];
  float* k = pool.k.at<float>(0, 0, 0);
  *k = std::isnan(*k) ? 0 : *k;  // a slot that nobody reads
  *pool.v.at<float>(0, 0, 0) += 0;
  return s;
}
Status writes_then_refuses(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  if (call.args.softcap == 0) return honest(call, i, n);
  if (float* x = element(call.args)) *x = 0;
  return refuse("softcap");
}
Status refuses_in_one_part(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  return call.args.softcap > 0 && i == 0 ? refuse("softcap") : honest(call, i, n);
}
Status ignores_sinks(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  AttendCall without = call;
  without.args.sinks = {};
  return honest(without, i, n);
}
Status refuses_odd_dims(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  return call.plan.header.kind.Dv % 8 != 0 ? refuse("Dv") : honest(call, i, n);
}
Status refuses_everything(const AttentionProblem&) noexcept { return refuse("kind"); }

}  // namespace

TEST_CASE("conformance: a toy kernel conforms, with its gradient, and the report says what it can", "[conformance]") {
  const ConformanceReport report = judge(context_with(&honest, &accepts_f32, &honest_gradient), kToy, Depth::all);
  INFO(to_string(report));
  CHECK(report.ok());
  CHECK(report.backward);
  CHECK(report[Fault::wrong_result].cases > 300);
  CHECK(report[Fault::depends_on_parts].cases > 300);
  REQUIRE(report.abilities.size() == testing::kFactors);
  CHECK(report.abilities[0].yes == std::vector<std::string>{"f32"});
  CHECK(report.abilities[0].declined.size() == 8);
  CHECK(report.abilities[1].yes == std::vector<std::string>{"64", "16", "80", "96", "8", "20/17"});
  CHECK(to_string(report).find("  conforms\n") != std::string::npos);
}

TEST_CASE("conformance: every kind of liar is caught and named", "[conformance]") {
  check_caught(judge(context_with(&wrong_on_a_tail), kToy, Depth::all), Fault::wrong_result);
  check_caught(judge(context_with(&honest, &accepts_f32, &wrong_gradient)), Fault::wrong_result);
  check_caught(judge(context_with(&never_the_same)), Fault::not_repeatable);
  check_caught(judge(context_with(&follows_the_parts)), Fault::depends_on_parts);
  check_caught(judge(context_with(&writes_beside)), Fault::writes_outside);
  check_caught(judge(context_with(&writes_to_keys)), Fault::writes_inputs);
  check_caught(judge(context_with(&writes_then_refuses)), Fault::writes_on_error);
  check_caught(judge(context_with(&refuses_in_one_part)), Fault::writes_on_error);
  check_caught(judge(context_with(&ignores_sinks)), Fault::accepts_too_much);
  check_caught(judge(context_with(&refuses_odd_dims)), Fault::accepts_too_much);
}

TEST_CASE("conformance: a name that is not there and a kernel that takes nothing are not judged", "[conformance]") {
  const ConformanceReport nobody = judge(context_with(&honest), "cpu:nobody");
  CHECK(nobody.status.code == StatusCode::invalid_argument);
  CHECK_FALSE(nobody.ok());
  const ConformanceReport nothing = judge(context_with(&honest, &refuses_everything));
  CHECK(nothing.status.code == StatusCode::unsupported);
  CHECK_FALSE(nothing.ok());
  CHECK(to_string(nothing).find("kind") != std::string::npos);
}

TEST_CASE("conformance: every implementation of the library conforms", "[conformance]") {
  for (const NamedContext& c : attention_contexts(DType::bf16)) {
    const ConformanceReport report = judge(c.context, c.name, test_all() ? Depth::all : Depth::options);
    INFO(to_string(report));
    CHECK(report.ok());
    CHECK(report[Fault::wrong_result].cases > 150);
  }
}

TEST_CASE("workload_times: who is right is timed, who is not says why", "[conformance]") {
  testing::WorkloadTimesOptions options;
  options.scale = 16;
  options.dtype = DType::f32;
  options.limits = {0.001, 3, 60};
  const std::vector<const testing::Workload*> workloads = {testing::find_workload("cpu/W3b"),
                                                           testing::find_workload("cpu/W7b")};
  const Context context = context_with(&wrong_on_a_tail);
  std::vector<testing::WorkloadTime> times = time_workloads(context, workloads, options);
  REQUIRE(times.size() == 2 * static_cast<std::size_t>(context.tree_attention.count));
  CHECK(times[0].implementation == kToy);
  CHECK(times[0].times.calls == 0);  // D is 128: it declines
  CHECK(times[0].why.find("unsupported") != std::string::npos);
  const testing::WorkloadTime& last = times.back();
  CHECK(last.workload == "cpu/W7b/scale:16");
  CHECK(last.implementation == "cpu:portable");
  CHECK(last.times.calls >= 3);
  CHECK(last.times.low <= last.times.median);
  CHECK(last.times.median <= last.times.high);
  CHECK(to_string(times).find("cpu/W7b/scale:16  cpu:portable") != std::string::npos);
}
