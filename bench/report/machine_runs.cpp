// SPDX-License-Identifier: Apache-2.0
#include "report/machine_runs.hpp"

#include <algorithm>
#include <set>

#include "report/format.hpp"

namespace prefixshare::report {

namespace {

/// What tells machines apart. A run that does not say its machine is only together with others of its host.
std::string machine_key(const Run& run) {
  if (!run.machine.empty()) return run.machine;
  return run.host.empty() ? "unknown machine" : "unknown machine, host " + run.host;
}

/// The newest run of a case; ours and a peer's are different cases, whatever their names. In the order of the newest
/// run of each.
void choose_entries(Machine* machine) {
  std::set<std::string> seen;
  for (auto run = machine->runs.rbegin(); run != machine->runs.rend(); ++run) {
    for (const Case& c : run->cases) {
      if (c.timed() && seen.insert(run->peer + "\n" + c.name.full).second) machine->entries.push_back({&c, &*run, 0});
    }
  }
}

void name_series(Machine* machine) {
  std::set<std::string> ours, peers;
  for (const Entry& e : machine->entries) {
    if (!e.c->name.implementation.empty()) (e.run->is_peer() ? peers : ours).insert(e.c->name.implementation);
    if (!e.run->is_peer()) machine->team = std::max(machine->team, e.c->name.threads);
  }
  for (const std::string& name : ours) peers.erase(name);
  machine->series.assign(ours.begin(), ours.end());
  machine->series.insert(machine->series.end(), peers.begin(), peers.end());
  for (Entry& e : machine->entries) {
    const auto found = std::find(machine->series.begin(), machine->series.end(), e.c->name.implementation);
    e.series = static_cast<std::size_t>(found - machine->series.begin());
  }
}

void add_to_problem(const Entry& e, Problem* problem) {
  problem->entries.push_back(e);
  if (e.run->is_peer()) return;
  const double floor = 1e-3 * e.c->counter("floor_ms").value_or(0);
  const double unshared = 1e-3 * e.c->counter("unshared_ms").value_or(0);
  problem->floor_seconds = std::max(problem->floor_seconds, floor);
  if (unshared > 0 && (problem->unshared_seconds == 0 || unshared < problem->unshared_seconds)) {
    problem->unshared_seconds = unshared;
  }
}

void collect_problems(Machine* machine) {
  std::map<std::string, std::size_t> places;
  for (const Entry& e : machine->entries) {
    const CaseName& name = e.c->name;
    if (name.implementation.empty()) continue;
    const auto [place, is_new] = places.emplace(name.problem(), machine->problems.size());
    if (is_new) machine->problems.push_back({name.title(), name.workload, name.dtype, name.threads, {}, 0, 0});
    add_to_problem(e, &machine->problems[place->second]);
  }
}

}  // namespace

std::string Entry::about() const {
  std::string text = c->name.full + ": " + ms_text(c->seconds()) + " ms";
  if (const auto fraction = c->counter("floor_fraction")) text += ", " + percent_text(*fraction) + " of the floor";
  if (const auto ratio = c->counter("vs_unshared")) text += ", " + ratio_text(*ratio) + " x unshared";
  if (c->busy() > 0) text += ", others used " + fixed(c->busy(), 2) + " cores";
  return text;
}

const Entry* Problem::best() const {
  const Entry* best = nullptr;
  for (const Entry& e : entries) {
    if (!e.run->is_peer() && (best == nullptr || e.c->seconds() < best->c->seconds())) best = &e;
  }
  return best;
}

std::optional<double> Problem::floor_fraction(const Entry& e) const {
  if (const auto own = e.c->counter("floor_fraction")) return own;
  return floor_seconds > 0 ? std::optional<double>(floor_seconds / e.c->seconds()) : std::nullopt;
}

std::vector<Machine> by_machine(std::vector<Run> runs, Complaints* complaints) {
  std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.date < b.date; });
  std::vector<Machine> machines;
  for (Run& run : runs) {
    const std::string key = machine_key(run);
    if (run.machine.empty())
      complaints->push_back(run.file + ": its context does not say the machine: shown as " + key);
    auto found = std::find_if(machines.begin(), machines.end(), [&](const Machine& m) { return m.title == key; });
    if (found == machines.end()) {
      found = machines.emplace(machines.end());
      found->title = key;
      found->id = "m" + std::to_string(machines.size());
    }
    found->runs.push_back(std::move(run));
  }
  for (Machine& machine : machines) {
    choose_entries(&machine);
    name_series(&machine);
    collect_problems(&machine);
  }
  return machines;
}

}  // namespace prefixshare::report
