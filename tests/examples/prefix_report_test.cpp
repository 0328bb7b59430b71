// SPDX-License-Identifier: Apache-2.0
// prefix_report: its readers count what a set union counts, its sampling keeps families whole, its checks can fail, and
// the program answers good and bad input as it says.
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "prefix_report/checks.hpp"
#include "prefix_report/sample.hpp"
#include "prefix_report/traffic.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/program.hpp"

namespace {

using Json = nlohmann::json;
using namespace prefix_report;
using prefixshare::tests::Answer;
using prefixshare::tests::TemporaryFile;

Answer run(const std::string& arguments) { return prefixshare::tests::run(PREFIX_REPORT, arguments); }

/// Small enough for every build: two threads, one repeat, few dims.
const std::string kSmall = "--hq 4 --hkv 2 --d 16 --threads 2 --repeats 1 ";

Options options_for(const std::string& file) {
  Options options;
  options.input = file;
  return options;
}

/// Distinct prefixes of all sequences, the slow and obvious way.
std::size_t distinct_prefixes(const Traffic& traffic) {
  std::set<std::vector<std::int32_t>> prefixes;
  for (std::size_t s = 0; s + 1 < traffic.offsets.size(); ++s) {
    std::vector<std::int32_t> prefix;
    for (std::int64_t i = traffic.offsets[s]; i < traffic.offsets[s + 1]; ++i) {
      prefix.push_back(traffic.tokens[static_cast<std::size_t>(i)]);
      prefixes.insert(prefix);
    }
  }
  return prefixes.size();
}

prefixshare::ForestStats stats_of(const prefixshare::Forest& forest) {
  prefixshare::ForestStats stats;
  REQUIRE(forest_stats(forest, &stats).ok());
  return stats;
}

/// Two requests share two blocks and part of a third; one stands alone.
const char* const kTrace =
    "{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 5, \"hash_ids\": [90, 91, 92]}\n"
    "{\"timestamp\": 1, \"input_length\": 1300, \"output_length\": 5, \"hash_ids\": [90, 91, 92]}\n"
    "{\"timestamp\": 2, \"input_length\": 512, \"output_length\": 5, \"hash_ids\": [7]}\n";

const char* const kCompletions =
    "{\"prompt\": \"one prompt \", \"completions\": [\"ab\", \"ac\", \"\", \"ab\"]}\n"
    "\n"
    "{\"prompt\": \"another \", \"completions\": [\"\\u00e9\"]}\n";

}  // namespace

TEST_CASE("prefix_report: tokens of text are bytes, counted as a set of prefixes", "[examples]") {
  const TemporaryFile file(kCompletions);
  const Traffic traffic = read_traffic(options_for(file.path()));
  REQUIRE(traffic.sequences() == 5);
  CHECK(traffic.groups == 2);
  const prefixshare::ForestStats stats = stats_of(build_forest(traffic));
  CHECK(stats.logical_tokens == 13 + 13 + 11 + 13 + 10);
  CHECK(stats.unique_tokens == static_cast<std::int64_t>(distinct_prefixes(traffic)));
  CHECK(count_tokens(traffic).logical == stats.logical_tokens);
  CHECK(count_tokens(traffic).unique == stats.unique_tokens);
}

TEST_CASE("prefix_report: blocks of a trace are counted to where some request fills them", "[examples]") {
  const TemporaryFile file(kTrace);
  const Traffic traffic = read_traffic(options_for(file.path()));
  const prefixshare::ForestStats stats = stats_of(build_forest(traffic));
  CHECK(traffic.blocks == 4);
  CHECK(stats.logical_tokens == 1100 + 1300 + 512);
  CHECK(stats.unique_tokens == 1300 + 512);
  CHECK(count_tokens(traffic).unique == stats.unique_tokens);
}

TEST_CASE("prefix_report: worked questions come before every GSM8K question", "[examples]") {
  const TemporaryFile file(
      "{\"question\": \"A?\", \"ground_truth\": \"1\", \"m\": {\"solution\": \"x\"}}\n"
      "{\"question\": \"B?\", \"ground_truth\": \"2\", \"m\": {\"solution\": \"2\"}, \"n\": {\"solution\": \"3\"}}\n");
  Options options = options_for(file.path());
  options.few_shot = 1;
  const Traffic traffic = read_traffic(options);
  REQUIRE(traffic.sequences() == 2);
  const std::string first(traffic.tokens.begin(), traffic.tokens.begin() + traffic.offsets[1]);
  CHECK(first == "Q: A?\nA: 1\n\nQ: B?\nA: 2");
  options.few_shot = 2;
  CHECK_THROWS_AS(read_traffic(options), InputError);
}

TEST_CASE("prefix_report: real traffic is counted as by set union", "[examples][data]") {
  const auto gsm8k = prefixshare::tests::test_data("gsm8k/example_model_solutions.jsonl");
  const auto trace = prefixshare::tests::test_data("traces/mooncake_conversation.jsonl");
  if (!gsm8k || !trace) return;
  Options options = options_for(*gsm8k);
  options.groups = 256;
  const Traffic questions = read_traffic(options);
  const prefixshare::ForestStats stats = stats_of(build_forest(questions));
  CHECK(stats.sequences == 1024);
  CHECK(stats.logical_tokens == count_tokens(questions).logical);
  CHECK(stats.unique_tokens == count_tokens(questions).unique);

  options = options_for(*trace);
  for (const std::int64_t requests : {512, -1}) {
    options.requests = requests;
    const Traffic traffic = read_traffic(options);
    const prefixshare::ForestStats all = stats_of(build_forest(traffic));
    CHECK(all.logical_tokens == count_tokens(traffic).logical);
    CHECK(all.unique_tokens == count_tokens(traffic).unique);
    CHECK(all.logical_tokens == (requests < 0 ? 144793823 : 7218381));
    CHECK(traffic.blocks == (requests < 0 ? 182790 : 12024));
  }
}

TEST_CASE("prefix_report: a sample takes whole families within the limit", "[examples]") {
  // Families by first letter: a has 3 sequences of 2 + 2 tokens, b one of 9, c two of 1 + 1.
  const TemporaryFile file(
      "{\"prompt\": \"aa\", \"completions\": [\"xx\", \"yy\", \"zz\"]}\n"
      "{\"prompt\": \"bbbbbbbb\", \"completions\": [\"b\"]}\n"
      "{\"prompt\": \"c\", \"completions\": [\"x\", \"y\"]}\n");
  const prefixshare::Forest forest = build_forest(read_traffic(options_for(file.path())));
  using Sequences = std::vector<std::int32_t>;
  CHECK(held_tokens(forest, Weight::unique) == 8 + 9 + 3);
  CHECK(held_tokens(forest, Weight::logical) == 12 + 9 + 4);
  CHECK(choose_families(forest, Weight::unique, 20) == Sequences{0, 1, 2, 3, 4, 5});
  CHECK(choose_families(forest, Weight::unique, 12) == Sequences{0, 1, 2, 4, 5});
  CHECK(choose_families(forest, Weight::unique, 6) == Sequences{0, 1});  // family a is divided
  CHECK(choose_families(forest, Weight::logical, 17) == Sequences{0, 1, 2, 4, 5});
  CHECK(choose_families(forest, Weight::unique, 1).empty());
}

TEST_CASE("prefix_report: a check fails beyond its bound and on NaN", "[examples]") {
  Check check{"o", 0, 0, 1e-6};
  const double truth[] = {1, -2};
  const float right[] = {1, -2}, wrong[] = {1, -2.00001F}, nan[] = {std::nanf(""), -2};
  check.compare_block(right, truth, 2, 0);
  CHECK(check.ok());
  Check other = check;
  other.compare_block(wrong, truth, 2, 0);
  CHECK(!other.ok());
  check.compare_block(nan, truth, 2, 0);
  check.compare_block(right, truth, 2, 0);
  CHECK(!check.ok());
}

TEST_CASE("prefix_report: answers on its own sample, decode and training", "[examples]") {
  const Answer decode = run(kSmall + "--json");
  INFO(decode.err);
  REQUIRE(decode.code == 0);
  const Json json = Json::parse(decode.out);
  CHECK(json["ok"] == true);
  CHECK(json["independent_count"]["ok"] == true);
  CHECK(json["forest"]["sequences"] == 60);
  CHECK(json["shared"]["counters"]["kv_rows"] < json["unshared"]["counters"]["kv_rows"]);
  CHECK(json["unshared"]["counters"]["kv_rows"] == json["forest"]["logical_tokens"]);
  CHECK(json["shared"]["counters"]["pairs"] == json["unshared"]["counters"]["pairs"]);

  const TemporaryFile file(kCompletions);
  const Answer train = run(kSmall + "--train --json " + file.path());
  INFO(train.err);
  REQUIRE(train.code == 0);
  CHECK(Json::parse(train.out)["checks"]["against_unshared"].size() == 5);
}

TEST_CASE("prefix_report: text fits 100 columns and stderr stays quiet without a terminal", "[examples]") {
  const TemporaryFile file(kTrace);
  const Answer answer = run(kSmall + "--dtype f16 --kv-gib 0.0001 " + file.path());
  INFO(answer.out << answer.err);
  REQUIRE(answer.code == 0);
  CHECK(answer.err.empty());
  CHECK(answer.out.find("left out because of --kv-gib") != std::string::npos);
  std::size_t begin = 0;
  for (std::size_t end; (end = answer.out.find('\n', begin)) != std::string::npos; begin = end + 1) {
    CHECK(end - begin <= 100);
  }
}

TEST_CASE("prefix_report: bad input is one line with its place, exit code 2", "[examples]") {
  std::string broken;
  for (int i = 0; i < 16; ++i) broken += "{\"prompt\": \"p\", \"completions\": [\"c\"]}\n";
  const std::vector<std::pair<std::string, std::string>> files = {
      {"", "is empty"},
      {"\n\n", "has no line"},
      {broken + "{\"prompt\": \n", ":17: not valid JSON"},
      {broken + "[1]\n", ":17: not a JSON object"},
      {broken + "{\"completions\": []}\n", ":17: has no \"prompt\""},
      {broken + "{\"prompt\": \"p\", \"completions\": [3]}\n", ":17: \"completions\" holds"},
      {"{\"prompt\": 3, \"completions\": []}\n", ":1: \"prompt\" is not a string"},
      {"{\"text\": \"p\"}\n", ":1: has neither"},
      {"{\"prompt\": \"p\", \"completions\": []}\n", "has no tokens"},
      {"{\"input_length\": -5, \"hash_ids\": []}\n", ":1: \"input_length\" is negative: -5"},
      {"{\"input_length\": 513, \"hash_ids\": [1]}\n", ":1: \"hash_ids\" has 1 blocks, 513 tokens need 2"},
      {"{\"input_length\": 1.5, \"hash_ids\": [1]}\n", ":1: \"input_length\" is not an integer"},
      {"{\"question\": \"q\", \"ground_truth\": \"a\"}\n", "no question is left after the 8 worked ones"}};
  for (const auto& [text, message] : files) {
    const TemporaryFile file(text);
    const Answer answer = run(kSmall + file.path());
    INFO(message << " in: " << answer.err);
    CHECK(answer.code == 2);
    CHECK(answer.out.empty());
    CHECK(answer.err.find(message) != std::string::npos);
    CHECK(answer.err.find(file.path()) != std::string::npos);
    CHECK(answer.err.find('\n') == answer.err.size() - 1);
  }
}

TEST_CASE("prefix_report: bad options are one line, exit code 2", "[examples]") {
  const std::vector<prefixshare::tests::BadArguments> options = {{"/no/such/file", "/no/such/file: cannot be opened"},
                                                                 {"--hq 0", "--hq must be at least 1, got 0"},
                                                                 {"--hq 5 --hkv 2", "multiple"},
                                                                 {"--model gpt", "--model knows"},
                                                                 {"--dtype f8", "--dtype knows"},
                                                                 {"--d -64", "--d must be at least 1"},
                                                                 {"--repeats 0", "--repeats must be at least 1"},
                                                                 {"--kv-gib 0", "--kv-gib must be positive"},
                                                                 {"--groups -1", "--groups must be at least 1"},
                                                                 {"--nonsense", "nonsense"},
                                                                 {"--kv-gib 0.0000001", "no sequence fits"}};
  prefixshare::tests::check_refused(PREFIX_REPORT, options);
}
