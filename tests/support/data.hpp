// SPDX-License-Identifier: Apache-2.0
// Real input for tests, outside the tree: found through an environment variable, skipped by name without it.
#pragma once

#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>

namespace prefixshare::tests {

/// Set by test_data; the tests' main then exits with 77, which ctest counts as skipped.
inline bool skipped = false;

/// Path of `name` below the folder PREFIXSHARE_TEST_DATA. Without that variable it says so, and the test case returns.
inline std::optional<std::string> test_data(const std::string& name) {
  if (const char* folder = std::getenv("PREFIXSHARE_TEST_DATA"); folder != nullptr && *folder != '\0') {
    return std::string(folder) + "/" + name;
  }
  std::cout << "SKIPPED: " << name << " (PREFIXSHARE_TEST_DATA is not set)\n";
  skipped = true;
  return std::nullopt;
}

/// True if the full matrices are asked for: `./run test --all`.
inline bool test_all() {
  const char* value = std::getenv("PREFIXSHARE_TEST_ALL");
  return value != nullptr && std::string(value) == "1";
}

}  // namespace prefixshare::tests
