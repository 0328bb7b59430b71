// SPDX-License-Identifier: Apache-2.0
#include "support/cost_fit.hpp"

#include <time.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>

#include "prefixshare/counters.hpp"
#include "support/attention_input.hpp"
#include "support/machine.hpp"
#include "support/quiet.hpp"

namespace prefixshare::bench {
namespace {

/// What a plan costs by: the model's item, kv_element, mac and partial, and the elements of o, which every plan writes
/// once and the model leaves out.
constexpr std::size_t kTerms = 5;
using Row = std::array<double, kTerms + 1>;  // how many of each, and the nanoseconds
using Equations = std::array<Row, kTerms>;

/// A plan that is mostly made of one thing.
struct Sample {
  std::string tree;  // as in the catalogue
  Sharing sharing;
};

/// Keys whose K and V do not fit into the last-level cache: a layer's keys are cold in a real step.
std::string long_stream(const LayerKind& kind) {
  const std::int64_t token = std::int64_t{kind.Hkv} * (kind.D + kind.Dv) * size_of(kind.kv_dtype);
  const std::int64_t bytes = std::clamp<std::int64_t>(2 * cache_bytes(3), 64 << 20, 256 << 20);
  return "1|" + std::to_string(bytes / token);
}

std::array<Sample, kTerms> samples(const LayerKind& kind) {
  return {Sample{"512|1", Sharing::never},            // items: one for each row
          Sample{long_stream(kind), Sharing::never},  // keys, each for one row
          Sample{"1,32|1024,0", Sharing::always},     // multiply-adds: a full tile of rows
          Sample{"1,256|16,1", Sharing::always},      // partial states: two of each row, over few keys
          Sample{"1,512|1,0", Sharing::always}};      // rows of o: few items, few keys
}

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

Row equation(const Context& context, const LayerKind& kind, const Sample& sample, double seconds) {
  const AttentionInput input(tree_topology(sample.tree), kind, {});
  const PlannedCall call(context, input, sample.sharing);
  const Counters n = count(call.plan);
  throw_if_error(call.run(context, input));  // the first touches fresh memory
  return {static_cast<double>(call.plan.items.size()),
          static_cast<double>(n.kv_bytes) / static_cast<double>(size_of(kind.kv_dtype)),
          static_cast<double>(n.flops_forward) / 2,
          static_cast<double>(n.partial_bytes) / static_cast<double>(2 * size_of(kind.acc_dtype())),
          static_cast<double>(call.plan.header.rows) * kind.Hq * kind.Dv,
          nanoseconds(context, input, call, seconds)};
}

/// Gauss-Jordan with row exchange. What comes out below nothing was too small to see.
std::array<double, kTerms> solve(Equations e) {
  for (std::size_t c = 0; c < kTerms; ++c) {
    std::size_t pivot = c;
    for (std::size_t r = c; r < kTerms; ++r) {
      if (std::abs(e[r][c]) > std::abs(e[pivot][c])) pivot = r;
    }
    std::swap(e[c], e[pivot]);
    for (std::size_t r = 0; r < kTerms; ++r) {
      if (r == c) continue;
      const double factor = e[r][c] / e[c][c];
      for (std::size_t k = c; k <= kTerms; ++k) e[r][k] -= factor * e[c][k];
    }
  }
  std::array<double, kTerms> x{};
  for (std::size_t c = 0; c < kTerms; ++c) x[c] = std::max(0.0, e[c][kTerms] / e[c][c]);
  return x;
}

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
      const auto observed = quietly([&] {
        Equations e;
        const std::array<Sample, kTerms> list = samples(kind);
        for (std::size_t s = 0; s < kTerms; ++s) e[s] = equation(forced, kind, list[s], seconds);
        return solve(e);
      });
      const auto& [item, kv_element, mac, partial, output] = observed.result;
      fits.push_back({entry.name, dtype, {item, kv_element, mac, partial}, output, observed.busy});
    }
  }
  return fits;
}

}  // namespace prefixshare::bench
