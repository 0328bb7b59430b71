// SPDX-License-Identifier: Apache-2.0
#include "report/axis.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "report/format.hpp"

namespace prefixshare::report {

namespace {

constexpr double kRoom = 0.06;       // of the axis, beside the outermost values
constexpr double kNarrowest = 1.05;  // high over low of a logarithmic axis
constexpr std::size_t kFewTicks = 4;
constexpr std::size_t kManyTicks = 9;
constexpr std::size_t kValueTicks = 10;

/// Multiples of the powers of ten, within [low, high].
std::vector<double> decade_ticks(double low, double high, const std::vector<double>& multiples) {
  std::vector<double> ticks;
  for (double e = std::floor(std::log10(low)); e <= std::ceil(std::log10(high)); ++e) {
    for (const double m : multiples) {
      const double tick = m * std::pow(10.0, e);
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push_back(tick);
    }
  }
  return ticks;
}

/// Multiples of 1, 2 or 5 times a power of ten.
std::vector<double> linear_ticks(double low, double high) {
  const double rough = (high - low) / kFewTicks, power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = power;
  for (const double m : {1.0, 2.0, 5.0, 10.0}) {
    if (step < rough) step = m * power;
  }
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9) + 0.0; i * step <= high * (1 + 1e-9); ++i) ticks.push_back(i * step);
  return ticks;
}

/// The coarsest set of round numbers that has enough of them.
std::vector<double> log_ticks(double low, double high) {
  std::vector<double> ticks;
  const double decades = std::log10(high / low);
  if (decades > kManyTicks) {  // every second, third ... power of ten
    const double step = std::ceil(decades / kManyTicks);
    for (double e = std::ceil(std::log10(low)); e <= std::log10(high); e += step) ticks.push_back(std::pow(10.0, e));
    return ticks;
  }
  const std::vector<std::vector<double>> sets = {{1}, {1, 3}, {1, 2, 5}, {1, 1.5, 2, 3, 5, 7}};
  for (const std::vector<double>& multiples : sets) {
    ticks = decade_ticks(low, high, multiples);
    if (ticks.size() >= kFewTicks) return ticks;
  }
  return linear_ticks(low, high);
}

}  // namespace

double Axis::at(double value) const {
  const double share =
      scale == Scale::linear ? (value - low) / (high - low) : std::log(value / low) / std::log(high / low);
  return from + share * (to - from);
}

Axis log_axis(const std::vector<double>& values, double from, double to) {
  Axis axis;
  axis.scale = Scale::log;
  axis.from = from, axis.to = to;
  axis.low = axis.high = 0;
  for (const double v : values) {
    if (!(v > 0)) continue;
    axis.low = axis.low > 0 ? std::min(axis.low, v) : v;
    axis.high = std::max(axis.high, v);
  }
  if (!(axis.low > 0)) axis.low = axis.high = 1;
  const double room = std::max(std::pow(axis.high / axis.low, kRoom), kNarrowest);
  axis.low /= room, axis.high *= room;
  axis.ticks = log_ticks(axis.low, axis.high);
  axis.text = short_text;
  return axis;
}

Axis linear_axis(double high, double from, double to) {
  Axis axis;
  axis.high = high > 0 ? high : 1;
  axis.from = from, axis.to = to;
  axis.ticks = linear_ticks(axis.low, axis.high);
  axis.text = short_text;
  return axis;
}

Axis value_axis(std::vector<double> values, double from, double to) {
  Axis axis = log_axis(values, from, to);
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  if (values.size() > kValueTicks || values.empty() || !(values.front() > 0)) return axis;
  axis.ticks = values;
  return axis;
}

void draw_frame(const Axis& x, const Axis& y, const std::string& heading, Svg* svg) {
  const double top = std::min(y.from, y.to), bottom = std::max(y.from, y.to);
  svg->text({0, 13}, Anchor::start, heading, "heading");
  svg->text({0, top - 10}, Anchor::start, y.title, "axis");
  for (const double tick : y.ticks) {
    svg->line({x.from, y.at(tick)}, {x.to, y.at(tick)}, "grid");
    svg->text({x.from - 6, y.at(tick) + 0.35 * kFontSize}, Anchor::end, y.text(tick));
  }
  double free_from = -1e9;  // a label that would touch the one before is left out
  for (const double tick : x.ticks) {
    const std::string text = x.text(tick);
    const double half = text_width(text) / 2, at = x.at(tick);
    svg->line({at, bottom}, {at, bottom + 4}, "tick");
    if (at - half < free_from) continue;
    svg->text({at, bottom + 16}, Anchor::middle, text);
    free_from = at + half + 4;
  }
  svg->line({x.from, bottom}, {x.to, bottom}, "base");
  svg->text({(x.from + x.to) / 2, bottom + 33}, Anchor::middle, x.title, "axis");
}

std::vector<double> spread(std::vector<double> positions, double distance, double low, double high) {
  std::vector<std::size_t> order(positions.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return positions[a] < positions[b]; });
  for (std::size_t i = 0; i < order.size(); ++i) {
    const double least = i == 0 ? low : positions[order[i - 1]] + distance;
    positions[order[i]] = std::max(positions[order[i]], least);
  }
  for (std::size_t i = order.size(); i-- > 0;) {
    const double most = i + 1 == order.size() ? high : positions[order[i + 1]] - distance;
    positions[order[i]] = std::min(positions[order[i]], most);
  }
  return positions;
}

}  // namespace prefixshare::report
