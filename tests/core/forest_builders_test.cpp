// SPDX-License-Identifier: Apache-2.0
// Forests from block tables, token ids and parent arrays against sets of prefixes, and every refusal.
#include <algorithm>
#include <bitset>
#include <cstdint>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/forest.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"

namespace ps = prefixshare;

namespace {

using Random = std::mt19937;
using Place = std::pair<std::int32_t, std::int32_t>;  // page and slot

int uniform(Random& random, int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Where the tokens of a path lie, from its root, read off nodes, segments and pages.
std::vector<Place> walk(const ps::Forest& f, std::int32_t n) {
  std::vector<std::int32_t> path;
  for (; n >= 0; n = f.nodes[at(n)].parent) path.push_back(n);
  std::vector<Place> places;
  for (auto step = path.rbegin(); step != path.rend(); ++step) {
    const ps::Node& node = f.nodes[at(*step)];
    for (std::int32_t t = node.begin; t < node.begin + node.length; ++t) {
      const ps::Segment& segment = f.segments[at(node.segment)];
      const std::int32_t page_size = f.pools[at(segment.pool)].page_size;
      const std::int32_t slot = segment.offset + t;
      places.emplace_back(f.pages[at(segment.first_page + slot / page_size)], slot % page_size);
    }
  }
  return places;
}

std::int64_t node_tokens(const ps::Forest& f) {
  std::int64_t tokens = 0;
  for (const ps::Node& n : f.nodes) tokens += n.length;
  return tokens;
}

/// Distinct non-empty prefixes of the strings: what a tree with nothing told twice holds.
template <class T>
std::int64_t count_prefixes(const std::vector<std::vector<T>>& strings) {
  std::set<std::vector<T>> prefixes;
  for (const std::vector<T>& s : strings) {
    for (std::size_t length = 1; length <= s.size(); ++length) {
      prefixes.emplace(s.begin(), s.begin() + static_cast<std::ptrdiff_t>(length));
    }
  }
  return static_cast<std::int64_t>(prefixes.size());
}

/// No empty nodes, none that no sequence needs, no chain that nobody ends in, siblings in order of first appearance.
void check_shape(const ps::Forest& f) {
  std::vector<std::int32_t> first(f.nodes.size(), std::numeric_limits<std::int32_t>::max()), ends(f.nodes.size(), 0);
  for (std::size_t s = 0; s < f.sequences.size(); ++s) {
    std::int32_t n = f.sequences[s].node;
    if (n >= 0) ++ends[at(n)];
    for (; n >= 0; n = f.nodes[at(n)].parent) first[at(n)] = std::min(first[at(n)], static_cast<std::int32_t>(s));
  }
  std::map<std::int32_t, std::int32_t> last_sibling;
  std::vector<std::int32_t> children(f.nodes.size(), 0);
  for (std::size_t n = 0; n < f.nodes.size(); ++n) {
    CHECK(f.nodes[n].length > 0);
    CHECK(first[n] != std::numeric_limits<std::int32_t>::max());
    const std::int32_t parent = f.nodes[n].parent;
    if (parent >= 0) ++children[at(parent)];
    if (const auto sibling = last_sibling.find(parent); sibling != last_sibling.end()) {
      CHECK(sibling->second < first[n]);
    }
    last_sibling[parent] = first[n];
  }
  for (std::size_t n = 0; n < f.nodes.size(); ++n) CHECK((ends[n] > 0 || children[n] > 1));
}

ps::ForestStats stats_of(const ps::Forest& f) {
  ps::ForestStats stats;
  REQUIRE(ps::forest_stats(f, &stats).ok());
  return stats;
}

struct Tables {
  std::vector<std::int32_t> ids;
  std::int64_t row_stride = 0;
  std::vector<std::int32_t> kv_len;
  std::vector<std::int32_t> q_len;
  ps::PoolShape pool;

  ps::BlockTables view() const { return {ids, row_stride, kv_len, q_len, pool}; }
  /// The same tables in `wide`, where ids that are never read do not even fit into an int32.
  ps::BlockTables64 view64(std::vector<std::int64_t>* wide) const {
    constexpr std::int64_t kGarbage = std::int64_t{1} << 40;
    wide->assign(ids.begin(), ids.end());
    for (std::int64_t& id : *wide) id = id < 0 ? kGarbage : id;
    return {*wide, row_stride, kv_len, q_len, pool};
  }
  std::vector<Place> places(std::int64_t s) const {
    std::vector<Place> result;
    for (std::int32_t t = 0; t < kv_len[at(s)]; ++t) {
      result.emplace_back(ids[at(s * row_stride + t / pool.page_size)], t % pool.page_size);
    }
    return result;
  }
};

/// Rows that start as an earlier row does and go on at random; what must not be read is poison, and the table ends with
/// the last page that is read.
Tables random_tables(Random& random) {
  constexpr std::int32_t kPoison = -77;
  Tables t;
  t.pool = {uniform(random, 1, 5), uniform(random, 2, 12)};
  t.row_stride = uniform(random, 0, 6);
  const int sequences = uniform(random, 0, 12);
  const int most = static_cast<int>(t.row_stride) * t.pool.page_size;
  t.ids.assign(at(sequences * t.row_stride), kPoison);
  std::int64_t used = 0;
  for (int s = 0; s < sequences; ++s) {
    t.kv_len.push_back(uniform(random, 0, most));
    t.q_len.push_back(uniform(random, 0, 3));
    const std::int64_t pages = (t.kv_len.back() + t.pool.page_size - 1) / t.pool.page_size;
    const std::int64_t shared = uniform(random, 0, static_cast<int>(pages));
    const std::int64_t model = uniform(random, 0, s) * t.row_stride, row = s * t.row_stride;
    for (std::int64_t p = 0; p < pages; ++p) {
      const std::int32_t page = p < shared ? t.ids[at(model + p)] : kPoison;
      t.ids[at(row + p)] = page != kPoison ? page : uniform(random, 0, t.pool.num_pages - 1);
    }
    if (pages > 0) used = row + pages;
  }
  t.ids.resize(at(used));
  return t;
}

template <class BlockTables>
void check_forest(const Tables& t, const BlockTables& view) {
  ps::Forest f;
  const ps::Status status = ps::forest_from_block_tables(view, &f);
  INFO(ps::to_string(status));
  REQUIRE(status.ok());
  std::vector<std::vector<Place>> strings;
  std::set<Place> unique;
  std::int64_t logical = 0;
  REQUIRE(f.sequences.size() == t.kv_len.size());
  for (std::size_t s = 0; s < t.kv_len.size(); ++s) {
    strings.push_back(t.places(static_cast<std::int64_t>(s)));
    unique.insert(strings.back().begin(), strings.back().end());
    logical += t.kv_len[s];
    CHECK(walk(f, f.sequences[s].node) == strings.back());
    CHECK(f.sequences[s].q_len == t.q_len[s]);
    CHECK(f.sequences[s].first_order == t.kv_len[s] - t.q_len[s]);
  }
  check_shape(f);
  CHECK(node_tokens(f) == count_prefixes(strings));
  CHECK(f.segments.size() == f.nodes.size());
  CHECK(stats_of(f).logical_tokens == logical);
  CHECK(stats_of(f).unique_tokens == static_cast<std::int64_t>(unique.size()));
}

/// Ids of 32 and of 64 bits.
void check_tables(const Tables& t) {
  check_forest(t, t.view());
  std::vector<std::int64_t> wide;
  check_forest(t, t.view64(&wide));
}

struct Tokens {
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> offsets = {0};
  std::vector<std::int32_t> q_len;

  void add(const std::vector<std::int32_t>& sequence) {
    tokens.insert(tokens.end(), sequence.begin(), sequence.end());
    offsets.push_back(static_cast<std::int64_t>(tokens.size()));
  }
  std::vector<std::int32_t> sequence(std::size_t s) const {
    return {tokens.begin() + offsets[s], tokens.begin() + offsets[s + 1]};
  }
  ps::TokenSequences view() const { return {tokens, offsets, q_len}; }
};

/// Every sequence finds its own tokens in the one contiguous pool, each distinct one stored once, in preorder.
void check_tokens(const Tokens& t) {
  ps::Forest f;
  REQUIRE(ps::forest_from_tokens(t.view(), &f).ok());
  REQUIRE(f.pools.size() == 1);
  REQUIRE(f.segments.size() == 1);
  std::vector<std::vector<std::int32_t>> strings;
  std::map<std::int32_t, std::int32_t> stored;
  REQUIRE(f.sequences.size() + 1 == t.offsets.size());
  for (std::size_t s = 0; s < f.sequences.size(); ++s) {
    strings.push_back(t.sequence(s));
    std::vector<std::int32_t> found;
    for (const Place& place : walk(f, f.sequences[s].node)) {
      CHECK(place.first == 0);
      found.push_back(stored.try_emplace(place.second, strings.back()[found.size()]).first->second);
    }
    CHECK(found == strings.back());
    CHECK(f.sequences[s].q_len == (t.q_len.empty() ? 1 : t.q_len[s]));
  }
  const std::int64_t distinct = count_prefixes(strings);
  CHECK(node_tokens(f) == distinct);
  CHECK(stats_of(f).unique_tokens == distinct);
  CHECK(stats_of(f).logical_tokens == static_cast<std::int64_t>(t.tokens.size()));
  CHECK(f.segments[0].length == distinct);
  CHECK(f.pools[0].num_pages == (distinct > 0 ? 1 : 0));
  CHECK(f.pools[0].page_size == std::max<std::int64_t>(distinct, 1));
  std::int32_t slot = 0;
  for (const ps::Node& n : f.nodes) {
    CHECK(n.begin == slot);
    slot += n.length;
  }
  check_shape(f);
}

/// `text` and the forest left alone, whichever builder.
template <class Input, class Builder>
void check_refusal(Builder builder, const char* name, const Input& sound, const std::function<void(Input&)>& break_it,
                   const std::string& text) {
  ps::Forest forest;
  REQUIRE(builder(sound, &forest).ok());
  const std::uint64_t fingerprint = forest.fingerprint;
  Input in = sound;
  break_it(in);
  CHECK(ps::to_string(builder(in, &forest)) == std::string(name) + ": " + text);
  CHECK(forest.fingerprint == fingerprint);
  CHECK(builder(sound, &forest).ok());
  CHECK(ps::to_string(builder(sound, nullptr)) ==
        std::string(name) + ": forest got null, want == a pointer (invalid_argument)");
}

struct Request {
  std::int32_t length;
  std::vector<std::int32_t> blocks;
};

std::vector<Request> read_trace(const std::string& path) {
  std::ifstream file(path);
  INFO(path);
  REQUIRE(file.good());
  std::vector<Request> requests;
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json record = nlohmann::json::parse(line);
    requests.push_back({record.at("input_length"), record.at("hash_ids")});
  }
  return requests;
}

}  // namespace

TEST_CASE("forest_from_block_tables: paths, sharing and counts against sets of prefixes", "[forest][builders]") {
  Random random(11);
  for (int round = 0; round < 600; ++round) {
    INFO("round " << round);
    check_tables(random_tables(random));
  }
}

TEST_CASE("forest_from_block_tables: a page filled to two lengths splits at the shorter", "[forest][builders]") {
  Tables t;
  t.pool = {4, 10};
  t.row_stride = 3;
  t.ids = {5, 7, 9, /**/ 5, 7, -1, /**/ 5, 7, 8, /**/ 5, 7, -1};
  t.kv_len = {9, 6, 12, 5};
  ps::Forest f;
  REQUIRE(ps::forest_from_block_tables(t.view(), &f).ok());
  CHECK(f.path_begin == std::vector<std::int32_t>{0, 5, 6, 8, 8});
  CHECK(f.path_end(3) == 9);
  CHECK(f.path_end(4) == 12);
  CHECK(f.sequences[0].node == 3);
  CHECK(f.sequences[1].node == 1);
  CHECK(f.sequences[2].node == 4);
  CHECK(f.sequences[3].node == 0);
  const ps::Segment& inside = f.segments[at(f.nodes[1].segment)];  // token 5 lies at slot 1 of page 7
  CHECK(f.pages[at(inside.first_page)] == 7);
  CHECK(inside.offset == 1);
  CHECK(inside.length == 1);
  CHECK(f.rows() == 4);  // one row each when q_len is empty
}

TEST_CASE("forest_from_block_tables: one page in several places is several nodes, counted once", "[forest][builders]") {
  Tables t;
  t.pool = {2, 4};
  t.row_stride = 2;
  t.ids = {0, 1, 1, 0, 3, 3};
  t.kv_len = {4, 4, 4};
  ps::Forest f;
  REQUIRE(ps::forest_from_block_tables(t.view(), &f).ok());
  CHECK(f.nodes.size() == 3);
  CHECK(stats_of(f).logical_tokens == 12);
  CHECK(stats_of(f).unique_tokens == 6);
}

TEST_CASE("forest_from_block_tables: no sequences, and sequences without tokens", "[forest][builders]") {
  Tables t;
  t.pool = {16, 0};
  ps::Forest f;
  CHECK(ps::forest_from_block_tables(t.view(), &f).ok());
  CHECK(f.nodes.empty());
  t.kv_len = {0, 0};
  t.q_len = {0, 2};
  REQUIRE(ps::forest_from_block_tables(t.view(), &f).ok());
  CHECK(f.sequences[1].node == -1);
  CHECK(f.row_order == std::vector<std::int32_t>{-2, -1});
}

TEST_CASE("forest_from_block_tables: a chain of 100,000 nodes inside one page", "[forest][builders]") {
  constexpr std::int32_t kCount = 100'000;
  Tables t;
  t.pool = {kCount, 3};
  t.row_stride = 1;
  t.ids.assign(kCount, 2);
  t.kv_len.resize(kCount);
  std::iota(t.kv_len.begin(), t.kv_len.end(), 1);
  std::shuffle(t.kv_len.begin(), t.kv_len.end(), Random(3));
  ps::Forest f;
  REQUIRE(ps::forest_from_block_tables(t.view(), &f).ok());
  CHECK(stats_of(f).depth == kCount);
  CHECK(stats_of(f).unique_tokens == kCount);
  CHECK(f.sequences[0].node == t.kv_len[0] - 1);
  CHECK(f.path_end(f.sequences[0].node) == t.kv_len[0]);
}

TEST_CASE("forest_from_block_tables: refuses with operator, argument, got and want", "[forest][builders][errors]") {
  Tables sound;
  sound.pool = {4, 10};
  sound.row_stride = 2;
  sound.ids = {5, 7, 5, 9};
  sound.kv_len = {8, 5};
  sound.q_len = {1, 2};
  const auto builder = [](const Tables& t, ps::Forest* f) { return ps::forest_from_block_tables(t.view(), f); };
  const auto refuse = [&](const std::string& text, const std::function<void(Tables&)>& break_it) {
    check_refusal<Tables>(builder, "forest_from_block_tables", sound, break_it, text);
  };
  refuse("pool.page_size got 0, want >= 1 (invalid_argument)", [](Tables& t) { t.pool.page_size = 0; });
  refuse("pool.num_pages got -1, want >= 0 (invalid_argument)", [](Tables& t) { t.pool.num_pages = -1; });
  refuse("row_stride got -2, want >= 0 (invalid_argument)", [](Tables& t) { t.row_stride = -2; });
  refuse("kv_len[1] got -1, want >= 0 (invalid_argument)", [](Tables& t) { t.kv_len[1] = -1; });
  refuse("kv_len[0].pages got 3, want <= 2 (invalid_argument)", [](Tables& t) { t.kv_len[0] = 9; });
  refuse("kv_len[1].pages got 536870912, want <= 2 (invalid_argument)", [](Tables& t) { t.kv_len[1] = INT32_MAX; });
  refuse("ids.rows got 1, want > 1 (invalid_argument)", [](Tables& t) { t.ids.pop_back(); });
  refuse("ids.rows got 0, want > 0 (invalid_argument)", [](Tables& t) { t.ids.clear(); });
  refuse("ids[3] got 10, want < 10 (invalid_argument)", [](Tables& t) { t.ids[3] = 10; });
  refuse("ids[1] got -1, want >= 0 (invalid_argument)", [](Tables& t) { t.ids[1] = -1; });
  refuse("q_len.size got 1, want == 2 (invalid_argument)", [](Tables& t) { t.q_len.pop_back(); });
  refuse("q_len[0] got -1, want >= 0 (invalid_argument)", [](Tables& t) { t.q_len[0] = -1; });
  refuse("q_len.sum got 2147483649, want <= 2147483647 (capacity_exceeded)", [](Tables& t) { t.q_len[0] = INT32_MAX; });
  ps::Forest f;
  ps::BlockTables null = sound.view();
  null.ids = {nullptr, 4};
  CHECK(to_string(ps::forest_from_block_tables(null, &f)) ==
        "forest_from_block_tables: ids got null, want == a pointer (invalid_argument)");
  null = sound.view();
  null.row_stride = std::numeric_limits<std::int64_t>::max();
  CHECK(to_string(ps::forest_from_block_tables(null, &f)) ==
        "forest_from_block_tables: ids.rows got 1, want > 1 (invalid_argument)");
}

TEST_CASE("forest_from_block_tables: ids of 64 bits are page numbers, never cut to 32", "[forest][builders][errors]") {
  Tables sound;
  sound.pool = {4, 10};
  sound.row_stride = 3;
  sound.ids = {5, 7, -1, 5, 9, -1};
  sound.kv_len = {8, 5};
  using Ids = std::vector<std::int64_t>;
  const auto builder = [&sound](const Ids& ids, ps::Forest* f) {
    return ps::forest_from_block_tables(ps::BlockTables64{ids, sound.row_stride, sound.kv_len, {}, sound.pool}, f);
  };
  constexpr std::int64_t kAbove = std::int64_t{1} << 32;
  ps::Forest narrow, wide;
  Ids ids = {5, 7, kAbove, 5, 9, -kAbove};
  REQUIRE(ps::forest_from_block_tables(sound.view(), &narrow).ok());
  REQUIRE(builder(ids, &wide).ok());
  CHECK(narrow.fingerprint == wide.fingerprint);
  const auto refuse = [&](const std::string& text, std::size_t i, std::int64_t id) {
    check_refusal<Ids>(
        builder, "forest_from_block_tables", ids, [&](Ids& v) { v[i] = id; }, text);
  };
  refuse("ids[4] got 4294967299, want < 10 (invalid_argument)", 4, kAbove + 3);
  refuse("ids[1] got -4294967293, want >= 0 (invalid_argument)", 1, 3 - kAbove);
  refuse("ids[0] got -1, want >= 0 (invalid_argument)", 0, -1);
}

TEST_CASE("forest_from_tokens: paths, storage and sharing against sets of prefixes", "[forest][builders]") {
  Random random(12);
  for (int round = 0; round < 600; ++round) {
    INFO("round " << round);
    Tokens t;
    const int sequences = uniform(random, 0, 14), symbols = uniform(random, 1, 3);
    for (int s = 0; s < sequences; ++s) {
      std::vector<std::int32_t> sequence(at(uniform(random, 0, 9)));
      for (std::int32_t& token : sequence) token = uniform(random, 0, symbols) - 1;
      t.add(sequence);
      t.q_len.push_back(uniform(random, 0, 3));
    }
    if (round % 3 == 0) t.q_len.clear();
    check_tokens(t);
  }
}

TEST_CASE("forest_from_tokens: equal sequences end together, a prefix ends on an inner node", "[forest][builders]") {
  Tokens t;
  t.add({4, 5, 6});
  t.add({4, 5});
  t.add({4, 5, 6});
  t.add({});
  t.add({INT32_MIN, INT32_MAX, -1});
  check_tokens(t);
  ps::Forest f;
  REQUIRE(ps::forest_from_tokens(t.view(), &f).ok());
  CHECK(f.nodes.size() == 3);
  CHECK(f.sequences[0].node == 1);
  CHECK(f.sequences[1].node == 0);
  CHECK(f.sequences[2].node == 1);
  CHECK(f.sequences[3].node == -1);
  CHECK(f.sequences[4].node == 2);
}

TEST_CASE("forest_from_tokens: without sequences or without tokens", "[forest][builders]") {
  Tokens t;
  check_tokens(t);
  t.add({});
  t.add({});
  check_tokens(t);
}

TEST_CASE("forest_from_tokens: a chain of 2,000 prefixes, longest first", "[forest][builders]") {
  constexpr std::int32_t kCount = 2000;
  Tokens t;
  for (std::int32_t length = kCount; length > 0; --length) {
    std::vector<std::int32_t> sequence(at(length));
    std::iota(sequence.begin(), sequence.end(), 0);
    t.add(sequence);
  }
  ps::Forest f;
  REQUIRE(ps::forest_from_tokens(t.view(), &f).ok());
  CHECK(stats_of(f).depth == kCount);
  CHECK(stats_of(f).unique_tokens == kCount);
  CHECK(f.sequences.back().node == 0);
}

TEST_CASE("forest_from_tokens: refuses with operator, argument, got and want", "[forest][builders][errors]") {
  Tokens sound;
  sound.add({1, 2});
  sound.add({1, 3, 4});
  sound.q_len = {1, 1};
  const auto builder = [](const Tokens& t, ps::Forest* f) { return ps::forest_from_tokens(t.view(), f); };
  const auto refuse = [&](const std::string& text, const std::function<void(Tokens&)>& break_it) {
    check_refusal<Tokens>(builder, "forest_from_tokens", sound, break_it, text);
  };
  refuse("offsets.size got 0, want >= 1 (invalid_argument)", [](Tokens& t) { t.offsets.clear(); });
  refuse("offsets[0] got 1, want == 0 (invalid_argument)", [](Tokens& t) { t.offsets[0] = 1; });
  refuse("offsets[2] got 1, want >= 2 (invalid_argument)", [](Tokens& t) { t.offsets[2] = 1; });
  refuse("offsets[2] got 6, want <= 5 (invalid_argument)", [](Tokens& t) { t.offsets[2] = 6; });
  refuse("q_len.size got 3, want == 2 (invalid_argument)", [](Tokens& t) { t.q_len.push_back(1); });
  refuse("q_len[1] got -4, want >= 0 (invalid_argument)", [](Tokens& t) { t.q_len[1] = -4; });
  refuse("q_len.sum got 2147483648, want <= 2147483647 (capacity_exceeded)", [](Tokens& t) { t.q_len[1] = INT32_MAX; });
  ps::Forest f;
  ps::TokenSequences input = sound.view();
  input.tokens = {nullptr, 5};
  CHECK(to_string(ps::forest_from_tokens(input, &f)) ==
        "forest_from_tokens: tokens got null, want == a pointer (invalid_argument)");
  const std::vector<std::int64_t> long_offsets = {0, std::int64_t{1} << 31};
  input = {{sound.tokens.data(), std::int64_t{1} << 31}, long_offsets, {}};  // refused before a token is read
  CHECK(to_string(ps::forest_from_tokens(input, &f)) ==
        "forest_from_tokens: offsets[1].length got 2147483648, want <= 2147483647 (capacity_exceeded)");
}

TEST_CASE("forest_from_parents: paths and rows in any order of nodes", "[forest][builders]") {
  Random random(13);
  for (int round = 0; round < 300; ++round) {
    INFO("round " << round);
    const int count = uniform(random, 0, 30);
    std::vector<std::int32_t> name(at(count)), parents(at(count)), lengths(at(count)), q_len(at(count));
    std::iota(name.begin(), name.end(), 0);
    std::shuffle(name.begin(), name.end(), random);
    for (int i = 0; i < count; ++i) {
      const int parent = uniform(random, -1, i - 1);
      parents[at(name[at(i)])] = parent < 0 ? -1 : name[at(parent)];
      lengths[at(i)] = uniform(random, 0, 4);
      q_len[at(i)] = uniform(random, 0, 4);
    }
    if (round % 3 == 0) lengths.clear();
    if (round % 2 == 0) q_len.clear();
    ps::Forest f;
    REQUIRE(ps::forest_from_parents({parents, lengths, q_len}, &f).ok());
    std::vector<std::vector<Place>> own(at(count));
    std::int32_t slot = 0;
    for (int i = 0; i < count; ++i) {
      for (int t = lengths.empty() ? 1 : lengths[at(i)]; t > 0; --t) own[at(i)].emplace_back(0, slot++);
    }
    for (std::int32_t i = 0; i < count; ++i) {
      std::vector<Place> expected;
      for (std::int32_t n = i; n >= 0; n = parents[at(n)]) {
        expected.insert(expected.begin(), own[at(n)].begin(), own[at(n)].end());
      }
      const ps::Sequence& s = f.sequences[at(i)];
      CHECK(s.node == f.node_of_input[at(i)]);
      CHECK(walk(f, s.node) == expected);
      CHECK(s.q_len == (q_len.empty() ? static_cast<std::int32_t>(own[at(i)].size()) : q_len[at(i)]));
      CHECK(s.first_order == static_cast<std::int32_t>(expected.size()) - s.q_len);
    }
    CHECK(stats_of(f).unique_tokens == slot);
  }
}

TEST_CASE("forest_from_parents: a chain of 100,000 nodes, leaf first", "[forest][builders]") {
  constexpr std::int32_t kCount = 100'000;
  std::vector<std::int32_t> parents(kCount);
  std::iota(parents.begin(), parents.end(), 1);
  parents.back() = -1;
  ps::Forest f;
  REQUIRE(ps::forest_from_parents({parents, {}, {}}, &f).ok());
  CHECK(stats_of(f).depth == kCount);
  CHECK(f.order(f.rows() - 1) == kCount - 1);
  CHECK(f.row_map.back() == 0);
}

TEST_CASE("forest_from_parents: refuses with operator, argument, got and want", "[forest][builders][errors]") {
  struct Parents {
    std::vector<std::int32_t> parents, lengths, q_len;
  };
  const Parents sound = {{-1, 0, 1}, {2, 1, 1}, {0, 1, 1}};
  const auto builder = [](const Parents& p, ps::Forest* f) {
    return ps::forest_from_parents({p.parents, p.lengths, p.q_len}, f);
  };
  const auto refuse = [&](const std::string& text, const std::function<void(Parents&)>& break_it) {
    check_refusal<Parents>(builder, "forest_from_parents", sound, break_it, text);
  };
  refuse("parents[1] got 3, want < 3 (invalid_argument)", [](Parents& p) { p.parents[1] = 3; });
  refuse("parents[2] got -2, want >= -1 (invalid_argument)", [](Parents& p) { p.parents[2] = -2; });
  refuse("parents[0] got 2, want not a descendant of 0 (invalid_argument)", [](Parents& p) { p.parents[0] = 2; });
  refuse("lengths.size got 2, want == 3 (invalid_argument)", [](Parents& p) { p.lengths.pop_back(); });
  refuse("lengths[1] got -1, want >= 0 (invalid_argument)", [](Parents& p) { p.lengths[1] = -1; });
  refuse("lengths.sum got 2147483650, want <= 2147483647 (capacity_exceeded)",
         [](Parents& p) { p.lengths[1] = INT32_MAX; });
  refuse("q_len.size got 2, want == 3 (invalid_argument)", [](Parents& p) { p.q_len.pop_back(); });
  refuse("q_len[2] got -1, want >= 0 (invalid_argument)", [](Parents& p) { p.q_len[2] = -1; });
  refuse("q_len.sum got 2147483648, want <= 2147483647 (capacity_exceeded)",
         [](Parents& p) { p.q_len[1] = INT32_MAX; });
}

TEST_CASE("forest_from_block_tables: an hour of real requests, counted by set union", "[forest][builders][data]") {
  const auto path = prefixshare::tests::test_data("traces/mooncake_conversation.jsonl");
  if (!path) return;
  constexpr std::int32_t kPage = 512;
  const std::vector<Request> requests = read_trace(*path);
  REQUIRE(requests.size() == 12'031);
  std::size_t stride = 0;
  for (const Request& r : requests) stride = std::max(stride, r.blocks.size());
  for (const std::size_t count : {std::size_t{512}, requests.size()}) {
    Tables t;
    t.row_stride = static_cast<std::int64_t>(stride);
    t.ids.assign(count * stride, -1);
    std::map<std::int32_t, std::bitset<kPage>> filled;
    std::int64_t logical = 0, unique = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto& [length, blocks] = requests[i];
      std::copy(blocks.begin(), blocks.end(), t.ids.begin() + static_cast<std::ptrdiff_t>(i * stride));
      t.kv_len.push_back(length);
      logical += length;
      for (std::size_t b = 0; b < blocks.size(); ++b) {
        const std::int32_t empty = std::max(0, kPage - (length - static_cast<std::int32_t>(b) * kPage));
        filled[blocks[b]] |= ~std::bitset<kPage>{} >> at(empty);
      }
    }
    for (const auto& page : filled) unique += static_cast<std::int64_t>(page.second.count());
    t.pool = {kPage, filled.rbegin()->first + 1};
    ps::Forest f;
    REQUIRE(ps::forest_from_block_tables(t.view(), &f).ok());
    CHECK(stats_of(f).logical_tokens == logical);
    CHECK(stats_of(f).unique_tokens == unique);
    // Whole pages hold 6,156,288 and 93,588,480 slots; the last page of a request is partly empty.
    CHECK(logical == (count == 512 ? 7'218'381 : 144'793'823));
    CHECK(unique == (count == 512 ? 6'027'898 : 90'695'412));
    CHECK(static_cast<std::int64_t>(filled.size()) * kPage == (count == 512 ? 6'156'288 : 93'588'480));
    for (std::size_t s = 0; s < count; s += 500)
      CHECK(walk(f, f.sequences[s].node) == t.places(static_cast<std::int64_t>(s)));
  }
}
