// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "report/format.hpp"
#include "report/line_chart.hpp"
#include "report/markup.hpp"
#include "report/sections.hpp"

namespace prefixshare::report {

namespace {

constexpr double kTop = 46, kLeft = 50, kBelow = 40;
constexpr double kCellHeight = 28, kWidestCell = 72;
constexpr double kPays = 1.03;       // a speed-up from which sharing is more than noise
constexpr double kFullColour = 2.5;  // a ratio from which colours grow no stronger
constexpr double kStrongest = 0.75;  // opacity, so that numbers can be read
constexpr std::size_t kMostMaps = 4;

/// Speed-ups of one implementation by (prefix, batch).
struct Map {
  std::string title;
  std::map<std::pair<double, double>, Entry> cells;
  std::set<double> prefixes, batches;

  const Entry* at(double prefix, double batch) const {
    const auto found = cells.find({prefix, batch});
    return found == cells.end() ? nullptr : &found->second;
  }
  /// Of a cell, on average: faster implementations come first.
  double seconds() const {
    double sum = 0;
    for (const auto& [lengths, e] : cells) sum += e.c->seconds();
    return sum / static_cast<double>(cells.size());
  }
  /// A cross of two sweeps is no map.
  bool is_grid() const {
    return prefixes.size() > 1 && batches.size() > 1 && 2 * cells.size() > prefixes.size() * batches.size();
  }
};

double ratio_of(const Entry& e) { return e.c->counter("vs_unshared").value_or(0); }

std::vector<Map> maps_of(const Machine& machine) {
  std::map<std::string, Map> by_title;
  for (const Problem& problem : machine.problems) {
    const auto prefix = label_value(problem.workload, "prefix"), batch = label_value(problem.workload, "batch");
    if (!prefix || !batch || problem.threads != machine.team) continue;
    const std::string rest = without_label(without_label(problem.workload, "prefix"), "batch") + "/" + problem.dtype;
    for (const Entry& e : problem.entries) {
      if (!(ratio_of(e) > 0)) continue;
      Map& map = by_title[rest + ", " + machine.series[e.series]];
      map.cells[{*prefix, *batch}] = e;
      map.prefixes.insert(*prefix);
      map.batches.insert(*batch);
    }
  }
  std::vector<Map> list;
  for (auto& [title, map] : by_title) {
    map.title = title;
    if (map.is_grid()) list.push_back(std::move(map));
  }
  std::stable_sort(list.begin(), list.end(), [](const Map& a, const Map& b) { return a.seconds() < b.seconds(); });
  return list;
}

std::string colour_of(double ratio) { return ratio >= 1 ? "cell gain" : "cell loss"; }

double opacity_of(double ratio) {
  return kStrongest * std::min(1.0, std::abs(std::log(ratio)) / std::log(kFullColour));
}

void draw_cell(const Entry& e, Point corner, double width, Svg* svg) {
  const double ratio = ratio_of(e);
  const bool equal = e.c->counter("plan_equal").value_or(0) == 1;
  svg->rect(corner, width, kCellHeight, colour_of(ratio), e.about() + (equal ? ", the planner does not share" : ""),
            opacity_of(ratio));
  const std::string text = (equal ? "=" : ratio_text(ratio)) + std::string(e.c->busy() > 0 ? "*" : "");
  svg->text({corner.x + width / 2, corner.y + kCellHeight / 2 + 4}, Anchor::middle, text, "number");
}

/// The border between cells where sharing pays and cells where it does not.
void draw_border(const Entry* e, const Entry* right, const Entry* below, Point corner, double width, Svg* svg) {
  const auto pays = [](const Entry* cell) { return ratio_of(*cell) >= kPays; };
  const double x = corner.x + width, y = corner.y + kCellHeight;
  if (right != nullptr && pays(right) != pays(e)) svg->line({x, corner.y}, {x, y}, "border");
  if (below != nullptr && pays(below) != pays(e)) svg->line({corner.x, y}, {x, y}, "border");
}

std::string draw_map(const Map& map) {
  const std::vector<double> prefixes(map.prefixes.begin(), map.prefixes.end());
  const std::vector<double> batches(map.batches.rbegin(), map.batches.rend());  // the largest on top
  const double width = std::min(kWidestCell, (kPanelWidth - kLeft - 4) / static_cast<double>(prefixes.size()));
  const double bottom = kTop + kCellHeight * static_cast<double>(batches.size());
  const auto corner = [&](std::size_t p, std::size_t b) {
    return Point{kLeft + width * static_cast<double>(p), kTop + kCellHeight * static_cast<double>(b)};
  };
  Svg svg(kPanelWidth, bottom + kBelow, "Speed-up by sharing over prefix length and batch: " + map.title);
  svg.text({0, 13}, Anchor::start, map.title, "heading");
  svg.text({0, kTop - 10}, Anchor::start, "sequences", "axis");
  svg.text({kLeft + width * static_cast<double>(prefixes.size()) / 2, bottom + 33}, Anchor::middle, "shared tokens",
           "axis");
  for (std::size_t b = 0; b < batches.size(); ++b) {
    svg.text({kLeft - 8, corner(0, b).y + kCellHeight / 2 + 4}, Anchor::end, short_text(batches[b]));
    for (std::size_t p = 0; p < prefixes.size(); ++p) {
      if (const Entry* e = map.at(prefixes[p], batches[b])) draw_cell(*e, corner(p, b), width, &svg);
    }
  }
  for (std::size_t p = 0; p < prefixes.size(); ++p) {
    svg.text({corner(p, 0).x + width / 2, bottom + 16}, Anchor::middle, short_text(prefixes[p]));
    for (std::size_t b = 0; b < batches.size(); ++b) {
      const Entry* e = map.at(prefixes[p], batches[b]);
      const Entry* right = p + 1 < prefixes.size() ? map.at(prefixes[p + 1], batches[b]) : nullptr;
      const Entry* below = b + 1 < batches.size() ? map.at(prefixes[p], batches[b + 1]) : nullptr;
      if (e != nullptr) draw_border(e, right, below, corner(p, b), width, &svg);
    }
  }
  return svg.str();
}

std::string map_table(const std::vector<Map>& maps) {
  std::vector<Row> rows;
  for (const Map& map : maps) {
    for (const auto& [lengths, e] : map.cells) {
      rows.push_back({map.title, short_text(lengths.first), short_text(lengths.second), ms_text(e.c->seconds()),
                      ratio_text(ratio_of(e)), e.c->counter("plan_equal").value_or(0) == 1 ? "no" : "yes",
                      e.c->busy() > 0 ? fixed(e.c->busy(), 2) : ""});
    }
  }
  return folded_table("Cells",
                      {{"map", false},
                       {"prefix", true},
                       {"batch", true},
                       {"ms", true},
                       {"speed-up", true},
                       {"plan shares", false},
                       {"busy cores", true}},
                      rows);
}

}  // namespace

std::string crossover_section(const Machine& machine) {
  const std::string id = machine.id + "-crossover", title = "Where sharing starts to pay";
  const std::vector<Map> maps = maps_of(machine);
  if (maps.empty()) {
    return section(
        id, title, "",
        missing("Needs a grid of cases that differ in prefix:N and batch:N, such as grid/prefix:N/batch:N."));
  }
  std::vector<std::string> drawings;
  for (const Map& map : maps) {
    if (drawings.size() < kMostMaps) drawings.push_back(draw_map(map));
  }
  return section(
      id, title,
      "Speed-up by sharing. Blue gains, orange loses, plain is level; the line separates cells that gain more than 3 % "
      "from the others. The sign = stands where the planner chose not to share, so that both ways are one; * where "
      "others used the machine.",
      panels(drawings) + map_table(maps));
}

}  // namespace prefixshare::report
