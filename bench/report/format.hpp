// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them, always with a point and without a locale.
#pragma once

#include <string>

namespace prefixshare::report {

std::string fixed(double value, int digits);
/// Milliseconds to the microsecond: "12.345".
std::string ms_text(double seconds);
/// "1.52"; below 0.1 two significant digits.
std::string ratio_text(double ratio);
/// "39.1 %".
std::string percent_text(double fraction);
/// "32 KiB".
std::string bytes_text(double bytes);
/// A rate or count with a decimal prefix: "236 G".
std::string si_text(double value);
/// The shortest text of a number of up to six digits, for axes and labels: "0.5", "16384".
std::string short_text(double value);
/// "1 case", "3 cases".
std::string plural(std::size_t count, const std::string& what);
/// Control characters become spaces.
std::string one_line(std::string text);

}  // namespace prefixshare::report
