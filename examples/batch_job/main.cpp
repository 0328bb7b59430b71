// SPDX-License-Identifier: Apache-2.0
// batch_job: a whole job of prompts, planned and replayed as BatchLLM does it (arXiv 2412.03594), on the library's
// forests, plans and counters.
//
// All prompts of an offline job are known before the first one runs. Their trie says what they share at every level; an
// engine with one level of sharing per request needs single-level groups instead: one shared prefix, and what each
// member has of its own. The program chooses them by the published greedy rule and exactly (groups.hpp), orders the
// groups so that long decodes begin early, and replays the job under a budget of KV memory and of tokens per iteration
// (replay.hpp): alone as requests arrive, in groups, and in ordered groups. Of the iteration with the most requests
// that write it plans the attention (attention.hpp) and counts the K and V rows that single-level groups read, against
// every request alone and against all levels of the trie.
//
//   batch_job                      the input of BatchLLM's benchmark, of which groups save 85.23 %
//   batch_job FILE                 prompts with completions, GSM8K's file of solutions, or a Mooncake trace
//   batch_job --help               the options
//
// Exit codes: 0 done; 1 a check or a call failed; 2 the input or the options are wrong.
#include <cstdio>
#include <exception>
#include <fstream>
#include <new>

#include "options.hpp"
#include "report.hpp"

namespace batch_job {

namespace {

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  if (!file) throw InputError(path + ": cannot be written");
}

int run(const Options& options) {
  const Report report = analyse(options);
  if (!options.json.empty()) write_file(options.json, to_json(report));
  if (!options.csv.empty()) write_file(options.csv, to_csv(report));
  std::fputs(to_text(report).c_str(), stdout);
  return report.passes() ? 0 : 1;
}

}  // namespace

}  // namespace batch_job

int main(int argc, char** argv) {
  try {
    const batch_job::ParsedOptions parsed = batch_job::parse_options(argc, argv);
    return parsed.exit_code ? *parsed.exit_code : batch_job::run(parsed.options);
  } catch (const batch_job::InputError& error) {
    std::fprintf(stderr, "batch_job: %s\n", error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "batch_job: not enough memory\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "batch_job: %s\n", error.what());
    return 1;
  }
}
