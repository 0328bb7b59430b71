// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace prefix_report {

std::string fixed(double value, int digits);
/// 1234567 -> "1,234,567".
std::string with_commas(std::int64_t value);
/// Three digits and a unit: "47.7 MiB".
std::string bytes_text(double bytes);
/// "12.3 ms".
std::string seconds_text(double seconds);
/// "2.67 GFLOP".
std::string flops_text(double flops);

}  // namespace prefix_report
