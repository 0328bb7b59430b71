// SPDX-License-Identifier: Apache-2.0
// Engine layouts: the caches and the tables of vLLM, SGLang, TensorRT-LLM and llama.cpp in our form. Caches become
// views: no key or value is copied. What cannot be viewed is refused by its name.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/span.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/tensor.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// Integers of 32 or of 64 bits, as the engine has them, on the host.
class IndexSpan {
 public:
  constexpr IndexSpan() noexcept = default;
  /// From a Span, a vector, an array of std::int32_t or std::int64_t.
  template <class Container,
            class Id = std::remove_const_t<std::remove_pointer_t<decltype(std::declval<Container&>().data())>>,
            class = std::enable_if_t<std::is_same_v<Id, std::int32_t> || std::is_same_v<Id, std::int64_t>>>
  constexpr IndexSpan(Container&& c) noexcept
      : data_(c.data()), size_(static_cast<std::int64_t>(c.size())), wide_(sizeof(Id) == sizeof(std::int64_t)) {}

  constexpr const void* data() const noexcept { return data_; }
  constexpr std::int64_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  std::int64_t operator[](std::int64_t i) const noexcept {
    return wide_ ? static_cast<const std::int64_t*>(data_)[i] : static_cast<const std::int32_t*>(data_)[i];
  }

 private:
  const void* data_ = nullptr;
  std::int64_t size_ = 0;
  bool wide_ = false;
};

/// Block tables that an adapter made: what forest_from_block_tables takes, and the memory behind it.
struct EngineTables {
  std::vector<std::int32_t> ids;  ///< [sequences, row_stride] pages; 0 behind the last of a row
  std::int64_t row_stride = 0;    ///< pages of the longest sequence
  std::vector<std::int32_t> kv_len;
  std::vector<std::int32_t> q_len;
  PoolShape pool;

  BlockTables view() const noexcept { return {ids, row_stride, kv_len, q_len, pool}; }
};

/// How elements are coded. All but plain are refused: no DType has them.
enum class CacheCoding : std::uint8_t { plain, fp8_e4m3, fp8_e5m2, int8, fp4 };

// What all functions here share.
//
// <engine>_pool, once per layer: sets `pool->k` and `pool->v` to views of the engine's memory and leaves scales and
// bias alone. Any strides with the innermost 1, any storage type, host or device. Nothing is read through the pointers.
// <engine>_tables, once per step: checks what the step's sequences use of the engine's tables and writes it to
// `*tables`. Lengths count this step's tokens. What lies behind a sequence's length is never read. Linear in the pages.
// q_len: [sequences] query rows; empty: one each.
// Errors: invalid_argument (null, a shape, an index out of range, with its element), unsupported (a layout, a coding or
// a table that has no view, by its name), capacity_exceeded (a count that no int32 holds), out_of_memory (tables). On
// error the output is unchanged.

// ---- vLLM

/// Shapes of the engine's tensor; its strides may be those of NHD or of HND memory.
enum class VllmLayout : std::uint8_t {
  kv_first,      ///< [2, blocks, block_size, Hkv, D]
  blocks_first,  ///< [blocks, 2, block_size, Hkv, D]
  packed,        ///< [blocks, Hkv, block_size, D + Dv]: the key of a head, then its value
  split_x,       ///< refused: K [blocks, Hkv, D / x, block_size, x] and V [blocks, Hkv, D, block_size]
  cpu            ///< refused: the CPU backend orders keys for the instruction set that it runs on
};
struct VllmCache {
  VllmLayout layout = VllmLayout::packed;
  TensorView<4> packed;  ///< for packed
  std::int32_t D = 0;    ///< for packed: the key's part of the last dimension
  TensorView<5> cache;   ///< for kv_first and blocks_first
  CacheCoding coding = CacheCoding::plain;
};
struct VllmTables {
  IndexSpan block_table;  ///< [>= sequences, row_stride], in blocks of block_size (the kernel's, where two are in use)
  std::int64_t row_stride = 0;
  IndexSpan seq_lens;         ///< [sequences]
  IndexSpan query_start_loc;  ///< [sequences + 1], ascending; empty: one query row each
  std::int32_t block_size = 0;
  std::int32_t num_blocks = 0;
};
Status vllm_pool(const VllmCache& cache, KvPool* pool) noexcept;
Status vllm_tables(const VllmTables& in, EngineTables* tables) noexcept;

// ---- SGLang

enum class SglangLayout : std::uint8_t {
  slots,         ///< k_buffer and v_buffer: [slots, Hkv, D] and [slots, Hkv, Dv]
  vectorized_5d  ///< refused: K [pages, Hkv, D / x, page_size, x], V [pages, Hkv, page_size / x, Dv, x]
};
struct SglangCache {
  SglangLayout layout = SglangLayout::slots;
  TensorView<3> k;
  TensorView<3> v;
  std::int32_t page_size = 1;  ///< slots behind the last whole page are left out of the view
  CacheCoding coding = CacheCoding::plain;
};
/// With page_size > 1 every page of a sequence must be page_size consecutive slots from a multiple of page_size on, as
/// far as its tokens reach; else the table is refused, and page_size 1 takes it.
struct SglangTables {
  IndexSpan req_to_token;  ///< [requests, row_stride] slots
  std::int64_t row_stride = 0;
  IndexSpan req_pool_indices;  ///< [sequences] rows of req_to_token
  IndexSpan seq_lens;          ///< [sequences]
  IndexSpan q_len;             ///< [sequences]: extend_seq_lens, or empty for a decode step
  std::int32_t page_size = 1;
  std::int64_t slots = 0;  ///< of the pool: k_buffer.shape[0]
};
Status sglang_pool(const SglangCache& cache, KvPool* pool) noexcept;
Status sglang_tables(const SglangTables& in, EngineTables* tables) noexcept;

// ---- TensorRT-LLM

struct TrtllmCache {
  TensorView<4>
      pool;  ///< the primary pool: [blocks, layers, 2, Hkv * tokens_per_block * D], heads outermost in a block
  std::int32_t layer = 0;  ///< of the pool's layers
  std::int32_t Hkv = 0;
  std::int32_t tokens_per_block = 0;
  std::int32_t D = 0;
  CacheCoding coding = CacheCoding::plain;
};
/// An offset counts (block, layer, K or V) of the pool and names layer 0: 2 * layers * block for K, one more for V.
/// Refused: offsets into the secondary pool (the sign bit), K and V of different blocks.
struct TrtllmTables {
  IndexSpan block_offsets;  ///< [>= sequences, 2, max_blocks] of one pool; a row is a sequence and a beam of it
  std::int64_t max_blocks = 0;
  IndexSpan sequence_lengths;  ///< [sequences]
  IndexSpan q_len;             ///< [sequences]
  std::int32_t tokens_per_block = 0;
  std::int32_t blocks = 0;
  std::int32_t layers = 0;         ///< of the pool
  bool cache_indirection = false;  ///< refused: beams that read each other's blocks say so outside of the offsets
};
Status trtllm_pool(const TrtllmCache& cache, KvPool* pool) noexcept;
Status trtllm_tables(const TrtllmTables& in, EngineTables* tables) noexcept;

// ---- llama.cpp

/// K or V of a layer as its ggml_tensor says: [n_embd, cells of a stream, streams], streams one behind the other.
struct LlamaTensor {
  void* data = nullptr;
  std::int32_t type = 0;       ///< ggml_type: f32 0, f16 1, f64 28, bf16 30; all others are refused
  std::int64_t row_bytes = 0;  ///< nb[1]: from a cell to the next
  MemorySpace space = MemorySpace::host;
};
struct LlamaCache {
  LlamaTensor k;
  LlamaTensor v;
  std::int64_t cells = 0;  ///< of all streams
  std::int32_t Hkv = 0;
  std::int32_t D = 0;
  std::int32_t Dv = 0;
  bool v_transposed = false;  ///< refused: without flash attention V lies transposed, [cells] contiguous
};
/// Pages are cells. A sequence's path are its cells in the order of their positions, which must have no gap and none
/// twice, but may begin behind 0 (a cache for a sliding window drops old cells). Shifts must have been applied.
struct LlamaCells {
  IndexSpan pos;                   ///< [cells]; -1: empty
  Span<const std::uint64_t> seqs;  ///< [cells, words]: bit s says that the cell is sequence s's
  std::int32_t words = 1;          ///< per cell
  IndexSpan seq_ids;               ///< [sequences] of the step, each once
  IndexSpan q_len;                 ///< [sequences]
};
Status llama_pool(const LlamaCache& cache, KvPool* pool) noexcept;
Status llama_tables(const LlamaCells& in, EngineTables* tables) noexcept;

}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/detail/engine_caches_impl.hpp"
#include "prefixshare/detail/engine_tables_impl.hpp"
