// SPDX-License-Identifier: Apache-2.0
// Who merges the partial states of rows, and how: all parts of a row at once, or in batch_invariant mode one after the
// other, as an item folds them.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/row_chunks.cuh"
#include "prefixshare/cuda/row_states.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

// ---- One row -------------------------------------------------------------------------------------------------------

/// Rows of partial states that belong together, for one query row.
struct RowParts {
  const std::int32_t* first;  ///< partial row of the group's first row, of each part
  std::int32_t count;
  std::int32_t r;    ///< of the row, counted in its group
  std::int32_t row;  ///< query row
};
PREFIXSHARE_DEVICE RowParts row_parts(const AttendParams& p, const ImageGroup& group, std::int32_t r) {
  const ImageHeader& header = p.plan.header();
  return {p.plan.list<std::int32_t>(header.parts_at) + group.first_part, group.part_count, r,
          p.plan.list<std::int32_t>(header.group_rows_at)[group.first_row + r]};
}

/// What one warp merges of a row: dims [first_dim, first_dim + 32 * Width) of Heads query heads from q_head on. A lane
/// has Width neighbours among the dims: 4 are loads of 16 bytes, for which Dv must be a multiple of 4. Of the parts'
/// lse the lanes hold 32 / Heads for each head.
template <int Width, int Heads>
class MergeTask {
 public:
  static constexpr int kSpan = 32 / Heads;  ///< lanes of a head, where lanes stand for parts
  static constexpr int kDims = 32 * Width;

  PREFIXSHARE_DEVICE MergeTask(const AttendParams& p, const RowParts& parts, std::int32_t q_head,
                               std::int32_t first_dim)
      : p_(p),
        parts_(parts),
        q_head_(q_head),
        lane_(ptx::opaque(ptx::lane())),
        dim_(first_dim + Width * lane_),
        row_stride_(p.Hq * p.Dv),
        o_(p.partial_o + std::int64_t{q_head} * p.Dv + dim_) {}

  /// All parts at once: weights relative to the greatest lse. A row has the same bits whatever Width, Heads and
  /// PartsAhead are.
  template <int PartsAhead>
  PREFIXSHARE_DEVICE void merge_at_once() const {
    static_assert(kSpan % PartsAhead == 0);
    Part mine = part(0);
    float others[PartsAhead][Heads][Width], o[Heads][Width];
    load<PartsAhead>(mine.row, 0, others);  // on its way while the weights are found
    Merge merge = greatest(mine.lse);
    float weight = add(mine.lse, &merge);
    fill(o, -0.0f);  // the only one to which -0 can be added
    for (std::int32_t from = 0;;) {
      PREFIXSHARE_UNROLL
      for (int i = 0; i < PartsAhead; ++i) add_part(weight, from % kSpan + i, others[i], o);
      from += PartsAhead;
      if (from >= parts_.count) break;
      if (from % kSpan == 0) {
        mine = part(from);
        weight = add(mine.lse, &merge);
      }
      load<PartsAhead>(mine.row, from, others);
    }
    PREFIXSHARE_UNROLL
    for (int mask = kSums / 2; mask > 0; mask /= 2) merge.sum += ptx::shuffle_xor(merge.sum, mask);
    finish(merge, o);
  }

  /// One part after the other, with the arithmetic of an item that folds its states.
  template <int PartsAhead>
  PREFIXSHARE_DEVICE void merge_in_turn() const {
    static_assert(Heads == 1 && kSpan % PartsAhead == 0);
    Part mine = {};
    float others[PartsAhead][1][Width], o[1][Width];
    float lse = kEmptyLse;
    fill(o, 0.0f);
    for (std::int32_t from = 0; from < parts_.count; from += PartsAhead) {
      if (from % kSpan == 0) mine = part(from);
      load<PartsAhead>(mine.row, from, others);
      PREFIXSHARE_UNROLL
      for (int i = 0; i < PartsAhead; ++i) {
        const StateMerge merge = merge_lse(&lse, ptx::shuffle(mine.lse, from % kSpan + i));
        PREFIXSHARE_UNROLL
        for (int e = 0; e < Width; ++e) o[0][e] = merge(o[0][e], others[i][0][e]);
      }
    }
    store(0, merge_sink(p_, q_head_, &lse), o[0]);
    if (writes_lse(0)) store_lse(p_, parts_.row, q_head_, lse);
  }

 private:
  using Merge = prefixshare::detail::LseMerge<float>;
  static constexpr int kSums = 8;
  static constexpr float kLeftOut = -1;  ///< weight of a part without keys, whose o may hold anything

  struct Part {
    std::int32_t row;  ///< partial row
    float lse;
  };
  PREFIXSHARE_DEVICE int head_of_lane() const { return lane_ / kSpan; }
  PREFIXSHARE_DEVICE bool has_head(int head) const { return Heads == 1 || q_head_ + head < p_.Hq; }

  /// Of the parts from `from` on, this lane's; beyond the last one it is empty.
  PREFIXSHARE_DEVICE Part part(std::int32_t from) const {
    const std::int32_t i = from + lane_ % kSpan;
    if (i >= parts_.count || !has_head(head_of_lane())) return {0, kEmptyLse};
    const std::int32_t row = parts_.first[i] + parts_.r;
    return {row, ptx::load_cached(p_.partial_lse + std::int64_t{row} * p_.Hq + q_head_ + head_of_lane())};
  }

  /// Starts the loads of this lane's dims of the parts from `from` on, whose rows the lanes hold.
  template <int PartsAhead>
  PREFIXSHARE_DEVICE void load(std::int32_t rows, std::int32_t from, float (&to)[PartsAhead][Heads][Width]) const {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < PartsAhead; ++i) {
      const float* const source = o_ + std::int64_t{ptx::shuffle(rows, from % kSpan + i)} * row_stride_;
      PREFIXSHARE_UNROLL
      for (int h = 0; h < Heads; ++h) {
        const bool wanted = from + i < parts_.count && dim_ < p_.Dv && has_head(h);
        load_dims(source + h * p_.Dv, wanted, to[i][h]);
      }
    }
  }
  PREFIXSHARE_DEVICE static void load_dims(const float* from, bool wanted, float (&x)[Width]) {
    if constexpr (Width == 4) {
      ptx::Float4 four = {};
      if (wanted) four = ptx::load_cached(reinterpret_cast<const ptx::Float4*>(from));
      x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    } else {
      x[0] = wanted ? ptx::load_cached(from) : 0.0f;
    }
  }

  /// The greatest lse of this lane's head. `first`: of the parts that the lanes hold.
  PREFIXSHARE_DEVICE Merge greatest(float first) const {
    Merge merge;
    merge.see(first);
    for (std::int32_t from = kSpan; from < parts_.count; from += kSpan) merge.see(part(from).lse);
    PREFIXSHARE_UNROLL
    for (int mask = kSpan / 2; mask > 0; mask /= 2) merge.see(ptx::shuffle_xor(merge.max, mask));
    return merge;
  }
  /// Adds the lanes' parts to the sums, of which eight lanes of a head have one each: the order does not depend on how
  /// many parts the lanes hold. Returns the weight of this lane's part, not yet divided by the sum of all.
  PREFIXSHARE_DEVICE float add(float lse, Merge* merge) const {
    const bool empty = lse == kEmptyLse;
    const float weight = empty ? 0.0f : merge->raw_weight(lse);
    PREFIXSHARE_UNROLL
    for (int i = 0; i < kSpan; i += kSums) {
      merge->sum += ptx::shuffle(weight, head_of_lane() * kSpan + i + lane_ % kSums);
    }
    return empty ? kLeftOut : weight;
  }
  PREFIXSHARE_DEVICE void add_part(float weights, int i, const float (&part)[Heads][Width],
                                   float (&o)[Heads][Width]) const {
    PREFIXSHARE_UNROLL
    for (int h = 0; h < Heads; ++h) {
      const float weight = ptx::shuffle(weights, h * kSpan + i);
      PREFIXSHARE_UNROLL
      for (int e = 0; e < Width; ++e) o[h][e] = weight == kLeftOut ? o[h][e] : fmaf(weight, part[h][e], o[h][e]);
    }
  }

  /// Without any part o is -0 still: times -0 it is 0.
  PREFIXSHARE_DEVICE void finish(const Merge& merge, const float (&o)[Heads][Width]) const {
    const int head = head_of_lane();
    float lse = merge.lse(), scale = 0;
    if (has_head(head)) scale = merge_sink(p_, q_head_ + head, &lse);
    scale = merge.max == kEmptyLse ? -0.0f : scale / merge.sum;
    PREFIXSHARE_UNROLL
    for (int h = 0; h < Heads; ++h) store(h, ptx::shuffle(scale, h * kSpan), o[h]);
    if (writes_lse(head)) store_lse(p_, parts_.row, q_head_ + head, lse);
  }
  PREFIXSHARE_DEVICE bool writes_lse(int head) const {
    return lane_ % kSpan == 0 && dim_ - Width * lane_ == 0 && has_head(head);
  }
  PREFIXSHARE_DEVICE void store(int head, float scale, const float (&o)[Width]) const {
    if (p_.o == nullptr || dim_ >= p_.Dv || !has_head(head)) return;
    const std::int64_t at = parts_.row * p_.o_stride[0] + (q_head_ + head) * p_.o_stride[1] + dim_;
    Floats<Width> x;
    for (int e = 0; e < Width; ++e) x[e] = scale * o[e];
    if constexpr (Width == 4) {
      unsigned char* const to = static_cast<unsigned char*>(p_.o) + at * size_of(p_.o_dtype);
      if (reinterpret_cast<std::uintptr_t>(to) % static_cast<unsigned>(Width * size_of(p_.o_dtype)) == 0) {
        Chunk<Width> chunk = {};
        chunk.from_floats(p_.o_dtype, x);
        return chunk.store(to, p_.o_dtype);
      }
    }
    for (int e = 0; e < Width; ++e) store_o(p_, at + e, x[e]);
  }
  PREFIXSHARE_DEVICE static void fill(float (&o)[Heads][Width], float x) {
    for (int h = 0; h < Heads; ++h) {
      for (int e = 0; e < Width; ++e) o[h][e] = x;
    }
  }

  const AttendParams& p_;
  const RowParts& parts_;
  std::int32_t q_head_;
  int lane_;
  std::int32_t dim_;  // first of this lane
  std::int32_t row_stride_;
  const float* o_;  // of partial row 0, this lane's dims of the first head
};

/// The merge of one row and query head by one warp; o of PartsAhead parts is on its way at once.
template <int Width, int PartsAhead>
PREFIXSHARE_DEVICE void merge_row(const AttendParams& p, const RowParts& parts, std::int32_t q_head) {
  using Task = MergeTask<Width, 1>;
  for (std::int32_t dim = 0; dim < p.Dv; dim += Task::kDims) {
    const Task task(p, parts, q_head, dim);
    if (p.invariant != 0) {
      task.template merge_in_turn<PartsAhead>();
    } else {
      task.template merge_at_once<PartsAhead>();
    }
  }
}

/// Among the threads of a block that attend; others may feed them.
PREFIXSHARE_DEVICE void sync_attending([[maybe_unused]] ptx::Here here = ptx::Here::current()) {
  ptx::sync_named(1, kAttendThreads, here);
}

/// Counts a finished item in for every reduce group of its rows. Where it came last the block merges the group, for the
/// item's KV head. By the block's first kAttendThreads threads. `last` is shared memory for kWideRows numbers, which
/// only this function writes.
PREFIXSHARE_DEVICE void arrive(const AttendParams& p, const ImageItem& item, std::int32_t* last) {
  static_assert(kWideRows <= kAttendThreads, "a row is in one group, a group has a thread");
  const ImageGroup* groups = p.plan.list<ImageGroup>(p.plan.header().groups_at);
  const std::int32_t* of_item = p.plan.list<std::int32_t>(p.plan.header().item_groups_at) + item.first_group;
  const int thread = ptx::opaque(ptx::thread());
  ptx::fence();
  sync_attending();
  if (thread < item.group_count) {
    const std::int32_t index = of_item[thread], before_last = groups[index].arrivals - 1;
    std::int32_t* counter = p.group_counters + std::int64_t{index} * p.Hkv + item.kv_head;
    last[thread] = ptx::arrive(counter, before_last) == before_last;
  }
  sync_attending();
  const std::int32_t heads = p.group;
  int turn = 0;  // rows and heads go round the warps
  for (int i = 0; i < item.group_count; ++i) {
    if (last[i] == 0) continue;
    const ImageGroup& group = groups[of_item[i]];
    for (int j = 0; j < group.row_count * heads; ++j) {
      if (turn++ % (kAttendThreads / 32) == thread / 32) {
        merge_row<1, 1>(p, row_parts(p, group, j / heads), item.kv_head * heads + j % heads);
      }
    }
  }
}

// ---- The launch that follows ---------------------------------------------------------------------------------------

/// A warp's tasks of the merge that follows: as many as another's, one after the other, so that it looks for its first
/// group only and then walks. Each is some dims of a row's query heads, `heads` and `dims` at most.
class DeferredWalk {
 public:
  PREFIXSHARE_DEVICE DeferredWalk(const AttendParams& p, std::int32_t warps, std::int32_t warp, std::int32_t heads,
                                  std::int32_t dims)
      : p_(p), heads_(heads), dims_(dims), deferred_(p.plan.list<ImageDeferred>(p.plan.header().deferred_at)) {
    const std::int32_t slices = (p.Dv + dims - 1) / dims, of_row = (p.Hq + heads - 1) / heads * slices;
    const std::int64_t tasks = std::int64_t{p.plan.header().deferred_rows} * of_row, first = tasks * warp / warps;
    left_ = static_cast<std::int32_t>(tasks * (warp + 1) / warps - first);
    row_ = static_cast<std::int32_t>(first / of_row);
    const std::int32_t task = static_cast<std::int32_t>(first % of_row);
    q_head_ = task / slices * heads;
    dim_ = task % slices * dims;
    find_group();
  }

  /// Calls f(group, row of the group, first query head, first dim) for each task.
  template <class F>
  PREFIXSHARE_DEVICE void each(F&& f) {
    const ImageGroup* const groups = p_.plan.list<ImageGroup>(p_.plan.header().groups_at);
    for (; left_ > 0; --left_) {
      f(groups[deferred_[at_].group], row_ - deferred_[at_].first_row, q_head_, dim_);
      if ((dim_ += dims_) < p_.Dv) continue;
      dim_ = 0;
      if ((q_head_ += heads_) < p_.Hq) continue;
      q_head_ = 0;
      ++row_;
      while (at_ + 1 < p_.plan.header().deferred_count && deferred_[at_ + 1].first_row <= row_) ++at_;
    }
  }

 private:
  PREFIXSHARE_DEVICE void find_group() {
    std::int32_t high = p_.plan.header().deferred_count;  // the row's group is in [at_, high)
    while (high - at_ > 1) {
      const std::int32_t middle = at_ + (high - at_) / 2;
      (deferred_[middle].first_row <= row_ ? at_ : high) = middle;
    }
  }

  const AttendParams& p_;
  std::int32_t heads_, dims_;
  const ImageDeferred* deferred_;
  std::int32_t left_, row_, q_head_, dim_;
  std::int32_t at_ = 0;  // the row's group, into deferred
};

/// Merges what this warp has of the deferred rows, in tasks of this kind.
template <int Width, int Heads, int PartsAhead>
PREFIXSHARE_DEVICE void merge_deferred_rows(const AttendParams& p, std::int32_t warps, std::int32_t warp) {
  using Task = MergeTask<Width, Heads>;
  DeferredWalk walk(p, warps, warp, Heads, Task::kDims);  // of the plan, which the launch before does not write
  ptx::prerequisite_wait();
  walk.each([&](const ImageGroup& group, std::int32_t r, std::int32_t q_head, std::int32_t dim) {
    const RowParts parts = row_parts(p, group, r);
    const Task task(p, parts, q_head, dim);
    if constexpr (Heads == 1) {
      if (p.invariant != 0) return task.template merge_in_turn<4>();
    }
    task.template merge_at_once<PartsAhead>();
  });
}

/// Merges the groups that no item merges, in the launch after that of the items. Any grid will do: where it has more
/// warps than rows and heads, four share one, each with more parts on their way; where far fewer, a warp takes four
/// heads at once. Bounds: 8 loads of 16 bytes by each of 16 warps are 64 KiB on their way to an SM, what keeps memory
/// busy, and need the registers that four blocks leave.
template <int Threads>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(Threads, 4) merge_deferred(const PREFIXSHARE_GRID_CONSTANT AttendParams p) {
  constexpr std::int32_t kWarps = Threads / 32;
  const std::int32_t warps = ptx::blocks() * kWarps, warp = ptx::block() * kWarps + ptx::warp();
  const std::int64_t wide = std::int64_t{p.plan.header().deferred_rows} * p.Hq * ((p.Dv + 127) / 128);
  if (p.Dv % 4 != 0 || 4 * wide <= warps) {
    merge_deferred_rows<1, 1, 32>(p, warps, warp);
  } else if (p.invariant != 0 || wide < 4 * std::int64_t{warps}) {
    merge_deferred_rows<4, 1, 8>(p, warps, warp);
  } else {
    merge_deferred_rows<4, 4, 2>(p, warps, warp);
  }
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
