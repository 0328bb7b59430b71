// SPDX-License-Identifier: Apache-2.0
// A batch in memory as an engine holds it, and a planned call on it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/testing/catalogue.hpp"
#include "prefixshare/testing/problem.hpp"
#include "prefixshare/tree_attention.hpp"
#include "support/buffer.hpp"

namespace prefixshare::bench {

/// A tree as in the catalogue, its lengths divided by `scale`; one query row at the end of each leaf. Leaves without
/// tokens are left out: their sequences end where the branch does.
inline testing::Topology tree_topology(const std::string& tree, std::int32_t scale = 1) {
  testing::Workload workload;
  workload.tree = tree;
  testing::Topology t = testing::workload_topology(workload, scale);
  for (Sequence& s : t.sequences) {
    const Node& leaf = t.nodes[static_cast<std::size_t>(s.node)];
    if (leaf.length == 0) s.node = leaf.parent;
  }
  for (; !t.nodes.empty() && t.nodes.back().length == 0; t.nodes.pop_back()) t.segments.pop_back();
  return t;
}

/// How K and V lie in their pool.
struct KvLayout {
  std::int32_t page_size = 0;  ///< 0: one contiguous cache; else pages in random order
  bool head_major = false;     ///< a page holds head after head, not token after token
};

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

/// One layer of a batch: K and V of every token, queries, outputs.
class AttentionInput {
 public:
  AttentionInput() = default;
  AttentionInput(const testing::Topology& topology, const LayerKind& kind, const KvLayout& layout) : kind_(kind) {
    place(topology, layout.page_size);
    bind_pool(layout.head_major);
    const std::int64_t rows = forest_.rows();
    q_ = Buffer(rows * kind.Hq * kind.D * size_of(kind.q_dtype));
    NormalVectors(1, kind.q_dtype, kind.D).fill(q_.data(), rows * kind.Hq);
    o_ = Buffer(rows * kind.Hq * kind.Dv * size_of(kind.q_dtype));
    lse_ = Buffer(rows * kind.Hq * size_of(kind.acc_dtype()));
  }

  const Forest& forest() const noexcept { return forest_; }
  const LayerKind& kind() const noexcept { return kind_; }
  /// Arguments without a workspace.
  Attend attend() const {
    const std::int64_t rows = forest_.rows();
    Attend args;
    args.q = view<3>(q_, kind_.q_dtype, {rows, kind_.Hq, kind_.D});
    args.kv = {&pool_, 1};
    args.o = view<3>(o_, kind_.q_dtype, {rows, kind_.Hq, kind_.Dv});
    args.lse = view<2>(lse_, kind_.acc_dtype(), {rows, kind_.Hq});
    return args;
  }
  void poison_outputs() { o_.poison(), lse_.poison(); }

  /// Bytes of K, V, q, o and lse, each token once.
  double distinct_bytes() const {
    ForestStats stats;
    throw_if_error(forest_stats(forest_, &stats));
    const std::int64_t token = std::int64_t{kind_.Hkv} * (kind_.D + kind_.Dv) * size_of(kind_.kv_dtype);
    const std::int64_t row =
        kind_.Hq * (std::int64_t{kind_.D + kind_.Dv} * size_of(kind_.q_dtype) + size_of(kind_.acc_dtype()));
    return static_cast<double>(stats.unique_tokens * token + stats.rows * row);
  }

 private:
  template <int Rank>
  static TensorView<Rank> view(const Buffer& buffer, DType dtype, const std::int64_t (&shape)[std::size_t{Rank}]) {
    TensorView<Rank> v = make_view(buffer.as<float>(), shape);
    v.dtype = dtype;
    return v;
  }

  /// Segments one after the other, in one page or each in pages of its own.
  void place(const testing::Topology& topology, std::int32_t page_size) {
    std::vector<Segment> segments;
    std::vector<std::int32_t> pages(page_size > 0 ? 0 : 1, 0);
    std::int32_t tokens = 0;
    for (const std::int32_t length : topology.segments) {
      Segment s;
      s.length = length;
      if (page_size > 0) {
        s.first_page = static_cast<std::int32_t>(pages.size());
        pages.resize(pages.size() + static_cast<std::size_t>((length + page_size - 1) / page_size));
      } else {
        s.offset = tokens;
      }
      tokens += length;
      segments.push_back(s);
    }
    PoolShape pool{tokens + 1, 1};  // a segment without tokens may start at the end
    if (page_size > 0) {
      std::iota(pages.begin(), pages.end(), 0);
      testing::Random(1).shuffle(&pages);
      pool = {page_size, static_cast<std::int32_t>(pages.size())};
    }
    throw_if_error(make_forest({{&pool, 1}, pages, segments, topology.nodes, topology.sequences}, &forest_));
  }

  void bind_pool(bool head_major) {
    k_ = Buffer(slots() * kind_.Hkv * kind_.D * size_of(kind_.kv_dtype));
    v_ = Buffer(slots() * kind_.Hkv * kind_.Dv * size_of(kind_.kv_dtype));
    NormalVectors(2, kind_.kv_dtype, kind_.D).fill(k_.data(), slots() * kind_.Hkv);
    NormalVectors(3, kind_.kv_dtype, kind_.Dv).fill(v_.data(), slots() * kind_.Hkv);
    pool_.k = pool_view(k_, kind_.D, head_major);
    pool_.v = pool_view(v_, kind_.Dv, head_major);
  }
  std::int64_t slots() const { return std::int64_t{forest_.pools[0].page_size} * forest_.pools[0].num_pages; }
  TensorView<4> pool_view(const Buffer& buffer, std::int64_t width, bool head_major) const {
    const PoolShape& pool = forest_.pools[0];
    TensorView<4> v = view<4>(buffer, kind_.kv_dtype, {pool.num_pages, pool.page_size, kind_.Hkv, width});
    if (head_major) v.stride[1] = width, v.stride[2] = width * pool.page_size;
    return v;
  }

  LayerKind kind_;
  Forest forest_;
  Buffer k_, v_, q_, o_, lse_;
  KvPool pool_;
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
