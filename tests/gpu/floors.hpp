// SPDX-License-Identifier: Apache-2.0
// Floors of times from what the stage constants measured of the same device: no call with this work is faster.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "gpu/harness/record.hpp"

namespace prefixshare::gpu {

/// Per second.
struct Ceilings {
  double read = 0;      ///< bytes from memory, which nothing caches
  double copy = 0;      ///< bytes read and written
  double l2 = 0;        ///< bytes read again and again from a working set of a quarter of L2
  double products = 0;  ///< FLOPs of mma.sync on 16-bit operands
  double exponentials = 0;

  /// From the lines of the stage constants. Throws if one is missing.
  Ceilings(const std::vector<Record>& lines, double l2_bytes) {
    double largest = 0, quarter = 0;
    for (const Record& line : lines) {
      const std::string name = line.text("case");
      const double rate = line.value("rate"), working_set = line.value("working_set");
      if (name == "copy/memory") copy = rate;
      if (name.rfind("products/", 0) == 0) products = std::max(products, rate);
      if (name.rfind("exponentials/", 0) == 0) exponentials = rate;
      if (name.rfind("read/", 0) != 0 || name.find(" by ") != std::string::npos) continue;
      if (working_set > largest) largest = working_set, read = rate;
      if (working_set > quarter && working_set <= l2_bytes / 4) quarter = working_set, l2 = rate;
    }
    for (const double rate : {read, copy, l2, products, exponentials}) {
      if (!(rate > 0)) throw std::runtime_error("the stage constants has not measured every ceiling");
    }
    read = std::max(read, copy);  // each is a lower bound of what the memory gives
  }
};

/// What a call moves and computes at least.
struct Work {
  double distinct_bytes = 0;  ///< each byte of its inputs and outputs once
  double bytes = 0;           ///< as often as the plan reads them, partial states too
  double flops = 0;
  double exponentials = 0;
};

/// Seconds; `bound` names the resource.
struct Floor {
  double seconds = 0;
  const char* bound = "";
};

/// What is read once comes from memory, what is read again from L2 at best; the arithmetic units work meanwhile.
inline Floor floor_of(const Work& work, const Ceilings& c) {
  Floor floor;
  const auto raise = [&](double seconds, const char* bound) {
    if (seconds > floor.seconds) floor = {seconds, bound};
  };
  raise(work.distinct_bytes / c.read, "memory");
  raise(work.bytes / c.l2, "L2");
  raise(work.flops / c.products, "mma.sync");
  raise(work.exponentials / c.exponentials, "ex2");
  return floor;
}

}  // namespace prefixshare::gpu
