// SPDX-License-Identifier: Apache-2.0
// rope_rebase on CUDA. A block owns some tokens of one page of one layer: it makes the cosines and sines of the move's
// delta, then turns the keys of all heads, and copies the values.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/rope_rows.cuh"
#include "prefixshare/rope_rebase.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr int kRebaseLayers = 112;  // of a launch, that is what its parameters hold

struct RebaseParams {
  TurnParams turn;
  unsigned char* k[kRebaseLayers];
  unsigned char* v[kRebaseLayers];
  PageRows k_rows;
  PageRows v_rows;
  const std::int32_t* from_pages;  ///< on the device
  const std::int32_t* to_pages;
  const std::int32_t* deltas;
  std::int32_t one_delta;  ///< deltas has a single element, for all moves
  std::int32_t layers;
  std::int32_t page_size;
  std::int32_t page_blocks;   ///< blocks of a page of a layer
  std::int32_t block_tokens;  ///< tokens of each
  std::int32_t heads;
  std::int32_t v_chunks;       ///< of a row of values; 0: there are none
  std::int32_t v_chunk_bytes;  ///< 16, or one element
  DType k_dtype;
};
static_assert(sizeof(RebaseParams) <= 4096, "kernel parameters");

/// Bits of any type.
PREFIXSHARE_DEVICE void copy_bytes(const unsigned char* from, unsigned char* to, int bytes) {
  switch (bytes) {
    case 16: *reinterpret_cast<ptx::Words4*>(to) = *reinterpret_cast<const ptx::Words4*>(from); break;
    case 8: *reinterpret_cast<Words2*>(to) = *reinterpret_cast<const Words2*>(from); break;
    case 4: *reinterpret_cast<std::uint32_t*>(to) = *reinterpret_cast<const std::uint32_t*>(from); break;
    default: *reinterpret_cast<std::uint16_t*>(to) = *reinterpret_cast<const std::uint16_t*>(from);
  }
}

/// Where a block works.
struct RebaseBlock {
  std::int32_t from, to, delta, layer, first, tokens;

  PREFIXSHARE_DEVICE explicit RebaseBlock(const RebaseParams& p) {
    const int page = ptx::block() / p.page_blocks, move = page / p.layers;
    from = p.from_pages[move];
    to = p.to_pages[move];
    delta = p.deltas[p.one_delta ? 0 : move];
    layer = page % p.layers;
    first = ptx::block() % p.page_blocks * p.block_tokens;
    tokens = p.page_size - first < p.block_tokens ? p.page_size - first : p.block_tokens;
  }
};

template <int Width>
PREFIXSHARE_DEVICE void rebase_keys(const RebaseParams& p, const RebaseBlock& block) {
  const TurnTable table(ptx::shared_memory(), 1, p.turn.pairs);
  for (int i = ptx::thread(); i < p.turn.pairs; i += kRowThreads) {
    table.set(i, block.delta * p.turn.turns[i], p.turn.mscale);
  }
  ptx::sync_block();
  if (block.delta == 0 && block.from == block.to) return;
  const int chunks = p.turn.chunks(Width);
  for (int i = ptx::thread(); i < block.tokens * p.heads * chunks; i += kRowThreads) {
    const int row = i / chunks, slot = block.first + row / p.heads, head = row % p.heads;
    const RowMove move{p.k[block.layer] + p.k_rows.at(block.from, slot, head),
                       p.k[block.layer] + p.k_rows.at(block.to, slot, head), p.k_dtype, p.k_dtype, 1};
    move_chunk<Width>(move, p.turn, i % chunks, block.delta == 0 ? nullptr : table.cosines, table.sines);
  }
}

PREFIXSHARE_DEVICE void rebase_values(const RebaseParams& p, const RebaseBlock& block) {
  if (block.from == block.to) return;
  for (int i = ptx::thread(); i < block.tokens * p.heads * p.v_chunks; i += kRowThreads) {
    const int row = i / p.v_chunks, slot = block.first + row / p.heads, head = row % p.heads;
    const std::int64_t chunk = std::int64_t{i % p.v_chunks} * p.v_chunk_bytes;
    copy_bytes(p.v[block.layer] + p.v_rows.at(block.from, slot, head) + chunk,
               p.v[block.layer] + p.v_rows.at(block.to, slot, head) + chunk, p.v_chunk_bytes);
  }
}

template <int Width>
PREFIXSHARE_GLOBAL void PREFIXSHARE_BOUNDS(kRowThreads, 8)
    rope_rebase_pages(const PREFIXSHARE_GRID_CONSTANT RebaseParams p) {
  const RebaseBlock block(p);
  rebase_keys<Width>(p, block);
  rebase_values(p, block);
}

// ---- On the host ---------------------------------------------------------------------------------------------------

/// Layers from `first` on that one launch takes: their strides are one.
inline std::int32_t rebase_layers(const RopeRebase& args, std::int64_t first) noexcept {
  const KvPool& like = args.layers[first];
  std::int32_t count = 1;
  while (count < kRebaseLayers && first + count < args.layers.size()) {
    const KvPool& layer = args.layers[first + count];
    if (!(page_rows(layer.k) == page_rows(like.k)) || !(page_rows(layer.v) == page_rows(like.v))) break;
    ++count;
  }
  return count;
}

/// Bytes of the chunks in which values of these layers are copied.
inline std::int32_t value_chunk_bytes(Span<const KvPool> layers) noexcept {
  const TensorView<4>& v = layers[0].v;
  const std::int64_t size = size_of(v.dtype);
  bool whole = v.shape[3] * size % 16 == 0;
  for (const KvPool& layer : layers) whole = whole && reinterpret_cast<std::uintptr_t>(layer.v.data) % 16 == 0;
  for (int d = 0; d < 3; ++d) whole = whole && (v.shape[d] <= 1 || v.stride[d] * size % 16 == 0);
  return static_cast<std::int32_t>(whole ? 16 : size);
}

/// The launches of some layers of one layout.
template <class Launch>
Status launch_rebase(const RopeRebase& args, Span<const KvPool> layers, Launch&& launch) {
  constexpr const char* kOp = "rope_rebase";
  const TensorView<4>&k = layers[0].k, &v = layers[0].v;
  ChunkWidth chunk;
  fit(&chunk, &args.table, k.shape[3]);
  RebaseParams p{};
  for (std::int64_t l = 0; l < layers.size(); ++l) {
    chunk.fit(layers[l].k);
    p.k[l] = static_cast<unsigned char*>(layers[l].k.data);
    p.v[l] = static_cast<unsigned char*>(layers[l].v.data);
  }
  p.k_rows = page_rows(k);
  p.v_rows = page_rows(v);
  p.from_pages = args.from_pages.data();
  p.to_pages = args.to_pages.data();
  p.deltas = args.deltas.data();
  p.one_delta = args.deltas.size() == 1;
  p.layers = static_cast<std::int32_t>(layers.size());
  p.page_size = static_cast<std::int32_t>(k.shape[1]);
  p.heads = static_cast<std::int32_t>(k.shape[2]);
  p.k_dtype = k.dtype;
  const std::int64_t pages = args.from_pages.size() * p.layers;
  for (std::int64_t i = 0; i < turn_launches(args.table); ++i) {
    p.turn = turn_params(args.table, 1, k.shape[3], i);
    p.v_chunk_bytes = v && i == 0 ? value_chunk_bytes(layers) : 0;
    p.v_chunks = p.v_chunk_bytes == 0 ? 0 : static_cast<std::int32_t>(v.shape[3] * size_of(v.dtype) / p.v_chunk_bytes);
    const std::int64_t token_chunks = std::int64_t{p.heads} * std::max(1, p.turn.chunks(chunk.width()));
    p.block_tokens = block_tokens(pages * p.page_size, token_chunks, p.page_size);
    p.page_blocks = static_cast<std::int32_t>(detail::ceil_div(p.page_size, p.block_tokens));
    const std::int64_t blocks = pages * p.page_blocks;
    if (Status s = check_blocks({kOp, "from_pages"}, blocks)) return s;
    const Status s = chunk.call([&](auto width) {
      return launch(rope_rebase_pages<width>, blocks, kRowThreads, TurnTable::bytes(1, p.turn.pairs), false, p);
    });
    if (s) return s;
  }
  return {};
}

/// Runs a validated call whose keys are not f64 and whose lists are on the device. `launch` as that of
/// launch_merge_states.
template <class Launch>
Status launch_rope_rebase(const RopeRebase& args, Launch&& launch) {
  if (args.layers.empty() || args.from_pages.empty()) return {};
  const TensorView<4>&k = args.layers[0].k, &v = args.layers[0].v;
  if (k.shape[1] == 0 || k.shape[2] == 0) return {};
  const detail::Where at{"rope_rebase", "layers.k"};
  if (Status s = check_chunks(at, {k.shape[2], std::max(k.shape[3], v.shape[3])})) return s;
  if (k.shape[1] > INT32_MAX) {
    return detail::failure(at, "shape[1]", k.shape[1], "<=", INT32_MAX, StatusUnit::number, StatusCode::unsupported);
  }
  for (std::int64_t first = 0; first < args.layers.size();) {
    const std::int32_t count = rebase_layers(args, first);
    if (Status s = launch_rebase(args, args.layers.subspan(first, count), launch)) return s;
    first += count;
  }
  return {};
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
