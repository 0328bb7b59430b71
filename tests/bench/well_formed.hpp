// SPDX-License-Identifier: Apache-2.0
// A tiny checker of XML: tags nest, attributes are quoted, and no character of markup stands loose.
#pragma once

#include <cctype>
#include <string>
#include <vector>

namespace prefixshare::tests {

class XmlChecker {
 public:
  /// What is wrong with the text, and where; empty if nothing is.
  static std::string check(const std::string& text) {
    XmlChecker checker(text);
    while (checker.error_.empty() && checker.at_ < text.size()) checker.step();
    if (checker.error_.empty() && !checker.open_.empty()) checker.fail("never closed: " + checker.open_.back());
    return checker.error_;
  }

 private:
  explicit XmlChecker(const std::string& text) : text_(text) {}

  void fail(const std::string& what) {
    if (error_.empty()) error_ = what + " at ..." + text_.substr(at_ < 40 ? 0 : at_ - 40, 80) + "...";
  }
  bool take(const std::string& word) {
    if (text_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }
  std::string name() {
    const std::size_t begin = at_;
    while (at_ < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0 || text_[at_] == '-' || text_[at_] == ':'))
      ++at_;
    return text_.substr(begin, at_ - begin);
  }
  void space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
  }

  void step() {
    if (take("</")) return close();
    if (take("<")) return open();
    if (text_[at_] == '>') return fail("a loose >");
    if (text_[at_] == '&') return entity();
    ++at_;
  }
  void entity() {
    ++at_;
    take("#");
    if (name().empty() || !take(";")) fail("a loose &");
  }
  void close() {
    const std::string tag = name();
    if (open_.empty() || open_.back() != tag) return fail("closes what is not open: " + tag);
    open_.pop_back();
    if (!take(">")) fail("an end tag with more than a name");
  }
  void open() {
    const std::string tag = name();
    if (tag.empty()) return fail("a loose <");
    for (space(); error_.empty(); space()) {
      if (take("/>")) return;
      if (take(">")) break;
      attribute();
    }
    open_.push_back(tag);
    if (tag == "style") at_ = text_.find("</style>", at_);  // which is no markup in HTML
    if (at_ == std::string::npos) at_ = text_.size();
  }
  void attribute() {
    if (name().empty() || !take("=\"")) return fail("an attribute without a quoted value");
    while (at_ < text_.size() && text_[at_] != '"' && error_.empty()) {
      if (text_[at_] == '<') return fail("< in an attribute");
      if (text_[at_] == '&') {
        entity();
      } else {
        ++at_;
      }
    }
    if (!take("\"")) fail("an attribute that does not end");
  }

  const std::string& text_;
  std::size_t at_ = 0;
  std::vector<std::string> open_;
  std::string error_;
};

}  // namespace prefixshare::tests
