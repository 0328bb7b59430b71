// SPDX-License-Identifier: Apache-2.0
// tree_search: its selector is as good as trying every set of leaves, its accounting is a union of sets, and the
// program answers good and bad options as it says.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"
#include "support/program.hpp"
#include "tree_search/rebase.hpp"
#include "tree_search/search.hpp"
#include "tree_search/selector.hpp"

namespace {

using namespace tree_search;
using prefixshare::testing::Random;
using prefixshare::tests::Answer;

using Keep = std::vector<std::uint8_t>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Trees of any shape, leaves anywhere in them, some weights 0 or equal, few clusters.
SelectionProblem random_selection(Random* random, double lambda_d) {
  SelectionProblem p;
  const std::int32_t nodes = random->between(1, 24), leaves = random->between(1, 12);
  for (std::int32_t n = 0; n < nodes; ++n) {
    p.parents.push_back(random->between(std::max(-1, n - 6), n - 1));
    p.lengths.push_back(random->between(0, 60));
  }
  const std::int32_t labels = random->between(1, leaves);
  for (std::int32_t i = 0; i < leaves; ++i) {
    p.leaves.push_back(random->between(nodes / 2, nodes - 1));
    p.weights.push_back(random->chance(0.3) ? 0.125 * random->between(0, 2) : 0.5 * random->uniform());
    p.clusters.push_back(7 * random->between(0, labels - 1));
  }
  p.lambda_b = 4 * random->uniform();
  p.lambda_d = lambda_d;
  p.cost = random->chance(0.5) ? NodeCost::nodes : NodeCost::tokens;
  return p;
}

/// The objective as the paper writes it, from sets.
double written_out(const SelectionProblem& p, const Keep& keep) {
  std::set<std::int32_t> kept, all;
  std::set<std::int64_t> covered;
  double objective = 0;
  for (std::size_t i = 0; i < p.leaves.size(); ++i) {
    for (std::int32_t n = p.leaves[i]; n >= 0; n = p.parents[at(n)]) {
      all.insert(n);
      if (keep[i]) kept.insert(n);
    }
    if (!keep[i]) continue;
    objective += p.weights[i];
    if (!p.clusters.empty()) covered.insert(p.clusters[i]);
  }
  const auto cost = [&p](const std::set<std::int32_t>& nodes) {
    double sum = 0;
    for (const std::int32_t n : nodes) sum += p.cost == NodeCost::nodes ? 1 : p.lengths[at(n)];
    return sum;
  };
  if (cost(all) > 0) objective -= p.lambda_b * cost(kept) / cost(all);
  const std::set<std::int64_t> labels(p.clusters.begin(), p.clusters.end());
  if (!labels.empty()) {
    objective += p.lambda_d * static_cast<double>(covered.size()) / static_cast<double>(labels.size());
  }
  return objective;
}

double best_of_all(const SelectionProblem& p) {
  double best = -std::numeric_limits<double>::infinity();
  for (std::uint32_t set = 1; set < 1u << p.leaves.size(); ++set) {
    Keep keep;
    for (std::size_t i = 0; i < p.leaves.size(); ++i) keep.push_back(set >> i & 1);
    best = std::max(best, written_out(p, keep));
  }
  return best;
}

void check_best(const SelectionProblem& p, const Selection& s) {
  REQUIRE(s.keep.size() == p.leaves.size());
  CHECK(std::count(s.keep.begin(), s.keep.end(), 1) >= 1);
  CHECK(s.proven());
  CHECK(std::abs(s.objective - best_of_all(p)) <= 1e-12);
  CHECK(std::abs(s.objective - written_out(p, s.keep)) <= 1e-12);
  CHECK(std::abs(s.objective - objective_of(p, s.keep)) <= 1e-12);
}

/// Leaves alone at roots of their own.
SelectionProblem flat(const std::vector<double>& weights) {
  SelectionProblem p;
  p.weights = weights;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    p.parents.push_back(-1);
    p.lengths.push_back(1);
    p.leaves.push_back(static_cast<std::int32_t>(i));
  }
  return p;
}

/// A tree after some depths of a search.
SearchTree searched(const Options& options, Policy policy, std::int32_t depths) {
  SearchTree tree(options.prompt, options.seed);
  std::vector<std::int32_t> children = {options.width};
  for (std::int32_t d = 0; d < depths; ++d) {
    tree.grow(children);
    Keep keep;
    children.clear();
    for (const std::int32_t count : choose_leaves(options, policy, tree).counts) {
      keep.push_back(count > 0);
      if (count > 0) children.push_back(count);
    }
    tree.prune(keep);
  }
  return tree;
}

Answer run(const std::string& arguments) { return prefixshare::tests::run(TREE_SEARCH, arguments); }

/// Small enough for every build, and without times.
const std::string kSmall = "--hq 2 --hkv 1 --d 8 --threads 2 --prompt 40 --repeats 0 ";

}  // namespace

TEST_CASE("tree_search: the selector equals enumeration, with clusters, for both costs", "[examples]") {
  Random random(1);
  std::int64_t branched = 0;
  for (int round = 0; round < 600; ++round) {
    INFO("round " << round);
    const SelectionProblem p = random_selection(&random, 2 * random.uniform());
    const Selection s = select_leaves(p);
    check_best(p, s);
    if (s.subproblems == 1) continue;
    ++branched;
    const Selection hasty = select_leaves(p, 1);  // a limit: still a choice, with a bound that holds
    CHECK(!hasty.proven());
    CHECK(hasty.bound >= s.objective - 1e-12);
    CHECK(hasty.objective <= s.objective + 1e-12);
    CHECK(std::abs(hasty.objective - written_out(p, hasty.keep)) <= 1e-12);
  }
  CHECK(branched >= 10);
}

TEST_CASE("tree_search: without diversity one pass over the tree equals enumeration", "[examples]") {
  Random random(2);
  for (int round = 0; round < 400; ++round) {
    INFO("round " << round);
    SelectionProblem p = random_selection(&random, 0);
    if (random.chance(0.5)) p.clusters.clear();
    const Selection s = select_leaves(p);
    check_best(p, s);
    CHECK(s.subproblems == 1);
  }
}

TEST_CASE("tree_search: a chain of 100,000 nodes with a leaf at each", "[examples]") {
  constexpr std::int32_t kCount = 100'000;
  SelectionProblem p;
  for (std::int32_t n = 0; n < kCount; ++n) {
    p.parents.push_back(n - 1);
    p.lengths.push_back(1);
    p.leaves.push_back(n);
    p.weights.push_back(n == kCount / 4 ? 0.5 : 0);
  }
  p.cost = NodeCost::tokens;
  const Selection s = select_leaves(p);
  CHECK(s.proven());
  CHECK(s.keep[kCount / 4] == 1);
  CHECK(std::count(s.keep.begin(), s.keep.end(), 1) == 1);
  CHECK(std::abs(s.objective - 0.25) <= 2e-5);
}

TEST_CASE("tree_search: the selector keeps trees of published widths within its limit", "[examples]") {
  for (const std::int32_t width : {16, 64, 256}) {
    INFO("width " << width);
    Options options;
    options.width = width;
    options.lambda_d = 1.4;
    SearchTree tree = searched(options, Policy::ets, 5);
    tree.grow(std::vector<std::int32_t>(tree.forest().sequences.size(), 2));
    CHECK(choose_leaves(options, Policy::ets, tree).gap == 0);
  }
}

TEST_CASE("tree_search: of equal leaves the first stays, and what adds nothing goes", "[examples]") {
  SelectionProblem p = flat({0.25, 0.25, 0.25, 0.25});
  p.clusters = {5, 5, 6, 6};
  p.lambda_b = 2;  // a node costs 0.5, a cluster is worth 0.5
  p.lambda_d = 1;
  CHECK(select_leaves(p).keep == Keep{1, 0, 1, 0});
  p.lambda_d = 0;
  CHECK(select_leaves(p).keep == Keep{1, 0, 0, 0});
  p.lambda_b = 1;  // every leaf costs what it is worth
  CHECK(select_leaves(p).keep == Keep{1, 0, 0, 0});
  p.lambda_b = 0.5;
  CHECK(select_leaves(p).keep == Keep{1, 1, 1, 1});
  Random random(3);
  for (int round = 0; round < 50; ++round) {
    const SelectionProblem any = random_selection(&random, 1);
    CHECK(select_leaves(any).keep == select_leaves(any).keep);
  }
}

TEST_CASE("tree_search: the selector on degenerate input", "[examples]") {
  CHECK(select_leaves({}).proven());
  CHECK(select_leaves({}).keep.empty());
  SelectionProblem p = flat({-3});  // one must stay
  CHECK(select_leaves(p).keep == Keep{1});
  CHECK(select_leaves(p).objective == -4);
  p = flat({0, 0, 0});
  CHECK(select_leaves(p).keep == Keep{1, 0, 0});
  p.lengths = {0, 0, 0};  // tokens that cost nothing
  p.cost = NodeCost::tokens;
  CHECK(select_leaves(p).objective == 0);
  p = flat({0.5, 0.5});
  p.leaves = {0, 0};  // two leaves at one node, which costs all there is to cost
  CHECK(select_leaves(p).objective == 0);
  CHECK(select_leaves(p).keep == Keep{1, 1});

  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refuses = [](SelectionProblem bad) { CHECK_THROWS_AS(select_leaves(bad), std::invalid_argument); };
  SelectionProblem bad = flat({1, 1});
  refuses((bad.parents[0] = 1, bad));
  refuses((bad = flat({1, 1}), bad.parents[1] = -2, bad));
  refuses((bad = flat({1, 1}), bad.lengths[1] = -1, bad));
  refuses((bad = flat({1, 1}), bad.lengths.pop_back(), bad));
  refuses((bad = flat({1, 1}), bad.leaves[1] = 2, bad));
  refuses((bad = flat({1, 1}), bad.leaves[1] = -1, bad));
  refuses((bad = flat({1, 1}), bad.weights[1] = nan, bad));
  refuses((bad = flat({1, 1}), bad.weights.pop_back(), bad));
  refuses((bad = flat({1, 1}), bad.clusters = {1}, bad));
  refuses((bad = flat({1, 1}), bad.lambda_b = -1, bad));
  refuses((bad = flat({1, 1}), bad.lambda_d = nan, bad));
}

TEST_CASE("tree_search: REBASE deals out its width, the best first", "[examples]") {
  using Counts = std::vector<std::int32_t>;
  CHECK(rebase_counts({}, 16, 0.2).empty());
  CHECK(rebase_counts({0.3}, 16, 0.2) == Counts{16});
  CHECK(rebase_counts({0.5, 0.5, 0.5, 0.5}, 4, 0.2) == Counts{1, 1, 1, 1});
  CHECK(rebase_counts({0.5, 0.5, 0.5, 0.5}, 6, 0.2) == Counts{2, 2, 1, 1});
  CHECK(rebase_counts({0, std::log(2), std::log(4)}, 7, 1) == Counts{1, 2, 4});
  CHECK(rebase_counts({0, std::log(2), std::log(4)}, 3, 1) == Counts{0, 1, 2});
  CHECK(rebase_counts({0, 1000, 1000}, 5, 0.2) == Counts{0, 3, 2});  // e^5000 is no number
  Random random(4);
  for (int round = 0; round < 200; ++round) {
    std::vector<double> rewards;
    for (std::int32_t i = random.between(1, 40); i > 0; --i) rewards.push_back(random.uniform());
    const std::int32_t width = random.between(1, 300);
    const Counts counts = rebase_counts(rewards, width, 0.02 + random.uniform());
    CHECK(std::accumulate(counts.begin(), counts.end(), 0) == width);
    for (std::size_t i = 0; i < counts.size(); ++i) {
      for (std::size_t j = 0; j < counts.size(); ++j) {
        if (rewards[i] > rewards[j]) CHECK(counts[i] >= counts[j] - 1);  // what is left is rounded up
      }
    }
  }
}

TEST_CASE("tree_search: the accounting of a tree is a union of sets", "[examples]") {
  for (const Policy policy : {Policy::rebase, Policy::ets}) {
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      INFO("seed " << seed);
      Options options;
      options.width = 24;
      options.prompt = 37;
      options.seed = seed;
      const SearchTree tree = searched(options, policy, 5);
      const prefixshare::Forest& f = tree.forest();
      std::set<std::pair<std::uint64_t, std::int32_t>> tokens, shared;  // (step, token)
      std::set<std::int32_t> nodes, pages;
      std::int64_t logical = 0;
      for (const prefixshare::Sequence& leaf : f.sequences) {
        for (std::int32_t n = leaf.node; n >= 0; n = f.nodes[at(n)].parent) {
          nodes.insert(n);
          CHECK(tree.steps()[at(n)].tokens == f.nodes[at(n)].length);
          for (std::int32_t t = 0; t < f.nodes[at(n)].length; ++t, ++logical) {
            const std::pair<std::uint64_t, std::int32_t> token = {tree.steps()[at(n)].key, t};
            if (!tokens.insert(token).second) shared.insert(token);
            pages.insert(f.pages[at(f.segments[at(f.nodes[at(n)].segment)].first_page + t / SearchTree::kPageSize)]);
          }
        }
      }
      const Accounting a = tree.account();
      CHECK(a.leaves == static_cast<std::int64_t>(f.sequences.size()));
      CHECK(a.nodes == static_cast<std::int64_t>(nodes.size()));
      CHECK(a.unique_tokens == static_cast<std::int64_t>(tokens.size()));
      CHECK(a.shared_tokens == static_cast<std::int64_t>(shared.size()));
      CHECK(a.logical_tokens == logical);
      CHECK(a.pages == static_cast<std::int64_t>(pages.size()));
    }
  }
}

TEST_CASE("tree_search: pruning frees what its account loses, and pages are used again", "[examples]") {
  Options options;
  options.width = 32;
  SearchTree tree(options.prompt, options.seed);
  tree.grow({32});
  const Accounting before = tree.account();
  Keep keep(32, 0);
  keep[3] = keep[17] = 1;
  const std::uint64_t key = tree.steps()[at(tree.leaf_nodes()[17])].key;
  const prefixshare::FreedStorage freed = tree.prune(keep);
  const Accounting after = tree.account();
  CHECK(after.leaves == 2);
  CHECK(after.nodes == 3);
  CHECK(before.unique_tokens - after.unique_tokens == freed.tokens);
  CHECK(before.pages - after.pages == static_cast<std::int64_t>(freed.pages.size()));
  CHECK(tree.steps()[at(tree.leaf_nodes()[1])].key == key);
  const std::int32_t pool = tree.forest().pools[0].num_pages;
  tree.grow({1, 1});
  CHECK(tree.forest().pools[0].num_pages == pool);
  CHECK(tree.leaf_nodes().size() == 2);
}

TEST_CASE("tree_search: the same table again, within 100 columns, and every step checked", "[examples]") {
  const Answer first = run(kSmall + "--width 16 --depth 4"), second = run(kSmall + "--width 16 --depth 4");
  INFO(first.out << first.err);
  REQUIRE(first.code == 0);
  CHECK(first.out == second.out);
  CHECK(first.err.empty());
  CHECK(first.out.find("every step agrees with the reference") != std::string::npos);
  std::size_t begin = 0;
  for (std::size_t end; (end = first.out.find('\n', begin)) != std::string::npos; begin = end + 1) {
    CHECK(end - begin <= 100);
  }
  CHECK(run(kSmall + "--width 16 --depth 4 --seed 2").out != first.out);
  CHECK(run(kSmall + "--width 5 --depth 2 --cost tokens --lambda-b 0 --limit 1").code == 0);
  const Answer timed = run("--hq 2 --hkv 1 --d 8 --prompt 40 --width 4 --depth 1 --repeats 1 --threads 1");
  CHECK(timed.code == 0);
  CHECK(timed.out.find("attention, sum over depths") != std::string::npos);
  CHECK(run("--help").code == 0);
  CHECK(run("--help").out.find("--lambda-d") != std::string::npos);
}

TEST_CASE("tree_search: a step that is wrong fails the run", "[examples]") {
  Options options;
  options.width = 2;
  options.depth = 1;
  options.prompt = 8;
  options.kind.D = options.kind.Dv = 8;
  const Decoder decoder(options.kind, {}, 0);
  Search search = run_search(options, Policy::ets, decoder);
  CHECK(passes(search));
  search.depths[0].decode.error = 1;
  CHECK(!passes(search));
  CHECK(to_text(options, search, search).find("FAILED") != std::string::npos);
}

TEST_CASE("tree_search: bad options are one line, exit code 2", "[examples]") {
  const std::vector<prefixshare::tests::BadArguments> options = {
      {"--width 0", "--width must be at least 1, got 0"},
      {"--width 5000", "--width must be at most 4096, got 5000"},
      {"--depth 0", "--depth must be at least 1, got 0"},
      {"--depth 101", "--depth must be at most 100, got 101"},
      {"--prompt 0", "--prompt must be at least 1, got 0"},
      {"--cost bytes", "--cost knows nodes, tokens, got bytes"},
      {"--lambda-b -1", "--lambda-b must be a number that is not negative"},
      {"--lambda-d inf", "--lambda-d must be a number that is not negative"},
      {"--temperature 0", "--temperature must be a positive number"},
      {"--limit 0", "--limit must be at least 1, got 0"},
      {"--hq 5 --hkv 2", "--hq must be a multiple of --hkv, got 5 and 2"},
      {"--d 0", "--d must be at least 1, got 0"},
      {"--repeats -1", "--repeats must be at least 0, got -1"},
      {"--width many", "--width"},
      {"--nonsense", "nonsense"}};
  prefixshare::tests::check_refused(TREE_SEARCH, options);
}
