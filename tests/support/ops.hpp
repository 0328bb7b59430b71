// SPDX-License-Identifier: Apache-2.0
// What the tests of the operators on rows share: comparison of whole tensors, and one malformed call.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

namespace prefixshare::tests {

inline constexpr DType kAllDTypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16};
inline constexpr std::int32_t kPartCounts[] = {1, 2, 3, 8, 64};

/// An implementation of the operators on rows, and cpu:portable behind it for the calls that it declines.
struct Rows {
  std::string name;
  Context context;

  /// The whole call, which runs on this implementation unless it computes in f64.
  template <class Args>
  void call(Status (*op)(const Context&, const Args&) noexcept, ImplementationList<Args, Args> Context::*list,
            const Args& args, bool f64) const {
    for (const Verdict& v : explain(context.*list, args)) {
      CAPTURE(v.name, to_string(v.status));
      CHECK(v.runs == (v.name == (f64 ? "cpu:portable" : name)));
    }
    const Status s = op(context, args);
    CAPTURE(to_string(s));
    REQUIRE(s.ok());
  }
};

/// Leaves an implementation, and cpu:portable behind it.
template <class Args>
void keep_only(const std::string& name, ImplementationList<Args, Args>* list) {
  const ImplementationList<Args, Args> all = *list;
  list->count = 0;
  for (std::int32_t i = 0; i < all.count; ++i) {
    const bool kept = all.entries[i].name == name || all.entries[i].name == std::string("cpu:portable");
    if (kept) REQUIRE(list->add(all.entries[i], false).ok());
  }
}

/// Each implementation that this machine can run; machine_test.cpp names the others.
inline std::vector<Rows> all_rows() {
  Context base;
  REQUIRE(create_context(&base).ok());
  std::vector<Rows> all;
  for (const Verdict& v : explain(base.rope_apply, RopeApply{})) {
    if (!v.status.ok()) continue;
    Rows rows{v.name, base};
    keep_only(v.name, &rows.context.merge_states);
    keep_only(v.name, &rows.context.merge_states_backward);
    keep_only(v.name, &rows.context.rope_apply);
    keep_only(v.name, &rows.context.rope_shift);
    keep_only(v.name, &rows.context.rope_rebase);
    keep_only(v.name, &rows.context.kv_append);
    all.push_back(rows);
  }
  return all;
}

/// Runs what follows in a test case once for each of them.
inline Rows each_rows() { return GENERATE(from_range(all_rows())); }

/// Elements of `x` against `want`, relative to the largest of them (or to `magnitude`), within `bound` and the rounding
/// of its storage type.
template <int Rank>
testing::Comparison close(const TensorView<Rank>& x, const std::vector<double>& want, double bound,
                          double magnitude = 0) {
  testing::Expected expected;
  expected.value = want;
  expected.block.assign(want.size(), 0);
  expected.magnitude = {8 * magnitude};
  return testing::compare(testing::to_doubles(x), expected, bound, x.dtype);
}

/// Runs all parts of a call, the last first: they may come in any order.
template <class Part, class Args>
void run_parts(Part&& part, const Args& args, std::int32_t parts) {
  for (std::int32_t i = parts; i-- > 0;) REQUIRE(part(args, i, parts).ok());
}

/// A call that must fail, and where.
template <class Args>
struct Fault {
  std::string argument;
  std::string field;
  std::function<void(Args*)> spoil;
  std::int64_t index = -1;
  StatusCode code = StatusCode::invalid_argument;
};

/// Every fault is refused by name before anything is written (`untouched` says so), and undone the call passes.
template <class Args, class Operator, class Untouched>
void check_faults(const char* op, const Args& good, const std::vector<Fault<Args>>& faults, Operator&& run,
                  Untouched&& untouched) {
  for (const Fault<Args>& fault : faults) {
    CAPTURE(fault.argument, fault.field);
    Args bad = good;
    fault.spoil(&bad);
    const Status s = run(bad);
    CAPTURE(to_string(s));
    CHECK(s.code == fault.code);
    CHECK(std::string(s.op) == op);
    CHECK(s.argument == fault.argument);
    CHECK(s.field == fault.field);
    CHECK(s.index == fault.index);
    CHECK(untouched());
  }
  CHECK(run(good).ok());
  CHECK_FALSE(untouched());
}

}  // namespace prefixshare::tests
