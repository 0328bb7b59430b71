// SPDX-License-Identifier: Apache-2.0
#include "layer.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

namespace prefix_report {

using prefixshare::DType;
using prefixshare::LayerKind;
using prefixshare::TensorView;

namespace {

TensorView<4> pool_view(const Buffer& buffer, const Way& way) {
  const prefixshare::PoolShape pool = way.forest.pools.front();
  const LayerKind& kind = way.plan.header.kind;
  return buffer.view({pool.num_pages, pool.page_size, kind.Hkv, kind.D});
}

TensorView<3> row_view(const Buffer& buffer, const Way& way) {
  const LayerKind& kind = way.plan.header.kind;
  return buffer.view({way.plan.header.rows, kind.Hq, kind.D});
}

std::int64_t pool_elements(const Way& way) {
  const prefixshare::PoolShape pool = way.forest.pools.front();
  const LayerKind& kind = way.plan.header.kind;
  return std::int64_t{pool.num_pages} * pool.page_size * kind.Hkv * kind.D;
}

std::int64_t row_elements(const Way& way) {
  const LayerKind& kind = way.plan.header.kind;
  return std::int64_t{way.plan.header.rows} * kind.Hq * kind.D;
}

/// Copies vectors of `width` elements: copy i from vector from(i).
template <class From>
Buffer gather(const prefixshare::Context& context, const Buffer& source, std::int64_t count, std::int64_t width,
              const From& from) {
  Buffer copy(source.dtype(), count * width);
  const std::int64_t bytes = width * size_of(source.dtype());
  parallel_ranges(context.executor, count, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      char* to = static_cast<char*>(copy.data()) + i * bytes;
      std::memcpy(to, static_cast<const char*>(source.data()) + from(i) * bytes, static_cast<std::size_t>(bytes));
    }
  });
  return copy;
}

/// A result that nobody has written yet must not look right.
Buffer poisoned(std::int64_t count) {
  Buffer buffer(DType::f32, count);
  float* data = static_cast<float*>(buffer.data());
  for (std::int64_t i = 0; i < count; ++i) data[i] = std::numeric_limits<float>::quiet_NaN();
  return buffer;
}

}  // namespace

Inputs random_inputs(const prefixshare::Context& context, const Step& step, std::uint64_t seed) {
  const Way& way = step.shared;
  const LayerKind& kind = way.plan.header.kind;
  Inputs inputs;
  const auto fill = [&](Buffer* buffer, DType dtype, std::int64_t count, std::uint64_t offset) {
    *buffer = Buffer(dtype, count);
    fill_normal(context.executor, seed + offset, buffer);
  };
  fill(&inputs.q, kind.q_dtype, row_elements(way), 0);
  fill(&inputs.k, kind.kv_dtype, pool_elements(way), 1);
  fill(&inputs.v, kind.kv_dtype, pool_elements(way), 2);
  if (step.train) fill(&inputs.dout, kind.q_dtype, row_elements(way), 3);
  return inputs;
}

Inputs repeat_inputs(const prefixshare::Context& context, const Step& step, const Inputs& shared) {
  const LayerKind& kind = step.shared.plan.header.kind;
  const std::int64_t rows = static_cast<std::int64_t>(step.source.size());
  const auto row = [&](std::int64_t i) { return step.source[static_cast<std::size_t>(i)]; };
  const auto slot = [&](std::int64_t i) { return step.slots[static_cast<std::size_t>(row(i))]; };
  Inputs repeated;
  repeated.q = gather(context, shared.q, rows, std::int64_t{kind.Hq} * kind.D, row);
  repeated.k = gather(context, shared.k, rows, std::int64_t{kind.Hkv} * kind.D, slot);
  repeated.v = gather(context, shared.v, rows, std::int64_t{kind.Hkv} * kind.D, slot);
  repeated.dout = gather(context, shared.dout, rows, std::int64_t{kind.Hq} * kind.D, row);
  std::vector<bool> seen(static_cast<std::size_t>(step.shared.plan.header.rows), false);
  const std::int64_t bytes = std::int64_t{kind.Hq} * kind.D * size_of(kind.q_dtype);
  for (std::int64_t i = 0; i < rows; ++i) {
    if (seen[static_cast<std::size_t>(row(i))]) {
      std::memset(static_cast<char*>(repeated.dout.data()) + i * bytes, 0, static_cast<std::size_t>(bytes));
    }
    seen[static_cast<std::size_t>(row(i))] = true;
  }
  return repeated;
}

Layer::Layer(const Way& way, const Inputs& inputs, std::int32_t threads, bool train) : way_(way), inputs_(inputs) {
  const LayerKind& kind = way.plan.header.kind;
  kv_.k = pool_view(inputs.k, way);
  kv_.v = pool_view(inputs.v, way);
  o_ = poisoned(row_elements(way));
  lse_ = poisoned(std::int64_t{way.plan.header.rows} * kind.Hq);
  if (train) {
    dq_ = poisoned(row_elements(way));
    dk_ = poisoned(pool_elements(way));
    dv_ = poisoned(pool_elements(way));
  }
  const prefixshare::PlanLimits limits = limits_of(way.plan, threads);
  std::int64_t forward = 0, backward = 0;
  throw_if_error(forward_workspace(kind, limits, &forward));
  if (train) throw_if_error(backward_workspace(kind, limits, &backward));
  memory_ = Buffer(DType::f32, std::max(forward, backward) / size_of(DType::f32) + 1);
  throw_if_error(init_workspace(kind, limits, memory_.data(), memory_.bytes(), &workspace_));
}

prefixshare::Attend Layer::attend() const {
  const LayerKind& kind = way_.plan.header.kind;
  prefixshare::Attend args;
  args.q = row_view(inputs_.q, way_);
  args.kv = {&kv_, 1};
  args.o = row_view(o_, way_);
  args.lse = lse_.view({way_.plan.header.rows, kind.Hq});
  args.workspace = workspace_;
  return args;
}

void Layer::forward(const prefixshare::Context& context) {
  throw_if_error(tree_attention(context, way_.plan, attend()));
}

void Layer::backward(const prefixshare::Context& context) {
  const prefixshare::KvGrad dkv{pool_view(dk_, way_), pool_view(dv_, way_)};
  prefixshare::AttendGrad args;
  args.fwd = attend();
  args.dout = row_view(inputs_.dout, way_);
  args.dq = row_view(dq_, way_);
  args.dkv = {&dkv, 1};
  args.workspace = workspace_;
  throw_if_error(tree_attention_backward(context, way_.plan, args));
}

std::int64_t bytes_per_token(const LayerKind& kind, bool train) {
  const std::int64_t kv = std::int64_t{2} * kind.Hkv * kind.D, rows = std::int64_t{2} * kind.Hq * kind.D;
  if (!train) return kv * size_of(kind.kv_dtype);
  const std::int64_t inputs = kv * size_of(kind.kv_dtype) + rows * size_of(kind.q_dtype);
  const std::int64_t results = (kv + rows) * size_of(DType::f32);
  return inputs + results;
}

}  // namespace prefix_report
