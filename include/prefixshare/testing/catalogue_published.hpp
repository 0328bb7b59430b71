// SPDX-License-Identifier: Apache-2.0
// Workloads that others have published: shapes of their tests, grids of their benchmarks.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/testing/catalogue_own.hpp"
#include "prefixshare/testing/workload.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {
namespace detail {

inline void add_chunk_attention(std::vector<Workload>* list) {
  WorkloadAdder to(list, "ChunkAttention, arXiv 2402.15220, tests/benchmark_chunk_attn.py");
  const std::int32_t points[][3] = {{32, 1024, 0},    {32, 1024, 256},  {32, 1024, 512},   {32, 1024, 768},
                                    {32, 1024, 1024}, {16, 1024, 0},    {64, 1024, 0},     {16, 1024, 1024},
                                    {64, 1024, 1024}, {16, 4096, 0},    {16, 4096, 2048},  {16, 4096, 4096},
                                    {32, 4096, 4096}, {64, 4096, 4096}, {32, 16384, 16384}};
  for (const auto& [batch, prompt, shared] : points) {
    to.add("chunk_attention/" + std::to_string(batch) + "x" + std::to_string(prompt) + "/" + std::to_string(shared),
           "ChunkAttention's kernel benchmark: batch x prompt / shared tokens",
           prefix_tree(shared, batch, prompt - shared), make_kind(32, 32, 128, DType::f32));
  }
}

inline void add_prefix_grouper(std::vector<Workload>* list) {
  WorkloadAdder to(list, "Prefix Grouper, arXiv 2506.05433");
  for (std::int32_t prefix : {4096, 8192, 16384}) {
    for (std::int32_t members : {2, 4, 8, 16}) {
      for (std::int32_t own = 2 * prefix; own >= prefix / 32; own /= 2) {
        to.add_training("prefix_grouper/" + times(prefix, members, own),
                        "Prefix Grouper's grid of prefix, group size and answer length",
                        prefix_tree(prefix, members, own), make_kind(28, 4, 128, DType::bf16));
      }
    }
  }
}

inline void add_hydragen(std::vector<Workload>* list) {
  WorkloadAdder to(list, "Hydragen, arXiv 2402.05099");
  for (const char* tree : {"1,2|3,6 7", "2,4,8|7,9 10 11 4,129 2 3 4 5 6 7 128", "1,3|16384,1 128 256"}) {
    for (std::int32_t Hkv : {1, 8}) {
      to.add("hydragen/" + std::string(tree) + "/kv" + std::to_string(Hkv), "Hydragen's test shapes", tree,
             make_kind(8, Hkv, 128, DType::f16));
    }
  }
  const std::int32_t micro[][2] = {{512, 1024}, {1024, 2048}, {2048, 4096}, {4096, 8192}};
  for (const auto& [batch, prefix] : micro) {
    for (std::int32_t own = 0; own <= 512; own += 16) {
      to.add("hydragen/" + times(batch, prefix, own), "Hydragen's micro benchmark: batch x prefix x own tokens",
             prefix_tree(prefix, batch, own), make_kind(8, 1, 128, DType::bf16));
    }
  }
}

inline void add_relay_attention(std::vector<Workload>* list) {
  WorkloadAdder to(list, "RelayAttention, arXiv 2402.14808, stat/relay_op");
  for (const std::int32_t batch : {1, 4, 8, 16, 32, 64, 128}) {
    for (std::int32_t prefix = 64; prefix <= 16384; prefix *= 2) {
      for (const std::int32_t own : {128, 256}) {
        Workload& w = to.add("relay/" + times(batch, prefix, own),
                             "RelayAttention's kernel grid: batch x system prompt x own tokens",
                             prefix_tree(prefix, batch, own), make_kind(52, 52, 128, DType::f16));
        w.page_size = 16;
      }
    }
  }
}

inline void add_flashinfer(std::vector<Workload>* list) {
  WorkloadAdder to(list, "FlashInfer, cascade inference blog of 2024-02-02 and src/bench_cascade.cu");
  const auto add = [&](const char* way, std::int32_t batch, std::int32_t prefix, std::int32_t own, std::int32_t rows) {
    Workload& w = to.add("flashinfer/" + std::string(way) + "/" + times(batch, prefix, own),
                         "FlashInfer's cascade grid: batch x shared x own tokens", prefix_tree(prefix, batch, own),
                         make_kind(32, 32, 128, DType::f16));
    w.page_size = 16;
    w.rows = rows;
  };
  for (const std::int32_t prefix : {1024, 2048, 8192, 32768}) {
    for (const std::int32_t batch : {1, 8, 16, 64, 128, 256}) {
      for (const std::int32_t own : {128, 256, 512, 1024, 2048}) {
        add("decode", batch, prefix, own, 1);
        if (batch <= 128 && own <= 1024) add("append", batch, prefix, own, 128);
      }
    }
  }
}

/// Trees with the heads that the source measured; 32 / 8 needs no mark in the name.
inline void add_trees(WorkloadAdder* to, const char* folder, const char* about,
                      std::initializer_list<std::pair<std::int32_t, std::int32_t>> heads,
                      std::initializer_list<const char*> trees) {
  for (const auto& [Hq, Hkv] : heads) {
    const bool usual = Hq == 32 && Hkv == 8;
    const std::string mark = usual ? "" : "/heads:" + std::to_string(Hq) + "-" + std::to_string(Hkv);
    for (const char* tree : trees) {
      to->add(std::string(folder) + "/" + tree + mark, about, tree, make_kind(Hq, Hkv, 128, DType::f16));
    }
  }
}

inline void add_fast_tree(std::vector<Workload>* list) {
  WorkloadAdder to(list, "FastTree, MLSys 2025");
  add_trees(
      &to, "fasttree", "FastTree's decode trees", {{32, 8}, {16, 1}, {32, 32}},
      {"1,2,64|8,256,32", "1,4,256|8,256,32", "1,4,8,256|8,256,256,32", "1,256|256,32", "1,1024|2048,32",
       "1,16,64|1024,256,32", "1,4,16,512|1024,256,128,32", "1,4,16,64,256,1024|256,8,256,64,32,256", "1,10|4000,400",
       "1,2,4,8,16,32,64,128,1024|16,16,16,16,16,16,16,16,16", "1,2,4,8,16,32,64,128,1024|256,128,64,16,16,16,16,16,16",
       "1,8,16,32,64,128,1024|256,128,64,16,16,16,16", "1,8,16,32,64,256,1024|256,128,64,16,16,16,16",
       "1,16,32,64,128,1024|256,128,64,16,16,16", "1,16,32,64,256,1024|256,128,64,16,16,16"});
}

inline void add_pat(std::vector<Workload>* list) {
  WorkloadAdder to(list, "PAT, arXiv 2511.22333");
  add_trees(&to, "pat", "PAT's decode trees, forests and batches that share nothing",
            {{32, 8}, {32, 32}, {16, 8}, {64, 8}},
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

inline void add_published(std::vector<Workload>* list) {
  add_chunk_attention(list);
  add_prefix_grouper(list);
  add_hydragen(list);
  add_relay_attention(list);
  add_flashinfer(list);
  add_fast_tree(list);
  add_pat(list);
}

}  // namespace detail
}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
