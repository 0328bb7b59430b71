// SPDX-License-Identifier: Apache-2.0
// What the tests of merge_states, rope and kv_append share: comparison of whole tensors, and one malformed call.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "prefixshare/status.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

namespace prefixshare::tests {

inline constexpr DType kAllDTypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16};
inline constexpr std::int32_t kPartCounts[] = {1, 2, 3, 8, 64};

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
