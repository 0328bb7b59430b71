// SPDX-License-Identifier: Apache-2.0
// Workloads W1 to W10: what models at work ask of an accelerator, a layer each; the same at the size of a CPU; and
// decode steps that verify draft trees.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/testing/catalogue_own.hpp"
#include "prefixshare/testing/workload.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {
namespace detail {

/// One of W1 to W10 and its twin on a CPU: a quarter of the sequences and of the tokens; in training as many sequences
/// and a sixteenth of the tokens.
class ModelWorkloads {
 public:
  explicit ModelWorkloads(std::vector<Workload>* list) : to_(list, "prefixshare") {}

  void add_all() {
    for (const bool twin : {false, true}) {
      quarter_ = twin ? 4 : 1;
      folder_ = twin ? "cpu/" : "gpu/";
      add_decode();
      add_tree();
      add_verification();
      add_training();
      add_rows();
    }
  }

 private:
  std::string name(const char* which) const { return folder_ + which; }
  std::string shared(std::int32_t batch, std::int32_t prefix, std::int32_t own) const {
    return prefix_tree(prefix / quarter_, batch / quarter_, own / quarter_);
  }
  Workload& add(const char* which, const std::string& about, const std::string& tree, std::int32_t Hq,
                std::int32_t Hkv) {
    Workload& w = to_.add(name(which), about, tree, make_kind(Hq, Hkv, 128, DType::bf16));
    w.page_size = kPage;
    return w;
  }

  void add_decode() {
    add("W1", "Llama-8B, decode below a system prompt", shared(64, 4096, 256), 32, 8);
    add("W2", "Llama-8B, decode of a large batch below a long prompt", shared(256, 16384, 512), 32, 8);
    add("W3", "Llama-70B on 8 devices, decode: one KV head each", shared(64, 16384, 128), 8, 1);
    add("W3b", "Llama-70B on 8 devices, decode of a small batch", shared(8, 4000, 64), 8, 1);
    add("W4", "CodeLlama-13B, decode of a very large batch", shared(1024, 2048, 128), 40, 40);
    add("W4b", "CodeLlama-13B, the same below a long prompt", shared(1024, 16384, 128), 40, 40);
    add("W6", "Llama-8B, questions about one document", shared(16, 65536, 256), 32, 8);
  }
  void add_tree() {
    add("W5", "Llama-8B, decode of a tree of three shared levels",
        quarter_ == 1 ? "1,8,64,256|2048,2048,512,128" : "1,2,16,64|512,512,128,32", 32, 8);
  }
  void add_verification() {
    const std::string own = std::to_string(32 / quarter_) + "|" + std::to_string(4096 / quarter_);
    add("W7", "Llama-8B, 64 tokens of a draft tree each, contexts of their own", own, 32, 8).draft = draft_of_63();
    add("W7b", "the same, half of each context shared", shared(32, 2048, 2048), 32, 8).draft = draft_of_63();
  }
  void add_training() {
    const std::int32_t fewer = quarter_ * quarter_;
    const auto group = [&](const char* which, std::int32_t prefix, std::int32_t members, std::int32_t own) {
      to_.add_training(name(which), "Llama-8B, policy gradient step of one group, forward and backward",
                       prefix_tree(prefix / fewer, members, own / fewer), make_kind(32, 8, 128, DType::bf16));
    };
    group("W8", 4096, 8, 1024);
    group("W8b", 8192, 16, 512);
  }
  void add_rows() {
    LayerKind kind = make_kind(32, 32, 128, DType::bf16);
    to_.add_merge(name("W9"), "prefix and suffix states of a prefill become one", 4096 / quarter_, 2, kind);
    kind.kv_dtype = DType::f32;
    to_.add_merge(name("W9b"), "five partial states of a decode step become one", 1024 / quarter_, 5, kind);
    to_.add_shift(name("W10"), "a cached document to another position", 16384 / quarter_,
                  make_kind(32, 8, 128, DType::bf16));
  }

  /// 63 draft tokens, which with the last verified one are 64 query rows.
  static std::vector<std::int32_t> draft_of_63() { return draft_levels({10, 28, 21, 4}); }

  static constexpr std::int32_t kPage = 16;
  WorkloadAdder to_;
  std::int32_t quarter_ = 1;
  std::string folder_;
};

/// A step that verifies a draft tree below each of 8 contexts, which share their first half.
inline void add_verification(const std::string& tree_name, const std::vector<std::int32_t>& parents,
                             WorkloadAdder* to) {
  to->add("verify/" + tree_name, "verification of a draft tree below each of 8 contexts, half shared",
          prefix_tree(1024, 8, 1024), make_kind(32, 8, 128, DType::bf16))
      .draft = parents;
}

/// Draft trees by their levels.
inline void add_draft_trees(WorkloadAdder* to) {
  const auto add = [to](const char* name, const std::vector<std::int32_t>& levels) {
    add_verification(name, draft_levels(levels), to);
  };
  add("chain-5", {1, 1, 1, 1, 1});
  add("beam-4x6", {4, 4, 4, 4, 4, 4});
  add("binary-30", {2, 4, 8, 16});
  add("wide-63", {10, 28, 21, 4});
  add("deep-250", {10, 30, 60, 60, 60, 30});
}

inline void add_models(std::vector<Workload>* list) {
  ModelWorkloads(list).add_all();
  WorkloadAdder to(list, "prefixshare");
  add_draft_trees(&to);
}

}  // namespace detail
}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
