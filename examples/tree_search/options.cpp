// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <iostream>
#include <string>
#include <thread>

namespace tree_search {

namespace {

void require(bool ok, const std::string& message) {
  if (!ok) throw InputError(message);
}

/// Published with the widths 16, 64 and 256.
double published_lambda_d(std::int32_t width) { return width <= 16 ? 1.5 : width <= 64 ? 1.4 : 1.45; }

void add_search_options(CLI::App& app, Options& o, std::string& cost) {
  app.add_option("--width", o.width, "continuations that each depth deals out; default: 16");
  app.add_option("--depth", o.depth, "steps of the search; default: 8");
  app.add_option("--prompt", o.prompt, "tokens of the prompt; default: 512");
  app.add_option("--seed", o.seed, "of the simulated model; default: 1");
  app.add_option("--temperature", o.temperature, "of the rewards; default: 0.2");
  app.add_option("--lambda-b", o.lambda_b, "weight of the nodes that are kept; default: 1");
  app.add_option("--lambda-d", o.lambda_d,
                 "weight of the clusters that are covered; default: 1.5, 1.4 or 1.45 by width");
  app.add_option("--cost", cost, "of a node: nodes (1 each) | tokens; default: nodes");
  app.add_option("--limit", o.limit, "subproblems of one selection; default: 2000");
}

void add_run_options(CLI::App& app, Options& o) {
  app.add_option("--hq", o.kind.Hq, "query heads of the layer that decodes; default: 8");
  app.add_option("--hkv", o.kind.Hkv, "key/value heads; default: 2");
  app.add_option("--d", o.kind.D, "head dimension; default: 64");
  app.add_option("--repeats", o.repeats, "timed decode steps, of which the median counts; 0: none; default: 5");
  app.add_option("--threads", o.threads, "default: all that the machine has");
}

void finish(const CLI::App& app, const std::string& cost, Options& o) {
  const auto at_least = [](const char* option, std::int64_t value, std::int64_t least) {
    require(value >= least,
            std::string(option) + " must be at least " + std::to_string(least) + ", got " + std::to_string(value));
  };
  at_least("--width", o.width, 1);
  require(o.width <= 4096, "--width must be at most 4096, got " + std::to_string(o.width));
  at_least("--depth", o.depth, 1);
  require(o.depth <= 100, "--depth must be at most 100, got " + std::to_string(o.depth));
  at_least("--prompt", o.prompt, 1);
  require(o.prompt <= 1'000'000, "--prompt must be at most 1000000, got " + std::to_string(o.prompt));
  at_least("--limit", o.limit, 1);
  at_least("--hq", o.kind.Hq, 1);
  at_least("--hkv", o.kind.Hkv, 1);
  at_least("--d", o.kind.D, 1);
  at_least("--repeats", o.repeats, 0);
  at_least("--threads", o.threads, 1);
  require(o.temperature > 0 && std::isfinite(o.temperature), "--temperature must be a positive number");
  require(o.lambda_b >= 0 && std::isfinite(o.lambda_b), "--lambda-b must be a number that is not negative");
  require(o.lambda_d >= 0 && std::isfinite(o.lambda_d), "--lambda-d must be a number that is not negative");
  require(cost == "nodes" || cost == "tokens", "--cost knows nodes, tokens, got " + cost);
  require(o.kind.Hq % o.kind.Hkv == 0,
          "--hq must be a multiple of --hkv, got " + std::to_string(o.kind.Hq) + " and " + std::to_string(o.kind.Hkv));
  o.cost = cost == "nodes" ? NodeCost::nodes : NodeCost::tokens;
  if (app.count("--lambda-d") == 0) o.lambda_d = published_lambda_d(o.width);
  o.kind.Dv = o.kind.D;
}

}  // namespace

ParsedOptions parse_options(int argc, char** argv) {
  Options options;
  options.kind.Hq = 8;
  options.kind.Hkv = 2;
  options.threads = std::max(1, static_cast<std::int32_t>(std::thread::hardware_concurrency()));
  std::string cost = "nodes";
  CLI::App app(
      "Prunes a simulated search tree as ETS does and as REBASE does, and decodes a step on what each of them keeps.");
  add_search_options(app, options, cost);
  add_run_options(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return {options, 0};
  } catch (const CLI::ParseError& error) {
    throw InputError(error.what());
  }
  finish(app, cost, options);
  return {options, std::nullopt};
}

}  // namespace tree_search
