// SPDX-License-Identifier: Apache-2.0
// The harness of the GPU kit with cases that pass, fail, hang and crash: it must survive them, say what happened, write
// it down at once and go on from there.
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "gpu/harness/children.hpp"
#include "gpu/harness/record.hpp"
#include "gpu/harness/results.hpp"
#include "gpu/harness/run_stage.hpp"
#include "gpu/harness/table.hpp"
#include "support/catch.hpp"

namespace {

using namespace prefixshare::gpu;

/// A folder that is gone with the test.
struct Folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("prefixshare_harness." + std::to_string(getpid()));
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
};

Record head(const std::string& commit = "c0ffee") {
  return Record().add("stage", "fake").add("commit", commit).add("device", Record().add("name", "none"));
}

Result passes() { return {Outcome::passed, "", Record().add("us", 12.5)}; }
Result hangs() {
  for (;;) pause();
}
Result crashes() {
  raise(SIGKILL);
  return {};
}
Result leaves() { _exit(3); }
Result breaks() { throw std::runtime_error("the device is gone"); }

constexpr double kSoon = 0.2;  // seconds until a case counts as hanging

std::vector<std::string> outcomes(const std::vector<Record>& lines) {
  std::vector<std::string> all;
  for (const Record& line : lines) all.push_back(line.text("case") + " " + line.text("outcome"));
  return all;
}
std::vector<Record> lines_in(const Folder& folder) {
  std::vector<Record> lines = read_records(folder.path / "fake.jsonl");
  lines.erase(lines.begin());
  return lines;
}

}  // namespace

TEST_CASE("record: what is written is read again", "[harness]") {
  Record r;
  r.add("case", "a/b: \"c\", {d}\\").add("us", 0.1).add("n", 1234567890123).add("list", std::vector<double>{1, 2.5});
  r.add("inner", Record().add("x", "y, z").add("u", 3)).add("bad", std::nan("")).add("text", "two\nlines");
  Record again;
  REQUIRE(Record::parse(r.json(), &again));
  CHECK(again.json() == r.json());
  CHECK(again.text("case") == "a/b: \"c\", {d}\\");
  CHECK(again.text("text") == "two\nlines");
  CHECK(again.value("us") == 0.1);
  CHECK(again.text("n") == "1234567890123");
  CHECK(again.text("inner") == "{\"x\": \"y, z\", \"u\": 3}");
  CHECK(again.text("bad") == "null");
  CHECK(Record::parse("{}", &again));
}

TEST_CASE("record: half a line is none", "[harness]") {
  const std::string whole = Record().add("case", "a, b").add("list", std::vector<double>{1, 2}).json();
  Record r;
  for (std::size_t n = 0; n < whole.size(); ++n) {
    INFO(whole.substr(0, n));
    CHECK_FALSE(Record::parse(whole.substr(0, n), &r));
  }
  CHECK_FALSE(Record::parse("no record", &r));
}

TEST_CASE("children: each case ends in its own way, and the others run", "[harness]") {
  const std::vector<Case> cases = {{"a/passes", passes},
                                   {"a/hangs", hangs, kSoon},
                                   {"a/passes too", passes},
                                   {"b/crashes", crashes},
                                   {"b/leaves", leaves},
                                   {"b/breaks", breaks},
                                   {"b/passes", passes},
                                   {"c/fails", [] { return Result::failure("1 is not 2"); }},
                                   {"c/skips", [] { return Result::skip("no such GPU"); }}};
  std::vector<Record> lines;
  Children children(
      cases, [&](std::size_t, Outcome, const Record& line) { lines.push_back(line); },
      Clock::now() + std::chrono::seconds(60));
  CHECK(children.run({0, 1, 2, 3, 4, 5, 6, 7, 8}) == 9);
  CHECK(outcomes(lines) == std::vector<std::string>{"a/passes passed", "a/hangs timed out", "a/passes too passed",
                                                    "b/crashes crashed", "b/leaves crashed", "b/breaks failed",
                                                    "b/passes passed", "c/fails failed", "c/skips skipped"});
  CHECK(lines[0].value("us") == 12.5);
  CHECK(lines[1].text("text") == "no end after 0.2 s");
  CHECK(lines[3].text("text") == "killed by signal 9");
  CHECK(lines[4].text("text") == "ended with exit code 3");
  CHECK(lines[5].text("text") == "the device is gone");
}

TEST_CASE("children: a group shares a process until a case breaks it", "[harness]") {
  const auto process = [] { return Result{Outcome::passed, "", Record().add("pid", getpid())}; };
  const std::vector<Case> cases = {
      {"a/1", process}, {"a/2", process}, {"b/1", process}, {"b/2", breaks}, {"b/3", process}};
  std::vector<Record> lines;
  Children children(
      cases, [&](std::size_t, Outcome, const Record& line) { lines.push_back(line); },
      Clock::now() + std::chrono::seconds(60));
  REQUIRE(children.run({0, 1, 2, 3, 4}) == 5);
  CHECK(lines[0].text("pid") == lines[1].text("pid"));
  CHECK(lines[1].text("pid") != lines[2].text("pid"));
  CHECK(lines[2].text("pid") != lines[4].text("pid"));
  CHECK(lines[0].text("pid") != std::to_string(getpid()));
}

TEST_CASE("children: a group that hangs again and again is left", "[harness]") {
  std::vector<Case> cases;
  for (int i = 0; i < 6; ++i) cases.push_back({"a/" + std::to_string(i), hangs, kSoon});
  cases.push_back({"b/1", passes});
  std::vector<Record> lines;
  Children children(
      cases, [&](std::size_t, Outcome, const Record& line) { lines.push_back(line); },
      Clock::now() + std::chrono::seconds(60));
  REQUIRE(children.run({0, 1, 2, 3, 4, 5, 6}) == 7);
  CHECK(outcomes(lines) == std::vector<std::string>{"a/0 timed out", "a/1 timed out", "a/2 timed out", "a/3 skipped",
                                                    "a/4 skipped", "a/5 skipped", "b/1 passed"});
  CHECK(lines[3].text("text") == "3 others of its group hang");
}

TEST_CASE("stage: what is done is not run again, what is left is", "[harness]") {
  const Folder folder;
  RunOptions options;
  options.folder = folder.path;
  Stage stage{"fake", {{"a/1", passes}, {"a/2", hangs, kSoon}, {"b/1", passes}}, {"case", "us"}, nullptr};

  options.seconds = 0;  // no time for any
  CHECK(run_stage(stage, options, head()) == kUnfinished);
  CHECK(lines_in(folder).empty());

  options.seconds = 60;
  options.filter = "a/";
  CHECK(run_stage(stage, options, head()) == kFailed);
  CHECK(outcomes(lines_in(folder)) == std::vector<std::string>{"a/1 passed", "a/2 timed out"});

  std::ofstream(folder.path / "fake.jsonl", std::ios::app) << "{\"case\": \"b/1\", \"outco";  // killed while writing
  options.filter = "";
  options.resume = true;
  stage.cases[0].run = stage.cases[1].run = crashes;  // would show if they ran
  bool finished = false;
  stage.finish = [&](const std::vector<Record>& lines) { finished = lines.size() == 3; };
  CHECK(run_stage(stage, options, head()) == kFailed);  // the hang still counts
  CHECK(outcomes(lines_in(folder)) == std::vector<std::string>{"a/1 passed", "a/2 timed out", "b/1 passed"});
  CHECK(finished);

  CHECK_THROWS_AS(run_stage(stage, options, head("another")), std::runtime_error);
  CHECK(lines_in(folder).size() == 3);  // nothing is lost
  stage.cases = {{"a/1", passes}};
  options.resume = false;
  CHECK(run_stage(stage, options, head("another")) == kPassed);
  CHECK(lines_in(folder).size() == 1);
}

TEST_CASE("stage: two cases of one name are a mistake", "[harness]") {
  const Folder folder;
  RunOptions options;
  options.folder = folder.path;
  const Stage stage{"fake", {{"a/1", passes}, {"a/1", passes}}, {}, nullptr};
  CHECK_THROWS_AS(run_stage(stage, options, head()), std::logic_error);
}

TEST_CASE("table: groups and their counts", "[harness]") {
  const auto line = [](const char* name, const char* outcome) {
    return Record().add("case", name).add("outcome", outcome).add("seconds", 1.5);
  };
  const std::vector<Record> lines = {line("merge/1", "passed"), line("merge/2", "timed out"), line("rope/1", "skipped"),
                                     line("merge/3", "passed")};
  CHECK(table(by_group(lines), {"group", "passed", "failed", "skipped", "seconds"}) ==
        "group  passed  failed  skipped  seconds\nmerge       2       1        0      4.5\nrope        0       0       "
        " 1      1.5\n");
}

TEST_CASE("table: columns of equal width, a dash for what is missing", "[harness]") {
  const std::vector<Record> lines = {Record().add("case", "W1").add("us", 20.5),
                                     Record().add("case", "W10/b").add("outcome", "failed")};
  CHECK(table(lines, {"case", "us", "outcome"}) ==
        "case     us  outcome\nW1     20.5        -\nW10/b     -   failed\n");
}
