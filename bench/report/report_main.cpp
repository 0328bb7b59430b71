// SPDX-License-Identifier: Apache-2.0
// prefixshare_report: one HTML page from any number of Google Benchmark's JSON files. Exit codes: 0 done; 1 the page is
// there, but a file, a case or a number was left out, as the error stream says; 2 there is nothing to show, or the
// options are wrong.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "report/machine_runs.hpp"
#include "report/page.hpp"
#include "report/run.hpp"

namespace prefixshare::report {
namespace {

struct Options {
  std::vector<std::string> files;
  std::string out = "build/report.html";
};

void say(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) std::cerr << "prefixshare_report: " << line << '\n';
}

/// Where runs are, unless files are named.
std::vector<std::string> usual_files() {
  std::vector<std::string> files;
  for (const char* folder : {"bench/results", "build/bench"}) {
    std::error_code absent;
    for (const auto& entry : std::filesystem::directory_iterator(folder, absent)) {
      if (entry.path().extension() == ".json") files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<Run> read_all(const std::vector<std::string>& files, Complaints* complaints) {
  std::vector<Run> runs;
  for (const std::string& file : files) {
    try {
      runs.push_back(read_run(file, complaints));
    } catch (const InputError& error) {
      complaints->push_back(error.what());
    }
  }
  return runs;
}

int run(const Options& options) {
  const std::vector<std::string> files = options.files.empty() ? usual_files() : options.files;
  if (files.empty()) throw InputError("no file is named, and there is none in bench/results or build/bench");
  Complaints complaints, notes;
  std::vector<Run> runs = read_all(files, &complaints);
  say(complaints);
  if (runs.empty()) throw InputError("none of the files can be used");
  const std::vector<Machine> machines = by_machine(std::move(runs), &notes);
  say(notes);
  std::ofstream out(options.out);
  out << make_page(machines);
  out.close();
  if (!out) throw InputError(options.out + ": it cannot be written");
  std::cout << options.out << '\n';
  return complaints.empty() ? 0 : 1;
}

}  // namespace
}  // namespace prefixshare::report

int main(int argc, char** argv) {
  prefixshare::report::Options options;
  CLI::App app("Writes one HTML page from runs of prefixshare_bench and of peers, given as Google Benchmark's JSON.");
  app.add_option("files", options.files, "JSON files; default: bench/results/*.json and build/bench/*.json");
  app.add_option("--out", options.out, "the page; default: build/report.html");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return 0;
  } catch (const CLI::ParseError& error) {
    std::cerr << "prefixshare_report: " << error.what() << '\n';
    return 2;
  }
  try {
    return prefixshare::report::run(options);
  } catch (const std::exception& error) {
    std::cerr << "prefixshare_report: " << error.what() << '\n';
    return 2;
  }
}
