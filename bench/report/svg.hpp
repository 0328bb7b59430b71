// SPDX-License-Identifier: Apache-2.0
// Drawings as SVG inside the page. Colours and fonts are classes of the page's style, so that one drawing serves light
// and dark pages.
#pragma once

#include <string>
#include <vector>

namespace prefixshare::report {

struct Point {
  double x = 0;
  double y = 0;
};

enum class Anchor { start, middle, end };

inline constexpr double kFontSize = 11;  // of drawings, in units of the drawing
/// About as wide as the text will be.
double text_width(const std::string& text, double font_size = kFontSize);
/// The text, cut to that width.
std::string fit(const std::string& text, double width);

/// Classes are names in the page's style; a title is what a pointer that rests there is told.
class Svg {
 public:
  /// `about`: what the drawing shows, for those who cannot see it.
  Svg(double width, double height, const std::string& about);

  void line(Point from, Point to, const std::string& style);
  void path(const std::vector<Point>& points, const std::string& style);
  void rect(Point corner, double width, double height, const std::string& style, const std::string& title = "",
            double opacity = 1);
  /// `turn`: degrees, clockwise.
  void text(Point at, Anchor anchor, const std::string& text, const std::string& style = "", double turn = 0);
  /// The mark of a series: shape and colour follow from its index. `hollow`: others disturbed the measurement.
  void mark(Point at, std::size_t series, bool hollow, const std::string& title);

  std::string str() const;

 private:
  double width_, height_;
  std::string about_, body_;
};

/// A mark alone, for legends.
std::string mark_in_text(std::size_t series, bool hollow);

}  // namespace prefixshare::report
