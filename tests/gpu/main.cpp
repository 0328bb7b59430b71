// SPDX-License-Identifier: Apache-2.0
// gpu_kit: one stage of the kit; tests/gpu/run is what calls it. Exit codes: 0 all passed, 1 something failed, 2 the
// options are wrong, 75 cases are left for --resume, 77 there is no CUDA device.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <string>
#include <vector>

#include "gpu/conformance.hpp"
#include "gpu/constants.hpp"
#include "gpu/cuda_target.hpp"
#include "gpu/device.hpp"
#include "gpu/harness/run_stage.hpp"
#include "gpu/stages.hpp"

namespace prefixshare::gpu {
namespace {

StageOptions cuda_cases() {
  StageOptions o;
  o.target = &cuda_target;
  return o;
}

struct Options {
  std::string stage;
  std::string commit = "unknown";
  bool list = false;
  RunOptions run;
  StageOptions cases = cuda_cases();
};

constexpr const char* kUsageText =
    "gpu_kit STAGE [--out FOLDER] [--resume] [--quick] [--filter TEXT] [--seconds N] [--commit NAME] [--list]\n"
    "        [--workloads FILE]\n"
    "STAGE: conformance, small (cases for sanitizers), golden, constants, bench\n"
    "--on-host: conformance, small and bench on cpu:portable, which checks the cases\n";

/// False if an option is unknown or lacks its value.
bool parse(int argc, char** argv, Options* o) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    const auto take = [&](std::string* to) {
      if (value == nullptr) return false;
      *to = value;
      ++i;
      return true;
    };
    std::string seconds;
    if (name == "--resume") {
      o->run.resume = true;
    } else if (name == "--quick") {
      o->cases.quick = true;
    } else if (name == "--on-host") {
      o->cases.target = &host_target;
    } else if (name == "--list") {
      o->list = true;
    } else if (name == "--out") {
      if (!take(&o->run.folder)) return false;
    } else if (name == "--filter") {
      if (!take(&o->run.filter)) return false;
    } else if (name == "--commit") {
      if (!take(&o->commit)) return false;
    } else if (name == "--workloads") {
      if (!take(&o->cases.workloads)) return false;
    } else if (name == "--seconds") {
      if (!take(&seconds)) return false;
      o->run.seconds = std::strtod(seconds.c_str(), nullptr);
    } else if (o->stage.empty() && name[0] != '-') {
      o->stage = name;
    } else {
      return false;
    }
  }
  o->cases.folder = o->run.folder;
  return !o->stage.empty();
}

Stage conformance_stage(const StageOptions& options, bool small) {
  CaseOptions o;
  o.target = options.target;
  o.seeds = options.quick || small ? 1 : 3;
  o.small = small;
  Stage stage{small ? "small" : "conformance", {}, {}, nullptr};
  add_conformance_cases(o, &stage.cases);
  return stage;
}

Stage constants_stage(const StageOptions& options) {
  Stage stage{
      "constants", {}, {"case", "rate", "unit", "us", "item_ns", "kv_element_ns", "mac_ns", "partial_ns"}, nullptr};
  add_device_constants(options.quick, &stage.cases);
  add_cost_constants(&cuda_target, {"cuda:mma-sm80", "cuda:simt"}, options.quick, &stage.cases);
  stage.finish = [folder = options.folder](const std::vector<Record>& lines) { write_costs(folder, lines); };
  return stage;
}

bool make_stage(const Options& o, Stage* stage) {
  const bool of_calls = o.stage == "conformance" || o.stage == "small", on_host = o.cases.target == &host_target;
  if (of_calls) *stage = conformance_stage(o.cases, o.stage == "small");
  if (o.stage == "golden") *stage = golden_stage(o.cases);
  if (o.stage == "constants") *stage = constants_stage(o.cases);
  if (o.stage == "bench") *stage = bench_stage(o.cases);
  return !stage->name.empty() && (of_calls || o.stage == "bench" || !on_host);
}

Result probe() {
  const std::string none = no_device();
  if (!none.empty()) return Result::failure(none);
  return {Outcome::passed, "", Record().add("device", describe_device())};
}

/// Describes the device. Asks a child, because a process that has used CUDA cannot have children that do. False if
/// there is none, and why.
bool find_device(Record* device, std::string* why) {
  const std::vector<Case> cases = {{"probe/device", probe, 60}};
  Record answer;
  Children child(
      cases, [&](std::size_t, Outcome, const Record& line) { answer = line; }, Clock::now() + std::chrono::minutes(2));
  child.run({0});
  *why = answer.text("text");
  return Record::parse(answer.text("device"), device);
}

Record head(const Options& o, const Record& device) {
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  Record r;
  r.add("stage", o.stage).add("commit", o.commit).add("device", device);
  return r.add("date", date).add("quick", o.cases.quick);
}

int run(int argc, char** argv) {
  Options o;
  Stage stage;
  if (!parse(argc, argv, &o) || !make_stage(o, &stage)) {
    std::fputs(kUsageText, stderr);
    return kUsage;
  }
  if (o.list) {
    for (const Case& c : stage.cases) std::printf("%s\n", c.name.c_str());
    return kPassed;
  }
  Record device = Record().add("name", "host");
  std::string why;
  if (o.cases.target == &cuda_target && !find_device(&device, &why)) {
    std::printf("no CUDA device: %s\n", why.c_str());
    return kNoDevice;
  }
  return run_stage(stage, o.run, head(o, device));
}

}  // namespace
}  // namespace prefixshare::gpu

int main(int argc, char** argv) {
  try {
    return prefixshare::gpu::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_kit: %s\n", error.what());
    return prefixshare::gpu::kFailed;
  }
}
