// SPDX-License-Identifier: Apache-2.0
// Sampled rows in f64, straight from the definition of attention: no plan, no tiles, no running maximum.
#include "checks.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "prefixshare/testing/compare.hpp"

namespace prefix_report {

using prefixshare::DType;
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
  double sum = 0;    ///< of exp(logit - largest logit)
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

/// In f64; probabilities and dS rounded to a storage type make it the dense emulation of compare.hpp.
class TrueAttention {
 public:
  TrueAttention(const Layer& layer, DType rounding_type)
      : rounding(rounding_type),
        kind(layer.way().plan.header.kind),
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
  double round(double x) const { return prefixshare::testing::round_to(rounding, x); }

  const DType rounding;
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
    for (double score : t->p) t->sum += std::exp(score - largest);
    t->lse = largest + std::log(t->sum);
    for (double& p : t->p) p = std::exp(p - t->lse);
  }

  void weigh_values(const SampledRow& sampled, std::int32_t h, TrueHead* t) const {
    Sum o(kind.D);
    std::vector<double> value;
    for (std::size_t j = 0; j < sampled.slots.size(); ++j) {
      v.read(sampled.slots[j], h / kind.group(), &value);
      const double p = round(t->p[j] * t->sum) / t->sum;
      o.add(p, p, value);
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
      t->ds.push_back(round(t->p[j] * (dp - D)));
      dq.add(scale * t->ds[j], scale * t->p[j] * (std::abs(dp) + std::abs(D)), key);
    }
    t->dq = dq.value;
    t->b_dq = dq.largest();
  }
};

/// What sampled rows come to.
struct Truth {
  std::vector<TrueHead> heads;  ///< [rows, Hq]
  std::vector<Sum> dk, dv;      ///< [rows, Hkv] of each row's own token
};

/// dk and dv of the tokens of the sampled rows: sums over the sampled rows of the same leaf, which are all that see
/// them.
void add_leaf_tokens(const TrueAttention& attention, const std::vector<SampledRow>& rows, Truth* truth) {
  const LayerKind& kind = attention.kind;
  for (std::size_t token = 0; token < rows.size(); ++token) {
    const std::size_t place = rows[token].slots.size() - 1;  // the row's own token is the last that it sees
    for (std::int64_t g = 0; g < kind.Hkv; ++g) {
      Sum k(kind.D), v(kind.D);
      for (std::size_t r = token; r < rows.size() && rows[r].leaf == rows[token].leaf; ++r) {
        for (std::int64_t h = g * kind.group(); h < (g + 1) * kind.group(); ++h) {
          const TrueHead& head = truth->heads[r * at(kind.Hq) + at(h)];
          const double to_k = attention.scale * head.ds[place], to_v = attention.round(head.p[place]);
          k.add(to_k, std::abs(to_k), attention.q.read(rows[r].row, h));
          v.add(to_v, to_v, attention.dout.read(rows[r].row, h));
        }
      }
      truth->dk.push_back(k);
      truth->dv.push_back(v);
    }
  }
}

Truth truth_of(const prefixshare::Context& context, const TrueAttention& attention, const std::vector<SampledRow>& rows,
               bool train) {
  const std::int64_t Hq = attention.kind.Hq;
  Truth truth;
  truth.heads.resize(rows.size() * at(Hq));
  const auto count = static_cast<std::int64_t>(truth.heads.size());
  parallel_ranges(context.executor, count, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      truth.heads[at(i)] = attention.head(rows[at(i / Hq)], static_cast<std::int32_t>(i % Hq), train);
      if (!train) truth.heads[at(i)].p.clear();
    }
  });
  if (train) add_leaf_tokens(attention, rows, &truth);
  return truth;
}

/// The comparisons of a way's results, or of the emulation's, with the truth.
struct Checks {
  Check o{"o"}, lse{"lse"}, dq{"dq"}, dk{"dk"}, dv{"dv"};

  void compare_head(const float* got_o, const float* got_lse, const float* got_dq, const TrueHead& head) {
    const std::int64_t D = static_cast<std::int64_t>(head.o.size());
    o.compare_block(got_o, head.o.data(), D, head.b_o / 8);
    lse.compare_block(got_lse, &head.lse, 1, 1);
    if (got_dq != nullptr) dq.compare_block(got_dq, head.dq.data(), D, head.b_dq / 8);
  }
  void compare_token(const float* got_dk, const float* got_dv, const Sum& k, const Sum& v) {
    const std::int64_t D = static_cast<std::int64_t>(k.value.size());
    dk.compare_block(got_dk, k.value.data(), D, k.largest() / 8);
    dv.compare_block(got_dv, v.value.data(), D, v.largest() / 8);
  }
};

Checks checks_of(const Layer& layer, const std::vector<SampledRow>& rows, bool train, const Truth& truth) {
  const LayerKind& kind = layer.way().plan.header.kind;
  Checks c;
  for (std::size_t i = 0; i < truth.heads.size(); ++i) {
    const std::int64_t vector = rows[i / at(kind.Hq)].row * kind.Hq + static_cast<std::int64_t>(i) % kind.Hq;
    const float* dq = train ? layer.dq() + vector * kind.D : nullptr;
    c.compare_head(layer.o() + vector * kind.D, layer.lse() + vector, dq, truth.heads[i]);
  }
  for (std::size_t i = 0; i < truth.dk.size(); ++i) {
    const std::int64_t slot = rows[i / at(kind.Hkv)].slots.back();
    const std::int64_t first = (slot * kind.Hkv + static_cast<std::int64_t>(i) % kind.Hkv) * kind.D;
    c.compare_token(layer.dk() + first, layer.dv() + first, truth.dk[i], truth.dv[i]);
  }
  return c;
}

std::vector<float> to_floats(const std::vector<double>& x) { return {x.begin(), x.end()}; }

Checks checks_of(const Truth& dense, const Truth& truth) {
  Checks c;
  for (std::size_t i = 0; i < truth.heads.size(); ++i) {
    const TrueHead& got = dense.heads[i];
    const float lse = static_cast<float>(got.lse);
    const std::vector<float> dq = to_floats(got.dq);
    c.compare_head(to_floats(got.o).data(), &lse, dq.empty() ? nullptr : dq.data(), truth.heads[i]);
  }
  for (std::size_t i = 0; i < truth.dk.size(); ++i) {
    c.compare_token(to_floats(dense.dk[i].value).data(), to_floats(dense.dv[i].value).data(), truth.dk[i], truth.dv[i]);
  }
  return c;
}

Magnitudes magnitudes_of(const Truth& truth, bool train) {
  const double infinity = std::numeric_limits<double>::infinity();
  Magnitudes m;
  m.o = m.dq = infinity;
  for (const TrueHead& head : truth.heads) {
    m.logit = std::max(m.logit, head.logit);
    m.o = std::min(m.o, head.b_o);
    if (train) m.dq = std::min(m.dq, head.b_dq);
  }
  return m;
}

/// Those of f32 arithmetic.
Magnitudes::Bounds bounds_f32(double logit) {
  const double forward = prefixshare::testing::forward_tolerance(DType::f32, logit);
  const double gradient = prefixshare::testing::gradient_tolerance(DType::f32, logit);
  return {forward, forward, gradient, gradient, gradient};
}
/// Those of 16-bit storage, where the emulation is as far off as `dense`.
Magnitudes::Bounds bounds_16bit(double logit, const Checks& dense) {
  using prefixshare::testing::kBackwardFactor16Bit;
  const Magnitudes::Bounds least = bounds_f32(logit);
  return {std::max(least.o, prefixshare::testing::kForwardFactor16Bit * dense.o.error),
          prefixshare::testing::lse_tolerance_16bit(logit), std::max(least.dq, kBackwardFactor16Bit * dense.dq.error),
          std::max(least.dk, kBackwardFactor16Bit * dense.dk.error),
          std::max(least.dv, kBackwardFactor16Bit * dense.dv.error)};
}

}  // namespace

Magnitudes check_sampled_rows(const prefixshare::Context& context, const Layer& shared, bool train,
                              std::vector<Check>* checks) {
  const LayerKind& kind = shared.way().plan.header.kind;
  const Forest& forest = shared.way().forest;
  const std::vector<SampledRow> rows = train ? sample_training_rows(forest) : sample_decode_rows(forest);
  const Truth truth = truth_of(context, TrueAttention(shared, DType::f64), rows, train);
  Magnitudes magnitudes = magnitudes_of(truth, train);
  magnitudes.bounds = bounds_f32(magnitudes.logit);
  if (size_of(kind.kv_dtype) == 2) {
    const Truth dense = truth_of(context, TrueAttention(shared, kind.kv_dtype), rows, train);
    magnitudes.bounds = bounds_16bit(magnitudes.logit, checks_of(dense, truth));
  }
  Checks c = checks_of(shared, rows, train, truth);
  const Magnitudes::Bounds& bounds = magnitudes.bounds;
  c.o.bound = bounds.o, c.lse.bound = bounds.lse, c.dq.bound = bounds.dq, c.dk.bound = bounds.dk;
  c.dv.bound = bounds.dv;
  checks->insert(checks->end(), {c.o, c.lse});
  if (train) checks->insert(checks->end(), {c.dq, c.dk, c.dv});
  return magnitudes;
}

}  // namespace prefix_report
