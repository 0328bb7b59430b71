// SPDX-License-Identifier: Apache-2.0
// The proof: sampled rows against attention computed in f64 row by row, and everything with sharing against everything
// without. Errors and tolerances as prefixshare/testing/compare.hpp defines them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layer.hpp"

namespace prefix_report {

/// One comparison: the largest error, relative to its block, and what it may be.
struct Check {
  std::string what;
  std::int64_t values = 0;
  double error = 0;
  double bound = 0;

  bool ok() const { return error <= bound; }
  /// Raises the error to that of a block: max |x - truth| / max(max |truth|, scale). A NaN counts as infinite.
  void compare_block(const float* x, const double* truth, std::int64_t count, double scale);
  /// Takes up what another thread found.
  void merge(const Check& other);
};

/// What the f64 rows tell about the size of things and of errors: see compare.hpp.
struct Magnitudes {
  double logit = 0;  ///< A: largest sum of absolute products in a logit
  double o = 0;      ///< B: sums with absolute values, the smallest of the sampled rows
  double dq = 0;
  struct Bounds {
    double o = 0, lse = 0, dq = 0, dk = 0, dv = 0;
  } bounds;
};

/// Compares sampled rows of the shared way (o and lse; in training also dq, and dk and dv of the last tokens of some
/// leaves) with f64 attention over the tokens of their path. Where storage has 16 bits, a result may be as far off as
/// compare.hpp allows, by the errors of the same rows with probabilities and dS rounded. Appends to `checks`.
Magnitudes check_sampled_rows(const prefixshare::Context& context, const Layer& shared, bool train,
                              std::vector<Check>* checks);

/// Compares all results of both ways; gradients of repeated tokens are added up. Appends to `checks`.
void check_against_unshared(const prefixshare::Context& context, const Step& step, const Layer& unshared,
                            const Layer& shared, const Magnitudes& magnitudes, std::vector<Check>* checks);

}  // namespace prefix_report
