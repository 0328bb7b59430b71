// SPDX-License-Identifier: Apache-2.0
// A call in parts, of every implementation: the same bits for any number of parts in any order, on one thread, on a
// pool, on anybody's threads; a workspace is left as it was found and serves one plan after the other.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "prefixshare/testing/compare.hpp"
#include "prefixshare/testing/problem.hpp"
#include "prefixshare/thread_pool.hpp"
#include "support/attention.hpp"

using namespace prefixshare;
using tests::attention_contexts;
using tests::NamedContext;
using tests::Random;
using tests::Topology;

namespace {

constexpr std::int32_t kPartCounts[] = {1, 2, 3, 8, 64};
constexpr std::int32_t kMostParts = 64;

LayerKind kind_of_tests() {
  LayerKind kind;
  kind.Hq = 4;
  kind.Hkv = 2;
  kind.D = 16;
  kind.Dv = 32;
  return kind;
}

/// A plan, and a problem that it serves. The forward's o and lse are there for the backward.
struct Case {
  testing::Problem problem;
  Plan plan;
};

std::unique_ptr<Case> make_case(const NamedContext& context, const Topology& topology, Mode mode, std::uint64_t seed) {
  auto c = std::make_unique<Case>();
  testing::ProblemOptions options;
  options.kind = kind_of_tests();
  options.seed = seed;
  options.page_size = seed % 2 == 0 ? 5 : 0;
  options.pools = 2;
  options.sinks = options.bias = options.backward = true;
  REQUIRE(testing::make_problem(topology, options, &c->problem).ok());
  PlanOptions planning;  // constants that make cutting attractive even in a small plan
  planning.mode = mode;
  planning.backward = true;
  planning.sharing = Sharing::always;
  planning.cost = tests::eager_cost();
  c->plan = tests::proved_plan(context, c->problem.forest, options.kind, planning);
  return c;
}

/// Random trees, keys cut in parts, and chunks of absolute positions.
std::vector<std::unique_ptr<Case>> make_cases(const NamedContext& context) {
  std::vector<std::unique_ptr<Case>> cases;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    Random random(seed);
    testing::RandomForest limits;
    limits.max_nodes = 12;
    limits.max_length = 20;
    limits.length_slots = seed % 2 == 0;
    cases.push_back(make_case(context, random_topology(&random, limits), Mode::fast, seed));
  }
  const std::vector<std::int32_t> lengths = {900, 30, 300}, suffixes = {3, 40, 1, 17, 600, 2};
  cases.push_back(make_case(context, testing::chain(lengths, 3), Mode::fast, 5));
  for (const Mode mode : {Mode::fast, Mode::batch_invariant}) {
    cases.push_back(make_case(context, testing::prefix_group(1100, suffixes, false), mode, 6));
  }
  return cases;
}

/// One workspace for every case, forward and backward, in up to 64 parts.
struct SharedWorkspace {
  std::vector<unsigned char> memory;
  Workspace workspace;

  explicit SharedWorkspace(const std::vector<std::unique_ptr<Case>>& cases) {
    PlanLimits limits;
    limits.parts = kMostParts;
    limits.partial_rows = 0;
    for (const auto& c : cases) {
      const PlanLimits each = limits_of(c->plan, kMostParts);
      limits.rows = std::max(limits.rows, each.rows);
      limits.max_context = std::max(limits.max_context, each.max_context);
      limits.partial_rows = std::max(limits.partial_rows, each.partial_rows);
    }
    std::int64_t forward = 0, backward = 0;
    REQUIRE(forward_workspace(kind_of_tests(), limits, &forward).ok());
    REQUIRE(backward_workspace(kind_of_tests(), limits, &backward).ok());
    const std::int64_t bytes = std::max(forward, backward);
    memory.assign(static_cast<std::size_t>(bytes) + 256, 0xff);
    const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(memory.data());
    void* aligned = memory.data() + ((begin + 255) / 256 * 256 - begin);
    REQUIRE(init_workspace(kind_of_tests(), limits, aligned, bytes, &workspace).ok());
  }
};

bool counters_are_zero(const Workspace& ws) {
  const auto* counters = static_cast<const unsigned char*>(ws.data);
  return std::all_of(counters, counters + ws.counter_bytes, [](unsigned char b) { return b == 0; });
}

/// One direction of one case, on one workspace.
class Call {
 public:
  Call(const Context& context, Case* c, const Workspace& workspace, bool backward)
      : context_(context), case_(*c), backward_(backward), forward_args_(c->problem.attend()) {
    forward_args_.workspace = workspace;
    backward_args_ = c->problem.attend_grad();
    backward_args_.workspace = workspace;
  }

  Status part(std::int32_t i, std::int32_t parts) const noexcept {
    return backward_ ? tree_attention_backward_part(context_, case_.plan, backward_args_, i, parts)
                     : tree_attention_part(context_, case_.plan, forward_args_, i, parts);
  }
  Status whole(const Executor& executor) const {
    Context context = context_;
    context.executor = executor;
    return backward_ ? tree_attention_backward(context, case_.plan, backward_args_)
                     : tree_attention(context, case_.plan, forward_args_);
  }
  void poison() {
    testing::Problem& p = case_.problem;
    if (!backward_) {
      p.o.poison();
      p.lse.poison();
      return;
    }
    p.dq.poison();
    for (auto& pool : p.pools) {
      pool.dk.poison();
      pool.dv.poison();
    }
    std::fill(p.dsinks.begin(), p.dsinks.end(), std::numeric_limits<float>::quiet_NaN());
  }
  /// Everything that the call wrote, bit for bit: f32 in f64.
  std::vector<double> bits() const {
    const testing::Problem& p = case_.problem;
    std::vector<double> all;
    const auto append = [&all](const std::vector<double>& values) {
      all.insert(all.end(), values.begin(), values.end());
    };
    if (!backward_) {
      append(testing::to_doubles(p.o.view()));
      append(testing::to_doubles(p.lse.view()));
      return all;
    }
    append(testing::to_doubles(p.dq.view()));
    for (const auto& pool : p.pools) {
      append(testing::to_doubles(pool.dk.view()));
      append(testing::to_doubles(pool.dv.view()));
    }
    append(testing::to_doubles(Span<const float>(p.dsinks)));
    return all;
  }

 private:
  const Context& context_;
  Case& case_;
  bool backward_;
  Attend forward_args_;
  AttendGrad backward_args_;
};

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

/// Runs the parts on `threads` threads of our own, each taking every threads-th.
bool run_on_threads(const Call& call, std::int32_t parts, std::int32_t threads) {
  std::vector<char> ok(static_cast<std::size_t>(parts), 0);
  std::vector<std::thread> team;
  for (std::int32_t t = 0; t < threads; ++t) {
    team.emplace_back([&call, &ok, t, parts, threads] {
      for (std::int32_t i = t; i < parts; i += threads) ok[static_cast<std::size_t>(i)] = call.part(i, parts).ok();
    });
  }
  for (std::thread& thread : team) thread.join();
  return std::all_of(ok.begin(), ok.end(), [](char x) { return x != 0; });
}

/// Calls f(call, parts, bits in one part) for both directions of every case of an implementation. The forward comes
/// first: the backward needs it.
template <class F>
void for_each_call(const NamedContext& c, F&& f) {
  const auto cases = make_cases(c);
  const SharedWorkspace shared(cases);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    for (const bool backward : {false, true}) {
      CAPTURE(c.name, i, backward);
      Call call(c.context, cases[i].get(), shared.workspace, backward);
      call.poison();
      REQUIRE(call.part(0, 1).ok());
      CHECK(counters_are_zero(shared.workspace));
      CHECK(cases[i]->problem.guards_intact());
      const std::vector<double> alone = call.bits();
      for (const std::int32_t parts : kPartCounts) {
        CAPTURE(parts);
        f(&call, parts, alone);
        CHECK(counters_are_zero(shared.workspace));
      }
      CHECK(cases[i]->problem.guards_intact());
    }
  }
}
template <class F>
void for_each_call(F&& f) {
  for (const NamedContext& c : attention_contexts()) for_each_call(c, f);
}

}  // namespace

TEST_CASE("parts: the plans of this file make partial states, several items and several chunks", "[parts]") {
  for (const NamedContext& context : attention_contexts()) {
    INFO(context.name);
    std::int64_t with_partial_rows = 0, with_items = 0, with_chunks = 0;
    for (const auto& c : make_cases(context)) {
      with_partial_rows += c->plan.header.partial_rows > 0;
      with_items += c->plan.items.size() >= 8;
      with_chunks += std::any_of(c->plan.items.begin(), c->plan.items.end(), [](const Item& i) { return !i.fold; });
    }
    CHECK(with_partial_rows >= 4);
    CHECK(with_items >= 3);
    CHECK(with_chunks >= 1);
  }
}

TEST_CASE("parts: in any order on one thread, the same bits", "[parts]") {
  for_each_call([](Call* call, std::int32_t parts, const std::vector<double>& alone) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(parts));
    std::iota(order.begin(), order.end(), 0);
    Random random(static_cast<std::uint64_t>(parts));
    for (int pass = 0; pass < 4; ++pass) {
      CAPTURE(pass);
      if (pass == 1) std::reverse(order.begin(), order.end());
      if (pass >= 2) random.shuffle(&order);
      call->poison();
      for (const std::int32_t i : order) REQUIRE(call->part(i, parts).ok());
      CHECK(same(call->bits(), alone));
    }
  });
}

TEST_CASE("parts: on a thread pool, the same bits", "[parts][threads]") {
  ThreadPool pool(3);
  for_each_call([&pool](Call* call, std::int32_t parts, const std::vector<double>& alone) {
    Executor executor = pool.executor();
    executor.concurrency = parts;
    call->poison();
    REQUIRE(call->whole(executor).ok());
    CHECK(same(call->bits(), alone));
  });
}

TEST_CASE("parts: on the caller's own threads, the same bits", "[parts][threads]") {
  for_each_call([](Call* call, std::int32_t parts, const std::vector<double>& alone) {
    call->poison();
    CHECK(run_on_threads(*call, parts, std::min(parts, 4)));
    CHECK(same(call->bits(), alone));
  });
}

TEST_CASE("parts: a part that does not come leaves the others to finish", "[parts]") {
  for (const NamedContext& context : attention_contexts()) {
    INFO(context.name);
    for (const auto& c : make_cases(context)) {
      REQUIRE(c->problem.bind_workspace(c->plan, 3).ok());
      Call call(context.context, c.get(), c->problem.workspace, false);
      REQUIRE(call.part(0, 1).ok());
      const std::vector<double> alone = call.bits();
      call.poison();
      REQUIRE(call.part(2, 3).ok());  // returns, though 0 and 1 come later
      REQUIRE(call.part(0, 3).ok());
      REQUIRE(call.part(1, 3).ok());
      CHECK(same(call.bits(), alone));
    }
  }
}

namespace {

/// Several plans at once, the last one twice.
void run_at_once(const Context& context, const std::vector<std::unique_ptr<Case>>& cases) {
  struct Job {
    Case* c;
    testing::Tensor<3> o;
    testing::Tensor<2> lse;
    std::unique_ptr<SharedWorkspace> workspace;
    bool ok = true;
  };
  std::vector<Job> jobs;
  for (const std::size_t i : {0u, 4u, 6u, 6u}) {
    Case& c = *cases[i];
    const std::int64_t rows = c.plan.header.rows, Hq = kind_of_tests().Hq;
    Job job{&c, {}, {}, std::make_unique<SharedWorkspace>(cases), true};
    job.o = testing::Tensor<3>(DType::f32, {rows, Hq, kind_of_tests().Dv});
    job.lse = testing::Tensor<2>(DType::f32, {rows, Hq});
    jobs.push_back(std::move(job));
    Call call(context, &c, jobs.back().workspace->workspace, false);
    REQUIRE(call.part(0, 1).ok());  // into the case's own o and lse
  }
  std::vector<std::thread> team;
  for (Job& job : jobs) {
    Attend args = job.c->problem.attend();
    args.o = job.o.view();
    args.lse = job.lse.view();
    args.workspace = job.workspace->workspace;
    team.emplace_back([&context, &job, args] {
      for (int repeat = 0; repeat < 10; ++repeat) {
        for (std::int32_t i = 3; i-- > 0;)
          job.ok = job.ok && tree_attention_part(context, job.c->plan, args, i, 3).ok();
      }
    });
  }
  for (std::thread& thread : team) thread.join();
  for (const Job& job : jobs) {
    CHECK(job.ok);
    CHECK(testing::same_bits(job.o.view(), job.c->problem.o.view()));
    CHECK(testing::same_bits(job.lse.view(), job.c->problem.lse.view()));
    CHECK(counters_are_zero(job.workspace->workspace));
  }
}

}  // namespace

TEST_CASE("parts: several plans at once, and one plan from several threads, each on a workspace of its own",
          "[parts][threads]") {
  for (const NamedContext& c : attention_contexts()) {
    INFO(c.name);
    run_at_once(c.context, make_cases(c));
  }
}
