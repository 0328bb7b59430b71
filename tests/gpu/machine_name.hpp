// SPDX-License-Identifier: Apache-2.0
// What a device is called in names of files.
#pragma once

#include <cctype>
#include <string>

namespace prefixshare::gpu {

/// "NVIDIA H200" is nvidia-h200: lower case, with a dash for each run of other characters, 31 characters at most.
inline std::string machine_name(const std::string& device) {
  std::string name;
  for (const char c : device) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (plain) name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (!plain && !name.empty() && name.back() != '-') name += '-';
  }
  name = name.substr(0, 31);
  while (!name.empty() && name.back() == '-') name.pop_back();
  return name;
}

}  // namespace prefixshare::gpu
