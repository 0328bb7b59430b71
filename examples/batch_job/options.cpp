// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <iostream>

namespace batch_job {

namespace {

constexpr std::int64_t kMostGroups = 10000;  // of the benchmark: 1.4 GB of token ids

void add_options(CLI::App& app, Options* o) {
  app.add_option("input", o->source.input,
                 "JSONL of prompts with completions, GSM8K's example_model_solutions.jsonl, or a Mooncake trace; "
                 "default: the input of BatchLLM's benchmark");
  app.add_option("--groups", o->source.groups,
                 "prompts to read, default: all; or groups of the benchmark, default: 400");
  app.add_option("--requests", o->source.requests, "trace requests to read; default: all");
  app.add_option("--few-shot", o->source.few_shot, "gsm8k: worked questions in front of each question; default: 8");
  app.add_option("--decode", o->decode,
                 "tokens that every request writes; default: what the input says, or 100 where it does not");
  app.add_option("--kv-budget", o->limits.kv_budget, "tokens whose keys and values fit; default: 1048576");
  app.add_option("--token-budget", o->limits.token_budget, "tokens of an iteration; default: 2048");
  app.add_option("--request-limit", o->limits.request_limit,
                 "requests and prefixes under way at a time; default: memory alone decides");
  app.add_option("--json", o->json, "also write one JSON object to this file");
  app.add_option("--csv", o->csv, "also write every iteration of every way to this file");
}

void check(const CLI::App& app, const Options& o) {
  const auto within = [&app](const std::string& option, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (app.count(option) == 0 || (value >= least && value <= most)) return;
    throw InputError(option + " must be " + (value < least ? "at least " : "at most ") +
                     std::to_string(value < least ? least : most) + ", got " + std::to_string(value));
  };
  within("--groups", o.source.groups, 1, o.is_benchmark() ? kMostGroups : INT64_MAX);
  within("--requests", o.source.requests, 1, INT64_MAX);
  within("--few-shot", o.source.few_shot, 0, INT64_MAX);
  within("--decode", o.decode, 0, INT32_MAX);
  within("--kv-budget", o.limits.kv_budget, 1, INT32_MAX);
  within("--token-budget", o.limits.token_budget, 1, INT64_MAX);
  within("--request-limit", o.limits.request_limit, 1, INT64_MAX);
}

}  // namespace

ParsedOptions parse_options(int argc, char** argv) {
  ParsedOptions parsed;
  CLI::App app(
      "Plans a job of many prompts as BatchLLM does (arXiv 2412.03594): groups with one shared prefix each, in an "
      "order "
      "that mixes prefill and decode, admitted by KV memory; and replays it, iteration by iteration.");
  add_options(app, &parsed.options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    parsed.exit_code = 0;
    return parsed;
  } catch (const CLI::ParseError& error) {
    throw InputError(error.what());
  }
  check(app, parsed.options);
  return parsed;
}

}  // namespace batch_job
