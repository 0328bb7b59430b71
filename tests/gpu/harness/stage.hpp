// SPDX-License-Identifier: Apache-2.0
// A stage: cases with names, and what becomes of them.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "gpu/harness/record.hpp"

namespace prefixshare::gpu {

enum class Outcome { passed, failed, skipped, crashed, timed_out };

inline const char* to_string(Outcome o) {
  switch (o) {
    case Outcome::passed: return "passed";
    case Outcome::failed: return "failed";
    case Outcome::skipped: return "skipped";
    case Outcome::crashed: return "crashed";
    case Outcome::timed_out: return "timed out";
  }
  return "?";
}

struct Result {
  Outcome outcome = Outcome::passed;
  std::string text;  ///< why it failed or was skipped
  Record figures;

  static Result failure(const std::string& why) { return {Outcome::failed, why, {}}; }
  static Result skip(const std::string& why) { return {Outcome::skipped, why, {}}; }
};

/// An exception says that the case failed and that its process is of no more use: a CUDA error may stay.
struct Case {
  std::string name;  ///< group/rest: the cases of a group share a process while all goes well
  std::function<Result()> run;
  double seconds = 20;  ///< after which it hangs

  std::string group() const { return name.substr(0, name.find('/')); }
};

struct Stage {
  std::string name;
  std::vector<Case> cases;
  std::vector<std::string> columns;  ///< figures that the table shows; none: it counts groups
  /// Called in the parent with every line when all cases are done, to write what follows from them together.
  std::function<void(const std::vector<Record>& lines)> finish;
};

}  // namespace prefixshare::gpu
