// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "report/axis.hpp"
#include "report/format.hpp"
#include "report/line_chart.hpp"
#include "report/markup.hpp"
#include "report/sections.hpp"

namespace prefixshare::report {

namespace {

constexpr const char* kNumbered = "numbered cases";
constexpr const char* kOthers = "other cases";
constexpr std::size_t kMostGroups = 14;  // of a panel
constexpr double kBar = 9;               // height of a bar
constexpr double kGroupGap = 9;          // between problems
constexpr double kTop = 30;
constexpr double kBelow = 40;   // for the axis
constexpr double kNames = 190;  // for the problems' names
constexpr double kValue = 46;   // for the number at the end of a bar

/// A bar: a fraction of the floor.
struct Bar {
  Entry entry;
  double fraction = 0;
};

struct Group {
  std::string title;
  std::vector<Bar> bars;
};

/// Problems that are drawn together.
struct Family {
  std::string name;
  std::vector<Group> groups;
};

/// A family of workloads has panels of its own: the numbered cases, or what a name begins with.
std::string family_of(const Problem& problem) {
  if (problem.entries.front().c->name.is_numbered()) return kNumbered;
  return split(split(problem.workload, '/')[0], ':')[0];
}

/// Families that are too small for a panel share one.
std::vector<Family> join_small(std::vector<Family> list) {
  const auto first_small =
      std::stable_partition(list.begin(), list.end(), [](const Family& f) { return f.groups.size() > 2; });
  Family others{kOthers, {}};
  for (auto f = first_small; f != list.end(); ++f)
    others.groups.insert(others.groups.end(), f->groups.begin(), f->groups.end());
  list.erase(first_small, list.end());
  if (!others.groups.empty()) list.push_back(std::move(others));
  return list;
}

std::vector<Family> families(const Machine& machine) {
  std::vector<Family> list;
  for (const Problem& problem : machine.problems) {
    if (problem.threads != machine.team) continue;
    Group group{problem.title, {}};
    for (const Entry& e : problem.entries) {
      if (const auto fraction = problem.floor_fraction(e)) group.bars.push_back({e, *fraction});
    }
    if (group.bars.empty()) continue;
    std::stable_sort(group.bars.begin(), group.bars.end(),
                     [](const Bar& a, const Bar& b) { return a.entry.series < b.entry.series; });
    const std::string family = family_of(problem);
    auto found = std::find_if(list.begin(), list.end(), [&](const Family& f) { return f.name == family; });
    if (found == list.end()) found = list.insert(list.end(), {family, {}});
    found->groups.push_back(std::move(group));
  }
  return join_small(std::move(list));
}

/// The parts of its name that every problem of the family has.
std::vector<std::string> common_parts(const Family& family) {
  std::vector<std::string> common = split(family.groups.front().title, '/');
  for (const Group& g : family.groups) {
    const std::vector<std::string> parts = split(g.title, '/');
    const auto is_own = [&](const std::string& part) { return std::count(parts.begin(), parts.end(), part) == 0; };
    common.erase(std::remove_if(common.begin(), common.end(), is_own), common.end());
  }
  return common;
}

/// Moves what all names say into the heading, and cuts a family that is too long for a panel.
std::vector<Family> panels_of(const Family& family) {
  const std::vector<std::string> common = common_parts(family);
  const auto is_common = [&](const std::string& part) { return std::count(common.begin(), common.end(), part) > 0; };
  std::string heading = common.empty() ? family.name : join(common, '/');
  if ((family.name == kNumbered || family.name == kOthers) && !common.empty()) heading = family.name + ", " + heading;
  std::vector<Family> list;
  for (std::size_t i = 0; i < family.groups.size(); ++i) {
    if (i % kMostGroups == 0) list.push_back({heading, {}});
    Group group = family.groups[i];
    std::vector<std::string> parts = split(group.title, '/');
    parts.erase(std::remove_if(parts.begin(), parts.end(), is_common), parts.end());
    if (!parts.empty()) group.title = join(parts, ' ');
    list.back().groups.push_back(std::move(group));
  }
  return list;
}

double height_of(const Group& group) { return kBar * static_cast<double>(group.bars.size()) + kGroupGap; }

void draw_group(const Group& group, const Axis& x, double top, Svg* svg) {
  const double middle = top + (height_of(group) - kGroupGap) / 2;
  svg->text({x.from - 8, middle + 0.35 * kFontSize}, Anchor::end, fit(group.title, kNames - 8));
  for (const Bar& bar : group.bars) {
    const double end = x.at(std::min(bar.fraction, x.high));
    const std::string style =
        "bar c" + std::to_string(bar.entry.series % 8) + (bar.entry.c->busy() > 0 ? " hollow" : "");
    svg->rect({x.from, top + 1}, end - x.from, kBar - 2, style, bar.entry.about());
    svg->text({end + 4, top + kBar - 1.5}, Anchor::start, fixed(100 * bar.fraction, 0), "small");
    top += kBar;
  }
}

std::string draw_family(const Family& family) {
  double rows = 0, highest = 1;
  for (const Group& g : family.groups) {
    rows += height_of(g);
    for (const Bar& b : g.bars) highest = std::max(highest, b.fraction);
  }
  const double bottom = kTop + rows;
  Svg svg(kPanelWidth, bottom + kBelow, family.name + ": fraction of the floor");
  Axis x = linear_axis(1.04 * highest, kNames, kPanelWidth - kValue);
  x.title = "% of the floor";
  x.text = [](double fraction) { return fixed(100 * fraction, 0); };
  Axis y;  // names instead of ticks
  y.from = bottom, y.to = kTop;
  draw_frame(x, y, family.name, &svg);
  for (const double tick : x.ticks) svg.line({x.at(tick), kTop}, {x.at(tick), bottom}, "grid");
  svg.line({x.at(1), kTop}, {x.at(1), bottom}, "level");
  double top = kTop + kGroupGap / 2;
  for (const Group& g : family.groups) {
    draw_group(g, x, top, &svg);
    top += height_of(g);
  }
  return svg.str();
}

/// A row per problem, a column per implementation.
std::string floor_table(const Machine& machine) {
  std::vector<Column> columns = {{"problem", false}, {"threads", true}, {"floor, ms", true}, {"set by", false}};
  for (const std::string& name : machine.series) columns.push_back({name + ", %", true});
  std::vector<Row> rows;
  for (const Problem& problem : machine.problems) {
    if (problem.floor_seconds == 0) continue;
    const std::string label = problem.entries.front().c->label;
    Row row = {problem.title, std::to_string(problem.threads), ms_text(problem.floor_seconds),
               label.rfind("floor: ", 0) == 0 ? label.substr(7) : ""};
    row.resize(columns.size());
    for (const Entry& e : problem.entries) row[4 + e.series] = fixed(100 * problem.floor_fraction(e).value_or(0), 1);
    rows.push_back(std::move(row));
  }
  return folded_table("Fractions of the floor", columns, rows);
}

}  // namespace

std::string floor_section(const Machine& machine) {
  const std::string id = machine.id + "-floor", title = "Fraction of the floor";
  std::vector<std::string> drawings;
  std::vector<Entry> shown;
  for (const Family& whole : families(machine)) {
    for (const Family& part : panels_of(whole)) drawings.push_back(draw_family(part));
    for (const Group& g : whole.groups) {
      for (const Bar& b : g.bars) shown.push_back(b.entry);
    }
  }
  if (drawings.empty())
    return section(id, title, "", missing("Needs cases with the counter floor_ms, such as C1 to C6."));
  return section(id, title,
                 "No call with the plan's work is faster than its floor, given the ceilings of the run. Above 100 % "
                 "the machine was "
                 "faster when the case ran than when the ceiling was measured. Drawn for " +
                     plural(static_cast<std::size_t>(machine.team), "thread") + "; the table has the rest.",
                 legend(machine, shown) + panels(drawings) + floor_table(machine));
}

}  // namespace prefixshare::report
