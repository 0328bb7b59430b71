// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <map>
#include <thread>

namespace prefix_report {

using prefixshare::DType;

namespace {

constexpr std::int32_t kTrainHeads = 8;   // query heads of a training step, unless asked
constexpr std::int64_t kTrainGroups = 8;  // prompts of a training step, unless asked

/// The command line as it is typed; 0 or -1 where nothing was said.
struct CommandLine {
  Options options;
  std::string input = PREFIX_REPORT_SAMPLE;
  std::string format = "detect";
  std::string model = "llama3-8b";
  std::string dtype = "bf16";
  std::int32_t Hq = 0, Hkv = 0, D = 0, layers = 0;
};

void require(bool ok, const std::string& message) {
  if (!ok) throw InputError(message);
}

template <class T>
T choose(const std::string& option, const std::string& value, const std::map<std::string, T>& choices) {
  const auto found = choices.find(value);
  if (found != choices.end()) return found->second;
  std::string names;
  for (const auto& choice : choices) names += (names.empty() ? "" : ", ") + choice.first;
  throw InputError(option + " knows " + names + ", got " + value);
}

void add_input_options(CLI::App& app, CommandLine& line) {
  app.add_option("input", line.input,
                 "JSONL of prompts with completions, GSM8K's example_model_solutions.jsonl, or a Mooncake trace; "
                 "default: a small sample");
  app.add_option("--format", line.format, "completions | gsm8k | trace; default: by the keys of the first line");
  app.add_option("--groups", line.options.groups, "prompts to read; default: all, 8 with --train");
  app.add_option("--requests", line.options.requests, "trace requests to read; default: all, 8 with --train");
  app.add_option("--few-shot", line.options.few_shot, "gsm8k: worked questions in front of each question; default: 8");
}

void add_layer_options(CLI::App& app, CommandLine& line) {
  app.add_option("--model", line.model, "llama3-8b | qwen2.5-7b | codellama-13b; default: llama3-8b");
  app.add_option("--hq", line.Hq, "query heads, instead of the model's");
  app.add_option("--hkv", line.Hkv, "key/value heads, instead of the model's");
  app.add_option("--d", line.D, "head dimension, instead of the model's");
  app.add_option("--layers", line.layers, "layers, instead of the model's");
  app.add_option("--dtype", line.dtype, "storage of q, K and V: bf16 | f16 | f32; default: bf16");
}

void add_run_options(CLI::App& app, CommandLine& line) {
  Options& o = line.options;
  app.add_flag("--train", o.train, "forward and backward with every token as a query row; default: a decode step");
  app.add_option("--kv-gib", o.kv_gib, "memory for what a layer's run holds; the rest is sampled; default: 4");
  app.add_option("--max-seconds", o.max_seconds, "time for the runs; what would take longer is sampled; default: 60");
  app.add_option("--repeats", o.repeats, "timed runs, of which the median counts; default: 5");
  app.add_option("--threads", o.threads, "default: all that the machine has");
  app.add_flag("--json", o.json, "print one JSON object");
  app.add_option("--html", o.html, "also write a page with the forest as a picture to this file");
}

Model choose_model(const CLI::App& app, const CommandLine& line) {
  Model model = choose<Model>("--model", line.model,
                              {{"llama3-8b", {"llama3-8b", 32, 8, 128, 32}},
                               {"qwen2.5-7b", {"qwen2.5-7b", 28, 4, 128, 28}},
                               {"codellama-13b", {"codellama-13b", 40, 40, 128, 40}}});
  const auto replace = [&](const char* option, std::int32_t value, std::int32_t& dimension) {
    if (app.count(option) == 0) return;
    require(value >= 1, std::string(option) + " must be at least 1, got " + std::to_string(value));
    dimension = value;
    if (model.name == line.model) model.name = app.count("--model") ? line.model + " (changed)" : "custom";
  };
  replace("--hq", line.Hq, model.Hq);
  replace("--hkv", line.Hkv, model.Hkv);
  replace("--d", line.D, model.D);
  replace("--layers", line.layers, model.layers);
  require(model.Hq % model.Hkv == 0, "query heads must be a multiple of key/value heads, got " +
                                         std::to_string(model.Hq) + " and " + std::to_string(model.Hkv));
  return model;
}

/// A training step runs about 8 query heads, in the model's proportion to key/value heads, unless --hq says how many.
Model heads_to_run(const Model& model, bool reduce) {
  Model run = model;
  if (!reduce) return run;
  const std::int32_t group = model.Hq / model.Hkv;
  run.Hkv = std::min(model.Hkv, std::max(1, kTrainHeads / group));
  run.Hq = run.Hkv * group;
  return run;
}

void finish(const CLI::App& app, CommandLine& line) {
  Options& o = line.options;
  o.input = line.input;
  o.format = choose<Format>("--format", line.format,
                            {{"detect", Format::detect},
                             {"completions", Format::completions},
                             {"gsm8k", Format::gsm8k},
                             {"trace", Format::trace}});
  o.dtype = choose<DType>("--dtype", line.dtype, {{"bf16", DType::bf16}, {"f16", DType::f16}, {"f32", DType::f32}});
  o.model = choose_model(app, line);
  o.run = heads_to_run(o.model, o.train && app.count("--hq") == 0);
  const auto at_least = [&](const char* option, double value, double least) {
    const std::string bound = least == 1  ? " must be at least 1"
                              : least > 0 ? " must be positive"
                                          : " must not be negative";
    if (app.count(option) > 0) require(value >= least, option + bound);
  };
  at_least("--groups", static_cast<double>(o.groups), 1);
  at_least("--requests", static_cast<double>(o.requests), 1);
  at_least("--few-shot", static_cast<double>(o.few_shot), 0);
  at_least("--kv-gib", o.kv_gib, 1e-9);
  at_least("--max-seconds", o.max_seconds, 1e-9);
  at_least("--repeats", o.repeats, 1);
  at_least("--threads", o.threads, 1);
  if (o.train && o.groups < 0) o.groups = kTrainGroups;
  if (o.train && o.requests < 0) o.requests = kTrainGroups;
}

}  // namespace

prefixshare::LayerKind Options::layer() const {
  prefixshare::LayerKind kind;
  kind.Hq = run.Hq;
  kind.Hkv = run.Hkv;
  kind.D = run.D;
  kind.Dv = run.D;
  kind.q_dtype = dtype;
  kind.kv_dtype = dtype;
  return kind;
}

ParsedOptions parse_options(int argc, char** argv) {
  CommandLine line;
  line.options.threads = std::max(1, static_cast<std::int32_t>(std::thread::hardware_concurrency()));
  CLI::App app("Shows what sharing prefixes saves on your traffic, and proves it by running the operators.");
  add_input_options(app, line);
  add_layer_options(app, line);
  add_run_options(app, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return {line.options, 0};
  } catch (const CLI::ParseError& error) {
    throw InputError(error.what());
  }
  finish(app, line);
  return {line.options, std::nullopt};
}

}  // namespace prefix_report
