// SPDX-License-Identifier: Apache-2.0
// How the units of a call (rows, tokens) are divided among its parts, or among blocks of one size.
#pragma once

#include <cstdint>

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) noexcept { return (a + b - 1) / b; }

struct Range {
  std::int64_t begin;
  std::int64_t end;
};

/// Units of part `part` of `parts`: consecutive, and the sizes of two parts differ by at most one.
constexpr Range part_range(std::int64_t units, std::int32_t part, std::int32_t parts) noexcept {
  const std::int64_t each = units / parts;
  const std::int64_t longer = units % parts;
  const std::int64_t begin = part * each + (part < longer ? part : longer);
  return {begin, begin + each + (part < longer ? 1 : 0)};
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
