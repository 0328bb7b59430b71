// SPDX-License-Identifier: Apache-2.0
#include "report/format.hpp"

#include <cmath>
#include <cstdio>

namespace prefixshare::report {

namespace {

std::string print(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// Three significant digits and a unit, each `step` times the one before.
std::string scaled(double value, double step, const char* const* units, int count) {
  int unit = 0;
  for (; unit + 1 < count && std::abs(value) >= 0.9995 * step; ++unit) value /= step;
  return print(std::abs(value) < 999.5 ? "%.3g" : "%.0f", value) + units[unit];
}

}  // namespace

std::string fixed(double value, int digits) {
  char text[400];  // the largest double has 309 digits
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string ms_text(double seconds) { return fixed(1e3 * seconds, 3); }

std::string ratio_text(double ratio) { return ratio < 0.1 ? print("%.2g", ratio) : fixed(ratio, 2); }

std::string percent_text(double fraction) { return fixed(100 * fraction, 1) + " %"; }

std::string bytes_text(double bytes) {
  static constexpr const char* kUnits[] = {" B", " KiB", " MiB", " GiB", " TiB"};
  return scaled(bytes, 1024, kUnits, 5);
}

std::string si_text(double value) {
  static constexpr const char* kUnits[] = {" ", " k", " M", " G", " T", " P"};
  return scaled(value, 1000, kUnits, 6);
}

std::string short_text(double value) { return print("%.6g", value); }

std::string plural(std::size_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

std::string one_line(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

}  // namespace prefixshare::report
