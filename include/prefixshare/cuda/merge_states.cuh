// SPDX-License-Identifier: Apache-2.0
// merge_states and its backward on CUDA. A block owns some pairs of a row and a head; it finds the weights of their
// parts first, then sums o in chunks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/row_chunks.cuh"
#include "prefixshare/detail/softmax_state.hpp"
#include "prefixshare/merge_states.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

// ---- Forward -------------------------------------------------------------------------------------------------------

inline constexpr int kPartsAhead = 4;  // whose chunks are on their way to a thread at once

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
  std::int32_t chunks;       ///< of a row of o
  std::int32_t block_pairs;  ///< pairs of a block, a power of 2 of at most kRowThreads
};
static_assert(sizeof(MergeParams) <= 4096, "kernel parameters");

/// What a block keeps in shared memory: where its pairs are, and the weights of their parts.
struct MergeBlock {
  std::int64_t* rows;   ///< [block_pairs]
  std::int64_t* heads;  ///< [block_pairs]
  float* weights;       ///< [part_count, block_pairs]; kLeftOut for a part without keys

  static constexpr float kLeftOut = -1;

  PREFIXSHARE_DEVICE MergeBlock(unsigned char* memory, int block_pairs)
      : rows(reinterpret_cast<std::int64_t*>(memory)),
        heads(rows + block_pairs),
        weights(reinterpret_cast<float*>(heads + block_pairs)) {}
  static constexpr std::int64_t bytes(std::int64_t part_count, std::int64_t block_pairs) {
    return block_pairs * (16 + 4 * part_count);
  }
};

/// The lse of every part of the block's pairs, in place of the weights.
PREFIXSHARE_DEVICE void load_merge_pairs(const MergeParams& p, const MergeBlock& block) {
  const int q = ptx::thread() % p.block_pairs;
  const std::int64_t pair = std::int64_t{ptx::block()} * p.block_pairs + q;
  if (pair >= p.pairs) return;
  const std::int64_t row = pair / p.heads, head = pair % p.heads;
  if (ptx::thread() < p.block_pairs) block.rows[q] = row, block.heads[q] = head;
  for (int part = ptx::thread() / p.block_pairs; part < p.part_count; part += kRowThreads / p.block_pairs) {
    block.weights[part * p.block_pairs + q] = *p.parts[part].lse.at(row, head);
  }
}

/// Weights from the lse of one pair, which is stored.
PREFIXSHARE_DEVICE void find_merge_weights(const MergeParams& p, const MergeBlock& block, int q) {
  using Merge = detail::LseMerge<float>;
  Merge merge;
  for (int part = 0; part < p.part_count; ++part) merge.see(block.weights[part * p.block_pairs + q]);
  for (int part = 0; part < p.part_count; ++part) merge.add(block.weights[part * p.block_pairs + q]);
  for (int part = 0; part < p.part_count; ++part) {
    float* const weight = block.weights + part * p.block_pairs + q;
    *weight = *weight == Merge::kEmpty ? MergeBlock::kLeftOut : merge.weight(*weight);
  }
  *p.out.lse.at(block.rows[q], block.heads[q]) = merge.lse();
}

/// One chunk of one pair. The first part is assigned, so that a lone one keeps its bits; products are rounded before
/// they are added, so that two parts commute. All is read before it is written: `out` may be one of the parts.
template <int Width>
PREFIXSHARE_DEVICE void merge_chunk(const MergeParams& p, const MergeBlock& block, int q, int chunk) {
  const std::int64_t row = block.rows[q], head = block.heads[q];
  Floats<Width> sum = {};
  bool started = false;
  for (int first = 0; first < p.part_count; first += kPartsAhead) {
    Chunk<Width> chunks[kPartsAhead];
    float weights[kPartsAhead];
    for (int i = 0; i < kPartsAhead; ++i) {
      const int part = first + i;
      weights[i] = part < p.part_count ? block.weights[part * p.block_pairs + q] : MergeBlock::kLeftOut;
      if (weights[i] == MergeBlock::kLeftOut) continue;
      const HeadRows& o = p.parts[part].o;
      chunks[i].load(o.at(row, head, Width * chunk), o.dtype);
    }
    for (int i = 0; i < kPartsAhead; ++i) {
      if (weights[i] == MergeBlock::kLeftOut) continue;
      Floats<Width> x;
      chunks[i].to_floats(p.parts[first + i].o.dtype, x);
      for (int d = 0; d < Width; ++d) sum[d] = started ? sum[d] + weights[i] * x[d] : weights[i] * x[d];
      started = true;
    }
  }
  Chunk<Width> merged;
  merged.from_floats(p.out.o.dtype, sum);
  merged.store(p.out.o.at(row, head, Width * chunk), p.out.o.dtype);
}

template <int Width>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kRowThreads, 8)
    merge_states_rows(const PREFIXSHARE_GRID_CONSTANT MergeParams p) {
  const MergeBlock block(ptx::shared_memory(), p.block_pairs);
  const std::int64_t left = p.pairs - std::int64_t{ptx::block()} * p.block_pairs;
  const int pairs = left < p.block_pairs ? static_cast<int>(left) : p.block_pairs;
  load_merge_pairs(p, block);
  ptx::sync_block();
  if (ptx::thread() < pairs) find_merge_weights(p, block, ptx::thread());
  ptx::sync_block();
  for (int i = ptx::thread(); i < pairs * p.chunks; i += kRowThreads)
    merge_chunk<Width>(p, block, i / p.chunks, i % p.chunks);
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
  p.block_pairs = kRowThreads;  // about two chunks per thread
  while (p.block_pairs > 1 && p.block_pairs * chunks > 2 * kRowThreads) p.block_pairs /= 2;
  const std::int64_t blocks = detail::ceil_div(p.pairs, p.block_pairs);
  if (Status s = check_blocks({kOp, "out.o"}, blocks)) return s;
  return chunk.call([&](auto width) {
    return launch(merge_states_rows<width>, blocks, kRowThreads, MergeBlock::bytes(p.part_count, p.block_pairs), false,
                  p);
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
