// SPDX-License-Identifier: Apache-2.0
// Floors from lines of results, and the workloads of the kit.
#include "gpu/floors.hpp"

#include <stdexcept>
#include <string>
#include <vector>

#include "support/catch.hpp"

namespace {

using namespace prefixshare::gpu;

constexpr double kMebibyte = 1 << 20;

Record rate(const std::string& name, double value, double working_set = 0) {
  return Record().add("case", name).add("rate", value).add("working_set", working_set);
}

/// A device with 50 MiB of L2.
std::vector<Record> lines() {
  return {rate("copy/memory", 4e12),
          rate("read/1 MiB", 5e12, kMebibyte),
          rate("read/8 MiB", 7e12, 8 * kMebibyte),
          rate("read/16 MiB", 6e12, 16 * kMebibyte),
          rate("read/4096 MiB", 4.3e12, 4096 * kMebibyte),
          rate("read/memory by 50%", 3e12, 8192 * kMebibyte),
          rate("products/bf16/warps:4", 3e14),
          rate("products/bf16/warps:8", 4e14),
          rate("exponentials/ex2", 3e12)};
}

}  // namespace

TEST_CASE("floors: ceilings are the best rates, L2 that of a working set well inside it", "[floors]") {
  const Ceilings c(lines(), 50 * kMebibyte);
  CHECK(c.read == 4.3e12);
  CHECK(c.copy == 4e12);
  CHECK(c.l2 == 7e12);
  CHECK(c.products == 4e14);
  CHECK(c.exponentials == 3e12);
}

TEST_CASE("floors: each line that is missing is missed", "[floors]") {
  for (const char* name : {"copy/", "read/8 MiB", "products/", "exponentials/"}) {
    INFO(name);
    std::vector<Record> rest;
    for (const Record& line : lines()) {
      const bool small = line.text("case") == "read/1 MiB";  // the second best working set inside L2
      if (line.text("case").rfind(name, 0) != 0 && !small) rest.push_back(line);
    }
    CHECK_THROWS_AS(Ceilings(rest, 50 * kMebibyte), std::runtime_error);
  }
}

TEST_CASE("floors: the slowest resource sets the pace", "[floors]") {
  const Ceilings c(lines(), 50 * kMebibyte);
  CHECK(floor_of({4.3e12, 0, 0, 0}, c).seconds == 1);
  CHECK(floor_of({4.3e12, 6.9e12, 3.9e14, 2.9e12}, c).bound == std::string("memory"));
  CHECK(floor_of({4.3e12, 14e12, 3.9e14, 2.9e12}, c).bound == std::string("L2"));
  CHECK(floor_of({4.3e12, 14e12, 40e14, 2.9e12}, c).bound == std::string("mma.sync"));
  CHECK(floor_of({4.3e12, 14e12, 40e14, 60e12}, c).seconds == 20);
}
