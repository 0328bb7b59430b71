// SPDX-License-Identifier: Apache-2.0
// Records as a table of text, and as a count.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "gpu/harness/record.hpp"

namespace prefixshare::gpu {

/// A heading and a line per record; the first column to the left, the others to the right. A record without the figure
/// has a dash.
inline std::string table(const std::vector<Record>& records, const std::vector<std::string>& columns) {
  std::vector<std::vector<std::string>> rows = {columns};
  for (const Record& record : records) {
    rows.emplace_back();
    for (const std::string& column : columns) rows.back().push_back(record.has(column) ? record.text(column) : "-");
  }
  std::vector<std::size_t> width(columns.size(), 0);
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string space(width[c] - row[c].size(), ' ');
      line += c == 0 ? row[c] + space : "  " + space + row[c];
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

struct Count {
  int passed = 0, failed = 0, skipped = 0;
};

inline Count count(const std::vector<Record>& lines) {
  Count c;
  for (const Record& line : lines) {
    const std::string outcome = line.text("outcome");
    ++(outcome == "passed" ? c.passed : outcome == "skipped" ? c.skipped : c.failed);
  }
  return c;
}

/// A record for each group of cases, in their order: how they ended, and the seconds that they took.
inline std::vector<Record> by_group(const std::vector<Record>& lines) {
  std::vector<std::pair<std::string, std::vector<Record>>> groups;
  for (const Record& line : lines) {
    const std::string name = line.text("case"), group = name.substr(0, name.find('/'));
    auto known = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == group; });
    if (known == groups.end()) known = groups.insert(known, {group, {}});
    known->second.push_back(line);
  }
  std::vector<Record> records;
  for (const auto& [group, cases] : groups) {
    const Count c = count(cases);
    double seconds = 0;
    for (const Record& line : cases) seconds += line.value("seconds");
    records.push_back(Record().add("group", group).add("passed", c.passed).add("failed", c.failed));
    records.back().add("skipped", c.skipped).add("seconds", seconds);
  }
  return records;
}

}  // namespace prefixshare::gpu
