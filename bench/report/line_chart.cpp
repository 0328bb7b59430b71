// SPDX-License-Identifier: Apache-2.0
#include "report/line_chart.hpp"

#include <algorithm>

#include "report/format.hpp"

namespace prefixshare::report {

namespace {

constexpr double kHeight = 330, kTop = 46, kBottom = 286, kLeft = 44;
constexpr double kNameGap = 9;      // between the end of a line and its name
constexpr double kLineHeight = 13;  // of names

/// Pixels that the longest name takes at the right.
double room_for_names(const LineChart& chart) {
  double width = 0;
  for (const Line& line : chart.lines) width = std::max(width, text_width(line.name));
  return std::min(width, 0.4 * kPanelWidth) + kNameGap + 2;
}

Axis x_axis(const LineChart& chart, double right) {
  std::vector<double> values;
  if (chart.names.empty()) {
    for (const Line& line : chart.lines) {
      for (const LinePoint& p : line.points) values.push_back(p.x);
    }
    return value_axis(values, kLeft, right);
  }
  Axis axis;
  axis.low = 0.7, axis.high = static_cast<double>(chart.names.size()) + 0.3;
  axis.from = kLeft, axis.to = right;
  for (std::size_t i = 1; i <= chart.names.size(); ++i) axis.ticks.push_back(static_cast<double>(i));
  axis.text = [&chart](double i) { return chart.names[static_cast<std::size_t>(i) - 1]; };
  return axis;
}

Axis y_axis(const LineChart& chart) {
  std::vector<double> values = {chart.level};
  for (const Line& line : chart.lines) {
    for (const LinePoint& p : line.points) values.insert(values.end(), {p.y, p.low, p.high});
  }
  return log_axis(values, kBottom, kTop);
}

void draw_line(const Line& line, const Axis& x, const Axis& y, Svg* svg) {
  const std::string colour = line.bound ? "bound" : "s" + std::to_string(line.series % 8);
  std::vector<Point> points;
  for (const LinePoint& p : line.points) points.push_back({x.at(p.x), y.at(p.y)});
  svg->path(points, colour);
  for (const LinePoint& p : line.points) {
    if (p.low > 0 && p.high > 0) svg->line({x.at(p.x), y.at(p.low)}, {x.at(p.x), y.at(p.high)}, colour + " whisker");
    if (!line.bound) svg->mark({x.at(p.x), y.at(p.y)}, line.series, p.hollow, p.about);
  }
}

}  // namespace

std::string draw(const LineChart& chart) {
  Svg svg(kPanelWidth, kHeight, chart.heading + ": " + chart.y_title + " over " + chart.x_title);
  const double right = kPanelWidth - room_for_names(chart);
  Axis x = x_axis(chart, right), y = y_axis(chart);
  x.title = chart.x_title;
  y.title = chart.y_title;
  draw_frame(x, y, chart.heading, &svg);
  if (chart.level > 0) svg.line({x.from, y.at(chart.level)}, {x.to, y.at(chart.level)}, "level");
  std::vector<double> ends;
  for (const Line& line : chart.lines) {
    draw_line(line, x, y, &svg);
    ends.push_back(y.at(line.points.back().y));
  }
  ends = spread(ends, kLineHeight, kTop, kBottom);
  for (std::size_t i = 0; i < chart.lines.size(); ++i) {
    const Line& line = chart.lines[i];
    svg.text({right + kNameGap, ends[i] + 0.35 * kFontSize}, Anchor::start,
             fit(line.name, kPanelWidth - right - kNameGap),
             line.bound ? "muted" : "t" + std::to_string(line.series % 8));
  }
  return svg.str();
}

}  // namespace prefixshare::report
