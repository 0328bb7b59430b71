// SPDX-License-Identifier: Apache-2.0
// What the reference computes with: f64 matrices, and the way from stored tensors to them and back.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <new>

#include "prefixshare/dtype.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/tensor.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace reference {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using RowVector = Eigen::RowVectorXd;
using Vector = Eigen::VectorXd;

/// One stored element.
inline double load(const void* data, DType type) {
  return prefixshare::detail::with_storage(
      type, [&](auto tag) { return load_as<double>(*static_cast<const decltype(tag)*>(data)); });
}

/// `count` consecutive stored elements.
inline RowVector load_row(const void* data, DType type, std::int64_t count) {
  RowVector row(count);
  prefixshare::detail::with_storage(type, [&](auto tag) {
    const auto* x = static_cast<const decltype(tag)*>(data);
    for (std::int64_t i = 0; i < count; ++i) row[i] = load_as<double>(x[i]);
  });
  return row;
}

/// Heads [head, head + count) of one row of `x` [rows, H, D], as a [count, D] matrix.
inline Matrix load_heads(const TensorView<3>& x, std::int64_t row, std::int64_t head, std::int64_t count) {
  Matrix heads(count, x.shape[2]);
  for (std::int64_t h = 0; h < count; ++h) heads.row(h) = load_row(x.ptr(row, head + h), x.dtype, x.shape[2]);
  return heads;
}

/// Stores consecutive elements, each rounded once; `accumulate` adds what is there before the rounding.
inline void store_row(void* data, DType type, const RowVector& row, bool accumulate = false) {
  prefixshare::detail::with_storage(type, [&](auto tag) {
    using Storage = decltype(tag);
    auto* x = static_cast<Storage*>(data);
    for (std::int64_t i = 0; i < row.size(); ++i) {
      x[i] = store_as<Storage>(accumulate ? load_as<double>(x[i]) + row[i] : row[i]);
    }
  });
}

/// Stores a [count, D] matrix as heads [head, head + count) of one row of `x`.
inline void store_heads(const TensorView<3>& x, std::int64_t row, std::int64_t head, const Matrix& heads,
                        bool accumulate = false) {
  for (std::int64_t h = 0; h < heads.rows(); ++h) store_row(x.ptr(row, head + h), x.dtype, heads.row(h), accumulate);
}

/// std::exp of each element: exact at 0 and at -inf, NaN stays NaN, which Eigen's vector form does not promise.
template <class Expression>
Matrix exp_of(const Eigen::MatrixBase<Expression>& x) {
  return x.unaryExpr([](double value) { return std::exp(value); });
}

/// Runs body(u) for the units of part `i` of `n`: an even, contiguous cut of [0, count).
/// Eigen allocates: the lack of memory is caught here and nowhere else.
template <class Body>
Status run_part(const char* op, std::int64_t count, std::int32_t i, std::int32_t n, Body&& body) noexcept {
  try {
    for (std::int64_t u = count * i / n; u < count * (i + 1) / n; ++u) body(u);
  } catch (const std::bad_alloc&) {
    Status s;
    s.code = StatusCode::out_of_memory;
    s.op = op;
    s.argument = "reference";
    return s;
  }
  return {};
}

}  // namespace reference
}  // namespace v0_1
}  // namespace prefixshare
