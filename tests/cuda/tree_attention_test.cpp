// SPDX-License-Identifier: Apache-2.0
// The forward of tree_attention on CUDA, in the emulator: matrices of shapes and options against the oracle, every way
// to schedule a kernel, and the bits that must not depend on it.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/data.hpp"
#include "support/emulated_call.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;

// ---- The matrix

enum Factor { kType, kHeads, kDims, kPages, kShape, kOptions, kScales, kRotation, kPlan, kWindow };
const std::vector<std::int32_t> kLevels = {2, 5, 5, 4, 6, 6, 5, 4, 4, 3};

ProblemOptions choose_options(const std::vector<std::int32_t>& row) {
  const std::pair<std::int32_t, std::int32_t> heads[] = {{2, 2}, {4, 1}, {5, 1}, {16, 2}, {71, 1}};
  const std::int32_t pages[] = {0, 1, 16, 5}, windows[] = {-1, 3, 70};
  ProblemOptions o;
  std::tie(o.kind.Hq, o.kind.Hkv) = heads[row[kHeads]];
  o.kind.window = windows[row[kWindow]];
  o.page_size = pages[row[kPages]];
  o.pools = row[kPages] == 2 ? 2 : 1;
  o.softcap = row[kOptions] % 3 == 1 ? 4.0 : 0.0;
  o.sinks = row[kOptions] == 2 || row[kOptions] == 4;
  o.bias = row[kOptions] >= 4;
  o.wide_outputs = row[kOptions] == 3 || row[kOptions] == 5;
  o.k_scale = static_cast<ScaleGranularity>(row[kScales]);
  o.v_scale = static_cast<ScaleGranularity>(row[kScales] * 3 % 5);
  o.rope = row[kRotation] >= 1;
  o.q_rotated = row[kRotation] <= 1;
  o.pairing = row[kRotation] == 2 ? RopePairing::interleaved : RopePairing::half;
  o.mscale = row[kRotation] >= 2 ? 1.25 : 1.0;
  return o;
}

/// Trees of several levels whose keys lie under several parents, the same with lengths known at the call, a prefix's
/// decode, its training, rows at the end of a path, a draft tree.
Topology choose_topology(std::int32_t shape, bool deltas, std::int32_t group, Random* random) {
  testing::RandomForest limits;
  limits.max_nodes = 10;
  limits.max_length = 40;
  limits.max_rows = 3;
  limits.shared_segments = deltas;
  limits.length_slots = shape == 1;
  if (shape <= 1) return testing::random_topology(random, limits);
  const std::int32_t keys = random->between(1, 200), rows = random->between(1, std::max(1, 70 / group));
  if (shape == 4) return testing::chain(std::vector<std::int32_t>{keys, rows}, rows);
  if (shape == 5) return draft_tree(keys, rows, random);
  if (shape == 3) return testing::prefix_group(7, std::vector<std::int32_t>{0, 1, 5, 3}, true);
  return testing::prefix_group(keys, std::vector<std::int32_t>(static_cast<std::size_t>(rows), 2), false);
}

EmulatedCase matrix_case(const std::vector<std::int32_t>& row, std::uint64_t seed, bool plain) {
  const std::pair<std::int32_t, std::int32_t> dims[] = {{64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}};
  const std::pair<std::int32_t, std::int32_t> plain_dims[] = {{20, 17}, {64, 64}, {80, 40}, {8, 130}, {1, 3}};
  const DType plain_types[][2] = {{DType::f32, DType::f32}, {DType::bf16, DType::f16}};
  Random random(seed);
  EmulatedCase c;
  c.options = choose_options(row);
  LayerKind& kind = c.options.kind;
  std::tie(kind.D, kind.Dv) = (plain ? plain_dims : dims)[row[kDims]];
  if (kind.D == 1) c.options.rope = false, c.options.q_rotated = true;
  kind.q_dtype = plain ? plain_types[row[kType]][0] : row[kType] == 0 ? DType::bf16 : DType::f16;
  kind.kv_dtype = plain ? plain_types[row[kType]][1] : kind.q_dtype;
  c.options.strided = row[kOptions] == 0;
  c.options.seed = seed;
  c.topology = choose_topology(row[kShape], c.options.rope, kind.group(), &random);
  if (row[kPlan] == 1) c.plan.sharing = Sharing::always;
  if (row[kPlan] == 2) c.cost = cutting_cost();
  if (row[kPlan] == 3) c.plan.mode = Mode::batch_invariant;
  return c;
}

void run_matrix(bool plain) {
  std::vector<std::vector<std::int32_t>> rows = pairwise(kLevels);
  for (std::uint64_t more = 2; test_all() && more < 8; ++more) {
    for (auto& row : pairwise(kLevels, more)) rows.push_back(std::move(row));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    INFO("row " << i << ": " << ::Catch::Detail::stringify(rows[i]));
    EmulatedCall call(matrix_case(rows[i], i + 1, plain), plain ? "cuda:simt" : "");
    REQUIRE(std::string(call.name()) == (plain ? "cuda:simt" : "cuda:mma-sm80"));
    call.run(mode(i));
    call.check();
  }
}

/// Who merges partial states: the item that comes last, or the kernel that follows.
enum class Merge { last_item, kernel };

/// Items of both bodies, partial states, masks of all kinds: for tests of scheduling and of bits.
EmulatedCase mixed_case(Merge merge, DType type = DType::bf16) {
  Random random(5);
  EmulatedCase c;
  c.options.kind.Hq = 5;
  c.options.kind.Hkv = 1;
  c.options.kind.D = c.options.kind.Dv = 64;
  c.options.kind.q_dtype = c.options.kind.kv_dtype = type;
  c.options.page_size = 16;
  c.options.sinks = true;
  const std::int32_t longest = merge == Merge::kernel ? 30 : 6;
  c.topology = testing::prefix_group(70, std::vector<std::int32_t>{longest, 3, 0, longest}, true);
  c.plan.sharing = Sharing::always;
  return c;
}

}  // namespace

TEST_CASE("cuda tree_attention: matrix units agree with the oracle", "[cuda]") { run_matrix(false); }
TEST_CASE("cuda tree_attention: plain f32 agrees with the oracle", "[cuda]") { run_matrix(true); }

TEST_CASE("cuda tree_attention: every order of threads and every time of copies gives the same bits", "[cuda]") {
  for (const auto& [type, merge] : {std::pair{DType::bf16, Merge::last_item}, std::pair{DType::bf16, Merge::kernel},
                                    std::pair{DType::f32, Merge::last_item}, std::pair{DType::f32, Merge::kernel}}) {
    EmulatedCall call(mixed_case(merge, type));
    CHECK((call.call->device_plan.deferred_count > 0) == (merge == Merge::kernel));
    std::vector<std::uint8_t> first;
    for (const simt::Options& how : simt_modes()) {
      INFO(tests::to_string(how));
      call.run(how);
      if (first.empty()) {
        call.check();
        first = call.bits();
      }
      CHECK(call.bits() == first);
    }
  }
}

TEST_CASE("cuda tree_attention: rows of matrix loads lie in different banks", "[cuda]") {
  EmulatedCall call(mixed_case(Merge::last_item));
  call.run(mode(0));
  REQUIRE(simt::statistics().matrices > 0);
  CHECK(simt::statistics().conflicts == 0);
}

TEST_CASE("cuda tree_attention: the ring is as long as a device has room for, with the same bits", "[cuda]") {
  for (const auto& [D, Dv] : {std::pair{64, 64}, std::pair{128, 128}, std::pair{192, 128}, std::pair{256, 256}}) {
    for (const double softcap : {0.0, 4.0}) {
      INFO(D << " dims, soft cap " << softcap);
      EmulatedCase c = mixed_case(Merge::last_item);
      c.options.kind.D = D;
      c.options.kind.Dv = Dv;
      c.options.softcap = softcap;
      EmulatedCall call(c);
      const std::int32_t blocks = call.call->device_plan.blocks;
      Emulator device(mode(1));
      std::vector<std::uint8_t> first;
      int lengths = 0;
      for (Status s; s.ok(); ++lengths) {
        s = call.status(device);
        if (!s.ok()) {
          CHECK(s.code == StatusCode::unsupported);
          CHECK(std::string(s.field) == "shared memory of a block");
          CHECK(s.got == device.shared_of_block);
          CHECK(s.want > s.got);
          CHECK(emulator().launches.empty());
          break;
        }
        CHECK(call.problem.guards_intact());
        const simt::Grid& launch = emulator().launches.front();
        CHECK(launch.blocks == (D <= 128 && lengths == 0 ? blocks : (blocks + 1) / 2));
        if (first.empty()) {
          call.check();
          first = call.bits();
        }
        CHECK(call.bits() == first);
        device.shared_of_block = launch.shared_bytes - 1;
        device.shared_of_processor = launch.shared_bytes + 1023;
      }
      CHECK(lengths >= 3);
    }
  }
}

TEST_CASE("cuda tree_attention: a group that is merged later has the bits of one that its last item merges", "[cuda]") {
  for (const char* name : {"cuda:mma-sm80", "cuda:simt"}) {
    EmulatedCase c;
    c.options.kind.Hq = 4;
    c.options.kind.Hkv = 1;
    c.options.kind.D = c.options.kind.Dv = 64;
    c.options.kind.q_dtype = c.options.kind.kv_dtype = DType::bf16;
    c.options.sinks = true;
    c.topology = testing::chain(std::vector<std::int32_t>{1400, 30}, 30);  // a tile of 120 packed rows, keys in parts
    c.cost = cutting_cost();
    EmulatedCall call(c, name);
    REQUIRE(call.call->device_plan.deferred_count > 0);
    call.run(mode(4));
    CHECK(emulator().launches.size() == 2);
    call.check();
    const std::vector<std::uint8_t> deferred = call.bits();

    // The same image, but for where the merge happens: every group counts its arrivals.
    auto* image = static_cast<unsigned char*>(call.call->device_plan.data);
    auto& header = *reinterpret_cast<cuda::ImageHeader*>(image);
    auto* groups = reinterpret_cast<cuda::ImageGroup*>(image + header.groups_at);
    auto* items = reinterpret_cast<cuda::ImageItem*>(image + header.items_at);
    REQUIRE(header.group_count == header.deferred_count);
    std::vector<std::int32_t> of_items;
    for (std::int32_t i = 0; i < header.item_count; ++i) {
      items[i].first_group = static_cast<std::int32_t>(of_items.size());
      for (std::int32_t g = 0; items[i].slot >= 0 && g < header.group_count; ++g) {
        of_items.push_back(g);
        ++groups[g].arrivals;
      }
      items[i].group_count =
          static_cast<std::uint16_t>(of_items.size() - static_cast<std::size_t>(items[i].first_group));
    }
    header.item_groups_at = reinterpret_cast<unsigned char*>(of_items.data()) - image;
    call.call->device_plan.deferred_count = 0;
    header.deferred_count = header.deferred_rows = 0;
    call.run(mode(4));
    CHECK(emulator().launches.size() == 1);
    CHECK(call.bits() == deferred);
  }
}

TEST_CASE("cuda tree_attention: while a graph is captured the merge is always launched", "[cuda]") {
  EmulatedCall call(mixed_case(Merge::last_item));
  REQUIRE(call.call->device_plan.deferred_count == 0);
  stand_in().state.capturing = true;
  call.run(mode(0));
  CHECK(emulator().launches.size() == 2);
  call.check();
}

TEST_CASE("cuda tree_attention: what a row does not see reaches it in no way", "[cuda]") {
  for (const char* name : {"cuda:mma-sm80", "cuda:simt"}) {
    for (const double odd : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      for (std::int32_t shape = 3; shape <= 5; ++shape) {
        Random random(static_cast<std::uint64_t>(shape));
        EmulatedCase c;
        c.options.kind.Hq = 4;
        c.options.kind.Hkv = 2;
        c.options.kind.D = c.options.kind.Dv = 64;
        c.options.kind.q_dtype = c.options.kind.kv_dtype = DType::bf16;
        c.topology = choose_topology(shape, false, 2, &random);
        EmulatedCall call(c, name);
        testing::Tensor<4>& v = call.problem.pools[0].v;
        testing::Tensor<4>& k = call.problem.pools[0].k;
        std::int32_t changed = 0;
        for (std::size_t t = 0; t < call.problem.pools[0].named.size(); ++t) {
          if (!call.problem.pools[0].named[t] || !random.chance(0.2)) continue;
          const std::int64_t element = static_cast<std::int64_t>(t) * 2 * 64 + random.between(0, 127);
          (random.chance(0.5) ? v : k).set(element, odd);
          ++changed;
        }
        INFO(name << ", shape " << shape << ", " << changed << " values are " << odd);
        call.run(mode(static_cast<std::size_t>(shape)));
        call.check();
      }
    }
  }
}

TEST_CASE("cuda tree_attention: batch_invariant gives a sequence the bits that it has alone", "[cuda]") {
  EmulatedCase c;
  c.options.kind.Hq = 4;
  c.options.kind.Hkv = 1;
  c.options.kind.D = c.options.kind.Dv = 64;
  c.options.kind.q_dtype = c.options.kind.kv_dtype = DType::bf16;
  c.topology = testing::prefix_group(700, std::vector<std::int32_t>{9, 30, 1}, false);
  c.plan.mode = Mode::batch_invariant;
  std::vector<std::uint8_t> alone;
  for (const Sharing sharing : {Sharing::never, Sharing::always}) {
    c.plan.sharing = sharing;
    EmulatedCall call(c);
    REQUIRE(std::string(call.name()) == "cuda:mma-sm80");
    call.run(mode(7));
    call.check();
    if (alone.empty()) alone = call.bits();
    CHECK(call.bits() == alone);
  }
}
