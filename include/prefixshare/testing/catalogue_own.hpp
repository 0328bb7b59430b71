// SPDX-License-Identifier: Apache-2.0
// The project's own workloads: the cases C1 to C7 of its benchmarks, sweeps of one length each, a grid of prefix and
// batch, groups in training.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/testing/workload.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {
namespace detail {

inline LayerKind make_kind(std::int32_t Hq, std::int32_t Hkv, std::int32_t D, DType dtype) {
  LayerKind kind;
  kind.Hq = Hq;
  kind.Hkv = Hkv;
  kind.D = kind.Dv = D;
  kind.q_dtype = kind.kv_dtype = dtype;
  return kind;
}

/// One prefix and what `members` sequences have of their own.
inline std::string prefix_tree(std::int32_t prefix, std::int32_t members, std::int32_t own) {
  return "1," + std::to_string(members) + "|" + std::to_string(prefix) + "," + std::to_string(own);
}

/// "64x4096x128"
inline std::string times(std::int32_t a, std::int32_t b, std::int32_t c) {
  return std::to_string(a) + "x" + std::to_string(b) + "x" + std::to_string(c);
}
/// "C7/prefix:63"
inline std::string join_names(std::initializer_list<std::string> parts) {
  std::string name;
  for (const std::string& part : parts) name += (name.empty() ? "" : "/") + part;
  return name;
}
inline std::string labelled(const char* key, std::int32_t value) {
  return std::string(key) + ":" + std::to_string(value);
}

/// Workloads of one source.
class WorkloadAdder {
 public:
  WorkloadAdder(std::vector<Workload>* list, std::string source) : list_(list), source_(std::move(source)) {}

  /// A workload of attention, one query row each, to be changed further.
  Workload& add(const std::string& name, const std::string& about, const std::string& tree, const LayerKind& kind) {
    Workload w;
    w.name = name;
    w.about = about;
    w.source = source_;
    w.tree = tree;
    w.kind = kind;
    list_->push_back(std::move(w));
    return list_->back();
  }
  Workload& add_training(const std::string& name, const std::string& about, const std::string& tree,
                         const LayerKind& kind) {
    Workload& w = add(name, about, tree, kind);
    w.task = Task::training;
    return w;
  }
  /// `rows` states of `parts` parts.
  Workload& add_merge(const std::string& name, const std::string& about, std::int32_t rows, std::int32_t parts,
                      const LayerKind& kind) {
    Workload& w = add(name, about, "", kind);
    w.task = Task::merge;
    w.rows = rows;
    w.parts = parts;
    return w;
  }
  /// `keys` keys to another position.
  Workload& add_shift(const std::string& name, const std::string& about, std::int32_t keys, const LayerKind& kind) {
    Workload& w = add(name, about, "", kind);
    w.task = Task::shift;
    w.rows = keys;
    return w;
  }

 private:
  std::vector<Workload>* list_;
  std::string source_;
};

inline void add_cases(WorkloadAdder* to) {
  const LayerKind grouped = make_kind(32, 8, 128, DType::bf16), equal = make_kind(32, 32, 128, DType::f32);
  to->add("C1", "one decode step of 32 sequences, 4096 shared and 128 own tokens each", prefix_tree(4096, 32, 128),
          grouped);
  for (const std::int32_t prompt : {1024, 4096}) {
    to->add(join_names({"C2", labelled("prompt", prompt), labelled("shared", prompt)}),
            "one decode step of 32 equal prompts", prefix_tree(prompt, 32, 0), equal);
  }
  to->add("C2/prompt:1024/shared:0", "one decode step of 32 prompts that share nothing", "32|1024", equal);
  to->add("C3", "plain decode: one sequence", "1|4352", grouped);
  to->add("C3/head-major", "the same, a cache that holds head after head", "1|4352", grouped).head_major = true;
  to->add("C4", "8 sequences whose 256 own tokens are all query rows, below 1024 shared ones",
          prefix_tree(1024, 8, 256), grouped)
      .rows = 256;
  to->add("C5", "prefill of 512 rows behind 4096 cached tokens, one sequence", "1|4608", grouped).rows = 512;
  to->add_merge("C6/merge", "two states of a prefill's rows", 4096, 2, make_kind(32, 32, 128, DType::f32));
  to->add_shift("C6/rope_shift", "a cached document to another position", 16384, grouped);
  to->add("C7/batch:1", "a prefix that nobody else has", prefix_tree(4096, 1, 128), grouped);
  for (const std::int32_t prefix : {1, 8, 16, 32, 63}) {
    to->add(join_names({"C7", labelled("prefix", prefix)}), "a prefix that is hardly worth sharing",
            prefix_tree(prefix, 32, 128), grouped);
  }
}

/// 32 leaves below paths of 2048 tokens, at a depth.
inline void add_depths(WorkloadAdder* to) {
  for (const char* nodes : {"32", "1,32", "1,4,32", "1,2,8,32", "1,2,4,8,16,32"}) {
    const auto depth = static_cast<std::int32_t>(split(nodes, ',').size());
    std::string tokens;
    for (std::int32_t level = 0; level < depth; ++level) tokens += (level ? "," : "|") + std::to_string(2048 / depth);
    to->add(join_names({"sweep", labelled("depth", depth)}), "a decode step by depth of the tree", nodes + tokens,
            make_kind(32, 8, 128, DType::bf16));
  }
}

/// Decode steps in which one thing changes.
inline void add_sweeps(WorkloadAdder* to) {
  const auto add = [to](const char* what, std::int32_t value, const std::string& tree, std::int32_t D) -> Workload& {
    return to->add(join_names({"sweep", labelled(what, value)}), std::string("a decode step by ") + what, tree,
                   make_kind(32, 8, D, DType::bf16));
  };
  for (const std::int32_t p : {1024, 4096, 16384, 65536}) add("prefix", p, prefix_tree(p, 8, 64), 128);
  for (const std::int32_t b : {1, 4, 16, 64, 256, 512}) add("batch", b, prefix_tree(1024, b, 32), 128);
  add_depths(to);
  for (const std::int32_t d : {64, 96, 128, 192, 256}) add("D", d, prefix_tree(1024, 16, 128), d);
  for (const std::int32_t p : {1, 4, 16, 64}) add("page", p, prefix_tree(1024, 16, 128), 128).page_size = p;
}

/// Where sharing begins to pay.
inline void add_grid(WorkloadAdder* to) {
  for (const std::int32_t prefix : {64, 256, 1024, 4096, 16384}) {
    for (const std::int32_t batch : {1, 2, 4, 8, 16, 32, 64}) {
      to->add(join_names({"grid", labelled("prefix", prefix), labelled("batch", batch), "own:64"}),
              "a decode step by prefix and batch", prefix_tree(prefix, batch, 64), make_kind(32, 8, 128, DType::bf16));
    }
  }
}

inline void add_groups(WorkloadAdder* to) {
  const LayerKind kind = make_kind(32, 8, 128, DType::bf16);
  const std::int32_t groups[][3] = {{4096, 16, 128}, {4096, 8, 128},  {16384, 16, 512},
                                    {512, 8, 64},    {1024, 8, 1024}, {4096, 4, 4096}};
  for (const auto& [prefix, members, own] : groups) {
    to->add_training("train/" + times(prefix, members, own),
                     "policy gradient step: a question and its sampled answers, every token a query",
                     prefix_tree(prefix, members, own), kind);
  }
  const std::int32_t points[][3] = {{32, 4096, 128}, {64, 16384, 128}, {1024, 2048, 64}};
  for (const auto& [batch, prefix, own] : points) {
    to->add("decode/" + times(batch, prefix, own), "one decode step of a batch below one system prompt",
            prefix_tree(prefix, batch, own), kind);
  }
  // The shared prefix in one pool, what each sequence has in others, as where a long-lived prompt has its own memory.
  to->add("pools/16x1024x128", "a prompt in one pool, its 16 sequences in three others", prefix_tree(1024, 16, 128),
          kind)
      .own_pools = 3;
}

inline void add_own(std::vector<Workload>* list) {
  WorkloadAdder to(list, "prefixshare");
  add_cases(&to);
  add_sweeps(&to);
  add_grid(&to);
  add_groups(&to);
}

}  // namespace detail
}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
