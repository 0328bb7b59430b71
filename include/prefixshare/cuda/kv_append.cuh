// SPDX-License-Identifier: Apache-2.0
// kv_append on CUDA. A block owns some tokens: it makes the cosines and sines of their positions, then moves all heads
// of their keys and of their values to the tokens' slots.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/rope_rows.cuh"
#include "prefixshare/detail/kv_scale.hpp"
#include "prefixshare/kv_append.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// Keys or values on their way into a pool.
struct AppendRows {
  HeadRows source;
  unsigned char* pool;  ///< null: absent
  PageRows rows;
  DType dtype;  ///< of the pool
  KvScale scale;

  PREFIXSHARE_DEVICE RowMove move(std::int64_t token, detail::SlotIndex at, int head, std::int64_t page_size,
                                  int heads) const {
    return {source.at(token, head, 0), pool + rows.at(at.page, at.slot, head), source.dtype, dtype,
            detail::kv_scale_of(scale, at, page_size, heads, head)};
  }
};

struct AppendParams {
  TurnParams turn;
  AppendRows k;
  AppendRows v;
  const std::int64_t* slots;      ///< on the device
  const std::int32_t* positions;  ///< on the device; null: keys are not turned
  std::int64_t tokens;
  std::int64_t page_size;
  std::int64_t capacity;  ///< slots of the pool
  std::int32_t heads;
  std::int32_t block_tokens;
  std::int32_t v_chunks;  ///< of a row of values; 0: there are none
};
static_assert(sizeof(AppendParams) <= 4096, "kernel parameters");

/// Chunk i of a row of head `head`: those of the key first, then those of the value.
template <int Width>
PREFIXSHARE_DEVICE void append_chunk(const AppendParams& p, std::int64_t token, int head, int i, const float* cosines,
                                     const float* sines) {
  const std::int64_t slot = p.slots[token];
  if (slot < 0 || slot >= p.capacity) return;
  const detail::SlotIndex at{slot / p.page_size, slot % p.page_size};
  const int key_chunks = p.turn.chunks(Width);
  if (i < key_chunks) {
    move_chunk<Width>(p.k.move(token, at, head, p.page_size, p.heads), p.turn, i, cosines, sines);
  } else {
    p.v.move(token, at, head, p.page_size, p.heads).template move<Width>((i - key_chunks) * Width);
  }
}

template <int Width>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kRowThreads, 8)
    kv_append_rows(const PREFIXSHARE_GRID_CONSTANT AppendParams p) {
  const std::int64_t first = std::int64_t{ptx::block()} * p.block_tokens, left = p.tokens - first;
  const int tokens = left < p.block_tokens ? static_cast<int>(left) : p.block_tokens;
  const int pairs = p.turn.pairs;
  const TurnTable table(ptx::shared_memory(), tokens, pairs);
  for (int i = ptx::thread(); i < tokens * pairs; i += kRowThreads) {
    table.set(i, p.positions[first + i / pairs] * p.turn.turns[i % pairs], p.turn.mscale);
  }
  ptx::sync_block();
  const int chunks = p.turn.chunks(Width) + p.v_chunks;
  for (int i = ptx::thread(); i < tokens * p.heads * chunks; i += kRowThreads) {
    const int row = i / chunks, token = row / p.heads;
    append_chunk<Width>(p, first + token, row % p.heads, i % chunks, table.cosines + token * pairs,
                        table.sines + token * pairs);
  }
}

inline AppendRows append_rows(const TensorView<3>& source, const TensorView<4>& pool, const KvScale& scale) noexcept {
  return {head_rows(source), static_cast<unsigned char*>(pool.data), page_rows(pool), pool.dtype, scale};
}

/// Runs a validated call without f64, whose lists and scales are on the device. A slot outside the pool is skipped.
/// `launch` as that of launch_merge_states.
template <class Launch>
Status launch_kv_append(const KvAppend& args, Launch&& launch) {
  constexpr const char* kOp = "kv_append";
  const TensorView<4>&k = args.pool.k, &v = args.pool.v;
  AppendParams p{};
  p.tokens = args.slots.size();
  p.page_size = k.shape[1];
  p.capacity = k.shape[0] * k.shape[1];
  if (p.tokens == 0 || p.capacity == 0 || k.shape[2] == 0) return {};
  ChunkWidth chunk;
  chunk.fit(args.k);
  chunk.fit(args.v);
  chunk.fit(k);
  chunk.fit(v);
  fit(&chunk, args.rope, k.shape[3]);
  if (Status s = check_chunks({kOp, "k"}, {k.shape[2], detail::checked_sum(k.shape[3], v.shape[3])})) return s;
  p.k = append_rows(args.k, k, args.pool.k_scale);
  p.v = append_rows(args.v, v, args.pool.v_scale);
  p.slots = args.slots.data();
  p.positions = args.positions.data();
  p.heads = static_cast<std::int32_t>(k.shape[2]);
  const RopeTable table = args.rope ? *args.rope : RopeTable{};
  for (std::int64_t i = 0; i < turn_launches(table); ++i) {
    p.turn = turn_params(table, table.mscale, k.shape[3], i);
    p.v_chunks = args.v && i == 0 ? static_cast<std::int32_t>(v.shape[3] / chunk.width()) : 0;
    const std::int64_t token_chunks = std::int64_t{p.heads} * std::max(1, p.turn.chunks(chunk.width()) + p.v_chunks);
    p.block_tokens = block_tokens(p.tokens, token_chunks, kMostTables);
    const std::int64_t blocks = detail::ceil_div(p.tokens, p.block_tokens);
    if (Status s = check_blocks({kOp, "slots"}, blocks)) return s;
    const Status s = chunk.call([&](auto width) {
      return launch(kv_append_rows<width>, blocks, kRowThreads, TurnTable::bytes(p.block_tokens, p.turn.pairs), false,
                    p);
    });
    if (s) return s;
  }
  return {};
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
