// SPDX-License-Identifier: Apache-2.0
// Rows between memory and Vec: of any storage type, ends that do not fill a vector, results that go past the caches. Of
// the region whose Vec came before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/region.hpp"
#include "cpu/vector.hpp"
#include "prefixshare/tensor.hpp"

PREFIXSHARE_REGION_BEGIN

inline constexpr std::int64_t kLine = 64;  // bytes of a cache line

/// Asks for a row ahead of use, in the second-level cache; null: for nothing. Always inlined: g++ 12 takes a function
/// that only prefetches for one without effects, and drops its calls.
__attribute__((always_inline)) inline void prefetch_row(const void* row, std::int64_t bytes) noexcept {
  const char* at = static_cast<const char*>(row);
  for (std::int64_t b = 0; at != nullptr && b < bytes; b += kLine) _mm_prefetch(at + b, _MM_HINT_T1);
}

/// How a call stores its results.
struct Stores {
  bool past_caches = false;

  template <class Storage>
  void put(Vec x, Storage* to) const noexcept {
    if (past_caches) {
      x.stream(to);
    } else {
      x.store(to);
    }
  }
  /// Bit for bit; whole lines if past the caches.
  void copy(const void* from, void* to, std::int64_t bytes) const noexcept {
    if (!past_caches) {
      std::memcpy(to, from, static_cast<std::size_t>(bytes));
      return;
    }
    const float* source = static_cast<const float*>(from);
    float* target = static_cast<float*>(to);
    for (std::int64_t i = 0; i < bytes / kLine * 16; i += 16) Vec::load(source + i).stream(target + i);
  }
  /// After the last store of a part, so that who reads next sees what went past the caches.
  void finish() const noexcept {
    if (past_caches) _mm_sfence();
  }
};

/// Outputs from this size on go past the caches: they would not stay there, and a line need not be read to be written.
inline constexpr std::int64_t kPastCachesBytes = std::int64_t{16} << 20;

/// Whether an output of that many rows of whole lines is large.
template <int Rank>
bool goes_past_caches(const TensorView<Rank>& out) noexcept {
  const std::int64_t size = size_of(out.dtype);
  std::int64_t bytes = out.shape[Rank - 1] * size;
  bool whole = reinterpret_cast<std::uintptr_t>(out.data) % kLine == 0 && bytes % kLine == 0;
  for (int d = 0; d + 1 < Rank; ++d) {
    whole = whole && out.stride[d] * size % kLine == 0;
    bytes *= out.shape[d];
  }
  return whole && bytes >= kPastCachesBytes;
}

/// Elements [0, n) of fewer than 16; the other lanes are 0.
template <class Storage>
Vec load_some(const Storage* from, std::int64_t n) noexcept {
  Storage elements[16] = {};
  std::memcpy(elements, from, static_cast<std::size_t>(n) * sizeof(Storage));
  return Vec::load(elements);
}
template <class Storage>
void store_some(Vec x, Storage* to, std::int64_t n) noexcept {
  Storage elements[16];
  x.store(elements);
  std::memcpy(to, elements, static_cast<std::size_t>(n) * sizeof(Storage));
}

/// A row of elements that are not f64.
struct RowIn {
  const void* data;
  DType dtype;

  Vec at(std::int64_t i) const noexcept {
    if (dtype == DType::f32) return Vec::load(as<float>(i));
    return dtype == DType::bf16 ? Vec::load(as<BFloat16>(i)) : Vec::load(as<Float16>(i));
  }
  /// As load_some.
  Vec some_at(std::int64_t i, std::int64_t n) const noexcept {
    if (dtype == DType::f32) return load_some(as<float>(i), n);
    return dtype == DType::bf16 ? load_some(as<BFloat16>(i), n) : load_some(as<Float16>(i), n);
  }

 private:
  template <class Storage>
  const Storage* as(std::int64_t i) const noexcept {
    return static_cast<const Storage*>(data) + i;
  }
};
struct RowOut {
  void* data;
  DType dtype;
  Stores stores;

  void put(Vec x, std::int64_t i) const noexcept {
    if (dtype == DType::f32) return stores.put(x, as<float>(i));
    return dtype == DType::bf16 ? stores.put(x, as<BFloat16>(i)) : stores.put(x, as<Float16>(i));
  }
  void put_some(Vec x, std::int64_t i, std::int64_t n) const noexcept {
    if (dtype == DType::f32) return store_some(x, as<float>(i), n);
    return dtype == DType::bf16 ? store_some(x, as<BFloat16>(i), n) : store_some(x, as<Float16>(i), n);
  }

 private:
  template <class Storage>
  Storage* as(std::int64_t i) const noexcept {
    return static_cast<Storage*>(data) + i;
  }
};

PREFIXSHARE_REGION_END
