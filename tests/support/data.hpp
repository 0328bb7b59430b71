// SPDX-License-Identifier: Apache-2.0
// What a test needs from outside: real input, found through an environment variable, and the wish for full matrices.
// Without it a test is skipped by name.
#pragma once

#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>

namespace prefixshare::tests {

/// Set by skip; the tests' main then exits with 77, which ctest counts as skipped.
inline bool skipped = false;

/// Says what is not tested, and why. The test case then returns, or goes on with what is left.
inline void skip(const std::string& what, const std::string& why) {
  std::cout << "SKIPPED: " << what << " (" << why << ")\n";
  skipped = true;
}

/// Path of `name` below the folder PREFIXSHARE_TEST_DATA. Without that variable it says so, and the test case returns.
inline std::optional<std::string> test_data(const std::string& name) {
  if (const char* folder = std::getenv("PREFIXSHARE_TEST_DATA"); folder != nullptr && *folder != '\0') {
    return std::string(folder) + "/" + name;
  }
  skip(name, "PREFIXSHARE_TEST_DATA is not set");
  return std::nullopt;
}

/// True if the full matrices are asked for: `./run test --all`.
inline bool test_all() {
  const char* value = std::getenv("PREFIXSHARE_TEST_ALL");
  return value != nullptr && std::string(value) == "1";
}

}  // namespace prefixshare::tests
