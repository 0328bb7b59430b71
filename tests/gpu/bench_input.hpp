// SPDX-License-Identifier: Apache-2.0
// Input sets of the stage bench, in the target's memory and filled there: no host makes gigabytes of numbers in time.
#pragma once

#include <cstdint>
#include <vector>

#include "gpu/target.hpp"
#include "gpu/workload.hpp"
#include "prefixshare/counters.hpp"

namespace prefixshare::gpu {

/// Memory of a tensor of contiguous rows.
template <int Rank>
class BenchTensor {
 public:
  BenchTensor() = default;
  BenchTensor(const Target& target, DType dtype, const std::int64_t (&shape)[static_cast<std::size_t>(Rank)]) {
    view_.dtype = dtype;
    view_.space = target.space;
    std::int64_t count = 1;
    for (int d = Rank - 1; d >= 0; --d) {
      view_.shape[d] = shape[d];
      view_.stride[d] = count;
      count *= shape[d];
    }
    memory_ = Memory(target, count * size_of(dtype));
    view_.data = memory_.data();
    machine_ = target.machine.get();
  }
  void fill(std::uint64_t seed) const {
    machine_->fill(view_.data, view_.dtype, memory_.bytes() / size_of(view_.dtype), seed);
  }
  const TensorView<Rank>& view() const noexcept { return view_; }
  std::int64_t bytes() const noexcept { return memory_.bytes(); }
  /// A copy on the host: a tensor of the testing component, without its guards' meaning.
  testing::Tensor<Rank> fetch() const {
    typename testing::Tensor<Rank>::Shape shape;
    for (int d = 0; d < Rank; ++d) shape[static_cast<std::size_t>(d)] = view_.shape[d];
    testing::Tensor<Rank> host(view_.dtype, shape);
    memory_.read(host.view().data);
    return host;
  }

 private:
  TensorView<Rank> view_;
  Memory memory_;
  const Machine* machine_ = nullptr;  // which lives as long as the memory
};

/// K, V, q and outputs of one layer.
struct LayerInput {
  BenchTensor<4> k, v, dk, dv;
  BenchTensor<3> q, o, dout, dq;
  BenchTensor<2> lse;
  KvPool pool;
  KvGrad grad;

  LayerInput(const Target& target, const Forest& forest, const LayerKind& kind, bool training, std::uint64_t seed) {
    const std::int64_t rows = forest.rows(), pages = forest.pools[0].num_pages, page_size = forest.pools[0].page_size;
    const DType type = kind.kv_dtype;
    k = BenchTensor<4>(target, type, {pages, page_size, kind.Hkv, kind.D});
    v = BenchTensor<4>(target, type, {pages, page_size, kind.Hkv, kind.Dv});
    q = BenchTensor<3>(target, type, {rows, kind.Hq, kind.D});
    o = BenchTensor<3>(target, type, {rows, kind.Hq, kind.Dv});
    lse = BenchTensor<2>(target, DType::f32, {rows, kind.Hq});
    k.fill(4 * seed), v.fill(4 * seed + 1), q.fill(4 * seed + 2);
    pool.k = k.view(), pool.v = v.view();
    if (!training) return;
    dk = BenchTensor<4>(target, type, {pages, page_size, kind.Hkv, kind.D});
    dv = BenchTensor<4>(target, type, {pages, page_size, kind.Hkv, kind.Dv});
    dout = BenchTensor<3>(target, type, {rows, kind.Hq, kind.Dv});
    dq = BenchTensor<3>(target, type, {rows, kind.Hq, kind.D});
    dout.fill(4 * seed + 3);
    grad.dk = dk.view(), grad.dv = dv.view();
  }
  LayerInput(const LayerInput&) = delete;
  LayerInput& operator=(const LayerInput&) = delete;

  Attend attend() const {
    Attend a;
    a.q = q.view();
    a.kv = {&pool, 1};
    a.o = o.view();
    a.lse = lse.view();
    return a;
  }
  AttendGrad attend_grad() const {
    AttendGrad g;
    g.fwd = attend();
    g.dout = dout.view();
    g.dq = dq.view();
    g.dkv = {&grad, 1};
    return g;
  }
  /// Of what a call reads and writes.
  std::int64_t bytes() const {
    return k.bytes() + v.bytes() + q.bytes() + o.bytes() + lse.bytes() + dk.bytes() + dv.bytes() + dout.bytes() +
           dq.bytes();
  }
};

}  // namespace prefixshare::gpu
