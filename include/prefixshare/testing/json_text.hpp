// SPDX-License-Identifier: Apache-2.0
// json_text: as much of JSON as files of real input need, so that the component needs no library for it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// A value. Absent members and elements are null; a value of the wrong kind reads as 0, "" or nothing.
struct Json {
  enum class Kind { null, boolean, number, text, array, object };
  Kind kind = Kind::null;
  double number = 0;
  std::string text;
  std::vector<std::pair<std::string, Json>> members;  ///< of an object, in the file's order
  std::vector<Json> elements;                         ///< of an array

  explicit operator bool() const noexcept { return kind != Kind::null; }
  const Json& operator[](const char* name) const {
    static const Json null;
    for (const auto& [key, value] : members) {
      if (key == name) return value;
    }
    return null;
  }
  std::vector<std::int32_t> integers() const {
    std::vector<std::int32_t> out;
    for (const Json& e : elements) out.push_back(static_cast<std::int32_t>(e.number));
    return out;
  }
};

namespace detail {

/// Recursive descent over a text that ends with a zero; recursion as deep as the text nests, 64 levels at most.
class JsonParser {
 public:
  explicit JsonParser(const char* text) : at_(text) {}

  bool value(Json* out, int depth = 0) {
    space();
    if (depth > 64) return false;
    if (*at_ == '{') return object(out, depth);
    if (*at_ == '[') return array(out, depth);
    if (*at_ == '"') {
      out->kind = Json::Kind::text;
      return string(&out->text);
    }
    if (literal("null")) return true;
    if (literal("true") || literal("false")) {
      out->kind = Json::Kind::boolean;
      return true;
    }
    char* end = nullptr;
    out->number = std::strtod(at_, &end);
    out->kind = Json::Kind::number;
    return std::exchange(at_, end) != end;
  }
  bool at_end() {
    space();
    return *at_ == '\0';
  }

 private:
  void space() {
    while (*at_ != '\0' && std::strchr(" \t\r\n", *at_) != nullptr) ++at_;
  }
  bool take(char c) {
    space();
    return *at_ == c && *at_++ != '\0';
  }
  bool literal(const char* word) {
    const std::size_t length = std::strlen(word);
    if (std::strncmp(at_, word, length) != 0) return false;
    at_ += length;
    return true;
  }

  /// Escapes become the bytes of UTF-8; halves of surrogate pairs three bytes each.
  bool string(std::string* out) {
    for (++at_; *at_ != '"'; ++at_) {
      if (*at_ == '\0') return false;
      if (*at_ != '\\') {
        *out += *at_;
        continue;
      }
      if (*++at_ == '\0') return false;
      static constexpr char kFrom[] = "\"\\/bfnrt", kTo[] = "\"\\/\b\f\n\r\t";
      const char* simple = std::strchr(kFrom, *at_);
      if (simple != nullptr) *out += kTo[simple - kFrom];
      if (simple == nullptr && !code_point(out)) return false;
    }
    ++at_;
    return true;
  }
  /// At the u of \u0041; leaves at_ on the last digit.
  bool code_point(std::string* out) {
    if (*at_ != 'u' || std::strlen(at_) < 5) return false;
    const unsigned long code = std::strtoul(std::string(at_ + 1, 4).c_str(), nullptr, 16);
    at_ += 4;
    const auto tail = [&](int shift) { *out += static_cast<char>(0x80 | (code >> shift & 0x3f)); };
    if (code < 0x80) *out += static_cast<char>(code);
    if (code >= 0x80 && code < 0x800) *out += static_cast<char>(0xc0 | code >> 6);
    if (code >= 0x800) *out += static_cast<char>(0xe0 | code >> 12), tail(6);
    if (code >= 0x80) tail(0);
    return true;
  }

  bool array(Json* out, int depth) {
    out->kind = Json::Kind::array;
    ++at_;
    if (take(']')) return true;
    do {
      out->elements.emplace_back();
      if (!value(&out->elements.back(), depth + 1)) return false;
    } while (take(','));
    return take(']');
  }
  bool object(Json* out, int depth) {
    out->kind = Json::Kind::object;
    ++at_;
    if (take('}')) return true;
    do {
      out->members.emplace_back();
      space();
      if (*at_ != '"' || !string(&out->members.back().first) || !take(':')) return false;
      if (!value(&out->members.back().second, depth + 1)) return false;
    } while (take(','));
    return take('}');
  }

  const char* at_;
};

}  // namespace detail

/// Whether the text is one value, which goes into `*out`.
inline bool parse_json(const std::string& text, Json* out) {
  *out = Json();
  detail::JsonParser parser(text.c_str());
  return parser.value(out) && parser.at_end();
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
