// SPDX-License-Identifier: Apache-2.0
// Mode batch_invariant: the bits of a sequence's forward do not depend on its neighbours.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "support/attention.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

/// A sequence of the test: the first `common` tokens of the common prompt, then tokens of its own.
struct Member {
  std::int32_t common = 0;
  std::int32_t own_begin = 0;
  std::int32_t own = 0;
  std::int32_t q_len = 1;
};

/// Keys, values and queries that every batch of a test shares: slot t of one contiguous pool is token t.
class Store {
 public:
  Store(const LayerKind& kind, std::int32_t tokens, std::vector<Member> members)
      : members_(std::move(members)), tokens_(tokens) {
    ProblemOptions options;
    options.kind = kind;
    Topology all;
    all.add_node(-1, tokens);
    all.add_sequence(0, 4 * static_cast<std::int32_t>(members_.size()));  // four query rows per member
    require_ok(make_problem(all, options, &data_));
  }

  const std::vector<Member>& members() const { return members_; }
  std::int32_t tokens() const { return tokens_; }

  /// Bytes of o and lse of each chosen member, from one batch. The common prompt is cut at `cuts` beside where members
  /// leave it, and every own part is cut after `own_cut` tokens (0: not).
  std::vector<std::vector<double>> run(const NamedContext& c, const std::vector<std::size_t>& chosen,
                                       std::vector<std::int32_t> cuts, std::int32_t own_cut,
                                       PlanOptions options = {}) const {
    Forest forest = make(chosen, std::move(cuts), own_cut);
    options.mode = Mode::batch_invariant;
    const LayerKind& kind = data_.options.kind;
    const Plan plan = proved_plan(c, forest, kind, options);
    Problem batch = outputs(chosen);
    batch.forest = std::move(forest);
    run_forward(c.context, plan, &batch);
    return split(chosen, batch);
  }

 private:
  Forest make(const std::vector<std::size_t>& chosen, std::vector<std::int32_t> cuts, std::int32_t own_cut) const {
    for (std::size_t m : chosen) cuts.push_back(members_[m].common);
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    const std::int32_t last =
        members_[*std::max_element(chosen.begin(), chosen.end(), [&](std::size_t a, std::size_t b) {
          return members_[a].common < members_[b].common;
        })].common;
    std::vector<Node> nodes;
    std::vector<Sequence> sequences;
    std::vector<std::int32_t> ends_at(static_cast<std::size_t>(tokens_) + 1, -1);
    const auto add = [&](std::int32_t parent, std::int32_t begin, std::int32_t length) {
      Node n;
      n.parent = parent;
      n.segment = 0;
      n.begin = begin;
      n.length = length;
      nodes.push_back(n);
      return static_cast<std::int32_t>(nodes.size()) - 1;
    };
    std::int32_t parent = -1, begin = 0;
    for (std::int32_t cut : cuts) {
      if (cut > last) break;
      if (cut > begin) parent = add(parent, begin, cut - begin);
      ends_at[static_cast<std::size_t>(cut)] = parent;
      begin = cut;
    }
    for (std::size_t m : chosen) {
      const Member& member = members_[m];
      std::int32_t node = ends_at[static_cast<std::size_t>(member.common)];
      const std::int32_t head = std::min(own_cut, member.own);
      if (head > 0) node = add(node, member.own_begin, head);
      if (member.own > head) node = add(node, member.own_begin + head, member.own - head);
      Sequence s;
      s.node = node;
      s.q_len = member.q_len;
      sequences.push_back(s);
    }
    ForestInput input;
    input.pools = data_.forest.pools;
    input.pages = data_.forest.pages;
    input.segments = data_.forest.segments;
    input.nodes = nodes;
    input.sequences = sequences;
    Forest forest;
    require_ok(make_forest(input, &forest));
    return forest;
  }

  /// A problem on the store's pool, with the chosen members' queries.
  Problem outputs(const std::vector<std::size_t>& chosen) const {
    const LayerKind& kind = data_.options.kind;
    std::int64_t rows = 0;
    for (std::size_t m : chosen) rows += members_[m].q_len;
    Problem batch;
    batch.options = data_.options;
    batch.kv = data_.kv;
    batch.q = testing::Tensor<3>(kind.q_dtype, {rows, kind.Hq, kind.D});
    batch.o = testing::Tensor<3>(kind.q_dtype, {rows, kind.Hq, kind.Dv});
    batch.lse = testing::Tensor<2>(kind.acc_dtype(), {rows, kind.Hq});
    const std::int64_t width = std::int64_t{kind.Hq} * kind.D;
    const std::vector<double> q = testing::to_doubles(data_.q.view());
    std::int64_t row = 0;
    for (std::size_t m : chosen) {
      for (std::int32_t r = 0; r < members_[m].q_len; ++r, ++row) {
        for (std::int64_t i = 0; i < width; ++i) {
          batch.q.set(row * width + i, q[static_cast<std::size_t>((static_cast<std::int64_t>(m) * 4 + r) * width + i)]);
        }
      }
    }
    return batch;
  }

  std::vector<std::vector<double>> split(const std::vector<std::size_t>& chosen, const Problem& batch) const {
    const LayerKind& kind = data_.options.kind;
    const std::vector<double> o = testing::to_doubles(batch.o.view()), lse = testing::to_doubles(batch.lse.view());
    std::vector<std::vector<double>> results;
    auto at_o = o.begin();
    auto at_lse = lse.begin();
    for (std::size_t m : chosen) {
      const std::ptrdiff_t heads = std::ptrdiff_t{members_[m].q_len} * kind.Hq;
      results.emplace_back(at_o, at_o + heads * kind.Dv);
      results.back().insert(results.back().end(), at_lse, at_lse + heads);
      at_o += heads * kind.Dv;
      at_lse += heads;
    }
    return results;
  }

  std::vector<Member> members_;
  std::int32_t tokens_;
  Problem data_;
};

LayerKind kind_of(DType type, std::int32_t window = -1, std::int32_t Dv = 16) {
  LayerKind kind;
  kind.Hq = 4;
  kind.Hkv = 2;
  kind.D = 16;
  kind.Dv = Dv;
  kind.window = window;
  kind.q_dtype = kind.kv_dtype = type;
  return kind;
}

/// Members that leave a common prompt of 1,300 tokens at many places.
std::vector<Member> many_members() {
  return {{0, 1300, 700, 2},    {1, 2000, 40, 1},    {511, 2040, 600, 3}, {512, 2640, 1, 1},
          {513, 2641, 511, 4},  {700, 3152, 0, 2},   {1024, 3152, 3, 1},  {1025, 3155, 90, 2},
          {1300, 3245, 512, 1}, {1300, 3757, 30, 3}, {1300, 3787, 30, 2}, {900, 3817, 200, 1}};
}

}  // namespace

TEST_CASE("batch_invariant: a sequence's bits are the same alone and in 50 random batches", "[attention][invariant]") {
  for (const NamedContext& c : attention_contexts(DType::bf16)) {
    INFO(c.name);
    for (const LayerKind& kind : {kind_of(DType::f32), kind_of(DType::bf16), kind_of(DType::f32, 600, 8)}) {
      if (!c.takes(kind)) continue;
      const Store store(kind, 4017, many_members());
      std::vector<std::vector<double>> alone;
      for (std::size_t m = 0; m < store.members().size(); ++m) alone.push_back(store.run(c, {m}, {}, 0).front());
      Random random(5);
      for (int batch = 0; batch < 50; ++batch) {
        INFO("batch " << batch);
        std::vector<std::size_t> chosen;
        for (std::size_t m = 0; m < store.members().size(); ++m) {
          if (random.chance(0.6)) chosen.push_back(m);
        }
        if (chosen.empty()) continue;
        random.shuffle(&chosen);
        std::vector<std::int32_t> cuts;
        for (std::int32_t n = random.between(0, 6); n > 0; --n) cuts.push_back(random.between(1, 1299));
        PlanOptions options;
        options.target_parallelism = random.between(1, 64);
        options.sharing = static_cast<Sharing>(random.between(0, 2));
        if (random.chance(0.5)) options.cost = eager_cost();
        const auto bits = store.run(c, chosen, cuts, random.between(0, 50), options);
        for (std::size_t i = 0; i < chosen.size(); ++i) {
          INFO("member " << chosen[i]);
          const std::vector<double>& want = alone[chosen[i]];
          REQUIRE(bits[i].size() == want.size());
          CHECK(std::memcmp(bits[i].data(), want.data(), want.size() * sizeof(double)) == 0);
        }
      }
    }
  }
}

TEST_CASE("batch_invariant: a neighbour that splits the tree at any offset up to the chunk changes nothing",
          "[attention][invariant]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    const Store store(kind_of(DType::f32), 700, {{600, 600, 40, 2}});
    const std::vector<double> alone = store.run(c, {0}, {}, 0).front();
    for (std::int32_t offset = 1; offset <= kInvariantChunk; ++offset) {
      // The neighbour leaves the prompt after `offset` tokens and goes on with tokens of its own.
      const Store pair(kind_of(DType::f32), 700, {{600, 600, 40, 2}, {offset, 640, 60, 1}});
      PlanOptions options;
      options.sharing = Sharing::always;
      INFO("offset " << offset);
      const auto bits = pair.run(c, {0, 1}, {}, 0, options);
      const std::vector<double> self = pair.run(c, {0}, {}, 0).front();
      CHECK(std::memcmp(bits[0].data(), self.data(), self.size() * sizeof(double)) == 0);
      const auto cut = store.run(c, {0}, {offset}, offset % 40, options);
      CHECK(std::memcmp(cut[0].data(), alone.data(), alone.size() * sizeof(double)) == 0);
    }
  }
}

TEST_CASE("batch_invariant: rows verified together have the bits of rows decoded one by one",
          "[attention][invariant]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    ProblemOptions options;
    options.kind = kind_of(DType::f32);
    PlanOptions plan_options;
    plan_options.mode = Mode::batch_invariant;
    const std::vector<std::int32_t> own = {1030};
    Problem together;
    require_ok(make_problem(testing::chain(own, 9), options, &together));
    run_forward(c.context, proved_plan(c, together.forest, options.kind, plan_options), &together);
    const std::size_t width = static_cast<std::size_t>(options.kind.Hq * options.kind.Dv);
    const std::vector<double> want = testing::to_doubles(together.o.view());
    for (std::int32_t row = 0; row < 9; ++row) {
      Topology t = testing::chain(own, 1);
      t.sequences[0].first_order = 1021 + row;
      Problem one;
      require_ok(make_problem(t, options, &one));  // the same seed: the same pool
      REQUIRE(testing::same_bits(one.kv[0].k, together.kv[0].k));
      const std::vector<double> q = testing::to_doubles(together.q.view());
      const std::int64_t q_width = std::int64_t{options.kind.Hq} * options.kind.D;
      for (std::int64_t i = 0; i < q_width; ++i) one.q.set(i, q[static_cast<std::size_t>(row * q_width + i)]);
      run_forward(c.context, proved_plan(c, one.forest, options.kind, plan_options), &one);
      const std::vector<double> got = testing::to_doubles(one.o.view());
      CHECK(std::memcmp(got.data(), want.data() + static_cast<std::size_t>(row) * width, width * sizeof(double)) == 0);
    }
  }
}
