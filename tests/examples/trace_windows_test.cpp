// SPDX-License-Identifier: Apache-2.0
// An hour of a production service, in windows of 64 requests as they arrive: in each, forest, plan and counters agree
// with a set union of the tokens.
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "prefix_report/traffic.hpp"
#include "prefixshare/counters.hpp"
#include "prefixshare/plan.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"

namespace {

using namespace prefixshare;
using prefix_report::Traffic;

constexpr std::int32_t kWindow = 64;

/// Tokens of a window, block by block: a block's id says all that is before it.
std::pair<std::int64_t, std::int64_t> logical_and_unique(const Traffic& window) {
  std::int64_t logical = 0, unique = 0;
  std::map<std::int32_t, std::int64_t> filled;
  for (std::size_t s = 0; s < window.lengths.size(); ++s) {
    logical += window.lengths[s];
    std::int64_t left = window.lengths[s];
    for (std::int64_t i = window.offsets[s]; i < window.offsets[s + 1]; ++i, left -= prefix_report::kTraceBlock) {
      std::int64_t& tokens = filled[window.tokens[static_cast<std::size_t>(i)]];
      tokens = std::max(tokens, std::min<std::int64_t>(left, prefix_report::kTraceBlock));
    }
  }
  for (const auto& block : filled) unique += block.second;
  return {logical, unique};
}

Counters count_window(const Forest& forest, std::int32_t Hq, std::int32_t Hkv, Sharing sharing) {
  LayerKind kind;
  kind.Hq = Hq;
  kind.Hkv = Hkv;
  kind.D = kind.Dv = 128;
  kind.q_dtype = kind.kv_dtype = DType::bf16;
  PlanOptions options;
  options.sharing = sharing;
  Plan plan;
  REQUIRE(make_plan(forest, kind, options, &plan).ok());
  return count(plan);
}

/// KV rows of all windows.
struct Rows {
  std::int64_t automatic = 0, always = 0;
};

void check_heads(const Forest& forest, std::int32_t Hq, std::int32_t Hkv, std::int64_t logical, std::int64_t unique,
                 Rows* rows) {
  const Counters never = count_window(forest, Hq, Hkv, Sharing::never);
  const Counters automatic = count_window(forest, Hq, Hkv, Sharing::automatic);
  const Counters always = count_window(forest, Hq, Hkv, Sharing::always);
  CHECK(never.kv_rows == logical);
  for (const Counters& shared : {automatic, always}) {
    CHECK(shared.pairs == logical);
    CHECK(shared.kv_rows >= unique);
    CHECK(shared.kv_rows <= logical);
  }
  rows->automatic += automatic.kv_rows;
  rows->always += always.kv_rows;
}

}  // namespace

TEST_CASE("trace_windows: windows of a trace are counted and shared as by set union", "[examples][data]") {
  const auto trace = tests::test_data("traces/mooncake_conversation.jsonl");
  if (!trace) return;
  prefix_report::Source source;
  source.input = *trace;
  const Traffic traffic = read_traffic(source);
  std::int64_t logical_sum = 0, unique_sum = 0;
  Rows one_kv_head, eight_kv_heads;
  for (std::int32_t begin = 0; begin < traffic.sequences(); begin += kWindow) {
    INFO("window of requests from " << begin);
    std::vector<std::int32_t> requests(static_cast<std::size_t>(std::min(kWindow, traffic.sequences() - begin)));
    std::iota(requests.begin(), requests.end(), begin);
    const Traffic window = subset(traffic, requests);
    const auto [logical, unique] = logical_and_unique(window);
    const Forest forest = build_forest(window);
    ForestStats stats;
    REQUIRE(forest_stats(forest, &stats).ok());
    CHECK(stats.sequences == static_cast<std::int64_t>(requests.size()));
    CHECK(stats.logical_tokens == logical);
    CHECK(stats.unique_tokens == unique);
    check_heads(forest, 16, 1, logical, unique, &one_kv_head);
    check_heads(forest, 32, 8, logical, unique, &eight_kv_heads);
    logical_sum += logical;
    unique_sum += unique;
  }
  CHECK(logical_sum == 144793823);
  const auto saving = [logical_sum](std::int64_t rows) {
    return std::to_string(100 - 100 * static_cast<double>(rows) / static_cast<double>(logical_sum)) + " %";
  };
  std::cout << "windows of " << kWindow << " requests: " << logical_sum << " logical, " << unique_sum
            << " unique tokens; saving " << saving(unique_sum) << " at best; 16/1 heads "
            << saving(one_kv_head.automatic) << " (always " << saving(one_kv_head.always) << "); 32/8 heads "
            << saving(eight_kv_heads.automatic) << " (always " << saving(eight_kv_heads.always) << ")\n";
}
