// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <cstdio>
#include <filesystem>
#include <vector>

#include "format.hpp"
#include "prefixshare/version.hpp"

namespace prefix_report {

namespace {

/// K and V of one token in one layer.
double kv_token_bytes(const Report& r) {
  return 2.0 * r.options.model.Hkv * r.options.model.D * size_of(r.options.dtype);
}

std::string traffic_text(const Report& r) {
  const std::string file = std::filesystem::path(r.options.input).filename().string() + ": ";
  switch (r.traffic.format) {
    case Format::trace:
      return file + plural(r.traffic.groups, "request") + ", prompts in " + plural(r.traffic.blocks, "distinct block") +
             " of " + std::to_string(kTraceBlock) + " tokens";
    case Format::gsm8k:
      return file + plural(r.traffic.groups, "question") +
             (r.options.few_shot > 0 ? " behind " + plural(r.options.few_shot, "worked one") + " (" +
                                           with_commas(r.traffic.header_bytes) + " bytes)"
                                     : "") +
             ", tokens are bytes";
    default: return file + plural(r.traffic.groups, "prompt") + " with completions, tokens are bytes";
  }
}

std::string model_text(const Model& model) {
  return plural(model.Hq, "query head") + ", " + plural(model.Hkv, "key/value head") + " of " +
         std::to_string(model.D) + ", " + plural(model.layers, "layer");
}

std::string summary(const Report& r) {
  const prefixshare::ForestStats& s = r.stats;
  const double token = kv_token_bytes(r), logical = token * static_cast<double>(s.logical_tokens),
               unique = token * static_cast<double>(s.unique_tokens);
  std::string text = line("traffic", traffic_text(r));
  text += line("forest", plural(s.sequences, "sequence") + " in " + plural(s.nodes, "node") + " and " +
                             plural(s.roots, "tree") + ", " + plural(s.depth, "node") + " deep, longest path " +
                             plural(s.max_path, "token"));
  text += line("tokens", with_commas(s.logical_tokens) + " logical, " + with_commas(s.unique_tokens) +
                             " unique: sharing ratio " + fixed(s.sharing_ratio(), 2) + " x " +
                             (r.counts_agree() ? "(a count by set union agrees)" : "(SET UNION DISAGREES)"));
  text += line("model", r.options.model.name + ": " + model_text(r.options.model) + ", K and V in " +
                            to_string(r.options.dtype));
  text += line("KV cache", bytes_text(logical * r.options.model.layers) + " unshared, " +
                               bytes_text(unique * r.options.model.layers) +
                               " shared; a layer: " + bytes_text(logical) + " and " + bytes_text(unique));
  return text;
}

/// What a sample leaves out, and the counts of everything.
std::string left_out(const Report& r) {
  if (r.sample.is_whole()) return "";
  const prefixshare::ForestStats &all = r.stats, &run = r.sample.stats;
  const std::string why = r.sample.cut_by_memory && r.sample.cut_by_time ? "--kv-gib and --max-seconds"
                          : r.sample.cut_by_memory                       ? "--kv-gib " + fixed(r.options.kv_gib, 2)
                                                                         : "--max-seconds";
  std::string text =
      line("sample", plural(run.sequences, "sequence") +
                         " in whole prefix families: " + with_commas(run.logical_tokens) + " logical, " +
                         with_commas(run.unique_tokens) + " unique, " + fixed(run.sharing_ratio(), 2) + " x") +
      line("", "left out because of " + why + ": " + plural(all.sequences - run.sequences, "sequence") + ", " +
                   with_commas(all.unique_tokens - run.unique_tokens) + " unique tokens");
  return text;
}

std::string whole_counts(const Report& r) {
  if (!r.whole_shared) return "";
  std::vector<std::vector<std::string>> rows = {{"all of it, a layer, by count", "KV rows", "KV bytes", "FLOPs"}};
  const auto add = [&](const char* way, const prefixshare::Counters& c) {
    rows.push_back({way, with_commas(c.kv_rows), bytes_text(static_cast<double>(c.kv_bytes)),
                    flops_text(static_cast<double>(c.flops_forward))});
  };
  add("unshared", *r.whole_unshared);
  add("shared", *r.whole_shared);
  return table(rows) + "\n";
}

std::vector<std::string> table_row(const Pass& pass, const Pass* baseline) {
  const auto bytes = [](std::int64_t count) { return count < 0 ? "-" : bytes_text(static_cast<double>(count)); };
  return {pass.way + (pass.name == "decode" ? "" : " " + pass.name),
          seconds_text(pass.seconds),
          fixed(baseline->seconds / pass.seconds, 2) + " x",
          pass.kv_rows < 0 ? "-" : with_commas(pass.kv_rows),
          bytes(pass.kv_bytes),
          bytes(pass.bytes),
          flops_text(static_cast<double>(pass.flops)),
          fixed(100 * pass.bound_seconds / pass.seconds, 1) + " %"};
}

std::string measured(const Report& r) {
  std::vector<std::vector<std::string>> rows = {{r.options.train ? "training step" : "decode step", "time", "speed-up",
                                                 "KV rows", "KV bytes", "all bytes", "FLOPs", "of bound"}};
  for (std::size_t i = 0; i < r.result.shared.size(); ++i) {
    rows.push_back(table_row(r.result.unshared[i], &r.result.unshared[i]));
    rows.push_back(table_row(r.result.shared[i], &r.result.unshared[i]));
  }
  return table(rows);
}

std::string how_it_was_run(const Report& r) {
  const Way &unshared = r.sample.step.unshared, &shared = r.sample.step.shared;
  const std::string runs =
      r.result.warm ? (r.result.repeats > 1 ? "median of " + with_commas(r.result.repeats) + " runs" : "one run") +
                          " after a warm-up"
                    : "one run each, no time for more";
  std::string text = line("run", "one layer, " + plural(r.options.run.Hq, "query head") + ", " +
                                     plural(r.options.run.Hkv, "key/value head") + ", random numbers; " +
                                     r.result.implementation + ", " + plural(r.options.threads, "thread"));
  text += line("", (r.options.train ? "every token is a query row" : "one query row per sequence") + ("; " + runs) +
                       "; plans " + seconds_text(unshared.plan_seconds) + " and " + seconds_text(shared.plan_seconds));
  return text;
}

std::string bound_text(const Report& r) {
  return line("bound", "the larger of bytes / " + fixed(r.result.ceilings.bytes_per_second * 1e-9, 1) +
                           " GB/s and FLOPs / " + fixed(r.result.ceilings.flops_per_second * 1e-9, 0) +
                           " GFLOP/s, both measured in this run");
}

std::string check_text(const char* name, const std::string& what, const std::vector<Check>& checks) {
  std::string text = what + ": ";
  for (std::size_t i = 0; i < checks.size(); ++i) {
    const Check& c = checks[i];
    char numbers[80];
    std::snprintf(numbers, sizeof numbers, c.ok() ? " %.1e" : " %.1e (FAILED, at most %.1e)", c.error, c.bound);
    text += (i == 0 ? "" : ", ") + c.what + numbers;
  }
  return line(name, text);
}

std::string checks_text(const Report& r) {
  const Check& first = r.result.against_reference.front();
  const std::int64_t rows = first.values / r.options.run.Hq / r.options.run.D;
  const std::string precision = size_of(r.options.dtype) == 2 ? "16-bit storage" : "f32 arithmetic";
  return check_text("checks", "shared against f64, " + plural(rows, "row"), r.result.against_reference) +
         check_text("", "shared against unshared, all", r.result.against_unshared) +
         line("", r.result.checks_pass() ? "all within the tolerances of " + precision : "FAILED");
}

std::string closing(const Report& r) {
  const double shared = r.result.seconds(r.result.shared), unshared = r.result.seconds(r.result.unshared);
  const std::string step = r.options.train ? "training step" : "decode step";
  if (!r.passes()) return "The results do not agree: nothing is proved.\n";
  const std::string times = seconds_text(shared) + " instead of " + seconds_text(unshared) + " a layer";
  std::string text = unshared > 1.02 * shared
                         ? "Sharing made this " + step + " " + fixed(unshared / shared, 2) + " x faster (" + times + ")"
                         : "Sharing made this " + step + " no faster (" + times + ")";
  const double saved =
      kv_token_bytes(r) * r.options.model.layers * static_cast<double>(r.stats.logical_tokens - r.stats.unique_tokens);
  return text + "\nand saves " + bytes_text(saved) +
         " of KV cache in all layers: " + fixed(100 - 100 / r.stats.sharing_ratio(), 1) +
         " % of what the sequences would hold alone.\n";
}

}  // namespace

bool Report::counts_agree() const {
  return independent.logical == stats.logical_tokens && independent.unique == stats.unique_tokens;
}

std::string to_text(const Report& r) {
  const std::string version = std::to_string(PREFIXSHARE_VERSION_MAJOR) + "." +
                              std::to_string(PREFIXSHARE_VERSION_MINOR) + "." +
                              std::to_string(PREFIXSHARE_VERSION_PATCH);
  return "prefixshare " + version + ": what sharing prefixes saves on this traffic\n\n" + summary(r) + left_out(r) +
         "\n" + whole_counts(r) + measured(r) + "\n" + how_it_was_run(r) + bound_text(r) + checks_text(r) + "\n" +
         closing(r);
}

}  // namespace prefix_report
