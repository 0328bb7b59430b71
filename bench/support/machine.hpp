// SPDX-License-Identifier: Apache-2.0
// What the system says about the machine: names and sizes for reports and for the choice of working sets, nothing that
// a figure is computed from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
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

/// The value of a line "key : value" of /proc/cpuinfo; empty where there is none.
inline std::string cpu_info(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t end = line.find_last_not_of(" \t", line.find(':') - 1);
    if (line.compare(0, end + 1, key) == 0) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return "";
}

/// Memory that programs may still take; 0 where the system does not say.
inline std::int64_t available_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    constexpr const char* kKey = "MemAvailable:";
    if (line.rfind(kKey, 0) == 0) return std::atoll(line.c_str() + std::string(kKey).size()) << 10;  // "123 kB"
  }
  return 0;
}

inline std::string cpu_name() {
  const std::string name = cpu_info("model name");
  return name.empty() ? "unknown CPU" : name;
}

/// What CPUID calls an x86 CPU; the vendor is empty on others.
struct CpuId {
  std::string vendor = cpu_info("vendor_id");
  int family = std::atoi(cpu_info("cpu family").c_str());
  int model = std::atoi(cpu_info("model").c_str());
};

}  // namespace prefixshare::bench
