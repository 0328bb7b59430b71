// SPDX-License-Identifier: Apache-2.0
// The cases of the GPU kit without a GPU: they pass on the host, and find fault with implementations that are wrong in
// one way each.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "gpu/conformance.hpp"
#include "gpu/constants.hpp"
#include "gpu/harness/run_stage.hpp"
#include "gpu/machine_name.hpp"
#include "gpu/stages.hpp"
#include "gpu/workload.hpp"
#include "prefixshare/portable/kv_append.hpp"
#include "prefixshare/portable/merge_states.hpp"
#include "prefixshare/portable/rope.hpp"
#include "prefixshare/portable/tree_attention.hpp"
#include "prefixshare/portable/tree_attention_backward.hpp"
#include "report/run.hpp"
#include "support/catch.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::gpu;

/// The part of an operator that is right, and what spoils its call afterwards.
template <auto Part, auto Spoil, class Call>
Status spoiled(const Call& call, std::int32_t part, std::int32_t parts) noexcept {
  const Status s = Part(call, part, parts);
  if (s.ok()) Spoil(call);
  return s;
}

template <auto Part, auto Spoil, class Problem, class Call>
Target target_with(ImplementationList<Problem, Call> Context::*list) {
  Target t = host_target();
  Implementation<Problem, Call> entry;
  entry.name = "test:wrong";
  entry.part = &spoiled<Part, Spoil, Call>;
  throw_if_error((t.context.*list).add(entry));
  throw_if_error((t.context.*list).force("test:wrong"));
  return t;
}

/// Element i of the first row and head, changed by a factor.
template <int Rank>
void scale_element(const TensorView<Rank>& x, double factor) {
  if (x.data == nullptr || testing::count_of(x) == 0) return;
  prefixshare::detail::with_storage(x.dtype, [&](auto tag) {
    auto* element = static_cast<decltype(tag)*>(x.data);
    *element = store_as<decltype(tag)>(load_as<double>(*element) * factor + (factor - 1));
  });
}

// ---- Faults of attention

void wrong_value(const AttendCall& c) { scale_element(c.args.o, 1.25); }
void wrong_everywhere(const AttendCall& c) {
  for (std::int64_t r = 0; r < c.plan.header.rows; ++r) {
    TensorView<3> row = c.args.o;
    row.data = row.ptr(r);
    scale_element(row, 1.25);
  }
}
void wrong_lse(const AttendCall& c) { scale_element(c.args.lse, 1.01); }
void beside_the_output(const AttendCall& c) {
  if (c.plan.header.rows > 0) static_cast<unsigned char*>(c.args.o.data)[-1] = 0;
}
void row_left_out(const AttendCall& c) {
  if (c.plan.header.rows == 0) return;
  const std::int64_t last = c.plan.header.rows - 1;
  std::memset(c.args.o.ptr(last), 0xff, static_cast<std::size_t>(c.plan.header.kind.Dv * size_of(c.args.o.dtype)));
}
/// Rounds the other way in every second call.
void other_bits(const AttendCall& c) {
  static int calls = 0;
  if (c.plan.header.rows > 0) static_cast<unsigned char*>(c.args.o.data)[0] ^= static_cast<unsigned char>(++calls % 2);
}
/// Bits that depend on how many rows there are.
void depends_on_neighbours(const AttendCall& c) {
  if (c.plan.header.rows > 1) static_cast<unsigned char*>(c.args.lse.data)[0] ^= 1;
}
/// As if the lengths were those of the first call.
void old_lengths(const AttendCall& c) {
  static std::vector<float> first;
  if (c.args.actual_lengths.empty()) return;
  if (first.empty()) first.push_back(*static_cast<float*>(c.args.lse.data));
  *static_cast<float*>(c.args.lse.data) = first[0];
}
void no_dq(const AttendGradCall& c) {
  if (c.plan.header.rows > 0) scale_element(c.args.dq, 0);
}
void dk_twice(const AttendGradCall& c) {
  for (const KvGrad& g : c.args.dkv) {
    for (std::int64_t page = 0; page < g.dk.shape[0]; ++page) {
      TensorView<4> one = g.dk;
      one.data = g.dk.ptr(page);
      scale_element(one, 2);
    }
  }
}
void no_dk(const AttendGradCall& c) {
  for (const KvGrad& g : c.args.dkv) {  // which is contiguous
    std::memset(g.dk.data, 0, static_cast<std::size_t>(testing::count_of(g.dk) * size_of(g.dk.dtype)));
  }
}
void nothing_added(const AttendGradCall& c) {
  if (c.args.accumulate && c.plan.header.rows > 0) scale_element(c.args.dq, 2);
}

// ---- Faults of the operators on rows

void wrong_merge(const MergeStates& a) { scale_element(a.out.o, 1.25); }
void wrong_merge_lse(const MergeStatesGrad& a) {
  if (!a.dparts.empty()) scale_element(a.dparts[0].lse, 1.25);
}
void wrong_turn(const RopeApply& a) { scale_element(a.out, -1); }
void wrong_shift(const RopeShift& a) { scale_element(a.out, -1); }
void unnamed_slot(const KvAppend& a) {
  for (std::int64_t slot = 0; slot < a.pool.k.shape[0] * a.pool.k.shape[1]; ++slot) {
    bool named = false;
    for (const std::int64_t s : a.slots) named = named || s == slot;
    if (named) continue;
    const std::int64_t page = slot / a.pool.k.shape[1];
    std::memset(a.pool.k.ptr(page, slot % a.pool.k.shape[1]), 0, 2);
    return;
  }
}

// ---- Each fault, and the cases one of which has to fail

struct Fault {
  const char* name;
  const char* group;  ///< of cases
  MakeTarget target;
};

template <auto Spoil>
Target forward_fault() {
  return target_with<&portable::tree_attention_part, Spoil>(&Context::tree_attention);
}
template <auto Spoil>
Target backward_fault() {
  return target_with<&portable::tree_attention_backward_part, Spoil>(&Context::tree_attention_backward);
}

const Fault kFaults[] = {
    {"a wrong value", "instantiation", &forward_fault<&wrong_value>},
    {"a wrong lse", "matrix", &forward_fault<&wrong_lse>},
    {"a byte beside the output", "instantiation", &forward_fault<&beside_the_output>},
    {"a row left out", "matrix", &forward_fault<&row_left_out>},
    {"other bits in the next run", "instantiation", &forward_fault<&other_bits>},
    {"other bits beside other work", "order", &forward_fault<&other_bits>},
    {"bits that depend on the neighbours", "order", &forward_fault<&depends_on_neighbours>},
    {"lengths of another call", "order", &forward_fault<&old_lengths>},
    {"no dq", "backward instantiation", &backward_fault<&no_dq>},
    {"dk twice", "backward matrix", &backward_fault<&dk_twice>},
    {"gradients that are not added", "order", &backward_fault<&nothing_added>},
    {"a wrong merge", "merge",
     [] { return target_with<&portable::merge_states_part, &wrong_merge>(&Context::merge_states); }},
    {"a wrong gradient of a merge", "merge backward",
     [] {
       return target_with<&portable::merge_states_backward_part, &wrong_merge_lse>(&Context::merge_states_backward);
     }},
    {"a wrong turn", "rope apply",
     [] { return target_with<&portable::rope_apply_part, &wrong_turn>(&Context::rope_apply); }},
    {"a wrong shift", "rope shift",
     [] { return target_with<&portable::rope_shift_part, &wrong_shift>(&Context::rope_shift); }},
    {"a slot that no token names", "kv append",
     [] { return target_with<&portable::kv_append_part, &unnamed_slot>(&Context::kv_append); }},
};

std::vector<Case> small_cases(MakeTarget target) {
  CaseOptions options;
  options.target = target;
  options.seeds = 1;
  options.small = true;
  std::vector<Case> cases;
  add_conformance_cases(options, &cases);
  return cases;
}

}  // namespace

TEST_CASE("gpu kit: its cases pass on cpu:portable", "[gpu]") {
  for (const Case& c : small_cases(&host_target)) {
    const Result r = c.run();
    INFO(c.name << ": " << r.text);
    CHECK((r.outcome == Outcome::passed || r.text == "nothing is recorded here"));
  }
}

TEST_CASE("gpu kit: its cases find an implementation that is wrong in one way", "[gpu]") {
  for (const Fault& fault : kFaults) {
    std::string found;
    for (const Case& c : small_cases(fault.target)) {
      if (c.group() != fault.group) continue;
      const Result r = c.run();
      if (r.outcome == Outcome::failed) found = c.name + ": " + r.text;
      if (!found.empty()) break;
    }
    INFO(fault.name);
    CHECK(found != "");
  }
}

namespace {

constexpr const char* kWorkloads =
    "# a comment\n"
    "S1 decode tree=1,16|500,32 heads=8/2\n"
    "S2 verify tree=2|20 heads=8/2 draft=9\n"
    "S3 train tree=1,2|20,17 heads=4/2\n"
    "S4 merge parts=3 rows=20 heads=4/4\n"
    "S5 shift tokens=20 heads=4/4\n"
    "S6 decode tree=1|50 heads=8/2\n";

/// A folder with the workloads, and with constants of a machine that is easy to reckon with; gone with the test.
struct BenchFolder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("prefixshare_kit." + std::to_string(getpid()));
  BenchFolder() {
    std::filesystem::create_directories(path);
    std::ofstream(path / "workloads.txt") << kWorkloads;
    std::ofstream constants(path / "constants.jsonl");
    constants << Record().add("stage", "constants").add("device", Record().add("name", "Fast GPU 1")).json() << '\n';
    const auto add = [&](const char* name, double rate, double working_set) {
      constants << Record().add("case", name).add("rate", rate).add("working_set", working_set).json() << '\n';
    };
    add("copy/memory", 1e9, 0), add("read/small", 1e10, 1 << 18), add("read/large", 2e9, 1 << 26);
    add("products/bf16", 1e12, 0), add("exponentials/ex2", 1e9, 0);
  }
  ~BenchFolder() { std::filesystem::remove_all(path); }
  BenchFolder(const BenchFolder&) = delete;
  BenchFolder& operator=(const BenchFolder&) = delete;

  StageOptions options(MakeTarget target) const {
    StageOptions o;
    o.folder = path.string();
    o.quick = true;
    o.workloads = (path / "workloads.txt").string();
    o.target = target;
    return o;
  }
  int run(MakeTarget target) const {
    RunOptions o;
    o.folder = path.string();
    const Record device = Record().add("name", "Fast GPU 1").add("l2_bytes", 1 << 20);
    const Record head = Record().add("stage", "bench").add("device", device);
    return run_stage(bench_stage(options(target)), o, Record(head).add("date", "2026-01-02T03:04:05Z"));
  }
};

}  // namespace

TEST_CASE("gpu kit: bench checks and times every kind of workload, and reports all of it in one file", "[gpu]") {
  const BenchFolder folder;
  REQUIRE(folder.run(&host_target) == kPassed);
  std::ifstream file(folder.path / "fast-gpu-1-2026-01-02.json");
  const nlohmann::json report = nlohmann::json::parse(file);
  CHECK(report.at("context").at("machine") == "fast-gpu-1");
  CHECK(std::stod(report.at("context").at("ceilings/threads:1/memory").get<std::string>()) == 2e9);
  CHECK(report.at("constants").size() == 6);
  const nlohmann::json& cases = report.at("benchmarks");
  REQUIRE(cases.size() == 6);
  CHECK(cases.at(0).at("name") == "gpu/S1/page:16/bf16/threads:1/cpu:portable");
  for (const auto& c : cases) {
    INFO(c.dump());
    CHECK(c.at("time_unit") == "us");
    CHECK(c.at("floor_ms") > 0.0);
    const double ms = 1e-3 * c.at("real_time").get<double>();
    CHECK(c.at("low_ms").get<double>() <= Approx(ms));
    CHECK(c.at("high_ms").get<double>() >= Approx(ms));
    CHECK(c.at("floor_fraction").get<double>() == Approx(c.at("floor_ms").get<double>() / ms).epsilon(1e-4));
  }
  CHECK(cases.at(0).at("plan_equal") == 0);
  CHECK(cases.at(5).at("plan_equal") == 1);
  // Two parts of 20 x 4 x (128 x 2 + 4) bytes beside the result, at 1 GB/s.
  CHECK(cases.at(3).at("floor_ms").get<double>() == Approx(4 * 20 * 4 * 260 * 1e-6));
  report::Complaints complaints;
  const report::Run run = report::parse_run("file", report.dump(), &complaints);
  CHECK(complaints.empty());
  CHECK(run.cases.size() == 6);
}

TEST_CASE("gpu kit: bench does not time what is wrong", "[gpu]") {
  for (const MakeTarget target : {&forward_fault<&wrong_everywhere>, &backward_fault<&no_dk>}) {
    const BenchFolder folder;
    CHECK(folder.run(target) == kFailed);
  }
}

TEST_CASE("gpu kit: a workload that it does not understand stops it", "[gpu]") {
  for (const char* line :
       {"X decode", "X decode tree=1|2", "X decode tree=1|2 heads=3/2", "X verify tree=1|2 heads=4/2",
        "X merge parts=2 heads=4/4", "X fly tree=1|2 heads=4/2", "X decode tree=1|2 heads=4/2 by=3"}) {
    INFO(line);
    CHECK_THROWS_AS(parse_workload(line), std::runtime_error);
  }
  CHECK(parse_workload("X decode tree=1,4|128,256 heads=32/8").heads.group() == 4);
}

TEST_CASE("gpu kit: every workload of the list has a place", "[gpu]") {
  for (const BenchWorkload& w : read_workloads(PREFIXSHARE_GPU_KIT "/workloads.txt")) {
    INFO(w.name);
    if (!w.is_attention()) continue;
    const testing::Topology t = topology_of(w);
    std::int64_t rows = 0;
    for (const Sequence& s : t.sequences) rows += s.q_len;
    CHECK(rows > 0);
    CHECK(place(t, 16).rows() == rows);
  }
}

TEST_CASE("gpu kit: workloads of the list are those of the catalogue", "[gpu]") {
  int found = 0;
  for (const BenchWorkload& w : read_workloads(PREFIXSHARE_GPU_KIT "/workloads.txt")) {
    const testing::Workload* known = testing::find_workload("gpu/" + w.name);
    if (known == nullptr) continue;
    INFO(w.name);
    ++found;
    CHECK(w.tree == known->tree);
    CHECK(w.heads.Hkv == known->kind.Hkv);
    CHECK(w.heads.D == known->kind.D);
    CHECK((w.kind == "train") == (known->task == testing::Task::training));
    CHECK((w.kind == "merge") == (known->task == testing::Task::merge));
    CHECK((w.kind == "shift") == (known->task == testing::Task::shift));
    if (w.kind != "shift") CHECK(w.heads.Hq == known->kind.Hq);
    if (w.kind == "verify") CHECK(w.draft == 1 + static_cast<std::int32_t>(known->draft.size()));  // the last one, too
    if (w.kind == "merge") CHECK(w.parts == known->parts);
    if (w.kind == "merge") CHECK(w.rows == known->rows);
    if (w.kind == "shift") CHECK(w.tokens == known->rows);
  }
  CHECK(found == 14);
}

TEST_CASE("gpu kit: the planner's constants are fitted, and written as the build reads them", "[gpu]") {
  std::vector<Case> cases;
  add_cost_constants(&host_target, {"cpu:portable"}, true, &cases);
  std::vector<Record> lines;
  for (const Case& c : cases) {
    if (c.name != "cost/cpu:portable bf16") continue;
    const Result r = c.run();
    CHECK(r.outcome == Outcome::passed);
    lines.push_back(Record().add("case", c.name).append(r.figures));
  }
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].value("kv_element_ns") + lines[0].value("mac_ns") > 0);
  lines.push_back(Record().add("case", "read/8 MiB").add("rate", 1e12).add("unit", "B/s"));
  const BenchFolder folder;
  write_costs(folder.path.string(), lines);
  std::ifstream file(folder.path / "fast-gpu-1.json");
  const nlohmann::json costs = nlohmann::json::parse(file);
  CHECK(costs.at("machine") == "fast-gpu-1");
  CHECK(costs.at("devices") == nlohmann::json{"Fast GPU 1"});
  CHECK(costs.at("ceilings").size() == 1);
  REQUIRE(costs.at("cost_models").size() == 1);
  for (const char* constant : {"item", "kv_element", "mac", "partial", "few_kv_element", "few_mac", "min_item"}) {
    CHECK(costs.at("cost_models").at(0).at(constant + std::string("_ns")).is_number());
  }
}

TEST_CASE("gpu kit: names of files", "[gpu]") {
  CHECK(machine_name("NVIDIA H200") == "nvidia-h200");
  CHECK(machine_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3");
  CHECK(machine_name("Tesla (TM) V100-SXM2-32GB-LS with more") == "tesla-tm-v100-sxm2-32gb-ls-with");
}
