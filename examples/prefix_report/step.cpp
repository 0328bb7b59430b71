// SPDX-License-Identifier: Apache-2.0
#include "step.hpp"

#include <chrono>
#include <numeric>

namespace prefix_report {

using prefixshare::Forest;
using prefixshare::Sharing;

namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::int64_t slot_of(const Forest& forest, std::int32_t node, std::int32_t token) {
  const prefixshare::Node& n = forest.nodes[at(node)];
  const prefixshare::Segment& segment = forest.segments[at(n.segment)];
  const std::int64_t page_size = forest.pools[at(segment.pool)].page_size;
  const std::int64_t place = std::int64_t{segment.offset} + n.begin + token;
  return forest.pages[at(segment.first_page + place / page_size)] * page_size + place % page_size;
}

Way plan_way(const prefixshare::Context& context, const Options& options, Sharing sharing, const Forest& forest) {
  Way way;
  way.name = sharing == Sharing::never ? "unshared" : "shared";
  way.forest = forest;
  prefixshare::PlanOptions plan_options;
  plan_options.sharing = sharing;
  plan_options.backward = options.train;
  plan_options.target_parallelism = options.threads;
  const auto start = std::chrono::steady_clock::now();
  throw_if_error(make_plan(context, way.forest, options.layer(), plan_options, &way.plan));
  way.plan_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  way.counters = count(way.plan);
  return way;
}

/// The same nodes; every token of every node is a query row, so that rows are the distinct tokens in depth-first order.
Forest every_token_once(const Forest& forest) {
  std::vector<prefixshare::Sequence> rows;
  for (std::size_t n = 0; n < forest.nodes.size(); ++n) {
    rows.push_back({static_cast<std::int32_t>(n), forest.nodes[n].length});
  }
  Forest result;
  throw_if_error(make_forest({forest.pools, forest.pages, forest.segments, forest.nodes, rows}, &result));
  return result;
}

/// A root of its own for every sequence, as long as its path; every token is a query row.
Forest every_sequence_alone(const Forest& forest) {
  std::vector<std::int32_t> lengths;
  for (const prefixshare::Sequence& sequence : forest.sequences) lengths.push_back(forest.path_end(sequence.node));
  const std::vector<std::int32_t> parents(lengths.size(), -1);
  Forest result;
  throw_if_error(forest_from_parents({parents, lengths, {}}, &result));
  return result;
}

/// First row of each node in the forest of every_token_once.
std::vector<std::int64_t> first_rows(const Forest& forest) {
  std::vector<std::int64_t> first(forest.nodes.size());
  std::int64_t rows = 0;
  for (std::size_t n = 0; n < first.size(); ++n) {
    first[n] = rows;
    rows += forest.nodes[n].length;
  }
  return first;
}

void append_path_rows(const Forest& forest, const std::vector<std::int64_t>& first, std::int32_t node,
                      std::vector<std::int64_t>* rows) {
  std::vector<std::int32_t> path;
  for (std::int32_t n = node; n >= 0; n = forest.nodes[at(n)].parent) path.push_back(n);
  for (auto n = path.rbegin(); n != path.rend(); ++n) {
    for (std::int32_t i = 0; i < forest.nodes[at(*n)].length; ++i) rows->push_back(first[at(*n)] + i);
  }
}

void plan_training(const prefixshare::Context& context, const Options& options, const Forest& forest, Step* step) {
  step->unshared = plan_way(context, options, Sharing::never, every_sequence_alone(forest));
  step->shared = plan_way(context, options, Sharing::automatic, every_token_once(forest));
  const std::vector<std::int64_t> first = first_rows(forest);
  for (const prefixshare::Sequence& sequence : forest.sequences) {
    append_path_rows(forest, first, sequence.node, &step->source);
  }
  for (std::size_t n = 0; n < forest.nodes.size(); ++n) {
    for (std::int32_t i = 0; i < forest.nodes[n].length; ++i) {
      step->slots.push_back(slot_of(forest, static_cast<std::int32_t>(n), i));
    }
  }
}

}  // namespace

double Step::predicted_seconds(std::int32_t threads) const {
  std::int64_t nanoseconds = 0;
  for (const Way* way : {&unshared, &shared}) {
    nanoseconds += way->plan.header.total_cost + (train ? way->plan.header.total_block_cost : 0);
  }
  return static_cast<double>(nanoseconds) * 1e-9 / threads;
}

Step plan_step(const prefixshare::Context& context, const Options& options, const Forest& forest) {
  Step step;
  step.train = options.train;
  if (options.train) {
    plan_training(context, options, forest, &step);
  } else {
    step.unshared = plan_way(context, options, Sharing::never, forest);
    step.shared = plan_way(context, options, Sharing::automatic, forest);
    step.source.resize(at(forest.rows()));
    std::iota(step.source.begin(), step.source.end(), 0);
  }
  return step;
}

std::vector<std::int64_t> path_slots(const Forest& forest, std::int32_t node, std::int64_t count) {
  std::vector<std::int32_t> path;
  for (std::int32_t n = node; n >= 0; n = forest.nodes[at(n)].parent) path.push_back(n);
  std::vector<std::int64_t> slots;
  for (auto n = path.rbegin(); n != path.rend(); ++n) {
    for (std::int32_t i = 0; i < forest.nodes[at(*n)].length && static_cast<std::int64_t>(slots.size()) < count; ++i) {
      slots.push_back(slot_of(forest, *n, i));
    }
  }
  return slots;
}

}  // namespace prefix_report
