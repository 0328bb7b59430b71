// SPDX-License-Identifier: Apache-2.0
// kv_append: the keys and values of a step's query rows into the cache, with RoPE.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "prefixshare/kv_append.hpp"
#include "prefixshare/reference/kv_append.hpp"
#include "support/attention_input.hpp"
#include "support/row_case.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

/// A pool of the workload's forest, and fresh keys and values in its type.
class Append {
 public:
  explicit Append(const Problem& p, bool small = false) : kind_(p.kind) {
    Forest forest;
    if (!small) forest = forest_of(*p.workload, p.scale);
    const PoolShape pool = small ? PoolShape{1, 1} : forest.pools[0];
    const std::int64_t rows = small ? 1 : forest.rows(), slots = std::int64_t{pool.page_size} * pool.num_pages;
    slots_.assign(static_cast<std::size_t>(rows), 0);
    positions_.assign(static_cast<std::size_t>(rows), 0);
    if (!small) throw_if_error(append_slots(forest, 0, slots_, positions_));
    k_ = Buffer(rows * kind_.Hkv * kind_.D * size_of(kind_.kv_dtype));
    v_ = Buffer(rows * kind_.Hkv * kind_.Dv * size_of(kind_.kv_dtype));
    NormalVectors(1, kind_.kv_dtype, kind_.D).fill(k_.data(), rows * kind_.Hkv);
    NormalVectors(2, kind_.kv_dtype, kind_.Dv).fill(v_.data(), rows * kind_.Hkv);
    require_memory(static_cast<double>(slots * kind_.Hkv * (kind_.D + kind_.Dv) * size_of(kind_.kv_dtype)));
    pool_k_ = Buffer(slots * kind_.Hkv * kind_.D * size_of(kind_.kv_dtype));
    pool_v_ = Buffer(slots * kind_.Hkv * kind_.Dv * size_of(kind_.kv_dtype));
    for (int i = 0; i < kind_.D / 2; ++i) inv_freq_.push_back(std::pow(500000.0, -2.0 * i / kind_.D));
    rope_.inv_freq = inv_freq_;
    rope_.dim = kind_.D / 2 * 2;
    args_.k = view_of<3>(k_, kind_.kv_dtype, {rows, kind_.Hkv, kind_.D});
    args_.v = view_of<3>(v_, kind_.kv_dtype, {rows, kind_.Hkv, kind_.Dv});
    args_.pool.k = view_of<4>(pool_k_, kind_.kv_dtype, {pool.num_pages, pool.page_size, kind_.Hkv, kind_.D});
    args_.pool.v = view_of<4>(pool_v_, kind_.kv_dtype, {pool.num_pages, pool.page_size, kind_.Hkv, kind_.Dv});
    args_.slots = slots_;
    args_.positions = positions_;
    args_.rope = &rope_;
  }
  Append(const Append&) = delete;
  Append& operator=(const Append&) = delete;

  const KvAppend& args() const { return args_; }
  Status call(const Context& context) const { return kv_append(context, args_); }
  /// The first rows against the reference, which appends them to a pool of f64 one after the other.
  testing::Comparison check() const {
    KvAppend first = args_;
    first.k = first_rows(args_.k);
    first.v = first_rows(args_.v);
    const std::int64_t rows = first.k.shape[0];
    std::vector<std::int64_t> in_order(static_cast<std::size_t>(rows));
    std::iota(in_order.begin(), in_order.end(), 0);
    for (std::int64_t t = 0; t < rows; ++t) {
      if (args_.slots[t] < 0) in_order[static_cast<std::size_t>(t)] = -1;  // another row's to write: NaN in both
    }
    first.slots = in_order;
    first.positions = first.positions.subspan(0, rows);
    const testing::Tensor<4> k(DType::f64, {1, rows, kind_.Hkv, kind_.D}),
        v(DType::f64, {1, rows, kind_.Hkv, kind_.Dv});
    first.pool.k = k.view();
    first.pool.v = v.view();
    throw_if_error(reference::kv_append(first));
    double furthest = 1;
    for (std::int64_t t = 0; t < rows; ++t) furthest = std::max(furthest, static_cast<double>(first.positions[t]));
    const double tolerance = testing::rope_tolerance(DType::f32, furthest);
    testing::Comparison whole;
    testing::detail::include("k", compare_vectors(stored(args_.pool.k, rows), testing::to_doubles(k.view()), tolerance),
                             &whole);
    testing::detail::include("v", compare_vectors(stored(args_.pool.v, rows), testing::to_doubles(v.view()), tolerance),
                             &whole);
    return whole;
  }
  std::int64_t bytes() const {
    const auto written = std::count_if(slots_.begin(), slots_.end(), [](std::int64_t slot) { return slot >= 0; });
    return 2 * std::int64_t{written} * kind_.Hkv * (kind_.D + kind_.Dv) * size_of(kind_.kv_dtype);
  }

 private:
  /// The first rows as they lie in the pool, gathered.
  TensorView<4> stored(const TensorView<4>& pool, std::int64_t rows) const {
    const std::int64_t row = kind_.Hkv * pool.shape[3] * size_of(pool.dtype);
    gathered_ = Buffer(rows * row);
    for (std::int64_t t = 0; t < rows; ++t) {
      if (args_.slots[t] < 0) continue;
      std::memcpy(gathered_.as<char>() + t * row, static_cast<const char*>(pool.data) + args_.slots[t] * row,
                  static_cast<std::size_t>(row));
    }
    return view_of<4>(gathered_, pool.dtype, {1, rows, kind_.Hkv, pool.shape[3]});
  }

  LayerKind kind_;
  std::vector<std::int64_t> slots_;
  std::vector<std::int32_t> positions_;
  std::vector<double> inv_freq_;
  RopeTable rope_;
  Buffer k_, v_, pool_k_, pool_v_;
  mutable Buffer gathered_;
  KvAppend args_;
};

}  // namespace

void register_kv_append(Session* session) { register_rows<Append>(session, "kv_append", session->context.kv_append); }

}  // namespace prefixshare::bench
