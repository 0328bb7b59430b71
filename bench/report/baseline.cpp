// SPDX-License-Identifier: Apache-2.0
#include "report/baseline.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace prefixshare::report {

namespace {

using Json = nlohmann::ordered_json;

bool is_file_name(const std::string& text) {
  const std::string allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  return !text.empty() && text[0] != '.' && text.find_first_not_of(allowed) == std::string::npos;
}

Json context_json(const Run& run) {
  Json json = {{"date", run.date},     {"machine", run.machine},   {"cpu", run.cpu},    {"prefixshare", run.version},
               {"commit", run.commit}, {"compiler", run.compiler}, {"flags", run.flags}};
  for (const auto& [threads, rates] : run.ceilings) {
    const std::string team = "ceilings/threads:" + std::to_string(threads) + "/";
    for (const auto& [resource, rate] : rates) json[team + resource] = std::to_string(rate);
  }
  return json;
}

Json repeat_json(const std::string& name, const Repeat& repeat) {
  Json json = {{"name", name}, {"run_type", "iteration"}, {"real_time", 1e3 * repeat.seconds}, {"time_unit", "ms"}};
  for (const char* key : {"low_ms", "high_ms", "calls"}) {
    if (const auto value = repeat.counter(key)) json[key] = *value;
  }
  return json;
}

void check(const Run& run) {
  for (const Case& c : run.cases) {
    if (!c.timed()) throw InputError(run.file + ": " + c.name.full + " failed, so this is no baseline");
    const auto disturbed = [](const Repeat& r) { return r.counter("busy").value_or(0) > 0; };
    if (std::any_of(c.repeats.begin(), c.repeats.end(), disturbed)) {
      throw InputError(run.file + ": others used the machine during " + c.name.full + ", so this is no baseline");
    }
  }
}

}  // namespace

std::string baseline_path(const std::string& folder, const Run& run) {
  if (run.machine.empty()) throw InputError(run.file + ": its context does not say the machine");
  if (!is_file_name(run.machine)) throw InputError(run.file + ": its machine is no name of a file: " + run.machine);
  return (std::filesystem::path(folder) / (run.machine + ".json")).string();
}

std::string store_baseline(const std::string& folder, const Run& run) {
  const std::string path = baseline_path(folder, run);
  check(run);
  std::error_code ignored;  // the file says whether the folder is there
  std::filesystem::create_directories(folder, ignored);
  std::ofstream file(path);
  file << "{\"context\": " << context_json(run).dump() << ",\n\"benchmarks\": [";
  const char* separator = "\n";
  for (const Case& c : run.cases) {
    for (const Repeat& r : c.repeats) {
      file << separator << repeat_json(c.name.full, r).dump();
      separator = ",\n";
    }
  }
  file << "\n]}\n";
  file.close();
  if (!file) throw InputError(path + ": it cannot be written");
  return path;
}

}  // namespace prefixshare::report
