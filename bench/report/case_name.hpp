// SPDX-License-Identifier: Apache-2.0
// What the name of a benchmark case says: "workload/type/threads:N/implementation", where any part but the workload may
// be missing or stand elsewhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace prefixshare::report {

std::vector<std::string> split(const std::string& text, char separator);
std::string join(const std::vector<std::string>& parts, char separator);

struct CaseName {
  std::string full;            ///< without what Google Benchmark appends, such as "/manual_time"
  std::string workload;        ///< what is left when type, threads and implementation are taken out
  std::string dtype;           ///< "bf16"; empty: the case has none
  std::string implementation;  ///< "cpu:avx512", or a peer's name; empty: the case has none
  std::int32_t threads = 0;    ///< 0: the name does not say

  /// The problem that implementations share.
  std::string problem() const;
  /// One of the numbered cases, C1, C2, ...
  bool is_numbered() const;
  /// What to call the problem where the threads are known: workload and type.
  std::string title() const;
};

CaseName parse_case_name(const std::string& name);

/// The value of a part "key:value" of a workload, if it is a number.
std::optional<double> label_value(const std::string& workload, const std::string& key);
/// The workload with "key:N" in place of its parts "key:...".
std::string any_label(const std::string& workload, const std::string& key);
/// The workload without its parts "key:...".
std::string without_label(const std::string& workload, const std::string& key);

}  // namespace prefixshare::report
