// SPDX-License-Identifier: Apache-2.0
// Where the seeded bugs are.
#pragma once

#include <fstream>
#include <string>

#include "support/catch.hpp"

namespace prefixshare::tests {

/// "file:line" of the line of seeded_bugs.cuh that ends with the mark.
inline std::string marked(const std::string& mark) {
  std::ifstream file(std::string(PREFIXSHARE_SIMT_TESTS) + "/seeded_bugs.cuh");
  const std::string end = "// mark: " + mark;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.size() > end.size() && line.compare(line.size() - end.size(), end.size(), end) == 0) {
      return "seeded_bugs.cuh:" + std::to_string(number);
    }
  }
  FAIL("no mark " << mark);
  return "";
}

}  // namespace prefixshare::tests
