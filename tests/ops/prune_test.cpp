// SPDX-License-Identifier: Apache-2.0
// Decode on pruned and compacted forests: the bits of a freshly built forest of the survivors, on every implementation.
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "support/attention.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using prefixshare::testing::Tensor;

using Keep = std::vector<std::uint8_t>;

LayerKind kind_of(DType type, std::int32_t window = -1) {
  LayerKind kind;
  kind.Hq = 4;
  kind.Hkv = 2;
  kind.D = kind.Dv = 16;
  kind.window = window;
  kind.q_dtype = kind.kv_dtype = type;
  return kind;
}

PlanOptions invariant() {
  PlanOptions options;
  options.mode = Mode::batch_invariant;
  options.cost = eager_cost();
  return options;
}

/// Rows of a tensor, in the order of `rows`.
Tensor<3> pick_rows(const Tensor<3>& x, const std::vector<std::int32_t>& rows) {
  const TensorView<3> view = x.view();
  const std::int64_t width = view.shape[1] * view.shape[2];
  const std::vector<double> values = testing::to_doubles(view);
  Tensor<3> picked(view.dtype, {static_cast<std::int64_t>(rows.size()), view.shape[1], view.shape[2]});
  for (std::size_t r = 0; r < rows.size(); ++r) {
    for (std::int64_t i = 0; i < width; ++i) {
      picked.set(static_cast<std::int64_t>(r) * width + i, values[static_cast<std::size_t>(rows[r] * width + i)]);
    }
  }
  return picked;
}

/// The old numbers of what a map keeps, in new order.
std::vector<std::int32_t> kept_of(const std::vector<std::int32_t>& map) {
  std::vector<std::int32_t> kept;
  for (std::size_t i = 0; i < map.size(); ++i) {
    if (map[i] >= 0) kept.push_back(static_cast<std::int32_t>(i));
  }
  return kept;
}

/// Another forest on the pools of `p`, for some of its rows; `slots` are the length slots that it keeps.
Problem on_same_pools(const Problem& p, Forest forest, const std::vector<std::int32_t>& rows,
                      const std::vector<std::int32_t>& slots) {
  const LayerKind& kind = p.options.kind;
  const auto count = static_cast<std::int64_t>(rows.size());
  Problem other;
  other.options = p.options;
  other.forest = std::move(forest);
  REQUIRE(other.forest.rows() == count);
  other.kv = p.kv;
  other.rope = p.rope;
  other.sinks = p.sinks;
  for (const std::int32_t slot : slots)
    other.actual_lengths.push_back(p.actual_lengths[static_cast<std::size_t>(slot)]);
  other.q = pick_rows(p.q, rows);
  other.o = Tensor<3>(kind.q_dtype, {count, kind.Hq, kind.Dv});
  other.lse = Tensor<2>(kind.acc_dtype(), {count, kind.Hq});
  return other;
}

/// o and lse of all rows of `p` on one implementation.
Outputs decode(const NamedContext& c, const PlanOptions& options, Problem* p) {
  run_forward(c.context, proved_plan(c, p->forest, p->options.kind, options), p);
  return outputs_of(*p);
}

/// The outputs of a row, as `outputs` holds them: o and lse.
std::vector<std::vector<double>> row_of(const Outputs& outputs, std::int64_t row, const LayerKind& kind) {
  std::vector<std::vector<double>> values;
  for (std::size_t i = 0; i < 2; ++i) {
    const std::ptrdiff_t width = i == 0 ? std::ptrdiff_t{kind.Hq} * kind.Dv : std::ptrdiff_t{kind.Hq};
    const auto begin = outputs.values[i].begin() + row * width;
    values.emplace_back(begin, begin + width);
  }
  return values;
}

/// Block tables of a search: each sequence leaves one before it at some page and goes on with pages of its own.
struct Tables {
  static constexpr std::int32_t kPageSize = 16, kStride = 100;
  PoolShape pool;
  std::vector<std::int32_t> ids, kv_len, q_len;

  void add(Span<const std::int32_t> row, std::int32_t tokens, std::int32_t rows) {
    ids.insert(ids.end(), row.begin(), row.end());
    ids.resize(ids.size() + static_cast<std::size_t>(kStride - row.size()), -1);
    kv_len.push_back(tokens);
    q_len.push_back(rows);
  }
  Span<const std::int32_t> row(std::size_t s) const {
    return {ids.data() + s * kStride, (kv_len[s] + kPageSize - 1) / kPageSize};
  }
  Tables survivors(const Keep& keep) const {
    Tables some;
    some.pool = pool;
    for (std::size_t s = 0; s < keep.size(); ++s) {
      if (keep[s]) some.add(row(s), kv_len[s], q_len[s]);
    }
    return some;
  }
  Forest forest() const {
    Forest built;
    require_ok(forest_from_block_tables({ids, kStride, kv_len, q_len, pool}, &built));
    return built;
  }
};

/// `pages` are those that may be used.
Tables random_tables(Random* random, const PoolShape& pool, std::vector<std::int32_t> pages, std::int32_t sequences) {
  Tables tables;
  tables.pool = pool;
  for (std::int32_t s = 0; s < sequences; ++s) {
    std::vector<std::int32_t> row;
    if (s > 0) {
      const Span<const std::int32_t> before = tables.row(static_cast<std::size_t>(random->between(0, s - 1)));
      row.assign(before.begin(), before.begin() + random->between(0, static_cast<std::int32_t>(before.size()) - 1));
    }
    for (std::int32_t own = s == 0 ? 80 : random->between(1, 20); own > 0; --own) {
      row.push_back(pages.back());
      pages.pop_back();
      if (row.size() == Tables::kStride) break;
    }
    const auto slots = static_cast<std::int32_t>(row.size()) * Tables::kPageSize;
    tables.add(row, slots - random->between(0, Tables::kPageSize - 1), random->between(1, 3));
  }
  return tables;
}

Keep random_keep(Random* random, std::size_t sequences) {
  Keep keep(sequences, 0);
  for (std::uint8_t& k : keep) k = random->chance(0.5);
  return keep;
}

/// The forest of one sequence and nothing else: its path as a chain, on the same segments.
Forest alone(const Forest& f, std::int32_t sequence) {
  std::vector<Node> path;
  Sequence s = f.sequences[static_cast<std::size_t>(sequence)];
  for (std::int32_t n = s.node; n >= 0; n = f.nodes[static_cast<std::size_t>(n)].parent) {
    path.insert(path.begin(), f.nodes[static_cast<std::size_t>(n)]);
  }
  for (std::size_t n = 0; n < path.size(); ++n) {
    path[n].parent = static_cast<std::int32_t>(n) - 1;
    if (path[n].length_slot >= 0) path[n].length_slot = 0;
  }
  s.node = static_cast<std::int32_t>(path.size()) - 1;
  Forest forest;
  require_ok(make_forest({f.pools, f.pages, f.segments, path, {&s, 1}}, &forest));
  return forest;
}

Problem random_problem(const LayerKind& kind, std::uint64_t seed) {
  Random random(seed);
  testing::RandomForest limits;
  limits.max_nodes = 14;
  limits.max_length = 300;
  limits.length_slots = true;
  ProblemOptions options;
  options.kind = kind;
  options.seed = seed;
  options.pools = 2;
  options.page_size = seed % 2 == 0 ? 0 : 7;
  options.sinks = true;
  Problem p;
  require_ok(make_problem(random_topology(&random, limits), options, &p));
  return p;
}

/// K and V of a pool, moved by kv_append into one page.
struct MovedPool {
  Tensor<4> k, v;

  MovedPool(const KvPool& from, const PoolShape& to, Span<const std::int64_t> slots)
      : k(from.k.dtype, {to.num_pages, to.page_size, from.k.shape[2], from.k.shape[3]}),
        v(from.v.dtype, {to.num_pages, to.page_size, from.v.shape[2], from.v.shape[3]}) {
    Context context;
    require_ok(create_context(&context));
    KvAppend move;
    move.k = tokens_of(from.k);
    move.v = tokens_of(from.v);
    move.pool.k = k.view();
    move.pool.v = v.view();
    move.slots = slots;
    require_ok(kv_append(context, move));
  }

  /// A pool without gaps between its pages, as one list of tokens.
  static TensorView<3> tokens_of(const TensorView<4>& pool) {
    TensorView<3> tokens;
    tokens.data = pool.data;
    tokens.dtype = pool.dtype;
    tokens.shape[0] = pool.shape[0] * pool.shape[1];
    for (int d = 1; d < 3; ++d) tokens.shape[d] = pool.shape[d + 1];
    for (int d = 0; d < 3; ++d) tokens.stride[d] = pool.stride[d + 1];
    return tokens;
  }
};

std::vector<std::int32_t> first_numbers(std::int32_t count) {
  std::vector<std::int32_t> numbers;
  for (std::int32_t i = 0; i < count; ++i) numbers.push_back(i);
  return numbers;
}

}  // namespace

TEST_CASE("prune_forest: decode has the bits of a forest built from the survivors' block tables",
          "[attention][prune]") {
  ProblemOptions options;
  options.page_size = Tables::kPageSize;
  for (const LayerKind& kind : {kind_of(DType::f32), kind_of(DType::bf16), kind_of(DType::f32, 600)}) {
    options.kind = kind;
    Problem store;  // one long segment: its pages are the pool
    const std::vector<std::int32_t> tokens = {400 * Tables::kPageSize};
    require_ok(make_problem(testing::chain(tokens, 40), options, &store));
    const std::vector<std::int32_t> pages(store.forest.pages.begin(), store.forest.pages.begin() + 400);
    Random random(6);
    for (int round = 0; round < 3; ++round) {
      INFO("round " << round);
      const Tables tables = random_tables(&random, store.forest.pools[0], pages, 12);
      const Keep keep = random_keep(&random, tables.kv_len.size());
      const Forest all = tables.forest();
      Forest pruned;
      ForestMap map;
      require_ok(prune_forest(all, keep, &pruned, &map));
      const Forest built = tables.survivors(keep).forest();
      CHECK(pruned.nodes.size() >= built.nodes.size());  // only children stay nodes
      Problem before = on_same_pools(store, all, first_numbers(all.rows()), {});
      Problem after = on_same_pools(store, pruned, kept_of(map.rows), {});
      Problem fresh = on_same_pools(store, built, kept_of(map.rows), {});
      for (const NamedContext& c : attention_contexts(kind.kv_dtype)) {
        INFO(c.name);
        const Outputs want = decode(c, invariant(), &fresh), got = decode(c, invariant(), &after);
        CHECK(got == want);
        const Outputs whole = decode(c, invariant(), &before);
        for (std::size_t row = 0; row < map.rows.size(); ++row) {
          if (map.rows[row] < 0) continue;
          CHECK(row_of(got, map.rows[row], kind) == row_of(whole, static_cast<std::int64_t>(row), kind));
        }
      }
    }
  }
}

TEST_CASE("prune_forest: each survivor has the bits that it has alone, with deltas and length slots",
          "[attention][prune]") {
  const LayerKind kind = kind_of(DType::f32);
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    INFO("seed " << seed);
    const Problem p = random_problem(kind, seed);
    Random random(seed);
    const Keep keep = random_keep(&random, p.forest.sequences.size());
    Forest pruned;
    ForestMap map;
    require_ok(prune_forest(p.forest, keep, &pruned, &map));
    Problem after = on_same_pools(p, pruned, kept_of(map.rows), kept_of(map.length_slots));
    for (const NamedContext& c : attention_contexts()) {
      INFO(c.name);
      const Outputs got = decode(c, invariant(), &after);
      std::int32_t row = 0;
      for (std::size_t s = 0; s < keep.size(); ++s) {
        std::vector<std::int32_t> rows = first_numbers(p.forest.sequences[s].q_len), slot;
        for (std::int32_t& r : rows) r += row;
        row += p.forest.sequences[s].q_len;
        if (!keep[s]) continue;
        const std::int32_t node = p.forest.sequences[s].node;
        if (node >= 0) slot.push_back(p.forest.nodes[static_cast<std::size_t>(node)].length_slot);
        if (!slot.empty() && slot[0] < 0) slot.clear();
        Problem one = on_same_pools(p, alone(p.forest, static_cast<std::int32_t>(s)), rows, slot);
        const Outputs want = decode(c, invariant(), &one);
        for (std::size_t r = 0; r < rows.size(); ++r) {
          const std::int32_t now = map.rows[static_cast<std::size_t>(rows[r])];
          CHECK(row_of(got, now, kind) == row_of(want, static_cast<std::int64_t>(r), kind));
        }
      }
    }
  }
}

TEST_CASE("compact_forest: decode after kv_append has moved the tokens is decode before", "[attention][prune]") {
  for (const DType type : {DType::f32, DType::bf16}) {
    for (std::uint64_t seed = 1; seed <= 6; ++seed) {
      INFO(to_string(type) << ", seed " << seed);
      Problem p = random_problem(kind_of(type), seed);
      Forest used, compacted;
      ForestMap map;
      std::vector<std::vector<std::int64_t>> slots;
      require_ok(prune_forest(p.forest, Keep(p.forest.sequences.size(), 1), &used, &map));
      require_ok(compact_forest(p.forest, &compacted, &slots));
      std::vector<MovedPool> pools;
      std::vector<KvPool> kv = p.kv;
      for (std::size_t i = 0; i < kv.size(); ++i) {
        pools.emplace_back(p.kv[i], compacted.pools[i], slots[i]);
        kv[i].k = pools.back().k.view();
        kv[i].v = pools.back().v.view();
        CHECK(pools.back().k.guards_intact());
      }
      Problem moved = on_same_pools(p, compacted, first_numbers(p.forest.rows()), kept_of(map.length_slots));
      moved.kv = kv;
      const testing::Answer answer = testing::answer_forward(p.forest, p.options.kind, p.attend());
      PlanOptions fast;
      fast.cost = eager_cost();
      for (const NamedContext& c : attention_contexts(type)) {
        INFO(c.name);
        CHECK(decode(c, invariant(), &moved) == decode(c, invariant(), &p));
        decode(c, fast, &moved);
        check_comparison(check_forward(answer, moved.attend()));
      }
    }
  }
}
