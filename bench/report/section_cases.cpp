// SPDX-License-Identifier: Apache-2.0
#include "report/format.hpp"
#include "report/markup.hpp"
#include "report/sections.hpp"

namespace prefixshare::report {

namespace {

std::string counter_text(const Case& c, const char* key, std::string (*text)(double)) {
  const auto value = c.counter(key);
  return value ? text(*value) : "";
}

std::string quartile(const Case& c, const char* key) {
  const auto value = c.counter(key);
  return value ? ms_text(1e-3 * *value) : "";
}

Row row_of(const Entry& e) {
  const Case& c = *e.c;
  return {c.name.full,
          e.run->peer,
          ms_text(c.seconds()),
          quartile(c, "low_ms"),
          quartile(c, "high_ms"),
          counter_text(c, "calls", short_text),
          counter_text(c, "floor_fraction", percent_text),
          counter_text(c, "vs_unshared", ratio_text),
          counter_text(c, "max_error", short_text),
          c.busy() > 0 ? fixed(c.busy(), 2) : "",
          c.label};
}

}  // namespace

std::string cases_section(const Machine& machine) {
  std::vector<Row> rows;
  for (const Entry& e : machine.entries) rows.push_back(row_of(e));
  std::string failed;
  for (const Run& run : machine.runs) {
    for (const Case& c : run.cases) {
      if (!c.timed()) failed += element("li", escape(run.file + ": " + c.name.full + ": " + c.error)) + "\n";
    }
  }
  if (!failed.empty()) failed = element("h4", "Failed") + "\n" + element("ul", failed) + "\n";
  return section(machine.id + "-cases", "All cases",
                 "The time is the median of the calls, beside it their 25th and 75th percentile. Cases of ours were "
                 "checked before they "
                 "were timed; the error is in the measure of the check.",
                 folded_table("All cases",
                              {{"case", false},
                               {"peer", false},
                               {"ms", true},
                               {"25 %", true},
                               {"75 %", true},
                               {"calls", true},
                               {"of floor", true},
                               {"x unshared", true},
                               {"error", true},
                               {"busy cores", true},
                               {"label", false}},
                              rows) +
                     failed);
}

}  // namespace prefixshare::report
