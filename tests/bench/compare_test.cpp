// SPDX-License-Identifier: Apache-2.0
// prefixshare_compare: runs of one binary are no change, a slower kernel is found, and what cannot be compared is
// refused.
#include "report/compare.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "bench/results.hpp"
#include "report/baseline.hpp"
#include "support/catch.hpp"
#include "support/program.hpp"

namespace {

using namespace prefixshare::report;
using namespace prefixshare::tests;

/// How times of a call are assumed to scatter in a case of 0.6 seconds: each call around the median by `spread`; the
/// run as a whole by `between_runs` (where its pages lie, the clock). And others take cores for 5 ms now and then, just
/// so seldom that `busy` stays 0: up to 0.05 cores and two ticks of the clock, which is 50 ms in all.
struct Noise {
  double spread = 0.03;
  int calls = 100;
  double between_runs = 0.01;
};

class Simulation {
 public:
  Case run(const Noise& noise, double slowdown = 1) {
    constexpr double kSeconds = 0.6, kStolen = 0.05, kEpisode = 0.005;
    const double median = slowdown * kSeconds / noise.calls * std::exp(noise.between_runs * normal_(random_));
    std::vector<double> seconds;
    for (int i = 0; i < noise.calls; ++i) seconds.push_back(median * std::exp(noise.spread * normal_(random_)));
    for (double stolen = kStolen * uniform_(random_); stolen > 0; stolen -= kEpisode) {
      seconds[random_() % seconds.size()] += std::min(stolen, kEpisode);
    }
    std::sort(seconds.begin(), seconds.end());
    const auto quantile = [&](double part) {
      return seconds[static_cast<std::size_t>(part * static_cast<double>(seconds.size() - 1) + 0.5)];
    };
    Case c;
    c.repeats.push_back(
        {quantile(0.5),
         {{"low_ms", 1e3 * quantile(0.25)}, {"high_ms", 1e3 * quantile(0.75)}, {"calls", noise.calls}, {"busy", 0}}});
    return c;
  }

  /// Share of comparisons that end in the verdict.
  double share(Verdict verdict, const Noise& noise, double slowdown) {
    constexpr int kTries = 4000;
    int hits = 0;
    for (int i = 0; i < kTries; ++i) {
      hits += judge(estimate(run(noise)), estimate(run(noise, slowdown))).verdict == verdict ? 1 : 0;
    }
    return static_cast<double>(hits) / kTries;
  }

 private:
  std::mt19937_64 random_{1};
  std::normal_distribution<double> normal_;
  std::uniform_real_distribution<double> uniform_;
};

Run parse(const Json& json) {
  Complaints complaints;
  Run run = parse_run("test.json", json.dump(), &complaints);
  CHECK(complaints.empty());
  return run;
}

Verdict verdict_of(const std::vector<Json>& a, const std::vector<Json>& b) {
  const std::vector<Compared> list = compare_runs(parse(results(a)), parse(results(b)));
  REQUIRE(list.size() == 1);
  return list.front().judgement.verdict;
}

Answer run(const std::string& arguments) { return prefixshare::tests::run(COMPARE, arguments); }

/// A folder that is gone with the test.
struct TemporaryFolder {
  TemporaryFile name{""};
  std::string path = name.path() + ".d";
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
};

const std::string kName = "C1/bf16/threads:2/cpu:avx512";

}  // namespace

TEST_CASE("compare: two runs of one binary are no change in 19 of 20 cases", "[bench]") {
  Simulation simulation;
  for (const Noise& noise : {Noise{}, Noise{0.01, 1000}, Noise{0.01, 7}, Noise{0.03, 7}, Noise{0.10, 40},
                             Noise{0.03, 100, 0.015}, Noise{0.20, 7, 0.015}, Noise{0.30, 1000, 0.015}}) {
    const double share = simulation.share(Verdict::no_change, noise, 1);
    INFO("spread " << noise.spread << ", " << noise.calls << " calls, " << share);
    CHECK(share >= 0.95);
  }
}

TEST_CASE("compare: a kernel that got slower or faster by 10 % is found in 19 of 20 cases", "[bench]") {
  Simulation simulation;
  for (const Noise& noise : {Noise{}, Noise{0.01, 1000}, Noise{0.02, 40}, Noise{0.05, 400}}) {
    const double slower = simulation.share(Verdict::slower, noise, 1.1);
    const double faster = simulation.share(Verdict::faster, noise, 1 / 1.1);
    INFO("spread " << noise.spread << ", " << noise.calls << " calls: " << slower << ", " << faster);
    CHECK(slower >= 0.95);
    CHECK(faster >= 0.95);
  }
}

TEST_CASE("compare: where noise would hide 10 % it says so", "[bench]") {
  Simulation simulation;
  const Case quiet_case = simulation.run({}), noisy = simulation.run({0.30, 7});
  CHECK_FALSE(judge(estimate(quiet_case), estimate(quiet_case)).hides_ten_percent());
  CHECK(judge(estimate(quiet_case), estimate(noisy)).hides_ten_percent());
}

TEST_CASE("compare: verdicts", "[bench]") {
  CHECK(verdict_of({quiet(kName, 1)}, {quiet(kName, 1.02)}) == Verdict::no_change);
  CHECK(verdict_of({quiet(kName, 1)}, {quiet(kName, 1.12)}) == Verdict::slower);
  CHECK(verdict_of({quiet(kName, 1.12)}, {quiet(kName, 1)}) == Verdict::faster);
  CHECK(verdict_of({quiet(kName, 1)}, {quiet(kName + "/manual_time", 1.12)}) == Verdict::slower);
  const std::vector<Compared> list =
      compare_runs(parse(results({quiet("a", 1), quiet("b", 1)})), parse(results({quiet("b", 1), quiet("c", 1)})));
  REQUIRE(list.size() == 3);
  CHECK(list[0].judgement.verdict == Verdict::only_in_a);
  CHECK(list[1].judgement.verdict == Verdict::no_change);
  CHECK(list[2].judgement.verdict == Verdict::only_in_b);
}

TEST_CASE("compare: units of time do not matter", "[bench]") {
  Json in_ns = quiet(kName, 1);
  in_ns["real_time"] = 1e6;
  in_ns["time_unit"] = "ns";
  CHECK(verdict_of({quiet(kName, 1)}, {in_ns}) == Verdict::no_change);
}

TEST_CASE("compare: a case that says nothing of its calls gets wide bounds", "[bench]") {
  CHECK(verdict_of({entry(kName, 1)}, {entry(kName, 1.12)}) == Verdict::no_change);
  CHECK(verdict_of({entry(kName, 1)}, {entry(kName, 1.3)}) == Verdict::slower);
}

TEST_CASE("compare: what others stole is not held against a run", "[bench]") {
  const auto busy = [](double ms, double cores) {
    Json json = quiet(kName, ms);
    json["busy"] = cores;
    return json;
  };
  CHECK(verdict_of({quiet(kName, 1)}, {busy(1.9, 0.5)}) == Verdict::no_change);
  CHECK(verdict_of({busy(1.9, 0.5)}, {quiet(kName, 1)}) == Verdict::no_change);
  CHECK(verdict_of({quiet(kName, 1)}, {busy(1.5, 0.1)}) == Verdict::slower);  // a tenth of a core explains 11 %
  CHECK(verdict_of({busy(1, 0.5)}, {quiet(kName, 1.2)}) ==
        Verdict::slower);  // undisturbed A would have been faster yet
}

TEST_CASE("compare: the spread of repeated runs counts as noise", "[bench]") {
  const auto repeats = [](const std::vector<double>& ms) {
    std::vector<Json> list;
    for (const double t : ms) list.push_back(quiet(kName, t));
    return list;
  };
  CHECK(verdict_of(repeats({1, 1.01, 0.99}), repeats({1.12, 1.13, 1.11})) == Verdict::slower);
  CHECK(verdict_of(repeats({1, 1.2, 0.85}), repeats({1.12, 1.35, 0.95})) == Verdict::no_change);
}

TEST_CASE("compare: a stored run is a baseline that later runs are held against", "[bench]") {
  const TemporaryFolder folder;
  const TemporaryFile old_run(results({quiet(kName, 1), quiet("C3/bf16", 2)}).dump());
  const TemporaryFile slower(results({quiet(kName, 1.2), quiet("C3/bf16", 2)}).dump());
  const std::string where = " --folder " + folder.path;
  const Answer stored = run("--store " + old_run.path() + where);
  CHECK(stored.code == 0);
  CHECK(stored.out == folder.path + "/amd-zen4.json\n");
  CHECK(run("--baseline " + old_run.path() + where).code == 0);
  const Answer answer = run("--baseline " + slower.path() + where);
  CHECK(answer.code == 1);
  CHECK(answer.out.find("1 slower, 0 faster, 1 no change, 0 only in A, 0 only in B\n") != std::string::npos);
}

TEST_CASE("compare: a baseline keeps times, quartiles, repeats and ceilings", "[bench]") {
  const TemporaryFolder folder;
  const Run before = parse(results(
      {quiet(kName, 1), quiet(kName, 1.1), entry("C3/bf16", 2)},
      {{"machine", "amd-zen4"}, {"ceilings/threads:1/memory", "3.4e+10"}, {"ceilings/threads:2/bf16", "4.71e+11"}}));
  REQUIRE(before.ceilings.size() == 2);
  Complaints complaints;
  const Run after = read_run(store_baseline(folder.path, before), &complaints);
  CHECK(complaints.empty());
  CHECK(after.machine == "amd-zen4");
  CHECK(after.ceilings == before.ceilings);
  REQUIRE(after.cases.size() == before.cases.size());
  for (std::size_t i = 0; i < before.cases.size(); ++i) {
    const Estimate a = estimate(before.cases[i]), b = estimate(after.cases[i]);
    CHECK(a.log_seconds == Approx(b.log_seconds));
    CHECK(a.error == Approx(b.error));
  }
}

TEST_CASE("compare: what is no baseline is refused", "[bench]") {
  const TemporaryFolder folder;
  Json busy = quiet(kName, 1);
  busy["busy"] = 0.5;
  const TemporaryFile disturbed(results({busy}).dump()), wrong(results({failed(kName, "wrong"), quiet("a", 1)}).dump()),
      nameless(results({quiet(kName, 1)}, Json::object()).dump()),
      escaping(results({quiet(kName, 1)}, {{"machine", "../x"}}).dump()), fine(results({quiet(kName, 1)}).dump());
  const std::string where = " --folder " + folder.path;
  CHECK(run("--store " + wrong.path() + where).code == 2);
  CHECK_FALSE(std::filesystem::exists(folder.path));
  check_refused(COMPARE, {{"--store " + disturbed.path() + where, "others used the machine during " + kName},
                          {"--store " + nameless.path() + where, "does not say the machine"},
                          {"--store " + escaping.path() + where, "no name of a file: ../x"},
                          {"--baseline " + fine.path() + where, "amd-zen4.json: it cannot be read"}});
}

TEST_CASE("compare: the program's answers and refusals", "[bench]") {
  const TemporaryFile a(results({quiet(kName, 1)}).dump()), b(results({quiet(kName, 1.2)}).dump()),
      other(results({quiet("else", 1)}).dump()), garbage("{\"context\": {");
  CHECK(run(a.path() + " " + a.path()).code == 0);
  CHECK(run(b.path() + " " + a.path()).code == 0);
  const Answer slower = run(a.path() + " " + b.path());
  CHECK(slower.code == 1);
  CHECK(slower.err.empty());
  CHECK(slower.out.find(kName + "  1.000  1.200  1.200  ") != std::string::npos);
  CHECK(run("--help").code == 0);
  check_refused(COMPARE, {{a.path(), "two files"},
                          {"--baseline " + a.path() + " " + b.path(), "one file"},
                          {a.path() + " " + other.path(), "no case in common"},
                          {a.path() + " " + garbage.path(), garbage.path() + ": this is no JSON"},
                          {a.path() + " /nowhere.json", "/nowhere.json: it cannot be read"},
                          {a.path() + " " + b.path() + " --fast", "--fast"}});
}

TEST_CASE("compare: runs of two machines or compilers say so", "[bench]") {
  const Run a = parse(results({quiet(kName, 1)}, {{"machine", "amd-zen4"}, {"compiler", "g++ 12.2.0"}}));
  const Run b = parse(results({quiet(kName, 1)}, {{"machine", "amd-zen5"}, {"compiler", "g++ 12.2.0"}}));
  const std::string text = compare_text(a, b, compare_runs(a, b));
  CHECK(text.find("machine differs: amd-zen4 | amd-zen5") != std::string::npos);
  CHECK(text.find("compiler differs") == std::string::npos);
}

TEST_CASE("compare: runs whose ceilings are apart say so", "[bench]") {
  Run a, b;
  a.cases = b.cases = {Simulation().run({})};
  a.ceilings = {{1, {{"memory", 30e9}, {"exp", 6e9}}}, {2, {{"cache", 200e9}}}};
  b.ceilings = {{1, {{"memory", 28e9}}}, {2, {{"cache", 176e9}, {"l2", 230e9}}}};
  const auto said = [&] { return compare_text(a, b, compare_runs(a, b)); };
  CHECK(said().find("the machine itself ran at another speed, B over A: cache 0.880 on threads:2\n") !=
        std::string::npos);
  b.ceilings[2]["cache"] = 190e9;
  CHECK(said().find("the machine itself") == std::string::npos);
}
