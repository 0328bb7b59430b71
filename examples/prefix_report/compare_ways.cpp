// SPDX-License-Identifier: Apache-2.0
// Everything with sharing against everything without.
#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

#include "checks.hpp"

namespace prefix_report {

using prefixshare::LayerKind;

namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Runs body(index, &check) for every index, on all threads.
template <class Body>
Check compare_all(const prefixshare::Context& context, const char* what, double bound, std::int64_t count,
                  const Body& body) {
  Check all{what, 0, 0, bound};
  std::mutex mutex;
  parallel_ranges(context.executor, count, [&](std::int64_t begin, std::int64_t end) {
    Check mine;
    for (std::int64_t i = begin; i < end; ++i) body(i, &mine);
    const std::lock_guard<std::mutex> lock(mutex);
    all.merge(mine);
  });
  return all;
}

/// Unshared rows that repeat each shared row, in CSR form.
struct Copies {
  std::vector<std::int64_t> begin, rows;
};

Copies copies_of(const Step& step) {
  Copies copies;
  copies.begin.assign(at(step.shared.plan.header.rows) + 1, 0);
  for (std::int64_t row : step.source) ++copies.begin[at(row) + 1];
  for (std::size_t i = 1; i < copies.begin.size(); ++i) copies.begin[i] += copies.begin[i - 1];
  std::vector<std::int64_t> next(copies.begin.begin(), copies.begin.end() - 1);
  copies.rows.resize(step.source.size());
  for (std::size_t i = 0; i < step.source.size(); ++i) {
    copies.rows[at(next[at(step.source[i])]++)] = static_cast<std::int64_t>(i);
  }
  return copies;
}

/// Adds up the copies' gradients of a shared row: `width` values of head `head`.
void add_copies(const Copies& copies, std::int64_t row, const float* gradient, std::int64_t heads, std::int64_t head,
                std::int64_t width, double* sum) {
  std::fill(sum, sum + width, 0.0);
  for (std::int64_t c = copies.begin[at(row)]; c < copies.begin[at(row) + 1]; ++c) {
    const float* x = gradient + (copies.rows[at(c)] * heads + head) * width;
    for (std::int64_t d = 0; d < width; ++d) sum[d] += static_cast<double>(x[d]);
  }
}

void check_outputs(const prefixshare::Context& context, const Step& step, const Layer& unshared, const Layer& shared,
                   const Magnitudes& magnitudes, std::vector<Check>* checks) {
  const LayerKind& kind = step.shared.plan.header.kind;
  const std::int64_t vectors = static_cast<std::int64_t>(step.source.size()) * kind.Hq;
  const auto compare = [&](const char* what, double bound, const float* got, const float* want, std::int64_t width,
                           double scale) {
    checks->push_back(compare_all(context, what, 2 * bound, vectors, [&](std::int64_t i, Check* check) {
      const std::int64_t twin = step.source[at(i / kind.Hq)] * kind.Hq + i % kind.Hq;
      const std::vector<double> truth(want + i * width, want + (i + 1) * width);
      check->compare_block(got + twin * width, truth.data(), width, scale);
    }));
  };
  compare("o", magnitudes.bounds.o, shared.o(), unshared.o(), kind.Dv, magnitudes.o / 8);
  compare("lse", magnitudes.bounds.lse, shared.lse(), unshared.lse(), 1, 1);
}

void check_gradients(const prefixshare::Context& context, const Step& step, const Layer& unshared, const Layer& shared,
                     const Magnitudes& magnitudes, std::vector<Check>* checks) {
  const LayerKind& kind = step.shared.plan.header.kind;
  const prefixshare::Forest& forest = step.shared.forest;
  const Copies copies = copies_of(step);

  const std::int64_t vectors = std::int64_t{step.shared.plan.header.rows} * kind.Hq;
  checks->push_back(compare_all(context, "dq", 2 * magnitudes.bounds.dq, vectors, [&](std::int64_t i, Check* check) {
    std::vector<double> truth(at(kind.D));
    add_copies(copies, i / kind.Hq, unshared.dq(), kind.Hq, i % kind.Hq, kind.D, truth.data());
    check->compare_block(shared.dq() + i * kind.D, truth.data(), kind.D, magnitudes.dq / 8);
  }));

  // A block is a node's tokens of one head: row_begin is the node's first row, as every token is a row.
  const auto compare = [&](const char* what, double bound, const float* got, const float* repeated) {
    const std::int64_t blocks = static_cast<std::int64_t>(forest.nodes.size()) * kind.Hkv;
    checks->push_back(compare_all(context, what, 2 * bound, blocks, [&](std::int64_t i, Check* check) {
      const std::size_t node = at(i / kind.Hkv);
      const std::int64_t head = i % kind.Hkv, first = forest.row_begin[node], tokens = forest.nodes[node].length;
      std::vector<double> truth(at(tokens * kind.D));
      std::vector<float> found(truth.size());
      for (std::int64_t t = 0; t < tokens; ++t) {
        add_copies(copies, first + t, repeated, kind.Hkv, head, kind.D, truth.data() + t * kind.D);
        const float* x = got + (step.slots[at(first + t)] * kind.Hkv + head) * kind.D;
        std::copy(x, x + kind.D, found.begin() + t * kind.D);
      }
      check->compare_block(found.data(), truth.data(), tokens * kind.D, 0);
    }));
  };
  compare("dk", magnitudes.bounds.dk, shared.dk(), unshared.dk());
  compare("dv", magnitudes.bounds.dv, shared.dv(), unshared.dv());
}

}  // namespace

void Check::compare_block(const float* x, const double* truth, std::int64_t count, double scale) {
  double off = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    scale = std::max(scale, std::abs(truth[i]));
    const double difference = std::abs(static_cast<double>(x[i]) - truth[i]);
    off = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(off, difference);
  }
  values += count;
  if (off > 0) error = std::max(error, scale > 0 ? off / scale : std::numeric_limits<double>::infinity());
}

void Check::merge(const Check& other) {
  values += other.values;
  error = std::max(error, other.error);
}

void check_against_unshared(const prefixshare::Context& context, const Step& step, const Layer& unshared,
                            const Layer& shared, const Magnitudes& magnitudes, std::vector<Check>* checks) {
  check_outputs(context, step, unshared, shared, magnitudes, checks);
  if (step.train) check_gradients(context, step, unshared, shared, magnitudes, checks);
}

}  // namespace prefix_report
