// SPDX-License-Identifier: Apache-2.0
// Runs a stage: the cases that are not done, each line written as it comes, then the table.
#pragma once

#include <chrono>
#include <cstdio>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "gpu/harness/children.hpp"
#include "gpu/harness/results.hpp"
#include "gpu/harness/stage.hpp"
#include "gpu/harness/table.hpp"

namespace prefixshare::gpu {

/// Exit codes of a stage.
inline constexpr int kPassed = 0, kFailed = 1, kUsage = 2, kUnfinished = 75, kNoDevice = 77;

struct RunOptions {
  std::string folder = ".";  ///< results go to <folder>/<stage>.jsonl
  std::string filter;        ///< only cases whose name has it
  bool resume = false;
  double seconds = 450;  ///< of the stage: no case begins after that
};

namespace detail {

inline void check_names(const Stage& stage) {
  std::set<std::string> names;
  for (const Case& c : stage.cases) {
    if (!names.insert(c.name).second) throw std::logic_error("two cases are called " + c.name);
  }
}

inline void print_line(const Record& line) {
  std::printf("  %-9s %s", line.text("outcome").c_str(), line.text("case").c_str());
  if (line.has("text")) std::printf(": %s", line.text("text").c_str());
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace detail

/// `head` describes the run and names its stage, commit and device. Returns an exit code.
inline int run_stage(const Stage& stage, const RunOptions& options, const Record& head) {
  detail::check_names(stage);
  Results results(options.folder + "/" + stage.name + ".jsonl", head, options.resume);
  std::vector<std::size_t> todo;
  for (std::size_t i = 0; i < stage.cases.size(); ++i) {
    const std::string& name = stage.cases[i].name;
    if (name.find(options.filter) != std::string::npos && !results.has(name)) todo.push_back(i);
  }
  std::printf("%s: %zu cases, %zu of them to run\n", stage.name.c_str(), stage.cases.size(), todo.size());
  const auto budget = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.seconds));
  Children children(
      stage.cases,
      [&](std::size_t, Outcome outcome, const Record& line) {
        results.add(line);
        if (outcome != Outcome::passed) detail::print_line(line);
      },
      Clock::now() + budget);
  const std::size_t done = children.run(todo);

  const std::vector<std::string> groups = {"group", "passed", "failed", "skipped", "seconds"};
  std::printf("\n%s\n", stage.columns.empty() ? table(by_group(results.lines()), groups).c_str()
                                              : table(results.lines(), stage.columns).c_str());
  if (done == todo.size() && stage.finish) stage.finish(results.lines());
  const Count c = count(results.lines());
  if (done < todo.size()) std::printf("unfinished: %zu cases are left for --resume\n", todo.size() - done);
  std::printf("%d passed, %d failed", c.passed, c.failed);
  if (c.skipped > 0) std::printf(", %d skipped", c.skipped);
  std::printf("\n");
  return c.failed > 0 ? kFailed : done < todo.size() ? kUnfinished : kPassed;
}

}  // namespace prefixshare::gpu
