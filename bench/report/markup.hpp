// SPDX-License-Identifier: Apache-2.0
// Pieces of the page as text that is well-formed XML too, so that a test can parse it.
#pragma once

#include <string>
#include <vector>

namespace prefixshare::report {

/// Text in which nothing is markup, in elements and in attributes.
std::string escape(const std::string& text);

/// <name>inside</name>, where `inside` is markup; attributes as they stand: `class="x"`.
std::string element(const std::string& name, const std::string& inside, const std::string& attributes = "");

struct Column {
  std::string title;  ///< text
  bool number = false;
};
using Row = std::vector<std::string>;  ///< of text, one per column

/// A table that scrolls sideways where it is wider than the page.
std::string html_table(const std::vector<Column>& columns, const std::vector<Row>& rows);
/// The same behind a line that opens it; open at once where it is short.
std::string folded_table(const std::string& title, const std::vector<Column>& columns, const std::vector<Row>& rows);

/// A heading, an introduction (markup; empty: none), and the rest.
std::string section(const std::string& id, const std::string& title, const std::string& introduction,
                    const std::string& body);
/// The line where a plot would be, had the files its cases.
std::string missing(const std::string& text);
/// Drawings side by side, or one below the other where the page is narrow.
std::string panels(const std::vector<std::string>& drawings);

}  // namespace prefixshare::report
