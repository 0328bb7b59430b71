// SPDX-License-Identifier: Apache-2.0
// The workloads of workloads.txt, and their forests in a paged or contiguous cache.
#pragma once

#include <cstdint>
#include <fstream>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/testing/catalogue.hpp"
#include "prefixshare/testing/problem.hpp"

namespace prefixshare::gpu {

struct BenchWorkload {
  std::string name, kind;  ///< kind: decode, verify, train, merge, shift
  std::string tree;
  LayerKind heads;
  std::int32_t draft = 0;   ///< verify: tokens of each draft tree
  std::int32_t parts = 0;   ///< merge
  std::int32_t rows = 0;    ///< merge
  std::int32_t tokens = 0;  ///< shift

  bool is_attention() const { return !tree.empty(); }
};

/// Throws for a line that it does not understand.
inline BenchWorkload parse_workload(const std::string& line) {
  BenchWorkload w;
  w.heads.q_dtype = w.heads.kv_dtype = DType::bf16;
  w.heads.D = w.heads.Dv = 128;
  w.heads.Hq = w.heads.Hkv = 0;
  std::istringstream words(line);
  words >> w.name >> w.kind;
  for (std::string word; words >> word;) {
    const std::size_t at = word.find('=');
    const std::string key = word.substr(0, at), value = at == std::string::npos ? "" : word.substr(at + 1);
    const auto number = [&value] { return static_cast<std::int32_t>(std::strtol(value.c_str(), nullptr, 10)); };
    if (key == "tree") {
      w.tree = value;
    } else if (key == "heads") {
      w.heads.Hq = number();
      w.heads.Hkv = static_cast<std::int32_t>(std::strtol(value.c_str() + value.find('/') + 1, nullptr, 10));
    } else if (key == "draft") {
      w.draft = number();
    } else if (key == "parts") {
      w.parts = number();
    } else if (key == "rows") {
      w.rows = number();
    } else if (key == "tokens") {
      w.tokens = number();
    } else {
      throw std::runtime_error("workload " + w.name + ": " + word);
    }
  }
  const bool attention = w.kind == "decode" || w.kind == "verify" || w.kind == "train";
  const bool right =
      w.heads.Hq > 0 && w.heads.Hkv > 0 && w.heads.Hq % w.heads.Hkv == 0 &&
      (attention ? w.is_attention() && (w.kind == "verify") == (w.draft > 0)
                 : (w.kind == "merge" && w.parts > 0 && w.rows > 0) || (w.kind == "shift" && w.tokens > 0));
  if (!right) throw std::runtime_error("no workload: " + line);
  return w;
}

inline std::vector<BenchWorkload> read_workloads(const std::string& path) {
  std::vector<BenchWorkload> list;
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') list.push_back(parse_workload(line));
  }
  return list;
}

/// A draft tree of one-token nodes below a node, each a query row; parents at random.
inline void add_draft(testing::Topology* t, std::int32_t below, std::int32_t tokens, testing::Random* random) {
  const auto segment = static_cast<std::int32_t>(t->segments.size());
  const auto first = static_cast<std::int32_t>(t->nodes.size());
  t->segments.push_back(tokens);
  for (std::int32_t n = 0; n < tokens; ++n) {
    Node node;
    node.parent = n == 0 || random->chance(0.1) ? below : first + random->between(0, n - 1);
    node.segment = segment;
    node.begin = n;
    node.length = 1;
    t->nodes.push_back(node);
    t->add_sequence(first + n, 1);
  }
}

/// The topology of an attention workload. `whole`: every sequence is a path of its own, from its first token.
inline testing::Topology topology_of(const BenchWorkload& w, bool whole = false) {
  testing::Workload tree;
  tree.tree = w.tree;
  tree.training = w.kind == "train";
  testing::Topology t = testing::workload_topology(tree);
  if (t.nodes.empty()) throw std::runtime_error("workload " + w.name + ": " + w.tree + " is no tree");
  if (w.kind == "verify") {
    testing::Random random(3);
    const std::vector<Sequence> leaves = t.sequences;
    t.sequences.clear();
    for (const Sequence& s : leaves) add_draft(&t, s.node, w.draft, &random);
  }
  if (!whole) return t;
  testing::Topology apart;
  for (std::size_t n = 0; n < t.nodes.size(); ++n) {
    bool leaf = true;
    for (const Node& other : t.nodes) leaf = leaf && other.parent != static_cast<std::int32_t>(n);
    if (!leaf) continue;
    std::int32_t length = 0;
    for (auto at = static_cast<std::int32_t>(n); at >= 0; at = t.nodes[static_cast<std::size_t>(at)].parent) {
      length += t.nodes[static_cast<std::size_t>(at)].length;
    }
    const std::int32_t node = apart.add_node(-1, length);
    apart.add_sequence(node, tree.training ? length : 1);
  }
  return apart;
}

/// Its forest, segments one after the other: in pages in random order, or (0) in one contiguous page.
inline Forest place(const testing::Topology& topology, std::int32_t page_size) {
  std::vector<Segment> segments;
  std::vector<std::int32_t> pages(page_size > 0 ? 0 : 1, 0);
  std::int32_t tokens = 0;
  for (const std::int32_t length : topology.segments) {
    Segment s;
    s.length = length;
    s.first_page = page_size > 0 ? static_cast<std::int32_t>(pages.size()) : 0;
    s.offset = page_size > 0 ? 0 : tokens;
    if (page_size > 0) pages.resize(pages.size() + static_cast<std::size_t>((length + page_size - 1) / page_size));
    tokens += length;
    segments.push_back(s);
  }
  PoolShape pool{tokens + 1, 1};  // a segment without tokens may start at the end
  if (page_size > 0) {
    std::iota(pages.begin(), pages.end(), 0);
    testing::Random(1).shuffle(&pages);
    pool = {page_size, static_cast<std::int32_t>(pages.size())};
  }
  Forest forest;
  throw_if_error(make_forest({{&pool, 1}, pages, segments, topology.nodes, topology.sequences}, &forest));
  return forest;
}

}  // namespace prefixshare::gpu
