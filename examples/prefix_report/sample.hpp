// SPDX-License-Identifier: Apache-2.0
// What to run when not everything fits: whole prefix families, chosen by rule and not by luck.
#pragma once

#include <cstdint>
#include <vector>

#include "prefixshare/forest.hpp"

namespace prefix_report {

/// What a choice of sequences costs, in tokens held.
enum class Weight {
  unique,  ///< a decode step holds each distinct token once (whole pages)
  logical  ///< a training step without sharing holds each sequence's own copy
};

/// Sequences whose tokens stay within `limit`, ascending. Families (the subtrees of the roots) are taken whole, in the
/// order of their first sequence, as long as they fit; a family that could never fit is divided into the families below
/// its root. Empty if no sequence fits.
std::vector<std::int32_t> choose_families(const prefixshare::Forest& forest, Weight weight, std::int64_t limit);

/// Tokens that all sequences hold.
std::int64_t held_tokens(const prefixshare::Forest& forest, Weight weight);

}  // namespace prefix_report
