// SPDX-License-Identifier: Apache-2.0
#include "support/cost_fit.hpp"

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/counters.hpp"
#include "support/attention_input.hpp"
#include "support/quiet.hpp"

namespace prefixshare::bench {
namespace {

/// CPU time of this thread, which does not count while another has its core.
double thread_nanoseconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return 1e9 * static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec);
}

/// Median of a call on one thread.
double nanoseconds(const Context& context, const AttentionInput& input, const PlannedCall& call, double seconds) {
  std::vector<double> times;
  for (double spent = 0; spent < seconds || times.size() < 3;) {
    const double begin = thread_nanoseconds();
    throw_if_error(call.run(context, input));
    times.push_back(thread_nanoseconds() - begin);
    spent += 1e-9 * times.back();
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

/// What comes out below nothing was too small to see.
double per(double ns, double count) { return std::max(0.0, ns / count); }

/// y = start + slope * x, through two points; flat through one.
struct Line {
  double start = 0, slope = 0;

  Line(std::int64_t x1, double y1, std::int64_t x2, double y2) {
    if (x2 > x1) slope = per(y2 - y1, static_cast<double>(x2 - x1));
    start = std::max(0.0, y1 - slope * static_cast<double>(x1));
  }
};

/// Fits one implementation, which the context forces, for one layer kind: each constant from two plans, or two pairs of
/// plans, that differ in one thing.
class CostFitter {
 public:
  CostFitter(const Context& context, const LayerKind& kind, double seconds)
      : context_(context), kind_(kind), seconds_(seconds) {}

  /// Keeps min_item and how the implementation works of `cost`.
  CostModel fit(CostModel cost) const {
    const std::int32_t group = kind_.group();
    const std::int32_t full = detail::tile_row_limit(kind_), few = cost.few_rows / group;
    const std::int32_t some = std::min(full, (std::max(cost.row_step, cost.few_rows + 1) + group - 1) / group);
    const auto padded = [&](std::int32_t rows) {
      return detail::ceil_div(std::int64_t{rows} * group, cost.row_step) * cost.row_step;
    };
    const Line tile(padded(some), key_element(some), padded(full), key_element(full));
    cost.kv_element = tile.start, cost.mac = tile.slope;
    cost.few_kv_element = cost.few_mac = 0;
    if (few > 0) {
      const Line body(group, key_element(1), std::int64_t{few} * group, key_element(few));
      cost.few_kv_element = body.start, cost.few_mac = body.slope;
    }
    cost.item = item(cost);
    cost.partial = partial(cost);
    return cost;
  }

 private:
  struct Timing {
    double ns = 0, items = 0, partials = 0;  ///< partials: elements of partial states
  };
  /// A tree as in the catalogue.
  Timing measure(const std::string& tree, Sharing sharing) const {
    const AttentionInput input(tree_topology(tree), kind_, {});
    const PlannedCall call(context_, input, sharing);
    throw_if_error(call.run(context_, input));  // the first touches fresh memory
    const double state_element = 2.0 * static_cast<double>(size_of(kind_.acc_dtype()));  // written and read
    return {nanoseconds(context_, input, call, seconds_), static_cast<double>(call.plan.items.size()),
            static_cast<double>(count(call.plan).partial_bytes) / state_element};
  }

  /// An element of a key or value against one tile of `rows` rows: what more keys add. They are few enough to stay in a
  /// cache.
  double key_element(std::int32_t rows) const {
    constexpr int kShort = 64, kLong = 256;
    const auto time = [&](int keys) {
      return measure("1," + std::to_string(rows) + "|" + std::to_string(keys) + ",0", Sharing::always).ns;
    };
    const double more = time(kLong);
    return per(more - time(kShort), (kLong - kShort) * detail::kv_elements(kind_));
  }

  /// The same rows, each in an item of its own or in few full tiles, over as many keys as a small page has.
  double item(const CostModel& cost) const {
    constexpr int kRows = 64, kKeys = 16;
    const std::string rows = std::to_string(kRows), keys = std::to_string(kKeys);
    const Timing many = measure(rows + "|" + keys, Sharing::never);
    const Timing few = measure("1," + rows + "|" + keys + ",0", Sharing::always);
    PlanOptions options;
    options.cost = cost;
    options.cost.item = 0;
    const detail::TileCost tile(kind_, options);
    const double predicted = kRows * tile.tiles(1, kKeys) - tile.tiles(kRows, kKeys);
    return per(many.ns - few.ns - predicted, many.items - few.items);
  }

  /// The same rows, with two partial states each and with none.
  double partial(const CostModel& cost) const {
    constexpr int kRows = 256;
    const std::string tree = "1," + std::to_string(kRows) + "|1,1";
    const Timing split = measure(tree, Sharing::always), whole = measure(tree, Sharing::never);
    PlanOptions options;
    options.cost = cost;
    const detail::TileCost tile(kind_, options);
    const double predicted = tile.tiles(kRows, 1) + kRows * (tile.tiles(1, 1) - tile.tiles(1, 2));
    return per(split.ns - whole.ns - predicted, split.partials - whole.partials);
  }

  const Context& context_;
  const LayerKind& kind_;
  double seconds_;
};

}  // namespace

std::vector<CostFit> fit_costs(const Context& context, const std::vector<DType>& dtypes, double seconds) {
  std::vector<CostFit> fits;
  LayerKind kind;
  kind.Hq = 32;
  kind.Hkv = 8;
  kind.D = kind.Dv = 128;
  for (std::int32_t i = 0; i < context.tree_attention.count; ++i) {
    const auto& entry = context.tree_attention.entries[i];
    for (const DType dtype : dtypes) {
      kind.q_dtype = kind.kv_dtype = dtype;
      if (entry.space != MemorySpace::host) continue;
      if (entry.accepts && !entry.accepts({kind, Mode::fast, MemorySpace::host}).ok()) continue;
      Context forced = context;
      forced.executor = Executor{};
      throw_if_error(forced.tree_attention.force(entry.name));
      const auto observed = quietly([&] { return CostFitter(forced, kind, seconds).fit(entry.cost); });
      fits.push_back({entry.name, dtype, observed.result, observed.busy});
    }
  }
  return fits;
}

}  // namespace prefixshare::bench
