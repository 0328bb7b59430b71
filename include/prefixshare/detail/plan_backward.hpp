// SPDX-License-Identifier: Apache-2.0
// The backward's lists of a plan. Comes with plan.hpp.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "prefixshare/detail/plan_builder.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// A range of a segment's tokens that a plan names, and whose gradients the backward writes.
struct NamedRange {
  std::int32_t segment, begin, end;
};

/// Adds the backward's lists to a plan: costs of dQ per reduce group, and the key blocks that own dK and dV.
class BackwardPlanner {
 public:
  BackwardPlanner(const CostModel& cost, std::vector<NamedRange> named, Plan* plan) noexcept
      : cost_(cost),
        elements_(kv_elements(plan->header.kind)),
        pair_(cost.mac * elements_ * plan->header.kind.group()),
        named_(std::move(named)),
        plan_(*plan) {}

  Status build() {
    cost_groups();
    if (Status s = check_segments(); !s.ok()) return s;
    make_blocks();
    return Status{};
  }

 private:
  /// Starting the work on packed rows, or on keys.
  double start(std::int64_t rows) const noexcept {
    return cost_.item * static_cast<double>(work_pieces(plan_.header.kind, cost_, rows));
  }

  void cost_groups() {
    const std::int32_t group = plan_.header.kind.group();
    double cost = 0;
    for (ReduceGroup& g : plan_.groups) {
      g.cost = static_cast<std::int64_t>(cost);
      for (std::int32_t i = 0; i < g.tile_count; ++i) {
        const std::int32_t tile = plan_.group_tiles[static_cast<std::size_t>(g.first_tile + i)].tile;
        const double keys = static_cast<double>(tile_keys(plan_, plan_.tiles[static_cast<std::size_t>(tile)]));
        cost += start(g.row_count * std::int64_t{group}) +
                keys * (cost_.kv_element * elements_ + 1.5 * g.row_count * pair_);
      }
    }
    plan_.header.total_group_cost = static_cast<std::int64_t>(cost);
  }

  /// Two segments on the same slots would give one dK two owners.
  Status check_segments() const {
    std::vector<char> used(plan_.segments.size(), 0);
    for (const NamedRange& n : named_) used[static_cast<std::size_t>(n.segment)] |= n.end > n.begin;
    return check_disjoint_segments(kPlanOp, plan_, used);
  }

  /// Blocks of at most kKeyBlock named keys, and for each the runs that cross it, in plan order.
  void make_blocks() {
    std::sort(named_.begin(), named_.end(), [](const NamedRange& a, const NamedRange& b) {
      return std::tie(a.segment, a.begin, a.end) < std::tie(b.segment, b.begin, b.end);
    });
    std::vector<std::int32_t> by_token(plan_.runs.size());
    for (std::size_t r = 0; r < by_token.size(); ++r) by_token[r] = static_cast<std::int32_t>(r);
    const auto key = [&](std::int32_t r) {
      const KeyRun& k = plan_.runs[static_cast<std::size_t>(r)];
      return std::make_tuple(k.segment, k.token, r);
    };
    std::sort(by_token.begin(), by_token.end(), [&](std::int32_t a, std::int32_t b) { return key(a) < key(b); });
    std::size_t next_run = 0;
    std::vector<std::int32_t> active;
    double cost = 0;
    for (std::size_t i = 0; i < named_.size();) {
      NamedRange range = named_[i++];
      while (i < named_.size() && named_[i].segment == range.segment && named_[i].begin <= range.end) {
        range.end = std::max(range.end, named_[i++].end);
      }
      for (std::int32_t at = range.begin; at < range.end; at += kKeyBlock) {
        KeyBlock b;
        b.segment = range.segment;
        b.token = at;
        b.length = std::min(kKeyBlock, range.end - at);
        b.cost = static_cast<std::int64_t>(cost);
        cost += fill_block(&b, by_token, &next_run, &active);
        plan_.blocks.push_back(b);
      }
    }
    plan_.header.total_block_cost = static_cast<std::int64_t>(cost);
  }
  double fill_block(KeyBlock* b, const std::vector<std::int32_t>& by_token, std::size_t* next_run,
                    std::vector<std::int32_t>* active) {
    const auto run_at = [&](std::int32_t r) -> const KeyRun& { return plan_.runs[static_cast<std::size_t>(r)]; };
    const auto starts_before_end = [&](const KeyRun& k) {
      return k.segment < b->segment || (k.segment == b->segment && k.token < b->token + b->length);
    };
    while (*next_run < by_token.size() && starts_before_end(run_at(by_token[*next_run]))) {
      active->push_back(by_token[(*next_run)++]);
    }
    active->erase(std::remove_if(active->begin(), active->end(),
                                 [&](std::int32_t r) {
                                   const KeyRun& k = run_at(r);
                                   return k.segment != b->segment || k.token + k.length <= b->token;
                                 }),
                  active->end());
    b->first_run = static_cast<std::int32_t>(plan_.block_runs.size());
    b->run_count = static_cast<std::int32_t>(active->size());
    plan_.block_runs.insert(plan_.block_runs.end(), active->begin(), active->end());
    std::sort(plan_.block_runs.begin() + b->first_run, plan_.block_runs.end());
    double cost = start(b->length) + b->length * cost_.kv_element * elements_;
    for (std::int32_t r : *active) {
      cost += 2.5 * b->length * pair_ * plan_.tiles[static_cast<std::size_t>(run_at(r).tile)].count;
    }
    return cost;
  }

  const CostModel& cost_;
  double elements_;  // of a key and its value
  double pair_;      // nanoseconds of a (row, key) pair, all heads
  std::vector<NamedRange> named_;
  Plan& plan_;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
