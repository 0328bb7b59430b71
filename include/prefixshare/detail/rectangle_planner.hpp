// SPDX-License-Identifier: Apache-2.0
// From explicit rectangles to tiles and runs. Comes with plan.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "prefixshare/detail/plan_backward.hpp"
#include "prefixshare/detail/plan_builder.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Explicit rectangles -> tiles. Consecutive rectangles on the same rows become one tile.
class RectanglePlanner : PlanBuilder {
 public:
  RectanglePlanner(const RectangleInput& input, const LayerKind& kind, const PlanOptions& options, Plan* plan) noexcept
      : PlanBuilder(kind, options, plan), input_(input) {}

  Status build() {
    if (Status s = check(); !s.ok()) return s;
    start(input_.q_rows, hash());
    plan_.pools.assign(input_.pools.begin(), input_.pools.end());
    plan_.pages.assign(input_.pages.begin(), input_.pages.end());
    plan_.segments.assign(input_.segments.begin(), input_.segments.end());
    plan_.words.assign(input_.words.begin(), input_.words.end());
    for (const RowInstance& r : input_.rows) plan_.deltas.push_back(r.delta);
    sort_deltas();
    for (RowInstance r : input_.rows) {
      r.delta = delta_index(r.delta);
      plan_.instances.push_back(r);
    }
    make_tiles();
    std::vector<std::int32_t> row_order(static_cast<std::size_t>(input_.q_rows));
    for (std::size_t i = 0; i < row_order.size(); ++i) row_order[i] = static_cast<std::int32_t>(i);
    if (Status s = finish(row_order); !s.ok()) return s;
    if (!options_.backward) return Status{};
    std::vector<NamedRange> named;
    for (const Rectangle& r : input_.rectangles) named.push_back({r.segment, r.token, r.token + r.length});
    return BackwardPlanner(options_.cost, std::move(named), &plan_).build();
  }

 private:
  void make_tiles() {
    const std::int32_t limit = tile_row_limit(kind_);
    std::vector<char> seen(static_cast<std::size_t>(input_.q_rows), 0);
    for (std::int64_t i = 0; i < input_.rectangles.size();) {
      std::int64_t end = i + 1;
      while (end < input_.rectangles.size() && same_rows(input_.rectangles[i], input_.rectangles[end])) ++end;
      const Rectangle& first = input_.rectangles[i];
      for (std::int32_t at = 0; at < first.row_count; at += limit) {
        open_tile(first.first_row + at, std::min(limit, first.row_count - at), false);
        for (std::int64_t r = i; r < end; ++r) add_rectangle(input_.rectangles[r], at);
      }
      for (std::int32_t k = 0; k < first.row_count; ++k) seen[row_index(first.first_row + k)] = 1;
      i = end;
    }
    for (std::int32_t row = 0; row < input_.q_rows; ++row) {  // empty rows
      if (seen[static_cast<std::size_t>(row)]) continue;
      RowInstance r;
      r.row = row;
      r.delta = delta_index(0);
      open_tile(static_cast<std::int32_t>(plan_.instances.size()), 1, true);
      plan_.instances.push_back(r);
    }
  }
  std::size_t row_index(std::int32_t i) const noexcept { return static_cast<std::size_t>(input_.rows[i].row); }
  bool same_rows(const Rectangle& a, const Rectangle& b) const noexcept {
    if (a.row_count != b.row_count) return false;
    for (std::int32_t i = 0; i < a.row_count; ++i) {
      if (input_.rows[a.first_row + i].row != input_.rows[b.first_row + i].row) return false;
    }
    return true;
  }
  void add_rectangle(const Rectangle& r, std::int32_t row) {
    if (r.length == 0) return;
    KeyRun run;
    run.segment = r.segment;
    run.token = r.token;
    run.length = r.length;
    run.position = r.position;
    run.first_instance = r.first_row + row;
    run.mask = r.mask;
    run.first_word = r.first_word + static_cast<std::int64_t>(row) * ceil_div(r.length, 64);
    add_run(run);
  }

  Status check() const {
    const auto bad = [](const char* argument, const char* field, std::int64_t index, const char* relation,
                        std::int64_t got,
                        std::int64_t want) { return plan_error(argument, field, index, relation, got, want); };
    if (options_.mode == Mode::batch_invariant) {
      return plan_error("options", "mode", -1, "==", static_cast<int>(options_.mode), 0, StatusCode::unsupported);
    }
    if (Status s = check_spans(); !s.ok()) return s;
    if (input_.q_rows < 0) return bad("q_rows", "", -1, ">=", input_.q_rows, 0);
    for (std::int64_t i = 0; i < input_.rows.size(); ++i) {
      const RowInstance& r = input_.rows[i];
      if (r.row < 0) return bad("rows", "row", i, ">=", r.row, 0);
      if (r.row >= input_.q_rows) return bad("rows", "row", i, "<", r.row, input_.q_rows);
      if (r.length_slot != -1) return bad("rows", "length_slot", i, "==", r.length_slot, -1);
    }
    if (Status s = check_segments(); !s.ok()) return s;
    return check_rectangles();
  }
  Status check_spans() const noexcept {
    if (Status s = check_span(kPlanOp, "pools", input_.pools); !s.ok()) return s;
    if (Status s = check_span(kPlanOp, "pages", input_.pages); !s.ok()) return s;
    if (Status s = check_span(kPlanOp, "segments", input_.segments); !s.ok()) return s;
    if (Status s = check_span(kPlanOp, "rows", input_.rows); !s.ok()) return s;
    if (Status s = check_span(kPlanOp, "rectangles", input_.rectangles); !s.ok()) return s;
    return check_span(kPlanOp, "words", input_.words, INT64_MAX);
  }
  Status check_segments() const {
    for (std::int64_t i = 0; i < input_.pools.size(); ++i) {
      const PoolShape& pool = input_.pools[i];
      if (pool.page_size < 1) return plan_error("pools", "page_size", i, ">=", pool.page_size, 1);
      if (pool.num_pages < 0) return plan_error("pools", "num_pages", i, ">=", pool.num_pages, 0);
    }
    for (std::int64_t i = 0; i < input_.segments.size(); ++i) {
      const Segment& s = input_.segments[i];
      if (s.pool < 0 || s.pool >= input_.pools.size()) {
        return plan_error("segments", "pool", i, s.pool < 0 ? ">=" : "<", s.pool, s.pool < 0 ? 0 : input_.pools.size());
      }
      const PoolShape& pool = input_.pools[s.pool];
      if (s.length < 0) return plan_error("segments", "length", i, ">=", s.length, 0);
      if (s.offset < 0) return plan_error("segments", "offset", i, ">=", s.offset, 0);
      if (s.offset >= pool.page_size) return plan_error("segments", "offset", i, "<", s.offset, pool.page_size);
      if (s.first_page < 0) return plan_error("segments", "first_page", i, ">=", s.first_page, 0);
      const std::int64_t pages = s.length == 0 ? 0 : ceil_div(std::int64_t{s.offset} + s.length, pool.page_size);
      if (s.first_page + pages > input_.pages.size()) {
        return plan_error("segments", "first_page", i, "<=", s.first_page + pages, input_.pages.size());
      }
      for (std::int64_t p = s.first_page; p < s.first_page + pages; ++p) {
        const std::int32_t page = input_.pages[p];
        if (page < 0) return plan_error("pages", "", p, ">=", page, 0);
        if (page >= pool.num_pages) return plan_error("pages", "", p, "<", page, pool.num_pages);
      }
    }
    return Status{};
  }
  Status check_rectangles() const {
    std::vector<std::int64_t> last(static_cast<std::size_t>(input_.q_rows), -1);
    for (std::int64_t i = 0; i < input_.rectangles.size(); ++i) {
      const Rectangle& r = input_.rectangles[i];
      if (r.first_row < 0) return plan_error("rectangles", "first_row", i, ">=", r.first_row, 0);
      if (r.row_count < 0) return plan_error("rectangles", "row_count", i, ">=", r.row_count, 0);
      if (std::int64_t{r.first_row} + r.row_count > input_.rows.size()) {
        return plan_error("rectangles", "row_count", i, "<=", std::int64_t{r.first_row} + r.row_count,
                          input_.rows.size());
      }
      if (r.segment < 0) return plan_error("rectangles", "segment", i, ">=", r.segment, 0);
      if (r.segment >= input_.segments.size())
        return plan_error("rectangles", "segment", i, "<", r.segment, input_.segments.size());
      if (r.length < 0) return plan_error("rectangles", "length", i, ">=", r.length, 0);
      if (r.token < 0) return plan_error("rectangles", "token", i, ">=", r.token, 0);
      const std::int64_t end = std::int64_t{r.token} + r.length;
      if (end > input_.segments[r.segment].length)
        return plan_error("rectangles", "length", i, "<=", end, input_.segments[r.segment].length);
      if (std::int64_t{r.position} + r.length > INT32_MAX)
        return plan_error("rectangles", "position", i, "<=", r.position, INT32_MAX - r.length);
      if (static_cast<int>(r.mask) > 2) return plan_error("rectangles", "mask", i, "<=", static_cast<int>(r.mask), 2);
      const std::int64_t words = r.mask == MaskKind::bits ? r.row_count * ceil_div(r.length, 64) : 0;
      if (words > 0 && r.first_word < 0) return plan_error("rectangles", "first_word", i, ">=", r.first_word, 0);
      if (words > 0 && r.first_word > input_.words.size() - words) {
        return plan_error("rectangles", "first_word", i, "<=", r.first_word, input_.words.size() - words);
      }
      for (std::int32_t k = 0; k < r.row_count; ++k) {  // a row twice in one rectangle would count its keys twice
        std::int64_t& mark = last[row_index(r.first_row + k)];
        if (mark == i)
          return plan_error("rectangles", "row", i, "!=", input_.rows[r.first_row + k].row,
                            input_.rows[r.first_row + k].row);
        mark = i;
      }
    }
    return Status{};
  }

  std::uint64_t hash() const noexcept {
    std::uint64_t h = 0xcbf29ce484222325u;
    const auto mix = [&h](std::int64_t value) {
      h = (h ^ static_cast<std::uint64_t>(value)) * 0x9e3779b97f4a7c15u;
      h ^= h >> 29;
    };
    for (const RowInstance& r : input_.rows) mix(r.row), mix(r.order), mix(r.position), mix(r.delta);
    for (const Rectangle& r : input_.rectangles)
      mix(r.first_row), mix(r.row_count), mix(r.segment), mix(r.token), mix(r.length), mix(r.position);
    for (const std::int32_t p : input_.pages) mix(p);
    for (const std::uint64_t w : input_.words) mix(static_cast<std::int64_t>(w));
    return h | 1u;
  }

  const RectangleInput& input_;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
