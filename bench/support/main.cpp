// SPDX-License-Identifier: Apache-2.0
// prefixshare_bench: every operator's benchmarks. Exit codes: 0 done; 1 a case was wrong or refused; 2 the options are
// wrong.
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "support/context_keys.hpp"
#include "support/options.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

void register_all(Session* session) {
  register_tree_attention(session);
  register_tree_attention_backward(session);
  register_shared_prefix_attention(session);
  register_merge_states(session);
  register_rope(session);
  register_rope_rebase(session);
  register_kv_append(session);
  register_pack_segment(session);
  register_plan(session);
  register_assignment(session);
}

/// Google Benchmark's options, with one of ours: cases repeat their calls themselves.
void initialize(std::vector<char*> arguments) {
  static std::string once = "--benchmark_min_time=0";
  arguments.insert(arguments.begin() + 1, once.data());
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (count > 1) throw OptionError(std::string("unknown option '") + arguments[1] + "'; --help lists them");
}

bool only_lists(const Options& options) {
  for (const char* argument : options.rest) {
    if (std::string(argument).rfind("--benchmark_list_tests", 0) == 0) return true;
  }
  return false;
}

int run(const Options& options) {
  if (options.help) {
    std::cout << kHelp;
    return 0;
  }
  if (options.list) {
    const Workloads workloads = all_workloads();
    options.json ? print_json(workloads, std::cout) : print_list(workloads, std::cout);
    return 0;
  }
  initialize(options.rest);
  Session session(options);
  register_all(&session);
  if (const std::string idle = session.idle_kernels(); !idle.empty()) std::cerr << idle << '\n';
  if (!only_lists(options)) add_context_keys(&session);
  if (benchmark::RunSpecifiedBenchmarks() == 0) return 2;  // which it has said: the filter matches nothing
  const std::string left_out = session.left_out();
  if (!left_out.empty()) std::cerr << left_out << '\n';
  return session.failed ? 1 : 0;
}

}  // namespace
}  // namespace prefixshare::bench

int main(int argc, char** argv) {
#ifndef NDEBUG
  std::cerr << "This is not a release build: its times would mean nothing.\n";
  return 2;
#endif
  using namespace prefixshare::bench;
  try {
    return run(parse_options(std::vector<char*>(argv, argv + argc)));
  } catch (const OptionError& error) {
    std::cerr << "prefixshare_bench: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "prefixshare_bench: " << error.what() << '\n';
    return 1;
  }
}
