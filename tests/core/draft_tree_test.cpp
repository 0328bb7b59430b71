// SPDX-License-Identifier: Apache-2.0
// Draft trees: depths, ancestor bits and accepted paths against brute force, and on published trees.
#include "prefixshare/draft_tree.hpp"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/data.hpp"

namespace ps = prefixshare;

namespace {

using Random = std::mt19937;
using Parents = std::vector<std::int32_t>;
using Path = std::vector<std::int32_t>;

int uniform(Random& random, int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Any order of nodes, several roots; `spread` large: bushy, small: deep.
Parents random_parents(Random& random, int count, int spread) {
  std::vector<std::int32_t> name(at(count));
  std::iota(name.begin(), name.end(), 0);
  std::shuffle(name.begin(), name.end(), random);
  Parents parents(at(count));
  for (int i = 0; i < count; ++i) {
    const int parent = uniform(random, std::max(-1, i - spread), i - 1);
    parents[at(name[at(i)])] = parent < 0 ? -1 : name[at(parent)];
  }
  return parents;
}

/// From the root down to i.
Path path_to(const Parents& parents, std::int32_t i) {
  Path path;
  for (; i >= 0; i = parents[at(i)]) path.insert(path.begin(), i);
  return path;
}

ps::DraftTree make(const Parents& parents) {
  ps::DraftTree tree;
  const ps::Status status = ps::draft_tree_from_parents(parents, &tree);
  INFO(ps::to_string(status));
  REQUIRE(status.ok());
  return tree;
}

}  // namespace

TEST_CASE("draft_tree_from_parents: depths and bits against climbing", "[draft_tree]") {
  Random random(21);
  for (int round = 0; round < 300; ++round) {
    const int count = uniform(random, 0, 140);
    const Parents parents = random_parents(random, count, uniform(random, 1, 40));
    const ps::DraftTree tree = make(parents);
    REQUIRE(tree.depth.size() == parents.size());
    REQUIRE(tree.words_per_row == (count + 63) / 64);
    REQUIRE(tree.words.size() == parents.size() * at(tree.words_per_row));
    std::int64_t wrong = 0;
    for (std::int32_t i = 0; i < count; ++i) {
      const Path path = path_to(parents, i);
      CHECK(tree.depth[at(i)] == static_cast<std::int32_t>(path.size()) - 1);
      for (std::int32_t j = 0; j < 64 * tree.words_per_row; ++j) {  // the bits behind the last node are clear too
        wrong += tree.sees(i, j) != (std::find(path.begin(), path.end(), j) != path.end());
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("draft_tree_from_parents: a deep chain, leaf first", "[draft_tree]") {
  constexpr std::int32_t kCount = 20'000;  // the bits alone are 50 MB
  Parents parents(kCount);
  std::iota(parents.begin(), parents.end(), 1);
  parents.back() = -1;
  const ps::DraftTree tree = make(parents);
  CHECK(tree.depth.front() == kCount - 1);
  CHECK(tree.sees(0, kCount - 1));
  CHECK_FALSE(tree.sees(kCount - 1, 0));
}

TEST_CASE("draft_tree_from_parents: refuses with operator, argument, got and want", "[draft_tree][errors]") {
  ps::DraftTree tree = make({-1, 0});
  const auto refusal = [&tree](const Parents& parents) {
    const std::string text = to_string(ps::draft_tree_from_parents(parents, &tree));
    CHECK(tree.depth == Path{0, 1});
    CHECK(tree.words == std::vector<std::uint64_t>{1, 3});
    return text;
  };
  const std::string op = "draft_tree_from_parents: ";
  CHECK(refusal({-1, 2}) == op + "parents[1] got 2, want < 2 (invalid_argument)");
  CHECK(refusal({-2, 0}) == op + "parents[0] got -2, want >= -1 (invalid_argument)");
  CHECK(refusal({0}) == op + "parents[0] got 0, want not a descendant of 0 (invalid_argument)");
  CHECK(refusal({-1, 0, 4, 2, 3, 4}) == op + "parents[2] got 4, want not a descendant of 2 (invalid_argument)");
  CHECK(to_string(ps::draft_tree_from_parents({nullptr, 2}, &tree)) ==
        op + "parents got null, want == a pointer (invalid_argument)");
  CHECK(to_string(ps::draft_tree_from_parents(tree.depth, nullptr)) ==
        op + "tree got null, want == a pointer (invalid_argument)");
  CHECK(to_string(ps::draft_tree_from_parents({tree.depth.data(), std::int64_t{1} << 31}, &tree)) ==
        op + "parents.size got 2147483648, want <= 2147483647 (capacity_exceeded)");
}

TEST_CASE("accept_path: the deepest path that is accepted throughout, the lowest index on ties", "[draft_tree]") {
  Random random(22);
  for (int round = 0; round < 1000; ++round) {
    const int count = uniform(random, 0, 40);
    const Parents parents = random_parents(random, count, uniform(random, 1, 40));
    std::vector<std::uint8_t> accepted(at(count));
    for (std::uint8_t& a : accepted) a = static_cast<std::uint8_t>(uniform(random, 0, 3));
    Path expected;
    for (std::int32_t i = 0; i < count; ++i) {
      const Path path = path_to(parents, i);
      const bool all = std::all_of(path.begin(), path.end(), [&](std::int32_t n) { return accepted[at(n)] != 0; });
      if (all && path.size() > expected.size()) expected = path;
    }
    Path path = {7, 7};
    REQUIRE(ps::accept_path(parents, accepted, &path).ok());
    CHECK(path == expected);
  }
}

TEST_CASE("accept_path: a chain of 100,000 nodes, leaf first", "[draft_tree]") {
  constexpr std::int32_t kCount = 100'000;
  Parents parents(kCount);
  std::iota(parents.begin(), parents.end(), 1);
  parents.back() = -1;
  std::vector<std::uint8_t> accepted(kCount, 1);
  accepted[999] = 0;
  Path path;
  REQUIRE(ps::accept_path(parents, accepted, &path).ok());
  CHECK(path.size() == kCount - 1000);
  CHECK(path.front() == kCount - 1);
  CHECK(path.back() == 1000);
}

TEST_CASE("accept_path: refuses with operator, argument, got and want", "[draft_tree][errors]") {
  const Parents parents = {-1, 0}, cycle = {1, 0};
  const std::vector<std::uint8_t> accepted = {1, 1}, short_one = {1};
  Path path = {9};
  CHECK(to_string(ps::accept_path(parents, short_one, &path)) ==
        "accept_path: accepted.size got 1, want == 2 (invalid_argument)");
  CHECK(to_string(ps::accept_path(cycle, accepted, &path)) ==
        "accept_path: parents[0] got 1, want not a descendant of 0 (invalid_argument)");
  CHECK(to_string(ps::accept_path(parents, {nullptr, 2}, &path)) ==
        "accept_path: accepted got null, want == a pointer (invalid_argument)");
  CHECK(to_string(ps::accept_path(parents, accepted, nullptr)) ==
        "accept_path: path got null, want == a pointer (invalid_argument)");
  CHECK(path == Path{9});
}

TEST_CASE("draft_tree_from_parents: published trees, told by their paths", "[draft_tree][data]") {
  const auto file = prefixshare::tests::test_data("trees/draft_trees.json");
  if (!file) return;
  std::ifstream stream(*file);
  REQUIRE(stream.good());
  const nlohmann::json trees = nlohmann::json::parse(stream);
  REQUIRE_FALSE(trees.empty());
  for (const auto& [name, entry] : trees.items()) {
    INFO(name);
    const std::vector<Path> paths = entry.at("paths");
    const Parents parents = entry.at("parent");
    const ps::DraftTree tree = make(parents);
    REQUIRE(paths.size() == parents.size());
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < paths.size(); ++i) {
      CHECK(tree.depth[i] == static_cast<std::int32_t>(paths[i].size()) - 1);
      for (std::size_t j = 0; j < paths.size(); ++j) {
        const bool is_prefix =
            paths[j].size() <= paths[i].size() && std::equal(paths[j].begin(), paths[j].end(), paths[i].begin());
        wrong += tree.sees(static_cast<std::int32_t>(i), static_cast<std::int32_t>(j)) != is_prefix;
      }
    }
    CHECK(wrong == 0);
    ps::Forest forest;  // one-token nodes: the last row of a path sees as many keys as the path is long
    REQUIRE(ps::forest_from_parents({parents, {}, {}}, &forest).ok());
    for (std::int32_t r = 0; r < forest.rows(); ++r) {
      CHECK(forest.order(r) == tree.depth[at(forest.row_map[at(r)])]);
    }
  }
}
