// SPDX-License-Identifier: Apache-2.0
// The traffic of an engine through LiveForest: random sequences that come, grow, fork, are cut back and go, in few
// pages that are issued again at once. Every step's forest, plan, accounting and attention against a brute-force model.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/live_forest.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/portable/tree_attention.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/testing/plan_checker.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/engine_model.hpp"

namespace prefixshare::tests {
namespace {

using testing::Random;
using Batch = std::vector<ScheduledSequence>;

void require_ok(const Status& status) {
  INFO(to_string(status));
  REQUIRE(status.ok());
}

LayerKind tiny_kind() {
  LayerKind kind;
  kind.Hq = 2;
  kind.Hkv = 1;
  kind.D = kind.Dv = 4;
  return kind;
}

/// K and V of all pools in one piece. What a slot holds is a function of the token that was written last: a page that
/// is read as what it was before it was issued again gives other numbers.
class Memory {
 public:
  explicit Memory(std::int64_t slots) : k_(count(slots)), v_(count(slots)) { forget(0, slots); }

  void write_token(std::int64_t slot, Random* token) {
    for (std::int64_t i = slot * kWidth; i < (slot + 1) * kWidth; ++i) {
      k_[index(i)] = static_cast<float>(token->normal());
      v_[index(i)] = static_cast<float>(token->normal());
    }
  }
  void copy(std::int64_t from, std::int64_t to) {
    for (std::int64_t i = 0; i < kWidth; ++i) {
      k_[index(to * kWidth + i)] = k_[index(from * kWidth + i)];
      v_[index(to * kWidth + i)] = v_[index(from * kWidth + i)];
    }
  }
  /// What nobody has written may not be read.
  void forget(std::int64_t slot, std::int64_t slots) {
    constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
    std::fill_n(k_.begin() + slot * kWidth, slots * kWidth, kNaN);
    std::fill_n(v_.begin() + slot * kWidth, slots * kWidth, kNaN);
  }
  const float* k(std::int64_t slot) const { return k_.data() + slot * kWidth; }
  const float* v(std::int64_t slot) const { return v_.data() + slot * kWidth; }

  /// The pools of a forest, one behind the other.
  std::vector<KvPool> pools(const Forest& forest, std::int64_t pages_per_pool) {
    std::vector<KvPool> views;
    std::int64_t slot = 0;
    for (const PoolShape& shape : forest.pools) {
      KvPool pool;
      pool.k = make_view(k_.data() + slot * kWidth, {shape.num_pages, shape.page_size, 1, kWidth});
      pool.v = make_view(v_.data() + slot * kWidth, {shape.num_pages, shape.page_size, 1, kWidth});
      views.push_back(pool);
      slot += pages_per_pool * shape.page_size;
    }
    return views;
  }

 private:
  static constexpr std::int64_t kWidth = 4;
  static std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }
  static std::size_t count(std::int64_t slots) { return index(slots * kWidth); }
  std::vector<float> k_, v_;
};

/// What attention gives, and what it takes beside the cache.
struct Rows {
  std::vector<float> q, o, lse;

  Rows(std::int64_t rows, Random* random) : q(size(rows)), o(size(rows)), lse(size(rows) / 4) {
    for (float& x : q) x = static_cast<float>(random->normal());
  }
  static std::size_t size(std::int64_t rows) { return static_cast<std::size_t>(rows * 2 * 4); }
  bool same_results(const Rows& other) const { return same_bits(o, other.o) && same_bits(lse, other.lse); }

 private:
  static bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
  }
};

Status attend(const Plan& plan, std::uint64_t fingerprint, Span<const std::int32_t> actual_lengths,
              const std::vector<KvPool>& kv, Rows* rows) {
  const PlanLimits limits = limits_of(plan, 1);
  std::int64_t bytes = 0;
  require_ok(forward_workspace(plan.header.kind, limits, &bytes));
  std::vector<unsigned char> memory(static_cast<std::size_t>(bytes) + 256);
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(memory.data());
  const std::int64_t count = plan.header.rows;
  Attend args;
  require_ok(init_workspace(plan.header.kind, limits, memory.data() + ((begin + 255) / 256 * 256 - begin), bytes,
                            &args.workspace));
  args.q = make_view(rows->q.data(), {count, 2, 4});
  args.o = make_view(rows->o.data(), {count, 2, 4});
  args.lse = make_view(rows->lse.data(), {count, 2});
  args.kv = kv;
  args.actual_lengths = actual_lengths;
  args.fingerprint = fingerprint;
  std::fill(rows->o.begin(), rows->o.end(), std::numeric_limits<float>::quiet_NaN());
  std::fill(rows->lse.begin(), rows->lse.end(), std::numeric_limits<float>::quiet_NaN());
  return portable::tree_attention(plan, args);
}

/// Softmax over a sequence's slots, row by row in f64, and how far results may be from it.
class DirectAttention {
 public:
  DirectAttention(const EngineModel& model, const Memory& memory) : model_(model), memory_(memory) {
    o_.width = 4;
    lse_.width = 1;
  }
  void run(const Batch& batch, const Rows& rows) {
    std::size_t row = 0;
    for (const ScheduledSequence& s : batch) {
      const EngineModel::Running& r = model_.of(s.id);
      for (std::int32_t h = 0; h < 2; ++h) o_.magnitude.push_back(0), lse_.magnitude.push_back(8);
      for (std::int32_t i = 0; i < s.q_len; ++i, ++row) {
        for (std::size_t h = 0; h < 2; ++h) add_row(r, r.kv_len - s.q_len + i, rows.q.data() + (row * 2 + h) * 4, h);
      }
    }
  }
  std::string compare(const Rows& rows) const {
    const double bound = testing::forward_tolerance(DType::f32, largest_logit_);
    const std::vector<double> o(rows.o.begin(), rows.o.end()), lse(rows.lse.begin(), rows.lse.end());
    const testing::Comparison of_o = testing::compare(o, o_, bound, DType::f32);
    const testing::Comparison of_lse = testing::compare(lse, lse_, bound, DType::f32);
    return !of_o.ok ? "o: " + of_o.text : !of_lse.ok ? "lse: " + of_lse.text : "";
  }

 private:
  void add_row(const EngineModel::Running& r, std::int32_t order, const float* q, std::size_t head) {
    std::vector<double> weight;
    double sum = 0, o[4] = {}, magnitude[4] = {};
    for (std::int32_t t = 0; t <= order; ++t) {
      const float* k = memory_.k(model_.slot(r, t));
      double logit = 0, absolute = 0;
      for (int d = 0; d < 4; ++d) logit += 0.5 * q[d] * k[d], absolute += std::abs(0.5 * q[d] * k[d]);
      largest_logit_ = std::max(largest_logit_, absolute);
      weight.push_back(std::exp(logit));  // of numbers of N(0, 1): no overflow
      sum += weight.back();
    }
    for (std::int32_t t = 0; t <= order; ++t) {
      const float* v = memory_.v(model_.slot(r, t));
      const double p = weight[static_cast<std::size_t>(t)] / sum;
      for (int d = 0; d < 4; ++d) o[d] += p * v[d], magnitude[d] += p * std::abs(v[d]);
    }
    const std::size_t block = o_.magnitude.size() - 2 + head;
    o_.block.push_back(static_cast<std::int32_t>(block));
    lse_.block.push_back(static_cast<std::int32_t>(block));
    for (int d = 0; d < 4; ++d) {
      o_.value.push_back(o[d]);
      o_.magnitude[block] = std::max(o_.magnitude[block], magnitude[d]);
    }
    lse_.value.push_back(std::log(sum));
  }

  const EngineModel& model_;
  const Memory& memory_;
  testing::Expected o_, lse_;
  double largest_logit_ = 0;
};

struct Traffic {
  std::int32_t page_size;
  std::int32_t max_tokens;  ///< of a sequence
  std::int32_t max_batch;
  std::uint64_t seed;
};

/// An engine with two pools of few pages.
class Engine {
 public:
  explicit Engine(const Traffic& traffic)
      : traffic_(traffic), random_(traffic.seed), memory_(2 * pages_per_pool() * traffic.page_size) {
    begin_epoch();
  }

  const LiveForest& live() const { return both_.live; }
  const EngineModel& model() const { return both_.model; }
  Memory& memory() { return memory_; }
  Random& random() { return random_; }
  const Batch& batch() const { return batch_; }
  std::int32_t epoch() const { return epoch_; }

  /// A change or two, then the next batch.
  void step() {
    if (random_.chance(0.001)) begin_epoch();
    if (random_.chance(0.01)) both_ = ModelledForest(both_);
    if (random_.chance(0.55)) {
      for (const ScheduledSequence& s : Batch(batch_)) {
        if (runs(s.id)) write_tokens(s.id, std::min(s.q_len, 2));
      }
    }
    if (random_.chance(0.5)) change();
    choose_batch();
    require_ok(both_.live.schedule(batch_));
  }

 private:
  static constexpr std::size_t kMaxRunning = 12;

  std::int32_t pages_per_sequence() const { return traffic_.max_tokens / traffic_.page_size + 3; }
  std::int32_t pages_per_pool() const { return 3 * pages_per_sequence(); }
  std::int32_t pages_of(std::int32_t tokens) const { return (tokens + traffic_.page_size - 1) / traffic_.page_size; }
  const EngineModel::Running& any() {
    return model().running[static_cast<std::size_t>(random_.next() % model().running.size())];
  }
  bool runs(SequenceId id) const {
    return std::any_of(model().running.begin(), model().running.end(), [id](const auto& r) { return r.id == id; });
  }

  void begin_epoch() {
    both_.begin_epoch(traffic_.page_size, {pages_per_pool(), pages_per_pool()});
    batch_.clear();
    ++epoch_;
    for (std::vector<std::int32_t>& pages : free_) {
      pages.clear();
      for (std::int32_t p = 0; p < pages_per_pool(); ++p) pages.push_back(p);
      random_.shuffle(&pages);
    }
  }

  void change() {
    const double kind = random_.uniform();
    if (model().running.size() < 2 || (kind < 0.25 && model().running.size() < kMaxRunning)) return add();
    const SequenceId id = any().id;
    if (kind < 0.4 && model().running.size() < kMaxRunning) {
      both_.fork(id);
    } else if (kind < 0.55) {
      truncate(id);
    } else if (kind < 0.75) {
      write_tokens(id, random_.between(0, 2 * traffic_.page_size));
    } else if (kind < 0.85) {
      move_pages(id);
    } else if (kind < 0.9) {
      replace(id, pages_of(model().of(id).kv_len), {});  // gives back its reserve
    } else {
      finish(id);
    }
  }

  /// With tokens of its own, behind whole pages of another, or as another up to a shorter length.
  void add() {
    std::int32_t pool = random_.between(0, 1), kv_len = random_.between(0, traffic_.max_tokens * 2 / 3), shared = 0;
    std::vector<std::int32_t> pages;
    if (!model().running.empty() && random_.chance(0.7)) {
      const EngineModel::Running other = any();
      const bool is_shorter = random_.chance(0.3);
      pool = other.pool;
      make_room(pool, other.id);
      kv_len = is_shorter ? random_.between(0, other.kv_len) : kv_len;
      shared = is_shorter ? kv_len : std::min(kv_len, other.kv_len) / traffic_.page_size * traffic_.page_size;
      pages.assign(other.pages.begin(), other.pages.begin() + pages_of(shared));
    } else {
      make_room(pool, -1);
    }
    const auto count = static_cast<std::size_t>(pages_of(kv_len) + random_.between(0, 2));
    while (pages.size() < count) pages.push_back(issue(pool));
    const EngineModel::Running& r = model().of(both_.add(pages, kv_len, pool));
    for (std::int32_t t = shared; t < kv_len; ++t) memory_.write_token(model().slot(r, t), &random_);
  }

  void truncate(SequenceId id) {
    const std::int32_t kv_len = model().of(id).kv_len;
    both_.truncate(id, kv_len - std::min(kv_len, random_.between(0, random_.chance(0.7) ? 3 : kv_len)));
  }

  /// New tokens, in pages of its own if others would see them, or name a page that is written.
  void write_tokens(SequenceId id, std::int32_t tokens) {
    make_room(model().of(id).pool, id);
    const EngineModel::Running& r = model().of(id);
    const std::int32_t begin = r.kv_len, end = std::min(begin + tokens, traffic_.max_tokens);
    const bool is_strict = random_.chance(0.5);
    for (std::int32_t p = begin / traffic_.page_size; p < pages_of(end); ++p) {
      if (p == static_cast<std::int32_t>(r.pages.size())) break;
      const std::int32_t slot = std::max(0, begin - p * traffic_.page_size);
      if (!(is_strict ? is_named(r, p) : is_read(r, p, slot))) continue;
      copy_pages(id, p);
      break;
    }
    std::vector<std::int32_t> pages;
    const auto has = static_cast<std::int32_t>(r.pages.size());
    const std::int32_t missing = std::max(0, pages_of(end) - has) + (random_.chance(0.2) ? 2 : 0);
    for (auto i = has; i < std::min(has + missing, pages_per_sequence()); ++i) pages.push_back(issue(r.pool));
    both_.extend(id, end - begin, pages);
    for (std::int32_t t = begin; t < end; ++t) memory_.write_token(model().slot(r, t), &random_);
  }

  /// Another sequence names the page, or reads it at `slot` or behind.
  bool is_named(const EngineModel::Running& r, std::int32_t p) const { return is_read(r, p, -traffic_.max_tokens); }
  bool is_read(const EngineModel::Running& r, std::int32_t p, std::int32_t slot) const {
    for (const EngineModel::Running& other : model().running) {
      if (other.id == r.id || other.pool != r.pool) continue;
      for (std::size_t i = 0; i < other.pages.size(); ++i) {
        const std::int32_t read = other.kv_len - static_cast<std::int32_t>(i) * traffic_.page_size;
        if (other.pages[i] == r.pages[static_cast<std::size_t>(p)] && read > slot) return true;
      }
    }
    return false;
  }

  /// Page `first` and those behind that others name become the sequence's own.
  void copy_pages(SequenceId id, std::int32_t first) {
    const EngineModel::Running& r = model().of(id);
    std::vector<std::int32_t> pages;
    for (auto p = first; p < static_cast<std::int32_t>(r.pages.size()); ++p) {
      const bool stays = p > first && !is_named(r, p);
      pages.push_back(stays ? r.pages[static_cast<std::size_t>(p)] : issue(r.pool));
    }
    replace(id, first, pages);
  }

  /// The same tokens in other pages.
  void move_pages(SequenceId id) {
    make_room(model().of(id).pool, id);
    const EngineModel::Running& r = model().of(id);
    const std::int32_t first = random_.between(0, static_cast<std::int32_t>(r.pages.size()));
    std::vector<std::int32_t> pages(r.pages.begin() + first, r.pages.end());
    for (std::int32_t& page : pages) page = random_.chance(0.5) ? issue(r.pool) : page;
    replace(id, first, pages);
  }

  void replace(SequenceId id, std::int32_t first, const std::vector<std::int32_t>& pages) {
    const EngineModel::Running old = model().of(id);
    take_back(both_.replace_pages(id, first, pages));
    for (std::int32_t t = 0; t < old.kv_len; ++t) {
      const std::int32_t from = model().slot(old, t), to = model().slot(model().of(id), t);
      if (from != to) memory_.copy(from, to);
    }
  }

  void finish(SequenceId id) {
    take_back(both_.finish(id));
    batch_.erase(std::remove_if(batch_.begin(), batch_.end(), [id](const auto& s) { return s.id == id; }),
                 batch_.end());
  }

  void take_back(const std::vector<PageId>& freed) {
    for (const PageId& p : freed) free_[p.pool].push_back(p.page);
  }

  /// The page that came back last.
  std::int32_t issue(std::int32_t pool) {
    REQUIRE(!free_[pool].empty());
    const std::int32_t page = free_[pool].back();
    free_[pool].pop_back();
    memory_.forget((std::int64_t{pool} * pages_per_pool() + page) * traffic_.page_size, traffic_.page_size);
    return page;
  }

  /// Ends sequences other than `keep` until there are pages for any change of a sequence.
  void make_room(std::int32_t pool, SequenceId keep) {
    while (static_cast<std::int32_t>(free_[pool].size()) < pages_per_sequence()) {
      const SequenceId id = any().id;
      if (id != keep) finish(id);
    }
  }

  /// Mostly the same as before.
  void choose_batch() {
    if (!batch_.empty() && !random_.chance(0.15)) return;
    std::vector<SequenceId> ids;
    for (const EngineModel::Running& r : model().running) ids.push_back(r.id);
    random_.shuffle(&ids);
    const auto most = std::min<std::int32_t>(traffic_.max_batch, static_cast<std::int32_t>(ids.size()));
    ids.resize(static_cast<std::size_t>(random_.between(0, most)));
    batch_.clear();
    for (SequenceId id : ids) batch_.push_back({id, random_.chance(0.7) ? 1 : random_.between(0, 4)});
  }

  Traffic traffic_;
  Random random_;
  ModelledForest both_;
  Memory memory_;
  std::vector<std::int32_t> free_[2];
  Batch batch_;
  std::int32_t epoch_ = 0;
};

/// Says whether the forest of the step before still serves, from what its sequences were then.
class ForestKeeper {
 public:
  bool keeps(const Engine& engine) const {
    if (engine.epoch() != epoch_ || engine.batch().size() != made_.size()) return false;
    for (std::size_t i = 0; i < made_.size(); ++i) {
      const Made& was = made_[i];
      const ScheduledSequence s = engine.batch()[i];
      if (s.id != was.sequence.id || s.q_len != was.sequence.q_len) return false;
      const EngineModel::Running& r = engine.model().of(s.id);
      if (r.replacements != was.replacements || r.kv_len < was.least || r.kv_len > was.most) return false;
    }
    return true;
  }
  /// Remembers the batch, and checks that its leaves have the capacity of all pages.
  void remember(const Engine& engine, const Forest& want) {
    made_.clear();
    epoch_ = engine.epoch();
    const Forest& f = engine.live().forest();
    for (std::size_t i = 0; i < engine.batch().size(); ++i) {
      const EngineModel::Running& r = engine.model().of(engine.batch()[i].id);
      const std::int32_t n = f.sequences[i].node;
      Made made = {engine.batch()[i], r.replacements, r.kv_len, r.kv_len};
      if (n >= 0 && f.nodes[static_cast<std::size_t>(n)].length_slot >= 0) {
        made.least = want.path_begin[static_cast<std::size_t>(n)] + 1;
        made.most = static_cast<std::int32_t>(r.pages.size()) * engine.model().page_size();
        REQUIRE(f.path_end(n) == made.most);
      }
      made_.push_back(made);
    }
  }

 private:
  struct Made {
    ScheduledSequence sequence;
    std::int32_t replacements;
    std::int32_t least, most;  ///< kv_len
  };
  std::vector<Made> made_;
  std::int32_t epoch_ = 0;  ///< none
};

/// A step's checks, and the plan that is kept while the forest is.
class Witness {
 public:
  /// Of everything but bits.
  void check(Engine* engine) {
    const LiveForest& live = engine->live();
    const Forest want = engine->model().forest_of(engine->batch());
    const std::string wrong = engine->model().check_forest(live, want, engine->batch());
    REQUIRE(wrong == "");
    REQUIRE(engine->model().check_stats(live) == "");
    std::vector<SequenceId> ids;
    for (const EngineModel::Running& r : engine->model().running) {
      if (engine->random().chance(0.3)) ids.push_back(r.id);
    }
    REQUIRE(engine->model().check_would_free(live, ids) == "");
    update_plan(engine, want);
    check_attention(engine);
  }

  /// The live forest with its capacities gives the bits of one without.
  void check_bits(Engine* engine) {
    const LiveForest& live = engine->live();
    const Forest fresh = engine->model().forest_of(engine->batch());
    PlanOptions options;
    options.mode = Mode::batch_invariant;
    Plan of_live, of_fresh;
    require_ok(make_plan(live.forest(), tiny_kind(), options, &of_live));
    require_ok(make_plan(fresh, tiny_kind(), options, &of_fresh));
    Rows with(live.forest().rows(), &engine->random());
    Rows without = with;
    const std::int32_t pages = engine->model().pages_per_pool();
    require_ok(attend(of_live, live.forest().fingerprint, live.actual_lengths(),
                      engine->memory().pools(live.forest(), pages), &with));
    require_ok(attend(of_fresh, fresh.fingerprint, {}, engine->memory().pools(fresh, pages), &without));
    REQUIRE(with.same_results(without));
  }

  std::int64_t kept = 0;    ///< steps that kept the forest
  std::int64_t shared = 0;  ///< steps in which rows shared nodes

 private:
  void update_plan(Engine* engine, const Forest& want) {
    const LiveForest& live = engine->live();
    const bool keeps = keeper_.keeps(*engine);
    REQUIRE((live.version() == version_) == keeps);
    kept += keeps;
    shared += live.forest().nodes.size() > 1 && live.forest().subtree_end.front() > 1;
    if (!keeps) {
      keeper_.remember(*engine, want);
      constexpr Sharing kSharing[] = {Sharing::automatic, Sharing::always, Sharing::never};
      PlanOptions options;
      options.sharing = kSharing[engine->random().between(0, 2)];
      options.mode = engine->random().chance(0.2) ? Mode::batch_invariant : Mode::fast;
      options.cost.item = 1;  // sharing and cutting always pay
      options.cost.kv_element = 1e4;
      options.cost.partial = 1e-3;
      const Plan before = plan_;
      require_ok(make_plan(live.forest(), tiny_kind(), options, &plan_));
      if (version_ >= 0 && before.header.fingerprint != live.forest().fingerprint) check_stale(engine, before);
      version_ = live.version();
    }
    std::string why;
    const bool proved = testing::check_plan(live.forest(), plan_, &why, live.actual_lengths());
    INFO(why);
    REQUIRE(proved);
  }

  static void check_stale(Engine* engine, const Plan& plan) {
    const Forest& forest = engine->live().forest();
    Rows rows(plan.header.rows, &engine->random());
    const auto kv = engine->memory().pools(forest, engine->model().pages_per_pool());
    const std::vector<std::int32_t> lengths(plan.slot_capacity.size(), 0);
    REQUIRE(attend(plan, forest.fingerprint, lengths, kv, &rows).code == StatusCode::stale_plan);
  }

  void check_attention(Engine* engine) {
    const LiveForest& live = engine->live();
    Rows rows(live.forest().rows(), &engine->random());
    require_ok(attend(plan_, live.forest().fingerprint, live.actual_lengths(),
                      engine->memory().pools(live.forest(), engine->model().pages_per_pool()), &rows));
    DirectAttention direct(engine->model(), engine->memory());
    direct.run(engine->batch(), rows);
    REQUIRE(direct.compare(rows) == "");
  }

  ForestKeeper keeper_;
  Plan plan_;
  std::int64_t version_ = -1;
};

void run_traffic(const Traffic& traffic, int steps, int steps_between_bits) {
  INFO("page size " << traffic.page_size << ", seed " << traffic.seed);
  Engine engine(traffic);
  Witness witness;
  for (int step = 0; step < steps; ++step) {
    INFO("step " << step);
    engine.step();
    witness.check(&engine);
    if (step % steps_between_bits == 0) witness.check_bits(&engine);
  }
  CHECK(witness.kept > steps / 5);
  CHECK(witness.shared > steps / 5);
}

/// A sequence in pages of 4 that has one page in reserve.
struct GrowingSequence {
  EngineModel model{4, {8}};
  LiveForest live;
  SequenceId id = -1;
  Memory memory{32};
  Random random{5};

  GrowingSequence() {
    const std::vector<std::int32_t> pages = {3, 6, 1};
    require_ok(live.begin_epoch(model.pools));
    require_ok(live.add(pages, 7, &id));
    for (std::int64_t slot = 0; slot < 32; ++slot) memory.write_token(slot, &random);
  }
  Status attend(const Plan& plan) {
    Rows rows(1, &random);
    return tests::attend(plan, live.forest().fingerprint, live.actual_lengths(), memory.pools(live.forest(), 8), &rows);
  }
};

}  // namespace

TEST_CASE("engine traffic: 10,000 steps agree with plain lists of slots", "[live_forest][attention]") {
  const std::uint64_t seeds = test_all() ? 10 : 1;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    run_traffic({1, 40, 6, seed}, 2'500, 20);
    run_traffic({4, 60, 6, seed}, 4'000, 20);
    run_traffic({5, 60, 6, seed}, 3'500, 20);
  }
}

TEST_CASE("engine traffic: a plan serves while the sequence stays in its pages, and is stale from then on",
          "[live_forest][attention]") {
  GrowingSequence s;
  const Batch batch = {{s.id, 1}};
  Plan plan;
  require_ok(s.live.schedule(batch));
  require_ok(make_plan(s.live.forest(), tiny_kind(), {}, &plan));
  for (std::int32_t kv_len = 8; kv_len <= 12; ++kv_len) {
    require_ok(s.live.extend(s.id, 1));
    require_ok(s.live.schedule(batch));
    CHECK(s.live.actual_lengths()[0] == kv_len);
    require_ok(s.attend(plan));
  }
  const std::vector<std::int32_t> more = {0};
  require_ok(s.live.extend(s.id, 1, more));
  require_ok(s.live.schedule(batch));
  CHECK(s.attend(plan).code == StatusCode::stale_plan);
  require_ok(make_plan(s.live.forest(), tiny_kind(), {}, &plan));
  require_ok(s.attend(plan));
}

TEST_CASE("engine traffic: long sequences have the bits of a forest made anew", "[live_forest][invariant]") {
  run_traffic({64, 1300, 4, 7}, 300, 2);
}

}  // namespace prefixshare::tests
