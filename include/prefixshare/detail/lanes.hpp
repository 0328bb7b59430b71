// SPDX-License-Identifier: Apache-2.0
// The two register-blocked loops of attention in plain C++: dot products of rows, and weighted sums of rows. 16-byte
// lanes through the compiler's vector types where there are some. The order of every sum is fixed: it depends neither
// on the block shape nor on the other rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// 16 bytes of T. Loaded and stored unaligned.
template <class T>
struct Lanes {
  static constexpr int kCount = 16 / static_cast<int>(sizeof(T));
#if defined(__GNUC__)
  typedef T Register __attribute__((vector_size(16)));
  Register v = {};
  void multiply_add(const Lanes& a, const Lanes& b) noexcept { v += a.v * b.v; }
  void multiply_add(T a, const Lanes& b) noexcept { v += a * b.v; }
#else
  T v[std::size_t{kCount}] = {};
  void multiply_add(const Lanes& a, const Lanes& b) noexcept {
    for (int i = 0; i < kCount; ++i) v[i] += a.v[i] * b.v[i];
  }
  void multiply_add(T a, const Lanes& b) noexcept {
    for (int i = 0; i < kCount; ++i) v[i] += a * b.v[i];
  }
#endif
  /// Per lane the larger; a NaN in `x` loses against a number.
  void keep_larger(const Lanes& x) noexcept {
#if defined(__GNUC__)
    v = x.v > v ? x.v : v;
#else
    for (int i = 0; i < kCount; ++i) v[i] = x.v[i] > v[i] ? x.v[i] : v[i];
#endif
  }
  void load(const T* from) noexcept { std::memcpy(&v, from, 16); }
  void store(T* to) const noexcept { std::memcpy(to, &v, 16); }
  T sum() const noexcept {
    T x[std::size_t{kCount}];
    std::memcpy(x, &v, 16);
    if constexpr (kCount == 4) {
      return (x[0] + x[1]) + (x[2] + x[3]);
    } else {
      return x[0] + x[1];
    }
  }
};

/// s[r * stride + c] = a[r] . b[c] over n elements.
template <class T, int Rows, int Columns>
inline void dot_block(const T* const* a, const T* const* b, std::int64_t n, T* s, std::int64_t stride) noexcept {
  Lanes<T> sums[std::size_t{Rows}][std::size_t{Columns}];
  constexpr int kStep = Lanes<T>::kCount;
  const std::int64_t whole = n / kStep * kStep;
  for (std::int64_t d = 0; d < whole; d += kStep) {
    Lanes<T> x[std::size_t{Rows}], y[std::size_t{Columns}];
    for (int r = 0; r < Rows; ++r) x[r].load(a[r] + d);
    for (int c = 0; c < Columns; ++c) y[c].load(b[c] + d);
    for (int r = 0; r < Rows; ++r) {
      for (int c = 0; c < Columns; ++c) sums[r][c].multiply_add(x[r], y[c]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) {
      T sum = sums[r][c].sum();
      for (std::int64_t d = whole; d < n; ++d) sum += a[r][d] * b[c][d];
      s[r * stride + c] = sum;
    }
  }
}

/// s[r * stride + c] = a[r] . b[c] for all rows of two lists of row pointers.
template <class T>
void dot_rows(const T* const* a, std::int64_t rows, const T* const* b, std::int64_t columns, std::int64_t n, T* s,
              std::int64_t stride) noexcept {
  std::int64_t c = 0;
  for (; c + 4 <= columns; c += 4) {
    std::int64_t r = 0;
    for (; r + 2 <= rows; r += 2) dot_block<T, 2, 4>(a + r, b + c, n, s + r * stride + c, stride);
    for (; r < rows; ++r) dot_block<T, 1, 4>(a + r, b + c, n, s + r * stride + c, stride);
  }
  for (; c < columns; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) dot_block<T, 1, 1>(a + r, b + c, n, s + r * stride + c, stride);
  }
}

/// Weights of a weighted sum: element (row, term) is data[row * row_stride + term * term_stride].
template <class T>
struct Weights {
  const T* data;
  std::int64_t row_stride;
  std::int64_t term_stride;
};

/// Columns [at, at + Columns lanes) of y[r] += sum_t w(r, t) x[t], terms in ascending order.
template <class T, int Rows, int Columns>
inline void add_block(Weights<T> w, const T* const* x, std::int64_t terms, T* const* y, std::int64_t at) noexcept {
  constexpr int kStep = Lanes<T>::kCount;
  Lanes<T> sums[std::size_t{Rows}][std::size_t{Columns}];
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) sums[r][c].load(y[r] + at + c * kStep);
  }
  for (std::int64_t t = 0; t < terms; ++t) {
    Lanes<T> row[std::size_t{Columns}];
    for (int c = 0; c < Columns; ++c) row[c].load(x[t] + at + c * kStep);
    for (int r = 0; r < Rows; ++r) {
      const T weight = w.data[r * w.row_stride + t * w.term_stride];
      for (int c = 0; c < Columns; ++c) sums[r][c].multiply_add(weight, row[c]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) sums[r][c].store(y[r] + at + c * kStep);
  }
}

template <class T, int Rows>
void add_rows_of(Weights<T> w, const T* const* x, std::int64_t terms, T* const* y, std::int64_t n) noexcept {
  constexpr int kStep = Lanes<T>::kCount;
  std::int64_t d = 0;
  for (; d + 2 * kStep <= n; d += 2 * kStep) add_block<T, Rows, 2>(w, x, terms, y, d);
  for (; d + kStep <= n; d += kStep) add_block<T, Rows, 1>(w, x, terms, y, d);
  for (; d < n; ++d) {
    for (int r = 0; r < Rows; ++r) {
      T sum = y[r][d];
      for (std::int64_t t = 0; t < terms; ++t) sum += w.data[r * w.row_stride + t * w.term_stride] * x[t][d];
      y[r][d] = sum;
    }
  }
}

/// y[r] += sum_t w(r, t) x[t] for `rows` rows of n elements, terms in ascending order.
template <class T>
void add_rows(Weights<T> w, const T* const* x, std::int64_t terms, T* const* y, std::int64_t rows,
              std::int64_t n) noexcept {
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    add_rows_of<T, 4>({w.data + r * w.row_stride, w.row_stride, w.term_stride}, x, terms, y + r, n);
  }
  for (; r < rows; ++r) {
    add_rows_of<T, 1>({w.data + r * w.row_stride, w.row_stride, w.term_stride}, x, terms, y + r, n);
  }
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
