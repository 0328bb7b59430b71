// SPDX-License-Identifier: Apache-2.0
// The ceilings that a run measured.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "report/machine_runs.hpp"

namespace prefixshare::report {

/// A rate that no case passes.
struct Ceiling {
  enum class Kind : std::uint8_t { memory, products, other };

  std::string name;
  double rate = 0;          ///< per second: bytes, FLOPs, or what the unit says
  std::string unit;         ///< "B/s"
  Kind kind = Kind::other;  ///< other: no roof of the roofline
};

/// Of a team, as the newest run of ours has them; empty if none does.
std::vector<Ceiling> ceilings_of(const Machine& machine, std::int32_t threads);

/// The teams that have ceilings.
std::vector<std::int32_t> teams_with_ceilings(const Machine& machine);

}  // namespace prefixshare::report
