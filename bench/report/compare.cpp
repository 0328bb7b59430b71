// SPDX-License-Identifier: Apache-2.0
#include "report/compare.hpp"

#include <algorithm>
#include <cmath>

#include "report/format.hpp"

namespace prefixshare::report {

namespace {

using Row = std::vector<std::string>;

Compared compare_case(const Case& a, const Case& b) {
  const Estimate before = estimate(a), now = estimate(b);
  Compared c;
  c.name = a.name.full;
  c.old_seconds = std::exp(before.log_seconds);
  c.new_seconds = std::exp(now.log_seconds);
  c.busy = before.stolen > 0 || now.stolen > 0;
  c.judgement = judge(before, now);
  return c;
}

Compared only_in(Verdict verdict, const Case& c) {
  Compared alone;
  alone.name = c.name.full;
  (verdict == Verdict::only_in_a ? alone.old_seconds : alone.new_seconds) = c.seconds();
  alone.judgement.verdict = verdict;
  return alone;
}

const Case* find_timed(const Run& run, const std::string& name) {
  const Case* found = run.find(name);
  return found != nullptr && found->timed() ? found : nullptr;
}

Row row_of(const Compared& c) {
  const Judgement& j = c.judgement;
  const bool both = c.old_seconds > 0 && c.new_seconds > 0;
  return {c.name,
          c.old_seconds > 0 ? ms_text(c.old_seconds) : "",
          c.new_seconds > 0 ? ms_text(c.new_seconds) : "",
          both ? fixed(j.ratio, 3) : "",
          both ? fixed(j.low, 3) + " to " + fixed(j.high, 3) : "",
          to_string(j.verdict) + std::string(c.busy ? " (busy)" : "")};
}

/// Columns in line: names and verdicts to the left, numbers to the right.
std::string table(const std::vector<Row>& rows) {
  std::vector<std::size_t> width(rows.front().size(), 0);
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  }
  std::string text;
  for (const Row& row : rows) {
    for (std::size_t c = 0; c + 1 < row.size(); ++c) {
      const std::string gap(width[c] - row[c].size(), ' ');
      text += c == 0 ? row[c] + gap : "  " + gap + row[c];
    }
    text += "  " + row.back() + "\n";
  }
  return text;
}

std::string describe(const char* letter, const Run& run) {
  std::string text = std::string(letter) + ": " + run.file;
  for (const std::string& part : {run.machine, run.commit, run.date}) text += part.empty() ? "" : ", " + part;
  return text + "\n";
}

std::string difference(const char* what, const std::string& a, const std::string& b) {
  return a == b || a.empty() || b.empty() ? "" : std::string(what) + " differs: " + a + " | " + b + "\n";
}

/// The ceilings, measured by both runs, that are more than 10 % apart, B over A: "cache 0.881 on threads:2".
std::string ceilings_apart(const Run& a, const Run& b) {
  constexpr double kApart = 1.1;  // what calibrate --check allows two measurements of one ceiling
  std::string text;
  for (const auto& [threads, rates] : a.ceilings) {
    const auto now = b.ceilings.find(threads);
    if (now == b.ceilings.end()) continue;
    for (const auto& [resource, rate] : rates) {
      const auto found = now->second.find(resource);
      if (found == now->second.end()) continue;
      const double ratio = found->second / rate;
      if (ratio < kApart && ratio > 1 / kApart) continue;
      text += (text.empty() ? "" : ", ") + resource + " " + fixed(ratio, 3) + " on threads:" + std::to_string(threads);
    }
  }
  return text.empty() ? "" : "the machine itself ran at another speed, B over A: " + text + "\n";
}

std::string sums(const std::vector<Compared>& list) {
  std::string text;
  for (const Verdict v :
       {Verdict::slower, Verdict::faster, Verdict::no_change, Verdict::only_in_a, Verdict::only_in_b}) {
    text += (text.empty() ? "" : ", ") + std::to_string(count(list, v)) + " " + to_string(v);
  }
  const auto hidden = std::count_if(list.begin(), list.end(), [](const Compared& c) {
    return c.judgement.verdict == Verdict::no_change && c.judgement.hides_ten_percent();
  });
  if (hidden > 0) text += "; in " + std::to_string(hidden) + " without change noise would hide 10 %";
  return text + "\n";
}

}  // namespace

std::vector<Compared> compare_runs(const Run& a, const Run& b) {
  std::vector<Compared> list;
  for (const Case& before : a.cases) {
    const Case* now = find_timed(b, before.name.full);
    if (!before.timed()) continue;
    list.push_back(now != nullptr ? compare_case(before, *now) : only_in(Verdict::only_in_a, before));
  }
  for (const Case& now : b.cases) {
    if (now.timed() && find_timed(a, now.name.full) == nullptr) list.push_back(only_in(Verdict::only_in_b, now));
  }
  return list;
}

std::size_t count(const std::vector<Compared>& list, Verdict verdict) {
  return static_cast<std::size_t>(
      std::count_if(list.begin(), list.end(), [verdict](const Compared& c) { return c.judgement.verdict == verdict; }));
}

std::string compare_text(const Run& a, const Run& b, const std::vector<Compared>& list) {
  std::vector<Row> rows = {{"case", "A, ms", "B, ms", "B / A", "noise", "verdict"}};
  for (const Compared& c : list) rows.push_back(row_of(c));
  return describe("A", a) + describe("B", b) + difference("machine", a.machine, b.machine) +
         difference("compiler", a.compiler, b.compiler) + difference("flags", a.flags, b.flags) + ceilings_apart(a, b) +
         "\n" + table(rows) + "\n" + sums(list);
}

}  // namespace prefixshare::report
