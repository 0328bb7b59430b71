// SPDX-License-Identifier: Apache-2.0
#include "decode.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "example.hpp"
#include "prefixshare/counters.hpp"
#include "prefixshare/reference/register.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/testing/problem.hpp"

namespace tree_search {

using prefixshare::DType;
using prefixshare::Forest;
using prefixshare::LayerKind;
using prefixshare::make_view;
using prefixshare::Plan;
using prefixshare::testing::Random;

namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Draws from N(0, 1) to pick from: faster than drawing each number.
const std::vector<float>& normals() {
  static const std::vector<float> table = [] {
    Random random(1);
    std::vector<float> draws(4096);
    for (float& x : draws) x = static_cast<float>(random.normal());
    return draws;
  }();
  return table;
}

void fill(Random* random, float* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = normals()[random->next() % normals().size()];
}

/// What a decode step leaves, poisoned before.
struct Results {
  std::vector<float> o, lse;
};

class Call {
 public:
  Call(const prefixshare::Context& context, const LayerKind& kind, const SearchTree& tree, const Cache& cache)
      : context_(context),
        kind_(kind),
        plan_(plan_of(context, tree, kind)),
        memory_(kind, limits_of(plan_, context.executor.concurrency)) {
    const Forest& forest = tree.forest();
    rows_ = forest.rows();
    pool_ = cache.pool(forest);
    q_.resize(at(rows_ * kind.Hq * kind.D));
    for (std::int64_t row = 0; row < rows_; ++row) {  // leaf i's row is row i
      Random random(~tree.steps()[at(forest.sequences[at(row)].node)].key);
      fill(&random, q_.data() + row * kind.Hq * kind.D, std::int64_t{kind.Hq} * kind.D);
    }
  }

  const Plan& plan() const { return plan_; }
  const std::vector<float>& q() const { return q_; }

  void run(Results* results) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    results->o.assign(at(rows_ * kind_.Hq * kind_.Dv), nan);
    results->lse.assign(at(rows_ * kind_.Hq), nan);
    prefixshare::Attend args;
    args.q = make_view(q_.data(), {rows_, kind_.Hq, kind_.D});
    args.kv = {&pool_, 1};
    args.o = make_view(results->o.data(), {rows_, kind_.Hq, kind_.Dv});
    args.lse = make_view(results->lse.data(), {rows_, kind_.Hq});
    args.workspace = memory_.workspace();
    throw_if_error(tree_attention(context_, plan_, args));
  }

 private:
  static Plan plan_of(const prefixshare::Context& context, const SearchTree& tree, const LayerKind& kind) {
    prefixshare::PlanOptions options;
    options.target_parallelism = context.executor.concurrency;
    Plan plan;
    throw_if_error(make_plan(context, tree.forest(), kind, options, &plan));
    return plan;
  }

  const prefixshare::Context& context_;
  LayerKind kind_;
  Plan plan_;
  example::WorkspaceMemory memory_;
  std::int64_t rows_ = 0;
  prefixshare::KvPool pool_;
  std::vector<float> q_;
};

/// The largest norm of vectors of D elements; NaN, of slots that nobody wrote, does not count.
double largest_norm(const float* x, std::int64_t count, std::int32_t D) {
  double most = 0;
  for (std::int64_t i = 0; i + D <= count; i += D) {
    double sum = 0;
    for (std::int64_t d = i; d < i + D; ++d) sum += static_cast<double>(x[d]) * static_cast<double>(x[d]);
    if (sum > most) most = sum;
  }
  return std::sqrt(most);
}

/// Blocks of (row, head), each `width` values.
prefixshare::testing::Comparison compare_blocks(const std::vector<float>& x, const std::vector<float>& truth,
                                                std::int64_t width, double bound) {
  prefixshare::testing::Expected expected;
  expected.width = width;
  expected.value.assign(truth.begin(), truth.end());
  for (std::size_t b = 0; b < truth.size() / at(width); ++b) expected.block.push_back(static_cast<std::int32_t>(b));
  expected.magnitude.assign(expected.block.size(), 0);
  const std::vector<double> values(x.begin(), x.end());
  return prefixshare::testing::compare(values, expected, bound, DType::f32);
}

double median_seconds(Call* call, std::int32_t repeats, Results* results) {
  std::vector<double> seconds;
  for (std::int32_t i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    call->run(results);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  if (seconds.empty()) return 0;
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return seconds[at(repeats / 2)];
}

}  // namespace

void Cache::store_leaves(const SearchTree& tree) {
  const Forest& f = tree.forest();
  const std::int64_t page_size = f.pools[0].page_size, width = std::int64_t{kind_.Hkv} * kind_.D;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  k_.resize(at(f.pools[0].num_pages * page_size * width), nan);
  v_.resize(k_.size(), nan);
  for (const prefixshare::Sequence& leaf : f.sequences) {
    const prefixshare::Node& node = f.nodes[at(leaf.node)];
    Random random(tree.steps()[at(leaf.node)].key);
    for (std::int32_t t = 0; t < node.length; ++t) {
      const std::int64_t page = f.pages[at(f.segments[at(node.segment)].first_page + t / page_size)];
      const std::int64_t slot = page * page_size + t % page_size;
      fill(&random, k_.data() + slot * width, width);
      fill(&random, v_.data() + slot * width, width);
    }
  }
}

prefixshare::KvPool Cache::pool(const Forest& forest) const {
  const std::int64_t pages = forest.pools[0].num_pages, page_size = forest.pools[0].page_size;
  prefixshare::KvPool pool;
  pool.k = make_view(const_cast<float*>(k_.data()), {pages, page_size, kind_.Hkv, kind_.D});
  pool.v = make_view(const_cast<float*>(v_.data()), {pages, page_size, kind_.Hkv, kind_.Dv});
  return pool;
}

Decoder::Decoder(const LayerKind& layer, const prefixshare::Executor& executor, std::int32_t timed_runs)
    : kind(layer), repeats(timed_runs) {
  throw_if_error(create_context(&context));
  context.executor = executor;
  reference = context;
  throw_if_error(prefixshare::reference::add_to(&reference));
  throw_if_error(force_implementation(&reference, "reference:eigen"));
}

Decode Decoder::run(const SearchTree& tree, const Cache& cache) const {
  Call call(context, kind, tree, cache), truth(reference, kind, tree, cache);
  Results got, want;
  call.run(&got);
  truth.run(&want);
  const prefixshare::TensorView<4> k = cache.pool(tree.forest()).k;
  const double longest_q = largest_norm(call.q().data(), static_cast<std::int64_t>(call.q().size()), kind.D);
  const double longest_k = largest_norm(static_cast<const float*>(k.data), prefixshare::testing::count_of(k), kind.D);
  const double largest_logit = longest_q * longest_k / std::sqrt(static_cast<double>(kind.D));  // by Cauchy-Schwarz
  Decode decode;
  decode.bound = prefixshare::testing::forward_tolerance(DType::f32, largest_logit);
  const auto o = compare_blocks(got.o, want.o, kind.Dv, decode.bound);
  const auto lse = compare_blocks(got.lse, want.lse, 1, decode.bound);
  decode.error = o.ok && lse.ok ? std::max(o.error, lse.error) : INFINITY;
  decode.bound = std::max(o.bound, lse.bound);
  decode.implementation = call.plan().header.implementation;
  decode.kv_rows = count(call.plan()).kv_rows;
  decode.seconds = median_seconds(&call, repeats, &got);
  return decode;
}

}  // namespace tree_search
