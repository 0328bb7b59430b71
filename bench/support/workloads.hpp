// SPDX-License-Identifier: Apache-2.0
// The batches of the catalogue that attention is timed on, each with the one that it is measured against.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/testing/catalogue.hpp"
#include "prefixshare/testing/problem.hpp"

namespace prefixshare::bench {

/// A workload of the catalogue, its lengths divided by `scale`. `shared` names every distinct token once. Without
/// sharing it is planned with Sharing::never; in training, where query rows repeat too, it is replaced by `repeated`: a
/// batch of whole sequences with keys and values of their own.
struct Batch {
  std::string name;
  LayerKind kind;
  bool training = false;
  testing::Topology shared;
  testing::Topology repeated;

  const testing::Topology& topology(Sharing sharing) const {
    return sharing == Sharing::never && training ? repeated : shared;
  }
};

/// One whole causal sequence per leaf.
inline testing::Topology repeat_paths(const testing::Topology& tree) {
  std::vector<std::int32_t> tokens(tree.nodes.size());
  std::vector<char> inner(tree.nodes.size(), 0);
  for (std::size_t n = 0; n < tree.nodes.size(); ++n) {  // the catalogue puts parents first
    const Node& node = tree.nodes[n];
    tokens[n] = node.length;
    if (node.parent < 0) continue;
    tokens[n] += tokens[static_cast<std::size_t>(node.parent)];
    inner[static_cast<std::size_t>(node.parent)] = 1;
  }
  testing::Topology repeated;
  for (std::size_t n = 0; n < tree.nodes.size(); ++n) {
    if (!inner[n]) repeated.add_sequence(repeated.add_node(-1, tokens[n]), tokens[n]);
  }
  return repeated;
}

inline Batch batch_of(const std::string& workload, std::int32_t scale) {
  const testing::Workload* w = testing::find_workload(workload);
  if (w == nullptr) throw std::runtime_error("no workload " + workload);
  Batch batch;
  batch.name = scale == 1 ? workload : workload + "/scale:" + std::to_string(scale);
  batch.kind = w->kind;
  batch.training = w->training;
  batch.shared = testing::workload_topology(*w, scale);
  if (w->training) batch.repeated = repeat_paths(batch.shared);
  return batch;
}

/// What is timed: one decode step below one prompt, with nothing to share, below a tree; one training step.
inline std::vector<Batch> batches(bool quick) {
  using Choice = std::pair<const char*, std::int32_t>;
  const std::vector<Choice> quick_set = {{"decode/32x4096x128", 8},
                                         {"chunk_attention/16x1024/0", 8},
                                         {"fasttree/1,4,256|8,256,32", 4},
                                         {"train/512x8x64", 8}};
  const std::vector<Choice> full_set = {{"decode/32x4096x128", 1},
                                        {"decode/64x16384x128", 8},
                                        {"chunk_attention/16x1024/0", 4},
                                        {"chunk_attention/64x1024/1024", 1},
                                        {"fasttree/1,4,256|8,256,32", 1},
                                        {"fasttree/1,16,64|1024,256,32", 1},
                                        {"train/512x8x64", 2},
                                        {"train/1024x8x1024", 16}};
  std::vector<Batch> list;
  for (const auto& [name, scale] : quick ? quick_set : full_set) list.push_back(batch_of(name, scale));
  return list;
}

}  // namespace prefixshare::bench
