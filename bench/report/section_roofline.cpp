// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <set>

#include "report/axis.hpp"
#include "report/ceilings_of_runs.hpp"
#include "report/format.hpp"
#include "report/line_chart.hpp"
#include "report/markup.hpp"
#include "report/sections.hpp"

namespace prefixshare::report {

namespace {

constexpr double kHeight = 370, kTop = 46, kBottom = 326, kLeft = 52, kRight = kPanelWidth - 8;
constexpr double kPi = 3.14159265358979323846;

/// A case under the roofs.
struct Dot {
  Entry entry;
  double intensity = 0;  ///< FLOPs per byte
  double rate = 0;       ///< FLOPs per second
  bool named = false;    ///< the fastest of ours on a numbered case: its name stands beside it, if there is room
};

struct Box {
  double left, top, right, bottom;

  bool meets(const Box& b) const { return left < b.right && b.left < right && top < b.bottom && b.top < bottom; }
};

std::vector<Dot> dots_of(const Machine& machine, std::int32_t threads) {
  std::vector<Dot> dots;
  for (const Problem& problem : machine.problems) {
    if (problem.threads != threads) continue;
    const Entry* best = problem.best();
    for (const Entry& e : problem.entries) {
      const double flops = e.c->counter("FLOP/s").value_or(0), bytes = e.c->counter("B/s").value_or(0);
      const bool named = best != nullptr && best->c == e.c && e.c->name.is_numbered();
      if (flops > 0 && bytes > 0) dots.push_back({e, flops / bytes, flops, named});
    }
  }
  return dots;
}

bool is_memory(const Ceiling& c) { return c.kind == Ceiling::Kind::memory; }
bool is_products(const Ceiling& c) { return c.kind == Ceiling::Kind::products; }

/// Where a roof of memory meets the roof of the fastest products.
double ridge(const Ceiling& memory, double peak) { return peak / memory.rate; }

double peak_of(const std::vector<Ceiling>& ceilings) {
  double peak = 0;
  for (const Ceiling& c : ceilings) peak = std::max(peak, is_products(c) ? c.rate : 0);
  return peak;
}

void choose_axes(const std::vector<Dot>& dots, const std::vector<Ceiling>& ceilings, Axis* x, Axis* y) {
  std::vector<double> intensities, rates;
  for (const Dot& d : dots) intensities.push_back(d.intensity), rates.push_back(d.rate);
  const double peak = peak_of(ceilings);
  for (const Ceiling& c : ceilings) {
    if (is_memory(c) && peak > 0) intensities.insert(intensities.end(), {ridge(c, peak) * 3, ridge(c, peak) / 4});
    if (is_products(c)) rates.push_back(c.rate);
  }
  *x = log_axis(intensities, kLeft, kRight);
  *y = log_axis(rates, kBottom, kTop);
  x->title = "FLOPs per byte";
  y->title = "FLOP/s";
  y->text = si_text;
}

/// A slanted roof, and its name along it.
void draw_memory(const Ceiling& c, double peak, const Axis& x, const Axis& y, Svg* svg) {
  const double top = peak > 0 ? peak : y.high;
  const double begin = std::max(x.low, y.low / c.rate), end = std::min(x.high, top / c.rate);
  if (begin >= end) return;
  const Point from{x.at(begin), y.at(begin * c.rate)}, to{x.at(end), y.at(end * c.rate)};
  svg->line(from, to, "roof");
  const double turn = std::atan2(to.y - from.y, to.x - from.x);
  const std::string name = c.name + " " + si_text(c.rate) + c.unit;
  if (std::hypot(to.x - from.x, to.y - from.y) < text_width(name) + 16) return;
  const Point at{from.x + 8 * std::cos(turn) + 4 * std::sin(turn), from.y + 8 * std::sin(turn) - 4 * std::cos(turn)};
  svg->text(at, Anchor::start, name, "muted", turn * 180 / kPi);
}

/// A level roof, from where the fastest memory reaches it, and its name at its end.
void draw_products(const Ceiling& c, double fastest_memory, const Axis& x, const Axis& y, Svg* svg) {
  const double begin = fastest_memory > 0 ? std::max(x.low, c.rate / fastest_memory) : x.low;
  svg->line({x.at(begin), y.at(c.rate)}, {x.to, y.at(c.rate)}, "roof");
  svg->text({x.to, y.at(c.rate) - 4}, Anchor::end, c.name + " " + si_text(c.rate) + c.unit, "muted");
}

void draw_roofs(const std::vector<Ceiling>& ceilings, const Axis& x, const Axis& y, Svg* svg) {
  double fastest = 0;
  for (const Ceiling& c : ceilings) fastest = std::max(fastest, is_memory(c) ? c.rate : 0);
  for (const Ceiling& c : ceilings) {
    if (is_memory(c)) draw_memory(c, peak_of(ceilings), x, y, svg);
    if (is_products(c)) draw_products(c, fastest, x, y, svg);
  }
}

/// Names beside the dots that have one, wherever one of four places is free of dots and other names.
void draw_names(const std::vector<Dot>& dots, const Axis& x, const Axis& y, Svg* svg) {
  constexpr double kGap = 7, kHalf = 5;
  std::vector<Box> taken;
  std::set<std::string> named;
  for (const Dot& d : dots) {
    const Point p{x.at(d.intensity), y.at(d.rate)};
    taken.push_back({p.x - kHalf, p.y - kHalf, p.x + kHalf, p.y + kHalf});
  }
  for (const Dot& d : dots) {
    const std::string name = d.entry.c->name.workload;
    if (!d.named || named.count(name) > 0) continue;
    const Point p{x.at(d.intensity), y.at(d.rate)};
    const double width = text_width(name);
    const Box places[] = {{p.x + kGap, p.y - kHalf, p.x + kGap + width, p.y + kHalf},
                          {p.x - kGap - width, p.y - kHalf, p.x - kGap, p.y + kHalf},
                          {p.x - width / 2, p.y - 3 * kHalf - 1, p.x + width / 2, p.y - kHalf - 1},
                          {p.x - width / 2, p.y + kHalf + 1, p.x + width / 2, p.y + 3 * kHalf + 1}};
    for (const Box& box : places) {
      const auto meets = [&](const Box& other) { return box.meets(other); };
      if (box.left < kLeft || box.right > kRight || std::any_of(taken.begin(), taken.end(), meets)) continue;
      svg->text({box.left, box.bottom - 1}, Anchor::start, name, "small");
      taken.push_back(box);
      named.insert(name);
      break;
    }
  }
}

std::string draw_roofline(const std::vector<Dot>& dots, const std::vector<Ceiling>& ceilings, std::int32_t threads) {
  const std::string heading = plural(static_cast<std::size_t>(threads), "thread");
  Svg svg(kPanelWidth, kHeight, "Roofline, " + heading);
  Axis x, y;
  choose_axes(dots, ceilings, &x, &y);
  draw_frame(x, y, heading, &svg);
  draw_roofs(ceilings, x, y, &svg);
  for (const Dot& d : dots) {
    svg.mark({x.at(d.intensity), y.at(d.rate)}, d.entry.series, d.entry.c->busy() > 0,
             d.entry.about() + ", " + si_text(d.rate) + "FLOP/s at " + short_text(d.intensity) + " FLOPs per byte");
  }
  draw_names(dots, x, y, &svg);
  return svg.str();
}

Row row_of(const Dot& d) {
  return {d.entry.c->name.full, fixed(d.intensity, 2), fixed(1e-9 * d.rate, 1), fixed(1e-9 * d.rate / d.intensity, 1),
          d.entry.c->label};
}

}  // namespace

std::string roofline_section(const Machine& machine) {
  const std::string id = machine.id + "-roofline", title = "Roofline";
  std::set<std::int32_t> teams;
  for (const Problem& p : machine.problems) teams.insert(p.threads);
  std::vector<std::string> drawings;
  std::vector<Entry> shown;
  std::vector<Row> rows;
  for (const std::int32_t threads : teams) {
    const std::vector<Dot> dots = dots_of(machine, threads);
    if (dots.empty() || threads == 0) continue;
    drawings.push_back(draw_roofline(dots, ceilings_of(machine, threads), threads));
    for (const Dot& d : dots) shown.push_back(d.entry), rows.push_back(row_of(d));
  }
  if (drawings.empty()) {
    return section(id, title, "", missing("Needs cases with both counters FLOP/s and B/s, such as C1 to C5."));
  }
  const std::vector<Column> columns = {
      {"case", false}, {"FLOPs per byte", true}, {"GFLOP/s", true}, {"GB/s", true}, {"floor", false}};
  return section(id, title,
                 "Arithmetic against the bytes that the plan moves; both are counts over the time, not estimates. The "
                 "roofs are the ceilings that the same run measured on the same threads.",
                 legend(machine, shown) + panels(drawings) + folded_table("Roofline", columns, rows));
}

}  // namespace prefixshare::report
