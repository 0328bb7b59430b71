// SPDX-License-Identifier: Apache-2.0
// Ceilings of the machine, measured: what no implementation can pass.
#pragma once

#include "prefixshare/executor.hpp"

namespace prefix_report {

struct Ceilings {
  double bytes_per_second = 0;  ///< reading memory, all threads
  double flops_per_second = 0;  ///< f32 multiply-adds of the widest vectors (2 each), all threads

  /// Least seconds for that much traffic and arithmetic.
  double bound(double bytes, double flops) const {
    const double memory = bytes / bytes_per_second, arithmetic = flops / flops_per_second;
    return memory > arithmetic ? memory : arithmetic;
  }
};

/// About half a second. The better of a few tries.
Ceilings measure_ceilings(const prefixshare::Executor& executor);

}  // namespace prefix_report
