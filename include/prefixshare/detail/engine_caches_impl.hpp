// SPDX-License-Identifier: Apache-2.0
// Views of other engines' caches.
#pragma once

#include <algorithm>
#include <limits>
#include <utility>

#include "prefixshare/detail/forest_impl.hpp"
#include "prefixshare/detail/validate.hpp"
#include "prefixshare/engine_layouts.hpp"

namespace prefixshare {
inline namespace v0_1 {

namespace detail {

inline constexpr std::int64_t kInt64Max = std::numeric_limits<std::int64_t>::max();

/// Valid for the engine, but nothing that a view or a block table could be.
inline Status no_view(const char* op, const char* argument, const char* field, std::int64_t got, const char* relation,
                      std::int64_t want, std::int64_t index = -1) noexcept {
  return refuse(StatusCode::unsupported, op, argument, index, field, got, relation, want);
}

inline Status check_coding(const char* op, CacheCoding coding) noexcept {
  static constexpr const char* kNames[] = {"plain", "fp8_e4m3", "fp8_e5m2", "int8", "fp4"};
  const int i = static_cast<int>(coding);
  if (i == 0) return {};
  if (i < 5) return no_view(op, "coding", kNames[i], i, "==", 0);
  return refuse(StatusCode::invalid_argument, op, "coding", -1, "", i, "<", 5);
}

inline Status check_at_least(const char* op, const char* argument, std::int64_t value, std::int64_t least) noexcept {
  return value >= least ? Status{} : refuse(StatusCode::invalid_argument, op, argument, -1, "", value, ">=", least);
}

inline Status check_below(const char* op, const char* argument, std::int64_t value, std::int64_t end) noexcept {
  return value < end ? Status{} : refuse(StatusCode::invalid_argument, op, argument, -1, "", value, "<", end);
}

/// An engine's tensor in its own shape (-1: any length), in any memory space.
template <int Rank>
Status check_cache(Where at, const TensorView<Rank>& view, const Shape& shape) noexcept {
  ViewRule rule;
  rule.space = view.space;
  return check_view(at, view, shape, rule);
}

/// Address of element `i` of dimension `dim`; without elements, where the view starts.
template <int Rank>
void* address(const TensorView<Rank>& x, int dim, std::int64_t i) noexcept {
  for (int d = 0; d < Rank; ++d) {
    if (x.shape[d] == 0) return x.data;
  }
  return static_cast<char*>(x.data) + i * x.stride[dim] * size_of(x.dtype);
}

/// Element `i` of dimension `dim`, which goes.
template <int Rank>
TensorView<Rank - 1> select(const TensorView<Rank>& x, int dim, std::int64_t i) noexcept {
  TensorView<Rank - 1> y;
  y.data = address(x, dim, i);
  y.dtype = x.dtype;
  y.space = x.space;
  for (int d = 0; d < Rank - 1; ++d) {
    y.shape[d] = x.shape[d < dim ? d : d + 1];
    y.stride[d] = x.stride[d < dim ? d : d + 1];
  }
  return y;
}

/// Elements [begin, begin + length) of the last dimension.
inline TensorView<4> narrow(TensorView<4> x, std::int64_t begin, std::int64_t length) noexcept {
  x.data = address(x, 3, begin);
  x.shape[3] = length;
  return x;
}

/// K and V into the pool, if they are a pool.
inline Status bind_pool(const char* op, const TensorView<4>& k, const TensorView<4>& v, KvPool* pool) noexcept {
  if (Status s = check_cache({op, "k"}, k, {{-1, -1, -1, -1}})) return s;
  if (Status s = check_cache({op, "v"}, v, {{k.shape[0], k.shape[1], k.shape[2], -1}})) return s;
  for (int d = 0; d < 2; ++d) {
    if (k.shape[d] <= kInt32Max) continue;
    return refuse(StatusCode::capacity_exceeded, op, "k", -1, shape_field(d), k.shape[d], "<=", kInt32Max);
  }
  pool->k = k;
  pool->v = v;
  return {};
}

inline Status bind_packed(const char* op, const VllmCache& in, KvPool* pool) noexcept {
  if (Status s = check_cache({op, "packed"}, in.packed, {{-1, -1, -1, -1}})) return s;
  if (Status s = check_at_least(op, "D", in.D, 1)) return s;
  const std::int64_t width = in.packed.shape[3];
  if (Status s = check_below(op, "D", in.D, width)) return s;
  TensorView<4> kv = in.packed;  // [blocks, block_size, Hkv, D + Dv]
  std::swap(kv.shape[1], kv.shape[2]);
  std::swap(kv.stride[1], kv.stride[2]);
  return bind_pool(op, narrow(kv, 0, in.D), narrow(kv, in.D, width - in.D), pool);
}

inline Status bind_vllm(const char* op, const VllmCache& in, KvPool* pool) noexcept {
  const int layout = static_cast<int>(in.layout);
  switch (in.layout) {
    case VllmLayout::packed: return bind_packed(op, in, pool);
    case VllmLayout::kv_first:
      if (Status s = check_cache({op, "cache"}, in.cache, {{2, -1, -1, -1, -1}})) return s;
      return bind_pool(op, select(in.cache, 0, 0), select(in.cache, 0, 1), pool);
    case VllmLayout::blocks_first:
      if (Status s = check_cache({op, "cache"}, in.cache, {{-1, 2, -1, -1, -1}})) return s;
      return bind_pool(op, select(in.cache, 1, 0), select(in.cache, 1, 1), pool);
    case VllmLayout::split_x: return no_view(op, "layout", "split_x", layout, "<=", 2);
    case VllmLayout::cpu: return no_view(op, "layout", "cpu", layout, "<=", 2);
  }
  return refuse(StatusCode::invalid_argument, op, "layout", -1, "", layout, "<=", 4);
}

/// Slots [slots, Hkv, D] as pages.
inline TensorView<4> paged(const TensorView<3>& slots, std::int32_t page_size) noexcept {
  TensorView<4> x;
  x.data = slots.data;
  x.dtype = slots.dtype;
  x.space = slots.space;
  const std::int64_t shape[] = {slots.shape[0] / page_size, page_size, slots.shape[1], slots.shape[2]};
  const std::int64_t page = checked_product(slots.stride[0], page_size);  // -1 where there is no second page
  const std::int64_t stride[] = {page, slots.stride[0], slots.stride[1], slots.stride[2]};
  std::copy(shape, shape + 4, x.shape);
  std::copy(stride, stride + 4, x.stride);
  return x;
}

inline Status bind_sglang(const char* op, const SglangCache& in, KvPool* pool) noexcept {
  const int layout = static_cast<int>(in.layout);
  if (in.layout == SglangLayout::vectorized_5d) return no_view(op, "layout", "vectorized_5d", layout, "==", 0);
  if (layout != 0) return refuse(StatusCode::invalid_argument, op, "layout", -1, "", layout, "<=", 1);
  if (Status s = check_cache({op, "k"}, in.k, {{-1, -1, -1}})) return s;
  if (Status s = check_cache({op, "v"}, in.v, {{in.k.shape[0], in.k.shape[1], -1}})) return s;
  if (Status s = check_at_least(op, "page_size", in.page_size, 1)) return s;
  return bind_pool(op, paged(in.k, in.page_size), paged(in.v, in.page_size), pool);
}

/// K (0) or V (1) of a layer: [blocks, tokens_per_block, Hkv, D], whose memory has heads before tokens.
inline TensorView<4> trtllm_half(const TrtllmCache& in, std::int64_t which) noexcept {
  const TensorView<2> blocks = select(select(in.pool, 2, which), 1, in.layer);
  TensorView<4> x;
  x.data = blocks.data;
  x.dtype = blocks.dtype;
  x.space = blocks.space;
  const std::int64_t shape[] = {blocks.shape[0], in.tokens_per_block, in.Hkv, in.D};
  const std::int64_t stride[] = {blocks.stride[0], in.D, std::int64_t{in.tokens_per_block} * in.D, 1};
  std::copy(shape, shape + 4, x.shape);
  std::copy(stride, stride + 4, x.stride);
  return x;
}

inline Status bind_trtllm(const char* op, const TrtllmCache& in, KvPool* pool) noexcept {
  if (Status s = check_at_least(op, "Hkv", in.Hkv, 1)) return s;
  if (Status s = check_at_least(op, "tokens_per_block", in.tokens_per_block, 1)) return s;
  if (Status s = check_at_least(op, "D", in.D, 1)) return s;
  if (in.pool.shape[2] == 1) return no_view(op, "pool", "shape[2]", 1, "==", 2);  // keys alone: latent attention
  const std::int64_t block = checked_product(std::int64_t{in.Hkv} * in.tokens_per_block, in.D);
  if (Status s = check_cache({op, "pool"}, in.pool, {{-1, -1, 2, block < 0 ? kInt64Max : block}})) return s;
  if (Status s = check_at_least(op, "layer", in.layer, 0)) return s;
  if (Status s = check_below(op, "layer", in.layer, in.pool.shape[1])) return s;
  return bind_pool(op, trtllm_half(in, 0), trtllm_half(in, 1), pool);
}

/// The names of ggml's types that a cache may have beside those with a DType.
inline const char* ggml_type_name(std::int32_t type) noexcept {
  switch (type) {
    case 2: return "q4_0";
    case 3: return "q4_1";
    case 6: return "q5_0";
    case 7: return "q5_1";
    case 8: return "q8_0";
    case 20: return "iq4_nl";
    default: return "type";
  }
}

/// A tensor of `cells` rows as [cells, 1, Hkv, D].
inline Status view_llama(Where at, const LlamaTensor& in, std::int64_t cells, std::int64_t Hkv, std::int64_t D,
                         TensorView<4>* x) noexcept {
  switch (in.type) {
    case 0: x->dtype = DType::f32; break;
    case 1: x->dtype = DType::f16; break;
    case 28: x->dtype = DType::f64; break;
    case 30: x->dtype = DType::bf16; break;
    default: return no_view(at.op, at.argument, ggml_type_name(in.type), in.type, "one of", 0);
  }
  const std::int64_t element = size_of(x->dtype);
  if (in.row_bytes % element != 0) {
    return failure(at, "row_bytes", in.row_bytes, "multiple of", element, StatusUnit::bytes);
  }
  if (in.row_bytes / element < Hkv * D) {
    return failure(at, "row_bytes", in.row_bytes, ">=", Hkv * D * element, StatusUnit::bytes);
  }
  x->data = in.data;
  x->space = in.space;
  const std::int64_t row = in.row_bytes / element, shape[] = {cells, 1, Hkv, D}, stride[] = {row, row, D, 1};
  std::copy(shape, shape + 4, x->shape);
  std::copy(stride, stride + 4, x->stride);
  return {};
}

inline Status bind_llama(const char* op, const LlamaCache& in, KvPool* pool) noexcept {
  if (Status s = check_at_least(op, "Hkv", in.Hkv, 1)) return s;
  if (Status s = check_at_least(op, "D", in.D, 1)) return s;
  if (Status s = check_at_least(op, "Dv", in.Dv, 1)) return s;
  if (Status s = check_at_least(op, "cells", in.cells, 0)) return s;
  if (in.v_transposed) return no_view(op, "v", "transposed", 1, "==", 0);
  TensorView<4> k, v;
  if (Status s = view_llama({op, "k"}, in.k, in.cells, in.Hkv, in.D, &k)) return s;
  if (Status s = view_llama({op, "v"}, in.v, in.cells, in.Hkv, in.Dv, &v)) return s;
  return bind_pool(op, k, v, pool);
}

/// Common to all engines: the output, the coding.
template <class Cache>
Status run_pool(const char* op, CacheCoding coding, const Cache& in, KvPool* pool,
                Status (*bind)(const char*, const Cache&, KvPool*) noexcept) noexcept {
  if (Status s = check_pointer(op, "pool", pool)) return s;
  if (Status s = check_coding(op, coding)) return s;
  return bind(op, in, pool);
}

}  // namespace detail

inline Status vllm_pool(const VllmCache& cache, KvPool* pool) noexcept {
  return detail::run_pool("vllm_pool", cache.coding, cache, pool, detail::bind_vllm);
}
inline Status sglang_pool(const SglangCache& cache, KvPool* pool) noexcept {
  return detail::run_pool("sglang_pool", cache.coding, cache, pool, detail::bind_sglang);
}
inline Status trtllm_pool(const TrtllmCache& cache, KvPool* pool) noexcept {
  return detail::run_pool("trtllm_pool", cache.coding, cache, pool, detail::bind_trtllm);
}
inline Status llama_pool(const LlamaCache& cache, KvPool* pool) noexcept {
  return detail::run_pool("llama_pool", CacheCoding::plain, cache, pool, detail::bind_llama);
}

}  // namespace v0_1
}  // namespace prefixshare
