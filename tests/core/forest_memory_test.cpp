// SPDX-License-Identifier: Apache-2.0
// Builders under memory that runs out: every single allocation fails once, nothing escapes, nothing changes.
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "prefixshare/draft_tree.hpp"
#include "prefixshare/engine_layouts.hpp"
#include "prefixshare/forest.hpp"
#include "prefixshare/live_forest.hpp"
#include "support/catch.hpp"

namespace ps = prefixshare;

namespace {

/// Allocations that still succeed; negative: all do.
std::int64_t allocations_left = -1;

}  // namespace

// Not inlined: compilers that see malloc behind new warn of a mismatched free. All forms that meet in one object, so
// that sanitizers see one allocator.
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  if (allocations_left == 0) return nullptr;
  if (allocations_left > 0) --allocations_left;
  return std::malloc(bytes > 0 ? bytes : 1);
}
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (void* memory = ::operator new(bytes, std::nothrow)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

/// Calls `build` with one more allocation each time until it succeeds. `unchanged` says that its output is as before.
template <class Build, class Unchanged>
void starve(const std::string& op, Build build, Unchanged unchanged) {
  std::int64_t allowed = 0;
  for (;; ++allowed) {
    allocations_left = allowed;
    const ps::Status status = build();
    allocations_left = -1;
    if (status.ok()) break;
    REQUIRE(status.code == ps::StatusCode::out_of_memory);
    REQUIRE(status.op == op);
    REQUIRE(unchanged());
    REQUIRE(allowed < 10'000);
  }
  CHECK(allowed > 0);
}

/// Starves a builder of forests whose output held another forest.
template <class Build>
void starve_forest(const std::string& op, Build build) {
  const ps::Sequence sequence = {-1, 3};
  ps::ForestInput input;
  input.sequences = {&sequence, 1};
  ps::Forest forest;
  REQUIRE(ps::make_forest(input, &forest).ok());
  const std::uint64_t fingerprint = forest.fingerprint;
  starve(
      op, [&] { return build(&forest); }, [&] { return forest.fingerprint == fingerprint && forest.rows() == 3; });
  CHECK(forest.fingerprint != fingerprint);
}

/// All that can be seen of these sequences.
std::string text_of(const ps::LiveForest& live, const std::vector<ps::SequenceId>& ids) {
  ps::LiveForest all = live;
  std::vector<ps::ScheduledSequence> batch;
  std::string text = ps::to_string(live.forest()) + std::to_string(live.version());
  for (ps::SequenceId id : ids) {
    ps::FreedStorage freed;
    const bool runs = live.would_free({&id, 1}, &freed).ok();
    if (runs) batch.push_back({id, 1});
    text += "\n" + std::to_string(id) + (runs ? " runs, frees " : " does not, frees ") + std::to_string(freed.tokens);
    for (const ps::PageId& p : freed.pages) text += " " + std::to_string(p.page);
  }
  REQUIRE(all.schedule(batch).ok());
  text += "\n" + ps::to_string(all.forest());
  for (std::int32_t page : all.forest().pages) text += " " + std::to_string(page);
  return text;
}

/// Starves a change of an engine's sequences, which are `ids` before and perhaps after.
void starve_live(const std::string& op, const ps::LiveForest& before, const std::vector<ps::SequenceId>& ids,
                 const std::function<ps::Status(ps::LiveForest*)>& change) {
  INFO(op);
  ps::LiveForest starved = before, fed = before;
  const std::string text = text_of(before, ids);
  starve(
      "LiveForest::" + op, [&] { return change(&starved); }, [&] { return text_of(starved, ids) == text; });
  REQUIRE(change(&fed).ok());
  CHECK(text_of(starved, ids) == text_of(fed, ids));
}

}  // namespace

TEST_CASE("forest builders: out_of_memory at every allocation, and the output as before", "[forest][errors]") {
  const std::vector<std::int32_t> ids = {5, 7, 5, 9, 5, 7}, kv_len = {8, 5, 6}, parents = {-1, 0, 0, 1};
  const std::vector<std::int32_t> tokens = {1, 2, 3, 1, 2, 4, 1};
  const std::vector<std::int64_t> offsets = {0, 3, 6, 7};
  ps::ForestInput explicit_input;
  const std::vector<ps::Node> nodes(3);
  const std::vector<ps::Sequence> sequences = {{0, 1}, {2, 2}};
  explicit_input.nodes = nodes;
  explicit_input.sequences = sequences;
  starve_forest("make_forest", [&](ps::Forest* f) { return ps::make_forest(explicit_input, f); });
  starve_forest("forest_from_block_tables", [&](ps::Forest* f) {
    return ps::forest_from_block_tables({ids, 2, kv_len, {}, {4, 10}}, f);
  });
  starve_forest("forest_from_tokens", [&](ps::Forest* f) { return ps::forest_from_tokens({tokens, offsets, {}}, f); });
  starve_forest("forest_from_parents", [&](ps::Forest* f) { return ps::forest_from_parents({parents, {}, {}}, f); });
}

TEST_CASE("forest accounting: out_of_memory at every allocation, and the output as before", "[forest][errors]") {
  const std::vector<std::int32_t> parents = {-1, 0, 0, 1};
  ps::Forest forest;
  REQUIRE(ps::forest_from_parents({parents, {}, {}}, &forest).ok());
  ps::ForestStats stats;
  stats.depth = 77;
  starve(
      "forest_stats", [&] { return ps::forest_stats(forest, &stats); }, [&] { return stats.depth == 77; });
  std::vector<std::int32_t> counts = {77};
  starve(
      "reference_counts", [&] { return ps::reference_counts(forest, &counts); },
      [&] { return counts == std::vector<std::int32_t>{77}; });
}

TEST_CASE("forest pruning: out_of_memory at every allocation, and the output as before", "[forest][errors]") {
  const std::vector<std::int32_t> ids = {5, 7, 5, 9, 5, 7}, kv_len = {8, 5, 6};
  const std::vector<std::uint8_t> keep = {1, 0, 1};
  ps::Forest forest;
  REQUIRE(ps::forest_from_block_tables({ids, 2, kv_len, {}, {4, 10}}, &forest).ok());
  starve_forest("prune_forest", [&](ps::Forest* f) {
    ps::ForestMap map;
    const ps::Status status = ps::prune_forest(forest, keep, f, &map);
    CHECK(map.rows.empty() == !status.ok());
    return status;
  });
  starve_forest("compact_forest", [&](ps::Forest* f) {
    std::vector<std::vector<std::int64_t>> slots;
    const ps::Status status = ps::compact_forest(forest, f, &slots);
    CHECK(slots.empty() == !status.ok());
    return status;
  });
  ps::FreedStorage freed;
  freed.tokens = 77;
  starve(
      "would_free", [&] { return ps::would_free(forest, keep, &freed); },
      [&] { return freed.tokens == 77 && freed.pages.empty(); });
}

TEST_CASE("draft trees: out_of_memory at every allocation, and the output as before", "[draft_tree][errors]") {
  const std::vector<std::int32_t> parents = {-1, 0, 0, 1};
  const std::vector<std::uint8_t> accepted = {1, 1, 0, 1};
  ps::DraftTree tree;
  tree.words_per_row = 77;
  starve(
      "draft_tree_from_parents", [&] { return ps::draft_tree_from_parents(parents, &tree); },
      [&] { return tree.words_per_row == 77 && tree.depth.empty(); });
  std::vector<std::int32_t> path = {77};
  starve(
      "accept_path", [&] { return ps::accept_path(parents, accepted, &path); },
      [&] { return path == std::vector<std::int32_t>{77}; });
}

TEST_CASE("engine_layouts: out_of_memory at every allocation, and the output as before", "[engines][errors]") {
  const std::vector<std::int32_t> table = {0, 1, 2, 4, 5, 6}, lens = {3, 2}, rows = {1, 0};
  const std::vector<std::int32_t> starts = {0, 1, 2}, offsets = {0, 2, 4, 1, 3, 5, 4, 6, 8, 5, 7, 9};
  const std::vector<std::uint64_t> seqs = {3, 1, 1, 2, 0, 0};
  const std::vector<std::int32_t> pos = {0, 1, 2, 1, -1, -1};
  ps::VllmTables vllm;
  vllm.block_table = table;
  vllm.row_stride = 3;
  vllm.seq_lens = lens;
  vllm.query_start_loc = starts;
  vllm.block_size = 1;
  vllm.num_blocks = 7;
  ps::SglangTables sglang;
  sglang.req_to_token = table;
  sglang.row_stride = 3;
  sglang.req_pool_indices = rows;
  sglang.seq_lens = lens;
  sglang.slots = 7;
  ps::TrtllmTables trtllm;
  trtllm.block_offsets = offsets;
  trtllm.max_blocks = 3;
  trtllm.sequence_lengths = lens;
  trtllm.tokens_per_block = 1;
  trtllm.blocks = 7;
  trtllm.layers = 1;
  ps::LlamaCells llama;
  llama.pos = pos;
  llama.seqs = seqs;
  llama.seq_ids = rows;
  ps::EngineTables tables;
  const auto starve_tables = [&tables](const char* op, const std::function<ps::Status()>& make) {
    tables = {};
    tables.ids = {77};
    starve(op, make, [&] { return tables.ids == std::vector<std::int32_t>{77} && tables.kv_len.empty(); });
    CHECK(tables.kv_len.size() == 2);
  };
  starve_tables("vllm_tables", [&] { return ps::vllm_tables(vllm, &tables); });
  starve_tables("sglang_tables", [&] { return ps::sglang_tables(sglang, &tables); });
  starve_tables("trtllm_tables", [&] { return ps::trtllm_tables(trtllm, &tables); });
  starve_tables("llama_tables", [&] { return ps::llama_tables(llama, &tables); });
}

TEST_CASE("LiveForest: out_of_memory at every allocation, and everything as before", "[live_forest][errors]") {
  const ps::PoolShape pool = {2, 50};
  const std::vector<std::int32_t> first = {1, 2, 3, 4, 5, 6}, second = {1, 2, 3, 7, 8}, third = {1, 9}, more = {20, 21};
  const std::vector<std::int32_t> inside = {1, 2, 30, 31};
  ps::LiveForest live;
  std::vector<ps::SequenceId> ids(3);
  REQUIRE(live.begin_epoch({&pool, 1}).ok());
  REQUIRE(live.add(first, 10, &ids[0]).ok());
  REQUIRE(live.add(second, 9, &ids[1]).ok());
  REQUIRE(live.add(third, 4, &ids[2]).ok());
  const std::vector<ps::ScheduledSequence> batch = {{ids[0], 2}, {ids[2], 1}};
  REQUIRE(live.schedule(batch).ok());
  ids.push_back(3);  // of the sequence that comes
  ps::SequenceId id = -1;
  std::vector<ps::PageId> freed;

  starve_live("begin_epoch", live, ids, [&](ps::LiveForest* l) { return l->begin_epoch({&pool, 1}); });
  starve_live("add", live, ids, [&](ps::LiveForest* l) { return l->add(inside, 7, &id); });
  CHECK(id == 3);
  starve_live("extend", live, ids, [&](ps::LiveForest* l) { return l->extend(ids[0], 4, more); });
  starve_live("truncate", live, ids, [&](ps::LiveForest* l) { return l->truncate(ids[0], 3); });
  starve_live("fork", live, ids, [&](ps::LiveForest* l) { return l->fork(ids[1], &id); });
  starve_live("replace_pages", live, ids, [&](ps::LiveForest* l) {
    freed.clear();
    return l->replace_pages(ids[1], 1, first, &freed);
  });
  CHECK(freed.size() == 2);
  starve_live("finish", live, ids, [&](ps::LiveForest* l) {
    freed.clear();
    return l->finish(ids[1], &freed);  // what is left of its path joins
  });
  CHECK(freed.size() == 2);
  const std::vector<ps::ScheduledSequence> all = {{ids[1], 1}, {ids[0], 1}};
  starve_live("schedule", live, ids, [&](ps::LiveForest* l) { return l->schedule(all); });

  ps::ForestStats stats;
  stats.depth = 77;
  starve(
      "LiveForest::stats", [&] { return live.stats(&stats); }, [&] { return stats.depth == 77; });
  ps::FreedStorage storage;
  storage.tokens = 77;
  starve(
      "LiveForest::would_free",
      [&] {
        return live.would_free({ids.data(), 3}, &storage);
      },
      [&] { return storage.tokens == 77 && storage.pages.empty(); });
  CHECK(storage.tokens == 15);
}
