// SPDX-License-Identifier: Apache-2.0
// Memory of one dtype, random numbers in it, and loops over an executor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "prefixshare/dtype.hpp"
#include "prefixshare/executor.hpp"
#include "prefixshare/tensor.hpp"

namespace prefix_report {

/// Calls body(begin, end) for pieces of [0, count), a few per thread.
template <class Body>
void parallel_ranges(const prefixshare::Executor& executor, std::int64_t count, const Body& body) {
  if (executor.parallel_for == nullptr) return body(std::int64_t{0}, count);
  struct Pieces {
    const Body& body;
    std::int64_t count;
    std::int64_t pieces;
  } pieces{body, count, std::int64_t{4} * executor.concurrency};
  const auto task = [](void* argument, std::int32_t i) {
    const Pieces& p = *static_cast<const Pieces*>(argument);
    p.body(p.count * i / p.pieces, p.count * (i + 1) / p.pieces);
  };
  executor.parallel_for(executor.user, static_cast<std::int32_t>(pieces.pieces), task, &pieces);
}

/// Elements of a dtype at a 256-byte boundary, uninitialised. Throws std::bad_alloc.
class Buffer {
 public:
  Buffer() = default;
  Buffer(prefixshare::DType dtype, std::int64_t count);

  void* data() const { return data_.get(); }
  prefixshare::DType dtype() const { return dtype_; }
  std::int64_t count() const { return count_; }
  std::int64_t bytes() const { return count_ * size_of(dtype_); }

  /// Row-major view of the whole.
  template <std::size_t Rank>
  prefixshare::TensorView<static_cast<int>(Rank)> view(const std::int64_t (&shape)[Rank]) const {
    auto view = prefixshare::make_view(static_cast<float*>(data()), shape);
    view.dtype = dtype_;
    return view;
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  prefixshare::DType dtype_ = prefixshare::DType::f32;
  std::int64_t count_ = 0;
  std::unique_ptr<void, Free> data_;
};

/// Fills with numbers from N(0, 1): a function of the seed only.
void fill_normal(const prefixshare::Executor& executor, std::uint64_t seed, Buffer* buffer);

/// Elements [first, first + count) as f64.
void to_doubles(const Buffer& buffer, std::int64_t first, std::int64_t count, double* out);

}  // namespace prefix_report
