// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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
/// "1 prompt", "1,319 prompts".
std::string plural(std::int64_t count, const std::string& what);
/// A line of a report: a short name, then the text in its column.
std::string line(const std::string& name, const std::string& text);
/// A table: the first row is the head; the first column to the left, the others to the right.
std::string table(const std::vector<std::vector<std::string>>& rows);

}  // namespace prefix_report
