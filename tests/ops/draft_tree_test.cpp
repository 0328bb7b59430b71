// SPDX-License-Identifier: Apache-2.0
// draft_tree_from_parents for batches: against the builder of one tree, faults of single trees, every error.
#include "prefixshare/portable/draft_tree.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/reference/register.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"
#include "support/draft_batch.hpp"
#include "support/malformed.hpp"

using namespace prefixshare;
using tests::OwnedBatch;
using tests::Parents;

namespace {

/// Every implementation of this build and the reference, by name.
std::vector<std::pair<std::string, Context>> all_contexts() {
  Context base;
  REQUIRE(create_context(&base).ok());
  REQUIRE(reference::add_to(&base).ok());
  std::vector<std::pair<std::string, Context>> all;
  for (const Verdict& v : explain(base.draft_tree_from_parents, DraftTreeBatch{})) {
    if (!v.status.ok()) continue;
    all.emplace_back(v.name, base);
    REQUIRE(all.back().second.draft_tree_from_parents.force(v.name.c_str()).ok());
  }
  return all;
}

}  // namespace

TEST_CASE("draft_tree_from_parents: a batch is its trees, one by one", "[draft_tree]") {
  for (const auto& [name, context] : all_contexts()) {
    CAPTURE(name);
    testing::Random random(31);
    for (int round = 0; round < 40; ++round) {
      std::vector<Parents> trees(static_cast<std::size_t>(random.between(0, 6)));
      for (Parents& tree : trees) {
        tree = tests::random_parents(&random, random.between(0, 140), random.between(1, 40));
      }
      const OwnedBatch batch(trees, random.between(3, 4));
      REQUIRE(to_string(draft_tree_from_parents(context, batch.args())) == "ok");
      batch.check();
    }
  }
}

TEST_CASE("draft_tree_from_parents: a fault is that of its tree", "[draft_tree]") {
  for (const auto& [name, context] : all_contexts()) {
    CAPTURE(name);
    const OwnedBatch batch(tests::faulty_trees(), 2);
    REQUIRE(to_string(draft_tree_from_parents(context, batch.args())) == "ok");
    batch.check();
  }
}

TEST_CASE("draft_tree_from_parents: offsets that are none are a fault of their tree", "[draft_tree]") {
  for (const auto& [name, context] : all_contexts()) {
    CAPTURE(name);
    for (const auto& [offset, faults] : tests::faulty_offsets()) {
      OwnedBatch batch({{-1, 0}, {-1, 0, 1}, {-1}}, 1);
      batch.offsets[2] = offset;
      REQUIRE(to_string(draft_tree_from_parents(context, batch.args())) == "ok");
      CHECK(batch.faults == faults);
      CHECK(batch.guards_intact());
    }
  }
}

TEST_CASE("draft_tree_from_parents: parts 1, 2, 3, 8, 64 give the same bits", "[draft_tree]") {
  for (const auto& [name, context] : all_contexts()) {
    CAPTURE(name);
    testing::Random random(32);
    std::vector<Parents> trees(7);
    for (Parents& tree : trees) tree = tests::random_parents(&random, 60, 20);
    const auto& list = context.draft_tree_from_parents;
    const auto part = prefixshare::detail::find(list, name.c_str())->part;
    for (const std::int32_t parts : {1, 2, 3, 8, 64}) {
      const OwnedBatch batch(trees, 1);
      for (std::int32_t i = parts; i-- > 0;) REQUIRE(part(batch.args(), i, parts).ok());
      batch.check();
    }
  }
}

TEST_CASE("draft_tree_from_parents: every malformed batch is refused by name and writes nothing",
          "[malformed][draft_tree]") {
  tests::Arena arena;
  Context context;
  REQUIRE(create_context(&context).ok());
  DraftTreeBatch args;
  args.parents = arena.array<std::int32_t>({-1, 0, 1, -1, 0});
  args.offsets = arena.array<std::int64_t>({0, 3, 5});
  args.depth = {arena.take<std::int32_t>(5), 5};
  args.words = {arena.take<std::uint64_t>(10), 10};
  args.faults = {arena.take<std::int32_t>(2), 2};
  args.words_per_row = 2;

  tests::Table table("draft_tree_from_parents");
  table.add_way("dispatch", [&] { return draft_tree_from_parents(context, args); });
  table.add_way("typed", [&] { return portable::draft_tree_from_parents(args); });
  table.add_array(&args.parents, "parents", "data", false);
  table.add_array(&args.offsets, "offsets", "data", false);
  table.add("none", &args.offsets, Span<const std::int64_t>(args.offsets.data(), 0), {"offsets", "size", 0});
  table.add_array(&args.depth, "depth");
  table.add_array(&args.words, "words");
  table.add_array(&args.faults, "faults");
  table.add("zero", &args.words_per_row, 0, {"words_per_row", "", 0});
  tests::Refusal device{"space", "", 1};
  device.code = StatusCode::backend_unavailable;
  table.add("device memory", &args.space, MemorySpace::device, device);
  table.add("no space", &args.space, static_cast<MemorySpace>(5), {"space", "", 5});
  const auto over = [&](auto* span, const std::string& argument, const std::string& other, const void* address) {
    using Element = std::remove_reference_t<decltype((*span)[0])>;
    tests::Refusal r{argument, "overlap", 1};
    r.other = other;
    table.add("over " + other, span, Span<Element>(static_cast<Element*>(const_cast<void*>(address)), span->size()), r);
  };
  over(&args.depth, "depth", "parents", args.parents.data());
  over(&args.depth, "depth", "offsets", args.offsets.data());
  over(&args.words, "words", "depth", args.depth.data());
  over(&args.words, "words", "parents", args.parents.data());
  over(&args.faults, "faults", "words", args.words.data());
  over(&args.faults, "faults", "offsets", args.offsets.data());
  CHECK(table.check(&arena) >= 50);
}
