// SPDX-License-Identifier: Apache-2.0
#include "gpu/bench_file.hpp"

#include <cstdio>
#include <fstream>
#include <utility>

#include "gpu/floors.hpp"
#include "gpu/harness/results.hpp"
#include "gpu/machine_name.hpp"

namespace prefixshare::gpu {
namespace {

Record context_of(const Record& head, const Record& device, const std::vector<Record>& constants) {
  const Ceilings c(constants, device.value("l2_bytes"));
  Record context;
  context.add("date", head.text("date")).add("machine", machine_name(device.text("name")));
  context.add("cpu", device.text("name")).add("commit", head.text("commit"));
  context.add("quick", head.value("quick") != 0 ? "yes" : "no").add("device", device);
  const auto ceiling = [&context](const char* resource, double rate) {
    context.add(std::string("ceilings/threads:1/") + resource, std::to_string(rate));
  };
  ceiling("memory", c.read), ceiling("memcpy", c.copy), ceiling("l2", c.l2);
  ceiling("bf16", c.products), ceiling("exp", c.exponentials);
  return context;
}

/// A case by the names and in the units of prefixshare_bench; what it has no name for stays as it is.
std::string benchmark_of(const Record& line) {
  const std::string implementation = line.has("implementation") ? line.text("implementation") : "cuda:rows";
  Record r;
  r.add("name", "gpu/" + line.text("case") + "/bf16/threads:1/" + implementation).add("run_type", "iteration");
  if (line.text("outcome") != "passed") {
    std::string json = r.add("error_message", line.text("text")).json();
    return json.insert(json.size() - 1, ", \"error_occurred\": true");
  }
  r.add("real_time", line.value("us")).add("time_unit", "us");
  const std::pair<const char*, const char*> milliseconds[] = {
      {"minimum_us", "low_ms"}, {"p90_us", "high_ms"},      {"floor_us", "floor_ms"}, {"unshared_us", "unshared_ms"},
      {"plan_us", "plan_ms"},   {"upload_us", "upload_ms"}, {"eager_us", "eager_ms"}};
  for (const auto& [from, to] : milliseconds) {
    if (line.has(from)) r.add(to, 1e-3 * line.value(from));
  }
  r.add("B/s", 1e9 * line.value("GB/s"));
  if (line.has("TFLOP/s")) r.add("FLOP/s", 1e12 * line.value("TFLOP/s"));
  for (const char* key : {"floor_of", "floor_fraction", "vs_unshared", "plan_equal", "error", "bound", "sets",
                          "image_bytes", "sm_mhz_before", "sm_mhz_after", "watts_before", "watts_after"}) {
    r.copy(key, line);
  }
  return r.json();
}

}  // namespace

void write_bench_file(const std::string& folder, const std::vector<Record>& lines) {
  const std::vector<Record> constants = read_records(folder + "/constants.jsonl");
  const Record head = read_records(folder + "/bench.jsonl").at(0);
  Record device;
  Record::parse(head.text("device"), &device);
  const std::string path =
      folder + "/" + machine_name(device.text("name")) + "-" + head.text("date").substr(0, 10) + ".json";
  std::ofstream file(path);
  file << "{\"context\": " << context_of(head, device, constants).json() << ",\n\"benchmarks\": [";
  const char* comma = "\n  ";
  for (const Record& line : lines) file << std::exchange(comma, ",\n  ") << benchmark_of(line);
  file << "\n],\n\"constants\": [";
  comma = "\n  ";
  for (const Record& line : constants) file << std::exchange(comma, ",\n  ") << line.json();
  file << "\n]}\n";
  std::printf("%s\n", path.c_str());
}

}  // namespace prefixshare::gpu
