// SPDX-License-Identifier: Apache-2.0
// Fake engines: a paged batch as the caches and tables of vLLM, SGLang, TensorRT-LLM and llama.cpp would hold it. The
// address of every key and value is computed here by the engine's own formula.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/engine_layouts.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"
#include "support/paged_batch.hpp"

namespace prefixshare::tests {

/// Where an engine keeps head `head` of the key (or value) of slot `slot` in page `page`: an index into its memory.
using EngineAddress = std::function<std::int64_t(bool value, std::int64_t page, std::int64_t slot, std::int64_t head)>;

struct FakeEngine {
  std::string name;
  std::vector<float> memory;
  EngineAddress address;
  KvPool pool;          ///< what the adapter made of the memory
  EngineTables tables;  ///< and of the tables
};

/// Heads and dims of the fake caches; Dv where the engine lets it differ.
struct EngineDims {
  std::int64_t Hkv = 2;
  std::int64_t D = 8;
  std::int64_t Dv = 8;
};

inline void require_view(const Status& status) {
  INFO(to_string(status));
  REQUIRE(status.ok());
}

inline FakeEngine fake_vllm(const Batch& b, const EngineDims& dims, VllmLayout layout, bool head_major) {
  const std::int64_t P = b.num_pages, S = b.page_size, H = dims.Hkv, D = dims.D;
  const std::int64_t Dv = layout == VllmLayout::packed ? dims.Dv : D, row = D + Dv;
  FakeEngine e;
  e.name = std::string("vllm, layout ") + std::to_string(static_cast<int>(layout)) + (head_major ? ", HND" : ", NHD");
  e.memory.assign(static_cast<std::size_t>(P * S * H * row), std::numeric_limits<float>::quiet_NaN());
  e.address = [=](bool value, std::int64_t page, std::int64_t slot, std::int64_t head) {
    const std::int64_t inner = head_major ? head * S + slot : slot * H + head, kv = value ? 1 : 0;
    if (layout == VllmLayout::packed) return (page * S * H + inner) * row + kv * D;
    return ((layout == VllmLayout::kv_first ? kv * P + page : page * 2 + kv) * S * H + inner) * D;
  };
  VllmCache cache;
  cache.layout = layout;
  float* data = e.memory.data();
  if (layout == VllmLayout::packed) {
    cache.packed = make_view(data, {P, H, S, row});
    if (!head_major) cache.packed = make_view(data, {P, H, S, row}, {S * H * row, row, H * row, 1});
    cache.D = static_cast<std::int32_t>(D);
  } else {
    const bool first = layout == VllmLayout::kv_first;
    const std::int64_t block = S * H * D, slot = head_major ? D : H * D, head = head_major ? S * D : D;
    cache.cache =
        make_view(data, {first ? 2 : P, first ? P : 2, S, H, D}, {first ? P * block : 2 * block, block, slot, head, 1});
  }
  require_view(vllm_pool(cache, &e.pool));

  const std::vector<std::int32_t> ids = b.table<std::int32_t>(2, -1);
  std::vector<std::int32_t> starts = {0};
  for (std::int32_t rows : b.q_len) starts.push_back(starts.back() + rows);
  VllmTables tables;
  tables.block_table = ids;
  tables.row_stride = b.longest() + 2;
  tables.seq_lens = b.kv_len;
  tables.query_start_loc = starts;
  tables.block_size = b.page_size;
  tables.num_blocks = b.num_pages;
  require_view(vllm_tables(tables, &e.tables));
  return e;
}

/// Slot ids of 64 bits, rows of the request table in another order than the batch.
inline FakeEngine fake_sglang(const Batch& b, const EngineDims& dims, std::int32_t page_size) {
  const std::int64_t S = b.page_size, slots = b.num_pages * S, H = dims.Hkv, D = dims.D, Dv = dims.Dv;
  FakeEngine e;
  e.name = "sglang, page size " + std::to_string(page_size);
  e.memory.assign(static_cast<std::size_t>(slots * H * (D + Dv)), std::numeric_limits<float>::quiet_NaN());
  e.address = [=](bool value, std::int64_t page, std::int64_t slot, std::int64_t head) {
    const std::int64_t at = (page * S + slot) * H + head;
    return value ? slots * H * D + at * Dv : at * D;
  };
  SglangCache cache;
  cache.k = make_view(e.memory.data(), {slots, H, D});
  cache.v = make_view(e.memory.data() + slots * H * D, {slots, H, Dv});
  cache.page_size = page_size;
  require_view(sglang_pool(cache, &e.pool));

  const std::int64_t stride = b.longest() * S + 3;
  std::vector<std::int64_t> req_to_token(static_cast<std::size_t>((b.sequences() + 1) * stride), -77), seq_lens,
      requests;
  for (std::int64_t s = 0; s < b.sequences(); ++s) {
    requests.push_back(b.sequences() - s);
    seq_lens.push_back(b.kv_len[static_cast<std::size_t>(s)]);
    for (std::int64_t t = 0; t < seq_lens.back(); ++t) {
      const std::int64_t page = b.pages[static_cast<std::size_t>(s)][static_cast<std::size_t>(t / S)];
      req_to_token[static_cast<std::size_t>(requests.back() * stride + t)] = page * S + t % S;
    }
  }
  SglangTables tables;
  tables.req_to_token = req_to_token;
  tables.row_stride = stride;
  tables.req_pool_indices = requests;
  tables.seq_lens = seq_lens;
  tables.q_len = b.q_len;
  tables.page_size = page_size;
  tables.slots = slots;
  require_view(sglang_tables(tables, &e.tables));
  return e;
}

/// The middle one of three layers.
inline FakeEngine fake_trtllm(const Batch& b, const EngineDims& dims) {
  constexpr std::int32_t kLayers = 3, kLayer = 1;
  const std::int64_t P = b.num_pages, S = b.page_size, H = dims.Hkv, D = dims.D;
  FakeEngine e;
  e.name = "trtllm";
  e.memory.assign(static_cast<std::size_t>(P * kLayers * 2 * H * S * D), std::numeric_limits<float>::quiet_NaN());
  std::vector<std::int32_t> offsets;  // [sequences, 2, longest + 1]
  for (const auto& row : b.pages) {
    for (std::int32_t kv = 0; kv < 2; ++kv) {
      for (std::int32_t page : row) offsets.push_back(page * kLayers * 2 + kv);
      offsets.resize(offsets.size() + static_cast<std::size_t>(b.longest() + 1) - row.size(), -1);
    }
  }
  e.address = [=](bool value, std::int64_t page, std::int64_t slot, std::int64_t head) {
    const std::int64_t block = (page * kLayers * 2 + (value ? 1 : 0)) + kLayer * 2;  // offset, behind the layer's start
    return block * H * S * D + head * S * D + slot * D;
  };
  TrtllmCache cache;
  cache.pool = make_view(e.memory.data(), {P, kLayers, 2, H * S * D});
  cache.layer = kLayer;
  cache.Hkv = static_cast<std::int32_t>(H);
  cache.tokens_per_block = b.page_size;
  cache.D = static_cast<std::int32_t>(D);
  require_view(trtllm_pool(cache, &e.pool));

  TrtllmTables tables;
  tables.block_offsets = offsets;
  tables.max_blocks = b.longest() + 1;
  tables.sequence_lengths = b.kv_len;
  tables.q_len = b.q_len;
  tables.tokens_per_block = b.page_size;
  tables.blocks = b.num_pages;
  tables.layers = kLayers;
  require_view(trtllm_tables(tables, &e.tables));
  return e;
}

/// Cells that several sequences have; ids beyond the first word; value rows wider than the layer needs.
inline FakeEngine fake_llama(const Batch& b, const EngineDims& dims) {
  constexpr std::int32_t kWords = 2, kFirstId = 62;
  const std::int64_t S = b.page_size, cells = b.num_pages * S, H = dims.Hkv, D = dims.D, Dv = dims.Dv;
  const std::int64_t v_row = H * Dv + 4;
  FakeEngine e;
  e.name = "llama";
  e.memory.assign(static_cast<std::size_t>(cells * (H * D + v_row)), std::numeric_limits<float>::quiet_NaN());
  e.address = [=](bool value, std::int64_t page, std::int64_t slot, std::int64_t head) {
    const std::int64_t cell = page * S + slot;
    return value ? cells * H * D + cell * v_row + head * Dv : cell * H * D + head * D;
  };
  LlamaCache cache;
  cache.k.data = e.memory.data();
  cache.k.row_bytes = H * D * 4;
  cache.v.data = e.memory.data() + cells * H * D;
  cache.v.row_bytes = v_row * 4;
  cache.cells = cells;
  cache.Hkv = static_cast<std::int32_t>(H);
  cache.D = static_cast<std::int32_t>(D);
  cache.Dv = static_cast<std::int32_t>(Dv);
  require_view(llama_pool(cache, &e.pool));

  std::vector<std::int32_t> pos(static_cast<std::size_t>(cells), -1), ids;
  std::vector<std::uint64_t> seqs(static_cast<std::size_t>(cells * kWords), 0);
  for (std::int64_t s = 0; s < b.sequences(); ++s) {
    const std::int64_t id = kFirstId + s;
    ids.push_back(static_cast<std::int32_t>(id));
    for (std::int32_t t = 0; t < b.kv_len[static_cast<std::size_t>(s)]; ++t) {
      const std::int64_t page = b.pages[static_cast<std::size_t>(s)][static_cast<std::size_t>(t / S)];
      const std::int64_t cell = page * S + t % S;
      pos[static_cast<std::size_t>(cell)] = t;
      seqs[static_cast<std::size_t>(cell * kWords + id / 64)] |= std::uint64_t{1} << (id % 64);
    }
  }
  LlamaCells tables;
  tables.pos = pos;
  tables.seqs = seqs;
  tables.words = kWords;
  tables.seq_ids = ids;
  tables.q_len = b.q_len;
  require_view(llama_tables(tables, &e.tables));
  return e;
}

/// Every engine that can be viewed, in every layout.
inline std::vector<FakeEngine> fake_engines(const Batch& b, const EngineDims& dims) {
  std::vector<FakeEngine> engines;
  for (const VllmLayout layout : {VllmLayout::kv_first, VllmLayout::blocks_first, VllmLayout::packed}) {
    for (const bool head_major : {false, true}) engines.push_back(fake_vllm(b, dims, layout, head_major));
  }
  engines.push_back(fake_sglang(b, dims, 1));
  engines.push_back(fake_sglang(b, dims, b.page_size));
  engines.push_back(fake_trtllm(b, dims));
  engines.push_back(fake_llama(b, dims));
  return engines;
}

}  // namespace prefixshare::tests
