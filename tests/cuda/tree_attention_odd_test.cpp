// SPDX-License-Identifier: Apache-2.0
// The forward of tree_attention on CUDA, in the emulator: what is not finite, what is absent, lengths that only the
// device knows, chunks without keys, and every number of packed rows.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "support/data.hpp"
#include "support/emulated_call.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
const char* const kNames[] = {"cuda:mma-sm80", "cuda:simt"};

/// Two KV heads with two query heads each, in 16 bits.
EmulatedCase small_case(std::int32_t dims = 64) {
  EmulatedCase c;
  LayerKind& kind = c.options.kind;
  kind.Hq = 4;
  kind.Hkv = 2;
  kind.D = kind.Dv = dims;
  kind.q_dtype = kind.kv_dtype = DType::bf16;
  c.options.page_size = 16;
  return c;
}
/// Masks of every kind, with many packed rows and with few: rows at the end of a path, a group's training, a draft
/// tree.
Topology masked_topology(std::int32_t i) {
  Random random(static_cast<std::uint64_t>(i));
  if (i % 3 == 0) return testing::chain(std::vector<std::int32_t>{70, 40}, i % 2 == 0 ? 40 : 3);
  if (i % 3 == 1) return testing::prefix_group(20, std::vector<std::int32_t>{9, 0, 30}, true);
  return draft_tree(50, i % 2 == 0 ? 20 : 5, &random);
}

/// Elements of a tensor, chosen at random, become `odd`.
template <int Rank>
void spoil(testing::Tensor<Rank>* x, double odd, double share, Random* random) {
  const std::int64_t width = x->view().shape[Rank - 1], vectors = testing::count_of(x->view()) / width;
  for (std::int64_t v = 0; v < vectors; ++v) {
    if (random->chance(share)) x->set(v * width + random->between(0, static_cast<std::int32_t>(width) - 1), odd);
  }
}

void run_and_check(EmulatedCall* call, std::int32_t i) {
  call->run(mode(static_cast<std::size_t>(i)));
  call->check();
}

}  // namespace

TEST_CASE("cuda tree_attention: NaN in a query reaches its row and head alone", "[cuda]") {
  for (const char* name : kNames) {
    for (std::int32_t i = 0; i < 6; ++i) {
      INFO(name << ", case " << i);
      EmulatedCase c = small_case();
      c.topology = masked_topology(i);
      c.options.rope = i >= 3;
      c.options.q_rotated = i < 3;
      EmulatedCall call(c, name);
      Random random(static_cast<std::uint64_t>(i) + 10);
      spoil(&call.problem.q, kNaN, 0.1, &random);
      run_and_check(&call, i);
    }
  }
}

TEST_CASE("cuda tree_attention: a bias hides keys from a head or from all, or makes NaN", "[cuda]") {
  for (const char* name : kNames) {
    for (const double odd : {-kInfinity, kInfinity, kNaN}) {
      for (std::int32_t i = 0; i < 3; ++i) {
        INFO(name << ", bias " << odd << ", case " << i);
        EmulatedCase c = small_case();
        c.topology = masked_topology(i);
        c.options.bias = true;
        c.options.sinks = i == 1;
        EmulatedCall call(c, name);
        Random random(static_cast<std::uint64_t>(i) + 20);
        testing::Tensor<3>& bias = call.problem.pools[0].bias;
        const std::int64_t count = testing::count_of(bias.view());
        for (std::int64_t b = 0; b < count; ++b) {
          if (random.chance(odd < 0 ? 0.6 : 0.02)) bias.set(b, odd);
        }
        for (std::int64_t b = 0; odd < 0 && b < count; b += 4) bias.set(b, odd);  // head 0 sees nothing
        run_and_check(&call, i);
      }
    }
  }
}

TEST_CASE("cuda tree_attention: scales and values that are not finite reach the rows that see them alone", "[cuda]") {
  for (const char* name : kNames) {
    for (const std::int32_t dims : {64, 256}) {
      for (std::int32_t i = 0; i < 6; ++i) {
        INFO(name << ", " << dims << " dims, case " << i);
        EmulatedCase c = small_case(dims);
        c.topology = masked_topology(i);
        c.options.k_scale = c.options.v_scale = ScaleGranularity::token;
        EmulatedCall call(c, name);
        Random random(static_cast<std::uint64_t>(i) + 30);
        Problem::Pool& pool = call.problem.pools[0];
        for (float& scale : i % 2 == 0 ? pool.k_scale : pool.v_scale) {
          if (random.chance(0.03)) scale = std::numeric_limits<float>::quiet_NaN();
        }
        for (const double odd : {kNaN, kInfinity, -kInfinity}) spoil(&pool.v, odd, 0.02, &random);
        run_and_check(&call, i);
      }
    }
  }
}

TEST_CASE("cuda tree_attention: o or lse alone", "[cuda]") {
  for (const char* name : kNames) {
    EmulatedCase c = small_case();
    c.topology = masked_topology(1);
    c.plan.sharing = Sharing::always;
    EmulatedCall both(c, name);
    both.run(mode(0));
    for (const bool lse_wanted : {false, true}) {
      EmulatedCall one(c, name);
      (lse_wanted ? one.call->args.o.data : one.call->args.lse.data) = nullptr;
      one.run(mode(1));
      const Problem &a = one.problem, &b = both.problem;
      CHECK(testing::same_bits(a.o.view(), b.o.view()) != lse_wanted);
      CHECK(testing::same_bits(a.lse.view(), b.lse.view()) == lse_wanted);
    }
  }
}

TEST_CASE("cuda tree_attention: lengths on the device count up to the capacity, and not below zero", "[cuda]") {
  for (const char* name : kNames) {
    EmulatedCase c = small_case();
    Topology& t = c.topology;
    t.add_node(-1, 80);
    for (std::int32_t leaf = 0; leaf < 3; ++leaf) {
      t.nodes[static_cast<std::size_t>(t.add_node(0, 30))].length_slot = leaf;
      t.add_sequence(leaf + 1, 4);
    }
    c.plan.sharing = Sharing::always;
    // Actual lengths as the oracle takes them, and as the device finds them. The keys are those of every length.
    const std::vector<std::int32_t> actual = {30, 0, 17}, found = {1 << 30, -5, 17};
    EmulatedCall call(c, name);
    REQUIRE(call.problem.actual_lengths.size() == 3);
    testing::Tensor<4>&k = call.problem.pools[0].k, &v = call.problem.pools[0].v;
    Random random(4);
    for (std::int64_t i = 0; i < testing::count_of(k.view()) / 64; ++i) {
      k.fill_vector(i, &random);
      v.fill_vector(i, &random);
    }
    call.problem.actual_lengths = actual;
    call.call->args.actual_lengths = found;
    run_and_check(&call, 5);
  }
}

TEST_CASE("cuda tree_attention: batch_invariant with several chunks, turned queries and chunks without keys",
          "[cuda]") {
  for (const char* name : kNames) {
    for (const std::int32_t dims : {64, 192, 256}) {
      INFO(name << ", " << dims << " dims");
      EmulatedCase c = small_case(dims);
      c.options.kind.Hq = c.options.kind.Hkv = 1;
      c.options.kind.Dv = std::min(dims, dims == 192 ? 128 : 256);
      c.options.sinks = true;
      c.options.seed = 3;
      c.plan.mode = Mode::batch_invariant;
      c.plan.sharing = Sharing::always;
      Topology& t = c.topology;
      t.add_node(-1, 1100);
      for (std::int32_t leaf = 0; leaf < 2; ++leaf) {
        Node& node = t.nodes[static_cast<std::size_t>(t.add_node(0, 1000))];
        node.length_slot = leaf;
        node.delta = 7 * leaf;
        t.add_sequence(leaf + 1, 3);
      }
      EmulatedCall call(c, name);
      const auto& runs = call.call->plan.runs;
      CHECK(std::any_of(runs.begin(), runs.end(), [](const KeyRun& r) { return r.length > kInvariantChunk; }));
      run_and_check(&call, 8);
    }
  }
}

TEST_CASE("cuda tree_attention: every number of packed rows agrees with the oracle", "[cuda]") {
  std::int32_t i = 0;
  for (const std::int32_t group : {1, 3, 8}) {
    for (std::int32_t rows = 1; rows * group <= 80; ++rows, ++i) {
      if (!test_all() && group > 1 && rows % 3 != 0) continue;
      INFO("group " << group << ", rows " << rows << ", case " << i);
      EmulatedCase c = small_case();
      const std::int32_t keys = i * 41 % 150 + 1;
      c.options.kind.Hkv = i % 4 == 0 ? 2 : 1;
      c.options.kind.Hq = group * c.options.kind.Hkv;
      c.options.kind.q_dtype = c.options.kind.kv_dtype = i % 2 == 0 ? DType::f16 : DType::bf16;
      c.options.kind.window = i % 5 == 0 ? i % 70 + 1 : -1;
      c.options.seed = static_cast<std::uint64_t>(i);
      c.topology =
          i % 2 == 0 ? testing::chain(std::vector<std::int32_t>{keys, rows}, rows)
                     : testing::prefix_group(keys, std::vector<std::int32_t>(static_cast<std::size_t>(rows), 1), false);
      c.plan.sharing = Sharing::always;
      EmulatedCall call(c, kNames[i % 8 == 7 ? 1 : 0]);
      run_and_check(&call, i);
    }
  }
}
