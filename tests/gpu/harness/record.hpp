// SPDX-License-Identifier: Apache-2.0
// A line of results: named figures and texts in order, written and read as one line of JSON.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace prefixshare::gpu {

class Record {
 public:
  /// A text, a number or a list of numbers. What is not a finite number is null.
  Record& add(const std::string& key, const std::string& text) { return add_json(key, quoted(text)); }
  Record& add(const std::string& key, const char* text) { return add(key, std::string(text)); }
  template <class Number, class = std::enable_if_t<std::is_arithmetic_v<Number>>>
  Record& add(const std::string& key, Number x) {
    return add_json(key, number(static_cast<double>(x)));
  }
  Record& add(const std::string& key, const std::vector<double>& list) {
    std::string json;
    for (double x : list) json += (json.empty() ? "" : ", ") + number(x);
    return add_json(key, "[" + json + "]");
  }
  Record& add(const std::string& key, const Record& inner) { return add_json(key, inner.json()); }
  /// A field of another record, if it has it.
  Record& copy(const std::string& key, const Record& from) {
    const std::string* json = from.find(key);
    return json == nullptr ? *this : add_json(key, *json);
  }
  /// All fields of another record, behind these.
  Record& append(const Record& other) {
    for (const auto& [key, json] : other.fields_) add_json(key, json);
    return *this;
  }

  bool has(const std::string& key) const { return find(key) != nullptr; }
  /// A text without its quotes, everything else as JSON; empty if there is none.
  std::string text(const std::string& key) const {
    const std::string* json = find(key);
    if (json == nullptr) return "";
    return json->empty() || json->front() != '"' ? *json : unquoted(*json);
  }
  /// 0 if there is none.
  double value(const std::string& key) const {
    const std::string* json = find(key);
    return json == nullptr ? 0 : std::strtod(json->c_str(), nullptr);
  }
  std::string json() const {
    std::string line;
    for (const auto& [key, json] : fields_) line += (line.empty() ? "" : ", ") + quoted(key) + ": " + json;
    return "{" + line + "}";
  }

  /// Reads what `json` wrote. False, and an empty record, for anything else, such as half a line.
  static bool parse(const std::string& line, Record* record) {
    *record = Record();
    std::size_t at = 1;
    if (line.size() < 2 || line.front() != '{' || line.back() != '}') return false;
    while (at + 1 < line.size()) {
      const std::size_t key_end = end_of_value(line, at);
      const std::size_t value = key_end + 2;  // ": "
      if (key_end == std::string::npos || line.compare(key_end, 2, ": ") != 0) break;
      const std::size_t end = end_of_value(line, value);
      if (end == std::string::npos || end == value) break;
      record->add_json(unquoted(line.substr(at, key_end - at)), line.substr(value, end - value));
      if (end + 1 == line.size()) return true;
      if (line.compare(end, 2, ", ") != 0) break;
      at = end + 2;
    }
    const bool empty = line == "{}";
    if (!empty) *record = Record();
    return empty;
  }

 private:
  Record& add_json(const std::string& key, std::string json) {
    fields_.emplace_back(key, std::move(json));
    return *this;
  }
  const std::string* find(const std::string& key) const {
    for (const auto& [name, json] : fields_) {
      if (name == key) return &json;
    }
    return nullptr;
  }

  static std::string number(double x) {
    if (!std::isfinite(x)) return "null";
    char text[40];
    const bool whole = std::abs(x) < 1e15 && x == std::floor(x);
    std::snprintf(text, sizeof text, whole ? "%.0f" : "%.6g", x);
    return text;
  }
  static std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      if (static_cast<unsigned char>(c) >= 0x20) out += c;
      if (c == '\n') out += "\\n";
    }
    return out + '"';
  }
  static std::string unquoted(const std::string& json) {
    std::string out;
    for (std::size_t i = 1; i + 1 < json.size(); ++i) {
      const bool escaped = json[i] == '\\';
      if (escaped) ++i;
      out += escaped && json[i] == 'n' ? '\n' : json[i];
    }
    return out;
  }
  /// One past the value that starts at `at`: a text, or anything up to the comma or bracket that ends it.
  static std::size_t end_of_value(const std::string& line, std::size_t at) {
    int depth = 0;
    bool in_text = false;
    for (std::size_t i = at; i < line.size(); ++i) {
      const char c = line[i];
      if (in_text && c == '\\') {
        ++i;
      } else if (c == '"') {
        in_text = !in_text;
        if (!in_text && depth == 0) return i + 1;
      } else if (!in_text && (c == '{' || c == '[')) {
        ++depth;
      } else if (!in_text && depth == 0 && (c == ',' || c == '}')) {
        return i;
      } else if (!in_text && (c == '}' || c == ']')) {
        --depth;
        if (depth == 0) return i + 1;
      }
    }
    return std::string::npos;
  }

  std::vector<std::pair<std::string, std::string>> fields_;  ///< key, value as JSON
};

}  // namespace prefixshare::gpu
