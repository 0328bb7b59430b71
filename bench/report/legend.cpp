// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include "report/markup.hpp"
#include "report/sections.hpp"
#include "report/svg.hpp"

namespace prefixshare::report {

std::string legend(const Machine& machine, const std::vector<Entry>& shown) {
  std::set<std::size_t> series;
  bool disturbed = false;
  for (const Entry& e : shown) {
    series.insert(e.series);
    disturbed = disturbed || e.c->busy() > 0;
  }
  std::string items;
  for (const std::size_t s : series) {
    if (s < machine.series.size()) items += element("li", mark_in_text(s, false) + escape(machine.series[s]));
  }
  if (disturbed) items += element("li", mark_in_text(0, true) + "hollow: others used the machine meanwhile");
  return items.empty() ? "" : element("ul", items, "class=\"legend\"") + "\n";
}

}  // namespace prefixshare::report
