// SPDX-License-Identifier: Apache-2.0
// Rows of tensors as the kernels of the operators on rows move them: a chunk of consecutive elements per thread and
// step, up to 16 bytes. f64 has its own arithmetic, which none of these kernels does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "prefixshare/cuda/ptx.cuh"
#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/detail/validate.hpp"
#include "prefixshare/dtype.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/tensor.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr int kRowThreads = 128;  // of a block: small enough for many, so that one's wait is another's work

// ---- On the host ---------------------------------------------------------------------------------------------------

/// How many elements are a chunk: the most of 8, 4 and 1 that all rows of a call allow. Chunks of 8 are of 16-bit
/// elements; chunks of 4 need as many bytes of alignment as they have.
class ChunkWidth {
 public:
  /// Chunks start at multiples of the width, counted in elements of a row, and are whole.
  void fit(std::int64_t elements) noexcept {
    while (elements % width_ != 0) width_ = width_ == 8 ? 4 : 1;
  }
  /// And lie at multiples of their size in memory.
  template <int Rank>
  void fit(const TensorView<Rank>& rows) noexcept {
    if (!rows) return;
    const int size = size_of(rows.dtype);
    if (size == 4 && width_ == 8) width_ = 4;
    while (reinterpret_cast<std::uintptr_t>(rows.data) % static_cast<unsigned>(width_ * size) != 0) {
      width_ = width_ == 8 ? 4 : 1;
    }
    for (int d = 0; d + 1 < Rank; ++d) {
      if (rows.shape[d] > 1) fit(rows.stride[d]);
    }
    fit(rows.shape[Rank - 1]);
  }
  int width() const noexcept { return width_; }

  /// f(integral constant): the width as a template argument.
  template <class F>
  Status call(F&& f) const {
    switch (width_) {
      case 8: return f(std::integral_constant<int, 8>{});
      case 4: return f(std::integral_constant<int, 4>{});
      default: return f(std::integral_constant<int, 1>{});
    }
  }

 private:
  int width_ = 8;
};

/// Blocks of a launch, which are counted in 32 bits.
inline Status check_blocks(detail::Where at, std::int64_t blocks) noexcept {
  constexpr std::int64_t kMost = 0x7fffffff;
  if (blocks <= kMost) return {};
  return detail::failure(at, "blocks", blocks, "<=", kMost, StatusUnit::number, StatusCode::capacity_exceeded);
}
/// Chunks that one thread block walks through, which kernels count in 32 bits.
inline Status check_chunks(detail::Where at, std::initializer_list<std::int64_t> factors) noexcept {
  constexpr std::int64_t kMost = std::int64_t{1} << 24;
  std::int64_t chunks = 1;
  for (const std::int64_t factor : factors) chunks = detail::checked_product(chunks, factor);
  if (chunks >= 0 && chunks <= kMost) return {};
  return detail::failure(at, "elements", chunks, "<=", kMost, StatusUnit::number, StatusCode::unsupported);
}

// ---- Parameters ----------------------------------------------------------------------------------------------------

/// Rows [rows, heads, width] of a tensor; strides in bytes.
struct HeadRows {
  unsigned char* data;
  std::int64_t row;
  std::int64_t head;
  DType dtype;

  /// Element `i` of a row.
  PREFIXSHARE_HD unsigned char* at(std::int64_t r, std::int64_t h, std::int64_t i) const {
    return data + r * row + h * head + i * size_of(dtype);
  }
};
inline HeadRows head_rows(const TensorView<3>& rows) noexcept {
  const std::int64_t size = size_of(rows.dtype);
  return {static_cast<unsigned char*>(rows.data), rows.stride[0] * size, rows.stride[1] * size, rows.dtype};
}

/// f32 numbers [rows, heads]; strides in elements. data null: absent.
struct HeadNumbers {
  float* data;
  std::int64_t row;
  std::int64_t head;

  PREFIXSHARE_HD float* at(std::int64_t r, std::int64_t h) const { return data + r * row + h * head; }
};
inline HeadNumbers head_numbers(const TensorView<2>& numbers) noexcept {
  return {static_cast<float*>(numbers.data), numbers.stride[0], numbers.stride[1]};
}

/// How the rows of a cache [num_pages, page_size, heads, width] lie; strides in bytes.
struct PageRows {
  std::int64_t page;
  std::int64_t slot;
  std::int64_t head;

  PREFIXSHARE_HD std::int64_t at(std::int64_t which, std::int64_t slot_in_page, std::int64_t h) const {
    return which * page + slot_in_page * slot + h * head;
  }
  bool operator==(const PageRows& o) const noexcept { return page == o.page && slot == o.slot && head == o.head; }
};
inline PageRows page_rows(const TensorView<4>& cache) noexcept {
  const std::int64_t size = size_of(cache.dtype);
  return {cache.stride[0] * size, cache.stride[1] * size, cache.stride[2] * size};
}

// ---- On the device -------------------------------------------------------------------------------------------------

struct alignas(8) Words2 {
  std::uint32_t x, y;
};

/// N numbers in registers.
template <int N>
using Floats = float[static_cast<std::size_t>(N)];

/// The elements of a chunk as they lie in memory. 16-bit elements lie two in a word, a single one in its lower half.
template <int Width>
struct Chunk {
  static_assert(Width == 8 || Width == 4 || Width == 1);
  std::uint32_t words[std::size_t{Width == 1 ? 1 : 4}];

  PREFIXSHARE_DEVICE void load(const unsigned char* from, DType type) {
    if constexpr (Width == 1) {
      words[0] = type == DType::f32 ? *reinterpret_cast<const std::uint32_t*>(from)
                                    : *reinterpret_cast<const std::uint16_t*>(from);
    } else if (Width == 8 || type == DType::f32) {
      const ptx::Words4 all = ptx::load_once(reinterpret_cast<const ptx::Words4*>(from));
      words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
    } else {
      const Words2 all = *reinterpret_cast<const Words2*>(from);
      words[0] = all.x, words[1] = all.y;
    }
  }
  PREFIXSHARE_DEVICE void store(unsigned char* to, DType type) const {
    if constexpr (Width == 1) {
      if (type == DType::f32) {
        *reinterpret_cast<std::uint32_t*>(to) = words[0];
      } else {
        *reinterpret_cast<std::uint16_t*>(to) = static_cast<std::uint16_t>(words[0]);
      }
    } else if (Width == 8 || type == DType::f32) {
      *reinterpret_cast<ptx::Words4*>(to) = {words[0], words[1], words[2], words[3]};
    } else {
      *reinterpret_cast<Words2*>(to) = {words[0], words[1]};
    }
  }

  PREFIXSHARE_DEVICE void to_floats(DType type, Floats<Width>& x) const {
    if constexpr (Width != 8) {
      if (type == DType::f32) {
        for (int i = 0; i < Width; ++i) x[i] = detail::bit_cast<float>(words[i]);
        return;
      }
    }
    return type == DType::bf16 ? halves_to_floats<BFloat16>(x) : halves_to_floats<Float16>(x);
  }
  /// One rounding, to nearest even.
  PREFIXSHARE_DEVICE void from_floats(DType type, const Floats<Width>& x) {
    if constexpr (Width != 8) {
      if (type == DType::f32) {
        for (int i = 0; i < Width; ++i) words[i] = detail::bit_cast<std::uint32_t>(x[i]);
        return;
      }
    }
    return type == DType::bf16 ? halves_from_floats<BFloat16>(x) : halves_from_floats<Float16>(x);
  }

 private:
  template <class T>
  PREFIXSHARE_DEVICE void halves_to_floats(Floats<Width>& x) const {
    for (int i = 0; i < Width; ++i) {
      x[i] = ptx::to_float<T>(static_cast<std::uint16_t>(i % 2 == 0 ? words[i / 2] & 0xffffu : words[i / 2] >> 16));
    }
  }
  template <class T>
  PREFIXSHARE_DEVICE void halves_from_floats(const Floats<Width>& x) {
    if constexpr (Width == 1) {
      words[0] = ptx::from_float<T>(x[0]);
    } else {
      for (int i = 0; i < Width / 2; ++i) words[i] = ptx::pack<T>(x[2 * i], x[2 * i + 1]);
    }
  }
};

/// N floats of shared memory, at a multiple of their size or of 16 bytes.
template <int N>
PREFIXSHARE_DEVICE void load_floats(const float* from, Floats<N>& x) {
  if constexpr (N % 4 == 0) {
    for (int i = 0; i < N; i += 4) {
      const ptx::Float4 four = *reinterpret_cast<const ptx::Float4*>(from + i);
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
  } else {
    for (int i = 0; i < N; ++i) x[i] = from[i];
  }
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
