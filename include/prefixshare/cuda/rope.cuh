// SPDX-License-Identifier: Apache-2.0
// rope_apply and rope_shift on CUDA. A block owns some tokens: it makes the cosines and sines of their positions, or of
// the one delta of all, then turns all heads of each.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/rope_rows.cuh"
#include "prefixshare/rope.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

struct RopeRowsParams {
  TurnParams turn;
  HeadRows x;
  HeadRows out;
  const std::int32_t* positions;  ///< on the device: of each token, or one for all; null: `position`
  std::int32_t position;
  std::int32_t per_token;     ///< positions are
  std::int32_t copies_zeros;  ///< position 0 moves rows bit for bit
  std::int32_t heads;
  std::int32_t block_tokens;
  std::int64_t tokens;

  PREFIXSHARE_HD std::int32_t position_of(std::int64_t token) const {
    return positions == nullptr ? position : positions[per_token ? token : 0];
  }
};
static_assert(sizeof(RopeRowsParams) <= 4096, "kernel parameters");

template <int Width>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kRowThreads, 8) rope_rows(const PREFIXSHARE_GRID_CONSTANT RopeRowsParams p) {
  const std::int64_t first = std::int64_t{ptx::block()} * p.block_tokens, left = p.tokens - first;
  const int tokens = left < p.block_tokens ? static_cast<int>(left) : p.block_tokens;
  const int pairs = p.turn.pairs, tables = p.per_token ? tokens : 1;
  const TurnTable table(ptx::shared_memory(), tables, pairs);
  for (int i = ptx::thread(); i < tables * pairs; i += kRowThreads) {
    table.set(i, p.position_of(first + i / pairs) * p.turn.turns[i % pairs], p.turn.mscale);
  }
  ptx::sync_block();
  const int chunks = p.turn.chunks(Width);
  for (int i = ptx::thread(); i < tokens * p.heads * chunks; i += kRowThreads) {
    const int row = i / chunks, token = row / p.heads, head = row % p.heads;
    const RowMove move{p.x.at(first + token, head, 0), p.out.at(first + token, head, 0), p.x.dtype, p.out.dtype, 1};
    const bool turned = !(p.copies_zeros && p.position_of(first + token) == 0);
    const int at = p.per_token ? token * pairs : 0;
    move_chunk<Width>(move, p.turn, i % chunks, turned ? table.cosines + at : nullptr, table.sines + at);
  }
}

/// Starts the kernels of either operator.
template <class Launch>
Status launch_rope_rows(const char* op, const TensorView<3>& x, const TensorView<3>& out, const RopeTable& table,
                        double mscale, RopeRowsParams p, Launch&& launch) {
  p.tokens = x.shape[0];
  if (p.tokens == 0 || x.shape[1] == 0 || x.shape[2] == 0) return {};
  ChunkWidth chunk;
  chunk.fit(x);
  chunk.fit(out);
  fit(&chunk, &table, x.shape[2]);
  if (Status s = check_chunks({op, "x"}, {x.shape[1], x.shape[2]})) return s;
  p.x = head_rows(x);
  p.out = head_rows(out);
  p.heads = static_cast<std::int32_t>(x.shape[1]);
  for (std::int64_t i = 0; i < turn_launches(table); ++i) {
    p.turn = turn_params(table, mscale, x.shape[2], i);
    const std::int64_t token_chunks = std::int64_t{p.heads} * std::max(1, p.turn.chunks(chunk.width()));
    p.block_tokens = block_tokens(p.tokens, token_chunks, p.per_token ? kMostTables : kRowThreads);
    const std::int64_t blocks = detail::ceil_div(p.tokens, p.block_tokens);
    if (Status s = check_blocks({op, "x"}, blocks)) return s;
    const std::int64_t bytes = TurnTable::bytes(p.per_token ? p.block_tokens : 1, p.turn.pairs);
    const Status s =
        chunk.call([&](auto width) { return launch(rope_rows<width>, blocks, kRowThreads, bytes, false, p); });
    if (s) return s;
  }
  return {};
}

/// Run a validated call without f64, whose lists are on the device; one delta may also be on the host. `launch` as that
/// of launch_merge_states.
template <class Launch>
Status launch_rope_apply(const RopeApply& args, Launch&& launch) {
  RopeRowsParams p{};
  p.positions = args.positions.data();
  p.per_token = 1;
  return launch_rope_rows("rope_apply", args.x, args.out, args.table, args.table.mscale, p, launch);
}
template <class Launch>
Status launch_rope_shift(const RopeShift& args, Launch&& launch) {
  RopeRowsParams p{};
  p.copies_zeros = 1;
  p.per_token = args.deltas.size() != 1;
  if (args.lists_space == MemorySpace::device) {
    p.positions = args.deltas.data();
  } else if (!args.deltas.empty()) {
    p.position = args.deltas[0];
  }
  return launch_rope_rows("rope_shift", args.x, args.out, args.table, 1, p, launch);
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
