// SPDX-License-Identifier: Apache-2.0
// conformance: judges an implementation of attention that a context names, whoever wrote it: what it can, and every way
// in which it does not keep the contract of tree_attention.hpp.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "prefixshare/context.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// A way to break the contract.
enum class Fault : std::uint8_t {
  wrong_result,      ///< o, lse or a gradient is not within the tolerance of the oracle
  accepts_too_much,  ///< it gets an option wrong that it could have declined or refused; or it refuses the call for a
                     ///< kind of layer that it has accepted
  not_repeatable,    ///< the same call gives other bits
  depends_on_parts,  ///< the same call in more parts, or in another order of them, gives other bits
  writes_outside,    ///< it writes beside its outputs or behind its workspace
  writes_inputs,     ///< it changes what it only may read
  writes_on_error    ///< it refuses a call and has written to the outputs
};
inline constexpr std::size_t kFaults = 7;
constexpr const char* to_string(Fault f) noexcept {
  constexpr const char* kNames[] = {"wrong result",   "accepts what it cannot do", "not repeatable", "depends on parts",
                                    "writes outside", "writes to its inputs",      "writes on error"};
  return kNames[static_cast<std::size_t>(f)];
}

struct ConformanceOptions {
  std::uint64_t seeds = 1;  ///< matrices of combinations, each of other cases; 0: none
  bool walk = true;         ///< also every number of packed rows against every remainder of keys
  bool backward = true;     ///< also the gradients, where the list of the backward has the name
};

/// What a run found.
struct ConformanceReport {
  struct Check {
    std::int64_t cases = 0;
    std::int64_t failed = 0;
    std::string first;  ///< the first failure: case, and what was wrong
  };
  struct Ability {
    std::string factor;
    std::vector<std::string> yes;
    std::vector<std::string> declined;  ///< when the plan was made
    std::vector<std::string> refused;   ///< by the call
    std::vector<std::string> wrong;
  };
  std::string implementation;
  Status status;  ///< why there was nothing to judge: no such name, or it takes no plain problem of any kind
  bool backward = false;
  std::vector<Ability> abilities;  ///< by factor of the matrix
  Check checks[kFaults];           ///< by Fault

  const Check& operator[](Fault f) const noexcept { return checks[static_cast<std::size_t>(f)]; }
  bool ok() const noexcept {
    bool clean = status.ok();
    for (const Check& c : checks) clean = clean && c.failed == 0;
    return clean;
  }
};

/// Judges implementation `name` of `context` on some hundred random problems: first what it can, a level of each factor
/// of the matrix at a time; then problems in which every two levels that it can meet; then every number of packed rows.
/// Each problem runs in one part, again, in three parts out of order, and through the executor of the context if it has
/// one. A crash cannot be caught. Some ten seconds for a kernel of moderate speed.
ConformanceReport run_conformance(const Context& context, const std::string& name,
                                  const ConformanceOptions& options = {});
/// Two tables: what it can, and the checks.
std::string to_string(const ConformanceReport& report);

namespace detail {

inline std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& n : names) text += (text.empty() ? "" : ", ") + n;
  return text;
}

/// Further lines stand below the first.
inline std::string indented(const std::string& lines) {
  std::string text;
  for (const char c : lines) text += c == '\n' ? std::string("\n    ") : std::string(1, c);
  return text;
}

}  // namespace detail

inline std::string to_string(const ConformanceReport& report) {
  std::string text = report.implementation + (report.backward ? ", forward and backward\n" : ", forward\n");
  if (!report.status.ok()) return text + "  " + to_string(report.status) + "\n";
  for (const ConformanceReport::Ability& a : report.abilities) {
    std::string factor = a.factor;
    factor.resize(17, ' ');
    text += "  " + factor + detail::listed(a.yes);
    if (!a.declined.empty()) text += "; declines " + detail::listed(a.declined);
    if (!a.refused.empty()) text += "; refuses " + detail::listed(a.refused);
    if (!a.wrong.empty()) text += "; gets wrong " + detail::listed(a.wrong);
    text += '\n';
  }
  for (std::size_t f = 0; f < kFaults; ++f) {
    const ConformanceReport::Check& c = report.checks[f];
    char line[80];
    std::snprintf(line, sizeof line, "  %-26s %5lld of %lld cases\n", to_string(static_cast<Fault>(f)),
                  static_cast<long long>(c.failed), static_cast<long long>(c.cases));
    text += line;
    if (c.failed > 0) text += "    " + detail::indented(c.first) + "\n";
  }
  return text + (report.ok() ? "  conforms\n" : "  does not conform\n");
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare

#include "prefixshare/testing/conformance_run.hpp"
