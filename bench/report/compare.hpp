// SPDX-License-Identifier: Apache-2.0
// Two runs, case by case.
#pragma once

#include <string>
#include <vector>

#include "report/noise.hpp"
#include "report/run.hpp"

namespace prefixshare::report {

struct Compared {
  std::string name;
  double old_seconds = 0;  ///< 0: not in A
  double new_seconds = 0;  ///< 0: not in B
  bool busy = false;       ///< others disturbed one of the two
  Judgement judgement;
};

/// Every timed case of A (the old run) in its order, then those that only B (the new one) has.
std::vector<Compared> compare_runs(const Run& a, const Run& b);

std::size_t count(const std::vector<Compared>& list, Verdict verdict);

/// A table with a line per case, and a line of sums. One line for each thing that the two runs do not have in common
/// and that the times may depend on: machine, compiler, flags, ceilings that are more than 10 % apart.
std::string compare_text(const Run& a, const Run& b, const std::vector<Compared>& list);

}  // namespace prefixshare::report
