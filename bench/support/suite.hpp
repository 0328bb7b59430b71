// SPDX-License-Identifier: Apache-2.0
// The suite: which workloads each operator is timed on, in which types, with warm or cold caches, and what of it is
// quick.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/testing/workload.hpp"
#include "support/workloads.hpp"

namespace prefixshare::bench {

/// What the caches hold before a call.
enum class Caches : std::uint8_t {
  warm,     ///< the same memory is read again and again
  flushed,  ///< outside the clock, every thread has read twice the last-level cache
  rotated   ///< as many copies of the input take turns as exceed the caches
};

/// A problem that an operator is timed on.
struct Problem {
  const testing::Workload* workload = nullptr;
  LayerKind kind;  ///< the workload's, in the type of this problem
  std::int32_t scale = 1;
  Caches caches = Caches::warm;
  bool quick = true;       ///< is part of --quick
  bool team_only = false;  ///< not on one thread, if there are more

  /// "C1/flushed/scale:8/bf16"
  std::string name() const;
};

/// What an operator does with a workload; its name is that of the operator's entry in context.hpp.
bool fits(const std::string& op, const testing::Workload& workload);

/// The suite's problems for an operator.
std::vector<Problem> suite_of(const std::string& op, const Workloads& workloads, bool quick);
/// Chosen workloads for an operator: those that fit, in their own types or in `type`.
std::vector<Problem> chosen_for(const std::string& op, const std::vector<const testing::Workload*>& chosen,
                                std::int32_t scale, const std::string& type = "");

}  // namespace prefixshare::bench
