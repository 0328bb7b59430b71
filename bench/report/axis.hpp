// SPDX-License-Identifier: Apache-2.0
// Axes: where a value lies and which values get a tick; and the frame that two of them make.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "report/svg.hpp"

namespace prefixshare::report {

enum class Scale { linear, log };

/// Values [low, high] on pixels [from, to].
struct Axis {
  Scale scale = Scale::linear;
  double low = 0, high = 1;
  double from = 0, to = 1;
  std::string title;
  std::function<std::string(double)> text;  ///< of a tick
  std::vector<double> ticks;

  double at(double value) const;
};

/// Room around the values on both sides, and ticks at round numbers. Values must be finite; on a logarithmic axis those
/// that are not positive do not count.
Axis log_axis(const std::vector<double>& values, double from, double to);
/// From 0 to `high`.
Axis linear_axis(double high, double from, double to);
/// A logarithmic axis with a tick at each of the values, if they are few; else as log_axis.
Axis value_axis(std::vector<double> values, double from, double to);

/// Grid, ticks and titles, the one of y above its axis. A heading in bold on top.
void draw_frame(const Axis& x, const Axis& y, const std::string& heading, Svg* svg);

/// Moves positions apart until neighbours are `distance` from each other, none leaves [low, high] if there is room, and
/// their order stays.
std::vector<double> spread(std::vector<double> positions, double distance, double low, double high);

}  // namespace prefixshare::report
