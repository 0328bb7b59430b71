// SPDX-License-Identifier: Apache-2.0
// catalogue: the workloads of tests, benches and docs, with one name each.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/forest.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/testing/problem.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// A forest whose levels are given by "nodes per level|tokens per node", e.g. "1,16|4096,128": a root of 4096 tokens
/// with 16 children of 128. Nodes of a level hang evenly below the level before; a first level of several nodes is a
/// forest. A level's tokens may be one number, or one per node separated by spaces: "2|7 9".
struct Workload {
  std::string name;   ///< source/shape, unique
  std::string about;  ///< what it stands for
  std::string tree;
  bool training = false;  ///< every token is a query row; else one row at the end of each leaf (decode)
  LayerKind kind;
};

/// Every workload, in a fixed order.
const std::vector<Workload>& catalogue();
/// The workload with that name, or null.
const Workload* find_workload(const std::string& name);
/// Its topology, with all lengths divided by `scale` (rounded up, so that nothing vanishes). No nodes if `tree` does
/// not parse.
Topology workload_topology(const Workload& workload, std::int32_t scale = 1);
/// Its forest in one contiguous pool, nodes in order, without gaps. Errors: invalid_argument if `tree` does not parse,
/// capacity_exceeded, out_of_memory.
Status make_forest(const Workload& workload, std::int32_t scale, Forest* forest);

namespace detail {

inline LayerKind heads_and_dims(std::int32_t Hq, std::int32_t Hkv, std::int32_t D) {
  LayerKind kind;
  kind.Hq = Hq;
  kind.Hkv = Hkv;
  kind.D = kind.Dv = D;
  return kind;
}

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

/// A non-negative number, or -1.
inline std::int32_t number_in(const std::string& text) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  return text.empty() || *end != '\0' || value < 0 || value > INT32_MAX ? -1 : static_cast<std::int32_t>(value);
}

/// Collects the catalogue, one source after the other.
class CatalogueBuilder {
 public:
  std::vector<Workload> build() {
    grouped_rollouts();
    decode_points();
    chunk_attention();
    prefix_grouper();
    hydragen();
    fast_tree();
    pat();
    return std::move(list_);
  }

 private:
  void add(std::string name, std::string about, std::string tree, bool training, const LayerKind& kind) {
    list_.push_back({std::move(name), std::move(about), std::move(tree), training, kind});
  }
  static std::string number(std::int32_t x) { return std::to_string(x); }
  static std::string group(std::int32_t prefix, std::int32_t members, std::int32_t own) {
    return "1," + number(members) + "|" + number(prefix) + "," + number(own);
  }

  void grouped_rollouts() {
    const std::int32_t rows[][3] = {{4096, 16, 128}, {4096, 8, 128},  {16384, 16, 512},
                                    {512, 8, 64},    {1024, 8, 1024}, {4096, 4, 4096}};
    for (const auto& [prefix, members, own] : rows) {
      add("train/" + number(prefix) + "x" + number(members) + "x" + number(own),
          "policy gradient step: a question and its sampled answers, every token a query", group(prefix, members, own),
          true, heads_and_dims(32, 8, 128));
    }
  }
  void decode_points() {
    const std::int32_t points[][3] = {{32, 4096, 128}, {64, 16384, 128}, {1024, 2048, 64}};
    for (const auto& [batch, prefix, own] : points) {
      add("decode/" + number(batch) + "x" + number(prefix) + "x" + number(own),
          "one decode step of a batch below one system prompt", group(prefix, batch, own), false,
          heads_and_dims(32, 8, 128));
    }
  }
  void chunk_attention() {
    const std::int32_t points[][3] = {{32, 1024, 0},    {32, 1024, 256},  {32, 1024, 512},   {32, 1024, 768},
                                      {32, 1024, 1024}, {16, 1024, 0},    {64, 1024, 0},     {16, 1024, 1024},
                                      {64, 1024, 1024}, {16, 4096, 0},    {16, 4096, 2048},  {16, 4096, 4096},
                                      {32, 4096, 4096}, {64, 4096, 4096}, {32, 16384, 16384}};
    for (const auto& [batch, prompt, shared] : points) {
      add("chunk_attention/" + number(batch) + "x" + number(prompt) + "/" + number(shared),
          "ChunkAttention's kernel benchmark: batch x prompt / shared tokens", group(shared, batch, prompt - shared),
          false, heads_and_dims(32, 32, 128));
    }
  }
  void prefix_grouper() {
    for (std::int32_t prefix : {4096, 8192, 16384}) {
      for (std::int32_t members : {2, 4, 8, 16}) {
        for (std::int32_t own = 2 * prefix; own >= prefix / 32; own /= 2) {
          add("prefix_grouper/" + number(prefix) + "x" + number(members) + "x" + number(own),
              "Prefix Grouper's grid of prefix, group size and answer length", group(prefix, members, own), true,
              heads_and_dims(28, 4, 128));
        }
      }
    }
  }
  void hydragen() {
    const char* trees[] = {"1,2|3,6 7", "2,4,8|7,9 10 11 4,129 2 3 4 5 6 7 128", "1,3|16384,1 128 256"};
    for (const char* tree : trees) {
      for (std::int32_t Hkv : {1, 8}) {
        add("hydragen/" + std::string(tree) + "/kv" + number(Hkv), "Hydragen's test shapes", tree, false,
            heads_and_dims(8, Hkv, 128));
      }
    }
    const std::int32_t micro[][2] = {{512, 1024}, {1024, 2048}, {2048, 4096}, {4096, 8192}};
    for (const auto& [batch, prefix] : micro) {
      add("hydragen/" + number(batch) + "x" + number(prefix), "Hydragen's micro benchmark, 256 own tokens",
          group(prefix, batch, 256), false, heads_and_dims(8, 1, 128));
    }
  }
  void trees(const char* source, const char* about, std::initializer_list<const char*> list) {
    for (const char* tree : list) add(source + std::string("/") + tree, about, tree, false, heads_and_dims(32, 8, 128));
  }
  void fast_tree() {
    trees("fasttree", "FastTree's decode trees",
          {"1,2,64|8,256,32", "1,4,256|8,256,32", "1,4,8,256|8,256,256,32", "1,256|256,32", "1,1024|2048,32",
           "1,16,64|1024,256,32", "1,4,16,512|1024,256,128,32", "1,4,16,64,256,1024|256,8,256,64,32,256",
           "1,10|4000,400", "1,2,4,8,16,32,64,128,1024|16,16,16,16,16,16,16,16,16",
           "1,2,4,8,16,32,64,128,1024|256,128,64,16,16,16,16,16,16", "1,8,16,32,64,128,1024|256,128,64,16,16,16,16",
           "1,8,16,32,64,256,1024|256,128,64,16,16,16,16", "1,16,32,64,128,1024|256,128,64,16,16,16",
           "1,16,32,64,256,1024|256,128,64,16,16,16"});
  }
  void pat() {
    trees("pat", "PAT's decode trees, forests and batches that share nothing",
          {"1,10|4096,416",
           "1,256|256,32",
           "1,1024|2048,32",
           "1,2,64|1024,256,256",
           "1,4,256|32,256,32",
           "1,8,512|32,512,256",
           "1,8,512|32,2048,256",
           "1,8,512|512,512,256",
           "1,4,8,256|32,256,256,32",
           "1,4,16,512|1024,256,128,32",
           "1,4,16,64,256,1024|256,32,256,64,32,256",
           "1,16,32,64,128,1024|256,128,64,32,32,32",
           "1,16,32,64,256,1024|256,128,64,32,32,32",
           "1,8,16,32,64,128,1024|256,128,64,32,32,32,32",
           "1,8,16,32,64,256,1024|256,128,64,32,32,32,32",
           "2,8,16,256|256,256,32,32",
           "4,16,256,512|512,32,128,32",
           "8,16,32,256|512,512,256,32",
           "256|1024",
           "256|4096"});
  }

  std::vector<Workload> list_;
};

/// Tokens of each node of a level, scaled; empty if the text is wrong.
inline std::vector<std::int32_t> level_lengths(const std::string& text, std::int32_t nodes, std::int32_t scale) {
  std::vector<std::int32_t> lengths;
  for (const std::string& word : split(text, ' ')) {
    const std::int32_t length = number_in(word);
    if (length < 0) return {};
    lengths.push_back(static_cast<std::int32_t>((std::int64_t{length} + scale - 1) / scale));
  }
  if (lengths.size() == 1 && nodes > 0) lengths.resize(static_cast<std::size_t>(nodes), lengths.front());
  return static_cast<std::int64_t>(lengths.size()) == nodes ? lengths : std::vector<std::int32_t>{};
}

}  // namespace detail

inline const std::vector<Workload>& catalogue() {
  static const std::vector<Workload> list = detail::CatalogueBuilder().build();
  return list;
}

inline const Workload* find_workload(const std::string& name) {
  for (const Workload& w : catalogue()) {
    if (w.name == name) return &w;
  }
  return nullptr;
}

inline Topology workload_topology(const Workload& workload, std::int32_t scale) {
  const std::vector<std::string> halves = detail::split(workload.tree, '|');
  if (halves.size() != 2 || scale < 1) return {};
  const std::vector<std::string> counts = detail::split(halves[0], ','), tokens = detail::split(halves[1], ',');
  if (counts.size() != tokens.size()) return {};
  Topology t;
  std::int32_t above = 0, first_above = 0;
  for (std::size_t level = 0; level < counts.size(); ++level) {
    const std::int32_t nodes = detail::number_in(counts[level]);
    const std::vector<std::int32_t> lengths = detail::level_lengths(tokens[level], nodes, scale);
    if (nodes < 1 || lengths.empty()) return {};
    const std::int32_t first = static_cast<std::int32_t>(t.nodes.size());
    for (std::int32_t i = 0; i < nodes; ++i) {
      const std::int64_t parent = above > 0 ? first_above + std::int64_t{i} * above / nodes : -1;
      t.add_node(static_cast<std::int32_t>(parent), lengths[static_cast<std::size_t>(i)]);
    }
    first_above = first;
    above = nodes;
  }
  for (std::int32_t n = 0; n < static_cast<std::int32_t>(t.nodes.size()); ++n) {
    const bool leaf = n >= first_above;
    if (workload.training) t.add_sequence(n, t.nodes[static_cast<std::size_t>(n)].length);
    if (!workload.training && leaf) t.add_sequence(n, 1);
  }
  return t;
}

inline Status make_forest(const Workload& workload, std::int32_t scale, Forest* forest) {
  const Topology topology = workload_topology(workload, scale);
  PoolShape pool{1, 1};
  std::vector<Segment> segments;
  std::int64_t used = 0;
  for (std::int32_t length : topology.segments) {
    Segment s;
    s.offset = static_cast<std::int32_t>(used);
    s.length = length;
    used += length;
    segments.push_back(s);
  }
  Status s;
  s.op = "make_forest";
  s.argument = "workload";
  s.got = used;
  if (topology.nodes.empty()) s.code = StatusCode::invalid_argument;
  if (used >= INT32_MAX) s.code = StatusCode::capacity_exceeded;
  if (s) return s;
  pool.page_size = static_cast<std::int32_t>(used) + 1;  // a segment without tokens may start at the end
  const std::int32_t page = 0;
  ForestInput input;
  input.pools = {&pool, 1};
  input.pages = {&page, 1};
  input.segments = segments;
  input.nodes = topology.nodes;
  input.sequences = topology.sequences;
  return prefixshare::make_forest(input, forest);
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
