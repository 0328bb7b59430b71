// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <map>

#include "report/axis.hpp"
#include "report/format.hpp"
#include "report/line_chart.hpp"
#include "report/markup.hpp"
#include "report/sections.hpp"

namespace prefixshare::report {

namespace {

constexpr double kTop = 30, kBelow = 40, kRow = 17, kNames = 190;
constexpr const char* kWays[] = {"planned_ms", "always_ms", "never_ms"};

/// Trees under one choice of heads: a panel.
struct Panel {
  std::string title;
  std::vector<Entry> trees;
};

/// The name without its family, and without heads, which stand above.
std::string tree_of(const Entry& e) {
  const std::string name = without_label(without_label(e.c->name.workload, "Hq"), "Hkv");
  return name.rfind("assignment/", 0) == 0 ? name.substr(11) : name;
}

std::vector<Panel> panels_of(const Machine& machine) {
  std::vector<Panel> list;
  for (const Entry& e : machine.entries) {
    const bool complete = std::all_of(std::begin(kWays), std::end(kWays),
                                      [&](const char* way) { return e.c->counter(way).value_or(0) > 0; });
    if (!complete) continue;
    const auto Hq = label_value(e.c->name.workload, "Hq"), Hkv = label_value(e.c->name.workload, "Hkv");
    const std::string title = (Hq && Hkv ? short_text(*Hq) + " / " + short_text(*Hkv) + " heads, " : "") +
                              plural(static_cast<std::size_t>(e.c->name.threads), "thread");
    auto found = std::find_if(list.begin(), list.end(), [&](const Panel& p) { return p.title == title; });
    if (found == list.end()) found = list.insert(list.end(), {title, {}});
    found->trees.push_back(e);
  }
  return list;
}

/// The time of way `w` over the planned one's.
double against_planned(const Entry& e, std::size_t w) { return *e.c->counter(kWays[w]) / *e.c->counter(kWays[0]); }

std::string draw_panel(const Panel& panel) {
  const double bottom = kTop + kRow * static_cast<double>(panel.trees.size());
  std::vector<double> values = {1};
  for (const Entry& e : panel.trees) values.insert(values.end(), {against_planned(e, 1), against_planned(e, 2)});
  Svg svg(kPanelWidth, bottom + kBelow, "Ways to assign, over the planner's: " + panel.title);
  Axis x = log_axis(values, kNames, kPanelWidth - 10), y;
  y.from = bottom, y.to = kTop;
  x.title = "time over the plan's";
  draw_frame(x, y, panel.title, &svg);
  svg.line({x.at(1), kTop}, {x.at(1), bottom}, "level");
  double middle = kTop + kRow / 2;
  for (const Entry& e : panel.trees) {
    const double always = against_planned(e, 1), never = against_planned(e, 2);
    svg.line({x.from, middle}, {x.to, middle}, "grid");
    svg.text({x.from - 8, middle + 4}, Anchor::end, fit(tree_of(e), kNames - 8));
    svg.mark({x.at(always), middle}, 0, e.c->busy() > 0,
             tree_of(e) + ": every node shared, " + ratio_text(always) + " x the plan");
    svg.mark({x.at(never), middle}, 1, e.c->busy() > 0,
             tree_of(e) + ": none shared, " + ratio_text(never) + " x the plan");
    middle += kRow;
  }
  return svg.str();
}

std::string ways_table(const std::vector<Panel>& list) {
  std::vector<Row> rows;
  for (const Panel& panel : list) {
    for (const Entry& e : panel.trees) {
      Row row = {tree_of(e), panel.title};
      for (const char* way : kWays) row.push_back(fixed(*e.c->counter(way), 3));
      const auto ratio = e.c->counter("vs_best");
      row.push_back(ratio ? ratio_text(*ratio) : "");
      row.push_back(e.c->busy() > 0 ? fixed(e.c->busy(), 2) : "");
      rows.push_back(std::move(row));
    }
  }
  return folded_table("Assignments",
                      {{"tree", false},
                       {"heads and threads", false},
                       {"planned, ms", true},
                       {"always, ms", true},
                       {"never, ms", true},
                       {"planned / best", true},
                       {"busy cores", true}},
                      rows);
}

std::string ways_legend() {
  return element("ul",
                 element("li", mark_in_text(0, false) + "every node shared") +
                     element("li", mark_in_text(1, false) + "none shared") +
                     element("li", "left of 1: faster than what the planner chose"),
                 "class=\"legend\"") +
         "\n";
}

}  // namespace

std::string trees_section(const Machine& machine) {
  const std::string id = machine.id + "-trees", title = "Trees: what the planner decides";
  const std::vector<Panel> list = panels_of(machine);
  if (list.empty()) return section(id, title, "", missing("Needs the cases assignment/TREE."));
  std::vector<std::string> drawings;
  for (const Panel& panel : list) drawings.push_back(draw_panel(panel));
  return section(id, title,
                 "Every node of a tree is read once for all rows below it, or again for each child. The planner "
                 "chooses by its cost "
                 "model; the time of its plan stands against that of sharing every node and of sharing none.",
                 ways_legend() + panels(drawings) + ways_table(list));
}

}  // namespace prefixshare::report
