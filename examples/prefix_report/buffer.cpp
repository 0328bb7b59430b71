// SPDX-License-Identifier: Apache-2.0
#include "buffer.hpp"

#include <new>
#include <random>
#include <vector>

namespace prefix_report {

using prefixshare::BFloat16;
using prefixshare::DType;
using prefixshare::Float16;

namespace {

constexpr std::size_t kNormals = 65536;  // a table of draws: random bits pick from it, 16 at a time

template <class T>
std::vector<T> normal_table() {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<T> table(kNormals);
  for (T& x : table) x = prefixshare::store_as<T>(normal(random));
  return table;
}

/// splitmix64 of a counter.
std::uint64_t random_bits(std::uint64_t counter) {
  std::uint64_t x = counter * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

template <class T>
void fill_typed(const prefixshare::Executor& executor, std::uint64_t seed, Buffer* buffer) {
  const std::vector<T> table = normal_table<T>();
  T* out = static_cast<T*>(buffer->data());
  const std::int64_t count = buffer->count();
  parallel_ranges(executor, (count + 3) / 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::uint64_t bits = random_bits((seed << 40) + static_cast<std::uint64_t>(i) + 1);
      for (std::int64_t at = 4 * i; at < 4 * i + 4 && at < count; ++at, bits >>= 16) out[at] = table[bits % kNormals];
    }
  });
}

template <class T>
void convert(const Buffer& buffer, std::int64_t first, std::int64_t count, double* out) {
  const T* x = static_cast<const T*>(buffer.data()) + first;
  for (std::int64_t i = 0; i < count; ++i) out[i] = prefixshare::load_as<double>(x[i]);
}

}  // namespace

Buffer::Buffer(DType dtype, std::int64_t count) : dtype_(dtype), count_(count) {
  const std::size_t bytes = static_cast<std::size_t>(count * size_of(dtype));
  data_.reset(std::aligned_alloc(256, (bytes / 256 + 1) * 256));
  if (!data_) throw std::bad_alloc();
}

void fill_normal(const prefixshare::Executor& executor, std::uint64_t seed, Buffer* buffer) {
  switch (buffer->dtype()) {
    case DType::f64: return fill_typed<double>(executor, seed, buffer);
    case DType::f32: return fill_typed<float>(executor, seed, buffer);
    case DType::f16: return fill_typed<Float16>(executor, seed, buffer);
    case DType::bf16: return fill_typed<BFloat16>(executor, seed, buffer);
  }
}

void to_doubles(const Buffer& buffer, std::int64_t first, std::int64_t count, double* out) {
  switch (buffer.dtype()) {
    case DType::f64: return convert<double>(buffer, first, count, out);
    case DType::f32: return convert<float>(buffer, first, count, out);
    case DType::f16: return convert<Float16>(buffer, first, count, out);
    case DType::bf16: return convert<BFloat16>(buffer, first, count, out);
  }
}

}  // namespace prefix_report
