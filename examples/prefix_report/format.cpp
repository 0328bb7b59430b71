// SPDX-License-Identifier: Apache-2.0
#include "format.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace prefix_report {

namespace {

/// Three significant digits, and never an exponent: 4.29, 42.9, 429.
std::string three_digits(double value) {
  const double size = std::abs(value);
  return fixed(value, size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
}

std::string scaled(double value, double step, const char* const* units, int count) {
  int unit = 0;
  for (; unit + 1 < count && std::abs(value) >= 0.9995 * step; ++unit) value /= step;
  return three_digits(value) + " " + units[unit];
}

}  // namespace

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string with_commas(std::int64_t value) {
  std::string text = std::to_string(value);
  const std::size_t first = text[0] == '-' ? 1 : 0;
  for (std::size_t i = text.size(); i > first + 3; i -= 3) text.insert(i - 3, ",");
  return text;
}

std::string bytes_text(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  return scaled(bytes, 1024, kUnits, 5);
}

std::string seconds_text(double seconds) {
  static constexpr const char* kUnits[] = {"us", "ms", "s"};
  return scaled(seconds * 1e6, 1000, kUnits, 3);
}

std::string flops_text(double flops) {
  static constexpr const char* kUnits[] = {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"};
  return scaled(flops, 1000, kUnits, 6);
}

std::string plural(std::int64_t count, const std::string& what) {
  return with_commas(count) + " " + what + (count == 1 ? "" : "s");
}

std::string line(const std::string& name, const std::string& text) {
  return name + std::string(name.size() < 11 ? 11 - name.size() : 1, ' ') + text + "\n";
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> width(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  }
  std::string text;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::string cells = " ";
    for (std::size_t c = 0; c < rows[r].size(); ++c) {
      const std::string gap(width[c] - rows[r][c].size(), ' ');
      cells += " " + (c == 0 ? rows[r][c] + gap : " " + gap + rows[r][c]);
    }
    text += cells + "\n";
    if (r == 0) text += "  " + std::string(cells.size() - 2, '-') + "\n";
  }
  return text;
}

}  // namespace prefix_report
