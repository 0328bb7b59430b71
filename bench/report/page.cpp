// SPDX-License-Identifier: Apache-2.0
#include "report/page.hpp"

#include "report/format.hpp"
#include "report/markup.hpp"
#include "report/sections.hpp"

namespace prefixshare::report {

namespace {

struct Part {
  const char* id;
  const char* title;
  std::string (*make)(const Machine&);
};
constexpr Part kParts[] = {
    {"runs", "Machine and runs", runs_section},    {"speed-up", "Speed-up", speed_up_section},
    {"crossover", "Crossover", crossover_section}, {"floor", "Floor", floor_section},
    {"roofline", "Roofline", roofline_section},    {"trees", "Trees", trees_section},
    {"losses", "Losses", losses_section},          {"history", "History", history_section},
    {"cases", "All cases", cases_section},
};

std::string links(const Machine& machine) {
  std::string items;
  for (const Part& part : kParts) {
    items += element("li", element("a", part.title, "href=\"#" + machine.id + "-" + part.id + "\""));
  }
  return element("nav", element("ul", items)) + "\n";
}

std::string part_of(const Machine& machine) {
  std::string body = element("h2", escape(machine.title)) + "\n" + links(machine);
  for (const Part& part : kParts) body += part.make(machine);
  return element("article", body, "id=\"" + machine.id + "\"") + "\n";
}

std::string introduction(const std::vector<Machine>& machines) {
  std::size_t files = 0, cases = 0;
  for (const Machine& m : machines) files += m.runs.size(), cases += m.entries.size();
  return element(
             "p",
             plural(cases, "case") + " from " + plural(files, "file") + " of " + plural(machines.size(), "machine") +
                 ". A figure is a ratio of two times measured side by side in one run, and stands beside its floor. "
                 "Losses are shown like wins.",
             "class=\"lead\"") +
         "\n";
}

}  // namespace

std::string make_page(const std::vector<Machine>& machines) {
  const std::string head =
      "<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<meta name=\"color-scheme\" content=\"light dark\"/>\n" +
      element("title", "prefixshare: benchmarks") + "\n" + element("style", kStyle) + "\n";
  std::string body = element("h1", "prefixshare: benchmarks") + "\n" + introduction(machines);
  for (const Machine& m : machines) body += part_of(m);
  return "<!DOCTYPE html>\n" +
         element("html", "\n" + element("head", "\n" + head) + "\n" + element("body", "\n" + body) + "\n",
                 "lang=\"en\"") +
         "\n";
}

}  // namespace prefixshare::report
