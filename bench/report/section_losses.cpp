// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "report/format.hpp"
#include "report/markup.hpp"
#include "report/sections.hpp"

namespace prefixshare::report {

namespace {

constexpr double kLevel = 1.03;  // two times of one run that are nearer are level

/// A case that takes longer than something that it should beat.
struct Loss {
  const Entry* entry = nullptr;
  std::string against;
  double factor = 1;  ///< its time over the other's
};

void add(const Entry& e, const std::string& against, double factor, std::vector<Loss>* losses) {
  if (factor > 1) losses->push_back({&e, against, factor});
}

/// What a case says of itself.
void add_own(const Entry& e, std::vector<Loss>* losses) {
  const auto inverse = [&](const char* key) {
    const auto ratio = e.c->counter(key);
    return ratio && *ratio > 0 ? 1 / *ratio : 0;
  };
  if (e.c->counter("plan_equal").value_or(0) != 1) add(e, "the same without sharing", inverse("vs_unshared"), losses);
  add(e, "memcpy of the same bytes", inverse("vs_memcpy"), losses);
  add(e, "the best fixed assignment", e.c->counter("vs_best").value_or(0), losses);
}

/// Our fastest against each peer; each of ours against the one that is written in plain C++.
void add_problem(const Problem& problem, std::vector<Loss>* losses) {
  const Entry* best = problem.best();
  if (best == nullptr) return;
  for (const Entry& e : problem.entries) {
    if (e.run->is_peer()) add(*best, e.c->name.implementation, best->c->seconds() / e.c->seconds(), losses);
    if (e.run->is_peer() || e.c->name.implementation != "cpu:portable") continue;
    for (const Entry& other : problem.entries) {
      const bool of_reference = other.c->name.implementation.rfind("reference:", 0) == 0;  // not made for speed
      if (other.run->is_peer() || of_reference) continue;
      add(other, "cpu:portable", other.c->seconds() / e.c->seconds(), losses);
    }
  }
}

}  // namespace

std::string losses_section(const Machine& machine) {
  std::vector<Loss> losses;
  for (const Entry& e : machine.entries) {
    if (!e.run->is_peer()) add_own(e, &losses);
  }
  for (const Problem& problem : machine.problems) add_problem(problem, &losses);
  const auto first_level =
      std::partition(losses.begin(), losses.end(), [](const Loss& l) { return l.factor > kLevel; });
  const auto level = static_cast<std::size_t>(losses.end() - first_level);
  losses.erase(first_level, losses.end());
  std::stable_sort(losses.begin(), losses.end(), [](const Loss& a, const Loss& b) { return a.factor > b.factor; });
  std::vector<Row> rows;
  for (const Loss& l : losses) {
    rows.push_back({l.entry->c->name.full, l.against, ms_text(l.entry->c->seconds()), ratio_text(l.factor),
                    l.entry->c->busy() > 0 ? fixed(l.entry->c->busy(), 2) : ""});
  }
  const std::string introduction =
      "Cases in which sharing, the planner or an implementation of ours takes longer than what it is measured against: "
      "the same plan without sharing, memcpy, the best fixed assignment, a peer, or cpu:portable. The factor is its "
      "time "
      "over the other's. " +
      std::to_string(level) + " more within 3 % are not listed.";
  const std::vector<Column> columns = {
      {"case", false}, {"loses to", false}, {"ms", true}, {"factor", true}, {"busy cores", true}};
  const std::string table = rows.empty() ? element("p", "No case loses.") + "\n" : html_table(columns, rows);
  return section(machine.id + "-losses", "Losses", escape(introduction), table);
}

}  // namespace prefixshare::report
