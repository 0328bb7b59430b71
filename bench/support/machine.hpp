// SPDX-License-Identifier: Apache-2.0
// What the system says about the machine: names and sizes for reports and for the choice of working sets, nothing that
// a figure is computed from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>

namespace prefixshare::bench {

/// Bytes of the data cache of a level; 0 where the system does not say.
inline std::int64_t cache_bytes(int level) {
  for (int i = 0; i < 8; ++i) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/";
    std::ifstream level_file(folder + "level"), type_file(folder + "type"), size_file(folder + "size");
    int found = 0;
    std::string type;
    std::int64_t kilobytes = 0;
    level_file >> found;
    type_file >> type;
    size_file >> kilobytes;  // "32768K"
    if (found == level && type != "Instruction") return kilobytes << 10;
  }
  return 0;
}

inline std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return "unknown CPU";
}

}  // namespace prefixshare::bench
