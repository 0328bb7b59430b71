// SPDX-License-Identifier: Apache-2.0
// prefixshare_bench: every operator's benchmarks. --quick runs everything an eighth as long, --threads=N sets the team
// (default: all cores); the other options are Google Benchmark's. Exit code 1 if a case was wrong or refused.
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "prefixshare/version.hpp"
#include "support/session.hpp"

namespace {

/// Takes `--name` or `--name=value` out of the arguments; null if it is not there.
const char* take_option(const std::string& name, std::vector<char*>* arguments) {
  for (std::size_t i = 1; i < arguments->size(); ++i) {
    const std::string argument = (*arguments)[i];
    if (argument != name && argument.rfind(name + "=", 0) != 0) continue;
    const char* value = (*arguments)[i] + name.size();
    arguments->erase(arguments->begin() + static_cast<std::ptrdiff_t>(i));
    return *value == '=' ? value + 1 : value;
  }
  return nullptr;
}

int run(std::vector<char*> arguments) {
  std::string once = "--benchmark_min_time=0";  // cases repeat their calls themselves
  arguments.insert(arguments.begin() + 1, once.data());
  const bool quick = take_option("--quick", &arguments) != nullptr;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  if (const char* value = take_option("--threads", &arguments)) threads = std::atoi(value);

  prefixshare::bench::Session session(threads > 0 ? threads : 1);
  session.quick = quick;
  if (quick) prefixshare::bench::quiet_patience = 0;
  prefixshare::throw_if_error(prefixshare::create_context(&session.context));
  prefixshare::bench::register_tree_attention(&session);
  prefixshare::bench::register_tree_attention_backward(&session);
  prefixshare::bench::register_plan(&session);
  prefixshare::bench::register_assignment(&session);
  prefixshare::bench::register_merge_and_shift(&session);
  prefixshare::bench::register_merge_states(&session);
  prefixshare::bench::register_rope(&session);

  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  const std::string version = std::to_string(PREFIXSHARE_VERSION_MAJOR) + "." +
                              std::to_string(PREFIXSHARE_VERSION_MINOR) + "." +
                              std::to_string(PREFIXSHARE_VERSION_PATCH);
  benchmark::AddCustomContext("prefixshare", version);
  benchmark::RunSpecifiedBenchmarks();
  return session.failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
#ifndef NDEBUG
  std::cerr << "This is not a release build: its times would mean nothing.\n";
  return 2;
#endif
  try {
    return run(std::vector<char*>(argv, argv + argc));
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
