// SPDX-License-Identifier: Apache-2.0
// LiveForest: each operation against the brute-force model, every refusal, and what keeps the forest of a step.
#include "prefixshare/live_forest.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/engine_model.hpp"

namespace prefixshare::tests {
namespace {

using Pages = std::vector<std::int32_t>;
using Batch = std::vector<ScheduledSequence>;
constexpr std::int32_t kMax = std::numeric_limits<std::int32_t>::max();

ModelledForest engine(std::int32_t page_size, const Pages& num_pages = {100}) {
  ModelledForest e;
  e.begin_epoch(page_size, num_pages);
  return e;
}

Pages pages_from(std::int32_t first, std::int32_t count) {
  Pages pages(static_cast<std::size_t>(count));
  std::iota(pages.begin(), pages.end(), first);
  return pages;
}

Batch batch_of(const std::vector<SequenceId>& ids) {
  Batch batch;
  for (SequenceId id : ids) batch.push_back({id, 1});
  return batch;
}

/// Node of sequence i of the batch.
const Node& leaf(const LiveForest& live, std::size_t i) {
  return live.forest().nodes[static_cast<std::size_t>(live.forest().sequences[i].node)];
}

/// All that can be seen of it. `ids`: those that may run.
std::string text_of(const LiveForest& live, const std::vector<SequenceId>& ids) {
  std::string text = to_string(live.forest()) + std::to_string(live.version()) + ", lengths";
  for (std::int32_t length : live.actual_lengths()) text += " " + std::to_string(length);
  ForestStats stats;
  REQUIRE(live.stats(&stats).ok());
  text += ", " + std::to_string(stats.sequences) + " run with " + std::to_string(stats.unique_tokens) + " tokens";
  LiveForest all = live;
  Batch batch;
  for (SequenceId id : ids) {
    FreedStorage freed;
    const bool runs = live.would_free({&id, 1}, &freed).ok();
    text +=
        "\n" + std::to_string(id) + (runs ? " runs, frees " : " does not run ") + std::to_string(freed.tokens) + ":";
    for (const PageId& p : freed.pages) text += " " + std::to_string(p.pool) + "." + std::to_string(p.page);
    if (runs) batch.push_back({id, 0});
  }
  REQUIRE(all.schedule(batch).ok());
  text += "\n" + to_string(all.forest());
  for (std::int32_t page : all.forest().pages) text += " " + std::to_string(page);
  return text;
}

}  // namespace

TEST_CASE("LiveForest: sequences come, share, grow, part and go, at any page size", "[live_forest]") {
  for (const std::int32_t page_size : {1, 5, 16, 64}) {
    INFO("page size " << page_size);
    ModelledForest e = engine(page_size);
    const SequenceId a = e.add({4, 7, 9}, 3 * page_size);
    e.check(batch_of({a}));
    const SequenceId b = e.add({4, 7, 5, 6}, 2 * page_size + 1);  // behind two pages of a, one page in reserve
    e.check(batch_of({a, b}));
    CHECK(e.live.forest().nodes.size() == 3);
    e.check(batch_of({b, a}));
    e.check({{b, 3}, {a, 0}});
    e.check(batch_of({b}));
    e.extend(b, page_size);
    e.check(batch_of({a, b}));
    e.extend(a, 2, {11, 12});
    e.check(batch_of({a, b}));
    const SequenceId c = e.fork(a);
    e.check(batch_of({c, a, b}));
    CHECK(leaf(e.live, 0).length_slot == -1);  // a and c end at one node
    e.replace_pages(c, 3, {20, 21});
    e.check(batch_of({c, a, b}));
    e.extend(c, page_size, {22});
    e.truncate(a, page_size + 1);
    e.check(batch_of({c, a, b}));
    e.truncate(b, 0);
    e.check(batch_of({a, b, c}));
    CHECK(EngineModel::pairs(e.finish(a)) == std::vector<std::pair<std::int32_t, std::int32_t>>{{0, 11}, {0, 12}});
    e.check(batch_of({c, b}));
    e.finish(c);
    e.check(batch_of({b}));
    e.finish(b);
    e.check({});
    CHECK(e.live.forest().nodes.empty());
  }
}

TEST_CASE("LiveForest: a page that comes back shares nothing with what it was", "[live_forest]") {
  ModelledForest e = engine(4);
  const SequenceId a = e.add({1, 2, 3}, 12), b = e.add({1, 2, 5}, 12);
  e.check(batch_of({a, b}));
  CHECK(e.finish(a).size() == 1);  // page 3
  const SequenceId c = e.add({3, 2, 1}, 12);
  e.check(batch_of({b, c}));
  CHECK(e.live.forest().nodes.size() == 2);
  CHECK(e.finish(b).size() == 1);  // page 5: c names the others
  const SequenceId d = e.add({5, 2}, 8);
  e.check(batch_of({c, d}));
  CHECK(e.live.forest().nodes.size() == 2);
  ForestStats stats;
  REQUIRE(e.live.stats(&stats).ok());
  CHECK(stats.unique_tokens == 16);  // page 2 counts once
}

TEST_CASE("LiveForest: a page filled to two lengths is shared up to the shorter", "[live_forest]") {
  ModelledForest e = engine(4);
  const SequenceId a = e.add({5, 7, 9}, 9), b = e.add({5, 7, 2}, 6), c = e.add({5, 7, 8}, 12), d = e.add({5, 7}, 5);
  e.check(batch_of({a, b, c, d}));
  const Forest& f = e.live.forest();
  CHECK(f.path_begin == Pages{0, 5, 6, 8, 8});
  CHECK(f.sequences[1].node == 1);
  CHECK(f.sequences[3].node == 0);
  CHECK(f.nodes[1].length_slot == -1);  // b has no token that is its own, whatever its reserve
  const std::int64_t version = e.live.version();
  e.extend(b, 1);
  e.check(batch_of({a, b, c, d}));
  CHECK(e.live.version() == version + 1);
  e.extend(b, 2);
  e.check(batch_of({a, b, c, d}));
  CHECK(leaf(e.live, 1).length_slot == 1);
  CHECK(leaf(e.live, 1).length == 4);
}

TEST_CASE("LiveForest: growth inside the pages keeps the forest, a new page makes a new one", "[live_forest]") {
  ModelledForest e = engine(4);
  const SequenceId a = e.add({0, 1, 2, 3}, 9), b = e.add({0, 1, 4}, 9);
  const Batch batch = batch_of({a, b});
  e.check(batch);
  const std::int64_t version = e.live.version();
  const std::uint64_t fingerprint = e.live.forest().fingerprint;
  CHECK(leaf(e.live, 0).length == 8);  // two pages, one of them in reserve
  CHECK(leaf(e.live, 1).length == 4);
  for (std::int32_t length = 2; length <= 4; ++length) {
    e.extend(a, 2);
    e.extend(b, 1);
    e.check(batch);
    CHECK(e.live.actual_lengths()[0] == std::min(2 * length - 1, 7));
    CHECK(e.live.actual_lengths()[1] == length);
  }
  e.extend(a, 1);
  e.extend(b, 0, {5});  // counts when the forest is made next
  e.check(batch);
  CHECK(e.live.version() == version);
  CHECK(e.live.forest().fingerprint == fingerprint);
  e.extend(b, 1);
  e.check(batch);
  CHECK(e.live.version() == version + 1);
  CHECK(e.live.forest().fingerprint != fingerprint);
  CHECK(leaf(e.live, 1).length == 8);
  e.check({{a, 1}, {b, 2}});  // other rows
  CHECK(e.live.version() == version + 2);
  e.check({{b, 2}, {a, 1}});
  CHECK(e.live.version() == version + 3);
}

TEST_CASE("LiveForest: draft tokens that are rejected keep the forest, a cut below the leaf does not",
          "[live_forest]") {
  ModelledForest e = engine(4);
  const SequenceId a = e.add({0, 1, 2, 3, 4}, 9), b = e.add({0, 1, 5}, 10);
  const Batch batch = {{a, 5}, {b, 1}};
  e.check(batch);
  const std::int64_t version = e.live.version();
  for (std::int32_t step = 0; step < 4; ++step) {
    e.extend(a, 5);  // into the next page, and back
    e.check(batch);
    e.truncate(a, 10 + step);
    e.check(batch);
  }
  CHECK(e.live.version() == version);
  e.truncate(a, 8);  // all that is left is b's, too
  e.check(batch);
  CHECK(e.live.version() == version + 1);
  CHECK(leaf(e.live, 0).length_slot == -1);
  e.extend(a, 3);
  e.check(batch);
  CHECK(leaf(e.live, 0).length_slot == 0);
}

TEST_CASE("LiveForest: a fork shares everything until one of the two writes into a copy", "[live_forest]") {
  ModelledForest e = engine(4);
  const SequenceId a = e.add({0, 1, 2}, 6);
  const SequenceId b = e.fork(a);
  e.check(batch_of({a, b}));
  CHECK(e.live.forest().nodes.size() == 1);
  CHECK(e.live.actual_lengths().empty());
  CHECK(e.replace_pages(b, 1, {3}).empty());  // page 1 is a's, too
  e.extend(b, 1);
  e.check(batch_of({a, b}));
  CHECK(e.live.forest().nodes.size() == 3);
  CHECK(leaf(e.live, 0).length == 8);  // with the reserve, which stayed with a
  CHECK(leaf(e.live, 1).length == 4);
  const std::vector<PageId> freed = e.replace_pages(b, 0, {4, 3, 6});
  CHECK(freed.empty());
  e.check(batch_of({a, b}));
  CHECK(e.live.forest().nodes.size() == 2);
  CHECK(e.replace_pages(b, 2, {}).size() == 1);      // its reserve
  CHECK(e.replace_pages(b, 1, {7, 7}).size() == 1);  // page 3; 7 is named twice
  e.check(batch_of({b, a}));
  e.replace_pages(b, 0, {0, 1});  // back to what a has
  e.check(batch_of({b, a}));
  CHECK(e.live.forest().nodes.size() == 2);
}

TEST_CASE("LiveForest: new pages with the old names still make a new forest", "[live_forest]") {
  ModelledForest e = engine(4);
  const SequenceId a = e.add({0, 1, 2}, 6);
  e.check(batch_of({a}));
  const std::int64_t version = e.live.version();
  e.replace_pages(a, 2, {9});  // it grows into another page than the forest says
  e.check(batch_of({a}));
  CHECK(e.live.version() == version + 1);
  CHECK(e.live.forest().pages == Pages{0, 1, 9});
}

TEST_CASE("LiveForest: equal page ids of two pools are never shared", "[live_forest]") {
  ModelledForest e = engine(4, {10, 7});
  const SequenceId a = e.add({1, 2}, 8, 0), b = e.add({1, 2}, 8, 1), c = e.add({1, 3}, 5, 1);
  e.check(batch_of({a, b, c}));
  CHECK(e.live.forest().nodes.size() == 4);
  CHECK(EngineModel::pairs(e.finish(b)) == std::vector<std::pair<std::int32_t, std::int32_t>>{{1, 2}});
  e.check(batch_of({c, a}));
  FreedStorage freed;
  const std::vector<SequenceId> ids = {c, a};
  REQUIRE(e.live.would_free(ids, &freed).ok());
  CHECK(freed.tokens == 13);
  CHECK(EngineModel::pairs(freed.pages) ==
        std::vector<std::pair<std::int32_t, std::int32_t>>{{0, 1}, {0, 2}, {1, 1}, {1, 3}});
}

TEST_CASE("LiveForest: sequences outside the batch leave no trace in its forest", "[live_forest]") {
  ModelledForest e = engine(4);
  const SequenceId a = e.add(pages_from(0, 8), 30);
  e.check(batch_of({a}));
  const std::uint64_t alone = e.live.forest().fingerprint;
  for (std::int32_t kv_len = 1; kv_len < 30; ++kv_len) {
    const SequenceId b = e.add(pages_from(0, (kv_len + 3) / 4), kv_len);
    e.add(pages_from(0, kv_len / 4), kv_len / 4 * 4);
    Pages other = pages_from(0, kv_len / 4);
    other.push_back(40 + kv_len);
    e.add(other, kv_len / 4 * 4 + 1);
    REQUIRE(e.live.schedule({}).ok());
    e.check(batch_of({a}));
    CHECK(e.live.forest().fingerprint == alone);
    e.check(batch_of({a, b}));
    CHECK(e.live.forest().nodes.size() == 2);
  }
}

TEST_CASE("LiveForest: sequences without tokens are the empty path, whatever their reserve", "[live_forest]") {
  ModelledForest e = engine(4);
  const SequenceId a = e.add({}, 0), b = e.add({3, 4}, 0), c = e.add({3}, 2);
  e.check({{a, 2}, {b, 1}, {c, 0}});
  CHECK(e.live.forest().sequences[0].node == -1);
  CHECK(e.live.forest().sequences[1].node == -1);
  CHECK(e.live.actual_lengths().size() == 1);
  CHECK(e.live.forest().row_order == Pages{-2, -1, -1});
  FreedStorage freed;
  REQUIRE(e.live.would_free({&b, 1}, &freed).ok());
  CHECK(freed.tokens == 0);
  CHECK(EngineModel::pairs(freed.pages) == std::vector<std::pair<std::int32_t, std::int32_t>>{{0, 4}});
  e.extend(b, 3);
  e.check({{a, 2}, {b, 1}, {c, 0}});
  CHECK(leaf(e.live, 1).length == 6);  // from the end of c on
}

TEST_CASE("LiveForest: copies are independent", "[live_forest]") {
  ModelledForest e = engine(4);
  const SequenceId a = e.add({0, 1, 2}, 5), b = e.fork(a);
  e.check(batch_of({a, b}));
  ModelledForest other = e;
  const std::string before = text_of(e.live, {a, b});
  other.replace_pages(b, 1, {7, 8});
  other.extend(b, 4);
  other.finish(a);
  const SequenceId c = other.add({0, 9}, 8);
  other.check(batch_of({c, b}));
  CHECK(text_of(e.live, {a, b}) == before);
  e.extend(a, 3);
  e.check(batch_of({b, a}));
  other.check(batch_of({b, c}));
}

TEST_CASE("LiveForest: a new epoch drops everything but the ids that were given", "[live_forest]") {
  ModelledForest e = engine(4);
  const SequenceId a = e.add({0, 1, 2}, 5);
  e.check(batch_of({a}));
  const std::int64_t version = e.live.version();
  e.begin_epoch(8, {3, 2});
  CHECK(e.live.version() == version + 1);
  CHECK(e.live.forest().nodes.empty());
  CHECK(e.live.forest().pools.size() == 2);
  CHECK(e.live.actual_lengths().empty());
  CHECK(e.live.extend(a, 1).code == StatusCode::invalid_argument);
  const SequenceId b = e.add({0, 1, 2}, 20);
  CHECK(b != a);
  e.check(batch_of({b}));
  CHECK(e.finish(b).size() == 3);
}

TEST_CASE("LiveForest: an id is given once", "[live_forest]") {
  ModelledForest e = engine(4);
  std::set<SequenceId> given;
  for (int round = 0; round < 200; ++round) {
    const SequenceId a = e.add({1}, 2), b = e.fork(a);
    given.insert(a);
    given.insert(b);
    e.finish(round % 2 == 0 ? a : b);
    CHECK(e.live.finish(round % 2 == 0 ? a : b).code == StatusCode::invalid_argument);
    e.finish(round % 2 == 0 ? b : a);
    if (round % 50 == 0) e.begin_epoch(4, {10});
  }
  CHECK(given.size() == 400);
}

TEST_CASE("LiveForest: a chain of 100,000 forks, up and down", "[live_forest]") {
  constexpr std::int32_t kCount = 100'000;
  LiveForest live;
  const PoolShape pool = {1, kCount};
  REQUIRE(live.begin_epoch({&pool, 1}).ok());
  std::vector<SequenceId> ids(1);
  REQUIRE(live.add({}, 0, &ids[0]).ok());
  for (std::int32_t i = 0; i < kCount; ++i) {
    ids.emplace_back();
    REQUIRE(live.fork(ids[ids.size() - 2], &ids.back()).ok());
    REQUIRE(live.extend(ids.back(), 1, {&i, 1}).ok());
  }
  ForestStats stats;
  REQUIRE(live.stats(&stats).ok());
  CHECK(stats.depth == kCount);
  CHECK(stats.unique_tokens == kCount);
  REQUIRE(live.schedule(batch_of(ids)).ok());
  CHECK(live.forest().nodes.size() == kCount);
  CHECK(live.forest().path_end(live.forest().sequences.back().node) == kCount);
  REQUIRE(live.schedule(batch_of({ids.back()})).ok());
  CHECK(live.forest().nodes.size() == 1);
  FreedStorage freed;
  REQUIRE(live.would_free(ids, &freed).ok());
  CHECK(freed.tokens == kCount);
  CHECK(freed.pages.size() == kCount);
  REQUIRE(live.truncate(ids.back(), 0).ok());
  std::size_t pages = 0;
  for (std::size_t i = ids.size(); i-- > 0;) {
    std::vector<PageId> back;
    REQUIRE(live.finish(ids[i], &back).ok());
    pages += back.size();
  }
  CHECK(pages == kCount);
  REQUIRE(live.stats(&stats).ok());
  CHECK(stats.nodes == 0);
}

TEST_CASE("LiveForest: a capacity ends where int32 does", "[live_forest]") {
  LiveForest live;
  const PoolShape pool = {1 << 30, 5};
  REQUIRE(live.begin_epoch({&pool, 1}).ok());
  const Pages pages = {0, 1, 2, 3};
  SequenceId id = -1;
  REQUIRE(live.add(pages, kMax - 1, &id).ok());
  const Batch batch = batch_of({id});
  REQUIRE(live.schedule(batch).ok());
  const std::int64_t version = live.version();
  CHECK(live.forest().nodes[0].length == kMax);
  REQUIRE(live.extend(id, 1).ok());
  REQUIRE(live.schedule(batch).ok());
  CHECK(live.actual_lengths()[0] == kMax);
  CHECK(live.version() == version);
  CHECK(to_string(live.extend(id, 1)) == "LiveForest::extend: tokens got 1, want <= 0 (capacity_exceeded)");
  SequenceId other = -1;
  REQUIRE(live.fork(id, &other).ok());
  const Batch rows = {{id, kMax}, {other, 1}};
  CHECK(to_string(live.schedule(rows)) ==
        "LiveForest::schedule: batch.rows got 2147483648, want <= 2147483647 (capacity_exceeded)");
}

TEST_CASE("LiveForest: without an epoch there are no pools", "[live_forest][errors]") {
  LiveForest live;
  SequenceId id = 7;
  CHECK(to_string(live.add({}, 0, &id)) == "LiveForest::add: pool got 0, want < 0 (invalid_argument)");
  CHECK(id == 7);
  ForestStats stats;
  FreedStorage freed;
  CHECK(live.stats(&stats).ok());
  CHECK(stats.nodes == 0);
  CHECK(live.would_free({}, &freed).ok());
  CHECK(live.schedule({}).ok());
  CHECK(live.version() == 0);
}

TEST_CASE("LiveForest: refuses with operator, argument, got and want, and nothing changes", "[live_forest][errors]") {
  ModelledForest e = engine(4, {10, 6});
  const SequenceId gone = e.add({9}, 1);
  e.finish(gone);
  const SequenceId a = e.add({0, 1, 2}, 6), b = e.add({0, 5}, 8, 1);
  e.check(batch_of({a, b}));
  LiveForest& live = e.live;
  const std::string before = text_of(live, {a, b, gone});
  const auto refuse = [&](const std::string& text, const std::function<Status()>& call) {
    CHECK(to_string(call()) == "LiveForest::" + text + " (invalid_argument)");
    CHECK(text_of(live, {a, b, gone}) == before);
  };
  const std::string no_id = " got " + std::to_string(gone) + ", want one of the running 2";
  const Span<const std::int32_t> null(nullptr, 3), negative(nullptr, -1);
  const Pages low = {3, -1}, high = {3, 6}, some = {3, 4};
  SequenceId id = 77;
  std::vector<PageId> freed;

  const std::vector<PoolShape> empty_page = {{0, 1}}, no_pages = {{4, 1}, {4, -1}}, sizes = {{4, 1}, {5, 1}};
  refuse("begin_epoch: pools.size got 0, want >= 1", [&] { return live.begin_epoch({}); });
  refuse("begin_epoch: pools[0].page_size got 0, want >= 1", [&] { return live.begin_epoch(empty_page); });
  refuse("begin_epoch: pools[1].page_size got 5, want == 4", [&] { return live.begin_epoch(sizes); });
  refuse("begin_epoch: pools[1].num_pages got -1, want >= 0", [&] { return live.begin_epoch(no_pages); });
  refuse("begin_epoch: pools got null, want == a pointer", [&] { return live.begin_epoch({nullptr, 1}); });

  refuse("add: id got null, want == a pointer", [&] { return live.add(some, 5, nullptr); });
  refuse("add: pool got -1, want >= 0", [&] { return live.add(some, 5, &id, -1); });
  refuse("add: pool got 2, want < 2", [&] { return live.add(some, 5, &id, 2); });
  refuse("add: pages got null, want == a pointer", [&] { return live.add(null, 5, &id); });
  refuse("add: pages.size got -1, want >= 0", [&] { return live.add(negative, 0, &id); });
  refuse("add: pages[1] got -1, want >= 0", [&] { return live.add(low, 5, &id); });
  refuse("add: pages[1] got 6, want < 6", [&] { return live.add(high, 5, &id, 1); });
  refuse("add: kv_len got -1, want >= 0", [&] { return live.add(some, -1, &id); });
  refuse("add: pages.size got 2, want >= 3", [&] { return live.add(some, 9, &id); });
  refuse("add: pages.size got 0, want >= 536870912", [&] { return live.add({}, kMax, &id); });

  refuse("extend: id" + no_id, [&] { return live.extend(gone, 1); });
  refuse("extend: id got -1, want one of the running 2", [&] { return live.extend(-1, 1); });
  refuse("extend: id got 99, want one of the running 2", [&] { return live.extend(99, 1); });
  refuse("extend: tokens got -1, want >= 0", [&] { return live.extend(a, -1); });
  refuse("extend: new_pages got null, want == a pointer", [&] { return live.extend(a, 1, null); });
  refuse("extend: new_pages[1] got -1, want >= 0", [&] { return live.extend(a, 1, low); });
  refuse("extend: new_pages[1] got 6, want < 6", [&] { return live.extend(b, 1, high); });
  refuse("extend: new_pages.size got 0, want >= 1", [&] { return live.extend(a, 7); });
  refuse("extend: new_pages.size got 2, want >= 3", [&] { return live.extend(b, 9, some); });

  refuse("truncate: id" + no_id, [&] { return live.truncate(gone, 0); });
  refuse("truncate: kv_len got -1, want >= 0", [&] { return live.truncate(a, -1); });
  refuse("truncate: kv_len got 7, want <= 6", [&] { return live.truncate(a, 7); });

  refuse("fork: child got null, want == a pointer", [&] { return live.fork(a, nullptr); });
  refuse("fork: id" + no_id, [&] { return live.fork(gone, &id); });

  refuse("replace_pages: id" + no_id, [&] { return live.replace_pages(gone, 0, some, &freed); });
  refuse("replace_pages: pages got null, want == a pointer", [&] { return live.replace_pages(a, 0, null); });
  refuse("replace_pages: pages[1] got -1, want >= 0", [&] { return live.replace_pages(a, 0, low); });
  refuse("replace_pages: pages[1] got 6, want < 6", [&] { return live.replace_pages(b, 0, high); });
  refuse("replace_pages: first_page got -1, want >= 0", [&] { return live.replace_pages(a, -1, some); });
  refuse("replace_pages: first_page got 4, want <= 3", [&] { return live.replace_pages(a, 4, {}, &freed); });
  refuse("replace_pages: pages.size got 0, want >= 1", [&] { return live.replace_pages(a, 1, {}, &freed); });

  refuse("finish: id" + no_id, [&] { return live.finish(gone, &freed); });

  const Batch twice = batch_of({b, a, b}), unknown = batch_of({a, gone}), rows = {{a, 1}, {b, -1}};
  refuse("schedule: batch got null, want == a pointer", [&] { return live.schedule({nullptr, 2}); });
  refuse("schedule: batch[2].id got " + std::to_string(b) + ", want != " + std::to_string(b),
         [&] { return live.schedule(twice); });
  refuse("schedule: batch[1].id" + no_id, [&] { return live.schedule(unknown); });
  refuse("schedule: batch[1].q_len got -1, want >= 0", [&] { return live.schedule(rows); });

  FreedStorage storage;
  storage.tokens = 77;
  const std::vector<SequenceId> same = {a, a}, ended = {a, gone};
  refuse("stats: stats got null, want == a pointer", [&] { return live.stats(nullptr); });
  refuse("would_free: freed got null, want == a pointer", [&] { return live.would_free({&a, 1}, nullptr); });
  refuse("would_free: ids got null, want == a pointer", [&] { return live.would_free({nullptr, 1}, &storage); });
  refuse("would_free: ids[1] got " + std::to_string(a) + ", want != " + std::to_string(a),
         [&] { return live.would_free(same, &storage); });
  refuse("would_free: ids[1]" + no_id, [&] { return live.would_free(ended, &storage); });

  CHECK(id == 77);
  CHECK(freed.empty());
  CHECK(storage.tokens == 77);
  e.check(batch_of({a, b}));
  CHECK(text_of(live, {a, b, gone}) == before);
}

}  // namespace prefixshare::tests
