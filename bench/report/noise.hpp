// SPDX-License-Identifier: Apache-2.0
// Whether two times of a case differ by more than noise.
#pragma once

#include "report/run.hpp"

namespace prefixshare::report {

/// What a run says about the time of a case, in logarithms: 0.1 is some ten percent.
struct Estimate {
  double log_seconds = 0;
  double error = 0;   ///< standard error of log_seconds
  double stolen = 0;  ///< by how much log_seconds may be too large because others used the machine
};
/// Of a case that is timed.
Estimate estimate(const Case& c);

enum class Verdict { faster, slower, no_change, only_in_a, only_in_b };
const char* to_string(Verdict verdict);

struct Judgement {
  Verdict verdict = Verdict::no_change;
  double ratio = 1;          ///< new over old
  double low = 1, high = 1;  ///< ratios within these bounds are noise
  bool hides_ten_percent() const { return high > 1.1; }
};
Judgement judge(const Estimate& old_time, const Estimate& new_time);

}  // namespace prefixshare::report
