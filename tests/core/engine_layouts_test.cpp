// SPDX-License-Identifier: Apache-2.0
// Views of other engines' caches: every key and value where the engine's own formula has it, and every refusal.
#include "prefixshare/engine_layouts.hpp"

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/engines.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Page and slot of each token of a path.
std::vector<std::pair<std::int32_t, std::int32_t>> walk(const Forest& f, std::int32_t node) {
  std::vector<std::int32_t> path;
  for (; node >= 0; node = f.nodes[at(node)].parent) path.insert(path.begin(), node);
  std::vector<std::pair<std::int32_t, std::int32_t>> places;
  for (std::int32_t n : path) {
    const Node& one = f.nodes[at(n)];
    const Segment& segment = f.segments[at(one.segment)];
    const std::int32_t page_size = f.pools[0].page_size;
    for (std::int32_t t = segment.offset + one.begin; t < segment.offset + one.begin + one.length; ++t) {
      places.emplace_back(f.pages[at(segment.first_page + t / page_size)], t % page_size);
    }
  }
  return places;
}

/// Through forest and pool, each token of each sequence is found where the engine keeps it.
void check_engine(const Batch& b, const EngineDims& dims, const FakeEngine& e) {
  INFO(e.name);
  Forest f;
  require_view(forest_from_block_tables(e.tables.view(), &f));
  CHECK(e.tables.kv_len == b.kv_len);
  CHECK(e.tables.q_len == b.q_len);
  CHECK(e.pool.k.shape[0] == f.pools[0].num_pages);
  CHECK(e.pool.k.shape[1] == f.pools[0].page_size);
  const float* memory = e.memory.data();
  for (std::int64_t s = 0; s < b.sequences(); ++s) {
    const auto path = walk(f, f.sequences[at(s)].node);
    REQUIRE(static_cast<std::int32_t>(path.size()) == b.kv_len[at(s)]);
    for (std::int64_t t = 0; t < b.kv_len[at(s)]; ++t) {
      const std::int64_t page = b.pages[at(s)][at(t / b.page_size)], slot = t % b.page_size;
      const auto [view_page, view_slot] = path[at(t)];
      for (std::int64_t h = 0; h < dims.Hkv; ++h) {
        CHECK(e.pool.k.at<float>(view_page, view_slot, h) == memory + e.address(false, page, slot, h));
        CHECK(e.pool.v.at<float>(view_page, view_slot, h) == memory + e.address(true, page, slot, h));
      }
    }
  }
}

/// `text` of a call on a broken copy, which must leave the output as it was.
template <class Input>
void check_pool_refusal(Status (*view)(const Input&, KvPool*) noexcept, const Input& sound, const std::string& text,
                        const std::function<void(Input&)>& break_it) {
  float marker = 0;
  KvPool pool;
  pool.k.data = pool.v.data = &marker;
  Input in = sound;
  break_it(in);
  CHECK(to_string(view(in, &pool)) == text);
  CHECK(pool.k.data == &marker);
  CHECK(pool.v.data == &marker);
  CHECK(view(sound, &pool).ok());
}
template <class Input>
void check_table_refusal(Status (*make)(const Input&, EngineTables*) noexcept, const Input& sound,
                         const std::string& text, const std::function<void(Input&)>& break_it) {
  EngineTables tables;
  tables.ids = {123};
  Input in = sound;
  break_it(in);
  CHECK(to_string(make(in, &tables)) == text);
  CHECK(tables.ids == std::vector<std::int32_t>{123});
  CHECK(make(sound, &tables).ok());
}

}  // namespace

TEST_CASE("engine_layouts: keys and values lie where the engine's formula has them", "[engines]") {
  testing::Random random(21);
  for (const std::int32_t page_size : {1, 4, 16}) {
    for (int round = 0; round < 4; ++round) {
      const Batch b = random_batch(&random, page_size, 5, 6 * page_size);
      const EngineDims dims = {random.between(1, 3), 8, round % 2 == 0 ? 8 : 4};
      for (const FakeEngine& e : fake_engines(b, dims)) check_engine(b, dims, e);
    }
  }
}

TEST_CASE("engine_layouts: a step without sequences, sequences without tokens, a cache without pages", "[engines]") {
  Batch b;
  for (const FakeEngine& e : fake_engines(b, {})) check_engine(b, {}, e);
  b.pages = {{}, {}};
  b.kv_len = b.q_len = {0, 0};
  for (const FakeEngine& e : fake_engines(b, {})) check_engine(b, {}, e);
}

TEST_CASE("engine_layouts: rows that no one names are one per sequence", "[engines]") {
  const std::vector<std::int64_t> table = {4, 2}, lens = {5, 0}, rows = {1, 0};
  EngineTables out;
  VllmTables vllm;
  vllm.block_table = table;
  vllm.row_stride = 1;
  vllm.seq_lens = lens;
  vllm.block_size = 8;
  vllm.num_blocks = 5;
  require_view(vllm_tables(vllm, &out));
  CHECK(out.ids == std::vector<std::int32_t>{4, 0});
  CHECK(out.q_len == std::vector<std::int32_t>{1, 1});
  SglangTables sglang;
  sglang.req_to_token = table;
  sglang.row_stride = 1;
  sglang.req_pool_indices = rows;
  sglang.seq_lens = rows;
  sglang.slots = 3;
  require_view(sglang_tables(sglang, &out));
  CHECK(out.ids == std::vector<std::int32_t>{2, 0});
  CHECK(out.q_len == std::vector<std::int32_t>{1, 1});
}

TEST_CASE("engine_layouts: pools in 16 bits, on a device, with scales that stay", "[engines]") {
  std::vector<std::uint16_t> memory(64);
  const float scale = 2;
  KvPool pool;
  pool.k_scale = {&scale, ScaleGranularity::tensor};
  LlamaCache cache;
  cache.k.data = memory.data();
  cache.v.data = memory.data() + 32;
  cache.k.row_bytes = cache.v.row_bytes = 16;
  cache.cells = 4;
  cache.Hkv = 2;
  cache.D = cache.Dv = 4;
  for (const auto& [type, dtype] : {std::pair(1, DType::f16), std::pair(30, DType::bf16)}) {
    cache.k.type = cache.v.type = type;
    require_view(llama_pool(cache, &pool));
    CHECK(pool.k.dtype == dtype);
    CHECK(pool.v.dtype == dtype);
    CHECK(pool.v.ptr(3, 0, 1) == memory.data() + 32 + 28);
    CHECK(pool.k_scale.data == &scale);
  }
  cache.k.space = cache.v.space = MemorySpace::device;
  require_view(llama_pool(cache, &pool));
  CHECK(pool.k.space == MemorySpace::device);
}

TEST_CASE("engine_layouts: vLLM: refuses by name", "[engines][errors]") {
  std::vector<float> memory(2 * 3 * 4 * 2 * 8);
  VllmCache sound;
  sound.layout = VllmLayout::kv_first;
  sound.cache = make_view(memory.data(), {2, 3, 4, 2, 8});
  sound.packed = make_view(memory.data(), {3, 2, 4, 16});
  sound.D = 8;
  const auto refuse = [&sound](const std::string& text, const std::function<void(VllmCache&)>& break_it) {
    check_pool_refusal<VllmCache>(vllm_pool, sound, "vllm_pool: " + text, break_it);
  };
  refuse("layout.split_x got 3, want <= 2 (unsupported)", [](VllmCache& c) { c.layout = VllmLayout::split_x; });
  refuse("layout.cpu got 4, want <= 2 (unsupported)", [](VllmCache& c) { c.layout = VllmLayout::cpu; });
  refuse("layout got 7, want <= 4 (invalid_argument)", [](VllmCache& c) { c.layout = static_cast<VllmLayout>(7); });
  refuse("coding.fp8_e4m3 got 1, want == 0 (unsupported)", [](VllmCache& c) { c.coding = CacheCoding::fp8_e4m3; });
  refuse("coding.fp8_e5m2 got 2, want == 0 (unsupported)", [](VllmCache& c) { c.coding = CacheCoding::fp8_e5m2; });
  refuse("coding.int8 got 3, want == 0 (unsupported)", [](VllmCache& c) { c.coding = CacheCoding::int8; });
  refuse("coding.fp4 got 4, want == 0 (unsupported)", [](VllmCache& c) { c.coding = CacheCoding::fp4; });
  refuse("coding got 9, want < 5 (invalid_argument)", [](VllmCache& c) { c.coding = static_cast<CacheCoding>(9); });
  refuse("cache.shape[0] got 3, want == 2 (invalid_argument)", [](VllmCache& c) { c.cache.shape[0] = 3; });
  refuse("cache.shape[1] got 3, want == 2 (invalid_argument)",
         [](VllmCache& c) { c.layout = VllmLayout::blocks_first; });
  refuse("cache.data got null, want != null (invalid_argument)", [](VllmCache& c) { c.cache.data = nullptr; });
  refuse("cache.stride[4] got 2, want == 1 (invalid_argument)", [](VllmCache& c) { c.cache.stride[4] = 2; });
  refuse("cache.shape[4] got -1, want >= 0 (invalid_argument)", [](VllmCache& c) { c.cache.shape[4] = -1; });
  refuse("D got 16, want < 16 (invalid_argument)", [](VllmCache& c) { c.layout = VllmLayout::packed, c.D = 16; });
  refuse("D got 0, want >= 1 (invalid_argument)", [](VllmCache& c) { c.layout = VllmLayout::packed, c.D = 0; });
  refuse("packed.data got null, want != null (invalid_argument)",
         [](VllmCache& c) { c.layout = VllmLayout::packed, c.packed.data = nullptr; });
  refuse("k.shape[0] got 2147483648, want <= 2147483647 (capacity_exceeded)", [](VllmCache& c) {
    c.cache.shape[1] = std::int64_t{1} << 31;
    c.cache.shape[4] = 0;
  });
  CHECK(to_string(vllm_pool(sound, nullptr)) == "vllm_pool: pool got null, want == a pointer (invalid_argument)");
}

TEST_CASE("engine_layouts: vLLM: refuses tables by element", "[engines][errors]") {
  const std::vector<std::int64_t> good = {5, 7, 1, 9}, wide = {5, (std::int64_t{1} << 32) + 3, 1, 9};
  const std::vector<std::int32_t> lens = {8, 5}, starts = {0, 1, 3}, down = {0, 1, 0}, early = {-1, 1, 3},
                                  negative = {5, -1, 1, 9};
  const std::vector<std::int32_t> long_lens = {8, 9}, below = {-1, 5};
  VllmTables sound;
  sound.block_table = good;
  sound.row_stride = 2;
  sound.seq_lens = lens;
  sound.query_start_loc = starts;
  sound.block_size = 4;
  sound.num_blocks = 10;
  const auto refuse = [&sound](const std::string& text, const std::function<void(VllmTables&)>& break_it) {
    check_table_refusal<VllmTables>(vllm_tables, sound, "vllm_tables: " + text, break_it);
  };
  refuse("block_size got 0, want >= 1 (invalid_argument)", [](VllmTables& t) { t.block_size = 0; });
  refuse("num_blocks got -1, want >= 0 (invalid_argument)", [](VllmTables& t) { t.num_blocks = -1; });
  refuse("row_stride got -1, want >= 0 (invalid_argument)", [](VllmTables& t) { t.row_stride = -1; });
  refuse("block_table.size got 4, want >= 6 (invalid_argument)", [](VllmTables& t) { t.row_stride = 3; });
  refuse("block_table.size got 4, want >= 9223372036854775807 (invalid_argument)",
         [](VllmTables& t) { t.row_stride = kMax; });
  refuse("block_table got null, want == a pointer (invalid_argument)",
         [](VllmTables& t) { t.block_table = Span<const std::int32_t>(nullptr, 4); });
  refuse("seq_lens[1] got 9, want < 9 (invalid_argument)", [&](VllmTables& t) { t.seq_lens = long_lens; });
  refuse("seq_lens[0] got -1, want >= 0 (invalid_argument)", [&](VllmTables& t) { t.seq_lens = below; });
  refuse("seq_lens.size got -3, want >= 0 (invalid_argument)",
         [&](VllmTables& t) { t.seq_lens = Span<const std::int32_t>(lens.data(), -3); });
  refuse("block_table[1] got 4294967299, want < 10 (invalid_argument)", [&](VllmTables& t) { t.block_table = wide; });
  refuse("block_table[1] got -1, want >= 0 (invalid_argument)", [&](VllmTables& t) { t.block_table = negative; });
  refuse("query_start_loc.size got 2, want == 3 (invalid_argument)", [&](VllmTables& t) { t.query_start_loc = lens; });
  refuse("query_start_loc[0] got -1, want >= 0 (invalid_argument)", [&](VllmTables& t) { t.query_start_loc = early; });
  refuse("query_start_loc[2] got 0, want >= 1 (invalid_argument)", [&](VllmTables& t) { t.query_start_loc = down; });
  CHECK(to_string(vllm_tables(sound, nullptr)) == "vllm_tables: tables got null, want == a pointer (invalid_argument)");
}

TEST_CASE("engine_layouts: SGLang: refuses by name and by element", "[engines][errors]") {
  std::vector<float> memory(2 * 12 * 2 * 8);
  SglangCache cache;
  cache.k = make_view(memory.data(), {12, 2, 8});
  cache.v = make_view(memory.data() + 12 * 2 * 8, {12, 2, 8});
  const auto refuse = [&cache](const std::string& text, const std::function<void(SglangCache&)>& break_it) {
    check_pool_refusal<SglangCache>(sglang_pool, cache, "sglang_pool: " + text, break_it);
  };
  refuse("layout.vectorized_5d got 1, want == 0 (unsupported)",
         [](SglangCache& c) { c.layout = SglangLayout::vectorized_5d; });
  refuse("layout got 5, want <= 1 (invalid_argument)", [](SglangCache& c) { c.layout = static_cast<SglangLayout>(5); });
  refuse("coding.fp8_e5m2 got 2, want == 0 (unsupported)", [](SglangCache& c) { c.coding = CacheCoding::fp8_e5m2; });
  refuse("v.shape[0] got 11, want == 12 (invalid_argument)", [](SglangCache& c) { c.v.shape[0] = 11; });
  refuse("k.dtype got dtype 9, want one of f64 (invalid_argument)",
         [](SglangCache& c) { c.k.dtype = static_cast<DType>(9); });
  refuse("page_size got 0, want >= 1 (invalid_argument)", [](SglangCache& c) { c.page_size = 0; });

  // Two requests of pages of 4: tokens 0 to 4 in slots 4 .. 7 and 8, and tokens 0 to 1 in slots 0 and 1.
  std::vector<std::int32_t> slots = {0, 1, -1, -1, -1, -1, 4, 5, 6, 7, 8, -1};
  const std::vector<std::int64_t> lens = {5, 2}, requests = {1, 0}, no_request = {1, 2}, too_long = {7, 2};
  SglangTables sound;
  sound.req_to_token = slots;
  sound.row_stride = 6;
  sound.req_pool_indices = requests;
  sound.seq_lens = lens;
  sound.page_size = 4;
  sound.slots = 12;
  EngineTables tables;
  require_view(sglang_tables(sound, &tables));
  CHECK(tables.ids == std::vector<std::int32_t>{1, 2, 0, 0});
  const auto refuse_table = [&sound](const std::string& text, const std::function<void(SglangTables&)>& break_it) {
    check_table_refusal<SglangTables>(sglang_tables, sound, "sglang_tables: " + text, break_it);
  };
  refuse_table("req_pool_indices[1] got 2, want < 2 (invalid_argument)",
               [&](SglangTables& t) { t.req_pool_indices = no_request; });
  refuse_table("req_pool_indices.size got 0, want >= 2 (invalid_argument)",
               [&](SglangTables& t) { t.req_pool_indices = {}; });
  refuse_table("seq_lens[0] got 7, want < 7 (invalid_argument)", [&](SglangTables& t) { t.seq_lens = too_long; });
  refuse_table("q_len.size got 1, want == 2 (invalid_argument)",
               [&](SglangTables& t) { t.q_len = Span<const std::int64_t>(lens.data(), 1); });
  refuse_table("slots got -1, want >= 0 (invalid_argument)", [](SglangTables& t) { t.slots = -1; });
  refuse_table("slots.pages got 2147483648, want <= 2147483647 (capacity_exceeded)",
               [](SglangTables& t) { t.slots = std::int64_t{1} << 33; });
  refuse_table("row_stride got -6, want >= 0 (invalid_argument)", [](SglangTables& t) { t.row_stride = -6; });
  const auto refuse_slot = [&](const std::string& text, std::size_t i, std::int32_t slot) {
    const std::int32_t before = std::exchange(slots[i], slot);
    CHECK(to_string(sglang_tables(sound, &tables)) == "sglang_tables: " + text);
    slots[i] = before;
  };
  refuse_slot("req_to_token[9].slot in page got 3, want == 7 (unsupported)", 9, 3);
  refuse_slot("req_to_token[6].page start got 5, want multiple of 4 (unsupported)", 6, 5);
  refuse_slot("req_to_token[10] got 12, want < 12 (invalid_argument)", 10, 12);
  refuse_slot("req_to_token[10] got -1, want >= 0 (invalid_argument)", 10, -1);
  slots[9] = 3;  // any slots do with pages of one
  sound.page_size = 1;
  require_view(sglang_tables(sound, &tables));
  CHECK(tables.ids == std::vector<std::int32_t>{4, 5, 6, 3, 8, 0, 1, 0, 0, 0});
}

TEST_CASE("engine_layouts: TensorRT-LLM: refuses by name and by element", "[engines][errors]") {
  std::vector<float> memory(3 * 2 * 2 * 64);
  TrtllmCache cache;
  cache.pool = make_view(memory.data(), {3, 2, 2, 64});
  cache.layer = 1;
  cache.Hkv = 2;
  cache.tokens_per_block = 4;
  cache.D = 8;
  const auto refuse = [&cache](const std::string& text, const std::function<void(TrtllmCache&)>& break_it) {
    check_pool_refusal<TrtllmCache>(trtllm_pool, cache, "trtllm_pool: " + text, break_it);
  };
  refuse("coding.int8 got 3, want == 0 (unsupported)", [](TrtllmCache& c) { c.coding = CacheCoding::int8; });
  refuse("pool.shape[2] got 1, want == 2 (unsupported)", [](TrtllmCache& c) { c.pool.shape[2] = 1; });
  refuse("pool.shape[3] got 64, want == 128 (invalid_argument)", [](TrtllmCache& c) { c.D = 16; });
  refuse("pool.shape[3] got 64, want == 9223372036854775807 (invalid_argument)",
         [](TrtllmCache& c) { c.Hkv = c.tokens_per_block = c.D = INT32_MAX; });
  refuse("pool.data got null, want != null (invalid_argument)", [](TrtllmCache& c) { c.pool.data = nullptr; });
  refuse("layer got 2, want < 2 (invalid_argument)", [](TrtllmCache& c) { c.layer = 2; });
  refuse("layer got -1, want >= 0 (invalid_argument)", [](TrtllmCache& c) { c.layer = -1; });
  refuse("Hkv got 0, want >= 1 (invalid_argument)", [](TrtllmCache& c) { c.Hkv = 0; });
  refuse("tokens_per_block got 0, want >= 1 (invalid_argument)", [](TrtllmCache& c) { c.tokens_per_block = 0; });
  refuse("D got -8, want >= 1 (invalid_argument)", [](TrtllmCache& c) { c.D = -8; });

  std::vector<std::int32_t> offsets = {4, 8, 5, 9, /**/ 4, -1, 5, -1};  // K and V of blocks 1 and 2, and of block 1
  const std::vector<std::int32_t> lens = {6, 3}, too_long = {9, 3};
  TrtllmTables sound;
  sound.block_offsets = offsets;
  sound.max_blocks = 2;
  sound.sequence_lengths = lens;
  sound.tokens_per_block = 4;
  sound.blocks = 3;
  sound.layers = 2;
  EngineTables tables;
  require_view(trtllm_tables(sound, &tables));
  CHECK(tables.ids == std::vector<std::int32_t>{1, 2, 1, 0});
  const auto refuse_table = [&sound](const std::string& text, const std::function<void(TrtllmTables&)>& break_it) {
    check_table_refusal<TrtllmTables>(trtllm_tables, sound, "trtllm_tables: " + text, break_it);
  };
  refuse_table("cache_indirection got 1, want == 0 (unsupported)", [](TrtllmTables& t) { t.cache_indirection = true; });
  refuse_table("tokens_per_block got 0, want >= 1 (invalid_argument)", [](TrtllmTables& t) { t.tokens_per_block = 0; });
  refuse_table("blocks got -1, want >= 0 (invalid_argument)", [](TrtllmTables& t) { t.blocks = -1; });
  refuse_table("layers got 0, want >= 1 (invalid_argument)", [](TrtllmTables& t) { t.layers = 0; });
  refuse_table("max_blocks got -1, want >= 0 (invalid_argument)", [](TrtllmTables& t) { t.max_blocks = -1; });
  refuse_table("sequence_lengths[0] got 9, want < 9 (invalid_argument)",
               [&](TrtllmTables& t) { t.sequence_lengths = too_long; });
  refuse_table("block_offsets.size got 7, want >= 8 (invalid_argument)",
               [&](TrtllmTables& t) { t.block_offsets = Span<const std::int32_t>(offsets.data(), 7); });
  refuse_table("block_offsets[1].block got 2, want < 2 (invalid_argument)", [](TrtllmTables& t) { t.blocks = 2; });
  const auto refuse_offset = [&](const std::string& text, std::size_t i, std::int32_t offset) {
    const std::int32_t before = std::exchange(offsets[i], offset);
    CHECK(to_string(trtllm_tables(sound, &tables)) == "trtllm_tables: " + text);
    offsets[i] = before;
  };
  refuse_offset("block_offsets[2].V of K's block got 9, want == 5 (unsupported)", 2, 9);
  refuse_offset("block_offsets[0] got 6, want multiple of 4 (invalid_argument)", 0, 6);
  refuse_offset("block_offsets[4].secondary pool got -2147483644, want >= 0 (unsupported)", 4, INT32_MIN + 4);
}

TEST_CASE("engine_layouts: llama.cpp: refuses by name and by element", "[engines][errors]") {
  std::vector<float> memory(2 * 4 * 16);
  LlamaCache cache;
  cache.k.data = memory.data();
  cache.v.data = memory.data() + 64;
  cache.k.row_bytes = cache.v.row_bytes = 64;
  cache.cells = 4;
  cache.Hkv = 2;
  cache.D = cache.Dv = 8;
  const auto refuse = [&cache](const std::string& text, const std::function<void(LlamaCache&)>& break_it) {
    check_pool_refusal<LlamaCache>(llama_pool, cache, "llama_pool: " + text, break_it);
  };
  refuse("v.transposed got 1, want == 0 (unsupported)", [](LlamaCache& c) { c.v_transposed = true; });
  const std::pair<int, const char*> blocks[] = {{2, "q4_0"}, {3, "q4_1"},    {6, "q5_0"}, {7, "q5_1"},
                                                {8, "q8_0"}, {20, "iq4_nl"}, {14, "type"}};
  for (const auto& [type, name] : blocks) {
    const std::string want = std::string(name) + " got " + std::to_string(type) + ", want one of 0 (unsupported)";
    refuse("k." + want, [type = type](LlamaCache& c) { c.k.type = type; });
    refuse("v." + want, [type = type](LlamaCache& c) { c.v.type = type; });
  }
  refuse("k.row_bytes got 66 bytes, want multiple of 4 bytes (invalid_argument)",
         [](LlamaCache& c) { c.k.row_bytes = 66; });
  refuse("v.row_bytes got 60 bytes, want >= 64 bytes (invalid_argument)", [](LlamaCache& c) { c.v.row_bytes = 60; });
  refuse("k.data got null, want != null (invalid_argument)", [](LlamaCache& c) { c.k.data = nullptr; });
  refuse("cells got -1, want >= 0 (invalid_argument)", [](LlamaCache& c) { c.cells = -1; });
  refuse("Hkv got 0, want >= 1 (invalid_argument)", [](LlamaCache& c) { c.Hkv = 0; });
  refuse("D got 0, want >= 1 (invalid_argument)", [](LlamaCache& c) { c.D = 0; });
  refuse("Dv got 0, want >= 1 (invalid_argument)", [](LlamaCache& c) { c.Dv = 0; });

  // Sequence 0 has positions 5 .. 7 in cells 2, 0, 3; sequence 1 shares its first.
  std::vector<std::int32_t> pos = {6, -1, 5, 7};
  const std::vector<std::uint64_t> seqs = {1, 0, 3, 1};
  const std::vector<std::int32_t> ids = {1, 0}, twice = {1, 1}, beyond = {64, 0}, below = {1, -1};
  LlamaCells sound;
  sound.pos = pos;
  sound.seqs = seqs;
  sound.seq_ids = ids;
  EngineTables tables;
  require_view(llama_tables(sound, &tables));
  CHECK(tables.kv_len == std::vector<std::int32_t>{1, 3});
  CHECK(tables.ids == std::vector<std::int32_t>{2, 0, 0, 2, 0, 3});
  const auto refuse_table = [&sound](const std::string& text, const std::function<void(LlamaCells&)>& break_it) {
    check_table_refusal<LlamaCells>(llama_tables, sound, "llama_tables: " + text, break_it);
  };
  refuse_table("seqs.size got 4, want == 8 (invalid_argument)", [](LlamaCells& c) { c.words = 2; });
  refuse_table("seqs got null, want == a pointer (invalid_argument)", [](LlamaCells& c) { c.seqs = {nullptr, 4}; });
  refuse_table("words got 0, want >= 1 (invalid_argument)", [](LlamaCells& c) { c.words = 0; });
  refuse_table("seq_ids[1] got 1, want != 1 (invalid_argument)", [&](LlamaCells& c) { c.seq_ids = twice; });
  refuse_table("seq_ids[0] got 64, want < 64 (invalid_argument)", [&](LlamaCells& c) { c.seq_ids = beyond; });
  refuse_table("seq_ids[1] got -1, want >= 0 (invalid_argument)", [&](LlamaCells& c) { c.seq_ids = below; });
  refuse_table("q_len.size got 4, want == 2 (invalid_argument)", [&](LlamaCells& c) { c.q_len = pos; });
  const auto refuse_pos = [&](const std::string& text, std::size_t i, std::int32_t p) {
    const std::int32_t before = std::exchange(pos[i], p);
    CHECK(to_string(llama_tables(sound, &tables)) == "llama_tables: " + text);
    pos[i] = before;
  };
  refuse_pos("pos[3].next got 9, want == 7 (unsupported)", 3, 9);
  refuse_pos("pos[3].next got 6, want == 7 (unsupported)", 3, 6);
  refuse_pos("pos[1] got -2, want >= -1 (invalid_argument)", 1, -2);
}
