// SPDX-License-Identifier: Apache-2.0
#include "report/markup.hpp"

#include "report/format.hpp"

namespace prefixshare::report {

namespace {

constexpr std::size_t kShortTable = 8;  // rows

std::string table_row(const char* cell, const std::vector<Column>& columns, const Row& row) {
  std::string cells;
  for (std::size_t c = 0; c < columns.size(); ++c) {
    cells += element(cell, c < row.size() ? escape(row[c]) : "", columns[c].number ? "class=\"n\"" : "");
  }
  return element("tr", cells) + "\n";
}

}  // namespace

std::string escape(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\'': result += "&#39;"; break;
      default: result += c;
    }
  }
  return result;
}

std::string element(const std::string& name, const std::string& inside, const std::string& attributes) {
  return "<" + name + (attributes.empty() ? "" : " " + attributes) + ">" + inside + "</" + name + ">";
}

std::string html_table(const std::vector<Column>& columns, const std::vector<Row>& rows) {
  Row titles;
  std::string body;
  for (const Column& c : columns) titles.push_back(c.title);
  for (const Row& row : rows) body += table_row("td", columns, row);
  return element("div", element("table", element("thead", table_row("th", columns, titles)) + element("tbody", body)),
                 "class=\"scroll\"") +
         "\n";
}

std::string folded_table(const std::string& title, const std::vector<Column>& columns, const std::vector<Row>& rows) {
  const std::string summary = element("summary", escape(title + ": " + plural(rows.size(), "row")));
  return element("details", summary + html_table(columns, rows), rows.size() <= kShortTable ? "open=\"open\"" : "") +
         "\n";
}

std::string section(const std::string& id, const std::string& title, const std::string& introduction,
                    const std::string& body) {
  const std::string paragraph = introduction.empty() ? "" : element("p", introduction) + "\n";
  return element("section", element("h3", escape(title)) + "\n" + paragraph + body, "id=\"" + escape(id) + "\"") + "\n";
}

std::string missing(const std::string& text) { return element("p", escape(text), "class=\"missing\"") + "\n"; }

std::string panels(const std::vector<std::string>& drawings) {
  std::string inside;
  for (const std::string& d : drawings) inside += element("figure", d) + "\n";
  return element("div", inside, "class=\"panels\"") + "\n";
}

}  // namespace prefixshare::report
