// SPDX-License-Identifier: Apache-2.0
// Ceilings of the machine, measured: what no implementation can pass.
#pragma once

#include "prefixshare/context.hpp"

namespace prefix_report {

struct Ceilings {
  double bytes_per_second = 0;  ///< reading memory, all threads
  double flops_per_second = 0;  ///< multiply-adds (2 each), all threads: f32 in the widest vectors; where K and V are
                                ///< bf16, also the dot products of AVX-512 and the tiles of AMX

  /// Least seconds for that much traffic and arithmetic.
  double bound(double bytes, double flops) const {
    const double memory = bytes / bytes_per_second, arithmetic = flops / flops_per_second;
    return memory > arithmetic ? memory : arithmetic;
  }
};

/// On the context's executor, for a layer; about half a second. The better of a few tries.
Ceilings measure_ceilings(const prefixshare::Context& context, const prefixshare::LayerKind& kind);

}  // namespace prefix_report
