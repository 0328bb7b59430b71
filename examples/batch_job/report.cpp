// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>

#include "prefix_report/format.hpp"
#include "prefixshare/version.hpp"

namespace batch_job {

namespace {

using prefix_report::fixed;
using prefix_report::line;
using prefix_report::plural;
using prefix_report::seconds_text;
using prefix_report::table;
using prefix_report::with_commas;

constexpr std::int64_t kColumns = 60;  // of a chart

std::string percent(double part) { return fixed(100 * part, 2) + " %"; }

std::string tokens_text(const Report& r) {
  std::string text =
      line("tokens", with_commas(r.tokens.logical) + " logical, " + with_commas(r.trie.unique_tokens) + " unique " +
                         (r.counts_agree() ? "(a count by set union agrees)" : "(SET UNION DISAGREES)") + ", " +
                         with_commas(r.decode_tokens) + " to write");
  if (r.blocks > 0) {
    text += line("", with_commas(r.blocks) + " distinct blocks of " + std::to_string(prefix_report::kTraceBlock) +
                         ", counted whole: " + with_commas(r.blocks * prefix_report::kTraceBlock));
  }
  return text;
}

std::string choices(const Report& r) {
  std::vector<std::vector<std::string>> rows = {{"prompt tokens", "groups", "to process", "saving", "chosen in"}};
  rows.push_back({"each request alone", "", with_commas(r.tokens.logical), percent(0), ""});
  for (const Choice& c : {r.greedy, r.exact}) {
    rows.push_back({c.name, with_commas(c.groups), with_commas(c.processed), percent(r.saving(c.processed)),
                    seconds_text(c.seconds)});
  }
  rows.push_back(
      {"all levels (ideal)", "", with_commas(r.trie.unique_tokens), percent(r.saving(r.trie.unique_tokens)), ""});
  return table(rows);
}

std::string replays(const Report& r) {
  std::vector<std::vector<std::string>> rows = {
      {"replay", "saving", "iterations", "tokens, mean", "batch, mean", "peak", "KV, mean", "peak"}};
  for (const Way& way : r.ways) {
    const Summary s = summarise(way.iterations);
    rows.push_back({way.name, percent(r.saving(way.processed)), with_commas(s.iterations), fixed(s.tokens, 1),
                    fixed(s.batch, 1), with_commas(s.peak_batch), with_commas(static_cast<std::int64_t>(s.kv)),
                    with_commas(s.peak_kv)});
  }
  return table(rows);
}

/// A row of a chart: means of `value` over equal stretches, from blank (0) to @ (the peak).
template <class Value>
std::string strip(const std::vector<Iteration>& iterations, std::int64_t stretch, std::int64_t peak, Value value) {
  static constexpr char kLevels[] = " .:-=+*#%@";
  std::string text;
  const std::int64_t count = static_cast<std::int64_t>(iterations.size());
  for (std::int64_t begin = 0; begin < count; begin += stretch) {
    double sum = 0;
    for (std::int64_t i = begin; i < std::min(begin + stretch, count); ++i) {
      sum += static_cast<double>(value(iterations[static_cast<std::size_t>(i)]));
    }
    const double level = 9 * sum / static_cast<double>(stretch) / static_cast<double>(std::max<std::int64_t>(peak, 1));
    text += kLevels[sum > 0 ? std::clamp(static_cast<int>(level + 0.5), 1, 9) : 0];
  }
  return text;
}

template <class Value>
std::string chart(const Report& r, const std::string& what, Value value) {
  std::int64_t longest = 1, peak = 0;
  for (const Way& way : r.ways) {
    longest = std::max(longest, static_cast<std::int64_t>(way.iterations.size()));
    for (const Iteration& i : way.iterations) peak = std::max(peak, value(i));
  }
  const std::int64_t stretch = (longest + kColumns - 1) / kColumns;
  std::string text =
      what + " over time: a column is " + plural(stretch, "iteration") + ", @ is " + with_commas(peak) + "\n";
  for (const Way& way : r.ways) {
    std::string name = way.name;
    name.resize(24, ' ');
    text += "  " + name + "|" + strip(way.iterations, stretch, peak, value) + "|\n";
  }
  return text;
}

std::string step_text(const Report& r) {
  if (!r.step) return "";
  const Step& step = *r.step;
  std::vector<std::vector<std::string>> rows = {
      {"decode step, one layer", "tokens held", "KV rows read", "of unshared"}};
  const double unshared = static_cast<double>(step.readings.unshared.counters.kv_rows);
  const auto add = [&](const char* name, const Reading& reading) {
    rows.push_back({name, with_commas(reading.kv_tokens), with_commas(reading.counters.kv_rows),
                    percent(static_cast<double>(reading.counters.kv_rows) / unshared)});
  };
  add("unshared", step.readings.unshared);
  add("single-level groups", step.readings.groups);
  add("all levels", step.readings.levels);
  return "\n" + table(rows) +
         line("step", "iteration " + with_commas(step.iteration) +
                          " of the last replay, the first with the most requests "
                          "that write: " +
                          with_commas(static_cast<std::int64_t>(step.running.requests.size())));
}

std::string limits_text(const Limits& limits) {
  return line("limits",
              with_commas(limits.kv_budget) + " tokens of KV, " + with_commas(limits.token_budget) +
                  " tokens an iteration, " +
                  (limits.request_limit > 0 ? "at most " + plural(limits.request_limit, "request") + " under way"
                                            : "any number of requests that fit"));
}

}  // namespace

std::string to_text(const Report& r) {
  const std::string version = std::to_string(PREFIXSHARE_VERSION_MAJOR) + "." +
                              std::to_string(PREFIXSHARE_VERSION_MINOR) + "." +
                              std::to_string(PREFIXSHARE_VERSION_PATCH);
  return "prefixshare " + version + ": a job of " + plural(r.requests, "request") +
         " in groups of one shared prefix\n\n" + line("job", r.what) + tokens_text(r) + limits_text(r.options.limits) +
         "\n" + choices(r) +
         line("checks", r.reconstructed ? "every prompt is its group's prefix and its own tokens"
                                        : "FAILED: some prompt is not its group's prefix and its own tokens") +
         "\n" + replays(r) + "\n" + chart(r, "batch size", [](const Iteration& i) { return i.batch; }) +
         chart(r, "KV tokens", [](const Iteration& i) { return i.kv; }) + step_text(r) + "\n" +
         "Single-level groups save " + percent(r.saving(r.exact.processed)) +
         " of the prompt tokens; all levels would save " + percent(r.saving(r.trie.unique_tokens)) + ".\n";
}

}  // namespace batch_job
