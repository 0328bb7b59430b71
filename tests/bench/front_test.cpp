// SPDX-License-Identifier: Apache-2.0
// The front of the benchmarks: options, finding workloads, the list for peers, and a suite that names what there is.
#include <dlfcn.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "prefixshare/testing/kernel_module.hpp"
#include "support/catch.hpp"
#include "support/kernel_module.hpp"
#include "support/options.hpp"
#include "support/suite.hpp"
#include "support/workloads.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::bench;

Options parse(const std::vector<std::string>& arguments) {
  static std::vector<std::string> kept;  // the options point into it
  kept = {"prefixshare_bench"};
  kept.insert(kept.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& a : kept) pointers.push_back(a.data());
  return parse_options(pointers);
}

/// What is said of a bad command line; empty if nothing.
std::string complaint(const std::vector<std::string>& arguments) {
  try {
    parse(arguments);
  } catch (const OptionError& error) {
    return error.what();
  }
  return "";
}

const std::vector<std::string> kOperators = {"tree_attention",
                                             "tree_attention_backward",
                                             "shared_prefix_attention",
                                             "shared_prefix_attention_backward",
                                             "merge_states",
                                             "merge_states_backward",
                                             "rope_apply",
                                             "rope_shift",
                                             "rope_rebase",
                                             "kv_append",
                                             "pack_segment",
                                             "plan",
                                             "assignment"};

}  // namespace

TEST_CASE("options: ours are read, Google Benchmark's are passed on", "[bench]") {
  const Options o = parse({"--quick", "--threads=3", "--workload", "C1", "--scale=4", "--benchmark_filter=^C1"});
  CHECK(o.quick);
  CHECK_FALSE(o.list);
  CHECK(o.threads == 3);
  CHECK(o.workload == "C1");
  CHECK(o.scale == 4);
  REQUIRE(o.rest.size() == 2);
  CHECK(o.rest[1] == std::string("--benchmark_filter=^C1"));
  CHECK(parse({}).threads >= 1);
}

TEST_CASE("options: what is wrong is said in one line", "[bench]") {
  const std::pair<std::vector<std::string>, std::string> cases[] = {{{"--frob"}, "unknown option '--frob'"},
                                                                    {{"C1"}, "unknown option 'C1'"},
                                                                    {{"--threads=x"}, "--threads: 'x' is no number"},
                                                                    {{"--threads=0"}, "'0' is no number from 1"},
                                                                    {{"--threads="}, "'' is no number"},
                                                                    {{"--threads"}, "--threads needs a value"},
                                                                    {{"--quick=1"}, "--quick takes no value"},
                                                                    {{"--workload="}, "--workload needs a name"},
                                                                    {{"--scale=2"}, "--scale goes with --workload"},
                                                                    {{"--type=f32"}, "--type goes with --workload"},
                                                                    {{"--type=f8"}, "--type: 'f8' is none of f32"},
                                                                    {{"--kernel="}, "--kernel needs a file"},
                                                                    {{"--json"}, "--json goes with --list"}};
  for (const auto& [arguments, text] : cases) {
    const std::string said = complaint(arguments);
    INFO(arguments[0] << ": " << said);
    CHECK(said.find(text) != std::string::npos);
    CHECK(said.find('\n') == std::string::npos);
  }
}

TEST_CASE("workloads: found by name or expression, or refused", "[bench]") {
  const Workloads all = all_workloads();
  CHECK(all.find("C1").size() == 1);  // a name, though an expression finds it in others
  CHECK(all.find("fasttree/1,256|256,32").size() == 1);
  CHECK(all.find("^fasttree/").size() == 45);
  CHECK_THROWS_AS(all.find("nothing"), OptionError);
  CHECK_THROWS_AS(all.find("("), OptionError);
}

TEST_CASE("workloads: the list for peers is JSON with every node", "[bench]") {
  const Workloads all = all_workloads();
  std::ostringstream text;
  print_json(all, text);
  const nlohmann::json json = nlohmann::json::parse(text.str());
  REQUIRE(json["workloads"].size() == all.list.size());
  CHECK(json["missing"].size() == all.missing.size());
  std::set<std::string> names;
  for (const auto& w : json["workloads"]) names.insert(w["name"].get<std::string>());
  CHECK(names.size() == all.list.size());
  const auto found = std::find_if(json["workloads"].begin(), json["workloads"].end(),
                                  [](const auto& w) { return w["name"] == "cpu/W7b"; });
  REQUIRE(found != json["workloads"].end());
  const nlohmann::json& w = *found;
  CHECK(w["task"] == "forward");
  CHECK(w["Hq"] == 32);
  CHECK(w["kv_dtype"] == "bf16");
  CHECK(w["page_size"] == 16);
  CHECK(w["unique_tokens"] == 512 + 8 * (512 + 63));
  CHECK(w["logical_tokens"] == 8 * (1024 + 63));
  CHECK(w["nodes"]["parent"].size() == 1 + 8 + 8 * 63);
  CHECK(w["nodes"]["length"].size() == 1 + 8 + 8 * 63);
  CHECK(w["segments"]["length"].size() == 1 + 8 + 8);
  CHECK(w["sequences"]["node"].size() == 8 * 64);
  CHECK(w["draft_parents"].size() == 63);

  std::ostringstream table;
  print_list(all, table);
  CHECK(table.str().find("\nC1 ") != std::string::npos);
}

TEST_CASE("suite: every line names workloads that fit, every operator has quick cases, names are unique", "[bench]") {
  const Workloads all = all_workloads();
  for (const bool quick : {false, true}) {
    for (const std::string& op : kOperators) {
      INFO(op);
      std::set<std::string> names;
      bool some_quick = false;
      const std::vector<Problem> problems = suite_of(op, all, quick);
      CHECK_FALSE(problems.empty());
      for (const Problem& p : problems) {
        INFO(p.name());
        CHECK(names.insert(p.name()).second);
        CHECK((op == "assignment" || fits(op, *p.workload)));
        some_quick = some_quick || p.quick;
      }
      CHECK(some_quick);
    }
  }
}

TEST_CASE("suite: chosen workloads run on every operator that they fit", "[bench]") {
  const Workloads all = all_workloads();
  const auto operators_of = [&](const std::string& name) {
    std::vector<std::string> fitting;
    for (const std::string& op : kOperators) {
      if (!chosen_for(op, all.find(name), 2).empty()) fitting.push_back(op);
    }
    return fitting;
  };
  CHECK(operators_of("C1") ==
        std::vector<std::string>{"tree_attention", "shared_prefix_attention", "kv_append", "pack_segment", "plan"});
  CHECK(operators_of("cpu/W8") ==
        std::vector<std::string>{"tree_attention", "tree_attention_backward", "shared_prefix_attention",
                                 "shared_prefix_attention_backward", "kv_append", "pack_segment", "plan"});
  CHECK(operators_of("cpu/W7") == std::vector<std::string>{"tree_attention", "kv_append", "pack_segment", "plan"});
  CHECK(operators_of("cpu/W9") == std::vector<std::string>{"merge_states", "merge_states_backward"});
  CHECK(operators_of("cpu/W10") == std::vector<std::string>{"rope_apply", "rope_shift", "rope_rebase"});
  CHECK(chosen_for("plan", all.find("C1"), 2)[0].name() == "C1/scale:2/bf16");
}

TEST_CASE("suite: chosen workloads in another type", "[bench]") {
  const Workloads all = all_workloads();
  CHECK(chosen_for("tree_attention", all.find("C1"), 2, "f32")[0].name() == "C1/scale:2/f32");
  CHECK_THROWS_AS(chosen_for("tree_attention", all.find("C1"), 2, "f31"), OptionError);
}

TEST_CASE("kernel module: kernels of a shared library come first, or one line says why not", "[bench]") {
  Context context;
  throw_if_error(create_context(&context));
  const std::int32_t before = context.tree_attention.count;
  CHECK(load_kernels(OWN_KERNEL, &context) == std::vector<std::string>{"cpu:rows"});
  CHECK(context.tree_attention.count == before + 1);
  CHECK(context.tree_attention.entries[0].name == std::string("cpu:rows"));

  const auto refusal = [&](const std::string& file) -> std::string {
    try {
      load_kernels(file, &context);
    } catch (const OptionError& error) {
      return error.what();
    }
    return "";
  };
  const std::pair<std::string, std::string> cases[] = {{"nowhere.so", "nowhere.so"},
                                                       {"/dev/null", "file too short"},
                                                       {"libm.so.6", "libm.so.6"},
                                                       {NO_KERNEL, "it adds no kernel"},
                                                       {OWN_KERNEL, "invalid_argument"}};  // the name is taken
  for (const auto& [file, text] : cases) {
    const std::string said = refusal(file);
    INFO(said);
    CHECK(said.rfind("--kernel=" + file, 0) == 0);
    CHECK(said.find(text) != std::string::npos);
    CHECK(said.find('\n') == std::string::npos);
  }
}

TEST_CASE("kernel module: one that was built with other headers touches nothing", "[bench]") {
  Context context;
  throw_if_error(create_context(&context));
  const std::int32_t before = context.tree_attention.count;
  void* library = dlopen(OWN_KERNEL, RTLD_NOW | RTLD_LOCAL);
  REQUIRE(library != nullptr);
  const auto add =
      reinterpret_cast<prefixshare::testing::AddKernels>(dlsym(library, prefixshare::testing::kAddKernels));
  REQUIRE(add != nullptr);
  Status status;
  add(sizeof(Context) - 8, &context, &status);
  CHECK(status.code == StatusCode::unsupported);
  CHECK(context.tree_attention.count == before);
}
