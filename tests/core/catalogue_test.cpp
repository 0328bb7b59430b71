// SPDX-License-Identifier: Apache-2.0
// The catalogue: every workload builds, and has the tokens, bytes and FLOPs that its source or its floor is stated
// with.
#include "prefixshare/testing/catalogue.hpp"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "prefixshare/counters.hpp"
#include "prefixshare/testing/catalogue_data.hpp"
#include "prefixshare/testing/json_text.hpp"
#include "prefixshare/testing/plan_checker.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/program.hpp"

namespace {

using namespace prefixshare;
using testing::Task;
using testing::Workload;

const Workload& workload(const std::string& name) {
  const Workload* w = testing::find_workload(name);
  INFO(name);
  REQUIRE(w != nullptr);
  return *w;
}

Forest forest_of(const Workload& w, std::int32_t scale = 1) {
  Forest forest;
  const Status s = testing::make_forest(w, scale, &forest);
  INFO(w.name << ": " << to_string(s));
  REQUIRE(s.ok());
  return forest;
}

Plan plan_of(const Workload& w, std::int32_t scale = 1) {
  Plan plan;
  REQUIRE(make_plan(forest_of(w, scale), w.kind, {}, &plan).ok());
  return plan;
}

bool is_attention(const Workload& w) { return w.task == Task::forward || w.task == Task::training; }

void check_builds(const Workload& w) {
  INFO(w.name);
  CHECK_FALSE(w.about.empty());
  CHECK_FALSE(w.source.empty());
  CHECK(w.kind.Hq % w.kind.Hkv == 0);
  CHECK(w.rows >= 1);
  if (!is_attention(w)) return;
  const Forest forest = forest_of(w, 16);
  CHECK(forest.rows() > 0);
  const testing::WorkloadTokens tokens = testing::workload_tokens(w, 16);
  ForestStats stats;
  REQUIRE(forest_stats(forest, &stats).ok());
  CHECK(stats.unique_tokens == tokens.unique);
  CHECK(tokens.logical >= tokens.unique);
  if (w.task == Task::forward && w.draft.empty()) CHECK(stats.logical_tokens == tokens.logical);
}

/// Bytes of K, V, q and o: of `tokens` tokens, and of the rows.
double bytes_of(const Workload& w, std::int64_t tokens) {
  const double width = w.kind.D + w.kind.Dv;
  const double kv = static_cast<double>(tokens) * w.kind.Hkv * width * static_cast<double>(size_of(w.kind.kv_dtype));
  return kv + forest_of(w).rows() * w.kind.Hq * width * static_cast<double>(size_of(w.kind.q_dtype));
}

}  // namespace

TEST_CASE("catalogue: names are unique and every workload builds", "[testing]") {
  std::set<std::string> names;
  std::map<std::string, int> folders;
  for (const Workload& w : testing::catalogue()) {
    CHECK(names.insert(w.name).second);
    CHECK(testing::find_workload(w.name) == &w);
    ++folders[w.name.substr(0, w.name.find('/'))];
    check_builds(w);
  }
  const std::map<std::string, int> want = {{"C1", 1},
                                           {"C2", 3},
                                           {"C3", 2},
                                           {"C4", 1},
                                           {"C5", 1},
                                           {"C6", 2},
                                           {"C7", 6},
                                           {"sweep", 24},
                                           {"grid", 35},
                                           {"train", 6},
                                           {"decode", 3},
                                           {"pools", 1},
                                           {"gpu", 15},
                                           {"cpu", 15},
                                           {"verify", 5},
                                           {"relay", 126},
                                           {"pat", 80},
                                           {"fasttree", 45},
                                           {"chunk_attention", 15},
                                           {"prefix_grouper", 84},
                                           {"hydragen", 6 + 4 * 33},
                                           {"flashinfer", 120 + 5 * 4 * 4}};
  for (const auto& [folder, count] : want) {
    INFO(folder);
    CHECK(folders[folder] == count);
  }
  CHECK(folders.size() == want.size());
  CHECK(testing::find_workload("nothing") == nullptr);
}

TEST_CASE("catalogue: a tree has the shape that its text says", "[testing]") {
  ForestStats stats;
  REQUIRE(forest_stats(forest_of(workload("hydragen/2,4,8|7,9 10 11 4,129 2 3 4 5 6 7 128/kv8")), &stats).ok());
  CHECK(stats.roots == 2);
  CHECK(stats.nodes == 14);
  CHECK(stats.sequences == 8);
  CHECK(stats.unique_tokens == 14 + 34 + 284);
  CHECK(stats.logical_tokens == 8 * 7 + 2 * 34 + 284);

  Workload by_nodes;
  by_nodes.tree = "-1:5:0 0:0:2 0:7:1 -1:3:1";
  REQUIRE(forest_stats(forest_of(by_nodes), &stats).ok());
  CHECK(stats.nodes == 3);  // the one without tokens is none
  CHECK(stats.sequences == 4);
  CHECK(stats.logical_tokens == 5 + 5 + 12 + 3);

  for (const char* wrong : {"", "1", "1|", "1,2|3", "2|1 2 3", "x|1", "1|-3", "0|1", "-1:2", "0:2:1", "-1:2:1 1:2:1",
                            "-1:x:1", "-2:1:1", "-1:1:-1"}) {
    INFO(wrong);
    Workload bad;
    bad.tree = wrong;
    Forest forest;
    CHECK(testing::make_forest(bad, 1, &forest).code == StatusCode::invalid_argument);
  }
}

TEST_CASE("catalogue: rows, pages and pools are as the workload says", "[testing]") {
  Workload w;
  w.tree = "1,3|40,7";
  w.rows = 4;
  w.page_size = 16;
  w.own_pools = 2;
  w.draft = {-1, -1, 0, 2};
  const Forest forest = forest_of(w);
  CHECK(forest.rows() == 3 * (4 + 4));
  REQUIRE(forest.pools.size() == 3);
  CHECK(forest.pools[0].num_pages == 3);
  CHECK(forest.pools[1].num_pages == 2 + 2);  // two leaves of 7 tokens and their draft trees
  CHECK(forest.pools[2].num_pages == 2);
  const std::vector<std::int32_t> pools = {0, 1, 2, 1, 1, 2, 1};
  CHECK(testing::workload_pools(w, testing::workload_topology(w)) == pools);
  const Plan plan = plan_of(w);
  std::string why;
  CHECK(testing::check_plan(forest, plan, &why));
  // Four last tokens of each path, and draft tokens at depths 1, 1, 2 and 3 below it.
  CHECK(count(plan).pairs == 3 * (44 + 45 + 46 + 47 + 48 + 48 + 49 + 50));
  CHECK(forest_of(w, 2).rows() == 3 * (2 + 4));
  CHECK(testing::draft_levels({2, 4, 4}) == std::vector<std::int32_t>{-1, -1, 0, 0, 1, 1, 2, 3, 4, 5});
}

TEST_CASE("catalogue: sharing saves what the sources say", "[testing]") {
  const std::pair<const char*, double> ratios[] = {
      // sequences x (prefix + own) over prefix + sequences x own
      {"decode/32x4096x128", 16.5}, {"decode/64x16384x128", 43.0},   {"decode/1024x2048x64", 32.0},
      {"relay/32x4096x128", 16.5},  {"relay/64x16384x128", 43.0},    {"relay/128x8192x128", 43.3},
      {"train/4096x16x128", 11.0},  {"train/4096x8x128", 6.6},       {"train/16384x16x512", 11.0},
      {"train/512x8x64", 4.5},      {"train/1024x8x1024", 1.778},    {"train/4096x4x4096", 1.6},
      {"pat/256|4096", 1},          {"chunk_attention/32x1024/0", 1}};
  for (const auto& [name, ratio] : ratios) {
    const testing::WorkloadTokens t = testing::workload_tokens(workload(name));
    INFO(name);
    CHECK(static_cast<double>(t.logical) / static_cast<double>(t.unique) == Approx(ratio).epsilon(2e-3));
  }
}

TEST_CASE("catalogue: W1 to W10 move and compute what their floors are made of", "[testing]") {
  struct Row {
    const char* name;
    double unshared, shared, flops;  // bytes, FLOPs of the forward
  };
  const Row rows[] = {{"gpu/W1", 1.142e9, 85e6, 4.6e9},   {"gpu/W2", 17.7e9, 608e6, 70.9e9},
                      {"gpu/W3", 541e6, 13e6, 4.3e9},     {"gpu/W3b", 17e6, 2e6, 0.13e9},
                      {"gpu/W4", 45.7e9, 2.75e9, 45.6e9}, {"gpu/W4b", 346e9, 3.04e9, 346e9},
                      {"gpu/W5", 4.97e9, 348e6, 19.9e9},  {"gpu/W6", 4.31e9, 285e6, 17.2e9},
                      {"gpu/W7", 579e6, 579e6, 138e9},    {"gpu/W7b", 579e6, 319e6, 138e9}};
  for (const Row& row : rows) {
    INFO(row.name);
    const Workload& w = workload(row.name);
    const testing::WorkloadTokens t = testing::workload_tokens(w);
    const double digits = row.shared < 3e6 ? 0.2 : row.shared < 20e6 ? 0.15 : 0.02;  // figures of one or two digits
    CHECK(bytes_of(w, t.logical) == Approx(row.unshared).epsilon(digits));
    CHECK(bytes_of(w, t.unique) == Approx(row.shared).epsilon(digits));
    CHECK(static_cast<double>(count(plan_of(w)).flops_forward) == Approx(row.flops).epsilon(0.03));
  }
  for (const auto& [name, flops] : {std::pair("gpu/W8", 2.65e12), std::pair("gpu/W8b", 5.89e12)}) {
    const Counters n = count(plan_of(workload(name)));
    CHECK(static_cast<double>(n.flops_forward + n.flops_backward) == Approx(flops).epsilon(0.01));
  }
}

TEST_CASE("catalogue: what a folder of real input lacks is named", "[testing]") {
  for (const char* folder : {"", "/nowhere"}) {
    const testing::DataWorkloads none = testing::data_workloads(folder);
    CHECK(none.list.empty());
    REQUIRE(none.missing.size() == 3);
    CHECK(none.missing[0].find("mooncake/...: traces/mooncake_conversation.jsonl: no ") == 0);
  }
  std::vector<Workload> list;
  const tests::TemporaryFile broken("{\"input_length\": 600, \"hash_ids\": [1, 2]}\n{\"input_length\": 3}\n");
  CHECK(testing::detail::read_trace(broken.path(), &list) == "line 2: no hash_ids or no input_length");
  CHECK(testing::detail::read_solutions(broken.path(), &list) == "line 1: no solution");
  const tests::TemporaryFile torn("{\"input_length\": ");
  CHECK(testing::detail::read_draft_trees(torn.path(), &list) == "line 1: no JSON");
}

TEST_CASE("catalogue: a trace's blocks become a tree without needless nodes", "[testing]") {
  testing::detail::TraceWindow window;
  window.add({1, 2, 3}, 1100);
  window.add({1, 2, 4, 5}, 2000);
  window.add({1, 2}, 1024);
  window.add({1, 2}, 1024);
  window.add({9}, 7);
  CHECK(testing::detail::to_text(window.merged()) == "-1:1024:2 0:76:1 0:976:1 -1:7:1");
}

TEST_CASE("catalogue: real input has the tokens that are known of it", "[testing][data]") {
  const auto trace = tests::test_data("traces/mooncake_conversation.jsonl");
  if (!trace) return;
  const testing::DataWorkloads data =
      testing::data_workloads(std::filesystem::path(*trace).parent_path().parent_path().string());
  CHECK(data.missing.empty());
  std::set<std::string> names;
  std::map<std::string, std::int64_t> workloads, logical, sequences;
  for (const Workload& w : data.list) {
    CHECK(names.insert(w.name).second);
    CHECK(testing::find_workload(w.name) == nullptr);
    const std::string kind = w.name.substr(0, w.name.find_last_of('/'));
    ++workloads[kind];
    const testing::WorkloadTokens t = testing::workload_tokens(w);
    logical[kind] += t.logical;
    sequences[kind] += static_cast<std::int64_t>(testing::workload_topology(w).sequences.size());
    CHECK(t.unique <= t.logical);
    check_builds(w);
  }
  CHECK(workloads["mooncake"] == 188);
  CHECK(sequences["mooncake"] == 12031);
  CHECK(logical["mooncake"] == 144793823);
  CHECK(workloads["gsm8k/decode"] == 21);
  CHECK(workloads["gsm8k/train"] == 21);
  CHECK(sequences["gsm8k/decode"] == 4 * 1319);
  CHECK(workloads["verify/medusa"] + workloads["verify/eagle"] + workloads["verify/hydra"] == 12);
}

TEST_CASE("json_text: values, escapes and what is no JSON", "[testing]") {
  testing::Json json;
  REQUIRE(testing::parse_json(R"( {"a": [1, -2.5e1, true, null, {}], "b\n\u00e9\u2019": "x\"\\y", "c": []} )", &json));
  CHECK(json["a"].elements.size() == 5);
  CHECK(json["a"].integers()[1] == -25);
  CHECK(json["b\n\xc3\xa9\xe2\x80\x99"].text == "x\"\\y");
  CHECK(json["c"]);
  CHECK_FALSE(json["d"]);
  for (const char* wrong :
       {"", "{", "[1,", "[1 2]", "{\"a\" 1}", "{a: 1}", "\"x", "\"\\u12\"", "\"\\x\"", "1 2", "tru"}) {
    INFO(wrong);
    CHECK_FALSE(testing::parse_json(wrong, &json));
  }
  CHECK_FALSE(testing::parse_json(std::string(1000, '['), &json));
}
