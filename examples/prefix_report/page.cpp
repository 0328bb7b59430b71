// SPDX-License-Identifier: Apache-2.0
#include "page.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "format.hpp"

namespace prefix_report {

using prefixshare::NodeDecision;

namespace {

constexpr double kWidth = 1000;            // of the picture, in its own units
constexpr double kThinnest = 0.35;         // boxes lower than this cannot be told apart
constexpr std::size_t kMostBoxes = 20000;  // what a browser draws without a pause

// Four fills that differ in lightness as well, so that they are told apart without colours.
constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1d2126; --faint: #6b7280; --rule: #d9dce1;
  --shared: #2f6fae; --folded: #dd9a3a; --alone: #c9ced6; --draft: #8a5fb0; --before: #b9bec7; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e8eb; --faint: #9aa3af; --rule: #343a43;
  --shared: #5b9bd8; --folded: #c98a35; --alone: #4a515c; --draft: #a583c9; --before: #5d6571; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 2.5rem auto;
  max-width: 66rem; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; line-height: 1.3; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2.4rem 0 .4rem; }
p { margin: .3rem 0 .8rem; max-width: 46rem; } .faint { color: var(--faint); }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: var(--ink); }
svg .faint { fill: var(--faint); } svg line { stroke: var(--rule); } svg rect { stroke: var(--paper); stroke-width: .5; }
.shared { fill: var(--shared); } .folded { fill: var(--folded); } .alone { fill: var(--alone); }
.draft { fill: var(--draft); } .before { fill: var(--before); } rect.box:hover { stroke: var(--ink); stroke-width: 1.5; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .2rem 0 .8rem; }
.key svg { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
)";

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&quot;" : std::string(1, c);
  }
  return out;
}
std::string attribute(const char* name, const std::string& value) {
  return std::string(" ") + name + "=\"" + value + "\"";
}
std::string place(const char* name, double value) { return attribute(name, fixed(value, 2)); }

std::string rect(double x, double y, double width, double height, const std::string& kind, const std::string& title) {
  return "<rect" + place("x", x) + place("y", y) + place("width", width) + place("height", height) +
         attribute("class", kind) + (title.empty() ? "/>" : "><title>" + escaped(title) + "</title></rect>") + "\n";
}
std::string text_at(double x, double y, const std::string& text, const char* anchor = "start", const char* kind = "") {
  return "<text" + place("x", x) + place("y", y) + attribute("text-anchor", anchor) + attribute("class", kind) + ">" +
         escaped(text) + "</text>\n";
}
std::string picture(double height, const std::string& name, const std::string& content) {
  return "<svg viewBox=\"0 0 " + fixed(kWidth, 0) + " " + fixed(height, 0) + "\" role=\"img\"" +
         attribute("aria-label", name) + ">\n" + content + "</svg>\n";
}

const char* reading_name(const Box& box) {
  if (box.decision == nullptr) return "alone";
  switch (box.decision->reading) {
    case NodeDecision::Reading::shared: return "shared";
    case NodeDecision::Reading::folded: return "folded";
    case NodeDecision::Reading::draft: return "draft";
    case NodeDecision::Reading::alone: break;
  }
  return "alone";
}

std::string nanoseconds(double ns) { return seconds_text(ns * 1e-9); }

/// What a box says when the pointer rests on it.
std::string box_title(const Report& r, const Box& box) {
  const prefixshare::LayerKind kind = r.options.layer();
  const double token = static_cast<double>(kind.Hkv) * (kind.D + kind.Dv) * size_of(kind.kv_dtype);
  std::string text = "node " + std::to_string(box.node) + ": " + plural(box.end - box.begin, "token") + " (positions " +
                     with_commas(box.begin) + " to " + with_commas(box.end - 1) + ")\n" +
                     plural(box.sharers, r.options.train ? "leaf below" : "sequence") + "\n" +
                     bytes_text(token * (box.end - box.begin)) + " of K and V a layer";
  if (box.decision == nullptr) return text;
  const NodeDecision& d = *box.decision;
  text += std::string("\n") + reading_name(box);
  if (d.shared_cost > 0 && d.folded_cost > 0) {
    text += ": predicted " + nanoseconds(d.shared_cost) + " shared, " + nanoseconds(d.folded_cost) + " folded";
  }
  return text;
}

/// A round number of path positions between marks.
std::int32_t tick_step(std::int32_t length) {
  std::int32_t step = 1;
  while (length / step > 10) step *= step % 3 == 2 ? 5 : 2;  // 1, 2, 10, 20, 100, ...
  return step;
}

std::string ticks(std::int32_t length, double scale, double height) {
  std::string out;
  for (std::int32_t t = 0; t <= length; t += tick_step(length)) {
    const double x = t * scale;
    out += "<line" + place("x1", x) + place("x2", x) + place("y1", 18) + place("y2", height) + "/>\n";
    if (x < kWidth - 40) out += text_at(x + 3, 12, with_commas(t), "start", "faint");
  }
  return out;
}

/// Left to right the tokens of a path, top to bottom the sequences: the area of a node is what its sequences would hold
/// of it alone, its width what is held of it once.
std::string icicle_picture(const Report& r, std::size_t* left_out) {
  const prefixshare::Forest& forest = r.sample.step.shared.forest;
  const std::vector<Box> boxes = icicle(forest, r.sample.step.shared.plan, r.options.train);
  std::int32_t length = 1;
  std::int32_t sequences = 1;
  for (const Box& box : boxes) {
    length = std::max(length, box.end);
    sequences = std::max(sequences, box.top + box.sharers);
  }
  const double scale = kWidth / length;
  const double row = std::clamp(400.0 / sequences, 1.0, 14.0);
  const double height = std::min(2000.0, row * sequences), unit = height / sequences;
  std::string content = ticks(length, scale, height + 22);
  std::size_t drawn = 0;
  for (const Box& box : boxes) {
    if (box.sharers * unit < kThinnest || drawn == kMostBoxes) {
      ++*left_out;
      continue;
    }
    ++drawn;
    content += rect(box.begin * scale, 20 + box.top * unit, (box.end - box.begin) * scale, box.sharers * unit,
                    std::string("box ") + reading_name(box), box_title(r, box));
  }
  return picture(height + 24, "The prefix forest", content);
}

std::string key() {
  const auto entry = [](const char* kind, const char* text) {
    return std::string("<span><svg viewBox=\"0 0 10 10\">") + rect(0, 0, 10, 10, kind, "") + "</svg>" + text +
           "</span>\n";
  };
  return "<div class=\"key\">\n" + entry("shared", "read once for all of its sequences") +
         entry("folded", "read again by each branch below: cheaper here") +
         entry("alone", "read by its own sequences") + entry("draft", "a draft tree, one run with ancestor bits") +
         "</div>\n";
}

/// Two bars, without sharing and with it.
struct Pair {
  std::string what;
  double unshared, shared;
  std::string unshared_text, shared_text;
};
std::string bars(const std::vector<Pair>& pairs) {
  constexpr double kLeft = 150, kBar = 700, kRow = 58;
  std::string content;
  double y = 4;
  for (const Pair& p : pairs) {
    const double most = std::max({p.unshared, p.shared, 1e-300});
    content += text_at(0, y + 26, p.what);
    content += rect(kLeft, y, kBar * p.unshared / most, 20, "before", "");
    content += text_at(kLeft + kBar * p.unshared / most + 6, y + 14, p.unshared_text + " each alone");
    content += rect(kLeft, y + 22, kBar * p.shared / most, 20, "shared", "");
    content += text_at(kLeft + kBar * p.shared / most + 6, y + 36, p.shared_text + " shared");
    y += kRow;
  }
  return picture(y, "Without sharing and with it", content);
}

std::vector<Pair> pairs_of(const Report& r) {
  const double unshared = r.result.seconds(r.result.unshared), shared = r.result.seconds(r.result.shared);
  std::vector<Pair> pairs = {{"time of a layer", unshared, shared, seconds_text(unshared), seconds_text(shared)}};
  const auto add = [&](const char* what, std::int64_t before, std::int64_t after, std::string (*text)(double)) {
    const double a = static_cast<double>(before), b = static_cast<double>(after);
    pairs.push_back({what, a, b, text(a), text(b)});
  };
  const prefixshare::Counters &before = r.sample.step.unshared.counters, &after = r.sample.step.shared.counters;
  add("K and V read", before.kv_bytes, after.kv_bytes, bytes_text);
  add("FLOPs, forward", before.flops_forward, after.flops_forward, flops_text);
  const prefixshare::ForestStats& s = r.stats;
  const double token =
      2.0 * r.options.model.Hkv * r.options.model.D * size_of(r.options.dtype) * r.options.model.layers;
  const double logical = token * static_cast<double>(s.logical_tokens),
               unique = token * static_cast<double>(s.unique_tokens);
  pairs.push_back({"KV cache, all layers", logical, unique, bytes_text(logical), bytes_text(unique)});
  return pairs;
}

std::string passes_table(const Report& r) {
  std::string rows;
  const auto add = [&](const Pass& p, const Pass& alone) {
    const std::string cells[] = {p.way == "shared" ? "shared" : "each alone",
                                 p.name,
                                 seconds_text(p.seconds),
                                 fixed(alone.seconds / p.seconds, 2) + " x",
                                 p.kv_rows < 0 ? "-" : with_commas(p.kv_rows),
                                 flops_text(static_cast<double>(p.flops)),
                                 fixed(100 * p.bound_seconds / p.seconds, 1) + " %"};
    rows += "<tr>";
    for (const std::string& cell : cells) rows += "<td>" + escaped(cell) + "</td>";
    rows += "</tr>\n";
  };
  for (std::size_t i = 0; i < r.result.shared.size(); ++i) {
    add(r.result.unshared[i], r.result.unshared[i]);
    add(r.result.shared[i], r.result.unshared[i]);
  }
  return "<div class=\"scroll\"><table>\n<tr><th>way</th><th>pass</th><th>time</th><th>speed-up</th><th>KV rows</th>"
         "<th>FLOPs</th><th>of the bound</th></tr>\n" +
         rows + "</table></div>\n";
}

std::string headline(const Report& r) {
  const double ratio = r.result.seconds(r.result.unshared) / r.result.seconds(r.result.shared);
  const std::string step = r.options.train ? "training step" : "decode step";
  if (!r.passes()) return "The results do not agree: nothing is proved";
  return "Sharing prefixes: " + fixed(r.stats.sharing_ratio(), 2) + " x fewer tokens held, a " + step + " " +
         fixed(ratio, 2) + " x as fast";
}

std::string introduction(const Report& r) {
  const prefixshare::ForestStats& s = r.stats;
  std::string text = std::filesystem::path(r.options.input).filename().string() + ": " +
                     plural(s.sequences, "sequence") + ", " + with_commas(s.logical_tokens) + " tokens of which " +
                     with_commas(s.unique_tokens) + " are distinct. One layer of " + r.options.run.name + " (" +
                     plural(r.options.run.Hq, "query head") + ", " + plural(r.options.run.Hkv, "key/value head") +
                     " of " + std::to_string(r.options.run.D) + ", " + to_string(r.options.dtype) + "), " +
                     r.result.implementation + ", " + plural(r.options.threads, "thread") + ".";
  if (!r.sample.is_whole())
    text += " What was run is a sample of " + plural(r.sample.stats.sequences, "sequence") + ".";
  return "<p>" + escaped(text) + "</p>\n";
}

}  // namespace

std::string to_html(const Report& r) {
  std::size_t left_out = 0;
  const std::string forest = icicle_picture(r, &left_out);
  std::string page =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>" +
      escaped(headline(r)) + "</title>\n<style>" + kStyle + "</style>\n</head>\n<body>\n<h1>" + escaped(headline(r)) +
      "</h1>\n";
  page += introduction(r);
  page += "<h2>Without sharing and with it</h2>\n" + bars(pairs_of(r)) + passes_table(r);
  page += "<p class=\"faint\">The bound is the larger of bytes over " +
          fixed(r.result.ceilings.bytes_per_second * 1e-9, 1) + " GB/s and FLOPs over " +
          fixed(r.result.ceilings.flops_per_second * 1e-9, 0) + " GFLOP/s, both measured in this run.</p>\n";
  page +=
      "<h2>The forest</h2>\n<p>Left to right the tokens of a path, top to bottom the sequences: the area of a node is "
      "what its sequences would hold of it alone, its width what is held once. Rest the pointer on a node.</p>\n" +
      key() + forest;
  if (left_out > 0)
    page += "<p class=\"faint\">" + plural(static_cast<std::int64_t>(left_out), "node") + " too fine to draw.</p>\n";
  return page + "</body>\n</html>\n";
}

}  // namespace prefix_report
