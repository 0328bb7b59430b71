// SPDX-License-Identifier: Apache-2.0
#include "report/svg.hpp"

#include "report/format.hpp"
#include "report/markup.hpp"

namespace prefixshare::report {

namespace {

constexpr double kMarkSize = 4;  // half of its width
constexpr std::size_t kColours = 8;

/// A coordinate: a hundredth of a unit is less than anyone sees.
std::string number(double value) {
  std::string text = fixed(value, 2);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string attribute(const char* name, const std::string& value) {
  return std::string(" ") + name + "=\"" + escape(value) + "\"";
}
std::string attribute(const char* name, double value) { return attribute(name, number(value)); }

/// An element that is empty, or says its title.
std::string shape(const std::string& start, const std::string& name, const std::string& title) {
  if (title.empty()) return start + "/>\n";
  return start + ">" + element("title", escape(title)) + "</" + name + ">\n";
}

std::string points_text(const std::vector<Point>& points) {
  std::string text;
  for (const Point& p : points) text += (text.empty() ? "" : " ") + number(p.x) + "," + number(p.y);
  return text;
}

/// Circle, square, triangle, diamond; then the same in other colours.
std::vector<Point> outline(Point at, std::size_t series) {
  const double s = kMarkSize;
  switch (series % 4) {
    case 1: return {{at.x - s, at.y - s}, {at.x + s, at.y - s}, {at.x + s, at.y + s}, {at.x - s, at.y + s}};
    case 2: return {{at.x, at.y - 1.2 * s}, {at.x + 1.2 * s, at.y + s}, {at.x - 1.2 * s, at.y + s}};
    case 3: return {{at.x, at.y - 1.4 * s}, {at.x + 1.4 * s, at.y}, {at.x, at.y + 1.4 * s}, {at.x - 1.4 * s, at.y}};
    default: return {};
  }
}

std::string mark_shape(Point at, std::size_t series, bool hollow, const std::string& title) {
  const std::string style = "mark c" + std::to_string(series % kColours) + (hollow ? " hollow" : "");
  const std::vector<Point> points = outline(at, series);
  if (points.empty()) {
    return shape("<circle" + attribute("class", style) + attribute("cx", at.x) + attribute("cy", at.y) +
                     attribute("r", kMarkSize),
                 "circle", title);
  }
  return shape("<polygon" + attribute("class", style) + attribute("points", points_text(points)), "polygon", title);
}

}  // namespace

double text_width(const std::string& text, double font_size) {
  double width = 0;
  for (const char c : text) {
    const bool narrow = std::string(" .,:;'|!()[]/fijlt").find(c) != std::string::npos;
    if ((static_cast<unsigned char>(c) & 0xC0U) == 0x80U) continue;  // the rest of a character of UTF-8
    width += narrow ? 0.36 : c >= 'A' && c <= 'Z' ? 0.70 : 0.58;
  }
  return width * font_size;
}

std::string fit(const std::string& text, double width) {
  if (text_width(text) <= width) return text;
  std::string cut = text;
  do {
    cut.pop_back();
    while (!cut.empty() && (static_cast<unsigned char>(cut.back()) & 0xC0U) == 0x80U) cut.pop_back();
  } while (!cut.empty() && text_width(cut + "...") > width);
  if (!cut.empty() && (static_cast<unsigned char>(cut.back()) & 0x80U) != 0) cut.pop_back();
  return cut + "...";
}

Svg::Svg(double width, double height, const std::string& about) : width_(width), height_(height), about_(about) {}

void Svg::line(Point from, Point to, const std::string& style) {
  body_ += "<line" + attribute("class", style) + attribute("x1", from.x) + attribute("y1", from.y) +
           attribute("x2", to.x) + attribute("y2", to.y) + "/>\n";
}

void Svg::path(const std::vector<Point>& points, const std::string& style) {
  body_ += "<polyline" + attribute("class", "line " + style) + attribute("points", points_text(points)) + "/>\n";
}

void Svg::rect(Point corner, double width, double height, const std::string& style, const std::string& title,
               double opacity) {
  std::string start = "<rect" + attribute("class", style) + attribute("x", corner.x) + attribute("y", corner.y) +
                      attribute("width", width) + attribute("height", height);
  if (opacity < 1) start += attribute("fill-opacity", opacity);
  body_ += shape(start, "rect", title);
}

void Svg::text(Point at, Anchor anchor, const std::string& text, const std::string& style, double turn) {
  std::string start = "<text" + attribute("x", at.x) + attribute("y", at.y);
  if (!style.empty()) start += attribute("class", style);
  if (anchor != Anchor::start) start += attribute("text-anchor", anchor == Anchor::end ? "end" : "middle");
  if (turn != 0)
    start += attribute("transform", "rotate(" + number(turn) + " " + number(at.x) + " " + number(at.y) + ")");
  body_ += start + ">" + escape(text) + "</text>\n";
}

void Svg::mark(Point at, std::size_t series, bool hollow, const std::string& title) {
  body_ += mark_shape(at, series, hollow, title);
}

std::string Svg::str() const {
  return "<svg" + attribute("viewBox", "0 0 " + number(width_) + " " + number(height_)) + attribute("width", width_) +
         attribute("height", height_) + " role=\"img\"" + attribute("aria-label", about_) + ">\n" + body_ + "</svg>";
}

std::string mark_in_text(std::size_t series, bool hollow) {
  return "<svg class=\"key\" viewBox=\"0 0 12 12\" width=\"12\" height=\"12\" aria-hidden=\"true\">" +
         mark_shape({6, 6}, series, hollow, "") + "</svg>";
}

}  // namespace prefixshare::report
