// SPDX-License-Identifier: Apache-2.0
// prefixshare_report: every case is on the page, nothing that a file says becomes markup, machines stay apart, and
// input that is of no use is named while the rest is shown.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bench/results.hpp"
#include "bench/well_formed.hpp"
#include "report/axis.hpp"
#include "report/markup.hpp"
#include "report/page.hpp"
#include "report/sections.hpp"
#include "support/catch.hpp"
#include "support/program.hpp"

namespace {

using namespace prefixshare::report;
using namespace prefixshare::tests;
using Catch::Matchers::Contains;

Answer run(const std::string& arguments) { return prefixshare::tests::run(REPORT, arguments); }

struct Parsed {
  Run run;
  Complaints complaints;
};
Parsed parse(const std::string& text) {
  Parsed p;
  p.run = parse_run("file.json", text, &p.complaints);
  return p;
}

std::vector<Machine> machines_of(const std::vector<Json>& files) {
  std::vector<Run> runs;
  Complaints ignored;
  for (const Json& json : files) runs.push_back(parse(json.dump()).run);
  return by_machine(std::move(runs), &ignored);
}

std::string page_of(const std::vector<Json>& files) { return make_page(machines_of(files)); }

/// A section of the page's only machine.
std::string section_of(std::string (*make)(const Machine&), const std::vector<Json>& files) {
  const std::vector<Machine> machines = machines_of(files);
  REQUIRE(machines.size() == 1);
  return make(machines.front());
}

std::size_t count(const std::string& text, const std::string& word) {
  std::size_t n = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
  return n;
}

Json attention(const std::string& workload, const std::string& implementation, double ms, double vs_unshared = 1.5) {
  return quiet(workload + "/bf16/threads:2/" + implementation + "/manual_time", ms,
               {{"FLOP/s", 1e11},
                {"B/s", 2e9},
                {"floor_ms", 0.4},
                {"floor_fraction", 0.4 / ms},
                {"unshared_ms", vs_unshared * ms},
                {"vs_unshared", vs_unshared},
                {"plan_equal", 0}});
}

/// A run with something for every section.
Json full_run(const std::string& commit = "7dd0138", const std::string& date = "2026-11-25T15:00:00+00:00") {
  std::vector<Json> list = {attention("C1", "cpu:avx512", 1), attention("C1", "cpu:portable", 4)};
  for (const int prefix : {64, 1024, 4096}) {
    list.push_back(attention("sweep/prefix:" + std::to_string(prefix), "cpu:avx512", 1));
    list.push_back(attention("sweep/batch:" + std::to_string(prefix / 64), "cpu:avx512", 1));
    for (const int batch : {1, 8, 64}) {
      const std::string lengths = "prefix:" + std::to_string(prefix) + "/batch:" + std::to_string(batch);
      list.push_back(attention("grid/" + lengths + "/own:64", "cpu:avx512", 1, batch > 1 ? 1.4 : 1));
    }
  }
  list.push_back(quiet("assignment/pat/tree/Hq:32/Hkv:8/threads:2/manual_time", 3,
                       {{"planned_ms", 3}, {"always_ms", 4}, {"never_ms", 2.5}, {"vs_best", 1.2}}));
  return results(list, {{"machine", "amd-zen4"},
                        {"cpu", "AMD EPYC"},
                        {"commit", commit},
                        {"compiler", "g++ 12.2.0"},
                        {"date", date},
                        {"ceilings/threads:2/memory", "3.7e+10"},
                        {"ceilings/threads:2/f32", "2.36e+11"}});
}

Json peer_run() {
  return results(
      {entry("C1/bf16/threads:2/torch-sdpa", 0.8), failed("C4/bf16/threads:2/torch-sdpa", "out <of> memory")},
      {{"machine", "amd-zen4"}, {"peer", "torch 2.11"}});
}

}  // namespace

TEST_CASE("report: names of cases", "[bench]") {
  struct Expected {
    const char *name, *workload, *dtype, *implementation;
    int threads;
  };
  const Expected names[] = {
      {"C1/flushed/bf16/threads:2/cpu:avx512/manual_time", "C1/flushed", "bf16", "cpu:avx512", 2},
      {"C1/bf16-f32/threads:16/torch-sdpa", "C1", "bf16-f32", "torch-sdpa", 16},
      {"merge_states/cpu:avx2/f32/rows:64/parts:2/threads:1", "merge_states/rows:64/parts:2", "f32", "cpu:avx2", 1},
      {"assignment/pat/1,4|2,3/Hq:32/threads:2/manual_time", "assignment/pat/1,4|2,3/Hq:32", "", "", 2},
      {"plan/grow/leaves:256/iterations:1/repeats:3/manual_time", "plan/grow/leaves:256", "", "", 0},
  };
  for (const Expected& e : names) {
    INFO(e.name);
    const CaseName name = parse_case_name(e.name);
    CHECK(name.workload == e.workload);
    CHECK(name.dtype == e.dtype);
    CHECK(name.implementation == e.implementation);
    CHECK(name.threads == e.threads);
  }
  CHECK(label_value("grid/prefix:64/batch:8", "batch") == 8);
  CHECK_FALSE(label_value("grid/prefix:some", "prefix"));
  CHECK_FALSE(label_value("grid/own:64", "prefix"));
  CHECK(any_label("grid/prefix:64/batch:8", "prefix") == "grid/prefix:N/batch:8");
  CHECK(without_label("grid/prefix:64/batch:8", "prefix") == "grid/batch:8");
}

TEST_CASE("report: numbers that are none are named and left out", "[bench]") {
  const Parsed p = parse(
      "{\"context\": {}, \"benchmarks\": ["
      "{\"name\": \"a \\\"NaN\\\"\", \"real_time\": 1.5, \"time_unit\": \"us\", \"floor_ms\": NaN, \"busy\": "
      "-Infinity},"
      "{\"name\": \"b\", \"real_time\": 2, \"time_unit\": \"s\", \"vs_unshared\": \"fast\", \"brand_new\": \"text\"},"
      "{\"name\": \"c\", \"real_time\": NaN, \"time_unit\": \"ms\"},"
      "{\"name\": \"d\", \"real_time\": \"3\", \"time_unit\": \"ms\"},"
      "{\"name\": \"e\", \"real_time\": 3, \"time_unit\": \"weeks\"},"
      "{\"name\": \"f\", \"real_time\": -3, \"time_unit\": \"ms\"},"
      "{\"name\": \"g_mean\", \"run_type\": \"aggregate\", \"real_time\": 3, \"time_unit\": \"ms\"},"
      "{\"real_time\": 3}, 17]}");
  REQUIRE(p.run.cases.size() == 2);
  CHECK(p.run.cases[0].name.full == "a \"NaN\"");
  CHECK(p.run.cases[0].seconds() == Approx(1.5e-6));
  CHECK(p.run.cases[1].seconds() == Approx(2));
  CHECK_FALSE(p.run.cases[0].counter("floor_ms"));
  const Complaints expected = {
      "file.json: a \"NaN\": busy is no number that can be measured, it is left out",
      "file.json: a \"NaN\": floor_ms is no number that can be measured, it is left out",
      "file.json: b: vs_unshared is no number that can be measured, it is left out",
      "file.json: c (and 3 more): real_time with its time_unit is no time, the case is left out",
      "file.json: an entry of benchmarks (and 1 more): it has no name, it is left out",
  };
  CHECK(p.complaints == expected);
}

TEST_CASE("report: extreme numbers leave the page whole", "[bench]") {
  for (const double extreme : {1e308, 1e30, 1e-30, 1e-320, 0.0, -1.0}) {
    Json json = full_run();
    for (Json& c : json["benchmarks"]) {
      for (auto& [key, value] : c.items()) {
        if (value.is_number() && key != "real_time") value = extreme;
      }
    }
    json["benchmarks"][0]["real_time"] = extreme;
    json["benchmarks"][1]["real_time"] = 1e25;
    INFO(extreme);
    const std::string page = page_of({json, peer_run()});
    CHECK(XmlChecker::check(page.substr(16)) == "");
    for (const char* bad : {"\"nan", "\"-nan", "\"inf", "\"-inf", ",nan", ",inf", ",-inf"})
      CHECK(page.find(bad) == std::string::npos);
  }
}

TEST_CASE("report: files of no use are refused", "[bench]") {
  const std::string whole = full_run().dump();
  for (const std::string& text :
       {whole.substr(0, whole.size() / 2), std::string(), std::string("garbage \x01\xff"), std::string("[1, 2]"),
        std::string("{\"context\": {}}"), std::string("{\"benchmarks\": 3}"), std::string("{\"benchmarks\": []}"),
        std::string(100000, '['), std::string("{\"benchmarks\": [{\"name\": \"a\"}]}")}) {
    INFO(text.substr(0, 40));
    CHECK_THROWS_AS(parse(text), InputError);
  }
}

TEST_CASE("report: keys of the file that nobody knows do not matter", "[bench]") {
  Json json = results({quiet("C1/bf16/threads:2/cpu:avx512", 1)});
  json["tomorrow"] = {1, 2};
  json["context"]["weather"] = Json::object();
  json["context"]["ceilings/threads:2/memory"] = 17;  // text in this version
  json["context"]["ceilings/threads:none/memory"] = "1e9";
  json["context"]["caches"] = {{{"level", "one"}}, 3};
  json["benchmarks"][0]["mood"] = Json::array();
  const Parsed p = parse(json.dump());
  CHECK(p.complaints.empty());
  CHECK(p.run.cases.size() == 1);
  CHECK(p.run.ceilings.empty());
  CHECK(XmlChecker::check(page_of({json}).substr(16)).empty());
}

TEST_CASE("report: the checker of XML finds faults", "[bench]") {
  CHECK(XmlChecker::check("<a b=\"c &amp; d\"><e/>text &#215;</a>").empty());
  for (const char* bad : {"<a>", "<a></b>", "</a>", "<a b=c></a>", "<a>&</a>", "<a>1 < 2</a>", "<a b=\"<\"></a>",
                          "<a b=\"c/>", "<a>1 > 2</a>", "<a b=\"&\"/>"}) {
    INFO(bad);
    CHECK_FALSE(XmlChecker::check(bad).empty());
  }
}

TEST_CASE("report: the page is well-formed, whole and needs nothing else", "[bench]") {
  const std::string page = page_of({full_run("1111111", "2026-11-01T00:00:00+00:00"), full_run(), peer_run()});
  const std::string doctype = "<!DOCTYPE html>\n";
  REQUIRE(page.compare(0, doctype.size(), doctype) == 0);
  CHECK(XmlChecker::check(page.substr(doctype.size())) == "");
  for (const char* external : {"http:", "https:", "//", "src=", "url(", "@import", "<link", "<script"}) {
    INFO(external);
    CHECK(page.find(external) == std::string::npos);
  }
  for (const char* section :
       {"runs", "speed-up", "crossover", "floor", "roofline", "trees", "losses", "history", "cases"}) {
    INFO(section);
    CHECK(count(page, "id=\"m1-" + std::string(section) + "\"") == 1);
    CHECK(count(page, "href=\"#m1-" + std::string(section) + "\"") == 1);
  }
  CHECK(count(page, "class=\"missing\"") == 0);
  CHECK(count(page, "<svg viewBox=\"0 0 500") == 3 + 3 + 1 + 3 + 1 + 1 + 1);  // in the order of the page
}

TEST_CASE("report: every case stands in a table", "[bench]") {
  const Json json = full_run();
  const std::string cases = section_of(cases_section, {json, peer_run()});
  for (const Json& c : json["benchmarks"]) {
    std::string name = c["name"];
    if (name.size() > 12) name.erase(name.rfind("/manual_time"));
    INFO(name);
    CHECK(count(cases, "<td>" + name + "</td>") == 1);
  }
  CHECK_THAT(cases, Contains("<td>C1/bf16/threads:2/torch-sdpa</td><td>torch 2.11</td>"));
  CHECK_THAT(cases, Contains("C4/bf16/threads:2/torch-sdpa: out &lt;of&gt; memory"));
}

TEST_CASE("report: what a file says is text, never markup", "[bench]") {
  const std::string evil = "</td><script>alert(\"1\")</script>&'";
  Json json = results({attention(evil, "cpu:" + evil, 1), attention("C1", "cpu:avx512", 1)},
                      {{"machine", evil}, {"cpu", evil}, {"commit", evil}, {"compiler", evil}, {"flags", evil}});
  json["benchmarks"][0]["label"] = evil;
  const std::string page = page_of({json});
  CHECK(page.find("<script") == std::string::npos);
  CHECK(XmlChecker::check(page.substr(16)) == "");
}

TEST_CASE("report: a plot without its cases says which it needs", "[bench]") {
  const std::string page = page_of({results({quiet("rope_apply/cpu:avx2/f32/tokens:1024/threads:1", 1)})});
  CHECK(XmlChecker::check(page.substr(16)) == "");
  for (const char* line : {"Needs cases with both counters", "Against prefix length: needs three cases",
                           "Against batch: needs three cases", "Needs cases with the counter floor_ms", "Needs a grid",
                           "Needs the cases assignment", "Needs two files", "Ceilings: needs a file"}) {
    INFO(line);
    CHECK(page.find(line) != std::string::npos);
  }
  CHECK(count(page, "class=\"missing\"") == 8);
}

TEST_CASE("report: a machine has a part of its own", "[bench]") {
  Json other = full_run();
  other["context"]["machine"] = "amd-zen5";
  for (Json& c : other["benchmarks"]) c["name"] = "five/" + c["name"].get<std::string>();
  const std::vector<Machine> machines = machines_of({full_run(), other, peer_run()});
  REQUIRE(machines.size() == 2);
  CHECK(machines[0].runs.size() + machines[1].runs.size() == 3);
  for (const Machine& m : machines) {
    const std::string part = make_page(machines_of({m.title == "amd-zen5" ? other : full_run()}));
    CHECK((part.find("five/") != std::string::npos) == (m.title == "amd-zen5"));
    for (const Entry& e : m.entries) CHECK((e.c->name.full.rfind("five/", 0) == 0) == (m.title == "amd-zen5"));
    for (const Problem& p : m.problems) {
      for (const Entry& e : p.entries) CHECK(e.run->machine == m.title);
    }
  }
  CHECK(count(make_page(machines), "<article") == 2);
}

TEST_CASE("report: runs that do not say their machine stay apart from those that do", "[bench]") {
  std::vector<Run> runs;
  Complaints notes;
  for (const Json& context :
       {Json{{"machine", "amd-zen4"}}, Json{{"host_name", "vm"}}, Json{{"machine", "unknown"}, {"host_name", "vm"}}}) {
    runs.push_back(parse(results({quiet("C1/bf16/threads:2/cpu:avx512", 1)}, context).dump()).run);
  }
  CHECK(by_machine(std::move(runs), &notes).size() == 2);
  CHECK(notes.size() == 2);
}

TEST_CASE("report: the newest run of a case is shown, the older ones in the history", "[bench]") {
  const Json before = results({quiet("C1/bf16/threads:2/cpu:avx512", 2), quiet("C3/bf16/threads:2/cpu:avx512", 5)},
                              {{"machine", "m"}, {"commit", "aaaaaaa"}, {"date", "2026-01-01"}});
  const Json now = results({quiet("C1/bf16/threads:2/cpu:avx512", 1)},
                           {{"machine", "m"}, {"commit", "bbbbbbb"}, {"date", "2026-02-01"}});
  for (const std::vector<Json>& files : {std::vector<Json>{before, now}, std::vector<Json>{now, before}}) {
    const std::vector<Machine> machines = machines_of(files);
    REQUIRE(machines.front().entries.size() == 2);
    CHECK(machines.front().entries[0].c->seconds() == Approx(1e-3));
    CHECK(machines.front().entries[1].c->seconds() == Approx(5e-3));
    const std::string history = history_section(machines.front());
    CHECK_THAT(history, Contains("aaaaaaa, ms</th><th class=\"n\">bbbbbbb, ms"));
    CHECK_THAT(history, Contains("<td class=\"n\">2.000</td><td class=\"n\">1.000</td><td class=\"n\">0.50</td>"));
  }
}

TEST_CASE("report: losses are listed, worst first, and wins are not", "[bench]") {
  Json equal = attention("level", "cpu:avx512", 1, 0.5);
  equal["plan_equal"] = 1;
  const std::string losses = section_of(
      losses_section,
      {results({attention("win", "cpu:avx512", 1, 1.5), attention("loss", "cpu:avx512", 1, 0.85), equal,
                attention("C1", "cpu:avx512", 1), attention("slow", "cpu:avx512", 3),
                attention("slow", "cpu:portable", 2), quiet("assignment/tree/threads:2", 1, {{"vs_best", 1.06}}),
                quiet("assignment/near/threads:2", 1, {{"vs_best", 1.01}}),
                quiet("C6/merge/f32/threads:2/cpu:avx512", 1, {{"vs_memcpy", 0.4}})}),
       peer_run()});
  const std::vector<std::string> expected = {"C6/merge/f32/threads:2/cpu:avx512", "slow/bf16/threads:2/cpu:avx512",
                                             "C1/bf16/threads:2/cpu:avx512", "loss/bf16/threads:2/cpu:avx512",
                                             "assignment/tree"};
  std::size_t at = 0;
  for (const std::string& name : expected) {
    INFO(name);
    const std::size_t next = losses.find("<td>" + name);
    REQUIRE(next != std::string::npos);
    CHECK(next >= at);
    at = next;
  }
  CHECK(count(losses, "<tr>") == expected.size() + 1);
  CHECK_THAT(losses, Contains("torch-sdpa"));
  CHECK_THAT(losses, Contains("1 more within 3 %"));
}

TEST_CASE("report: the map knows gains, losses and plans that do not share", "[bench]") {
  std::vector<Json> list;
  for (const int prefix : {64, 1024}) {
    for (const int batch : {1, 8}) {
      list.push_back(attention("grid/prefix:" + std::to_string(prefix) + "/batch:" + std::to_string(batch) + "/own:64",
                               "cpu:avx512", 1, prefix == 64 ? 0.9 : 1.6));
    }
  }
  list[0]["plan_equal"] = 1;
  const std::string map = section_of(crossover_section, {results(list)});
  CHECK(count(map, "class=\"cell gain\"") == 2);
  CHECK(count(map, "class=\"cell loss\"") == 2);
  CHECK(count(map, "class=\"border\"") == 2);
  CHECK(count(map, ">=</text>") == 1);
  CHECK(count(map, ">1.60</text>") == 2);
  list.resize(2);
  CHECK_THAT(section_of(crossover_section, {results(list)}), Contains("class=\"missing\""));
}

TEST_CASE("report: a peer stands beside ours, against our way without sharing and our floor", "[bench]") {
  std::vector<Json> ours, theirs;
  for (const int prefix : {64, 1024, 4096}) {
    const std::string name = "sweep/prefix:" + std::to_string(prefix);
    ours.push_back(attention(name, "cpu:avx512", 1));
    theirs.push_back(entry(name + "/bf16/threads:2/ggml", 3));
  }
  const std::vector<Json> files = {results(ours), results(theirs, {{"machine", "amd-zen4"}, {"peer", "ggml"}})};
  const std::string speed_up = section_of(speed_up_section, files), floor = section_of(floor_section, files);
  CHECK(count(speed_up, "<td class=\"n\">0.50</td>") == 3);  // 1.5 ms over 3 ms
  CHECK(count(speed_up, ">ggml</text>") == 1);
  CHECK(count(floor, "<td class=\"n\">13.3</td>") == 3);  // 0.4 ms over 3 ms
}

TEST_CASE("report: marks of disturbed cases are hollow", "[bench]") {
  Json json = results({attention("C1", "cpu:avx512", 1)});
  CHECK(count(section_of(roofline_section, {json}), "hollow") == 0);
  json["benchmarks"][0]["busy"] = 0.7;
  CHECK(count(section_of(roofline_section, {json}), "hollow") > 0);
  CHECK_THAT(section_of(runs_section, {json}), Contains("1 case of 1 shared the machine with other processes"));
}

TEST_CASE("report: axes hold their values and have ticks, however small or large", "[bench]") {
  for (const double low : {1e-300, 1e-9, 0.37, 1.0, 12345.0, 1e200}) {
    for (const double factor : {1.0, 1.001, 1.3, 3.0, 40.0, 1e4, 1e40}) {
      INFO(low << " x " << factor);
      const Axis axis = log_axis({low, low * factor, 0, -1}, 0, 100);
      CHECK(axis.at(low) >= 0);
      CHECK(axis.at(low * factor) <= 100);
      CHECK(std::is_sorted(axis.ticks.begin(), axis.ticks.end()));
      CHECK(axis.ticks.size() >= 2);
      CHECK(axis.ticks.size() <= 30);
      for (const double tick : axis.ticks) CHECK((axis.at(tick) >= -1e-6 && axis.at(tick) <= 100 + 1e-6));
    }
  }
  CHECK(value_axis({64, 16, 64, 4096}, 0, 1).ticks == std::vector<double>{16, 64, 4096});
  CHECK(linear_axis(1, 0, 1).ticks.front() == 0);
}

TEST_CASE("report: labels that would meet are moved apart", "[bench]") {
  const std::vector<double> moved = spread({50, 50, 51, 99, 10}, 10, 0, 100);
  std::vector<double> sorted = moved;
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 1; i < sorted.size(); ++i) CHECK(sorted[i] - sorted[i - 1] >= 10 - 1e-9);
  CHECK(sorted.front() >= 0);
  CHECK(sorted.back() <= 100);
  CHECK(moved[4] == 10);
}

TEST_CASE("report: the program shows what it can and names what it cannot", "[bench]") {
  const TemporaryFile good(full_run().dump()), peer(peer_run().dump()), cut("{\"context\": {"), page("");
  const std::string out = " --out " + page.path();
  CHECK(run(good.path() + out).code == 0);
  CHECK(run(good.path() + out).err.empty());
  const Answer some = run(good.path() + " " + cut.path() + " " + peer.path() + out);
  CHECK(some.code == 1);
  CHECK(some.out == page.path() + "\n");
  CHECK(some.err == "prefixshare_report: " + cut.path() +
                        ": this is no JSON, or only a part of it\nprefixshare_report: " + peer.path() +
                        ": C4/bf16/threads:2/torch-sdpa: out <of> memory\n");
  CHECK(read_file(page.path()).find("torch 2.11") != std::string::npos);
  CHECK(run("--help").code == 0);
  const Answer none = run(cut.path() + out);
  CHECK(none.code == 2);
  CHECK_THAT(none.err, Contains("none of the files can be used"));
  check_refused(REPORT, {{good.path() + " --out /nowhere/page.html", "/nowhere/page.html: it cannot be written"},
                         {good.path() + " --colour", "--colour"}});
}
