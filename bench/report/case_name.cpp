// SPDX-License-Identifier: Apache-2.0
#include "report/case_name.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace prefixshare::report {

namespace {

bool starts_with(const std::string& text, const std::string& start) { return text.rfind(start, 0) == 0; }

/// A part that Google Benchmark appends.
bool is_appended(const std::string& part) {
  static const std::vector<std::string> words = {"manual_time", "real_time", "process_time"};
  static const std::vector<std::string> keys = {"iterations:", "repeats:", "min_time:", "min_warmup_time:"};
  return std::count(words.begin(), words.end(), part) > 0 ||
         std::any_of(keys.begin(), keys.end(), [&](const std::string& key) { return starts_with(part, key); });
}

/// "bf16", or of K and V and of q where they differ: "bf16-f32".
bool is_dtype(const std::string& part) {
  static const std::vector<std::string> names = {"f64", "f32", "f16", "bf16", "f8e4m3", "f8e5m2"};
  const std::vector<std::string> types = split(part, '-');
  return std::all_of(types.begin(), types.end(),
                     [](const std::string& type) { return std::count(names.begin(), names.end(), type) > 0; });
}

/// N of "threads:N"; 0 if the part is none, or N is no number of threads.
std::int32_t threads_in(const std::string& part) {
  const double threads = label_value(part, "threads").value_or(0);
  return threads >= 1 && threads <= 1e6 ? static_cast<std::int32_t>(threads) : 0;
}

/// An implementation of this project, wherever it stands.
bool is_implementation(const std::string& part) {
  return starts_with(part, "cpu:") || starts_with(part, "cuda:") || starts_with(part, "reference:");
}

}  // namespace

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::string join(const std::vector<std::string>& parts, char separator) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i > 0 ? std::string(1, separator) : "") + parts[i];
  return text;
}

std::string CaseName::problem() const { return title() + (threads > 0 ? "/threads:" + std::to_string(threads) : ""); }

bool CaseName::is_numbered() const {
  const std::vector<std::string> parts = split(workload, '/');
  return std::any_of(parts.begin(), parts.end(), [](const std::string& part) {
    return part.size() == 2 && part[0] == 'C' && part[1] >= '0' && part[1] <= '9';
  });
}

std::string CaseName::title() const { return dtype.empty() ? workload : workload + "/" + dtype; }

CaseName parse_case_name(const std::string& name) {
  CaseName result;
  std::vector<std::string> whole, workload;
  for (const std::string& part : split(name, '/')) {
    if (is_appended(part)) continue;
    whole.push_back(part);
    if (threads_in(part) > 0) {
      result.threads = threads_in(part);
    } else if (is_dtype(part) && result.dtype.empty()) {
      result.dtype = part;
    } else if (result.implementation.empty() && (is_implementation(part) || result.threads > 0)) {
      result.implementation = part;  // a peer's name is known by its place
    } else {
      workload.push_back(part);
    }
  }
  result.full = join(whole, '/');
  result.workload = join(workload, '/');
  return result;
}

std::optional<double> label_value(const std::string& workload, const std::string& key) {
  for (const std::string& part : split(workload, '/')) {
    if (!starts_with(part, key + ":")) continue;
    const char* text = part.c_str() + key.size() + 1;
    char* end = nullptr;
    const double value = std::strtod(text, &end);
    if (end != text && *end == '\0' && std::abs(value) <= 1e30) return value;
  }
  return std::nullopt;
}

std::string any_label(const std::string& workload, const std::string& key) {
  std::vector<std::string> parts = split(workload, '/');
  for (std::string& part : parts) {
    if (starts_with(part, key + ":")) part = key + ":N";
  }
  return join(parts, '/');
}

std::string without_label(const std::string& workload, const std::string& key) {
  std::vector<std::string> parts = split(workload, '/');
  const auto is_label = [&](const std::string& part) { return starts_with(part, key + ":"); };
  parts.erase(std::remove_if(parts.begin(), parts.end(), is_label), parts.end());
  return join(parts, '/');
}

}  // namespace prefixshare::report
