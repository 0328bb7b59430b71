// SPDX-License-Identifier: Apache-2.0
// run_conformance over a pool of threads: parts that run side by side conform, and the executor's number of parts is
// one of those that must not change the bits.
#include <cmath>
#include <cstdint>
#include <vector>

#include "prefixshare/portable/tree_attention.hpp"
#include "prefixshare/testing/conformance.hpp"
#include "prefixshare/thread_pool.hpp"
#include "support/attention.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using testing::ConformanceReport;
using testing::Fault;

/// A last bit more of the scale where there are two parts: all of them, so that no two write to one place.
Status follows_two_parts(const AttendCall& call, std::int32_t i, std::int32_t n) noexcept {
  AttendCall other = call;
  const double scale =
      call.args.scale != 0 ? call.args.scale : 1 / std::sqrt(static_cast<double>(call.plan.header.kind.D));
  if (n == 2) other.args.scale = std::nextafter(static_cast<float>(scale), 2 * static_cast<float>(scale));
  return portable::tree_attention_part(other, i, n);
}

Status accepts_small_f32(const AttentionProblem& p) noexcept {
  const bool yes = p.kind.q_dtype == DType::f32 && p.kind.kv_dtype == DType::f32 && p.kind.D <= 16;
  return yes ? Status{}
             : Status{StatusCode::unsupported, StatusUnit::number, "tree_attention", "D", "", "<=", 0, 0, 16};
}

}  // namespace

TEST_CASE("conformance: the executor's parts count, too", "[conformance]") {
  ThreadPool pool(2);
  Context context;
  require_ok(create_context(&context));
  Implementation<AttentionProblem, AttendCall> toy;
  toy.name = "cpu:toy";
  toy.accepts = &accepts_small_f32;
  toy.part = &follows_two_parts;
  require_ok(context.tree_attention.add(toy));
  testing::ConformanceOptions options;
  options.seeds = 0;
  options.walk = false;
  const ConformanceReport alone = testing::run_conformance(context, "cpu:toy", options);
  CHECK(alone.ok());
  context.executor = pool.executor();
  const ConformanceReport report = testing::run_conformance(context, "cpu:toy", options);
  INFO(to_string(report));
  CHECK(report[Fault::depends_on_parts].failed > 0);
  CHECK(report[Fault::depends_on_parts].cases > alone[Fault::depends_on_parts].cases);
  CHECK(report[Fault::wrong_result].failed == 0);
}
