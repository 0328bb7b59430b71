// SPDX-License-Identifier: Apache-2.0
// would_free, prune_forest and compact_forest against sets of slots, and every refusal.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

namespace ps = prefixshare;

namespace {

using ps::testing::Random;
using Keep = std::vector<std::uint8_t>;
using Slots = std::vector<std::vector<std::int64_t>>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

struct Input {
  std::vector<ps::PoolShape> pools;
  std::vector<std::int32_t> pages;
  std::vector<ps::Segment> segments;
  std::vector<ps::Node> nodes;
  std::vector<ps::Sequence> sequences;
};

ps::Forest make(const Input& in) {
  ps::Forest forest;
  const ps::Status status = ps::make_forest({in.pools, in.pages, in.segments, in.nodes, in.sequences}, &forest);
  INFO(ps::to_string(status));
  REQUIRE(status.ok());
  return forest;
}

/// Pages for a segment: from `free` (a segment then has its pages alone), or any, if that is null.
void add_segment(Random* random, std::vector<std::vector<std::int32_t>>* free, Input* in) {
  const std::int32_t pool = random->between(0, static_cast<std::int32_t>(in->pools.size()) - 1);
  const ps::PoolShape shape = in->pools[at(pool)];
  const std::int32_t offset = random->between(0, shape.page_size - 1);
  std::int32_t length = random->chance(0.1) ? 0 : random->between(1, 12);
  if (free) {
    const std::int64_t most = static_cast<std::int64_t>((*free)[at(pool)].size()) * shape.page_size - offset;
    length = static_cast<std::int32_t>(std::max<std::int64_t>(std::min<std::int64_t>(length, most), 0));
  }
  in->segments.push_back({pool, static_cast<std::int32_t>(in->pages.size()), offset, length});
  const std::int32_t pages = length == 0 ? 0 : (offset + length + shape.page_size - 1) / shape.page_size;
  for (std::int32_t p = 0; p < pages; ++p) {
    in->pages.push_back(free ? (*free)[at(pool)].back() : random->between(0, shape.num_pages - 1));
    if (free) (*free)[at(pool)].pop_back();
  }
}

/// Nodes that share segments, empty ones, length slots, sequences that end anywhere or have no rows.
ps::Forest random_forest(Random* random, bool disjoint) {
  Input in;
  std::vector<std::vector<std::int32_t>> free;
  for (std::int32_t i = random->between(1, 3); i > 0; --i) {
    in.pools.push_back({random->between(1, 6), random->between(1, 20)});
    free.emplace_back();
    for (std::int32_t p = 0; p < in.pools.back().num_pages; ++p) free.back().push_back(p);
    random->shuffle(&free.back());
  }
  for (std::int32_t i = random->between(1, 8); i > 0; --i) add_segment(random, disjoint ? &free : nullptr, &in);
  const std::int32_t count = random->between(0, 40);
  std::vector<char> inner(at(count), 0);
  for (std::int32_t n = 0; n < count; ++n) {
    ps::Node node;
    node.parent = random->between(-1, n - 1);
    if (node.parent >= 0) inner[at(node.parent)] = 1;
    node.segment = random->between(-1, static_cast<std::int32_t>(in.segments.size()) - 1);
    node.delta = random->between(-3, 3);
    if (node.segment >= 0) {
      node.begin = random->between(0, in.segments[at(node.segment)].length);
      node.length = random->between(0, in.segments[at(node.segment)].length - node.begin);
    }
    in.nodes.push_back(node);
  }
  std::int32_t slots = 0;
  for (std::int32_t n = count; n-- > 0;) {  // backwards: slots are not in node order
    if (!inner[at(n)] && random->chance(0.5)) in.nodes[at(n)].length_slot = slots++;
  }
  for (std::int32_t i = random->between(0, 14); i > 0; --i) {
    const std::int32_t first = random->chance(0.3) ? random->between(-5, 30) : ps::Sequence::kLastTokens;
    in.sequences.push_back({random->between(-1, count - 1), random->between(0, 4), first});
  }
  return make(in);
}

Keep random_keep(Random* random, const ps::Forest& f) {
  const double p = random->uniform();
  Keep keep;
  for (std::size_t s = 0; s < f.sequences.size(); ++s) {
    keep.push_back(random->chance(p) ? static_cast<std::uint8_t>(random->between(1, 255)) : std::uint8_t{0});
  }
  return keep;
}

/// A token as a sequence meets it: pool, page, slot, delta, length slot.
using Token = std::tuple<std::int32_t, std::int32_t, std::int32_t, std::int32_t, std::int32_t>;

std::vector<std::int32_t> path_of(const ps::Forest& f, std::int32_t n) {
  std::vector<std::int32_t> path;
  for (; n >= 0; n = f.nodes[at(n)].parent) path.insert(path.begin(), n);
  return path;
}

std::vector<Token> tokens_of(const ps::Forest& f, std::int32_t sequence) {
  std::vector<Token> tokens;
  for (const std::int32_t n : path_of(f, f.sequences[at(sequence)].node)) {
    const ps::Node& node = f.nodes[at(n)];
    for (std::int32_t t = node.begin; t < node.begin + node.length; ++t) {
      const ps::Segment& segment = f.segments[at(node.segment)];
      const std::int32_t size = f.pools[at(segment.pool)].page_size, slot = segment.offset + t;
      tokens.emplace_back(segment.pool, f.pages[at(segment.first_page + slot / size)], slot % size, node.delta,
                          node.length_slot);
    }
  }
  return tokens;
}

struct Read {
  std::set<std::tuple<std::int32_t, std::int32_t, std::int32_t>> slots;
  std::set<std::pair<std::int32_t, std::int32_t>> pages;
};

Read read_by(const ps::Forest& f, const Keep& keep, bool kept) {
  Read read;
  for (std::size_t s = 0; s < keep.size(); ++s) {
    if ((keep[s] != 0) != kept) continue;
    for (const Token& t : tokens_of(f, static_cast<std::int32_t>(s))) {
      read.slots.insert({std::get<0>(t), std::get<1>(t), std::get<2>(t)});
      read.pages.insert({std::get<0>(t), std::get<1>(t)});
    }
  }
  return read;
}

/// -1 where the old thing is gone, else numbered in order from 0.
void check_numbers(const std::vector<std::int32_t>& map, const std::set<std::int32_t>& kept, std::size_t size) {
  REQUIRE(map.size() == size);
  std::int32_t next = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const bool stays = kept.count(static_cast<std::int32_t>(i)) > 0;
    CHECK(map[i] == (stays ? next++ : -1));
  }
}

void check_map(const ps::Forest& f, const Keep& keep, const ps::ForestMap& map) {
  std::set<std::int32_t> sequences, nodes, segments, slots, rows;
  std::int32_t row = 0;
  std::size_t slot_count = 0;
  for (std::size_t s = 0; s < keep.size(); ++s) {
    if (keep[s]) sequences.insert(static_cast<std::int32_t>(s));
    for (std::int32_t r = 0; r < f.sequences[s].q_len; ++r, ++row) {
      if (keep[s]) rows.insert(row);
    }
    for (const std::int32_t n : path_of(f, keep[s] ? f.sequences[s].node : -1)) {
      nodes.insert(n);
      if (f.nodes[at(n)].segment >= 0) segments.insert(f.nodes[at(n)].segment);
      if (f.nodes[at(n)].length_slot >= 0) slots.insert(f.nodes[at(n)].length_slot);
    }
  }
  for (const ps::Node& n : f.nodes) slot_count += n.length_slot >= 0;
  check_numbers(map.sequences, sequences, f.sequences.size());
  check_numbers(map.nodes, nodes, f.nodes.size());
  check_numbers(map.segments, segments, f.segments.size());
  check_numbers(map.rows, rows, at(f.rows()));
  check_numbers(map.length_slots, slots, slot_count);
}

std::int32_t mapped(const std::vector<std::int32_t>& map, std::int32_t old) { return old < 0 ? old : map[at(old)]; }

void check_pruned(const ps::Forest& f, const ps::Forest& pruned, const ps::ForestMap& map) {
  for (std::size_t n = 0; n < f.nodes.size(); ++n) {
    if (map.nodes[n] < 0) continue;
    const ps::Node &old = f.nodes[n], &now = pruned.nodes[at(map.nodes[n])];
    CHECK(now.parent == mapped(map.nodes, old.parent));
    CHECK(now.segment == mapped(map.segments, old.segment));
    CHECK(now.length_slot == mapped(map.length_slots, old.length_slot));
    CHECK(std::tie(now.begin, now.length, now.delta) == std::tie(old.begin, old.length, old.delta));
  }
  for (std::size_t s = 0; s < f.sequences.size(); ++s) {
    if (map.sequences[s] < 0) continue;
    const std::int32_t sequence = map.sequences[s];
    const ps::Sequence &old = f.sequences[s], &now = pruned.sequences[at(sequence)];
    CHECK(std::tie(now.q_len, now.first_order) == std::tie(old.q_len, old.first_order));
    std::vector<Token> want = tokens_of(f, static_cast<std::int32_t>(s));
    for (Token& t : want) std::get<4>(t) = mapped(map.length_slots, std::get<4>(t));
    CHECK(tokens_of(pruned, sequence) == want);
  }
  std::set<std::int64_t> entries;  // of the page list
  for (std::size_t i = 0; i < f.segments.size(); ++i) {
    if (map.segments[i] < 0) continue;
    const ps::Segment& s = f.segments[i];
    const std::int32_t size = f.pools[at(s.pool)].page_size;
    for (std::int32_t t = 0; t < s.length; ++t) entries.insert(s.first_page + (s.offset + t) / size);
  }
  CHECK(pruned.pages.size() == entries.size());
  CHECK(pruned.pools.size() == f.pools.size());
}

/// The same forest made from its own arrays.
void check_sound(const ps::Forest& f) {
  const ps::Forest again = make({f.pools, f.pages, f.segments, f.nodes, f.sequences});
  CHECK(again.fingerprint == f.fingerprint);
  CHECK(again.row_map == f.row_map);
  CHECK(again.row_order == f.row_order);
  for (std::size_t n = 0; n < f.nodes.size(); ++n) CHECK(f.node_of_input[n] == static_cast<std::int32_t>(n));
}

/// Whether two nodes in use name some, but not all, of each other's tokens in one segment.
bool has_partial_overlap(const ps::Forest& f) {
  for (const ps::Node& a : f.nodes) {
    for (const ps::Node& b : f.nodes) {
      if (a.segment != b.segment || a.length == 0 || b.length == 0) continue;
      const bool apart = a.begin + a.length <= b.begin || b.begin + b.length <= a.begin;
      if (!apart && (a.begin != b.begin || a.length != b.length)) return true;
    }
  }
  return false;
}

/// Tokens of the nodes in use, in depth-first order, each at its first use: (pool, old slot).
std::vector<std::pair<std::int32_t, std::int64_t>> first_uses(const ps::Forest& f) {
  std::vector<std::pair<std::int32_t, std::int64_t>> uses;
  for (const ps::Node& node : f.nodes) {
    for (std::int32_t t = node.begin; t < node.begin + node.length; ++t) {
      const ps::Segment& segment = f.segments[at(node.segment)];
      const std::int32_t size = f.pools[at(segment.pool)].page_size, slot = segment.offset + t;
      const std::int64_t page = f.pages[at(segment.first_page + slot / size)];
      const std::pair<std::int32_t, std::int64_t> use = {segment.pool, page * size + slot % size};
      if (std::find(uses.begin(), uses.end(), use) == uses.end()) uses.push_back(use);
    }
  }
  return uses;
}

/// `used` is the forest without the nodes that no sequence reads.
void check_compacted(const ps::Forest& used, const ps::Forest& compacted, const Slots& slots) {
  const auto uses = first_uses(used);
  std::vector<std::set<std::int64_t>> targets(used.pools.size());
  std::vector<std::int64_t> next(used.pools.size(), 0);
  for (const auto& [pool, slot] : uses) {
    const std::int64_t target = slots[at(pool)][at(slot)];
    CHECK(targets[at(pool)].insert(target).second);
    if (!has_partial_overlap(used)) CHECK(target == next[at(pool)]++);
  }
  REQUIRE(slots.size() == used.pools.size());
  for (std::size_t p = 0; p < slots.size(); ++p) {
    const auto tokens = static_cast<std::int32_t>(targets[p].size());
    REQUIRE(slots[p].size() == at(std::int64_t{used.pools[p].num_pages} * used.pools[p].page_size));
    CHECK(std::count(slots[p].begin(), slots[p].end(), -1) == static_cast<std::int64_t>(slots[p].size()) - tokens);
    if (tokens > 0) CHECK(*targets[p].begin() == 0);
    if (tokens > 0) CHECK(*targets[p].rbegin() == tokens - 1);
    CHECK(compacted.pools[p].num_pages == (tokens > 0));
    CHECK(compacted.pools[p].page_size == std::max(tokens, 1));
  }
  REQUIRE(compacted.nodes.size() == used.nodes.size());
  for (std::size_t n = 0; n < used.nodes.size(); ++n) CHECK(compacted.nodes[n].parent == used.nodes[n].parent);
  REQUIRE(compacted.sequences.size() == used.sequences.size());
  for (std::int32_t s = 0; s < static_cast<std::int32_t>(used.sequences.size()); ++s) {
    const ps::Sequence &old = used.sequences[at(s)], &now = compacted.sequences[at(s)];
    CHECK(std::tie(now.node, now.q_len, now.first_order) == std::tie(old.node, old.q_len, old.first_order));
    std::vector<Token> want = tokens_of(used, s);
    for (Token& t : want) {
      const std::int64_t slot =
          std::int64_t{std::get<1>(t)} * used.pools[at(std::get<0>(t))].page_size + std::get<2>(t);
      std::get<1>(t) = 0;
      std::get<2>(t) = static_cast<std::int32_t>(slots[at(std::get<0>(t))][at(slot)]);
    }
    CHECK(tokens_of(compacted, s) == want);
  }
}

/// Two questions on one document, stored in pages of 4; the second node has capacity, the last nobody reads.
Input small_input() {
  Input in;
  in.pools = {{4, 8}, {2, 2}};
  in.pages = {5, 3, 1, 0, 7, 1};
  in.segments = {{0, 0, 0, 6}, {0, 2, 1, 3}, {0, 3, 0, 7}, {1, 5, 0, 2}};
  in.nodes = {{-1, 0, 0, 6, 0, -1}, {0, 1, 0, 3, 0, 1}, {0, 2, 1, 5, 9, 0}, {-1, 3, 0, 2, 0, -1}};
  in.sequences = {{1, 1}, {2, 2}, {0, 1}};
  return in;
}

bool same_page(const ps::PageId& page, std::int32_t pool, std::int32_t id) {
  return page.pool == pool && page.page == id;
}

}  // namespace

TEST_CASE("would_free: agrees with sets of slots", "[forest]") {
  Random random(1);
  for (int round = 0; round < 400; ++round) {
    INFO("round " << round);
    const ps::Forest f = random_forest(&random, round % 2 == 0);
    const Keep keep = random_keep(&random, f);
    const Read kept = read_by(f, keep, true), dropped = read_by(f, keep, false);
    std::int64_t tokens = 0;
    for (const auto& slot : dropped.slots) tokens += kept.slots.count(slot) == 0;
    std::vector<std::pair<std::int32_t, std::int32_t>> pages;
    for (const auto& page : dropped.pages) {
      if (kept.pages.count(page) == 0) pages.push_back(page);
    }
    ps::FreedStorage freed;
    freed.pages.push_back({7, 7});
    REQUIRE(ps::would_free(f, keep, &freed).ok());
    CHECK(freed.tokens == tokens);
    REQUIRE(freed.pages.size() == pages.size());
    for (std::size_t i = 0; i < pages.size(); ++i) CHECK(same_page(freed.pages[i], pages[i].first, pages[i].second));
  }
}

TEST_CASE("would_free: what it counts is what pruning takes from the unique tokens", "[forest]") {
  Random random(2);
  for (int round = 0; round < 100; ++round) {
    const ps::Forest f = random_forest(&random, false);
    const Keep keep = random_keep(&random, f);
    ps::FreedStorage freed;
    ps::Forest pruned;
    ps::ForestStats before, after;
    REQUIRE(ps::would_free(f, keep, &freed).ok());
    REQUIRE(ps::prune_forest(f, keep, &pruned).ok());
    REQUIRE(ps::forest_stats(f, &before).ok());
    REQUIRE(ps::forest_stats(pruned, &after).ok());
    CHECK(before.unique_tokens - after.unique_tokens == freed.tokens);
  }
}

TEST_CASE("prune_forest: agrees with sets of nodes, and every path keeps its tokens", "[forest]") {
  Random random(3);
  for (int round = 0; round < 400; ++round) {
    INFO("round " << round);
    const ps::Forest f = random_forest(&random, round % 2 == 0);
    const Keep keep = random_keep(&random, f);
    ps::Forest pruned;
    ps::ForestMap map;
    map.rows.assign(3, 7);
    REQUIRE(ps::prune_forest(f, keep, &pruned, &map).ok());
    check_map(f, keep, map);
    check_pruned(f, pruned, map);
    check_sound(pruned);
    std::vector<std::int32_t> counts;
    REQUIRE(ps::reference_counts(pruned, &counts).ok());
    for (const std::int32_t count : counts) CHECK(count > 0);

    ps::Forest again, in_place = f;  // pruning what is pruned changes nothing, and the output may be the input
    REQUIRE(ps::prune_forest(pruned, Keep(pruned.sequences.size(), 1), &again).ok());
    CHECK(again.fingerprint == pruned.fingerprint);
    REQUIRE(ps::prune_forest(in_place, keep, &in_place).ok());
    CHECK(in_place.fingerprint == pruned.fingerprint);
  }
}

TEST_CASE("prune_forest: a small forest, number by number", "[forest]") {
  const ps::Forest f = make(small_input());
  ps::Forest pruned;
  ps::ForestMap map;
  REQUIRE(ps::prune_forest(f, Keep{0, 1, 0}, &pruned, &map).ok());
  CHECK(map.nodes == std::vector<std::int32_t>{0, -1, 1, -1});
  CHECK(map.segments == std::vector<std::int32_t>{0, -1, 1, -1});
  CHECK(map.sequences == std::vector<std::int32_t>{-1, 0, -1});
  CHECK(map.rows == std::vector<std::int32_t>{-1, 0, 1, -1});
  CHECK(map.length_slots == std::vector<std::int32_t>{0, -1});
  CHECK(pruned.pages == std::vector<std::int32_t>{5, 3, 0, 7});
  CHECK(pruned.nodes.size() == 2);  // an only child stays a node of its own
  CHECK(pruned.rows() == 2);
  ps::FreedStorage freed;
  REQUIRE(ps::would_free(f, Keep{0, 1, 0}, &freed).ok());
  CHECK(freed.tokens == 3);
  REQUIRE(freed.pages.size() == 1);
  CHECK(same_page(freed.pages[0], 0, 1));
  REQUIRE(ps::would_free(f, Keep{1, 0, 0}, &freed).ok());
  CHECK(freed.tokens == 5);
  CHECK(freed.pages.size() == 2);
}

TEST_CASE("prune_forest: nothing kept, nothing there", "[forest]") {
  const ps::Forest f = make(small_input());
  ps::Forest pruned;
  REQUIRE(ps::prune_forest(f, Keep{0, 0, 0}, &pruned).ok());
  CHECK(pruned.nodes.empty());
  CHECK(pruned.pages.empty());
  CHECK(pruned.rows() == 0);
  CHECK(pruned.fingerprint != 0);
  ps::FreedStorage freed;
  ps::Forest again;
  Slots slots;
  REQUIRE(ps::would_free(pruned, {}, &freed).ok());
  CHECK(freed.tokens == 0);
  REQUIRE(ps::prune_forest(pruned, {}, &again).ok());
  CHECK(again.fingerprint == pruned.fingerprint);
  REQUIRE(ps::compact_forest(pruned, &again, &slots).ok());
  CHECK(again.nodes.empty());
  CHECK(slots == Slots{std::vector<std::int64_t>(32, -1), std::vector<std::int64_t>(4, -1)});
  const ps::Forest nothing;
  REQUIRE(ps::prune_forest(nothing, {}, &again).ok());
  REQUIRE(ps::compact_forest(nothing, &again, &slots).ok());
  CHECK(slots.empty());
}

TEST_CASE("compact_forest: moves each token that a path names once, to where the paths now say", "[forest]") {
  Random random(4);
  int exact = 0;
  for (int round = 0; round < 400; ++round) {
    INFO("round " << round);
    const ps::Forest f = random_forest(&random, true);
    ps::Forest used, compacted;
    Slots slots;
    REQUIRE(ps::prune_forest(f, Keep(f.sequences.size(), 1), &used).ok());
    REQUIRE(ps::compact_forest(f, &compacted, &slots).ok());
    check_compacted(used, compacted, slots);
    check_sound(compacted);
    exact += !has_partial_overlap(used);

    ps::Forest in_place = f;
    Slots again;
    REQUIRE(ps::compact_forest(in_place, &in_place, &again).ok());
    CHECK(in_place.fingerprint == compacted.fingerprint);
    CHECK(again == slots);
    REQUIRE(ps::compact_forest(compacted, &in_place, &again).ok());  // what is compact stays as it is
    CHECK(in_place.fingerprint == compacted.fingerprint);
  }
  CHECK(exact > 20);
}

TEST_CASE("compact_forest: a small forest, number by number", "[forest]") {
  const ps::Forest f = make(small_input());
  ps::Forest compacted;
  Slots slots;
  REQUIRE(ps::compact_forest(f, &compacted, &slots).ok());
  std::vector<std::int64_t> want(32, -1);
  for (const std::int32_t slot : {20, 21, 22, 23, 12, 13}) want[at(slot)] = slot < 20 ? slot - 8 : slot - 20;
  for (const std::int32_t slot : {5, 6, 7}) want[at(slot)] = slot + 1;
  for (const std::int32_t slot : {1, 2, 3, 28, 29}) want[at(slot)] = slot < 4 ? slot + 8 : slot - 16;
  CHECK(slots == Slots{want, {-1, -1, -1, -1}});
  CHECK(compacted.pages == std::vector<std::int32_t>{0});
  REQUIRE(compacted.segments.size() == 2);
  CHECK(compacted.segments[0].length == 14);
  CHECK(compacted.nodes[2].begin == 9);
  CHECK(compacted.nodes[2].length_slot == 0);
  CHECK(compacted.nodes[2].delta == 9);
}

TEST_CASE("forest pruning: a chain of 100,000 nodes, a sequence at each", "[forest]") {
  constexpr std::int32_t kCount = 100'000;
  std::vector<std::int32_t> parents;
  for (std::int32_t i = 0; i < kCount; ++i) parents.push_back(i - 1);
  ps::Forest f;
  REQUIRE(ps::forest_from_parents({parents, {}, {}}, &f).ok());
  Keep keep(kCount, 0);
  keep[kCount / 2] = 1;
  ps::FreedStorage freed;
  REQUIRE(ps::would_free(f, keep, &freed).ok());
  CHECK(freed.tokens == kCount - kCount / 2 - 1);
  CHECK(freed.pages.empty());
  ps::Forest pruned, compacted;
  Slots slots;
  REQUIRE(ps::prune_forest(f, keep, &pruned).ok());
  CHECK(pruned.nodes.size() == kCount / 2 + 1);
  REQUIRE(ps::compact_forest(pruned, &compacted, &slots).ok());
  CHECK(compacted.pools[0].page_size == kCount / 2 + 1);
  CHECK(slots[0][kCount - 1] == -1);
}

TEST_CASE("forest pruning: refuses what is wrong, and leaves its outputs as they were", "[forest][errors]") {
  const ps::Forest f = make(small_input());
  const Keep keep = {1, 0, 1}, few = {1, 0};
  Input other = small_input();
  other.sequences.pop_back();
  ps::Forest out = make(other);
  const std::uint64_t before = out.fingerprint;
  ps::ForestMap map;
  map.rows.push_back(7);
  ps::FreedStorage freed;
  freed.tokens = 7;
  Slots slots = {{7}};
  const auto refusal = [&](const ps::Status& status) {
    CHECK(out.fingerprint == before);
    CHECK(map.rows == std::vector<std::int32_t>{7});
    CHECK(map.nodes.empty());
    CHECK(freed.tokens == 7);
    CHECK(freed.pages.empty());
    CHECK(slots == Slots{{7}});
    return ps::to_string(status);
  };
  const std::string no_pointer = " got null, want == a pointer (invalid_argument)";
  CHECK(refusal(ps::prune_forest(f, keep, nullptr, &map)) == "prune_forest: pruned" + no_pointer);
  CHECK(refusal(ps::prune_forest(f, few, &out, &map)) == "prune_forest: keep.size got 2, want == 3 (invalid_argument)");
  CHECK(refusal(ps::prune_forest(f, {nullptr, 3}, &out, &map)) == "prune_forest: keep" + no_pointer);
  CHECK(refusal(ps::would_free(f, keep, nullptr)) == "would_free: freed" + no_pointer);
  CHECK(refusal(ps::would_free(f, few, &freed)) == "would_free: keep.size got 2, want == 3 (invalid_argument)");
  CHECK(refusal(ps::would_free(f, {nullptr, 3}, &freed)) == "would_free: keep" + no_pointer);
  CHECK(refusal(ps::compact_forest(f, nullptr, &slots)) == "compact_forest: compacted" + no_pointer);
  CHECK(refusal(ps::compact_forest(f, &out, nullptr)) == "compact_forest: slots" + no_pointer);
}

TEST_CASE("compact_forest: refuses segments that lie on the same slots, if both are in use", "[forest][errors]") {
  Input in = small_input();
  in.pages[2] = 7;  // segment 1's tokens are slots 1 to 3 of segment 2's last page
  ps::Forest out;
  Slots slots;
  CHECK(ps::to_string(ps::compact_forest(make(in), &out, &slots)) ==
        "compact_forest: segments[1].slot got 1, want >= 3 (invalid_argument)");
  CHECK(out.fingerprint == 0);
  CHECK(slots.empty());
  in.sequences[0].node = 0;
  CHECK(ps::compact_forest(make(in), &out, &slots).ok());
  in = small_input();
  in.pages[1] = 5;  // a segment that names a page twice
  CHECK(ps::to_string(ps::compact_forest(make(in), &out, &slots)) ==
        "compact_forest: segments[0].slot got 0, want >= 4 (invalid_argument)");
}

TEST_CASE("compact_forest: refuses more tokens than int32 can number", "[forest][errors]") {
  Input in;
  in.pools = {{INT32_MAX, 2}};
  in.pages = {0, 1};
  in.segments = {{0, 0, 0, INT32_MAX}, {0, 1, 0, INT32_MAX}};
  in.nodes = {{-1, 0, 0, INT32_MAX, 0, -1}, {-1, 1, 0, INT32_MAX, 0, -1}};
  in.sequences = {{0, 0}, {1, 0}};
  ps::Forest out;
  Slots slots;
  CHECK(ps::to_string(ps::compact_forest(make(in), &out, &slots)) ==
        "compact_forest: pools[0].tokens got 4294967294, want <= 2147483647 (capacity_exceeded)");
  CHECK(out.fingerprint == 0);
}
