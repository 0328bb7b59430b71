// SPDX-License-Identifier: Apache-2.0
// prefixshare_compare: whether a run is slower than an older one, or than the baseline of its machine. Exit codes: 0 no
// case is slower; 1 a case is slower beyond noise; 2 the input or the options are of no use.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "report/baseline.hpp"
#include "report/compare.hpp"
#include "report/run.hpp"

namespace prefixshare::report {
namespace {

struct Options {
  std::vector<std::string> files;
  bool baseline = false;
  bool store = false;
  std::string folder = "bench/baselines";
};

void add_options(CLI::App* app, Options* options) {
  app->add_option("files", options->files,
                  "A.json and B.json, the old run and the new one; with an option B.json alone")
      ->required();
  CLI::Option* baseline =
      app->add_flag("--baseline", options->baseline, "hold B against the stored run of its type of machine");
  app->add_flag("--store", options->store, "make B the stored run of its type of machine")->excludes(baseline);
  app->add_option("--folder", options->folder, "where runs are stored, MACHINE.json; default: bench/baselines");
}

Run read(const std::string& path) {
  Complaints complaints;
  Run run = read_run(path, &complaints);
  for (const std::string& complaint : complaints) std::cerr << "prefixshare_compare: " << complaint << '\n';
  return run;
}

int run(const Options& options) {
  const std::size_t expected = options.baseline || options.store ? 1 : 2;
  if (options.files.size() != expected) {
    throw InputError("there must be " + std::string(expected == 1 ? "one file" : "two files, A.json and B.json"));
  }
  const Run b = read(options.files.back());
  if (options.store) {
    std::cout << store_baseline(options.folder, b) << '\n';
    return 0;
  }
  const Run a = read(options.baseline ? baseline_path(options.folder, b) : options.files.front());
  const std::vector<Compared> list = compare_runs(a, b);
  if (count(list, Verdict::only_in_a) + count(list, Verdict::only_in_b) == list.size()) {
    throw InputError(a.file + " and " + b.file + " have no case in common");
  }
  std::cout << compare_text(a, b, list);
  return count(list, Verdict::slower) > 0 ? 1 : 0;
}

}  // namespace
}  // namespace prefixshare::report

int main(int argc, char** argv) {
  prefixshare::report::Options options;
  CLI::App app("Compares two runs of prefixshare_bench, given as Google Benchmark's JSON.");
  prefixshare::report::add_options(&app, &options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return 0;
  } catch (const CLI::ParseError& error) {
    std::cerr << "prefixshare_compare: " << error.what() << '\n';
    return 2;
  }
  try {
    return prefixshare::report::run(options);
  } catch (const std::exception& error) {
    std::cerr << "prefixshare_compare: " << error.what() << '\n';
    return 2;
  }
}
