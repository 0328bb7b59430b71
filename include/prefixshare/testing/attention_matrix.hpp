// SPDX-License-Identifier: Apache-2.0
// attention_matrix: what a kernel of attention must get right, as a matrix of everything that a problem can vary. The
// project's tests and run_conformance draw their cases from it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "prefixshare/plan.hpp"
#include "prefixshare/testing/pairwise.hpp"
#include "prefixshare/testing/problem.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// A problem and how it is planned.
struct AttentionCase {
  Topology topology;
  ProblemOptions options;
  PlanOptions plan;
};

/// Constants under which sharing and cutting always pay, so that small problems get shared tiles and partial states.
inline CostModel eager_cost() {
  CostModel cost;
  cost.item = 1;
  cost.kv_element = 1e4;
  cost.partial = 1e-3;
  return cost;
}

/// A tree of one-token nodes, each a query row, below a context: all draft tokens lie in one segment.
inline Topology draft_tree(std::int32_t context, std::int32_t tokens, Random* random) {
  Topology t;
  t.add_node(-1, context);
  t.segments.push_back(tokens);
  for (std::int32_t n = 0; n < tokens; ++n) {
    Node node;
    node.parent = random->between(0, n);
    node.segment = 1;
    node.begin = n;
    node.length = 1;
    t.nodes.push_back(node);
    t.add_sequence(n + 1, 1);
  }
  return t;
}

/// A bias of -inf hides a key as well as a mask does: from a head, or from all of them.
inline void hide_with_bias(Problem* p) {
  Random random(p->options.seed);
  const std::int32_t heads = p->options.kind.Hq;
  for (Problem::Pool& pool : p->pools) {
    for (std::size_t token = 0; token < pool.named.size(); ++token) {
      const bool whole = random.chance(0.1);
      for (std::int32_t h = 0; h < heads; ++h) {
        if (!pool.named[token] || !(whole || random.chance(0.1))) continue;
        pool.bias.set(static_cast<std::int64_t>(token) * heads + h, -std::numeric_limits<double>::infinity());
      }
    }
  }
}

/// Kernels have ways of their own for few packed rows (rows of a tile x heads of a group) and for many.
enum class PackedRows : std::uint8_t { few, many };

/// What the matrix varies. Level 0 of each is the plain one.
enum class Factor : std::uint8_t {
  types,
  dims,
  heads,
  window,
  shape,
  pages,
  memory,
  sharing,
  softcap,
  sinks,
  bias,
  scale,
  k_scale,
  v_scale,
  rotation,
  outputs
};
inline constexpr std::size_t kFactors = 16;

struct FactorLevels {
  const char* name;
  bool optional;  ///< an implementation may decline or refuse what is not plain; else all levels are a must
  bool planned;   ///< it declines when it is asked whether it accepts; else it refuses the call
  std::vector<const char*> levels;
};
/// Names of all factors and of their levels, in the order of Factor.
inline const std::vector<FactorLevels>& factor_levels() {
  static const std::vector<FactorLevels> all = {
      {"q and kv types",
       true,
       true,
       {"f32", "f16", "bf16", "f32 on bf16", "bf16 on f32", "f16 on bf16", "f32 on f16", "f64", "f64 on bf16"}},
      {"head dims", true, true, {"64", "16", "80", "96", "128", "192/128", "256", "576/512", "8", "20/17"}},
      {"heads of a group", true, true, {"4 or 16", "1", "5", "2 or 8", "8 or 71"}},
      {"window", true, true, {"none", "1", "6", "90"}},
      {"shape", false, false, {"prefix", "random trees", "training", "end of a path", "draft tree", "actual lengths"}},
      {"page size", false, false, {"one page", "1", "5 in two pools", "16", "64"}},
      {"memory", false, false, {"plain", "strided", "aliased segments"}},
      {"sharing", false, false, {"automatic", "never", "always"}},
      {"soft cap", true, false, {"none", "3"}},
      {"sinks", true, false, {"none", "some"}},
      {"bias", true, false, {"none", "some"}},
      {"softmax scale", false, false, {"usual", "0.3"}},
      {"K scales", true, false, {"none", "tensor", "head", "token", "page"}},
      {"V scales", true, false, {"none", "tensor", "head", "token", "page"}},
      {"rotation", true, false, {"none", "q rotated, table", "q interleaved, partial", "q half, trailing"}},
      {"outputs", true, false, {"as q", "f32 or f64"}}};
  return all;
}

/// A level of every factor.
using Levels = std::vector<std::int32_t>;

/// Those that are not plain, in words; and the types, always.
inline std::string describe(const Levels& levels) {
  std::string text;
  for (std::size_t f = 0; f < levels.size(); ++f) {
    if (f > 0 && levels[f] == 0) continue;
    const FactorLevels& factor = factor_levels()[f];
    text += std::string(f > 0 ? ", " : "") + factor.name + " " + factor.levels[static_cast<std::size_t>(levels[f])];
  }
  return text;
}

namespace detail {

/// A matrix row made a case.
class CaseMaker {
 public:
  CaseMaker(PackedRows packed, Levels levels, std::uint64_t seed)
      : packed_(packed), levels_(std::move(levels)), random_(seed) {
    case_.options.seed = seed;
  }

  AttentionCase run() {
    choose_kind();
    choose_options();
    case_.plan.sharing = static_cast<Sharing>(level(Factor::sharing));
    if (case_.plan.sharing == Sharing::automatic) case_.plan.cost = eager_cost();
    case_.topology = choose_topology();
    return case_;
  }
  /// The same with `rows` rows in groups of `group` heads against `keys` keys: rows at the end of a path, or a prefix
  /// that as many sequences share.
  AttentionCase with_rows(std::int32_t group, std::int32_t rows, std::int32_t keys, bool path) {
    choose_kind();
    choose_options();
    case_.options.kind.Hkv = random_.between(1, 2);
    case_.options.kind.Hq = group * case_.options.kind.Hkv;
    case_.plan.sharing = Sharing::always;
    const std::vector<std::int32_t> own(static_cast<std::size_t>(rows), 1);
    case_.topology = path ? chain(std::vector<std::int32_t>{keys, rows}, rows) : prefix_group(keys, own, false);
    return case_;
  }

 private:
  std::int32_t level(Factor f) const { return levels_[static_cast<std::size_t>(f)]; }
  bool has(Factor f) const { return level(f) > 0; }

  void choose_kind() {
    const DType f64 = DType::f64, f32 = DType::f32, f16 = DType::f16, bf16 = DType::bf16;
    const std::pair<DType, DType> types[] = {{f32, f32},  {f16, f16}, {bf16, bf16}, {f32, bf16}, {bf16, f32},
                                             {f16, bf16}, {f32, f16}, {f64, f64},   {f64, bf16}};
    const std::pair<std::int32_t, std::int32_t> many_heads[] = {{32, 2}, {3, 3}, {5, 1}, {16, 2}, {71, 1}};
    const std::pair<std::int32_t, std::int32_t> few_heads[] = {{8, 2}, {3, 3}, {5, 1}, {16, 8}, {8, 1}};
    const std::pair<std::int32_t, std::int32_t> dims[] = {{64, 64},   {16, 16},   {80, 80},   {96, 96}, {128, 128},
                                                          {192, 128}, {256, 256}, {576, 512}, {8, 8},   {20, 17}};
    const std::int32_t windows[] = {-1, 1, 6, 90};
    LayerKind& kind = case_.options.kind;
    std::tie(kind.q_dtype, kind.kv_dtype) = types[level(Factor::types)];
    std::tie(kind.Hq, kind.Hkv) = (packed_ == PackedRows::few ? few_heads : many_heads)[level(Factor::heads)];
    std::tie(kind.D, kind.Dv) = dims[level(Factor::dims)];
    kind.window = windows[level(Factor::window)];
  }

  void choose_options() {
    const std::int32_t pages[] = {0, 1, 5, 16, 64};
    ProblemOptions& o = case_.options;
    o.page_size = pages[level(Factor::pages)];
    o.pools = level(Factor::pages) == 2 ? 2 : 1;
    o.v_in_k = o.kind.D == 576;
    o.strided = level(Factor::memory) == 1;
    o.alias_segments = level(Factor::memory) == 2;
    o.softcap = has(Factor::softcap) ? 3.0 : 0.0;
    o.sinks = has(Factor::sinks);
    o.bias = has(Factor::bias);
    o.scale = has(Factor::scale) ? 0.3 : 0.0;
    o.wide_outputs = has(Factor::outputs);
    o.k_scale = static_cast<ScaleGranularity>(level(Factor::k_scale));
    o.v_scale = static_cast<ScaleGranularity>(level(Factor::v_scale));
    o.rope = has(Factor::rotation);
    o.q_rotated = level(Factor::rotation) <= 1;
    o.pairing = level(Factor::rotation) == 2 ? RopePairing::interleaved : RopePairing::half;
    if (level(Factor::rotation) < 2) return;
    o.rope_dim = o.kind.D / 4 * 2;
    o.rope_offset = level(Factor::rotation) == 3 ? o.kind.D - o.rope_dim : 0;
    o.mscale = 1.25;
  }

  /// Rows against `keys` keys: at most `most`, and no more than the oracle does in some ten milliseconds.
  std::int32_t choose_rows(std::int32_t keys, std::int32_t most) {
    constexpr std::int32_t kMultiplyAdds = 4'000'000;
    const LayerKind& kind = case_.options.kind;
    const std::int32_t affordable = kMultiplyAdds / (kind.Hq * (kind.D + kind.Dv) * std::max(keys, 1));
    return random_.between(1, std::max(1, std::min(most, affordable)));
  }

  Topology choose_topology() {
    enum Shape { prefix, random_trees, training, path_end, draft, actual_lengths };
    const std::int32_t shape = level(Factor::shape);
    const bool few = packed_ == PackedRows::few;
    RandomForest limits;
    limits.max_nodes = 12;
    limits.max_length = 7;
    limits.max_rows = 3;
    limits.shared_segments = has(Factor::rotation);  // with deltas, which ask for a rotation
    limits.length_slots = shape == actual_lengths;
    if (shape == random_trees || shape == actual_lengths) return random_topology(&random_, limits);
    const std::int32_t keys = random_.between(1, 150);
    const std::int32_t rows =
        choose_rows(keys, few ? prefixshare::detail::kStreamRows / case_.options.kind.group() : 140);
    if (shape == path_end) return chain(std::vector<std::int32_t>{keys, rows}, rows);
    if (shape == draft) return draft_tree(keys, rows, &random_);
    std::vector<std::int32_t> own = {0, 1, 7, 3};
    if (shape == training) return prefix_group(few ? 1 : 5, own, true);
    own.resize(static_cast<std::size_t>(rows), 2);
    return prefix_group(keys, own, false);
  }

  PackedRows packed_;
  Levels levels_;
  Random random_;
  AttentionCase case_;
};

}  // namespace detail

/// Levels of each factor that a matrix takes.
using AllowedLevels = std::vector<Levels>;
inline AllowedLevels all_levels() {
  AllowedLevels all;
  for (const FactorLevels& f : factor_levels()) {
    all.emplace_back();
    for (std::size_t l = 0; l < f.levels.size(); ++l) all.back().push_back(static_cast<std::int32_t>(l));
  }
  return all;
}

/// Rows in which every two allowed levels of any two factors meet.
inline std::vector<Levels> pairwise_levels(const AllowedLevels& allowed, std::uint64_t seed = 1) {
  std::vector<std::int32_t> counts;
  for (const Levels& levels : allowed) counts.push_back(static_cast<std::int32_t>(levels.size()));
  std::vector<Levels> rows = pairwise(counts, seed);
  for (Levels& row : rows) {
    for (std::size_t f = 0; f < row.size(); ++f) row[f] = allowed[f][static_cast<std::size_t>(row[f])];
  }
  return rows;
}

inline AttentionCase make_case(PackedRows packed, const Levels& levels, std::uint64_t seed) {
  return detail::CaseMaker(packed, levels, seed).run();
}

inline constexpr std::int32_t kMostPackedRows = 140;  ///< more than a tile of them
inline constexpr std::int32_t kMostKeys = 150;        ///< more than two blocks of them

/// Case `i` of a walk over every number of packed rows in groups of `group` heads; keys run through every remainder,
/// and the other factors through their allowed levels, each at a pace of its own. `levels` says what was taken.
inline AttentionCase make_packed_case(const AllowedLevels& allowed, std::int32_t group, std::int32_t rows,
                                      std::int32_t i, Levels* levels) {
  levels->clear();
  for (std::size_t f = 0; f < allowed.size(); ++f) {
    const bool often = f <= static_cast<std::size_t>(Factor::dims);  // the others are plain three times in four
    const std::size_t turn = static_cast<std::size_t>(i) / (often ? 1 : f);
    const bool plain = !often && turn % 4 != 0;
    levels->push_back(plain ? allowed[f].front() : allowed[f][turn % allowed[f].size()]);
  }
  detail::CaseMaker maker(PackedRows::few, *levels, static_cast<std::uint64_t>(i));
  return maker.with_rows(group, rows, i * 41 % kMostKeys + 1, i % 2 == 0);
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
