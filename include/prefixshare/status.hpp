// SPDX-License-Identifier: Apache-2.0
// Status: what every fallible call returns. Trivially copyable, allocates nothing; text is made in to_string only.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace prefixshare {
inline namespace v0_1 {

enum class StatusCode : std::uint8_t {
  ok,
  invalid_argument,     ///< wrong everywhere: no implementation could accept it
  unsupported,          ///< valid, but not by the implementation that was asked
  backend_unavailable,  ///< no implementation for that memory space in this build or on this machine
  workspace_too_small,  ///< the workspace is missing, not initialised or short
  stale_plan,           ///< the plan was made for another forest or another library version
  capacity_exceeded,    ///< an actual length or a count is beyond what the plan or the index type holds
  out_of_memory,        ///< a builder could not allocate
  device_error          ///< a launch failed
};

/// What `got` and `want` count, so that the text reads in the right words.
enum class StatusUnit : std::uint8_t { number, dtype, space, bytes, pointer };

/// Result of a call: ok, or which operator refused which argument, what it got and what it wanted.
/// All strings are literals. `relation` says how `got` had to relate to `want` ("==", ">=", "<", "one of", ...).
struct [[nodiscard]] Status {
  StatusCode code = StatusCode::ok;
  StatusUnit unit = StatusUnit::number;
  const char* op = "";        ///< operator, e.g. "tree_attention"
  const char* argument = "";  ///< argument, e.g. "q" or "kv.k"
  const char* field = "";     ///< part of the argument, e.g. "shape[1]"; may be empty
  const char* relation = "==";
  std::int64_t index = -1;  ///< element of an array argument; -1 when the argument is not an array
  std::int64_t got = 0;
  std::int64_t want = 0;

  constexpr bool ok() const noexcept { return code == StatusCode::ok; }
  constexpr explicit operator bool() const noexcept {
    return code != StatusCode::ok;
  }  ///< true on failure: `if (Status s = f()) return s;`
};

constexpr const char* to_string(StatusCode code) noexcept {
  switch (code) {
    case StatusCode::ok: return "ok";
    case StatusCode::invalid_argument: return "invalid_argument";
    case StatusCode::unsupported: return "unsupported";
    case StatusCode::backend_unavailable: return "backend_unavailable";
    case StatusCode::workspace_too_small: return "workspace_too_small";
    case StatusCode::stale_plan: return "stale_plan";
    case StatusCode::capacity_exceeded: return "capacity_exceeded";
    case StatusCode::out_of_memory: return "out_of_memory";
    case StatusCode::device_error: return "device_error";
  }
  return "unknown";
}

namespace detail {

inline std::string quantity(StatusUnit unit, std::int64_t value) {
  static constexpr const char* kDTypes[] = {"f64", "f32", "f16", "bf16"};
  static constexpr const char* kSpaces[] = {"host", "device"};
  switch (unit) {
    case StatusUnit::dtype: return value >= 0 && value < 4 ? kDTypes[value] : "dtype " + std::to_string(value);
    case StatusUnit::space: return value >= 0 && value < 2 ? kSpaces[value] : "space " + std::to_string(value);
    case StatusUnit::bytes: return std::to_string(value) + " bytes";
    case StatusUnit::pointer: return value ? "a pointer" : "null";
    case StatusUnit::number: break;
  }
  return std::to_string(value);
}

}  // namespace detail

/// One line: "tree_attention: q.shape[1] got 8, want == 32 (invalid_argument)". Allocates the string.
inline std::string to_string(const Status& s) {
  if (s.ok()) return "ok";
  std::string text = std::string(s.op) + ": " + s.argument;
  if (s.index >= 0) text += "[" + std::to_string(s.index) + "]";
  if (*s.field) text += std::string(".") + s.field;
  text += " got " + detail::quantity(s.unit, s.got) + ", want " + s.relation + " " + detail::quantity(s.unit, s.want);
  return text + " (" + to_string(s.code) + ")";
}

/// For callers that like exceptions.
inline void throw_if_error(const Status& s) {
  if (!s.ok()) throw std::runtime_error(to_string(s));
}

}  // namespace v0_1
}  // namespace prefixshare
