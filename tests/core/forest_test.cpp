// SPDX-License-Identifier: Apache-2.0
// make_forest and the accounting against brute force over parent pointers, and every refusal.
#include "prefixshare/forest.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "support/catch.hpp"

namespace ps = prefixshare;

namespace {

using Random = std::mt19937;

int uniform(Random& random, int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }

struct Input {
  std::vector<ps::PoolShape> pools;
  std::vector<std::int32_t> pages;
  std::vector<ps::Segment> segments;
  std::vector<ps::Node> nodes;
  std::vector<ps::Sequence> sequences;

  ps::ForestInput view() const { return {pools, pages, segments, nodes, sequences}; }
};

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::vector<std::int32_t> in_order(std::int32_t count) {
  std::vector<std::int32_t> indices(at(count));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

/// Several pools, overlapping segments that share pages, several nodes on one segment, nodes in any order, empty ones.
Input random_input(Random& random) {
  Input in;
  for (int i = uniform(random, 1, 3); i > 0; --i) in.pools.push_back({uniform(random, 1, 6), uniform(random, 1, 9)});
  for (int i = uniform(random, 1, 6); i > 0; --i) {
    const int pool = uniform(random, 0, static_cast<int>(in.pools.size()) - 1);
    const ps::PoolShape shape = in.pools[at(pool)];
    const int offset = uniform(random, 0, shape.page_size - 1);
    const int length = uniform(random, 0, 12);
    in.segments.push_back({pool, static_cast<int>(in.pages.size()), offset, length});
    for (int p = (offset + length + shape.page_size - 1) / shape.page_size; p > 0; --p) {
      in.pages.push_back(uniform(random, 0, shape.num_pages - 1));
    }
  }
  const int count = uniform(random, 0, 40);
  std::vector<std::int32_t> name = in_order(count);
  std::shuffle(name.begin(), name.end(), random);
  in.nodes.resize(at(count));
  for (int i = 0; i < count; ++i) {
    ps::Node& node = in.nodes[at(name[at(i)])];
    const int parent = uniform(random, -1, i - 1);
    node.parent = parent < 0 ? -1 : name[at(parent)];
    node.segment = uniform(random, -1, static_cast<int>(in.segments.size()) - 1);
    node.delta = uniform(random, -3, 3);
    if (node.segment < 0) continue;
    node.begin = uniform(random, 0, in.segments[at(node.segment)].length);
    node.length = uniform(random, 0, in.segments[at(node.segment)].length - node.begin);
  }
  for (int i = uniform(random, 0, 12); i > 0; --i) {
    ps::Sequence s;
    s.node = uniform(random, -1, count - 1);
    s.q_len = uniform(random, 0, 4);
    if (uniform(random, 0, 2) == 0) s.first_order = uniform(random, -5, 30);
    in.sequences.push_back(s);
  }
  return in;
}

ps::Forest make(const Input& in) {
  ps::Forest forest;
  const ps::Status status = ps::make_forest(in.view(), &forest);
  INFO(ps::to_string(status));
  REQUIRE(status.ok());
  return forest;
}

/// Node n and everything above it, from n to its root.
std::vector<std::int32_t> climb(const ps::Forest& f, std::int32_t n) {
  std::vector<std::int32_t> path;
  for (; n >= 0; n = f.nodes[at(n)].parent) path.push_back(n);
  return path;
}

bool is_below(const ps::Forest& f, std::int32_t n, std::int32_t ancestor) {
  const std::vector<std::int32_t> path = climb(f, n);
  return std::find(path.begin(), path.end(), ancestor) != path.end();
}

template <class T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

bool same(const ps::Forest& a, const ps::Forest& b) {
  return same_bytes(a.pools, b.pools) && a.pages == b.pages && same_bytes(a.segments, b.segments) &&
         same_bytes(a.nodes, b.nodes) && same_bytes(a.sequences, b.sequences) && a.path_begin == b.path_begin &&
         a.subtree_end == b.subtree_end && a.row_begin == b.row_begin && a.own_row_end == b.own_row_end &&
         a.row_end == b.row_end && a.row_map == b.row_map && a.row_sequence == b.row_sequence &&
         a.row_order == b.row_order && a.node_of_input == b.node_of_input && a.fingerprint == b.fingerprint;
}

void check_nodes(const Input& in, const ps::Forest& f) {
  const auto count = static_cast<std::int32_t>(in.nodes.size());
  REQUIRE(f.nodes.size() == in.nodes.size());
  std::vector<std::int32_t> input_of(at(count), -1);
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int32_t n = f.node_of_input[at(i)];
    REQUIRE(input_of[at(n)] == -1);
    input_of[at(n)] = i;
    ps::Node expected = in.nodes[at(i)];
    if (expected.parent >= 0) expected.parent = f.node_of_input[at(expected.parent)];
    CHECK(std::memcmp(&expected, &f.nodes[at(n)], sizeof expected) == 0);
  }
  for (std::int32_t n = 0; n < count; ++n) {
    CHECK(f.nodes[at(n)].parent < n);
    std::int32_t tokens = 0, descendants = 0;
    for (std::int32_t a : climb(f, f.nodes[at(n)].parent)) tokens += f.nodes[at(a)].length;
    for (std::int32_t d = 0; d < count; ++d) descendants += is_below(f, d, n);
    CHECK(f.path_begin[at(n)] == tokens);
    CHECK(f.path_end(n) == tokens + f.nodes[at(n)].length);
    CHECK(f.subtree_end[at(n)] == n + descendants);
    for (std::int32_t d = n; d < n + descendants; ++d) CHECK(is_below(f, d, n));
    for (std::int32_t m = n + 1; m < count; ++m) {
      if (f.nodes[at(m)].parent == f.nodes[at(n)].parent) CHECK(input_of[at(n)] < input_of[at(m)]);
    }
  }
}

void check_rows(const Input& in, const ps::Forest& f) {
  std::vector<std::array<std::int32_t, 4>> expected;  // node, sequence, order, caller's row
  for (std::int32_t s = 0; s < static_cast<std::int32_t>(in.sequences.size()); ++s) {
    const ps::Sequence& sequence = in.sequences[at(s)];
    const std::int32_t node = sequence.node < 0 ? -1 : f.node_of_input[at(sequence.node)];
    std::int32_t first = sequence.first_order;
    if (first == ps::Sequence::kLastTokens) first = f.path_end(node) - sequence.q_len;
    CHECK(f.sequences[at(s)].node == node);
    CHECK(f.sequences[at(s)].q_len == sequence.q_len);
    CHECK(f.sequences[at(s)].first_order == first);
    for (std::int32_t r = 0; r < sequence.q_len; ++r) {
      expected.push_back({node, s, first + r, static_cast<std::int32_t>(expected.size())});
    }
  }
  std::sort(expected.begin(), expected.end());
  REQUIRE(f.rows() == static_cast<std::int32_t>(expected.size()));
  for (std::int32_t r = 0; r < f.rows(); ++r) {
    CHECK(f.row_sequence[at(r)] == expected[at(r)][1]);
    CHECK(f.order(r) == expected[at(r)][2]);
    CHECK(f.row_map[at(r)] == expected[at(r)][3]);
  }
  for (std::int32_t n = 0; n < static_cast<std::int32_t>(f.nodes.size()); ++n) {
    for (std::int32_t r = 0; r < f.rows(); ++r) {
      const std::int32_t node = expected[at(r)][0];
      CHECK((r >= f.row_begin[at(n)] && r < f.row_end[at(n)]) == is_below(f, node, n));
      CHECK((r >= f.row_begin[at(n)] && r < f.own_row_end[at(n)]) == (node == n));
    }
    CHECK(f.row_begin[at(n)] <= f.own_row_end[at(n)]);
    CHECK(f.own_row_end[at(n)] <= f.row_end[at(n)]);
  }
}

void check_accounting(const ps::Forest& f) {
  std::set<std::tuple<std::int32_t, std::int32_t, std::int32_t>> unique;
  std::vector<std::int32_t> references(f.nodes.size(), 0);
  std::int64_t logical = 0, longest = 0, depth = 0, roots = 0;
  for (const ps::Sequence& s : f.sequences) {
    const std::vector<std::int32_t> path = climb(f, s.node);
    std::int64_t tokens = 0;
    for (std::int32_t n : path) {
      ++references[at(n)];
      const ps::Node& node = f.nodes[at(n)];
      tokens += node.length;
      for (std::int32_t t = node.begin; t < node.begin + node.length; ++t) {
        const ps::Segment& segment = f.segments[at(node.segment)];
        const std::int32_t page_size = f.pools[at(segment.pool)].page_size;
        const std::int32_t slot = segment.offset + t;
        unique.insert({segment.pool, f.pages[at(segment.first_page + slot / page_size)], slot % page_size});
      }
    }
    logical += tokens;
    longest = std::max(longest, tokens);
    depth = std::max(depth, static_cast<std::int64_t>(path.size()));
  }
  for (const ps::Node& n : f.nodes) roots += n.parent < 0;
  ps::ForestStats stats;
  REQUIRE(ps::forest_stats(f, &stats).ok());
  CHECK(stats.sequences == static_cast<std::int64_t>(f.sequences.size()));
  CHECK(stats.nodes == static_cast<std::int64_t>(f.nodes.size()));
  CHECK(stats.roots == roots);
  CHECK(stats.depth == depth);
  CHECK(stats.rows == f.rows());
  CHECK(stats.max_path == longest);
  CHECK(stats.logical_tokens == logical);
  CHECK(stats.unique_tokens == static_cast<std::int64_t>(unique.size()));
  std::vector<std::int32_t> counts = {7, 7, 7};
  REQUIRE(ps::reference_counts(f, &counts).ok());
  CHECK(counts == references);
}

/// A root of four tokens, two children on one segment, an empty inner node with a leaf of run-time length below it.
Input small_input() {
  Input in;
  in.pools = {{4, 3}, {2, 8}};
  in.pages = {2, 0, 7, 6};
  in.segments = {{0, 0, 1, 6}, {1, 2, 0, 3}};
  in.nodes = {{-1, 0, 0, 4, 0, -1}, {0, 1, 0, 2, 0, -1}, {0, 1, 1, 2, 5, -1}, {0, -1, 0, 0, 0, -1}, {3, 0, 4, 2, 0, 0}};
  in.sequences = {{1, 1}, {2, 2}, {4, 1}, {-1, 1}, {0, 0}};
  return in;
}

struct Fault {
  const char* text;
  std::function<void(Input&)> break_it;
};

void check_refusals(const std::vector<Fault>& faults, ps::StatusCode code) {
  ps::Forest forest = make(small_input());
  const ps::Forest before = forest;
  for (const Fault& fault : faults) {
    Input in = small_input();
    in.nodes[1].delta = 3;  // another forest than the one at stake
    const Input sound = in;
    fault.break_it(in);
    const ps::Status status = ps::make_forest(in.view(), &forest);
    CHECK(ps::to_string(status) == "make_forest: " + std::string(fault.text) + " (" + ps::to_string(code) + ")");
    CHECK(status.code == code);
    CHECK(same(forest, before));
    ps::Forest undone;
    CHECK(ps::make_forest(sound.view(), &undone).ok());
  }
}

}  // namespace

TEST_CASE("make_forest: agrees with brute force over parent pointers", "[forest]") {
  Random random(20240607);
  for (int round = 0; round < 400; ++round) {
    INFO("round " << round);
    const Input in = random_input(random);
    const ps::Forest f = make(in);
    check_nodes(in, f);
    check_rows(in, f);
    check_accounting(f);
    CHECK(f.fingerprint != 0);
    CHECK(same(f, make(in)));
  }
}

TEST_CASE("make_forest: a small forest, number by number", "[forest]") {
  const ps::Forest f = make(small_input());
  CHECK(f.node_of_input == std::vector<std::int32_t>{0, 1, 2, 3, 4});
  CHECK(f.path_begin == std::vector<std::int32_t>{0, 4, 4, 4, 4});
  CHECK(f.subtree_end == std::vector<std::int32_t>{5, 2, 3, 5, 5});
  CHECK(f.row_map == std::vector<std::int32_t>{4, 0, 1, 2, 3});  // the empty path's row first
  CHECK(f.row_sequence == std::vector<std::int32_t>{3, 0, 1, 1, 2});
  CHECK(f.row_order == std::vector<std::int32_t>{-1, 5, 4, 5, 5});
  CHECK(f.row_begin == std::vector<std::int32_t>{1, 1, 2, 4, 4});
  CHECK(f.own_row_end == std::vector<std::int32_t>{1, 2, 4, 4, 5});
  CHECK(f.row_end == std::vector<std::int32_t>{5, 2, 4, 5, 5});
  CHECK(f.path_end(-1) == 0);
}

TEST_CASE("make_forest: nothing at all is legal", "[forest]") {
  const ps::Forest nothing = make({});
  CHECK(nothing.rows() == 0);
  CHECK(nothing.fingerprint != 0);
  check_accounting(nothing);
  Input empty_paths;
  empty_paths.sequences = {{-1, 2}, {-1, 0}, {-1, 1, 9}};
  const ps::Forest f = make(empty_paths);
  CHECK(f.row_map == std::vector<std::int32_t>{0, 1, 2});
  CHECK(f.row_order == std::vector<std::int32_t>{-2, -1, 9});
}

TEST_CASE("make_forest: the fingerprint tells forests apart", "[forest]") {
  const std::uint64_t fingerprint = make(small_input()).fingerprint;
  const std::vector<std::function<void(Input&)>> changes = {
      [](Input& in) { in.pools[1].num_pages = 9; },     [](Input& in) { in.pages[1] = 1; },
      [](Input& in) { in.segments[0].offset = 0; },     [](Input& in) { in.nodes[2].delta = 6; },
      [](Input& in) { in.nodes[1].length = 1; },        [](Input& in) { in.nodes[4].length_slot = -1; },
      [](Input& in) { in.sequences[0].q_len = 0; },     [](Input& in) { in.sequences[1].first_order = 0; },
      [](Input& in) { in.sequences.pop_back(); },       [](Input& in) { std::swap(in.sequences[0], in.sequences[1]); },
      [](Input& in) { in.nodes[2].parent = 1; },        [](Input& in) { std::swap(in.nodes[1], in.nodes[2]); },
      [](Input& in) { in.nodes.push_back(ps::Node{}); }};
  std::set<std::uint64_t> seen = {fingerprint};
  for (const auto& change : changes) {
    Input in = small_input();
    change(in);
    CHECK(seen.insert(make(in).fingerprint).second);
  }
  Input down, up;  // the same nodes in the end, under other input numbers
  down.nodes = {{-1, -1}, {0, -1}};
  up.nodes = {{1, -1}, {-1, -1}};
  CHECK(make(down).fingerprint != make(up).fingerprint);
}

TEST_CASE("make_forest: refuses what is wrong with operator, argument, got and want", "[forest][errors]") {
  check_refusals(
      {
          {"pools[1].page_size got 0, want >= 1", [](Input& in) { in.pools[1].page_size = 0; }},
          {"pools[0].num_pages got -1, want >= 0", [](Input& in) { in.pools[0].num_pages = -1; }},
          {"pages[1] got 3, want < 3", [](Input& in) { in.pages[1] = 3; }},
          {"pages[3] got -1, want >= 0", [](Input& in) { in.pages[3] = -1; }},
          {"segments[1].pool got 2, want < 2", [](Input& in) { in.segments[1].pool = 2; }},
          {"segments[0].pool got -1, want >= 0", [](Input& in) { in.segments[0].pool = -1; }},
          {"segments[0].offset got 4, want < 4", [](Input& in) { in.segments[0].offset = 4; }},
          {"segments[0].offset got -1, want >= 0", [](Input& in) { in.segments[0].offset = -1; }},
          {"segments[0].length got -6, want >= 0", [](Input& in) { in.segments[0].length = -6; }},
          {"segments[1].first_page got -1, want >= 0", [](Input& in) { in.segments[1].first_page = -1; }},
          {"segments[1].first_page got 3, want <= 2", [](Input& in) { in.segments[1].first_page = 3; }},
          {"segments[1].first_page got 2147483647, want <= 2",
           [](Input& in) { in.segments[1].first_page = INT32_MAX; }},
          {"segments[1].first_page got 2, want <= -1073741820", [](Input& in) { in.segments[1].length = INT32_MAX; }},
          {"nodes[3].parent got 5, want < 5", [](Input& in) { in.nodes[3].parent = 5; }},
          {"nodes[3].parent got -2, want >= -1", [](Input& in) { in.nodes[3].parent = -2; }},
          {"nodes[1].parent got 1, want not a descendant of 1", [](Input& in) { in.nodes[1].parent = 1; }},
          {"nodes[0].parent got 4, want not a descendant of 0",
           [](Input& in) { in.nodes[0].parent = 4, in.nodes[4].length_slot = -1; }},
          {"nodes[1].length got -1, want >= 0", [](Input& in) { in.nodes[1].length = -1; }},
          {"nodes[1].begin got -1, want >= 0", [](Input& in) { in.nodes[1].begin = -1; }},
          {"nodes[1].begin+length got 4, want <= 3", [](Input& in) { in.nodes[1].begin = 2; }},
          {"nodes[1].begin+length got 4294967294, want <= 3",
           [](Input& in) { in.nodes[1].begin = in.nodes[1].length = INT32_MAX; }},
          {"nodes[0].segment got -1, want >= 0", [](Input& in) { in.nodes[0].segment = -1; }},
          {"nodes[0].segment got 2, want < 2", [](Input& in) { in.nodes[0].segment = 2; }},
          {"nodes[3].segment got -2, want >= -1", [](Input& in) { in.nodes[3].segment = -2; }},
          {"nodes[2].length_slot got -2, want >= -1", [](Input& in) { in.nodes[2].length_slot = -2; }},
          {"nodes[0].length_slot got 1, want == -1", [](Input& in) { in.nodes[0].length_slot = 1; }},
          {"nodes[4].length_slot got 1, want < 1", [](Input& in) { in.nodes[4].length_slot = 1; }},
          {"nodes[4].length_slot got 0, want != 0", [](Input& in) { in.nodes[1].length_slot = 0; }},
          {"sequences[0].node got 5, want < 5", [](Input& in) { in.sequences[0].node = 5; }},
          {"sequences[0].node got -2, want >= -1", [](Input& in) { in.sequences[0].node = -2; }},
          {"sequences[4].q_len got -1, want >= 0", [](Input& in) { in.sequences[4].q_len = -1; }},
      },
      ps::StatusCode::invalid_argument);
}

TEST_CASE("make_forest: refuses what int32 cannot number", "[forest][errors]") {
  check_refusals({{"nodes[1].path_end got 4294967294, want <= 2147483647",
                   [](Input& in) {
                     in.pools[0].page_size = INT32_MAX;
                     in.segments[0] = {0, 0, 0, INT32_MAX};
                     in.nodes[0] = in.nodes[1] = {-1, 0, 0, INT32_MAX, 0, -1};
                     in.nodes[1].parent = 0;
                   }},
                  {"sequences[1].rows got 2147483648, want <= 2147483647",
                   [](Input& in) { in.sequences[0].q_len = 1, in.sequences[1].q_len = INT32_MAX; }},
                  {"sequences[2].first_order+q_len got 2147483648, want <= 2147483647",
                   [](Input& in) { in.sequences[2].first_order = INT32_MAX; }}},
                 ps::StatusCode::capacity_exceeded);
}

TEST_CASE("make_forest: refuses null and impossible spans", "[forest][errors]") {
  const Input in = small_input();
  ps::Forest forest = make(in);
  const ps::Forest before = forest;
  const auto refusal = [&forest](const ps::ForestInput& input) { return to_string(ps::make_forest(input, &forest)); };
  ps::ForestInput input = in.view();
  input.pages = {nullptr, 4};
  CHECK(refusal(input) == "make_forest: pages got null, want == a pointer (invalid_argument)");
  input = in.view();
  input.nodes = {in.nodes.data(), -1};
  CHECK(refusal(input) == "make_forest: nodes.size got -1, want >= 0 (invalid_argument)");
  input = in.view();
  input.sequences = {in.sequences.data(), std::int64_t{1} << 31};
  CHECK(refusal(input) == "make_forest: sequences.size got 2147483648, want <= 2147483647 (capacity_exceeded)");
  CHECK(same(forest, before));
  CHECK(to_string(ps::make_forest(in.view(), nullptr)) ==
        "make_forest: forest got null, want == a pointer (invalid_argument)");
  CHECK(to_string(ps::forest_stats(forest, nullptr)) ==
        "forest_stats: stats got null, want == a pointer (invalid_argument)");
  CHECK(to_string(ps::reference_counts(forest, nullptr)) ==
        "reference_counts: counts got null, want == a pointer (invalid_argument)");
}

TEST_CASE("make_forest: finds the lowest node of a cycle, also from what hangs below it", "[forest][errors]") {
  Random random(5);
  for (int round = 0; round < 100; ++round) {
    const int count = uniform(random, 2, 60);
    Input in;
    in.nodes.resize(at(count));
    for (ps::Node& n : in.nodes) n.parent = uniform(random, -1, count - 1);
    bool has_cycle = false;
    for (std::int32_t n : in_order(count)) {
      for (int step = 0; step < count && n >= 0; ++step) n = in.nodes[at(n)].parent;
      has_cycle = has_cycle || n >= 0;
    }
    ps::Forest forest;
    const ps::Status status = ps::make_forest(in.view(), &forest);
    CHECK(status.ok() == !has_cycle);
    if (status.ok()) continue;
    CHECK(std::string(status.field) == "parent");
    std::set<std::int64_t> cycle;
    std::int64_t n = status.index;
    while (cycle.insert(n).second) n = in.nodes[at(n)].parent;
    CHECK(n == status.index);
    CHECK(*cycle.begin() == status.index);
    CHECK(status.got == in.nodes[at(status.index)].parent);
    CHECK(status.want == status.index);
  }
}

TEST_CASE("make_forest: a chain of 100,000 nodes, written leaf first", "[forest]") {
  constexpr std::int32_t kCount = 100'000;
  Input in;
  in.pools = {{kCount, 1}};
  in.pages = {0};
  in.segments = {{0, 0, 0, kCount}};
  for (std::int32_t i = 0; i < kCount; ++i) {
    in.nodes.push_back({i + 1 < kCount ? i + 1 : -1, 0, kCount - 1 - i, 1, 0, -1});
    in.sequences.push_back({i, 1});
  }
  ps::Forest f = make(in);
  CHECK(f.node_of_input.front() == kCount - 1);
  CHECK(f.path_end(kCount - 1) == kCount);
  CHECK(f.row_begin.back() == kCount - 1);
  CHECK(f.row_end.front() == kCount);
  CHECK(f.row_map.front() == kCount - 1);
  ps::ForestStats stats;
  REQUIRE(ps::forest_stats(f, &stats).ok());
  CHECK(stats.depth == kCount);
  CHECK(stats.unique_tokens == kCount);
  CHECK(stats.logical_tokens == std::int64_t{kCount} * (kCount + 1) / 2);
  std::vector<std::int32_t> counts;
  REQUIRE(ps::reference_counts(f, &counts).ok());
  CHECK(counts.front() == kCount);
  CHECK(ps::to_string(f, kCount).size() < 200u * kCount);
  in.nodes.back().parent = 0;
  const ps::Status status = ps::make_forest(in.view(), &f);
  CHECK(status.index == 0);
  CHECK(status.got == 1);
}

TEST_CASE("forest_stats: tokens that no sequence reads do not count, tokens read twice count once", "[forest]") {
  Input in;
  in.pools = {{10, 1}};
  in.pages = {0};
  in.segments = {{0, 0, 0, 10}, {0, 0, 2, 4}};
  in.nodes = {{-1, 0, 0, 3, 0, -1}, {0, 1, 0, 4, 0, -1}, {0, 0, 8, 2, 0, -1}};
  in.sequences = {{1, 1}, {1, 0}};
  ps::ForestStats stats;
  REQUIRE(ps::forest_stats(make(in), &stats).ok());
  CHECK(stats.logical_tokens == 14);
  CHECK(stats.unique_tokens == 6);  // [0, 3) and [2, 6)
  CHECK(stats.sharing_ratio() == 14.0 / 6.0);
  CHECK(ps::ForestStats{}.sharing_ratio() == 1.0);
}

TEST_CASE("to_string: a header and an indented tree of at most max_nodes", "[forest]") {
  const ps::Forest f = make(small_input());
  const std::string header =
      "forest: 5 sequences, 5 rows, 5 nodes, 1 roots, depth 3, longest path 6, 22 logical / 9 unique tokens, "
      "sharing 2.44\n";
  const std::string root = "  node 0: path [0, 4) = segment 0 [0, 4), 4 sequences, rows [1, 5)\n";
  CHECK(ps::to_string(f) ==
        header + root +
            "    node 1: path [4, 6) = segment 1 [0, 2), 1 sequences, rows [1, 2)\n"
            "    node 2: path [4, 6) = segment 1 [1, 3), delta 5, 1 sequences, rows [2, 4)\n"
            "    node 3: path [4, 4) = segment -1 [0, 0), 1 sequences, rows [4, 5)\n"
            "      node 4: path [4, 6) = segment 0 [4, 6), length slot 0, 1 sequences, rows [4, 5)\n");
  CHECK(ps::to_string(f, 1) == header + root + "  and 4 nodes more\n");
  CHECK(ps::to_string(f, -3) == header + "  and 5 nodes more\n");
}
