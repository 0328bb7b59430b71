// SPDX-License-Identifier: Apache-2.0
// The page: one HTML file that needs nothing else.
#pragma once

#include <string>
#include <vector>

#include "report/machine_runs.hpp"

namespace prefixshare::report {

/// Well-formed XML after the first line. A part for each machine.
std::string make_page(const std::vector<Machine>& machines);

/// The page's style sheet, for light, dark and paper.
extern const char* const kStyle;

}  // namespace prefixshare::report
