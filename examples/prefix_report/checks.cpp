// SPDX-License-Identifier: Apache-2.0
// Sampled rows in f64, straight from the definition of attention: no plan, no tiles, no running maximum.
#include "checks.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "prefixshare/testing/compare.hpp"

namespace prefix_report {

using prefixshare::Forest;
using prefixshare::LayerKind;

namespace {

constexpr std::int32_t kDecodeRows = 8;  // sampled query rows of a decode step
constexpr std::int32_t kLeaves = 4;      // training: leaves, of which the last tokens are sampled
constexpr std::int32_t kLeafTokens = 4;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// A row to check: the caller's row, and the slots of the tokens that it sees.
struct SampledRow {
  std::int64_t row = 0;
  std::int32_t leaf = 0;  ///< training: rows of one leaf follow each other, oldest first
  std::vector<std::int64_t> slots;
};

SampledRow sampled_row(const Forest& forest, std::int32_t depth_first_row, std::int32_t leaf) {
  const std::int32_t sequence = forest.row_sequence[at(depth_first_row)];
  const std::int32_t node = forest.sequences[at(sequence)].node;
  const std::int64_t visible = std::int64_t{forest.order(depth_first_row)} + 1;
  return {forest.row_map[at(depth_first_row)], leaf, path_slots(forest, node, visible)};
}

std::vector<SampledRow> sample_decode_rows(const Forest& forest) {
  const std::int32_t count = std::min(forest.rows(), kDecodeRows);
  std::vector<SampledRow> rows;
  for (std::int64_t i = 0; i < count; ++i) {
    rows.push_back(sampled_row(forest, static_cast<std::int32_t>(i * forest.rows() / count), 0));
  }
  return rows;
}

/// The last tokens of some leaves. Only they see each other, so their dk and dv follow from the sampled rows alone.
std::vector<SampledRow> sample_training_rows(const Forest& forest) {
  std::vector<std::int32_t> leaves;
  for (std::size_t n = 0; n < forest.nodes.size(); ++n) {
    const bool is_leaf = forest.subtree_end[n] == static_cast<std::int32_t>(n) + 1;
    if (is_leaf && forest.nodes[n].length > 0) leaves.push_back(static_cast<std::int32_t>(n));
  }
  const std::int64_t all = static_cast<std::int64_t>(leaves.size()), count = std::min<std::int64_t>(all, kLeaves);
  std::vector<SampledRow> rows;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t leaf = leaves[at(i * all / count)];
    const std::int32_t end = forest.row_end[at(leaf)];
    const std::int32_t begin = end - std::min(kLeafTokens, forest.nodes[at(leaf)].length);
    for (std::int32_t row = begin; row < end; ++row) rows.push_back(sampled_row(forest, row, leaf));
  }
  return rows;
}

/// One (row, head) in f64. b_o and b_dq: the same sums with absolute values.
struct TrueHead {
  std::vector<double> o, dq;
  std::vector<double> p, ds;  ///< per visible key
  double lse = 0;
  double logit = 0;  ///< largest sum of absolute products
  double b_o = 0, b_dq = 0;
};

/// Reads vectors [row, head] of D elements of a layer's input as f64.
class Vectors {
 public:
  Vectors(const Buffer& buffer, std::int32_t heads, std::int32_t D) : buffer_(buffer), heads_(heads), D_(D) {}
  void read(std::int64_t row, std::int64_t head, std::vector<double>* out) const {
    out->resize(at(D_));
    to_doubles(buffer_, (row * heads_ + head) * D_, D_, out->data());
  }
  std::vector<double> read(std::int64_t row, std::int64_t head) const {
    std::vector<double> out;
    read(row, head, &out);
    return out;
  }

 private:
  const Buffer& buffer_;
  std::int32_t heads_, D_;
};

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// A sum of vectors, and the same sum of absolute terms.
struct Sum {
  std::vector<double> value, absolute;
  explicit Sum(std::int32_t D) : value(at(D), 0), absolute(at(D), 0) {}
  /// Adds weight * x; `size` is the weight's absolute value before its own terms cancelled.
  void add(double weight, double size, const std::vector<double>& x) {
    for (std::size_t d = 0; d < x.size(); ++d) {
      value[d] += weight * x[d];
      absolute[d] += size * std::abs(x[d]);
    }
  }
  double largest() const { return *std::max_element(absolute.begin(), absolute.end()); }
};

class TrueAttention {
 public:
  explicit TrueAttention(const Layer& layer)
      : kind(layer.way().plan.header.kind),
        scale(1 / std::sqrt(static_cast<double>(kind.D))),
        q(layer.inputs().q, kind.Hq, kind.D),
        k(layer.inputs().k, kind.Hkv, kind.D),
        v(layer.inputs().v, kind.Hkv, kind.D),
        dout(layer.inputs().dout, kind.Hq, kind.D) {}

  TrueHead head(const SampledRow& sampled, std::int32_t h, bool train) const {
    TrueHead t;
    softmax(sampled, h, &t);
    weigh_values(sampled, h, &t);
    if (train) gradients(sampled, h, &t);
    return t;
  }

  const LayerKind kind;
  const double scale;
  const Vectors q, k, v, dout;

 private:
  void softmax(const SampledRow& sampled, std::int32_t h, TrueHead* t) const {
    const std::vector<double> query = q.read(sampled.row, h);
    std::vector<double> key;
    double largest = -std::numeric_limits<double>::infinity();
    for (std::int64_t slot : sampled.slots) {
      k.read(slot, h / kind.group(), &key);
      double absolute = 0;
      for (std::size_t d = 0; d < key.size(); ++d) absolute += std::abs(query[d] * key[d]);
      t->p.push_back(scale * dot(query, key));
      t->logit = std::max(t->logit, scale * absolute);
      largest = std::max(largest, t->p.back());
    }
    double sum = 0;
    for (double score : t->p) sum += std::exp(score - largest);
    t->lse = largest + std::log(sum);
    for (double& p : t->p) p = std::exp(p - t->lse);
  }

  void weigh_values(const SampledRow& sampled, std::int32_t h, TrueHead* t) const {
    Sum o(kind.D);
    std::vector<double> value;
    for (std::size_t j = 0; j < sampled.slots.size(); ++j) {
      v.read(sampled.slots[j], h / kind.group(), &value);
      o.add(t->p[j], t->p[j], value);
    }
    t->o = o.value;
    t->b_o = o.largest();
  }

  /// ds_j = P_j (dO . v_j - dO . o);  dq = scale sum_j ds_j k_j
  void gradients(const SampledRow& sampled, std::int32_t h, TrueHead* t) const {
    const std::vector<double> gradient = dout.read(sampled.row, h);
    const double D = dot(gradient, t->o);
    Sum dq(kind.D);
    std::vector<double> key, value;
    for (std::size_t j = 0; j < sampled.slots.size(); ++j) {
      k.read(sampled.slots[j], h / kind.group(), &key);
      v.read(sampled.slots[j], h / kind.group(), &value);
      const double dp = dot(gradient, value);
      t->ds.push_back(t->p[j] * (dp - D));
      dq.add(scale * t->ds[j], scale * t->p[j] * (std::abs(dp) + std::abs(D)), key);
    }
    t->dq = dq.value;
    t->b_dq = dq.largest();
  }
};

/// dk and dv of the tokens of the sampled rows: sums over the sampled rows of the same leaf, which are all that see
/// them.
void check_leaf_tokens(const Layer& layer, const TrueAttention& attention, const std::vector<SampledRow>& rows,
                       const std::vector<TrueHead>& heads, Check* dk, Check* dv) {
  const LayerKind& kind = attention.kind;
  for (std::size_t token = 0; token < rows.size(); ++token) {
    const std::size_t place = rows[token].slots.size() - 1;  // the row's own token is the last that it sees
    for (std::int64_t g = 0; g < kind.Hkv; ++g) {
      Sum k(kind.D), v(kind.D);
      for (std::size_t r = token; r < rows.size() && rows[r].leaf == rows[token].leaf; ++r) {
        for (std::int64_t h = g * kind.group(); h < (g + 1) * kind.group(); ++h) {
          const TrueHead& head = heads[r * at(kind.Hq) + at(h)];
          const double to_k = attention.scale * head.ds[place], to_v = head.p[place];
          k.add(to_k, std::abs(to_k), attention.q.read(rows[r].row, h));
          v.add(to_v, to_v, attention.dout.read(rows[r].row, h));
        }
      }
      const std::int64_t first = (rows[token].slots.back() * kind.Hkv + g) * kind.D;
      dk->compare_block(layer.dk() + first, k.value.data(), kind.D, k.largest() / 8);
      dv->compare_block(layer.dv() + first, v.value.data(), kind.D, v.largest() / 8);
    }
  }
}

}  // namespace

Magnitudes check_sampled_rows(const prefixshare::Context& context, const Layer& shared, bool train,
                              std::vector<Check>* checks) {
  const LayerKind& kind = shared.way().plan.header.kind;
  const Forest& forest = shared.way().forest;
  const std::vector<SampledRow> rows = train ? sample_training_rows(forest) : sample_decode_rows(forest);
  const TrueAttention attention(shared);
  std::vector<TrueHead> heads(rows.size() * at(kind.Hq));
  parallel_ranges(context.executor, static_cast<std::int64_t>(heads.size()), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      heads[at(i)] = attention.head(rows[at(i / kind.Hq)], static_cast<std::int32_t>(i % kind.Hq), train);
      if (!train) heads[at(i)].p.clear();
    }
  });

  const double infinity = std::numeric_limits<double>::infinity();
  Magnitudes magnitudes{0, infinity, infinity};
  Check o{"o"}, lse{"lse"}, dq{"dq"}, dk{"dk"}, dv{"dv"};
  for (std::size_t i = 0; i < heads.size(); ++i) {
    const TrueHead& head = heads[i];
    const std::int64_t vector = rows[i / at(kind.Hq)].row * kind.Hq + static_cast<std::int64_t>(i) % kind.Hq;
    o.compare_block(shared.o() + vector * kind.D, head.o.data(), kind.D, head.b_o / 8);
    lse.compare_block(shared.lse() + vector, &head.lse, 1, 1);
    if (train) dq.compare_block(shared.dq() + vector * kind.D, head.dq.data(), kind.D, head.b_dq / 8);
    magnitudes.logit = std::max(magnitudes.logit, head.logit);
    magnitudes.o = std::min(magnitudes.o, head.b_o);
    if (train) magnitudes.dq = std::min(magnitudes.dq, head.b_dq);
  }
  o.bound = lse.bound = prefixshare::testing::forward_tolerance(prefixshare::DType::f32, magnitudes.logit);
  checks->insert(checks->end(), {o, lse});
  if (!train) return magnitudes;
  check_leaf_tokens(shared, attention, rows, heads, &dk, &dv);
  dq.bound = dk.bound = dv.bound = prefixshare::testing::gradient_tolerance(prefixshare::DType::f32, magnitudes.logit);
  checks->insert(checks->end(), {dq, dk, dv});
  return magnitudes;
}

}  // namespace prefix_report
