// SPDX-License-Identifier: Apache-2.0
// batch_job: the exact planner is as good as trying everything, the greedy one never better; the replay keeps its
// budgets whatever the job; real traffic is counted as by set union; good and bad input is answered as promised.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "batch_job/attention.hpp"
#include "batch_job/groups.hpp"
#include "batch_job/replay.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/program.hpp"

namespace {

using Json = nlohmann::json;
using namespace batch_job;
using prefixshare::Forest;
using prefixshare::testing::Random;
using prefixshare::tests::Answer;
using prefixshare::tests::TemporaryFile;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Answer run(const std::string& arguments) { return prefixshare::tests::run(BATCH_JOB, arguments); }

/// A trie from a parent array, and requests that end at its nodes; prompts have lengths, but no tokens.
Job job_of(const std::vector<std::int32_t>& parents, const std::vector<std::int32_t>& lengths,
           const std::vector<std::int32_t>& ends) {
  std::vector<prefixshare::Node> nodes;
  std::int32_t tokens = 0;
  for (std::size_t n = 0; n < parents.size(); ++n) {
    nodes.push_back({parents[n], 0, tokens, lengths[n]});
    tokens += lengths[n];
  }
  std::vector<prefixshare::Sequence> sequences;
  for (const std::int32_t end : ends) sequences.push_back({end, 0});
  const prefixshare::PoolShape pool = {std::max(tokens, 1), 1};
  const std::int32_t page = 0;
  const prefixshare::Segment segment = {0, 0, 0, tokens};
  Job job;
  job.decode.assign(ends.size(), 0);
  job.prompts.offsets.assign(ends.size() + 1, 0);
  REQUIRE(make_forest({{&pool, 1}, {&page, 1}, {&segment, 1}, nodes, sequences}, &job.trie).ok());
  return job;
}

/// Requests end anywhere: at inner nodes, several at one, nowhere.
Job random_trie(Random* random, std::int32_t nodes, std::int32_t requests, std::int32_t longest) {
  std::vector<std::int32_t> parents, lengths, ends;
  for (std::int32_t n = 0; n < nodes; ++n) {
    parents.push_back(random->between(std::max(-1, n - 4), n - 1));
    lengths.push_back(random->between(random->chance(0.1) ? 0 : 1, longest));
  }
  for (std::int32_t r = 0; r < requests; ++r) ends.push_back(random->between(-1, nodes - 1));
  return job_of(parents, lengths, ends);
}

std::int64_t saved(const Job& job, const PrefixNodes& prefixes) {
  std::int64_t logical = 0;
  for (std::int32_t r = 0; r < job.requests(); ++r) logical += job.prompt(r);
  return logical - processed_tokens(job, make_groups(job.trie, prefixes));
}

/// Every request tries every node of its path and none. Assignments that use the same nodes cost the same prefixes, so
/// that the best of them is enough.
std::int64_t saved_by_trying_all(const Job& job) {
  std::map<std::uint64_t, std::int64_t> best = {{0, 0}};  // nodes in use -> most tokens read from them
  for (const prefixshare::Sequence& request : job.trie.sequences) {
    std::map<std::uint64_t, std::int64_t> next = best;
    for (std::int32_t n = request.node; n >= 0; n = job.trie.nodes[at(n)].parent) {
      for (const auto& [used, tokens] : best) {
        std::int64_t& most = next[used | std::uint64_t{1} << n];
        most = std::max(most, tokens + job.trie.path_end(n));
      }
    }
    best = next;
  }
  std::int64_t most = 0;
  for (const auto& [used, tokens] : best) {
    std::int64_t cost = 0;
    for (std::size_t n = 0; n < job.trie.nodes.size(); ++n) {
      if (used >> n & 1) cost += job.trie.path_end(static_cast<std::int32_t>(n));
    }
    most = std::max(most, tokens - cost);
  }
  return most;
}

/// A(root, 0) as it is written down: for every node and every prefix above it.
class Recursion {
 public:
  explicit Recursion(const Forest& trie) : trie_(trie), children_(trie.nodes.size()), requests_(trie.nodes.size(), 0) {
    for (const prefixshare::Sequence& s : trie.sequences) {
      if (s.node >= 0) ++requests_[at(s.node)];
    }
    for (std::size_t n = 0; n < trie.nodes.size(); ++n) {
      if (trie.nodes[n].parent >= 0) children_[at(trie.nodes[n].parent)].push_back(static_cast<std::int32_t>(n));
    }
  }
  std::int64_t answer() {
    std::int64_t sum = 0;
    for (std::size_t n = 0; n < children_.size(); ++n) {
      if (trie_.nodes[n].parent < 0) sum += best(static_cast<std::int32_t>(n), 0);
    }
    return sum;
  }

 private:
  std::int64_t below(std::int32_t n, std::int64_t p) {
    std::int64_t sum = requests_[at(n)] * p;
    for (const std::int32_t child : children_[at(n)]) sum += best(child, p);
    return sum;
  }
  std::int64_t best(std::int32_t n, std::int64_t p) {
    const auto found = known_.find({n, p});
    if (found != known_.end()) return found->second;
    const std::int64_t own = trie_.path_end(n);
    return known_[{n, p}] = std::max(below(n, p), below(n, own) - own);
  }

  const Forest& trie_;
  std::vector<std::vector<std::int32_t>> children_;
  std::vector<std::int64_t> requests_;
  std::map<std::pair<std::int32_t, std::int64_t>, std::int64_t> known_;
};

/// The greedy rule, step by step on a tree that changes. Its root has no tokens; requests are leaves.
class GreedyRule {
 public:
  explicit GreedyRule(const Forest& trie) : nodes_(trie.nodes.size() + 1) {
    std::vector<bool> used(nodes_.size(), false);  // some request ends at it or below
    for (const prefixshare::Sequence& request : trie.sequences) {
      for (std::int32_t n = request.node; n >= 0; n = trie.nodes[at(n)].parent) used[at(n + 1)] = true;
      nodes_[at(request.node + 1)].children.push_back(nodes_.size());
      nodes_.emplace_back();
      nodes_.back().is_request = true;
    }
    for (std::size_t n = 0; n < trie.nodes.size(); ++n) {
      nodes_[n + 1].tokens = trie.nodes[n].length;
      if (used[n + 1]) nodes_[at(trie.nodes[n].parent + 1)].children.push_back(n + 1);
    }
  }

  /// Tokens saved by the groups below the root.
  std::int64_t saved() {
    enlarge(0);
    std::int64_t sum = 0;
    for (const std::size_t group : nodes_[0].children)
      sum += std::max<std::int64_t>(leaves(group) - 1, 0) * nodes_[group].tokens;
    return sum;
  }

 private:
  struct Member {
    std::int64_t tokens = 0;
    bool is_request = false;
    std::vector<std::size_t> children;
  };

  std::int64_t leaves(std::size_t n) const {
    std::int64_t count = nodes_[n].is_request ? 1 : 0;
    for (const std::size_t child : nodes_[n].children) count += leaves(child);
    return count;
  }

  void enlarge(std::size_t n) {
    const std::vector<std::size_t> before = nodes_[n].children;
    for (const std::size_t c : before) {
      enlarge(c);
      const std::vector<std::size_t> candidates = nodes_[c].children;
      for (const std::size_t u : candidates) {
        std::vector<std::size_t>& left = nodes_[c].children;
        if (left.size() == 1 || (leaves(u) - 1) * nodes_[u].tokens <= nodes_[c].tokens) continue;
        nodes_[u].tokens += nodes_[c].tokens;
        left.erase(std::find(left.begin(), left.end(), u));
        nodes_[n].children.push_back(u);
      }
      if (nodes_[c].children.size() != 1) continue;
      const Member last = nodes_[nodes_[c].children.front()];
      nodes_[c] = {nodes_[c].tokens + last.tokens, last.is_request, last.children};
    }
  }

  std::vector<Member> nodes_;
};

/// Prompts of few different tokens, so that they share much; some are equal, some empty.
Job random_text(Random* random, std::int32_t requests, std::int32_t longest) {
  Traffic traffic;
  for (std::int32_t r = 0; r < requests; ++r) {
    if (r > 0 && random->chance(0.2)) {  // an earlier prompt again
      const std::int32_t earlier = random->between(0, r - 1);
      for (std::int64_t i = traffic.offsets[at(earlier)]; i < traffic.offsets[at(earlier) + 1]; ++i) {
        traffic.tokens.push_back(traffic.tokens[at(i)]);
      }
    } else {
      for (std::int32_t i = random->between(0, longest); i > 0; --i) traffic.tokens.push_back(random->between(0, 1));
    }
    traffic.offsets.push_back(static_cast<std::int64_t>(traffic.tokens.size()));
    traffic.outputs.push_back(0);
  }
  Job job = make_job(std::move(traffic), 0);
  for (std::int32_t& decode : job.decode) decode = random->between(0, 20);
  return job;
}

std::vector<std::int32_t> prompt_of(const Job& job, std::int32_t request) {
  return {job.prompts.tokens.begin() + job.prompts.offsets[at(request)],
          job.prompts.tokens.begin() + job.prompts.offsets[at(request) + 1]};
}

/// Follows a replay from outside: who processed what, and what is in the cache.
class Follower {
 public:
  Follower(const Job& job, const Groups& groups, const Limits& limits)
      : job_(job),
        groups_(groups),
        limits_(limits),
        prefix_done_(groups.groups.size(), 0),
        members_done_(groups.groups.size(), 0),
        done_(at(job.requests()), 0) {}

  void operator()(const Iteration& now, const std::vector<Work>& work) {
    std::int64_t prefill = 0, decode = 0;
    std::set<std::pair<std::int32_t, std::int32_t>> batch;
    const std::vector<std::int64_t> prefix_before = prefix_done_;
    for (const Work& w : work) {
      CHECK(w.count > 0);
      CHECK(batch.insert({w.group, w.request}).second);
      std::int64_t& done = w.request < 0 ? prefix_done_[at(w.group)] : done_[at(w.request)];
      CHECK(w.begin == done);  // every token once, in order
      done += w.count;
      held_ += w.count;
      const std::int64_t prefix = groups_.groups[at(w.group)].prefix;
      if (w.request < 0) {
        CHECK(done <= prefix);
        prefill += w.count;
        continue;
      }
      CHECK(prefix_before[at(w.group)] == prefix);  // in an earlier iteration
      const std::int64_t own = job_.prompt(w.request) - prefix;
      if (w.begin >= own) CHECK(w.count == 1);
      if (w.begin < own) CHECK(done <= own);
      (w.begin < own ? prefill : decode) += w.count;
    }
    CHECK(prefill == now.prefill);
    CHECK(decode == now.decode);
    CHECK(prefill + decode > 0);
    CHECK(prefill + decode <= limits_.token_budget);
    CHECK(static_cast<std::int64_t>(batch.size()) == now.batch);
    if (limits_.request_limit > 0) CHECK(now.batch <= limits_.request_limit);
    CHECK(held_ == now.kv);
    CHECK(held_ <= limits_.kv_budget);
    leave(work);
  }

  void check_all_done() const {
    for (std::size_t g = 0; g < groups_.groups.size(); ++g) CHECK(prefix_done_[g] == groups_.groups[g].prefix);
    for (std::size_t g = 0; g < groups_.groups.size(); ++g) {
      const Group& group = groups_.groups[g];
      for (std::int32_t m = group.first; m < group.first + group.count; ++m) {
        CHECK(done_[at(groups_.members[at(m)])] == tokens(groups_.members[at(m)], group.prefix));
      }
    }
  }

 private:
  std::int64_t tokens(std::int32_t request, std::int64_t prefix) const {
    return job_.prompt(request) - prefix + job_.decode[at(request)];
  }

  /// What has ended is no longer held; a prefix goes with the last member that had something to process.
  void leave(const std::vector<Work>& work) {
    for (const Work& w : work) {
      const Group& group = groups_.groups[at(w.group)];
      const auto has_work = [&](std::int32_t request) { return tokens(request, group.prefix) > 0; };
      const auto members = groups_.members.begin() + group.first;
      const std::int64_t workers = std::count_if(members, members + group.count, has_work);
      if (w.request >= 0) {
        if (done_[at(w.request)] < tokens(w.request, group.prefix)) continue;
        held_ -= done_[at(w.request)];
        if (++members_done_[at(w.group)] == workers) held_ -= group.prefix;
      } else if (workers == 0 && prefix_done_[at(w.group)] == group.prefix) {
        held_ -= group.prefix;
      }
    }
  }

  const Job& job_;
  const Groups& groups_;
  const Limits limits_;
  std::vector<std::int64_t> prefix_done_;
  std::vector<std::int64_t> members_done_;
  std::vector<std::int64_t> done_;
  std::int64_t held_ = 0;
};

std::int64_t largest_need(const Job& job) {
  std::int64_t most = 1;
  for (std::int32_t r = 0; r < job.requests(); ++r) {
    most = std::max<std::int64_t>(most, std::int64_t{job.prompt(r)} + job.decode[at(r)]);
  }
  return most;
}

const char* const kCompletions =
    "{\"prompt\": \"one prompt \", \"completions\": [\"ab\", \"ac\", \"\", \"ab\"]}\n"
    "{\"prompt\": \"one more \", \"completions\": [\"x\"]}\n";

}  // namespace

TEST_CASE("batch_job: the exact planner saves what trying everything saves, the greedy one no more", "[examples]") {
  Random random(1);
  int below = 0;
  for (int i = 0; i < 1000; ++i) {
    const Job job = random_trie(&random, random.between(1, 12), random.between(0, 9), 12);
    const std::int64_t exact = saved(job, exact_prefixes(job.trie)), greedy = saved(job, greedy_prefixes(job.trie));
    INFO("trie " << i << ": " << to_string(job.trie));
    REQUIRE(exact == saved_by_trying_all(job));
    REQUIRE(greedy <= exact);
    REQUIRE(greedy == GreedyRule(job.trie).saved());
    below += greedy < exact;
  }
  CHECK(below > 0);
}

TEST_CASE("batch_job: both planners save what their rules say in large tries", "[examples]") {
  Random random(2);
  for (int i = 0; i < 30; ++i) {
    const Job job = random_trie(&random, 300, random.between(1, 400), i % 2 == 0 ? 3 : 1000);
    INFO("trie " << i);
    const std::int64_t exact = saved(job, exact_prefixes(job.trie));
    REQUIRE(exact == Recursion(job.trie).answer());
    const std::int64_t greedy = saved(job, greedy_prefixes(job.trie));
    REQUIRE(greedy == GreedyRule(job.trie).saved());
    REQUIRE(greedy <= exact);
  }
}

TEST_CASE("batch_job: the greedy rule moves a node up when that gains, and not otherwise", "[examples]") {
  // c has 10 tokens, where one request ends; below it another, and u, where three branch.
  const auto prefixes = [](std::int32_t tokens_of_u) {
    const Job job = job_of({-1, 0, 0, 2, 2, 2}, {10, 7, tokens_of_u, 5, 5, 5}, {1, 0, 3, 4, 5});
    return greedy_prefixes(job.trie);
  };
  CHECK(prefixes(5) == PrefixNodes{0, 0, 0, 0, 0});  // (3 - 1) 5 = 10
  CHECK(prefixes(6) == PrefixNodes{0, 0, 2, 2, 2});  // (3 - 1) 6 > 10
}

TEST_CASE("batch_job: equal prompts share all that they have", "[examples]") {
  const Job job = job_of({-1, 0, 0}, {10, 7, 8}, {1, 1, 1, 2, 0, -1});
  const PrefixNodes exact = exact_prefixes(job.trie);
  CHECK(exact == PrefixNodes{1, 1, 1, 0, 0, -1});
  const Groups groups = make_groups(job.trie, exact);
  REQUIRE(groups.groups.size() == 3);
  CHECK(processed_tokens(job, groups) == 17 + 10 + 8);
  CHECK(groups.groups[0].prefix == 17);
  CHECK(groups.groups[2].prefix == 0);
  CHECK(groups.members == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5});
}

TEST_CASE("batch_job: a trie of 100,000 nodes and as deep is planned", "[examples]") {
  const std::int32_t nodes = 100000;
  std::vector<std::int32_t> parents, lengths, ends;
  Random random(3);
  for (std::int32_t n = 0; n < nodes; ++n) {
    parents.push_back(n - 1);
    lengths.push_back(random.between(1, 20));
    ends.push_back(n);
  }
  const Job chain = job_of(parents, lengths, ends);
  const std::int64_t exact = saved(chain, exact_prefixes(chain.trie));
  CHECK(exact > 0);
  CHECK(saved(chain, greedy_prefixes(chain.trie)) <= exact);
  const Job wide = random_trie(&random, nodes, nodes, 50);
  CHECK(saved(wide, greedy_prefixes(wide.trie)) <= saved(wide, exact_prefixes(wide.trie)));
}

TEST_CASE("batch_job: every prompt is its group's prefix and its own tokens", "[examples]") {
  Random random(4);
  for (int i = 0; i < 200; ++i) {
    const Job job = random_text(&random, random.between(1, 30), 12);
    for (const PrefixNodes& prefixes : {greedy_prefixes(job.trie), exact_prefixes(job.trie)}) {
      const Groups groups = make_groups(job.trie, prefixes);
      REQUIRE(reconstructs(job, groups));
      std::set<std::int32_t> seen;
      for (const Group& group : groups.groups) {
        std::vector<std::int32_t> prefix = prompt_of(job, groups.members[at(group.first)]);
        prefix.resize(at(group.prefix));
        for (std::int32_t m = group.first; m < group.first + group.count; ++m) {
          const std::vector<std::int32_t> prompt = prompt_of(job, groups.members[at(m)]);
          std::vector<std::int32_t> joined = prefix;
          joined.insert(joined.end(), prompt.begin() + group.prefix, prompt.end());
          REQUIRE(joined == prompt);
          seen.insert(groups.members[at(m)]);
        }
      }
      REQUIRE(static_cast<std::int32_t>(seen.size()) == job.requests());
    }
  }
}

TEST_CASE("batch_job: wrong groups are found", "[examples]") {
  Traffic traffic;
  traffic.tokens = {1, 2, 3, 1, 2, 4, 1, 9};
  traffic.offsets = {0, 3, 6, 8};
  traffic.outputs = {0, 0, 0};
  const Job job = make_job(traffic);
  const Groups right = make_groups(job.trie, exact_prefixes(job.trie));
  REQUIRE(reconstructs(job, right));
  CHECK(reconstructs(job, {{{1, 0, 3}}, {0, 1, 2}}));
  CHECK(!reconstructs(job, {{{2, 0, 3}}, {0, 1, 2}}));                // the third differs
  CHECK(!reconstructs(job, {{{4, 0, 1}, {1, 1, 2}}, {0, 1, 2}}));     // longer than the prompt
  CHECK(!reconstructs(job, {{{2, 0, 2}}, {0, 1}}));                   // one is missing
  CHECK(!reconstructs(job, {{{1, 0, 2}, {1, 2, 2}}, {0, 1, 1, 2}}));  // one is there twice
}

TEST_CASE("batch_job: groups of the benchmark save exactly 85.23 %", "[examples]") {
  const Job job = make_job(benchmark_traffic(), kDecode);
  REQUIRE(job.requests() == 6400);
  for (const PrefixNodes& prefixes : {greedy_prefixes(job.trie), exact_prefixes(job.trie)}) {
    const Groups groups = make_groups(job.trie, prefixes);
    CHECK(groups.groups.size() == 400);
    CHECK(reconstructs(job, groups));
    CHECK(6400 * 2200 - processed_tokens(job, groups) == 400 * 15 * 2000);
  }
}

TEST_CASE("batch_job: groups with much to write come first", "[examples]") {
  Job job = job_of({-1, -1, -1, -1}, {10, 4, 8, 0}, {0, 1, 2, 1, 3});
  job.decode = {10, 10, 20, 10, 0};
  // Ratios: 10 / 10, 20 / 4 (shared), 20 / 8, 0 / 0.
  const Groups ordered = order_by_decode(job, make_groups(job.trie, exact_prefixes(job.trie)));
  CHECK(ordered.members == std::vector<std::int32_t>{1, 3, 2, 0, 4});
  CHECK(ordered.groups[0].prefix == 4);
  CHECK(ordered.groups[0].count == 2);
}

TEST_CASE("batch_job: a replay keeps its budgets and ends, whatever the job", "[examples]") {
  Random random(5);
  for (int i = 0; i < 150; ++i) {
    const Job job = random_text(&random, random.between(1, 40), 30);
    const Groups alone = make_groups(job.trie, PrefixNodes(at(job.requests()), -1));
    const Groups exact = make_groups(job.trie, exact_prefixes(job.trie));
    for (const Groups& groups : {alone, exact, order_by_decode(job, exact)}) {
      Limits limits;
      limits.kv_budget = largest_need(job) + (random.chance(0.3) ? 0 : random.between(0, 200));
      limits.token_budget = random.between(1, 40);
      limits.request_limit = random.chance(0.5) ? 0 : random.between(1, 8);
      INFO("job " << i << ", KV " << limits.kv_budget << ", tokens " << limits.token_budget);
      Follower follower(job, groups, limits);
      std::int64_t seen = 0;
      const std::vector<Iteration> iterations =
          replay(job, groups, limits, [&](const Iteration& now, const std::vector<Work>& work) {
            ++seen;
            follower(now, work);
          });
      follower.check_all_done();
      REQUIRE(static_cast<std::int64_t>(iterations.size()) == seen);
    }
  }
}

TEST_CASE("batch_job: the replay of a small job, iteration by iteration", "[examples]") {
  // One group: a prefix of 6, members of 2 and 0 tokens that write 2 and 1; 4 tokens an iteration.
  Job job = job_of({-1, 0}, {6, 2}, {1, 0});
  job.decode = {2, 1};
  const Groups groups = make_groups(job.trie, exact_prefixes(job.trie));
  Limits limits;
  limits.kv_budget = 11;
  limits.token_budget = 4;
  const std::vector<Iteration> got = replay(job, groups, limits);
  const std::vector<std::vector<std::int64_t>> want = {
      {1, 4, 0, 4}, {1, 2, 0, 6}, {2, 2, 1, 9}, {1, 0, 1, 9}, {1, 0, 1, 10}};  // batch, prefill, decode, KV
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    INFO("iteration " << i);
    CHECK(std::vector<std::int64_t>{got[i].batch, got[i].prefill, got[i].decode, got[i].kv} == want[i]);
  }
  limits.kv_budget = 9;
  CHECK_THROWS_AS(replay(job, groups, limits), InputError);  // the first request needs 10 with its prefix
}

TEST_CASE("batch_job: memory admits more requests than a limit on their number", "[examples]") {
  const Job job = make_job(benchmark_traffic(8), kDecode);
  const Groups groups = make_groups(job.trie, exact_prefixes(job.trie));
  Limits limits;
  const std::size_t by_memory = replay(job, groups, limits).size();
  limits.request_limit = 16;
  CHECK(by_memory < replay(job, groups, limits).size());
}

TEST_CASE("batch_job: a step reads each group's prefix once", "[examples]") {
  // Two levels: 600 tokens for all, 1,400 more for two of three; what a request has of its own is 50, and 3, 2, 1 are
  // written.
  const Job job = job_of({-1, 0, 1, 1, 0}, {600, 1400, 50, 50, 50}, {2, 3, 4});
  const Groups groups = make_groups(job.trie, exact_prefixes(job.trie));  // 2000 for two, one alone
  REQUIRE(groups.groups.size() == 2);
  const std::vector<Work> work = {{0, -1, 0, 7}, {0, 0, 52, 1}, {0, 1, 51, 1}, {1, 2, 650, 1}, {1, 2, 0, 9}};
  const Running running = running_requests(job, groups, work);
  CHECK(running.requests == std::vector<std::int32_t>{0, 1, 2});
  CHECK(running.written == std::vector<std::int32_t>{3, 2, 1});
  const Readings readings = read_step(job, groups, running);
  CHECK(readings.unshared.counters.kv_rows == 2053 + 2052 + 651);
  CHECK(readings.groups.counters.kv_rows == 2000 + 53 + 52 + 651);
  CHECK(readings.levels.counters.kv_rows == 600 + 1400 + 53 + 52 + 51);
  CHECK(readings.unshared.kv_tokens == 2053 + 2052 + 651);
  CHECK(readings.groups.kv_tokens == 2000 + 53 + 52 + 651);
  CHECK(readings.levels.kv_tokens == 600 + 1400 + 53 + 52 + 51);
  CHECK(readings.groups.counters.pairs == readings.levels.counters.pairs);
}

TEST_CASE("batch_job: a production trace is one job", "[examples][data]") {
  const auto trace = prefixshare::tests::test_data("traces/mooncake_conversation.jsonl");
  if (!trace) return;
  Source source;
  source.input = *trace;
  const Job job = make_job(read_traffic(source));
  const prefix_report::TokenCount tokens = count_tokens(job.prompts);
  prefixshare::ForestStats stats;
  REQUIRE(forest_stats(job.trie, &stats).ok());
  CHECK(job.requests() == 12031);
  CHECK(tokens.logical == 144793823);
  CHECK(stats.logical_tokens == tokens.logical);
  CHECK(stats.unique_tokens == tokens.unique);
  CHECK(tokens.unique == 90695412);
  CHECK(job.prompts.blocks == 182790);  // 93,588,480 tokens if each were whole
  const Groups greedy = make_groups(job.trie, greedy_prefixes(job.trie));
  const Groups exact = make_groups(job.trie, exact_prefixes(job.trie));
  CHECK(reconstructs(job, greedy));
  CHECK(reconstructs(job, exact));
  CHECK(processed_tokens(job, greedy) == 95125000);
  CHECK(processed_tokens(job, exact) == 94822459);
}

TEST_CASE("batch_job: answers on its benchmark and on text", "[examples]") {
  const TemporaryFile json(""), csv("");
  const Answer benchmark = run("--groups 8 --json " + json.path() + " --csv " + csv.path());
  INFO(benchmark.err);
  REQUIRE(benchmark.code == 0);
  CHECK(benchmark.out.find("save 85.23 %") != std::string::npos);
  const Json answer = Json::parse(prefixshare::tests::read_file(json.path()));
  CHECK(answer["ok"] == true);
  CHECK(answer["exact"]["processed_tokens"] == 8 * 2000 + 128 * 200);
  CHECK(answer["decode_tokens"] == 12800);
  CHECK(answer["step"]["groups"]["kv_rows"] < answer["step"]["unshared"]["kv_rows"]);
  const std::string lines = prefixshare::tests::read_file(csv.path());
  std::int64_t iterations = 0;
  for (const Json& way : answer["ways"]) iterations += way["iterations"].get<std::int64_t>();
  CHECK(std::count(lines.begin(), lines.end(), '\n') == iterations + 1);

  const TemporaryFile text(kCompletions);
  const Answer completions = run("--json " + json.path() + " " + text.path());
  INFO(completions.err);
  REQUIRE(completions.code == 0);
  const Json job = Json::parse(prefixshare::tests::read_file(json.path()));
  CHECK(job["requests"] == 5);
  CHECK(job["logical_tokens"] == 4 * 11 + 9);
  CHECK(job["exact"]["processed_tokens"] == 11 + 9);  // four equal prompts, one alone
  CHECK(job["decode_tokens"] == 2 + 2 + 0 + 2 + 1);
}

TEST_CASE("batch_job: text fits 100 columns and stderr stays quiet", "[examples]") {
  for (const char* arguments : {"--groups 3", "--groups 3 --decode 0 --request-limit 2"}) {
    const Answer answer = run(arguments);
    INFO(answer.out << answer.err);
    REQUIRE(answer.code == 0);
    CHECK(answer.err.empty());
    std::size_t begin = 0;
    for (std::size_t end; (end = answer.out.find('\n', begin)) != std::string::npos; begin = end + 1) {
      CHECK(end - begin <= 100);
    }
  }
}

TEST_CASE("batch_job: bad input and bad options are one line, exit code 2", "[examples]") {
  const TemporaryFile empty(""), broken(std::string(kCompletions) + "{\"prompt\": \n"), text(kCompletions);
  const TemporaryFile trace("{\"input_length\": 3, \"hash_ids\": [1], \"output_length\": -2}\n");
  const std::vector<prefixshare::tests::BadArguments> cases = {
      {empty.path(), "is empty"},
      {broken.path(), ":3: not valid JSON"},
      {trace.path(), ":1: \"output_length\" is negative: -2"},
      {"/no/such/file", "/no/such/file: cannot be opened"},
      {"--groups 0", "--groups must be at least 1, got 0"},
      {"--groups 100000", "--groups must be at most 10000, got 100000"},
      {"--decode -1", "--decode must be at least 0"},
      {"--kv-budget 0", "--kv-budget must be at least 1"},
      {"--token-budget -3", "--token-budget must be at least 1"},
      {"--request-limit 0", "--request-limit must be at least 1"},
      {"--nonsense", "nonsense"},
      {"--groups x", "groups"},
      {"--json /no/such/folder/file " + text.path(), "/no/such/folder/file: cannot be written"},
      {"--groups 2 --kv-budget 2000",
       "request 1 needs 2,300 tokens of KV (prompt 2,200, to write 100), --kv-budget is 2,000"}};
  prefixshare::tests::check_refused(BATCH_JOB, cases);
}
