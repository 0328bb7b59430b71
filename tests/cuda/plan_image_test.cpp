// SPDX-License-Identifier: Apache-2.0
// The image of a plan against the plan: brute force over what its pieces cover, write, merge and own.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "prefixshare/cuda/accepts.hpp"
#include "prefixshare/cuda/make_image.hpp"
#include "prefixshare/testing/catalogue.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::cuda;
using testing::Random;
using testing::Topology;

/// An image in memory that held something else before, between bytes that must stay.
class Image {
 public:
  Image(const Plan& plan, std::int32_t blocks, unsigned char before) {
    const std::int64_t bytes = image_bytes(plan.view(), blocks);
    REQUIRE(bytes >= static_cast<std::int64_t>(sizeof(ImageHeader)));
    memory_.assign(static_cast<std::size_t>(bytes) / 16 + 3, {});
    std::memset(memory_.data(), before, memory_.size() * 16);
    write_image(plan.view(), blocks, memory_.data() + 1);
    REQUIRE(header().bytes == bytes);
    const auto* first = reinterpret_cast<const unsigned char*>(memory_.data());
    for (std::int64_t i = 0; i < 16; ++i) REQUIRE((first[i] == before && first[16 + bytes + i] == before));
  }
  const unsigned char* data() const { return reinterpret_cast<const unsigned char*>(memory_.data() + 1); }
  const ImageHeader& header() const { return PlanImage{data()}.header(); }
  template <class T>
  Span<const T> list(std::int64_t at, std::int64_t count) const {
    REQUIRE(at % 16 == 0);
    REQUIRE(at >= static_cast<std::int64_t>(sizeof(ImageHeader)));
    REQUIRE(at + count * static_cast<std::int64_t>(sizeof(T)) <= header().bytes);
    return {PlanImage{data()}.list<T>(at), count};
  }

 private:
  struct alignas(16) Chunk {
    unsigned char bytes[16];
  };
  std::vector<Chunk> memory_;
};

/// A row and query head that a piece of work takes, and what else must be the same in plan and image.
using Record = std::array<std::int64_t, 6>;

/// Everything that the image must say, worked out from the plan and from the image, and compared.
class ImageChecker {
 public:
  ImageChecker(const Plan& plan, std::int32_t blocks) : plan_(plan), image_(plan, blocks, 0xaa) {
    const Image again(plan, blocks, 0x55);
    REQUIRE(std::memcmp(image_.data(), again.data(), static_cast<std::size_t>(image_.header().bytes)) == 0);
    REQUIRE(image_.header().blocks == blocks);
  }

  void run() {
    header();
    copies();
    items();
    groups();
    if (!plan_.header.backward) {
      CHECK(h().query_work_count + h().key_work_count == 0);
      return;
    }
    query_work();
    key_work();
  }

 private:
  const ImageHeader& h() const { return image_.header(); }
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  std::int64_t group() const { return plan_.header.kind.group(); }
  Span<const ImageItem> image_items() const { return image_.list<ImageItem>(h().items_at, h().item_count); }
  Span<const ImageRun> image_runs() const { return image_.list<ImageRun>(h().runs_at, h().run_count); }
  Span<const ImageInstance> instances() const {
    return image_.list<ImageInstance>(h().instances_at, static_cast<std::int64_t>(plan_.instances.size()));
  }

  void header() const {
    CHECK(h().version == kImageVersion);
    CHECK(h().rows == plan_.header.rows);
    CHECK(h().partial_rows == plan_.header.partial_rows);
    CHECK(h().fingerprint == plan_.header.fingerprint);
    CHECK(h().length_slots == plan_.header.length_slots);
    CHECK(h().invariant == (plan_.header.mode == Mode::batch_invariant));
    CHECK(h().bytes % 16 == 0);
  }

  template <class T>
  void check_copy(std::int64_t place, const std::vector<T>& list) const {
    const Span<const T> copy = image_.list<T>(place, static_cast<std::int64_t>(list.size()));
    CHECK(std::equal(list.begin(), list.end(), copy.begin()));
  }
  /// Lists that say the same, and each key of each run where the plan puts it.
  void copies() const {
    check_copy(h().pages_at, plan_.pages);
    check_copy(h().words_at, plan_.words);
    check_copy(h().slots_at, plan_.slot_capacity);
    check_copy(h().group_rows_at, plan_.group_rows);
    std::vector<std::int32_t> parts;
    for (std::int64_t part : plan_.parts) parts.push_back(static_cast<std::int32_t>(part));
    check_copy(h().parts_at, parts);
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < plan_.instances.size(); ++i) {
      const RowInstance& a = plan_.instances[i];
      const ImageInstance& b = instances()[static_cast<std::int64_t>(i)];
      wrong += a.row != b.row || a.order != b.order || a.position != b.position ||
               plan_.deltas[at(a.delta)] != b.delta || a.length_slot != b.length_slot;
    }
    REQUIRE(h().run_count == static_cast<std::int32_t>(plan_.runs.size()));
    for (std::size_t i = 0; i < plan_.runs.size(); ++i) wrong += !same_run(plan_.runs[i], image_runs()[at_run(i)]);
    CHECK(wrong == 0);
  }
  static std::int64_t at_run(std::size_t i) { return static_cast<std::int64_t>(i); }
  bool same_run(const KeyRun& a, const ImageRun& b) const {
    bool same = a.length == b.length && a.position == b.position && a.first_instance == b.first_instance &&
                a.length_slot == b.length_slot && a.length_origin == b.length_origin &&
                static_cast<std::int32_t>(a.mask) == b.mask && a.first_word == b.first_word &&
                (a.mask != MaskKind::bits || b.words_per_row == (a.length + 63) / 64);
    for (std::int32_t j = 0; j < a.length; j += a.length < 80 ? 1 : 17) {
      same = same && place_in_plan(a.segment, a.token + j) == place_in_image(b.pool, b.first_page, b.token + j);
    }
    return same;
  }

  using Place = std::array<std::int64_t, 3>;  // pool, page, slot
  Place place_in_plan(std::int32_t segment, std::int64_t token) const {
    const Segment& s = plan_.segments[at(segment)];
    const detail::TokenPlace place = detail::place_of(plan_.view(), s, token);
    return {s.pool, place.page, place.slot};
  }
  Place place_in_image(std::int32_t pool, std::int32_t first_page, std::int64_t token) const {
    const std::int64_t size = plan_.pools[at(pool)].page_size;
    const Span<const std::int32_t> pages =
        image_.list<std::int32_t>(h().pages_at, static_cast<std::int64_t>(plan_.pages.size()));
    return {pool, pages[first_page + token / size], token % size};
  }

  void check_shares(std::int64_t place, std::int64_t work) const {
    const Span<const std::int32_t> first = image_.list<std::int32_t>(place, h().blocks + std::int64_t{1});
    CHECK(first[0] == 0);
    CHECK(first[h().blocks] == work);
    CHECK(std::is_sorted(first.begin(), first.end()));
  }

  // ---- Forward ----

  /// (query row, query head, run or -1, partial row or -1, tile rows, fold) of every pair that an item works on.
  void add_records(std::int64_t row, std::int64_t q_head, std::int32_t first_run, std::int32_t run_count,
                   std::int64_t slot, std::int64_t tile_rows, bool fold, std::vector<Record>* to) const {
    const std::int64_t runs = std::max(run_count, 1);
    for (std::int64_t r = 0; r < runs; ++r) {
      to->push_back({row, q_head, run_count == 0 ? -1 : first_run + r, slot, tile_rows, fold});
    }
  }
  void items() const {
    std::vector<Record> want, got;
    for (const Item& m : plan_.items) {
      const RowTile& t = plan_.tiles[at(m.tile)];
      for (std::int32_t i = 0; i < t.count; ++i) {
        const std::int64_t slot = m.slot < 0 ? -1 : m.slot + i;
        const std::int32_t row = plan_.instances[at(t.first + i)].row;
        for (std::int64_t q = m.head_begin * group(); q < m.head_end * group(); ++q) {
          add_records(row, q, m.first_run, m.run_count, slot, t.count, m.fold, &want);
        }
      }
    }
    for (const ImageItem& m : image_items()) {
      const bool narrow_fits = m.packed_count <= kNarrowRows && h().invariant == 0;
      if (m.packed_count < 1 || m.packed_count > kWideRows || (m.wide == 0) != narrow_fits || m.unused != 0) {
        FAIL_CHECK("a piece of " << int{m.packed_count} << " packed rows, wide " << int{m.wide});
      }
      for (std::int64_t p = m.first_packed; p < m.first_packed + m.packed_count; ++p) {
        const std::int64_t slot = m.slot < 0 ? -1 : m.slot + p / group();
        add_records(instances()[m.instance + p / group()].row, m.kv_head * group() + p % group(), m.first_run,
                    m.run_count, slot, m.tile_rows, m.fold, &got);
      }
    }
    std::sort(want.begin(), want.end());
    std::sort(got.begin(), got.end());
    CHECK(std::adjacent_find(got.begin(), got.end()) == got.end());
    CHECK(want == got);
  }

  /// Each piece names the groups of its rows, deferred ones excepted, and as many pieces of one head name a group as it
  /// says.
  void groups() const {
    const auto groups = image_.list<ImageGroup>(h().groups_at, h().group_count);
    REQUIRE(h().group_count == static_cast<std::int32_t>(plan_.groups.size()));
    std::vector<std::int32_t> group_of(at(plan_.header.rows));
    std::set<std::int32_t> deferred;
    for (std::int32_t g = 0; g < h().group_count; ++g) {
      const ReduceGroup& want = plan_.groups[at(g)];
      const ImageGroup& got = groups[g];
      CHECK(want.first_row == got.first_row);
      CHECK(want.row_count == got.row_count);
      CHECK(want.first_part == got.first_part);
      CHECK(want.part_count == got.part_count);
      for (std::int32_t r = 0; r < want.row_count; ++r) group_of[at(plan_.group_rows[at(want.first_row + r)])] = g;
      const std::int64_t bytes = plan_.header.partial_rows * plan_.header.kind.Hq * (plan_.header.kind.Dv + 1) * 4;
      if (want.part_count > 0 && (bytes > kSerialMergeBytes || plan_.header.kind.Dv > kSerialMergeDims))
        deferred.insert(g);
    }
    std::vector<std::vector<std::int32_t>> arrivals(at(plan_.header.kind.Hkv),
                                                    std::vector<std::int32_t>(plan_.groups.size(), 0));
    std::int64_t wrong = 0, listed = 0;
    for (const ImageItem& m : image_items()) {
      std::set<std::int32_t> want;
      for (std::int64_t p = m.first_packed; m.slot >= 0 && p < m.first_packed + m.packed_count; ++p) {
        want.insert(group_of[at(instances()[m.instance + p / group()].row)]);
      }
      for (std::int32_t g : deferred) want.erase(g);
      const auto all = image_.list<std::int32_t>(h().item_groups_at, m.first_group + m.group_count);
      const std::set<std::int32_t> got(all.begin() + m.first_group, all.end());
      wrong += want != got || static_cast<std::int64_t>(got.size()) != m.group_count;
      for (std::int32_t g : got) ++arrivals[at(m.kv_head)][at(g)];
      listed = std::max<std::int64_t>(listed, m.first_group + m.group_count);
    }
    for (const auto& of_head : arrivals) {
      for (std::int32_t g = 0; g < h().group_count; ++g) wrong += of_head[at(g)] != groups[g].arrivals;
    }
    CHECK(wrong == 0);
    check_deferred(deferred, groups);
  }
  void check_deferred(const std::set<std::int32_t>& want, Span<const ImageGroup> groups) const {
    const auto got = image_.list<ImageDeferred>(h().deferred_at, h().deferred_count);
    REQUIRE(h().deferred_count == static_cast<std::int32_t>(want.size()));
    std::int32_t rows = 0;
    auto next = want.begin();
    for (const ImageDeferred& d : got) {
      CHECK(d.group == *next++);
      CHECK(d.first_row == rows);
      CHECK(groups[d.group].arrivals == 0);
      rows += groups[d.group].row_count;
    }
    CHECK(h().deferred_rows == rows);
  }

  // ---- Backward ----

  /// (query row, query head, run) of every pair that dQ sums over.
  void query_work() const {
    std::vector<Record> want, got;
    for (std::size_t r = 0; r < plan_.runs.size(); ++r) {
      const RowTile& t = plan_.tiles[at(plan_.runs[r].tile)];
      for (std::int32_t i = 0; i < t.count; ++i) {
        const std::int32_t row = plan_.instances[at(t.first + i)].row;
        for (std::int32_t q = 0; q < plan_.header.kind.Hq; ++q) want.push_back({row, q, static_cast<std::int64_t>(r)});
      }
    }
    const auto spans =
        image_.list<ImageQuerySpan>(h().query_spans_at, static_cast<std::int64_t>(plan_.group_tiles.size()));
    std::vector<std::int32_t> written(at(std::int64_t{plan_.header.rows} * plan_.header.kind.Hq), 0);
    std::int64_t wrong = 0;
    for (const ImageQueryWork& w : image_.list<ImageQueryWork>(h().query_work_at, h().query_work_count)) {
      wrong += w.packed_count < 1 || w.packed_count > kWideRows;
      for (std::int64_t p = w.first_packed; p < w.first_packed + w.packed_count; ++p) {
        const std::int32_t row = plan_.group_rows[at(w.first_row + p / group())];
        const std::int64_t q = w.kv_head * group() + p % group();
        ++written[at(row * plan_.header.kind.Hq + q)];
        std::int64_t last = -1;
        for (std::int32_t s = w.first_span; s < w.first_span + w.span_count; ++s) {
          for (std::int32_t r = spans[s].first_run; r < spans[s].first_run + spans[s].run_count; ++r) {
            const std::int64_t instance = plan_.runs[at(r)].first_instance + spans[s].offset + p / group();
            wrong += plan_.instances[at(instance)].row != row || r <= last;
            last = r;
            got.push_back({row, q, r});
          }
        }
      }
    }
    CHECK(wrong == 0);
    CHECK(std::count(written.begin(), written.end(), 1) == static_cast<std::int64_t>(written.size()));
    std::sort(want.begin(), want.end());
    std::sort(got.begin(), got.end());
    CHECK(want == got);
    check_shares(h().query_blocks_at, h().query_work_count);
  }

  /// Every key of a block has one owner per head, and every key of a run one owner that names the run.
  void key_work() const {
    std::vector<Record> want, got, want_runs, got_runs;
    const std::int64_t heads = plan_.header.kind.Hkv;
    for (const KeyBlock& b : plan_.blocks) {
      for (std::int32_t t = 0; t < b.length * heads; ++t) {
        const Place place = place_in_plan(b.segment, b.token + t / heads);
        want.push_back({place[0], place[1], place[2], t % heads});
      }
    }
    for (std::size_t r = 0; r < plan_.runs.size(); ++r) {
      for (std::int64_t j = 0; j < plan_.runs[r].length * heads; ++j) {
        want_runs.push_back({static_cast<std::int64_t>(r), j / heads, j % heads});
      }
    }
    const auto work = image_.list<ImageKeyWork>(h().key_work_at, h().key_work_count);
    std::int64_t wrong = 0, span_count = 0;
    for (const ImageKeyWork& w : work) span_count = std::max<std::int64_t>(span_count, w.first_span + w.span_count);
    const auto spans = image_.list<ImageKeySpan>(h().key_spans_at, span_count);
    for (const ImageKeyWork& w : work) {
      wrong += w.length < 1 || w.length > kImageKeys || w.unused != 0;
      for (std::int32_t t = 0; t < w.length; ++t) {
        const Place place = place_in_image(w.pool, w.first_page, w.token + t);
        got.push_back({place[0], place[1], place[2], w.kv_head});
      }
      for (std::int32_t s = w.first_span; s < w.first_span + w.span_count; ++s) {
        const ImageRun& run = image_runs()[spans[s].run];
        const RowTile& tile = plan_.tiles[at(plan_.runs[at(spans[s].run)].tile)];
        wrong += run.pool != w.pool || run.first_page != w.first_page || spans[s].tile_rows != tile.count ||
                 spans[s].tile_instance != tile.first || (s > w.first_span && spans[s].run <= spans[s - 1].run);
        const std::int32_t begin = std::max(run.token, w.token);
        const std::int32_t end = std::min(run.token + run.length, w.token + w.length);
        wrong += begin >= end;
        for (std::int32_t t = begin; t < end; ++t) got_runs.push_back({spans[s].run, t - run.token, w.kv_head});
      }
    }
    CHECK(wrong == 0);
    for (std::vector<Record>* list : {&want, &got, &want_runs, &got_runs}) std::sort(list->begin(), list->end());
    CHECK(want == got);
    CHECK(want_runs == got_runs);
    check_shares(h().key_blocks_at, h().key_work_count);
  }

  const Plan& plan_;
  Image image_;
};

LayerKind kind_of(std::int32_t Hq, std::int32_t Hkv, std::int32_t window = -1) {
  LayerKind kind;
  kind.Hq = Hq;
  kind.Hkv = Hkv;
  kind.D = kind.Dv = 64;
  kind.window = window;
  return kind;
}

/// Constants that make sharing and cutting attractive even in small forests.
PlanOptions eager(std::int32_t parallelism) {
  PlanOptions options;
  options.cost.item = 1;
  options.cost.kv_element = 1e3;
  options.cost.partial = 1e-3;
  options.target_parallelism = parallelism;
  return options;
}

Plan plan_of(const Forest& forest, const LayerKind& kind, const PlanOptions& options) {
  Plan plan;
  const Status made = make_plan(forest, kind, options, &plan);
  INFO(to_string(made));
  REQUIRE(made.ok());
  return plan;
}

/// A context and below it a draft tree of one-token nodes, each with a row, for some sequences.
Topology draft_topology(Random* random) {
  Topology t;
  const std::int32_t root = t.add_node(-1, random->between(1, 700));
  for (std::int32_t s = random->between(1, 3); s > 0; --s) {
    std::vector<std::int32_t> draft{t.add_node(root, random->between(0, 90))};
    for (std::int32_t n = random->between(1, 90); n > 0; --n) {
      const std::int32_t from = random->between(0, static_cast<std::int32_t>(draft.size()) - 1);
      draft.push_back(t.add_node(draft[static_cast<std::size_t>(from)], 1));
      t.add_sequence(draft.back(), 1);
    }
  }
  return t;
}

}  // namespace

TEST_CASE("plan image: plans of random forests, of every kind", "[image]") {
  const std::int32_t heads[][2] = {{1, 1}, {4, 2}, {5, 1}, {80, 1}, {130, 2}, {6, 6}, {16, 1}};
  const std::int32_t windows[] = {-1, -1, 7, 200};
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    testing::RandomForest limits;
    limits.length_slots = random.chance(0.3);
    limits.max_nodes = seed % 3 == 0 ? 10 : 30;
    limits.max_length = seed % 3 == 0 ? 700 : 20;
    limits.max_rows = seed % 5 == 0 ? 40 : 4;
    const Topology topology = seed % 4 == 3 ? draft_topology(&random) : random_topology(&random, limits);
    testing::ProblemOptions place;
    const std::int32_t pages[] = {0, 1, 5, 16};
    place.page_size = pages[random.between(0, 3)];
    place.pools = 2;
    Forest forest;
    REQUIRE(testing::detail::place_forest(topology, place, &random, &forest).ok());
    const auto& h = heads[random.between(0, 6)];
    PlanOptions options = random.chance(0.7) ? eager(random.between(1, 64)) : PlanOptions{};
    options.mode = random.chance(0.3) ? Mode::batch_invariant : Mode::fast;
    options.sharing = random.chance(0.5) ? Sharing::automatic : Sharing::always;
    options.backward = random.chance(0.5);
    const Plan plan = plan_of(forest, kind_of(h[0], h[1], windows[random.between(0, 3)]), options);
    INFO("seed " << seed);
    ImageChecker(plan, random.between(1, 300)).run();
  }
}

TEST_CASE("plan image: workloads of the catalogue", "[image]") {
  Random random(7);
  for (const testing::Workload& workload : testing::catalogue()) {
    if (workload.tree.empty() || !random.chance(0.25)) continue;
    Forest forest;
    REQUIRE(make_forest(workload, 64, &forest).ok());
    LayerKind kind = workload.kind;
    kind.window = random.chance(0.2) ? 33 : -1;
    PlanOptions options = eager(264);
    options.mode = random.chance(0.3) ? Mode::batch_invariant : Mode::fast;
    options.backward = workload.task == testing::Task::training;
    INFO(workload.name);
    ImageChecker(plan_of(forest, kind, options), 264).run();
  }
}

TEST_CASE("plan image: long prefixes below many rows are cut, and the merge of much is deferred", "[image]") {
  for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
    Random random(3);
    Forest forest;
    const std::vector<std::int32_t> suffixes(40, 300);
    REQUIRE(testing::detail::place_forest(testing::prefix_group(9000, suffixes, false), {}, &random, &forest).ok());
    PlanOptions options = eager(132);
    options.mode = mode;
    const Plan plan = plan_of(forest, kind_of(32, 8), options);
    ImageChecker(plan, 132).run();
    CHECK(plan.header.partial_rows > 0);
    CHECK(Image(plan, 132, 0).header().deferred_rows == 40);
  }
  Random random(3);
  Topology chain;  // all rows in one group, whose keys are cut often
  chain.add_node(-1, 30000);
  chain.add_sequence(0, 30);
  Forest forest;
  REQUIRE(testing::detail::place_forest(chain, {}, &random, &forest).ok());
  const Plan plan = plan_of(forest, kind_of(4, 1), eager(264));
  ImageChecker(plan, 264).run();
  const Image image(plan, 264, 0);
  CHECK(image.header().deferred_count == 1);
  CHECK(image.header().deferred_rows == 30);
}

TEST_CASE("plan image: what is little to merge is merged by the item that comes last", "[image]") {
  Random random(3);
  Forest forest;
  const std::vector<std::int32_t> suffixes(3, 20);
  REQUIRE(testing::detail::place_forest(testing::prefix_group(300, suffixes, false), {}, &random, &forest).ok());
  const Plan plan = plan_of(forest, kind_of(4, 1), eager(8));
  ImageChecker(plan, 8).run();
  const std::int64_t bytes = plan.header.partial_rows * 4 * (plan.header.kind.Dv + 1) * 4;
  CHECK(bytes > 0);
  CHECK(bytes <= kSerialMergeBytes);
  CHECK(Image(plan, 8, 0).header().deferred_count == 0);
}

TEST_CASE("plan image: training on long sequences makes no partial states", "[image]") {
  const CostModel of_h200{8576, 0, 0.0027, 4.56, 0.117, 0.00024, 3000, 64, 16, true};
  for (const CostModel& cost : {kMmaCost, kSimtCost, of_h200}) {
    Random random(3);
    Forest forest;
    const std::vector<std::int32_t> suffixes(8, 1024);
    REQUIRE(testing::detail::place_forest(testing::prefix_group(4096, suffixes, true), {}, &random, &forest).ok());
    PlanOptions options;
    options.backward = true;
    options.target_parallelism = 264;
    options.cost = cost;
    CHECK(plan_of(forest, kind_of(32, 8), options).header.partial_rows == 0);
  }
}

TEST_CASE("plan image: items come in the order of the plan's queue, large ones first", "[image]") {
  Random random(1);
  Topology topology;
  for (std::int32_t i = 0; i < 48; ++i) topology.add_sequence(topology.add_node(-1, 100 + 10 * (i % 7)), 1);
  Forest forest;
  REQUIRE(testing::detail::place_forest(topology, {}, &random, &forest).ok());
  PlanOptions options;
  options.cost.by_head = true;
  const Image image(plan_of(forest, kind_of(8, 8), options), 16, 0);
  const auto items = image.list<ImageItem>(image.header().items_at, image.header().item_count);
  const auto runs = image.list<ImageRun>(image.header().runs_at, image.header().run_count);
  std::int32_t before = INT32_MAX;
  for (const ImageItem& m : items) {
    CHECK(runs[m.first_run].length <= before);
    before = runs[m.first_run].length;
  }
}

TEST_CASE("plan image: an empty plan, and one that has no int32 ordinals", "[image]") {
  Random random(1);
  Forest forest;
  REQUIRE(testing::detail::place_forest(Topology{}, {}, &random, &forest).ok());
  Plan plan = plan_of(forest, kind_of(8, 2), {});
  ImageChecker(plan, 8).run();
  CHECK(Image(plan, 8, 0).header().item_count == 0);
  plan.header.partial_rows = std::int64_t{1} << 31;
  CHECK(image_bytes(plan.view(), 8) == -1);
}
