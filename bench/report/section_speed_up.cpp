// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <set>

#include "report/format.hpp"
#include "report/line_chart.hpp"
#include "report/markup.hpp"
#include "report/sections.hpp"

namespace prefixshare::report {

namespace {

constexpr const char* kIntroduction =
    "The time of an implementation without sharing over its time with the plan that the planner made; below 1 sharing "
    "loses. A peer is set against the fastest of ours without sharing, and so is the bound, which is what the floor of "
    "the "
    "shared work allows.";
constexpr std::size_t kFewestPoints = 3;  // of a curve
constexpr std::size_t kMostPanels = 3;    // of one length

/// Problems that differ in one length only, by that length.
struct Sweep {
  std::string title;
  std::map<double, const Problem*> problems;

  /// The more implementations and lengths, the more there is to see.
  std::pair<std::size_t, std::size_t> size() const {
    std::set<std::size_t> series;
    for (const auto& [length, problem] : problems) {
      for (const Entry& e : problem->entries) series.insert(e.series);
    }
    return {series.size(), problems.size()};
  }
  double first_seconds() const { return problems.begin()->second->unshared_seconds; }
};

/// The time without sharing over the time, each of the same implementation; a peer's over our best without sharing.
double speed_up(const Problem& problem, const Entry& e) {
  if (e.run->is_peer()) return problem.unshared_seconds / e.c->seconds();
  return e.c->counter("vs_unshared").value_or(0);
}

std::vector<Sweep> sweeps(const Machine& machine, const std::string& key) {
  std::map<std::string, Sweep> by_title;
  for (const Problem& problem : machine.problems) {
    const auto length = label_value(problem.workload, key);
    if (!length || !(*length > 0) || problem.threads != machine.team || problem.unshared_seconds == 0) continue;
    const std::string title = any_label(problem.workload, key) + "/" + problem.dtype;
    Sweep& sweep = by_title[title];
    sweep.title = title;
    sweep.problems[*length] = &problem;
  }
  std::vector<Sweep> list;
  for (auto& [title, sweep] : by_title) {
    if (sweep.problems.size() >= kFewestPoints) list.push_back(std::move(sweep));
  }
  std::stable_sort(list.begin(), list.end(), [](const Sweep& a, const Sweep& b) {
    return a.size() != b.size() ? a.size() > b.size() : a.first_seconds() < b.first_seconds();
  });
  return list;
}

/// At most kMostPanels, spread over the list.
std::vector<Sweep> choose(const std::vector<Sweep>& list) {
  const std::size_t count = std::min(list.size(), kMostPanels);
  std::vector<Sweep> chosen;
  for (std::size_t i = 0; i < count; ++i)
    chosen.push_back(list[i * (list.size() - 1) / std::max<std::size_t>(count - 1, 1)]);
  return chosen;
}

std::vector<Line> lines_of(const Machine& machine, const Sweep& sweep) {
  std::map<std::size_t, Line> by_series;
  Line bound;
  bound.name = "bound";
  bound.bound = true;
  for (const auto& [length, problem] : sweep.problems) {
    for (const Entry& e : problem->entries) {
      const double ratio = speed_up(*problem, e);
      if (!(ratio > 0)) continue;
      Line& line = by_series[e.series];
      line.name = machine.series[e.series];
      line.series = e.series;
      line.points.push_back({length, ratio, 0, 0, e.c->busy() > 0, e.about()});
    }
    if (problem->floor_seconds > 0) {
      bound.points.push_back({length, problem->unshared_seconds / problem->floor_seconds, 0, 0, false, ""});
    }
  }
  std::vector<Line> lines;
  for (auto& [series, line] : by_series) lines.push_back(std::move(line));
  if (!bound.points.empty()) lines.push_back(std::move(bound));
  return lines;
}

Row row_of(const Machine& machine, const Problem& problem, const Entry& e) {
  const auto unshared = e.c->counter("unshared_ms");
  const double base = unshared ? 1e-3 * *unshared : problem.unshared_seconds;
  return {problem.title,
          machine.series[e.series],
          ms_text(base),
          ms_text(e.c->seconds()),
          ratio_text(speed_up(problem, e)),
          problem.floor_seconds > 0 ? ratio_text(base / problem.floor_seconds) : "",
          e.c->busy() > 0 ? fixed(e.c->busy(), 2) : ""};
}

/// Every problem of the sweeps once.
std::string speed_up_table(const Machine& machine, const std::vector<Sweep>& prefix, const std::vector<Sweep>& batch) {
  std::vector<Row> rows;
  std::set<const Problem*> seen;
  for (const std::vector<Sweep>* list : {&prefix, &batch}) {
    for (const Sweep& sweep : *list) {
      for (const auto& [length, problem] : sweep.problems) {
        if (!seen.insert(problem).second) continue;
        for (const Entry& e : problem->entries) rows.push_back(row_of(machine, *problem, e));
      }
    }
  }
  return folded_table("Speed-up",
                      {{"problem", false},
                       {"implementation", false},
                       {"unshared, ms", true},
                       {"ms", true},
                       {"speed-up", true},
                       {"bound", true},
                       {"busy cores", true}},
                      rows);
}

void add_panels(const Machine& machine, const std::vector<Sweep>& list, const std::string& title,
                std::vector<std::string>* drawings) {
  for (const Sweep& sweep : list) {
    const std::string threads = plural(static_cast<std::size_t>(machine.team), "thread");
    drawings->push_back(
        draw({sweep.title + ", " + threads, title, "speed-up by sharing", lines_of(machine, sweep), {}, 1}));
  }
}

}  // namespace

std::string speed_up_section(const Machine& machine) {
  const std::vector<Sweep> prefix = sweeps(machine, "prefix"), batch = sweeps(machine, "batch");
  std::vector<std::string> drawings;
  add_panels(machine, choose(prefix), "shared tokens", &drawings);
  add_panels(machine, choose(batch), "sequences", &drawings);
  std::string body = drawings.empty() ? "" : panels(drawings);
  if (prefix.empty()) {
    body += missing("Against prefix length: needs three cases that differ in prefix:N, such as sweep/prefix:N.");
  }
  if (batch.empty()) body += missing("Against batch: needs three cases that differ in batch:N, such as sweep/batch:N.");
  if (!drawings.empty()) body += speed_up_table(machine, prefix, batch);
  return section(machine.id + "-speed-up", "Speed-up by sharing", drawings.empty() ? "" : kIntroduction, body);
}

}  // namespace prefixshare::report
