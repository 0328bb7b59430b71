// SPDX-License-Identifier: Apache-2.0
// Lines over a logarithmic or a named axis, each with its name at its end.
#pragma once

#include <string>
#include <vector>

#include "report/axis.hpp"

namespace prefixshare::report {

inline constexpr double kPanelWidth = 500;

struct LinePoint {
  double x = 0, y = 0;
  double low = 0, high = 0;  ///< a bar beside the mark; 0: none
  bool hollow = false;
  std::string about;
};

struct Line {
  std::string name;
  std::size_t series = 0;
  bool bound = false;  ///< not measured: dashed, without marks
  std::vector<LinePoint> points;
};

struct LineChart {
  std::string heading, x_title, y_title;
  std::vector<Line> lines;
  std::vector<std::string> names;  ///< of x = 1, 2, ...; empty: x is a length on a logarithmic axis
  double level = 0;                ///< a value of y that is drawn across; 0: none
};

std::string draw(const LineChart& chart);

}  // namespace prefixshare::report
