// SPDX-License-Identifier: Apache-2.0
#include "support/workloads.hpp"

#include <cstdlib>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <regex>

#include "prefixshare/testing/catalogue.hpp"
#include "prefixshare/testing/catalogue_data.hpp"
#include "support/options.hpp"

namespace prefixshare::bench {

using testing::Task;
using testing::Workload;

namespace {

bool is_attention(const Workload& w) { return w.task == Task::forward || w.task == Task::training; }

std::string type_of(const LayerKind& kind) {
  if (kind.q_dtype == kind.kv_dtype) return to_string(kind.q_dtype);
  return std::string(to_string(kind.kv_dtype)) + "-" + to_string(kind.q_dtype);
}

/// "1234567" as "1.235 M", so that columns stay narrow.
std::string short_number(std::int64_t n) {
  const char* units[] = {"", " K", " M", " G"};
  double x = static_cast<double>(n);
  std::size_t unit = 0;
  for (; x >= 10000 && unit < 3; ++unit) x /= 1000;
  std::ostringstream text;
  text << std::fixed << std::setprecision(unit == 0 ? 0 : 1) << x << units[unit];
  return text.str();
}

/// Nodes by columns: parent, first token and tokens of a segment. Segments by columns: length, pool.
nlohmann::ordered_json forest_json(const Workload& w) {
  const testing::Topology t = testing::workload_topology(w);
  const testing::WorkloadTokens tokens = testing::workload_tokens(w);
  std::vector<std::int32_t> parent, segment, begin, length, node, rows;
  for (const Node& n : t.nodes) {
    parent.push_back(n.parent), segment.push_back(n.segment), begin.push_back(n.begin), length.push_back(n.length);
  }
  for (const Sequence& s : t.sequences) node.push_back(s.node), rows.push_back(s.q_len);
  return {{"logical_tokens", tokens.logical},
          {"unique_tokens", tokens.unique},
          {"nodes", {{"parent", parent}, {"segment", segment}, {"begin", begin}, {"length", length}}},
          {"segments", {{"length", t.segments}, {"pool", testing::workload_pools(w, t)}}},
          {"sequences", {{"node", node}, {"q_rows", rows}}}};
}

nlohmann::ordered_json to_json(const Workload& w) {
  nlohmann::ordered_json j = {{"name", w.name},
                              {"about", w.about},
                              {"source", w.source},
                              {"task", to_string(w.task)},
                              {"q_dtype", to_string(w.kind.q_dtype)},
                              {"kv_dtype", to_string(w.kind.kv_dtype)},
                              {"Hq", w.kind.Hq},
                              {"Hkv", w.kind.Hkv},
                              {"D", w.kind.D},
                              {"Dv", w.kind.Dv}};
  if (!is_attention(w)) j["rows"] = w.rows;
  if (w.task == Task::merge) j["parts"] = w.parts;
  if (!is_attention(w)) return j;
  j["page_size"] = w.page_size;
  j["head_major"] = w.head_major;
  j["tree"] = w.tree;
  j["rows"] = w.rows;
  j["draft_parents"] = w.draft;
  j.update(forest_json(w));
  return j;
}

}  // namespace

std::vector<const Workload*> Workloads::find(const std::string& pattern) const {
  std::vector<const Workload*> found;
  for (const Workload& w : list) {
    if (w.name == pattern) return {&w};
  }
  try {
    const std::regex expression(pattern, std::regex::extended);
    for (const Workload& w : list) {
      if (std::regex_search(w.name, expression)) found.push_back(&w);
    }
  } catch (const std::regex_error& error) {
    throw OptionError("--workload: '" + pattern + "' is no regular expression: " + error.what());
  }
  if (found.empty()) {
    const std::string more = missing.empty() ? "" : ", which also says what input is missing";
    throw OptionError("--workload: no workload is called '" + pattern + "'; --list has the names" + more);
  }
  return found;
}

Workloads all_workloads() {
  const char* folder = std::getenv("PREFIXSHARE_TEST_DATA");
  testing::DataWorkloads data = testing::data_workloads(folder == nullptr ? "" : folder);
  Workloads all{testing::catalogue(), std::move(data.missing)};
  all.list.insert(all.list.end(), data.list.begin(), data.list.end());
  return all;
}

void print_list(const Workloads& workloads, std::ostream& out) {
  std::size_t width = 0;
  for (const Workload& w : workloads.list) width = std::max(width, w.name.size());
  const auto line = [&](const std::string& name, const std::string& type, const std::string& logical,
                        const std::string& unique, const std::string& about) {
    out << std::left << std::setw(static_cast<int>(width)) << name << "  " << std::setw(9) << type << std::right
        << std::setw(10) << logical << std::setw(10) << unique << "  " << about << '\n';
  };
  line("workload", "type", "logical", "unique", "tokens, and what it is");
  for (const Workload& w : workloads.list) {
    const testing::WorkloadTokens t = is_attention(w) ? testing::workload_tokens(w) : testing::WorkloadTokens{};
    line(w.name, type_of(w.kind), is_attention(w) ? short_number(t.logical) : "-",
         is_attention(w) ? short_number(t.unique) : "-", w.about);
  }
  for (const std::string& m : workloads.missing) out << "missing  " << m << '\n';
  if (!workloads.missing.empty()) out << "PREFIXSHARE_TEST_DATA names the folder of real input\n";
}

void print_json(const Workloads& workloads, std::ostream& out) {
  // One workload at a time, a line each: together they are some ten megabytes.
  out << "{\"missing\": " << nlohmann::json(workloads.missing) << ",\n\"workloads\": [\n";
  for (std::size_t i = 0; i < workloads.list.size(); ++i) {
    out << to_json(workloads.list[i]).dump() << (i + 1 < workloads.list.size() ? ",\n" : "\n");
  }
  out << "]}\n";
}

}  // namespace prefixshare::bench
