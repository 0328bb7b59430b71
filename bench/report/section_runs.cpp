// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include "report/ceilings_of_runs.hpp"
#include "report/format.hpp"
#include "report/markup.hpp"
#include "report/sections.hpp"

namespace prefixshare::report {

namespace {

std::string known(const std::string& text) { return text.empty() ? "not said" : text; }

/// The newest run of ours, or of a peer if there is no other.
const Run& newest(const Machine& machine) {
  for (auto run = machine.runs.rbegin(); run != machine.runs.rend(); ++run) {
    if (!run->is_peer()) return *run;
  }
  return machine.runs.back();
}

std::string fact(const std::string& name, const std::string& text) {
  return element("dt", escape(name)) + element("dd", escape(text)) + "\n";
}

std::string facts(const Machine& machine) {
  const Run& run = newest(machine);
  return element("dl",
                 fact("CPU", known(run.cpu)) + fact("Caches", known(run.caches)) + fact("Commit", known(run.commit)) +
                     fact("Compiler", known(run.compiler)) + fact("Flags", known(run.flags)) +
                     fact("Date", known(run.date)) + fact("Version", known(run.version)),
                 "class=\"facts\"") +
         "\n";
}

std::size_t disturbed(const std::vector<Entry>& entries) {
  return static_cast<std::size_t>(
      std::count_if(entries.begin(), entries.end(), [](const Entry& e) { return e.c->busy() > 0; }));
}

/// Wins and losses of sharing in undisturbed cases, counted alike; within 3 % of each other the two ways are level.
std::string verdict(const Machine& machine) {
  std::size_t wins = 0, losses = 0, level = 0;
  for (const Entry& e : machine.entries) {
    const auto ratio = e.c->counter("vs_unshared");
    if (!ratio || e.run->is_peer() || e.c->busy() > 0) continue;
    ++(*ratio > 1.03 ? wins : *ratio < 1 / 1.03 ? losses : level);
  }
  if (wins + losses + level == 0) return "";
  return "Against the same implementation without sharing, sharing is faster in " + plural(wins, "case") +
         ", slower in " + std::to_string(losses) + ", and within 3 % in " + std::to_string(level) + ". ";
}

std::string ceilings_note(const Run& run) {
  for (const auto& [threads, rates] : run.ceilings) {
    if (rates.count("busy") > 0)
      return "The ceilings were measured while others used the machine: floors may be too high. ";
  }
  return "";
}

std::string introduction(const Machine& machine) {
  const std::size_t busy = disturbed(machine.entries);
  std::set<std::string> commits;
  for (const Entry& e : machine.entries) {
    if (!e.run->is_peer()) commits.insert(e.run->commit);
  }
  std::string text = verdict(machine) + ceilings_note(newest(machine));
  text += busy == 0 ? "No case was disturbed by other processes. "
                    : plural(busy, "case") + " of " + std::to_string(machine.entries.size()) +
                          " shared the machine with other processes: these figures do not count, and their marks are "
                          "hollow. ";
  if (commits.size() > 1) text += "Each case is shown as its newest run has it; the runs are of several commits. ";
  if (newest(machine).quick)
    text +=
        "The newest run is a quick one: a part of the cases, and where a name says scale:N, with an N-th of all "
        "lengths. ";
  return escape(text);
}

/// A row per resource, a column per team.
std::string ceilings_table(const Machine& machine) {
  std::vector<Column> columns = {{"", false}};
  std::vector<Row> rows;
  for (const std::int32_t threads : teams_with_ceilings(machine)) {
    columns.push_back({plural(static_cast<std::size_t>(threads), "thread"), true});
    for (const Ceiling& c : ceilings_of(machine, threads)) {
      auto row = std::find_if(rows.begin(), rows.end(), [&](const Row& r) { return r[0] == c.name; });
      if (row == rows.end()) row = rows.insert(rows.end(), Row{c.name});
      row->resize(columns.size());
      row->back() = si_text(c.rate) + c.unit;
    }
  }
  if (rows.empty()) return missing("Ceilings: needs a file whose context has keys such as ceilings/threads:1/memory.");
  return element("h4", "Ceilings measured in the run") + "\n" + html_table(columns, rows);
}

std::string runs_table(const Machine& machine) {
  std::vector<Row> rows;
  for (const Run& run : machine.runs) {
    const auto timed = std::count_if(run.cases.begin(), run.cases.end(), [](const Case& c) { return c.timed(); });
    const auto busy = std::count_if(run.cases.begin(), run.cases.end(), [](const Case& c) { return c.busy() > 0; });
    const auto failed = static_cast<std::ptrdiff_t>(run.cases.size()) - timed;
    rows.push_back({run.file, known(run.peer.empty() ? "prefixshare " + run.version : run.peer), known(run.commit),
                    known(run.date), known(run.compiler), std::to_string(timed), std::to_string(busy),
                    std::to_string(failed)});
  }
  return folded_table("Files",
                      {{"file", false},
                       {"of", false},
                       {"commit", false},
                       {"date", false},
                       {"compiler", false},
                       {"cases", true},
                       {"disturbed", true},
                       {"failed", true}},
                      rows);
}

}  // namespace

std::string runs_section(const Machine& machine) {
  return section(machine.id + "-runs", "Machine and runs", introduction(machine),
                 facts(machine) + ceilings_table(machine) + runs_table(machine));
}

}  // namespace prefixshare::report
