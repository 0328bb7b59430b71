// SPDX-License-Identifier: Apache-2.0
// draft_tree_from_parents for a batch on CUDA. A block owns a tree, a thread a node: each looks twice as far up with
// every round, so that a tree of any shape is done after log2 of its depth.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/row_chunks.cuh"
#include "prefixshare/draft_tree.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr int kDraftRounds = 10;  // so that 2^10 nodes are the most on a way up

struct DraftParams {
  const std::int32_t* parents;
  const std::int64_t* offsets;
  std::int32_t* depth;
  std::uint64_t* words;
  std::int32_t* faults;
  std::int64_t nodes;  ///< of all trees
  std::int32_t words_per_row;
};

/// What the threads of a block tell each other, in shared memory.
struct DraftBlock {
  std::uint64_t* bits;  ///< [threads]
  std::int32_t* depth;  ///< [threads]
  std::int16_t* above;  ///< [kDraftRounds, threads]: the node 2^round steps up; -1: none

  PREFIXSHARE_DEVICE explicit DraftBlock(unsigned char* memory)
      : bits(reinterpret_cast<std::uint64_t*>(memory)),
        depth(reinterpret_cast<std::int32_t*>(bits + ptx::threads())),
        above(reinterpret_cast<std::int16_t*>(depth + ptx::threads())) {}
  static constexpr std::int64_t bytes(std::int64_t threads) { return threads * (8 + 4 + 2 * kDraftRounds); }
};

/// Node `i` of a block's tree.
struct DraftNode {
  const DraftParams& p;
  const DraftBlock& block;
  std::int64_t begin;
  std::int64_t nodes;
  int i;

  PREFIXSHARE_DEVICE bool inside() const { return i < nodes; }
  PREFIXSHARE_DEVICE std::int16_t* above(int round, int node) const {
    return block.above + round * ptx::threads() + node;
  }

  /// Finds the depth and who is above. Returns the rounds that it took; a way that has no end then is a cycle: -1.
  PREFIXSHARE_DEVICE int climb(int parent) const {
    int up = parent, depth = parent < 0 ? 0 : 1, round = 0;
    for (; ptx::any_block(up >= 0); ++round) {
      if (round == kDraftRounds) return -1;
      *above(round, i) = static_cast<std::int16_t>(up);
      block.depth[i] = depth;
      ptx::sync_block();
      if (up < 0) continue;
      depth += block.depth[up];
      up = *above(round, up);
    }
    if (inside()) p.depth[begin + i] = depth;
    return round;
  }
  /// Word w of the row: the own bit, and what the nodes above see.
  PREFIXSHARE_DEVICE void see(int w, int rounds) const {
    std::uint64_t bits = i / 64 == w ? std::uint64_t{1} << (i % 64) : 0;
    for (int round = 0; round < rounds; ++round) {
      block.bits[i] = bits;
      ptx::sync_block();
      const int up = *above(round, i);
      if (up >= 0) bits |= block.bits[up];
      ptx::sync_block();
    }
    if (inside()) p.words[(begin + i) * p.words_per_row + w] = bits;
  }
  PREFIXSHARE_DEVICE DraftTreeFault fill() const {
    if (nodes > std::int64_t{64} * p.words_per_row) return DraftTreeFault::size;
    const int parent = inside() ? p.parents[begin + i] : -1;
    if (ptx::any_block(parent < -1 || (inside() && parent >= nodes))) return DraftTreeFault::parent;
    const int rounds = climb(parent);
    if (rounds < 0) return DraftTreeFault::cycle;
    for (int w = 0; w < p.words_per_row; ++w) see(w, rounds);
    return DraftTreeFault::none;
  }
  /// No depths and no bits, however many nodes there are.
  PREFIXSHARE_DEVICE void clear() const {
    for (std::int64_t n = i; n < nodes; n += ptx::threads()) p.depth[begin + n] = 0;
    for (std::int64_t n = i; n < nodes * p.words_per_row; n += ptx::threads()) {
      p.words[begin * p.words_per_row + n] = 0;
    }
  }
};

template <int MostThreads>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(MostThreads, 1)
    draft_tree_bits(const PREFIXSHARE_GRID_CONSTANT DraftParams p) {
  const int tree = ptx::block();
  const std::int64_t begin = p.offsets[tree], end = p.offsets[tree + 1];
  DraftTreeFault fault = DraftTreeFault::offsets;
  if (begin >= 0 && end >= begin && end <= p.nodes) {
    const DraftBlock block(ptx::shared_memory());
    const DraftNode node{p, block, begin, end - begin, ptx::thread()};
    fault = node.fill();
    if (fault != DraftTreeFault::none) node.clear();
  }
  if (ptx::thread() == 0) p.faults[tree] = static_cast<std::int32_t>(fault);
}

/// Runs a call that is validated and accepted. `launch` as that of launch_merge_states.
template <class Launch>
Status launch_draft_tree_from_parents(const DraftTreeBatch& args, Launch&& launch) {
  constexpr const char* kOp = "draft_tree_from_parents";
  if (args.faults.empty()) return {};
  if (Status s = check_blocks({kOp, "faults"}, args.faults.size())) return s;
  const DraftParams p{args.parents.data(), args.offsets.data(), args.depth.data(), args.words.data(),
                      args.faults.data(),  args.parents.size(), args.words_per_row};
  const int threads = 64 * args.words_per_row;
  return launch(draft_tree_bits<64 * kMaxDraftWords>, args.faults.size(), threads, DraftBlock::bytes(threads), false,
                p);
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
