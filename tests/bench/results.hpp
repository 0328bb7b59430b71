// SPDX-License-Identifier: Apache-2.0
// Results as Google Benchmark writes them, made up for tests.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace prefixshare::tests {

using Json = nlohmann::ordered_json;
using Counters = std::vector<std::pair<std::string, double>>;

inline Json entry(const std::string& name, double ms, const Counters& counters = {}) {
  Json json = {{"name", name},    {"run_name", name}, {"run_type", "iteration"}, {"repetitions", 1},
               {"iterations", 1}, {"real_time", ms},  {"cpu_time", 0.001},       {"time_unit", "ms"}};
  for (const auto& [key, value] : counters) json[key] = value;
  return json;
}

/// A median with quartiles 1 % away.
inline Json quiet(const std::string& name, double ms, Counters counters = {}) {
  counters.insert(counters.end(), {{"low_ms", 0.99 * ms}, {"high_ms", 1.01 * ms}, {"calls", 100}, {"busy", 0}});
  return entry(name, ms, counters);
}

inline Json failed(const std::string& name, const std::string& message) {
  return {{"name", name}, {"run_type", "iteration"}, {"error_occurred", true}, {"error_message", message}};
}

inline Json results(const std::vector<Json>& entries, Json context = {{"machine", "amd-zen4"}}) {
  if (!context.contains("date")) context["date"] = "2026-11-25T15:00:00+00:00";
  return {{"context", std::move(context)}, {"benchmarks", entries}};
}

}  // namespace prefixshare::tests
