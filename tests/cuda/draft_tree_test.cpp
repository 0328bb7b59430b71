// SPDX-License-Identifier: Apache-2.0
// draft_tree_from_parents for batches on CUDA, in the emulator: against the builder of one tree.
#include "prefixshare/cuda/draft_tree.cuh"

#include <numeric>
#include <vector>

#include "prefixshare/detail/validate_ops.hpp"
#include "simt/modes.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/draft_batch.hpp"
#include "support/emulator.hpp"

using namespace prefixshare;
using namespace prefixshare::tests;

namespace {

std::vector<simt::Grid> run(const OwnedBatch& batch, const simt::Options& options = {}) {
  DraftTreeBatch args = batch.args();
  args.space = MemorySpace::device;  // which the host stands for
  REQUIRE(to_string(prefixshare::detail::validate(args, MemorySpace::device)) == "ok");
  Emulator emulator(options);
  REQUIRE(to_string(cuda::launch_draft_tree_from_parents(args, emulator)) == "ok");
  return emulator.launches;
}

}  // namespace

TEST_CASE("cuda draft_tree_from_parents: a batch is its trees, one by one", "[cuda][draft_tree]") {
  testing::Random random(31);
  const int rounds = test_all() ? 200 : 25;
  for (int round = 0; round < rounds; ++round) {
    const std::int32_t words = random.between(1, 4);
    std::vector<Parents> trees(static_cast<std::size_t>(random.between(0, 6)));
    for (Parents& tree : trees) {
      tree = random_parents(&random, random.between(0, 64 * words), random.between(1, 40));
    }
    const OwnedBatch batch(trees, words);
    run(batch);
    batch.check();
  }
}

TEST_CASE("cuda draft_tree_from_parents: trees of all sizes up to 1024 nodes, deep and bushy", "[cuda][draft_tree]") {
  testing::Random random(33);
  Parents chain(1024), back(1024);
  std::iota(chain.begin(), chain.end(), -1);
  std::iota(back.begin(), back.end(), 1);
  back.back() = -1;
  const OwnedBatch batch(
      {chain, back, Parents(1024, -1), random_parents(&random, 1024, 3), random_parents(&random, 1000, 1024), {-1}},
      16);
  const auto launches = run(batch);
  CHECK(launches[0].threads == 1024);
  batch.check();
}

TEST_CASE("cuda draft_tree_from_parents: a fault is that of its tree, and no cycle hangs", "[cuda][draft_tree]") {
  for (const std::int32_t words : {2, 3}) {
    const OwnedBatch batch(faulty_trees(), words);
    run(batch);
    batch.check();
  }
  Parents ring(1024);
  std::iota(ring.begin(), ring.end(), 1);
  ring.back() = 0;
  Parents tail = ring;  // a way into a cycle of two
  tail[1023] = 1022;
  const OwnedBatch batch({ring, {-1, 0, 1}, tail, Parents(1025, -1)}, 16);
  run(batch);
  batch.check();
}

TEST_CASE("cuda draft_tree_from_parents: offsets that are none are a fault of their tree", "[cuda][draft_tree]") {
  for (const auto& [offset, faults] : faulty_offsets()) {
    OwnedBatch batch({{-1, 0}, {-1, 0, 1}, {-1}}, 1);
    batch.offsets[2] = offset;
    run(batch);
    CHECK(batch.faults == faults);
    CHECK(batch.guards_intact());
  }
}

TEST_CASE("cuda draft_tree_from_parents: rows longer than a block has threads are refused by name",
          "[cuda][draft_tree]") {
  const OwnedBatch batch({{-1}}, 17), good({{-1}}, 16), none({}, 16);
  CHECK(to_string(cuda::accepts_words(batch.args())) ==
        "draft_tree_from_parents: words_per_row got 17, want <= 16 (unsupported)");
  CHECK(cuda::accepts_words(good.args()).ok());
  CHECK(run(none).empty());
}

TEST_CASE("cuda draft_tree_from_parents: bits do not depend on the order of threads and blocks", "[cuda][draft_tree]") {
  testing::Random random(34);
  std::vector<Parents> trees = faulty_trees();
  for (int i = 0; i < 4; ++i) trees.push_back(random_parents(&random, 120, 9));
  for (const simt::Options& options : simt_modes()) {
    CAPTURE(tests::to_string(options));
    const OwnedBatch batch(trees, 2);
    run(batch, options);
    batch.check();
  }
}
