// SPDX-License-Identifier: Apache-2.0
// A run: one file of Google Benchmark's JSON, of ours or of a peer.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "report/case_name.hpp"

namespace prefixshare::report {

/// A file or an option is of no use: one line that says why.
struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What was wrong with input that is used all the same: lines "file: what".
using Complaints = std::vector<std::string>;

/// One measurement of a case: the median of its calls, and the counters beside it.
struct Repeat {
  double seconds = 0;
  std::map<std::string, double> counters;

  std::optional<double> counter(const std::string& key) const;
};

struct Case {
  CaseName name;
  std::string label;
  std::string error;            ///< what the case reported instead of a time; empty: it has one
  std::vector<Repeat> repeats;  ///< fastest first; several with --benchmark_repetitions

  bool timed() const { return !repeats.empty(); }
  /// The repeat in the middle. Only of a case that is timed.
  const Repeat& typical() const { return repeats[(repeats.size() - 1) / 2]; }
  double seconds() const { return typical().seconds; }
  std::optional<double> counter(const std::string& key) const;
  /// Cores that other processes used meanwhile; 0: the figure counts.
  double busy() const { return counter("busy").value_or(0); }
};

struct Run {
  std::string file;
  std::string machine;  ///< type, as a file of kernels/costs names it; empty: the run does not say
  std::string host;
  std::string cpu, caches;
  std::string version, commit, compiler, flags;
  std::string date;                                                ///< ISO 8601
  bool quick = false;                                              ///< a part of the cases, shortened
  std::map<std::int32_t, std::map<std::string, double>> ceilings;  ///< per second, by threads and resource
  std::string peer;                                                ///< name and version; empty: ours
  std::vector<Case> cases;

  bool is_peer() const { return !peer.empty(); }
  const Case* find(const std::string& name) const;
};

/// Throws InputError if the file is of no use as a whole; what is wrong with a part of it becomes a complaint.
Run read_run(const std::string& path, Complaints* complaints);
Run parse_run(const std::string& file, const std::string& text, Complaints* complaints);

}  // namespace prefixshare::report
