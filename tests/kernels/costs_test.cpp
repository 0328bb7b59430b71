// SPDX-License-Identifier: Apache-2.0
// Where cost constants come from: the measured machines of kernels/costs, and set_cost.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/attention.hpp"
#include "support/data.hpp"
#include "support/device.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using Json = nlohmann::json;

const std::pair<const char*, double CostModel::*> kTimes[] = {{"item_ns", &CostModel::item},
                                                              {"kv_element_ns", &CostModel::kv_element},
                                                              {"mac_ns", &CostModel::mac},
                                                              {"partial_ns", &CostModel::partial},
                                                              {"few_kv_element_ns", &CostModel::few_kv_element},
                                                              {"few_mac_ns", &CostModel::few_mac},
                                                              {"min_item_ns", &CostModel::min_item}};

/// Every file of kernels/costs, by its name without ".json".
std::map<std::string, Json> cost_files() {
  std::map<std::string, Json> files;
  for (const auto& file : std::filesystem::directory_iterator(PREFIXSHARE_COSTS)) {
    if (file.path().extension() != ".json") continue;
    std::ifstream stream(file.path());
    files[file.path().stem().string()] = Json::parse(stream);
  }
  return files;
}

struct Cpu {
  std::string vendor;
  int family = -1, model = -1;
};
bool operator<(const Cpu& a, const Cpu& b) {
  return std::tie(a.vendor, a.family, a.model) < std::tie(b.vendor, b.family, b.model);
}
/// What the system says, which the library does not ask. Empty where it does not say so: an emulated machine of another
/// architecture sees the file of its host.
Cpu this_cpu() {
  Cpu cpu;
#if defined(__x86_64__)
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const std::string key = line.substr(0, line.find_first_of("\t:"));
    const std::string value = line.substr(std::min(line.size(), line.find(':') + 2));
    if (key == "vendor_id") cpu.vendor = value;
    if (key == "cpu family") cpu.family = std::stoi(value);
    if (key == "model") cpu.model = std::stoi(value);
  }
#endif
  return cpu;
}

bool is_of_gpu(const Json& file) { return file.contains("devices"); }
bool names(const Json& file, const Cpu& cpu) {
  if (is_of_gpu(file)) return false;
  const Json& id = file.at("cpuid");
  const auto models = id.at("models").get<std::vector<int>>();
  return id.at("vendor") == cpu.vendor && id.at("family") == cpu.family &&
         std::find(models.begin(), models.end(), cpu.model) != models.end();
}

/// The first entry of an implementation, which is the one that counts; null if there is none.
Json entry_of(const Json& file, const std::string& implementation) {
  for (const Json& e : file.at("cost_models")) {
    if (e.at("implementation") == implementation) return e;
  }
  return nullptr;
}

Context context_of_build() {
  Context context;
  require_ok(create_context(&context));
  return context;
}

/// 32 sequences of 32 own tokens behind 512 shared ones.
Problem decode_problem() {
  ProblemOptions options;
  Problem p;
  require_ok(make_problem(testing::prefix_group(512, std::vector<std::int32_t>(32, 32), false), options, &p));
  return p;
}

}  // namespace

TEST_CASE("costs: every file names its machine, which no other names, and has constants in range", "[kernels]") {
  const Context context = context_of_build();
  const std::set<std::string> known = {"cpu:amx-bf16", "cpu:avx512-bf16", "cpu:avx512", "cpu:avx2",
                                       "cpu:portable", "cuda:mma-sm80",   "cuda:simt"};
  std::set<Cpu> machines;
  std::set<std::string> devices;
  const auto files = cost_files();
  REQUIRE(files.count("amd-zen4") == 1);
  for (const auto& [name, file] : files) {
    INFO(name);
    CHECK(file.at("machine") == name);
    CHECK(name.size() < std::size_t{kNameCapacity});
    if (is_of_gpu(file)) {
      CHECK_FALSE(file.at("devices").empty());
      for (const std::string device : file.at("devices")) CHECK(devices.insert(device).second);
    } else {
      const Json& id = file.at("cpuid");
      CHECK_FALSE(id.at("models").empty());
      for (const int model : id.at("models").get<std::vector<int>>()) {
        CHECK(machines.insert({id.at("vendor"), id.at("family"), model}).second);
      }
      CHECK_FALSE(entry_of(file, "cpu:portable").is_null());
    }
    for (const Json& e : file.at("cost_models")) {
      const std::string implementation = e.at("implementation");
      INFO(implementation);
      CHECK(known.count(implementation) == 1);
      for (const auto& [field, time] : kTimes) {
        INFO(field);
        CHECK(e.at(field).is_number());
        CHECK(e.at(field) >= 0.0);
        CHECK(e.at(field) < 1e9);
      }
      const auto* built = detail::find(context.tree_attention, implementation.c_str());
      if (built == nullptr) continue;  // of other machines
      CHECK(e.at("row_step") == built->cost.row_step);
      CHECK(e.at("few_rows") == built->cost.few_rows);
      CHECK((e.at("few_mac_ns") > 0.0) == (built->cost.few_rows > 0));
    }
  }
}

TEST_CASE("costs: a context has the constants of the file that names its machine", "[kernels]") {
  const Context context = context_of_build();
  const Cpu cpu = this_cpu();
  std::string machine = "default";
  for (const auto& [name, file] : cost_files()) {
    if (!names(file, cpu)) continue;
    machine = name;
    for (std::int32_t i = 0; i < context.tree_attention.count; ++i) {
      const auto& entry = context.tree_attention.entries[i];
      const Json measured = entry_of(file, entry.name);
      if (measured.is_null()) continue;
      INFO(entry.name);
      for (const auto& [field, time] : kTimes) CHECK(entry.cost.*time == measured.at(field).get<double>());
    }
  }
  CHECK(context.machine == machine);
  if (machine == "default") skip("constants of this machine", "no file of kernels/costs names it");
}

TEST_CASE("costs: set_cost changes one implementation, and what its plans share", "[kernels]") {
  const Problem p = decode_problem();
  Context context = context_of_build();
  require_ok(force_implementation(&context, "cpu:portable"));
  Plan shared, dear, never;
  require_ok(make_plan(context, p.forest, p.options.kind, {}, &shared));
  const Context before = context;
  CostModel cost = detail::find(context.tree_attention, "cpu:portable")->cost;
  cost.partial = 1e8;
  require_ok(set_cost(&context, "cpu:portable", cost));
  require_ok(make_plan(context, p.forest, p.options.kind, {}, &dear));
  PlanOptions options;
  options.sharing = Sharing::never;
  require_ok(make_plan(context, p.forest, p.options.kind, options, &never));
  CHECK_FALSE(shared == never);
  CHECK(dear == never);
  for (std::int32_t i = 0; i < context.tree_attention.count; ++i) {
    const auto& entry = context.tree_attention.entries[i];
    const bool set = std::string(entry.name) == "cpu:portable";
    CHECK(entry.cost.partial == (set ? 1e8 : before.tree_attention.entries[i].cost.partial));
  }
}

TEST_CASE("costs: set_cost names what is wrong and changes nothing", "[kernels]") {
  Context context = context_of_build();
  const CostModel good = detail::find(context.tree_attention, "cpu:portable")->cost;
  const auto refused = [&](const char* implementation, const CostModel& cost, const char* argument, const char* field) {
    const Status s = set_cost(&context, implementation, cost);
    INFO(to_string(s));
    CHECK(s.code == StatusCode::invalid_argument);
    CHECK(std::string(s.op) == "set_cost");
    CHECK(std::string(s.argument) == argument);
    CHECK(std::string(s.field) == field);
    CHECK(detail::find(context.tree_attention, "cpu:portable")->cost.item == good.item);
  };
  for (const auto& [name, time] : kTimes) {
    const std::string field = std::string(name).substr(0, std::string(name).size() - 3);
    for (const double bad : {-1.0, 1e9, std::numeric_limits<double>::quiet_NaN()}) {
      CostModel cost = good;
      cost.item = good.item + 1;
      cost.*time = bad;
      refused("cpu:portable", cost, "cost", field.c_str());
    }
  }
  CostModel cost = good;
  cost.row_step = 0;
  refused("cpu:portable", cost, "cost", "row_step");
  cost = good;
  cost.few_rows = -1;
  refused("cpu:portable", cost, "cost", "few_rows");
  refused("cpu:none", good, "implementation", "entries of tree_attention");
  refused("", good, "implementation", "entries of tree_attention");
  refused(nullptr, good, "implementation", "");
  CHECK(set_cost(nullptr, "cpu:portable", good).code == StatusCode::invalid_argument);
}

TEST_CASE("costs: a plan for a device takes what its runtime knows of the device, if it knows anything", "[kernels]") {
  const Problem p = decode_problem();
  Context context = device_context();
  const auto plan = [&] {
    Plan made;
    require_ok(make_plan(context, p.forest, p.options.kind, {}, &made, MemorySpace::device));
    return made;
  };
  const Plan shared = plan();
  context.device.measured_cost = [](const char* implementation, const CostModel& cost) noexcept {
    CostModel measured = cost;
    if (std::string(implementation) == "test:device") measured.partial = 1e8;
    return measured;
  };
  const Plan dear = plan();
  PlanOptions options;
  options.sharing = Sharing::never;
  Plan never;
  require_ok(make_plan(context, p.forest, p.options.kind, options, &never, MemorySpace::device));
  CHECK_FALSE(shared == dear);
  CHECK(dear == never);
  Plan on_host;  // which has nothing to do with it
  require_ok(force_implementation(&context, "cpu:portable"));
  require_ok(make_plan(context, p.forest, p.options.kind, {}, &on_host));
  CHECK_FALSE(on_host == never);
}
