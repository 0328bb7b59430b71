// SPDX-License-Identifier: Apache-2.0
// prefix_report: give it your traffic, it shows what sharing prefixes saves and proves it by running the operators.
// Exit codes: 0 done; 1 a check or a call failed; 2 the input or the options are wrong.
#include <cstdio>
#include <exception>
#include <fstream>
#include <new>

#include "job.hpp"
#include "options.hpp"
#include "page.hpp"
#include "prefixshare/thread_pool.hpp"
#include "report.hpp"

namespace prefix_report {

namespace {

int steps_of(const Options& options) {
  const int passes = options.train ? 4 : 2;
  return 7 + passes * (1 + options.repeats);
}

/// Opened before the work: a wrong path is known at once.
std::ofstream open_page(const std::string& path) {
  std::ofstream file;
  if (path.empty()) return file;
  file.open(path);
  if (!file) throw InputError(path + ": cannot be written");
  return file;
}

int run(const Options& options) {
  std::ofstream page = open_page(options.html);
  Progress progress(steps_of(options));
  prefixshare::ThreadPool pool(options.threads);
  prefixshare::Context context;
  throw_if_error(create_context(&context));
  context.executor = pool.executor();

  Report report;
  report.options = options;
  progress.step("reading " + options.input);
  report.traffic = read_traffic(options);
  progress.step("building the forest");
  const prefixshare::Forest forest = build_forest(report.traffic);
  throw_if_error(forest_stats(forest, &report.stats));
  report.independent = count_tokens(report.traffic);

  progress.step("planning");
  report.sample = fit(context, options, report.traffic, forest);
  if (!report.sample.is_whole() && !options.train) {
    const Step whole = plan_step(context, options, forest);
    report.whole_unshared = whole.unshared.counters;
    report.whole_shared = whole.shared.counters;
  }
  report.result = run_job(context, options, report.sample.step, &progress);
  progress.clear();
  std::fputs((options.json ? to_json(report) : to_text(report)).c_str(), stdout);
  if (page.is_open() && !(page << to_html(report)).flush())
    throw std::runtime_error(options.html + ": cannot be written");
  return report.passes() ? 0 : 1;
}

}  // namespace

}  // namespace prefix_report

int main(int argc, char** argv) {
  try {
    const prefix_report::ParsedOptions parsed = prefix_report::parse_options(argc, argv);
    return parsed.exit_code ? *parsed.exit_code : prefix_report::run(parsed.options);
  } catch (const prefix_report::InputError& error) {
    std::fprintf(stderr, "prefix_report: %s\n", error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "prefix_report: not enough memory; a smaller --kv-gib helps\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "prefix_report: %s\n", error.what());
    return 1;
  }
}
