// SPDX-License-Identifier: Apache-2.0
// tree_search: what ETS keeps of a search tree, what REBASE keeps, and what a decode step then costs. The model is
// simulated: steps have text-like lengths, rewards and clusters that follow from a seed.
// Exit codes: 0 done; 1 a check or a call failed; 2 the options are wrong.
#include <cstdio>
#include <exception>

#include "options.hpp"
#include "prefixshare/thread_pool.hpp"
#include "search.hpp"

namespace tree_search {

namespace {

int run(const Options& options) {
  prefixshare::ThreadPool pool(options.threads);
  const Decoder decoder(options.kind, pool.executor(), options.repeats);
  const Search rebase = run_search(options, Policy::rebase, decoder);
  const Search ets = run_search(options, Policy::ets, decoder);
  std::fputs(to_text(options, rebase, ets).c_str(), stdout);
  return passes(rebase) && passes(ets) ? 0 : 1;
}

}  // namespace

}  // namespace tree_search

int main(int argc, char** argv) {
  try {
    const tree_search::ParsedOptions parsed = tree_search::parse_options(argc, argv);
    return parsed.exit_code ? *parsed.exit_code : tree_search::run(parsed.options);
  } catch (const tree_search::InputError& error) {
    std::fprintf(stderr, "tree_search: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tree_search: %s\n", error.what());
    return 1;
  }
}
