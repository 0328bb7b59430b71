// SPDX-License-Identifier: Apache-2.0
// A batch in memory as an engine holds it, and a planned call on it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/testing/problem.hpp"
#include "prefixshare/testing/workload.hpp"
#include "prefixshare/tree_attention.hpp"
#include "support/buffer.hpp"
#include "support/machine.hpp"

namespace prefixshare::bench {

/// Vectors of normal numbers, cut from a table at random places: as good as fresh ones, and a hundred times faster.
class NormalVectors {
 public:
  NormalVectors(std::uint64_t seed, DType dtype, std::int64_t width)
      : random_(seed), width_(width), table_(dtype, {kTable + width}) {
    table_.fill_normal(&random_);
  }
  /// Fills `count` vectors at `to`.
  void fill(void* to, std::int64_t count) {
    const std::int64_t size = size_of(table_.view().dtype);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::int64_t>(random_.next() % kTable);
      std::memcpy(static_cast<char*>(to) + i * width_ * size, table_.view().ptr(at),
                  static_cast<std::size_t>(width_ * size));
    }
  }

 private:
  static constexpr std::int64_t kTable = 1 << 16;
  testing::Random random_;
  std::int64_t width_;
  testing::Tensor<1> table_;
};

template <int Rank>
TensorView<Rank> view_of(const Buffer& buffer, DType dtype, const std::int64_t (&shape)[std::size_t{Rank}]) {
  TensorView<Rank> v = make_view(buffer.as<float>(), shape);
  v.dtype = dtype;
  return v;
}

/// Throws where memory does not suffice: the system would give it and then end the process.
inline void require_memory(double bytes) {
  const double there = static_cast<double>(available_bytes());
  if (there > 0 && bytes > there) {
    throw std::runtime_error("needs " + std::to_string(static_cast<std::int64_t>(bytes) >> 20) + " MiB of memory, " +
                             std::to_string(available_bytes() >> 20) + " are there");
  }
}

inline Forest forest_of(const testing::Workload& workload, std::int32_t scale = 1) {
  Forest forest;
  throw_if_error(testing::make_forest(workload, scale, &forest));
  return forest;
}

/// One layer of a batch: K and V of every slot, queries, outputs.
class AttentionInput {
 public:
  AttentionInput() = default;
  AttentionInput(Forest forest, const LayerKind& kind, bool head_major = false)
      : kind_(kind), forest_(std::move(forest)), head_major_(head_major) {
    require_memory(static_cast<double>(bytes()));
    allocate();
    NormalVectors(1, kind.q_dtype, kind.D).fill(q_.data(), forest_.rows() * std::int64_t{kind.Hq});
    NormalVectors keys(2, kind.kv_dtype, kind.D), values(3, kind.kv_dtype, kind.Dv);
    for (std::size_t p = 0; p < k_.size(); ++p) {
      keys.fill(k_[p].data(), slots(p) * kind.Hkv);
      values.fill(v_[p].data(), slots(p) * kind.Hkv);
    }
  }
  /// The same numbers in other memory.
  AttentionInput copy() const {
    AttentionInput c;
    c.kind_ = kind_;
    c.forest_ = forest_;
    c.head_major_ = head_major_;
    c.allocate();
    c.q_.copy_from(q_);
    for (std::size_t p = 0; p < k_.size(); ++p) c.k_[p].copy_from(k_[p]), c.v_[p].copy_from(v_[p]);
    return c;
  }

  const Forest& forest() const noexcept { return forest_; }
  const LayerKind& kind() const noexcept { return kind_; }
  /// Arguments without a workspace. Valid while the input lives and is not moved.
  Attend attend() const {
    const std::int64_t rows = forest_.rows();
    Attend args;
    args.q = view_of<3>(q_, kind_.q_dtype, {rows, kind_.Hq, kind_.D});
    args.kv = pools_;
    args.o = view_of<3>(o_, kind_.q_dtype, {rows, kind_.Hq, kind_.Dv});
    args.lse = view_of<2>(lse_, kind_.acc_dtype(), {rows, kind_.Hq});
    return args;
  }
  void poison_outputs() { o_.poison(), lse_.poison(); }

  /// Bytes of K, V, q, o and lse, each token once.
  double distinct_bytes() const {
    ForestStats stats;
    throw_if_error(forest_stats(forest_, &stats));
    return static_cast<double>(stats.unique_tokens * token_bytes() + stats.rows * row_bytes());
  }

 private:
  std::int64_t token_bytes() const { return std::int64_t{kind_.Hkv} * (kind_.D + kind_.Dv) * size_of(kind_.kv_dtype); }
  std::int64_t row_bytes() const {
    return kind_.Hq * (std::int64_t{kind_.D + kind_.Dv} * size_of(kind_.q_dtype) + size_of(kind_.acc_dtype()));
  }
  std::int64_t slots(std::size_t pool) const {
    return std::int64_t{forest_.pools[pool].page_size} * forest_.pools[pool].num_pages;
  }
  std::int64_t bytes() const {
    std::int64_t all = forest_.rows() * row_bytes();
    for (std::size_t p = 0; p < forest_.pools.size(); ++p) all += slots(p) * token_bytes();
    return all;
  }

  void allocate() {
    const std::int64_t rows = forest_.rows();
    q_ = Buffer(rows * kind_.Hq * kind_.D * size_of(kind_.q_dtype));
    o_ = Buffer(rows * kind_.Hq * kind_.Dv * size_of(kind_.q_dtype));
    lse_ = Buffer(rows * kind_.Hq * size_of(kind_.acc_dtype()));
    for (std::size_t p = 0; p < forest_.pools.size(); ++p) {
      k_.emplace_back(slots(p) * kind_.Hkv * kind_.D * size_of(kind_.kv_dtype));
      v_.emplace_back(slots(p) * kind_.Hkv * kind_.Dv * size_of(kind_.kv_dtype));
      KvPool pool;
      pool.k = pool_view(p, k_.back(), kind_.D);
      pool.v = pool_view(p, v_.back(), kind_.Dv);
      pools_.push_back(pool);
    }
  }
  TensorView<4> pool_view(std::size_t p, const Buffer& buffer, std::int64_t width) const {
    const PoolShape& pool = forest_.pools[p];
    TensorView<4> v = view_of<4>(buffer, kind_.kv_dtype, {pool.num_pages, pool.page_size, kind_.Hkv, width});
    if (head_major_) v.stride[1] = width, v.stride[2] = width * pool.page_size;
    return v;
  }

  LayerKind kind_;
  Forest forest_;
  bool head_major_ = false;
  Buffer q_, o_, lse_;
  std::vector<Buffer> k_, v_;
  std::vector<KvPool> pools_;
};

/// A plan for a team, and its workspace.
struct PlannedCall {
  Plan plan;
  Buffer memory;
  Workspace workspace;

  PlannedCall(const Context& context, const AttentionInput& input, Sharing sharing)
      : PlannedCall(context, input, with_sharing(sharing)) {}
  PlannedCall(const Context& context, const AttentionInput& input, PlanOptions options) {
    options.target_parallelism = context.executor.concurrency;
    throw_if_error(make_plan(context, input.forest(), input.kind(), options, &plan));
    const PlanLimits limits = limits_of(plan, context.executor.concurrency);
    std::int64_t bytes = 0;
    throw_if_error(forward_workspace(input.kind(), limits, &bytes));
    memory = Buffer(std::max<std::int64_t>(bytes, 1));
    throw_if_error(init_workspace(input.kind(), limits, memory.data(), memory.bytes(), &workspace));
  }

  Status run(const Context& context, const AttentionInput& input) const {
    Attend args = input.attend();
    args.workspace = workspace;
    return tree_attention(context, plan, args);
  }

 private:
  static PlanOptions with_sharing(Sharing sharing) {
    PlanOptions options;
    options.sharing = sharing;
    return options;
  }
};

}  // namespace prefixshare::bench
