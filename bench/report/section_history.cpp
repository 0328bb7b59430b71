// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <map>

#include "report/format.hpp"
#include "report/line_chart.hpp"
#include "report/markup.hpp"
#include "report/sections.hpp"

namespace prefixshare::report {

namespace {

constexpr std::size_t kMostLines = 6;
constexpr std::size_t kMostCommits = 12;  // of the plot; the table has all

/// A case over the runs, oldest first; null where a run does not have it.
struct History {
  std::string name;
  std::vector<const Case*> times;

  const Case* first() const {
    return *std::find_if(times.begin(), times.end(), [](const Case* c) { return c != nullptr; });
  }
  const Case* last() const {
    return *std::find_if(times.rbegin(), times.rend(), [](const Case* c) { return c != nullptr; });
  }
  double change() const { return std::abs(std::log(last()->seconds() / first()->seconds())); }
};

std::vector<const Run*> own_runs(const Machine& machine) {
  std::vector<const Run*> runs;
  for (const Run& run : machine.runs) {
    if (!run.is_peer()) runs.push_back(&run);
  }
  return runs;
}

/// Cases that two runs have, those that changed most first.
std::vector<History> histories(const std::vector<const Run*>& runs) {
  std::map<std::string, History> by_name;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    for (const Case& c : runs[r]->cases) {
      if (!c.timed()) continue;
      History& h = by_name[c.name.full];
      h.name = c.name.full;
      h.times.resize(runs.size(), nullptr);
      h.times[r] = &c;
    }
  }
  std::vector<History> list;
  for (auto& [name, h] : by_name) {
    const auto known = std::count_if(h.times.begin(), h.times.end(), [](const Case* c) { return c != nullptr; });
    if (known > 1) list.push_back(std::move(h));
  }
  std::stable_sort(list.begin(), list.end(),
                   [](const History& a, const History& b) { return a.change() > b.change(); });
  return list;
}

/// The numbered cases of the fastest implementation on the whole team, else what there is.
std::vector<History> choose(const Machine& machine, const std::vector<History>& list) {
  std::vector<History> chosen;
  for (const bool numbered : {true, false}) {
    for (const History& h : list) {
      const CaseName name = parse_case_name(h.name);
      const auto problem = std::find_if(machine.problems.begin(), machine.problems.end(), [&](const Problem& p) {
        return p.title == name.title() && p.threads == name.threads;
      });
      const Entry* best = problem == machine.problems.end() ? nullptr : problem->best();
      const bool fastest = best != nullptr && best->c->name.full == h.name;
      if (chosen.size() == kMostLines || name.is_numbered() != numbered || !fastest || name.threads != machine.team)
        continue;
      chosen.push_back(h);
    }
    if (!chosen.empty()) break;
  }
  return chosen;
}

std::string commit_of(const Run& run) { return run.commit.empty() ? run.date.substr(0, 10) : run.commit.substr(0, 7); }

Line line_of(const History& h, std::size_t series, std::size_t first_run) {
  const CaseName name = parse_case_name(h.name);
  Line line{name.title(), series, false, {}};
  double base = 0;
  for (std::size_t r = first_run; r < h.times.size(); ++r) {
    const Case* c = h.times[r];
    if (c == nullptr) continue;
    if (base == 0) base = c->seconds();
    const double low = 1e-3 * c->counter("low_ms").value_or(0), high = 1e-3 * c->counter("high_ms").value_or(0);
    line.points.push_back({static_cast<double>(r - first_run + 1), c->seconds() / base, low / base, high / base,
                           c->busy() > 0, h.name + ": " + ms_text(c->seconds()) + " ms"});
  }
  return line;
}

std::string draw_history(const std::vector<const Run*>& runs, const std::vector<History>& chosen) {
  const std::size_t first = runs.size() > kMostCommits ? runs.size() - kMostCommits : 0;
  LineChart chart{"Time over the first one shown", "commit", "time, relative", {}, {}, 1};
  for (std::size_t r = first; r < runs.size(); ++r) chart.names.push_back(commit_of(*runs[r]));
  for (const History& h : chosen) {
    Line line = line_of(h, chart.lines.size(), first);
    if (!line.points.empty()) chart.lines.push_back(std::move(line));
  }
  return chart.lines.empty() ? "" : draw(chart);
}

std::string history_table(const std::vector<const Run*>& runs, const std::vector<History>& list) {
  std::vector<Column> columns = {{"case", false}};
  for (const Run* run : runs) columns.push_back({commit_of(*run) + ", ms", true});
  columns.push_back({"last / first", true});
  std::vector<Row> rows;
  for (const History& h : list) {
    Row row = {h.name};
    for (const Case* c : h.times) row.push_back(c == nullptr ? "" : ms_text(c->seconds()));
    row.push_back(ratio_text(h.last()->seconds() / h.first()->seconds()));
    rows.push_back(std::move(row));
  }
  return folded_table("Times over commits", columns, rows);
}

}  // namespace

std::string history_section(const Machine& machine) {
  const std::string id = machine.id + "-history", title = "History";
  const std::vector<const Run*> runs = own_runs(machine);
  const std::vector<History> list = histories(runs);
  if (list.empty())
    return section(id, title, "", missing("Needs two files of this machine that have a case in common."));
  const std::string drawing = draw_history(runs, choose(machine, list));
  return section(id, title,
                 "Times of one case over the commits of the files, oldest first, over the first one's: of the numbered "
                 "cases, fastest implementation, whole team, those that changed most. Bars are the quartiles of the "
                 "calls. Runs of different days are not one run: ./run compare says what is beyond noise.",
                 (drawing.empty() ? "" : panels({drawing})) + history_table(runs, list));
}

}  // namespace prefixshare::report
