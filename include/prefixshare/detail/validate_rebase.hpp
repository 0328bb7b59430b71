// SPDX-License-Identifier: Apache-2.0
// What rope_rebase asks of its arguments before anything is written. Arguments are checked in the order of their
// struct, then overlaps.
#pragma once

#include <cstdint>

#include "prefixshare/detail/validate_ops.hpp"
#include "prefixshare/rope_rebase.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// A scale that holds wherever the page lies.
inline Status check_movable_scale(Where at, const KvScale& scale) noexcept {
  if (Status s = check_kv_scale(at, scale)) return s;
  if (scale.granularity <= ScaleGranularity::head) return {};
  return failure(at, "granularity", static_cast<int>(scale.granularity), "<=", static_cast<int>(ScaleGranularity::head),
                 StatusUnit::number, StatusCode::unsupported);
}

inline Shape shape_of(const TensorView<4>& view) noexcept {
  return {{view.shape[0], view.shape[1], view.shape[2], view.shape[3]}};
}

/// A cache of layer `at.index`: one of the first layer's kind, which has `shape`.
inline Status check_rebase_cache(Where at, const TensorView<4>& cache, const TensorView<4>& first, Shape shape,
                                 ViewRule rule) noexcept {
  if (at.index > 0 && !rule.required && !first) {
    return cache ? failure(at, "data", 1, "==", 0, StatusUnit::pointer) : Status{};
  }
  if (at.index > 0) {
    shape = shape_of(first);
    rule.dtypes = dtype_set(first.dtype);
    rule.required = true;
  }
  return check_view(at, cache, shape, rule);
}

inline Status check_rebase_layers(Span<const KvPool> layers, MemorySpace space) noexcept {
  constexpr const char* kOp = "rope_rebase";
  if (Status s = check_array({kOp, "layers"}, layers, layers.size() < 0 ? 0 : layers.size())) return s;
  ViewRule rule;
  rule.output = true;
  rule.strides = StrideRule::any;
  rule.space = space;
  for (std::int64_t l = 0; l < layers.size(); ++l) {
    const KvPool& layer = layers[l];
    const TensorView<4>& k = layers[0].k;
    rule.required = true;
    if (Status s = check_rebase_cache({kOp, "layers.k", l}, layer.k, k, {{-1, -1, -1, -1}}, rule)) return s;
    rule.required = false;
    const Shape values{{k.shape[0], k.shape[1], k.shape[2], -1}};
    if (Status s = check_rebase_cache({kOp, "layers.v", l}, layer.v, layers[0].v, values, rule)) return s;
    if (Status s = check_movable_scale({kOp, "layers.k_scale", l}, layer.k_scale)) return s;
    if (Status s = check_movable_scale({kOp, "layers.v_scale", l}, layer.v_scale)) return s;
  }
  return {};
}

inline Status check_page_ids(Where at, Span<const std::int32_t> pages, std::int64_t num_pages) noexcept {
  for (at.index = 0; at.index < pages.size(); ++at.index) {
    const std::int32_t page = pages[at.index];
    if (page < 0) return failure(at, "", page, ">=", 0);
    if (page >= num_pages) return failure(at, "", page, "<", num_pages);
  }
  return {};
}

/// One bit for each of some consecutive pages.
struct PageMarks {
  static constexpr std::int64_t kPages = 131072;
  std::int64_t first;
  std::uint64_t words[kPages / 64] = {};

  bool covers(std::int64_t page) const noexcept { return page >= first && page < first + kPages; }
  bool has(std::int64_t page) const noexcept { return words[(page - first) / 64] >> ((page - first) % 64) & 1; }
  void mark(std::int64_t page) noexcept { words[(page - first) / 64] |= std::uint64_t{1} << ((page - first) % 64); }
};

/// No page is the target of two moves, or of one move and the source of another. With ids in range. Pages are looked at
/// as many at a time as the stack holds marks of.
inline Status check_moves_apart(Span<const std::int32_t> from, Span<const std::int32_t> to,
                                std::int64_t num_pages) noexcept {
  constexpr const char* kOp = "rope_rebase";
  constexpr const char* kTaken = "other than target page";
  for (std::int64_t first = 0; first < num_pages && !to.empty(); first += PageMarks::kPages) {
    PageMarks targets{first};
    for (std::int64_t i = 0; i < to.size(); ++i) {
      if (!targets.covers(to[i])) continue;
      if (targets.has(to[i])) return failure({kOp, "to_pages", i}, "", to[i], kTaken, to[i]);
      targets.mark(to[i]);
    }
    for (std::int64_t i = 0; i < from.size(); ++i) {
      if (from[i] == to[i] || !targets.covers(from[i]) || !targets.has(from[i])) continue;
      return failure({kOp, "from_pages", i}, "", from[i], kTaken, from[i]);
    }
  }
  return {};
}

/// One cache that rope_rebase writes against all that it reads besides caches.
inline Status check_rebase_inputs_apart(Where at, const TensorView<4>& cache, const RopeRebase& args) noexcept {
  for (const Span<const std::int32_t>& list : {args.from_pages, args.to_pages, args.deltas}) {
    if (Status s = check_apart(at, cache, list)) return s;
  }
  for (const KvPool& layer : args.layers) {
    for (const KvScale& scale : {layer.k_scale, layer.v_scale}) {
      if (Status s = check_apart(at, cache, scale_array(scale, 0, 0, layer.k.shape[2]))) return s;
    }
  }
  return check_apart(at, cache, args.table.inv_freq);
}

/// Each cache of rope_rebase against all that it reads, and against the caches before it.
inline Status check_rebase_overlap(const RopeRebase& args) noexcept {
  for (std::int64_t l = 0; l < args.layers.size(); ++l) {
    const KvPool& layer = args.layers[l];
    const Where k{"rope_rebase", "layers.k", l}, v{"rope_rebase", "layers.v", l};
    if (Status s = check_rebase_inputs_apart(k, layer.k, args)) return s;
    if (Status s = check_rebase_inputs_apart(v, layer.v, args)) return s;
    for (std::int64_t before = 0; before < l; ++before) {
      const KvPool& other = args.layers[before];
      if (Status s = check_apart(k, layer.k, other.k)) return s;
      if (Status s = check_apart(k, layer.k, other.v)) return s;
      if (Status s = check_apart(v, layer.v, other.k)) return s;
      if (Status s = check_apart(v, layer.v, other.v)) return s;
    }
    if (Status s = check_apart(v, layer.v, layer.k)) return s;
  }
  return {};
}

/// What the lists of moves hold.
inline Status check_moves(const RopeRebase& args, std::int64_t num_pages) noexcept {
  if (Status s = check_page_ids({"rope_rebase", "from_pages"}, args.from_pages, num_pages)) return s;
  if (Status s = check_page_ids({"rope_rebase", "to_pages"}, args.to_pages, num_pages)) return s;
  return check_moves_apart(args.from_pages, args.to_pages, num_pages);
}

inline Status validate(const RopeRebase& args, MemorySpace space = MemorySpace::host) noexcept {
  constexpr const char* kOp = "rope_rebase";
  if (Status s = check_rebase_layers(args.layers, space)) return s;
  const std::int64_t moves = args.from_pages.size();
  if (Status s = check_array({kOp, "from_pages"}, args.from_pages, moves < 0 ? 0 : moves)) return s;
  if (Status s = check_array({kOp, "to_pages"}, args.to_pages, moves)) return s;
  if (Status s = check_array({kOp, "deltas"}, args.deltas, args.deltas.size() == 1 ? 1 : moves)) return s;
  if (args.layers.empty()) return {};
  if (Status s = check_space({kOp, "lists_space"}, "", args.lists_space, space)) return s;
  const TensorView<4>& k = args.layers[0].k;
  if (space == MemorySpace::host) {
    if (Status s = check_moves(args, k.shape[0])) return s;
  }
  if (Status s = check_rope({kOp, "table"}, args.table, k.shape[3])) return s;
  return check_rebase_overlap(args);
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
