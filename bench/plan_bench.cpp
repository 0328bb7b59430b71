// SPDX-License-Identifier: Apache-2.0
// What planning costs: forests from block tables, plans, a step in which every leaf grows; one thread.
#include <sys/resource.h>

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "prefixshare/live_forest.hpp"
#include "support/attention_input.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

LayerKind grouped_heads() {
  LayerKind kind;
  kind.Hq = 32;
  kind.Hkv = 8;
  kind.D = kind.Dv = 128;
  kind.q_dtype = kind.kv_dtype = DType::bf16;
  return kind;
}

/// Block tables of sequences that begin with the same pages, in groups.
class Tables {
 public:
  Tables(std::int32_t sequences, std::int32_t blocks, std::int32_t groups, std::int32_t shared) : blocks_(blocks) {
    ids_.resize(static_cast<std::size_t>(std::int64_t{sequences} * blocks));
    kv_len_.assign(static_cast<std::size_t>(sequences), blocks * kPage);
    std::int32_t next = groups * shared;
    for (std::int32_t s = 0; s < sequences; ++s) {
      std::int32_t* row = ids_.data() + std::int64_t{s} * blocks;
      std::iota(row, row + shared, s % std::max(groups, 1) * shared);
      std::iota(row + shared, row + blocks, next);
      next += blocks - shared;
    }
    pages_ = next;
  }

  BlockTables tables() const { return {ids_, blocks_, kv_len_, {}, {kPage, pages_}}; }
  Span<const std::int32_t> row(std::int64_t s) const { return tables().ids.subspan(s * blocks_, blocks_); }
  PoolShape pool() const { return {kPage, pages_}; }

  static constexpr std::int32_t kPage = 16;

 private:
  std::int32_t blocks_, pages_ = 0;
  std::vector<std::int32_t> ids_, kv_len_;
};

double peak_megabytes() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

/// Times a call that must succeed.
template <class Call>
void time_ok(Session* session, benchmark::State* state, Call&& call) {
  if (const Status s = call()) return fail(session, state, to_string(s));
  const Observed<testing::CallTimes> times = quietly([&] {
    return time_calls(
        *session, [] {}, call);
  });
  report_time(state, times.result, times.busy);
}

void register_trees(Session* session) {
  for (const Problem& p : session->problems("plan")) {
    session->add(join({"plan", p.name()}), p.quick, [=](benchmark::State& state) {
      const Forest forest = forest_of(*p.workload, p.scale);
      Plan plan;
      time_ok(session, &state, [&] { return make_plan(session->context, forest, p.kind, {}, &plan); });
      state.counters["nodes"] = static_cast<double>(forest.nodes.size());
      state.counters["items"] = static_cast<double>(plan.items.size());
    });
  }
}

/// Forest and plan, as an engine pays for them when its batch has changed.
void register_block_tables(Session* session, std::int32_t sequences, std::int32_t blocks, std::int32_t groups,
                           std::int32_t shared, bool quick) {
  const std::string name =
      join({"plan/block_tables", std::to_string(sequences) + "x" + std::to_string(blocks), label("shared", shared)});
  session->add(name, quick, [=](benchmark::State& state) {
    const Tables tables(sequences, blocks, groups, shared);
    const double before = peak_megabytes();
    Forest forest;
    Plan plan;
    time_ok(session, &state, [&] {
      if (Status s = forest_from_block_tables(tables.tables(), &forest)) return s;
      return make_plan(session->context, forest, grouped_heads(), {}, &plan);
    });
    state.counters["nodes"] = static_cast<double>(forest.nodes.size());
    state.counters["more_MB"] = peak_megabytes() - before;  // of the process's peak
  });
}

/// A step of a batch that stays: every sequence gets a token and the forest is asked for again. Pages for many steps
/// lie in reserve, so that the plan stays good.
void register_growth(Session* session, std::int32_t sequences) {
  session->add(join({"plan/grow", label("leaves", sequences)}), true, [=](benchmark::State& state) {
    constexpr std::int32_t kUsed = 64, kBlocks = 1024, kShared = 32;
    const Tables tables(sequences, kBlocks, 1, kShared);
    const PoolShape pool = tables.pool();
    LiveForest live;
    std::vector<ScheduledSequence> batch(static_cast<std::size_t>(sequences));
    Status status = live.begin_epoch({&pool, 1});
    for (std::int32_t s = 0; s < sequences && !status; ++s) {
      status = live.add(tables.row(s), kUsed * Tables::kPage, &batch[static_cast<std::size_t>(s)].id);
    }
    if (!status) status = live.schedule(batch);
    if (status) return fail(session, &state, to_string(status));
    const std::int64_t version = live.version();
    constexpr std::int32_t kRoom = (kBlocks - kUsed) * Tables::kPage;
    std::int32_t grown = 0;
    time_ok(session, &state, [&]() -> Status {
      if (grown == kRoom) {  // back to the start: one call in many
        for (const ScheduledSequence& s : batch) {
          if (Status bad = live.truncate(s.id, kUsed * Tables::kPage)) return bad;
        }
        grown = 0;
      }
      ++grown;
      for (const ScheduledSequence& s : batch) {
        if (Status bad = live.extend(s.id, 1)) return bad;
      }
      return live.schedule(batch);
    });
    state.counters["replans"] = static_cast<double>(live.version() - version);
  });
}

}  // namespace

void register_plan(Session* session) {
  register_trees(session);
  if (!session->options.workload.empty()) return;
  register_block_tables(session, 256, 1024, 1, 512, true);
  register_block_tables(session, 256, 1024, 0, 0, true);
  register_block_tables(session, 100000, 1000, 64, 500, false);
  register_block_tables(session, 100000, 1000, 0, 0, false);
  register_growth(session, 256);
}

}  // namespace prefixshare::bench
