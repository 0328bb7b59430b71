// SPDX-License-Identifier: Apache-2.0
// What the cases of conformance share: one attention problem on the target, judged by the oracle.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpu/harness/stage.hpp"
#include "gpu/target.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/testing/oracle.hpp"
#include "support/cases.hpp"

namespace prefixshare::gpu {

/// An attention problem and how to plan it.
struct AttentionCase {
  testing::Topology topology;
  testing::ProblemOptions options;
  PlanOptions plan;
};

/// The target once for each implementation of attention that takes a problem, which is forced; if one is forced on the
/// target, only that.
std::vector<Target> implementations(const Target& target, const AttentionCase& c);
/// Runs a case on each of them: the first failure, or the result of the first.
Result on_each(const Target& target, const AttentionCase& c,
               const std::function<Result(const Target&, const AttentionCase&)>& run);

inline constexpr double kSecondsEach = 60;  ///< of a case of attention, most of which the oracle takes

inline Result failed(const Status& status) { return Result::failure(to_string(status)); }

/// A comparison as the result of a case.
inline Result judged(const testing::Comparison& c, const std::string& implementation) {
  Result r;
  if (!c.ok) r = Result::failure(c.text);
  r.figures.add("error", c.error).add("bound", c.bound).add("implementation", implementation);
  return r;
}

/// Everything that a problem's outputs hold, as bytes.
inline std::vector<unsigned char> output_bytes(testing::Problem* p) {
  std::vector<unsigned char> bytes;
  const auto append = [&bytes](auto* tensor) {
    const Span<unsigned char> memory = tensor->memory();
    bytes.insert(bytes.end(), memory.begin(), memory.end());
  };
  append(&p->o), append(&p->lse), append(&p->dq);
  for (testing::Problem::Pool& pool : p->pools) append(&pool.dk), append(&pool.dv);
  const auto* sinks = reinterpret_cast<const unsigned char*>(p->dsinks.data());
  bytes.insert(bytes.end(), sinks, sinks + p->dsinks.size() * sizeof(float));
  return bytes;
}

/// The outputs of a forward against the oracle.
Result judged_forward(const Forest& forest, testing::Problem* p, const std::string& implementation);
/// The forward into poisoned outputs, and again: right, nothing else written, the same bits.
Result forward_result(const Target& target, const AttentionCase& c);
/// Forward and backward in the same way. The gradients start from the o and lse that the forward left there.
Result backward_result(const Target& target, const AttentionCase& c);

// One per file <name>_cases.cpp. `seeds` of every random case; `small`: only cases that a sanitizer gets through.
struct CaseOptions {
  MakeTarget target = &host_target;
  int seeds = 3;
  bool small = false;
};
void add_forward_cases(const CaseOptions& options, std::vector<Case>* cases);
void add_backward_cases(const CaseOptions& options, std::vector<Case>* cases);
void add_row_cases(const CaseOptions& options, std::vector<Case>* cases);
void add_order_cases(const CaseOptions& options, std::vector<Case>* cases);
void add_conformance_cases(const CaseOptions& options, std::vector<Case>* cases);  // all of them

}  // namespace prefixshare::gpu
