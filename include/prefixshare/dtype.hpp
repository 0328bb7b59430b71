// SPDX-License-Identifier: Apache-2.0
// Storage types and their conversions. Arithmetic is never done in the 16-bit types.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "prefixshare/detail/macros.hpp"

namespace prefixshare {
inline namespace v0_1 {

enum class DType : std::uint8_t { f64, f32, f16, bf16 };

/// Bytes of one element.
PREFIXSHARE_HD constexpr int size_of(DType t) noexcept { return t == DType::f64 ? 8 : t == DType::f32 ? 4 : 2; }
constexpr bool is_valid(DType t) noexcept { return static_cast<int>(t) < 4; }
constexpr const char* to_string(DType t) noexcept {
  return t == DType::f64 ? "f64" : t == DType::f32 ? "f32" : t == DType::f16 ? "f16" : t == DType::bf16 ? "bf16" : "?";
}

/// IEEE 754 binary16, stored as bits.
struct Float16 {
  std::uint16_t bits;
};
/// bfloat16: the upper half of an f32, stored as bits.
struct BFloat16 {
  std::uint16_t bits;
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<Float16> {
  static constexpr DType value = DType::f16;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::bf16;
};
template <class T>
inline constexpr DType dtype_of = DTypeOf<std::remove_const_t<T>>::value;

namespace detail {

template <class To, class From>
PREFIXSHARE_HD To bit_cast(From from) noexcept {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace detail

/// Exact. NaN payloads keep their upper bits.
inline float to_float(BFloat16 x) noexcept { return detail::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }

/// Exact, subnormals included; branch-free so that loops over it vectorise.
inline float to_float(Float16 x) noexcept {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(x.bits & 0x7fffu) << 13;
  const float scaled = detail::bit_cast<float>(magnitude) * 0x1p112f;  // moves the exponent bias from 15 to 127
  const std::uint32_t finite = detail::bit_cast<std::uint32_t>(scaled);
  const std::uint32_t special = (x.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;  // infinity and NaN
  return detail::bit_cast<float>(finite | special | static_cast<std::uint32_t>(x.bits & 0x8000u) << 16);
}

/// f32 to bf16, round to nearest even; NaN stays NaN (quiet), overflow gives infinity.
inline BFloat16 to_bfloat16(float x) noexcept {
  const std::uint32_t u = detail::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const std::uint32_t quiet = (u >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}

/// f32 to f16, round to nearest even into subnormals too; NaN stays NaN (quiet), overflow gives infinity.
inline Float16 to_float16(float x) noexcept {
  const std::uint32_t u = detail::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (u >> 16) & 0x8000u;
  const std::uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu))};
  if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // >= 65520 rounds to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: one f32 addition at the subnormal's unit rounds exactly
    const float units = detail::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<std::uint16_t>(sign | (detail::bit_cast<std::uint32_t>(units) - 0x3f000000u))};
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u;
  return {static_cast<std::uint16_t>(sign | (rounded >> 13))};
}

namespace detail {

/// f64 to f32 rounding to odd: a later rounding to 16 bits is then the one correct rounding of the f64 value.
inline float to_float_odd(double x) noexcept {
  const float nearest = static_cast<float>(x);
  if (!(x == x) || static_cast<double>(nearest) == x) return nearest;
  std::uint32_t bits = bit_cast<std::uint32_t>(nearest);
  const double magnitude = x < 0 ? -x : x;
  const double rounded = nearest < 0 ? -static_cast<double>(nearest) : static_cast<double>(nearest);
  if (rounded > magnitude) --bits;  // towards zero (infinity becomes the largest finite)
  return bit_cast<float>(bits | 1u);
}

}  // namespace detail

/// Storage to arithmetic type. Exact except f64 to f32, which rounds to nearest even.
template <class Acc, class Storage>
Acc load_as(Storage x) noexcept {
  if constexpr (std::is_same_v<Storage, Float16> || std::is_same_v<Storage, BFloat16>) {
    return static_cast<Acc>(to_float(x));
  } else {
    return static_cast<Acc>(x);
  }
}

/// Arithmetic type to storage: one rounding, to nearest even.
template <class Storage, class Acc>
Storage store_as(Acc x) noexcept {
  if constexpr (std::is_same_v<Storage, Float16> || std::is_same_v<Storage, BFloat16>) {
    float f;
    if constexpr (std::is_same_v<Acc, double>) {
      f = detail::to_float_odd(x);
    } else {
      f = x;
    }
    if constexpr (std::is_same_v<Storage, Float16>) {
      return to_float16(f);
    } else {
      return to_bfloat16(f);
    }
  } else {
    return static_cast<Storage>(x);
  }
}

namespace detail {

/// Calls f(tag) with a value of the storage type that `t` names.
template <class F>
auto with_storage(DType t, F&& f) {
  switch (t) {
    case DType::f64: return f(double{});
    case DType::f16: return f(Float16{});
    case DType::bf16: return f(BFloat16{});
    case DType::f32: break;
  }
  return f(float{});
}

}  // namespace detail

}  // namespace v0_1
}  // namespace prefixshare
