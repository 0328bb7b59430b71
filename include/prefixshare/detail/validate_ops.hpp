// SPDX-License-Identifier: Apache-2.0
// What merge_states, rope, kv_append and draft_tree_from_parents ask of their arguments before anything is written.
// Arguments are checked in the order of their struct, then overlaps. `space` is the memory space of the implementation
// that is to run.
#pragma once

#include <cstdint>

#include "prefixshare/detail/validate.hpp"
#include "prefixshare/draft_tree.hpp"
#include "prefixshare/kv_append.hpp"
#include "prefixshare/merge_states.hpp"
#include "prefixshare/rope.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Names of a state's two tensors within an operator's arguments.
struct StateNames {
  const char* op;
  const char* o;
  const char* lse;
  std::int64_t index = -1;
};

/// One state of `rows` x `heads` x `Dv` (-1: any).
inline Status check_state(StateNames at, const State& state, const Shape& shape, bool output,
                          MemorySpace space) noexcept {
  ViewRule rule;
  rule.output = output;
  rule.space = space;
  if (Status s = check_view({at.op, at.o, at.index}, state.o, shape, rule)) return s;
  rule.unit_inner = false;
  rule.strides = StrideRule::nonnegative;
  rule.dtypes = kLseDType;
  return check_view({at.op, at.lse, at.index}, state.lse, {{state.o.shape[0], state.o.shape[1]}}, rule);
}

/// An array of states, each of one shape.
inline Status check_states(StateNames at, const char* array, Span<const State> states, const Shape& shape, bool output,
                           MemorySpace space) noexcept {
  if (states.size() < 0) return failure({at.op, array}, "size", states.size(), ">=", 0);
  if (states.size() > 0 && !states.data()) return failure({at.op, array}, "data", 0, "!=", 0, StatusUnit::pointer);
  for (at.index = 0; at.index < states.size(); ++at.index) {
    if (Status s = check_state(at, states[at.index], shape, output, space)) return s;
  }
  return {};
}

inline Shape shape_of(const TensorView<3>& view) noexcept { return {{view.shape[0], view.shape[1], view.shape[2]}}; }

/// Neither tensor of `output` meets a tensor of `other`.
inline Status check_states_apart(StateNames at, const State& output, const State& other) noexcept {
  const Where o{at.op, at.o, at.index};
  const Where lse{at.op, at.lse, at.index};
  if (Status s = check_apart(o, output.o, other.o)) return s;
  if (Status s = check_apart(o, output.o, other.lse)) return s;
  if (Status s = check_apart(lse, output.lse, other.o)) return s;
  return check_apart(lse, output.lse, other.lse);
}

inline Status validate(const MergeStates& args, MemorySpace space = MemorySpace::host) noexcept {
  constexpr const char* kOp = "merge_states";
  if (Status s = check_state({kOp, "out.o", "out.lse"}, args.out, {{-1, -1, -1}}, true, space)) return s;
  const Shape shape = shape_of(args.out.o);
  if (Status s = check_states({kOp, "parts.o", "parts.lse"}, "parts", args.parts, shape, false, space)) return s;
  if (Status s = check_apart({kOp, "out.lse"}, args.out.lse, args.out.o)) return s;
  for (std::int64_t p = 0; p < args.parts.size(); ++p) {
    const State& part = args.parts[p];
    if (same_view(part.o, args.out.o) && same_view(part.lse, args.out.lse)) continue;
    if (Status s = check_states_apart({kOp, "parts.o", "parts.lse", p}, part, args.out)) return s;
  }
  return {};
}

/// No output of merge_states_backward meets anything else.
inline Status check_overlap(const MergeStatesGrad& args) noexcept {
  for (std::int64_t p = 0; p < args.dparts.size(); ++p) {
    const State& output = args.dparts[p];
    const StateNames at{"merge_states_backward", "dparts.o", "dparts.lse", p};
    for (const State& part : args.parts) {
      if (Status s = check_states_apart(at, output, part)) return s;
    }
    for (std::int64_t other = 0; other < p; ++other) {
      if (Status s = check_states_apart(at, output, args.dparts[other])) return s;
    }
    if (Status s = check_states_apart(at, output, args.out)) return s;
    if (Status s = check_states_apart(at, output, {args.dout, args.dlse})) return s;
    if (Status s = check_apart({at.op, at.lse, p}, output.lse, output.o)) return s;
  }
  return {};
}

inline Status validate(const MergeStatesGrad& args, MemorySpace space = MemorySpace::host) noexcept {
  constexpr const char* kOp = "merge_states_backward";
  if (Status s = check_state({kOp, "out.o", "out.lse"}, args.out, {{-1, -1, -1}}, false, space)) return s;
  const Shape shape = shape_of(args.out.o);
  if (Status s = check_states({kOp, "parts.o", "parts.lse"}, "parts", args.parts, shape, false, space)) return s;
  ViewRule rule;
  rule.space = space;
  if (Status s = check_view({kOp, "dout"}, args.dout, shape, rule)) return s;
  rule.required = false;
  rule.unit_inner = false;
  rule.strides = StrideRule::nonnegative;
  rule.dtypes = kLseDType;
  if (Status s = check_view({kOp, "dlse"}, args.dlse, {{shape.length[0], shape.length[1]}}, rule)) return s;
  if (args.dparts.size() != args.parts.size()) {
    return failure({kOp, "dparts"}, "size", args.dparts.size(), "==", args.parts.size());
  }
  if (Status s = check_states({kOp, "dparts.o", "dparts.lse"}, "dparts", args.dparts, shape, true, space)) return s;
  return check_overlap(args);
}

/// x and out of both rope operators: one shape, one dtype, the same view or apart.
inline Status check_rope_rows(const char* op, const TensorView<3>& x, const TensorView<3>& out, const RopeTable& table,
                              MemorySpace space) noexcept {
  ViewRule rule;
  rule.space = space;
  if (Status s = check_view({op, "x"}, x, {{-1, -1, -1}}, rule)) return s;
  rule.output = true;
  rule.dtypes = dtype_set(x.dtype);
  if (Status s = check_view({op, "out"}, out, shape_of(x), rule)) return s;
  if (Status s = check_rope({op, "table"}, table, x.shape[2])) return s;
  if (Status s = check_apart({op, "out"}, out, table.inv_freq)) return s;
  return same_view(x, out) ? Status{} : check_apart({op, "out"}, out, x);
}

inline Status validate(const RopeApply& args, MemorySpace space = MemorySpace::host) noexcept {
  if (Status s = check_rope_rows("rope_apply", args.x, args.out, args.table, space)) return s;
  if (Status s = check_array({"rope_apply", "positions"}, args.positions, args.x.shape[0])) return s;
  if (Status s = check_space({"rope_apply", "lists_space"}, "", args.lists_space, space)) return s;
  return check_apart({"rope_apply", "out"}, args.out, args.positions);
}

inline Status validate(const RopeShift& args, MemorySpace space = MemorySpace::host) noexcept {
  if (Status s = check_rope_rows("rope_shift", args.x, args.out, args.table, space)) return s;
  const bool one = args.deltas.size() == 1;  // which the host may hand over with the call
  if (Status s = check_array({"rope_shift", "deltas"}, args.deltas, one ? 1 : args.x.shape[0])) return s;
  const MemorySpace lists = one && args.lists_space == MemorySpace::host ? MemorySpace::host : space;
  if (Status s = check_space({"rope_shift", "lists_space"}, "", args.lists_space, lists)) return s;
  return check_apart({"rope_shift", "out"}, args.out, args.deltas);
}

inline Status check_kv_scale(Where at, const KvScale& scale) noexcept {
  if (scale.granularity > ScaleGranularity::page) {
    return failure(at, "granularity", static_cast<int>(scale.granularity),
                   "<=", static_cast<int>(ScaleGranularity::page));
  }
  const bool needed = scale.granularity != ScaleGranularity::none;
  return needed && !scale.data ? failure(at, "data", 0, "!=", 0, StatusUnit::pointer) : Status{};
}

/// Sources and pool of kv_append: k, and v with pool.v or neither.
inline Status check_append_views(const KvAppend& args, MemorySpace space) noexcept {
  constexpr const char* kOp = "kv_append";
  ViewRule source;
  source.space = space;
  ViewRule pool = source;
  pool.output = true;
  pool.strides = StrideRule::any;
  const std::int64_t tokens = args.slots.size();
  const TensorView<4>& k = args.pool.k;
  if (Status s = check_view({kOp, "pool.k"}, k, {{-1, -1, -1, -1}}, pool)) return s;
  if (Status s = check_view({kOp, "k"}, args.k, {{tokens, k.shape[2], k.shape[3]}}, source)) return s;
  if (!args.v && !args.pool.v) return {};
  if (Status s = check_view({kOp, "pool.v"}, args.pool.v, {{k.shape[0], k.shape[1], k.shape[2], -1}}, pool)) return s;
  return check_view({kOp, "v"}, args.v, {{tokens, k.shape[2], args.pool.v.shape[3]}}, source);
}

/// The numbers behind a scale of a cache [num_pages, page_size, Hkv, ..].
inline Span<const float> scale_array(const KvScale& scale, std::int64_t num_pages, std::int64_t page_size,
                                     std::int64_t heads) noexcept {
  switch (scale.granularity) {
    case ScaleGranularity::none: break;
    case ScaleGranularity::tensor: return {scale.data, 1};
    case ScaleGranularity::head: return {scale.data, heads};
    case ScaleGranularity::token: return {scale.data, num_pages * page_size * heads};
    case ScaleGranularity::page: return {scale.data, num_pages * heads};
  }
  return {};
}

/// One of the two caches that kv_append writes against all that it reads.
inline Status check_append_apart(Where at, const TensorView<4>& cache, const KvAppend& args) noexcept {
  const TensorView<4>& k = args.pool.k;
  if (Status s = check_apart(at, cache, args.k)) return s;
  if (Status s = check_apart(at, cache, args.v)) return s;
  if (Status s = check_apart(at, cache, args.slots)) return s;
  for (const KvScale& scale : {args.pool.k_scale, args.pool.v_scale}) {
    if (Status s = check_apart(at, cache, scale_array(scale, k.shape[0], k.shape[1], k.shape[2]))) return s;
  }
  if (args.rope == nullptr) return {};
  if (Status s = check_apart(at, cache, args.positions)) return s;
  return check_apart(at, cache, args.rope->inv_freq);
}

inline Status check_append_overlap(const KvAppend& args) noexcept {
  constexpr const char* kOp = "kv_append";
  if (Status s = check_append_apart({kOp, "pool.k"}, args.pool.k, args)) return s;
  if (Status s = check_append_apart({kOp, "pool.v"}, args.pool.v, args)) return s;
  return check_apart({kOp, "pool.v"}, args.pool.v, args.pool.k);
}

inline Status check_append_slots(const KvAppend& args) noexcept {
  const std::int64_t capacity = args.pool.k.shape[0] * args.pool.k.shape[1];
  for (std::int64_t t = 0; t < args.slots.size(); ++t) {
    if (args.slots[t] < -1) return failure({"kv_append", "slots", t}, "", args.slots[t], ">=", -1);
    if (args.slots[t] >= capacity) return failure({"kv_append", "slots", t}, "", args.slots[t], "<", capacity);
  }
  return {};
}

inline Status validate(const KvAppend& args, MemorySpace space = MemorySpace::host) noexcept {
  constexpr const char* kOp = "kv_append";
  if (Status s = check_array({kOp, "slots"}, args.slots, args.slots.size() < 0 ? 0 : args.slots.size())) return s;
  if (Status s = check_append_views(args, space)) return s;
  if (Status s = check_kv_scale({kOp, "pool.k_scale"}, args.pool.k_scale)) return s;
  if (Status s = check_kv_scale({kOp, "pool.v_scale"}, args.pool.v_scale)) return s;
  if (Status s = check_space({kOp, "lists_space"}, "", args.lists_space, space)) return s;
  if (space == MemorySpace::host) {
    if (Status s = check_append_slots(args)) return s;
  }
  if (args.rope) {
    if (Status s = check_array({kOp, "positions"}, args.positions, args.slots.size())) return s;
    if (Status s = check_rope({kOp, "rope"}, *args.rope, args.k.shape[2])) return s;
  }
  return check_append_overlap(args);
}

/// No output of draft_tree_from_parents meets another list.
inline Status check_draft_overlap(const DraftTreeBatch& args) noexcept {
  constexpr const char* kNames[] = {"parents", "offsets", "depth", "words", "faults"};
  const Footprint lists[] = {footprint(args.parents), footprint(args.offsets), footprint(args.depth),
                             footprint(args.words), footprint(args.faults)};
  for (int output = 2; output < 5; ++output) {
    for (int other = 0; other < output; ++other) {
      if (overlap(lists[output], lists[other])) {
        return failure({"draft_tree_from_parents", kNames[output]}, "overlap", 1, "==", 0);
      }
    }
  }
  return {};
}

inline Status validate(const DraftTreeBatch& args, MemorySpace space = MemorySpace::host) noexcept {
  constexpr const char* kOp = "draft_tree_from_parents";
  const std::int64_t nodes = args.parents.size(), trees = args.offsets.size() - 1;
  if (Status s = check_array({kOp, "parents"}, args.parents, nodes < 0 ? 0 : nodes)) return s;
  if (Status s = check_array({kOp, "offsets"}, args.offsets, trees < 0 ? 1 : trees + 1)) return s;
  if (Status s = check_array({kOp, "depth"}, args.depth, nodes)) return s;
  if (args.words_per_row < 1) return failure({kOp, "words_per_row"}, "", args.words_per_row, ">=", 1);
  const std::int64_t words = checked_product(nodes, args.words_per_row);
  if (words < 0) return failure({kOp, "words_per_row"}, "", args.words_per_row, "<=", INT64_MAX / nodes);
  if (Status s = check_array({kOp, "words"}, args.words, words)) return s;
  if (Status s = check_array({kOp, "faults"}, args.faults, trees)) return s;
  if (Status s = check_space({kOp, "space"}, "", args.space, space)) return s;
  return check_draft_overlap(args);
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
