// SPDX-License-Identifier: Apache-2.0
// merge_states and its backward on CUDA. Some lanes of a warp own a pair of a row and a head: each finds the weights of
// all parts for itself, which costs less than to wait for another, and sums its chunks of o.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/row_chunks.cuh"
#include "prefixshare/cuda/tile.cuh"
#include "prefixshare/detail/softmax_state.hpp"
#include "prefixshare/merge_states.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

// ---- Forward -------------------------------------------------------------------------------------------------------

struct MergePart {
  HeadRows o;
  HeadNumbers lse;
};
struct MergeParams {
  MergePart parts[kMaxMergeParts];
  MergePart out;
  std::int64_t pairs;
  std::int64_t heads;
  std::int32_t part_count;
  std::int32_t chunks;     ///< of a row of o
  std::int32_t lane_bits;  ///< log2 of the lanes of a pair, of which a warp has 32

  PREFIXSHARE_HD int lanes() const { return 1 << lane_bits; }
  PREFIXSHARE_HD int block_pairs() const { return kRowThreads >> lane_bits; }
};
static_assert(sizeof(MergeParams) <= 4096, "kernel parameters");

/// Chunks of o that a thread sums at once, if those of PartsAhead parts are on their way to it at once.
constexpr int chunks_at_once(int PartsAhead) { return PartsAhead <= 2 ? 2 : 1; }

/// One pair, for one of its lanes. All is read before it is written: `out` may be one of the parts.
template <int Width, int PartsAhead>
struct MergePair {
  static constexpr int kChunks = chunks_at_once(PartsAhead);
  static constexpr bool kOneBatch = kChunks > 1;  ///< calls have no more parts than that
  using Merge = detail::LseMerge<float>;

  const MergeParams& p;
  std::int64_t row, head;
  int count;  ///< of parts; none for lanes beyond the last pair, which write nothing

  static constexpr float kLeftOut = -1;  ///< weight of a part without keys, whose o may hold anything

  /// What some consecutive parts give: their lse, or what they weigh, and this lane's chunks.
  struct Batch {
    float lse[PartsAhead];
    Chunk<Width> chunks[PartsAhead][kChunks];
  };
  PREFIXSHARE_DEVICE float lse(int part) const { return *p.parts[part].lse.at(row, head); }

  /// Starts the loads of the parts from `first` on; beyond the last one they are empty.
  PREFIXSHARE_DEVICE void load(int first, int chunk, Batch* batch) const {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < PartsAhead; ++i) {
      batch->lse[i] = Merge::kEmpty;
      if (first + i >= count) continue;
      batch->lse[i] = lse(first + i);
      const HeadRows& o = p.parts[first + i].o;
      PREFIXSHARE_UNROLL
      for (int k = 0; k < kChunks; ++k) {  // no other chunks than its own: what another lane has may be written by now
        const int c = chunk + k * p.lanes();
        if (c < p.chunks) batch->chunks[i][k].load(o.at(row, head, Width * c), o.dtype);
      }
    }
  }

  /// Maximum and sum of all parts, of which the batch has the first.
  PREFIXSHARE_DEVICE Merge merge(const Batch& batch) const {
    Merge merge;
    PREFIXSHARE_UNROLL
    for (int i = 0; i < PartsAhead; ++i) merge.see(batch.lse[i]);
    if constexpr (!kOneBatch) {
      PREFIXSHARE_ROLL
      for (int part = PartsAhead; part < count; ++part) merge.see(lse(part));
    }
    PREFIXSHARE_UNROLL
    for (int i = 0; i < PartsAhead; ++i) {
      if (i < count) merge.add(batch.lse[i]);
    }
    if constexpr (!kOneBatch) {
      PREFIXSHARE_ROLL
      for (int part = PartsAhead; part < count; ++part) merge.add(lse(part));
    }
    return merge;
  }
  PREFIXSHARE_DEVICE void weigh(const Merge& merge, Batch* batch) const {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < PartsAhead; ++i) {
      float& lse = batch->lse[i];
      lse = lse == Merge::kEmpty ? kLeftOut : merge.weight(lse);
    }
  }

  /// Adds chunk k of the parts from `first` on. Products are rounded before they are added, so that two parts commute;
  /// the first one is added to -0, so that a lone one keeps its bits.
  PREFIXSHARE_DEVICE void add(int first, int k, const Batch& batch, Floats<Width>& sum) const {
    PREFIXSHARE_UNROLL
    for (int i = 0; i < PartsAhead; ++i) {
      if (first + i >= count || batch.lse[i] == kLeftOut) continue;
      Floats<Width> x;
      batch.chunks[i][k].to_floats(p.parts[first + i].o.dtype, x);
      for (int d = 0; d < Width; ++d) sum[d] += batch.lse[i] * x[d];
    }
  }

  /// Merges kChunks chunks from `chunk` on, `lanes` apart; returns what the lse are.
  PREFIXSHARE_DEVICE Merge merge_chunks(int chunk, bool inside) const {
    Batch batch = {};
    load(0, chunk, &batch);
    const Merge found = merge(batch);
    weigh(found, &batch);
    PREFIXSHARE_UNROLL
    for (int k = 0; k < kChunks; ++k) {
      Floats<Width> sum;
      for (int d = 0; d < Width; ++d) sum[d] = found.max == Merge::kEmpty ? 0.0f : -0.0f;
      add(0, k, batch, sum);
      if constexpr (!kOneBatch) {
        PREFIXSHARE_ROLL
        for (int first = PartsAhead; first < count; first += PartsAhead) {
          load(first, chunk, &batch);
          weigh(found, &batch);
          add(first, k, batch, sum);
        }
      }
      const int c = chunk + k * p.lanes();
      if (inside && c < p.chunks) store(c, sum);
    }
    return found;
  }
  PREFIXSHARE_DEVICE void store(int chunk, const Floats<Width>& sum) const {
    Chunk<Width> merged = {};
    merged.from_floats(p.out.o.dtype, sum);
    merged.store(p.out.o.at(row, head, Width * chunk), p.out.o.dtype);
  }
};

/// Blocks on an SM: as many as the registers for the chunks on their way allow, which then are 50 to 72 KiB.
constexpr int merge_blocks(int PartsAhead) { return PartsAhead <= 2 ? 9 : 5; }

template <int Width, int PartsAhead>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kRowThreads, merge_blocks(PartsAhead))
    merge_states_rows(const PREFIXSHARE_GRID_CONSTANT MergeParams p) {
  using Pair = MergePair<Width, PartsAhead>;
  const int lane = ptx::thread() & (p.lanes() - 1);
  const std::int64_t pair = std::int64_t{ptx::block()} * p.block_pairs() + (ptx::thread() >> p.lane_bits);
  const bool inside = pair < p.pairs;
  const Pair of_lane{p, pair / p.heads, pair % p.heads, inside ? p.part_count : 0};
  typename Pair::Merge merge;
  int first = 0;
  do {
    merge = of_lane.merge_chunks(first + lane, inside);
    first += Pair::kChunks * p.lanes();
  } while (first < p.chunks);
  ptx::sync_warp();  // the other lanes may still have to read the lse of a part that is `out`
  if (inside && lane == 0) *p.out.lse.at(of_lane.row, of_lane.head) = merge.lse();
}

inline MergePart merge_part(const State& state) noexcept { return {head_rows(state.o), head_numbers(state.lse)}; }

/// Runs a call that is validated and accepted. launch(kernel, blocks, threads, shared bytes, chained, parameters)
/// starts a kernel.
template <class Launch>
Status launch_merge_states(const MergeStates& args, Launch&& launch) {
  constexpr const char* kOp = "merge_states";
  const TensorView<3>& o = args.out.o;
  MergeParams p{};
  p.pairs = o.shape[0] * o.shape[1];
  if (p.pairs == 0) return {};
  ChunkWidth chunk;
  chunk.fit(o);
  for (const State& part : args.parts) chunk.fit(part.o);
  const std::int64_t chunks = o.shape[2] / chunk.width();
  if (Status s = check_chunks({kOp, "out.o"}, {chunks})) return s;
  for (std::int64_t i = 0; i < args.parts.size(); ++i) p.parts[i] = merge_part(args.parts[i]);
  p.out = merge_part(args.out);
  p.heads = o.shape[1];
  p.part_count = static_cast<std::int32_t>(args.parts.size());
  p.chunks = static_cast<std::int32_t>(chunks);
  const auto run = [&](auto width, auto ahead) {
    constexpr int kChunks = chunks_at_once(ahead);
    while (p.lanes() < 32 && p.lanes() * kChunks < chunks) ++p.lane_bits;
    const std::int64_t blocks = detail::ceil_div(p.pairs, p.block_pairs());
    if (Status s = check_blocks({kOp, "out.o"}, blocks)) return s;
    return launch(merge_states_rows<width, ahead>, blocks, kRowThreads, 0, false, p);
  };
  return chunk.call([&](auto width) {
    return p.part_count <= 2 ? run(width, std::integral_constant<int, 2>{})
                             : run(width, std::integral_constant<int, 5>{});
  });
}

// ---- Backward ------------------------------------------------------------------------------------------------------

inline constexpr int kGradParts = 24;  // of a launch; more parts are more launches, since none depends on another

struct MergeGradPart {
  MergePart part;
  MergePart grad;
};
struct MergeGradParams {
  MergeGradPart parts[kGradParts];
  MergePart out;
  MergePart dout;  ///< lse null: zero
  std::int64_t pairs;
  std::int64_t heads;
  std::int32_t part_count;
  std::int32_t chunks;
  std::int32_t lanes;  ///< of a pair: a power of 2 of at most 32
};
static_assert(sizeof(MergeGradParams) <= 4096, "kernel parameters");

/// One pair of one part, for the lanes of the pair.
struct MergeGradRow {
  const MergeGradParams& p;
  const MergeGradPart& part;
  std::int64_t row, head;
  float weight;
  bool empty;

  template <int Width>
  PREFIXSHARE_DEVICE static void load(const HeadRows& rows, std::int64_t r, std::int64_t h, int chunk,
                                      Floats<Width>& x) {
    Chunk<Width> bits;
    bits.load(rows.at(r, h, Width * chunk), rows.dtype);
    bits.to_floats(rows.dtype, x);
  }

  /// Stores one chunk of do_p = weight * dout, or zeros; its share of dout . (o_p - o).
  template <int Width>
  PREFIXSHARE_DEVICE float chunk(int c) const {
    Floats<Width> dout, grad = {};
    float dot = 0;
    if (!empty) {
      Floats<Width> o, o_part;
      load<Width>(p.dout.o, row, head, c, dout);
      load<Width>(p.out.o, row, head, c, o);
      load<Width>(part.part.o, row, head, c, o_part);
      for (int d = 0; d < Width; ++d) grad[d] = weight * dout[d], dot += dout[d] * (o_part[d] - o[d]);
    }
    const HeadRows& to = part.grad.o;
    Chunk<Width> bits;
    bits.from_floats(to.dtype, grad);
    bits.store(to.at(row, head, Width * c), to.dtype);
    return dot;
  }
};

template <int Width>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kRowThreads, 8)
    merge_states_backward_rows(const PREFIXSHARE_GRID_CONSTANT MergeGradParams p) {
  using Merge = detail::LseMerge<float>;
  const int lane = ptx::thread() % p.lanes;
  const std::int64_t pair = std::int64_t{ptx::block()} * (kRowThreads / p.lanes) + ptx::thread() / p.lanes;
  const bool inside = pair < p.pairs;  // lanes beyond take part in the sums
  const std::int64_t row = inside ? pair / p.heads : 0, head = inside ? pair % p.heads : 0;
  const float lse = *p.out.lse.at(row, head);
  const float dlse = p.dout.lse.data ? *p.dout.lse.at(row, head) : 0;
  for (int i = 0; i < p.part_count; ++i) {
    const MergeGradPart& part = p.parts[i];
    const float lse_part = *part.part.lse.at(row, head);
    const bool empty = lse_part == Merge::kEmpty;
    const float weight = empty ? 0 : detail::exp_of(lse_part - lse);
    const MergeGradRow gradient{p, part, row, head, weight, empty};
    float dot = 0;
    for (int c = lane; inside && c < p.chunks; c += p.lanes) dot += gradient.template chunk<Width>(c);
    for (int mask = p.lanes / 2; mask > 0; mask /= 2) dot += ptx::shuffle_xor(dot, mask);
    if (inside && lane == 0) *part.grad.lse.at(row, head) = empty ? 0 : weight * (dot + dlse);
  }
}

/// Runs a call that is validated and accepted. `launch` as that of launch_merge_states.
template <class Launch>
Status launch_merge_states_backward(const MergeStatesGrad& args, Launch&& launch) {
  constexpr const char* kOp = "merge_states_backward";
  const TensorView<3>& o = args.out.o;
  MergeGradParams p{};
  p.pairs = o.shape[0] * o.shape[1];
  if (p.pairs == 0) return {};
  ChunkWidth chunk;
  chunk.fit(o);
  chunk.fit(args.dout);
  for (const Span<const State> states : {args.parts, args.dparts}) {
    for (const State& state : states) chunk.fit(state.o);
  }
  const std::int64_t chunks = o.shape[2] / chunk.width();
  if (Status s = check_chunks({kOp, "out.o"}, {chunks})) return s;
  p.out = merge_part(args.out);
  p.dout = merge_part({args.dout, args.dlse});
  p.heads = o.shape[1];
  p.chunks = static_cast<std::int32_t>(chunks);
  p.lanes = 1;
  while (p.lanes < 32 && p.lanes < chunks) p.lanes *= 2;
  const std::int64_t blocks = detail::ceil_div(p.pairs, kRowThreads / p.lanes);
  if (Status s = check_blocks({kOp, "out.o"}, blocks)) return s;
  for (std::int64_t first = 0; first < args.parts.size(); first += kGradParts) {
    p.part_count = static_cast<std::int32_t>(std::min<std::int64_t>(kGradParts, args.parts.size() - first));
    for (std::int32_t i = 0; i < p.part_count; ++i) {
      p.parts[i] = {merge_part(args.parts[first + i]), merge_part(args.dparts[first + i])};
    }
    const Status s = chunk.call(
        [&](auto width) { return launch(merge_states_backward_rows<width>, blocks, kRowThreads, 0, false, p); });
    if (s) return s;
  }
  return {};
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
