// SPDX-License-Identifier: Apache-2.0
// oracle: attention by brute force, straight from a forest or from rectangles and never from a plan, in f64; and the
// dense emulation that 16-bit results are measured against. Slow and simple on purpose.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "prefixshare/dtype.hpp"
#include "prefixshare/forest.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

// ---- Visibility
// ------------------------------------------------------------------------------------------------------

/// A token that a row sees: where it is stored, and how the query meets it.
struct VisibleKey {
  std::int32_t pool = 0;
  std::int32_t page = 0;
  std::int32_t slot = 0;
  std::int32_t segment = 0;
  std::int32_t position = 0;        ///< mask (path) position
  std::int32_t query_position = 0;  ///< RoPE position of the query against this key
  std::int32_t delta = 0;           ///< RoPE delta of the key
};

/// A query row and all that it sees, in key order. `block` numbers its sequence (or, with rectangles, the row).
struct VisibleRow {
  std::int32_t row = 0;
  std::int32_t block = 0;
  std::vector<VisibleKey> keys;
};

namespace detail {

/// Sets pool, page and slot of token `token` of a segment.
inline void locate(Span<const PoolShape> pools, Span<const std::int32_t> pages, Span<const Segment> segments,
                   std::int32_t segment, std::int32_t token, VisibleKey* key) {
  const Segment& s = segments[segment];
  const std::int32_t page_size = pools[s.pool].page_size;
  const std::int64_t at = static_cast<std::int64_t>(s.offset) + token;
  key->pool = s.pool;
  key->page = pages[s.first_page + at / page_size];
  key->slot = static_cast<std::int32_t>(at % page_size);
  key->segment = segment;
}

/// Tokens of a node under the actual lengths (none: capacities).
inline std::int32_t node_tokens(const Node& node, Span<const std::int32_t> actual_lengths) {
  return node.length_slot < 0 || actual_lengths.empty() ? node.length : actual_lengths[node.length_slot];
}

/// Nodes from the root to `node`.
inline std::vector<std::int32_t> path_of(const Forest& forest, std::int32_t node) {
  std::vector<std::int32_t> path;
  for (; node >= 0; node = forest.nodes[static_cast<std::size_t>(node)].parent) path.push_back(node);
  std::reverse(path.begin(), path.end());
  return path;
}

inline bool in_window(std::int64_t position, std::int64_t order, std::int32_t window) {
  return position <= order && (window < 0 || position > order - window);
}

/// All tokens of a sequence's path, and by how much its rows' orders fall below capacity.
inline std::vector<VisibleKey> path_keys(const Forest& forest, const Sequence& sequence,
                                         Span<const std::int32_t> actual_lengths, std::int32_t* shortfall) {
  std::vector<VisibleKey> keys;
  *shortfall = 0;
  for (std::int32_t n : path_of(forest, sequence.node)) {
    const Node& node = forest.nodes[static_cast<std::size_t>(n)];
    const std::int32_t tokens = node_tokens(node, actual_lengths);
    *shortfall += node.length - tokens;
    for (std::int32_t t = 0; t < tokens; ++t) {
      VisibleKey key;
      locate(forest.pools, forest.pages, forest.segments, node.segment, node.begin + t, &key);
      key.position = static_cast<std::int32_t>(keys.size());
      key.delta = node.delta;
      keys.push_back(key);
    }
  }
  return keys;
}

/// Path tokens at capacity.
inline std::int64_t path_capacity(const Forest& forest, std::int32_t node) {
  std::int64_t tokens = 0;
  for (std::int32_t n : path_of(forest, node)) tokens += forest.nodes[static_cast<std::size_t>(n)].length;
  return tokens;
}

}  // namespace detail

/// Calls visit(const VisibleRow&) for every query row in the caller's order: its path's tokens at positions up to its
/// order and inside the window.
template <class Visit>
void for_each_row(const Forest& forest, std::int32_t window, Span<const std::int32_t> actual_lengths, Visit&& visit) {
  VisibleRow row;
  for (std::size_t s = 0; s < forest.sequences.size(); ++s) {
    const Sequence& sequence = forest.sequences[s];
    std::int32_t shortfall = 0;
    const std::vector<VisibleKey> path = detail::path_keys(forest, sequence, actual_lengths, &shortfall);
    const std::int64_t first = sequence.first_order == Sequence::kLastTokens
                                   ? detail::path_capacity(forest, sequence.node) - sequence.q_len
                                   : sequence.first_order;
    for (std::int32_t r = 0; r < sequence.q_len; ++r, ++row.row) {
      const std::int64_t order = first + r - shortfall;
      row.block = static_cast<std::int32_t>(s);
      row.keys.clear();
      for (VisibleKey key : path) {
        if (!detail::in_window(key.position, order, window)) continue;
        key.query_position = static_cast<std::int32_t>(order);
        row.keys.push_back(key);
      }
      visit(static_cast<const VisibleRow&>(row));
    }
  }
}

/// The same of explicit rectangles, whose rows must have no length slots.
template <class Visit>
void for_each_row(const RectangleInput& input, std::int32_t window, Span<const std::int32_t>, Visit&& visit) {
  std::vector<VisibleRow> rows(static_cast<std::size_t>(input.q_rows));
  for (const Rectangle& rect : input.rectangles) {
    const std::int64_t words = (rect.length + 63) / 64;
    for (std::int32_t i = 0; i < rect.row_count; ++i) {
      const RowInstance& instance = input.rows[rect.first_row + i];
      for (std::int32_t t = 0; t < rect.length; ++t) {
        const std::int32_t position = rect.position + t;
        if (rect.mask == MaskKind::interval && !detail::in_window(position, instance.order, window)) continue;
        if (rect.mask == MaskKind::bits && !(input.words[rect.first_word + i * words + t / 64] >> (t % 64) & 1u))
          continue;
        VisibleKey key;
        detail::locate(input.pools, input.pages, input.segments, rect.segment, rect.token + t, &key);
        key.position = position;
        key.query_position = instance.position;
        key.delta = instance.delta;
        rows[static_cast<std::size_t>(instance.row)].keys.push_back(key);
      }
    }
  }
  for (std::size_t r = 0; r < rows.size(); ++r) {
    rows[r].row = rows[r].block = static_cast<std::int32_t>(r);
    visit(static_cast<const VisibleRow&>(rows[r]));
  }
}

/// Calls visit(const VisibleKey&) for every token that a node or a rectangle names, at capacity, repeats included.
template <class Visit>
void for_each_named_token(const Forest& forest, Visit&& visit) {
  for (const Node& node : forest.nodes) {
    for (std::int32_t t = 0; t < node.length; ++t) {
      VisibleKey key;
      detail::locate(forest.pools, forest.pages, forest.segments, node.segment, node.begin + t, &key);
      visit(static_cast<const VisibleKey&>(key));
    }
  }
}
template <class Visit>
void for_each_named_token(const RectangleInput& input, Visit&& visit) {
  for (const Rectangle& rect : input.rectangles) {
    for (std::int32_t t = 0; t < rect.length; ++t) {
      VisibleKey key;
      detail::locate(input.pools, input.pages, input.segments, rect.segment, rect.token + t, &key);
      visit(static_cast<const VisibleKey&>(key));
    }
  }
}

// ---- Results
// ---------------------------------------------------------------------------------------------------------

/// Expected results of a call. Blocks: (sequence, head) for o, lse and dq; (segment, KV head) for dk and dv; head for
/// dsinks. Tokens that nothing names are Expected::kNotCompared in dk and dv.
struct AttentionExpectation {
  Expected o;
  Expected lse;
  Expected dq;
  std::vector<Expected> dk;  ///< per pool, [pages * page_size * Hkv] vectors
  std::vector<Expected> dv;
  Expected dsinks;
  double a = 0;  ///< largest absolute logit sum, see compare.hpp
};

namespace detail {

/// f64 without any rounding: the oracle.
struct Exact {
  using Real = double;
  DType storage = DType::f64;
  static Real round(Real x) noexcept { return x; }
};

/// f32 arithmetic with P, dS and rotated q rounded to a 16-bit storage type: the dense emulation.
struct Dense16 {
  using Real = float;
  DType storage;
  Real round(Real x) const noexcept { return static_cast<Real>(round_to(storage, static_cast<double>(x))); }
};

inline double scale_of(const KvScale& s, const TensorView<4>& x, std::int32_t page, std::int32_t slot,
                       std::int32_t head) {
  const std::int64_t token = static_cast<std::int64_t>(page) * x.shape[1] + slot;
  switch (s.granularity) {
    case ScaleGranularity::none: return 1;
    case ScaleGranularity::tensor: return static_cast<double>(s.data[0]);
    case ScaleGranularity::head: return static_cast<double>(s.data[head]);
    case ScaleGranularity::token: return static_cast<double>(s.data[token * x.shape[2] + head]);
    case ScaleGranularity::page: return static_cast<double>(s.data[page * x.shape[2] + head]);
  }
  return 1;
}

/// A vector of `n` elements at `data`, as the arithmetic type.
template <class Real>
void load_vector(DType t, const void* data, std::int64_t n, std::vector<Real>* out) {
  out->resize(static_cast<std::size_t>(n));
  prefixshare::detail::with_storage(t, [&](auto tag) {
    const auto* x = static_cast<const decltype(tag)*>(data);
    for (std::int64_t d = 0; d < n; ++d) (*out)[static_cast<std::size_t>(d)] = load_as<Real>(x[d]);
  });
}

template <class Real>
Real dot(const std::vector<Real>& a, const std::vector<Real>& b) {
  Real sum = 0;
  for (std::size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
  return sum;
}

template <class Real>
Real absolute_dot(const std::vector<Real>& a, const std::vector<Real>& b) {
  Real sum = 0;
  for (std::size_t d = 0; d < a.size(); ++d) sum += std::abs(a[d] * b[d]);
  return sum;
}

/// x <- mscale^with_mscale R(position) x on the rotary dims; position may be negative.
template <class Real>
void rotate(const RopeTable& table, std::int64_t position, double factor, std::vector<Real>* x) {
  const std::size_t half = static_cast<std::size_t>(table.dim / 2), offset = static_cast<std::size_t>(table.offset);
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * table.inv_freq[static_cast<std::int64_t>(i)];
    const Real c = static_cast<Real>(std::cos(angle) * factor), s = static_cast<Real>(std::sin(angle) * factor);
    const bool interleaved = table.pairing == RopePairing::interleaved;
    Real& a = (*x)[offset + (interleaved ? 2 * i : i)];
    Real& b = (*x)[offset + (interleaved ? 2 * i + 1 : i + half)];
    const Real rotated = a * c - b * s;
    b = a * s + b * c;
    a = rotated;
  }
}

/// The rotation that a query makes for a key: R(turn) times factor.
struct Turn {
  std::int64_t by = 0;
  double factor = 1;
  bool none = true;
  Turn(const Attend& args, const VisibleKey& key) {
    if (args.q_rotated && key.delta == 0) return;
    none = false;
    by = (args.q_rotated ? 0 : static_cast<std::int64_t>(key.query_position)) - key.delta;
    factor = args.q_rotated ? 1 : args.rope->mscale;
  }
  bool operator==(const Turn& other) const noexcept { return by == other.by && none == other.none; }
};

/// One (row, head): everything that its keys contribute.
template <class Real>
struct HeadRow {
  std::vector<std::vector<Real>> q;  ///< turned queries, one per distinct turn
  std::vector<Turn> turns;
  std::vector<std::size_t> q_of_key;    ///< index into q
  std::vector<std::vector<Real>> k, v;  ///< scaled keys and values
  std::vector<Real> score, slope, p;    ///< logit, its derivative by scale * q.k, exp(score - maximum)
  Real maximum = 0, sum = 0, lse = 0;
  bool empty = false;  ///< no key and no sink with any weight
  std::vector<Real> o;
};

/// Brute-force attention in the arithmetic of `Arithmetic`.
template <class Arithmetic>
class Brute {
 public:
  using Real = typename Arithmetic::Real;
  Brute(const LayerKind& kind, const Attend& args, Arithmetic arithmetic)
      : kind_(kind), args_(args), arithmetic_(arithmetic) {
    scale_ = static_cast<Real>(args.scale != 0 ? args.scale : 1 / std::sqrt(static_cast<double>(kind.D)));
    softcap_ = static_cast<Real>(args.softcap);
  }

  Real scale() const noexcept { return scale_; }
  /// Largest scale * sum |q| |k| + |bias| seen so far.
  double a() const noexcept { return a_; }
  Real sink(std::int32_t h) const {
    return args_.sinks.empty() ? -std::numeric_limits<Real>::infinity() : static_cast<Real>(args_.sinks[h]);
  }

  void forward(const VisibleRow& row, std::int32_t h, HeadRow<Real>* w) {
    const std::size_t n = row.keys.size();
    w->q.clear(), w->turns.clear();
    for (auto* x : {&w->score, &w->slope, &w->p}) x->assign(n, Real(0));
    w->q_of_key.resize(n), w->k.resize(n), w->v.resize(n);
    w->maximum = sink(h);
    for (std::size_t j = 0; j < n; ++j) {
      load_key(row.keys[j], h, j, w);
      turn_query(row, h, j, w);
      logit(row.keys[j], h, j, w);
      // A NaN stays: every later comparison with it is false, and the sum below is NaN.
      if (w->score[j] > w->maximum || std::isnan(w->score[j])) w->maximum = w->score[j];
    }
    normalise(h, w);
  }

 private:
  void load_key(const VisibleKey& key, std::int32_t h, std::size_t j, HeadRow<Real>* w) {
    const KvPool& pool = args_.kv[key.pool];
    const std::int32_t head = h / kind_.group();
    load_vector(pool.k.dtype, pool.k.ptr(key.page, key.slot, head), kind_.D, &w->k[j]);
    load_vector(pool.v.dtype, pool.v.ptr(key.page, key.slot, head), kind_.Dv, &w->v[j]);
    for (Real& x : w->k[j]) x *= static_cast<Real>(scale_of(pool.k_scale, pool.k, key.page, key.slot, head));
    for (Real& x : w->v[j]) x *= static_cast<Real>(scale_of(pool.v_scale, pool.v, key.page, key.slot, head));
  }

  void turn_query(const VisibleRow& row, std::int32_t h, std::size_t j, HeadRow<Real>* w) {
    const Turn turn(args_, row.keys[j]);
    const auto known = std::find(w->turns.begin(), w->turns.end(), turn);
    w->q_of_key[j] = static_cast<std::size_t>(known - w->turns.begin());
    if (known != w->turns.end()) return;
    w->turns.push_back(turn);
    w->q.emplace_back();
    load_vector(args_.q.dtype, args_.q.ptr(row.row, h), kind_.D, &w->q.back());
    if (turn.none) return;
    rotate(*args_.rope, turn.by, turn.factor, &w->q.back());
    for (Real& x : w->q.back()) x = arithmetic_.round(x);
  }

  void logit(const VisibleKey& key, std::int32_t h, std::size_t j, HeadRow<Real>* w) {
    const std::vector<Real>& q = w->q[w->q_of_key[j]];
    Real s = scale_ * dot(q, w->k[j]);
    w->slope[j] = 1;
    if (softcap_ > 0) {
      const Real t = std::tanh(s / softcap_);
      s = softcap_ * t;
      w->slope[j] = 1 - t * t;
    }
    const TensorView<3>& bias = args_.kv[key.pool].bias;
    Real added = 0;
    if (bias) {
      prefixshare::detail::with_storage(bias.dtype, [&](auto tag) {
        added = load_as<Real>(*bias.template at<decltype(tag)>(key.page, key.slot, h));
      });
    }
    w->score[j] = s + added;
    const double size = static_cast<double>(scale_ * absolute_dot(q, w->k[j])) +
                        (std::isfinite(added) ? std::abs(static_cast<double>(added)) : 0);
    if (std::isfinite(size)) a_ = std::max(a_, size);
  }

  void normalise(std::int32_t h, HeadRow<Real>* w) {
    const Real infinity = std::numeric_limits<Real>::infinity();
    w->o.assign(static_cast<std::size_t>(kind_.Dv), Real(0));
    w->sum = 0;
    w->lse = -infinity;
    w->empty = w->maximum == -infinity;
    if (w->empty) return;
    w->sum = std::exp(sink(h) - w->maximum);
    for (std::size_t j = 0; j < w->score.size(); ++j) {
      const Real p = std::exp(w->score[j] - w->maximum);
      w->sum += p;
      w->p[j] = p;
      const Real rounded = arithmetic_.round(p);
      for (std::size_t d = 0; d < w->o.size(); ++d) w->o[d] += rounded * w->v[j][d];
    }
    for (Real& x : w->o) x /= w->sum;
    w->lse = w->maximum + std::log(w->sum);
  }

  const LayerKind& kind_;
  const Attend& args_;
  Arithmetic arithmetic_;
  Real scale_ = 0, softcap_ = 0;
  double a_ = 0;
};

inline Expected make_expected(std::int64_t vectors, std::int64_t width, std::int64_t blocks, double magnitude) {
  Expected e;
  e.width = width;
  e.value.assign(static_cast<std::size_t>(vectors * width), 0.0);
  e.block.assign(static_cast<std::size_t>(vectors), Expected::kNotCompared);
  e.magnitude.assign(static_cast<std::size_t>(blocks), magnitude);
  return e;
}

inline void raise(double* magnitude, double x) {
  if (x > *magnitude) *magnitude = x;
}

template <class Topology>
std::int64_t rows_of(const Topology& t) {
  if constexpr (std::is_same_v<Topology, Forest>) {
    std::int64_t rows = 0;
    for (const Sequence& s : t.sequences) rows += s.q_len;
    return rows;
  } else {
    return t.q_rows;
  }
}
template <class Topology>
std::int64_t row_blocks_of(const Topology& t) {
  if constexpr (std::is_same_v<Topology, Forest>) {
    return static_cast<std::int64_t>(t.sequences.size());
  } else {
    return t.q_rows;
  }
}

/// Fills o and lse of one (row, head). o is stored in `storage` where the arithmetic rounds.
template <class Arithmetic>
void put_forward(const HeadRow<typename Arithmetic::Real>& w, std::int64_t vector, std::int32_t block,
                 AttentionExpectation* e) {
  using Real = typename Arithmetic::Real;
  e->o.block[static_cast<std::size_t>(vector)] = e->lse.block[static_cast<std::size_t>(vector)] = block;
  e->lse.value[static_cast<std::size_t>(vector)] = static_cast<double>(w.lse);
  for (std::size_t d = 0; d < w.o.size(); ++d) {
    e->o.value[static_cast<std::size_t>(vector) * w.o.size() + d] = static_cast<double>(w.o[d]);
    Real sum = 0;
    for (std::size_t j = 0; j < w.p.size(); ++j) sum += w.p[j] * std::abs(w.v[j][d]);
    if (!w.empty) raise(&e->o.magnitude[static_cast<std::size_t>(block)], static_cast<double>(sum / w.sum));
  }
}

/// Adds one (row, head) to every gradient.
template <class Arithmetic>
class BruteGradient {
 public:
  using Real = typename Arithmetic::Real;
  BruteGradient(const LayerKind& kind, const AttendGrad& args, Arithmetic arithmetic, AttentionExpectation* e)
      : kind_(kind), args_(args), arithmetic_(arithmetic), e_(e) {}

  void add(const VisibleRow& row, std::int32_t h, Real scale, Real sink, std::int32_t block, HeadRow<Real>* w) {
    const std::int64_t vector = static_cast<std::int64_t>(row.row) * kind_.Hq + h;
    e_->dq.block[static_cast<std::size_t>(vector)] = block;
    load_vector(args_.dout.dtype, args_.dout.ptr(row.row, h), kind_.Dv, &dout_);
    load_vector(args_.fwd.o.dtype, args_.fwd.o.ptr(row.row, h), kind_.Dv, &o_);
    lse_ = load(args_.fwd.lse, row.row, h);
    const Real dlse = args_.dlse ? load(args_.dlse, row.row, h) : Real(0);
    const Real big_d = dot(dout_, o_) - dlse;
    if (sink > -std::numeric_limits<Real>::infinity()) {
      add_sink(h, std::exp(sink - lse_), big_d, std::max(size_of_dot(big_d, o_), std::abs(dlse)));
    }
    if (w->empty) return;
    dq_.assign(w->q.size(), std::vector<Real>(static_cast<std::size_t>(kind_.D), Real(0)));
    absolute_.assign(static_cast<std::size_t>(kind_.D), Real(0));
    for (std::size_t j = 0; j < row.keys.size(); ++j) add_key(row.keys[j], h, j, big_d, scale, *w);
    finish_dq(vector, block, *w);
  }

 private:
  static Real load(const TensorView<2>& x, std::int32_t row, std::int32_t h) {
    return prefixshare::detail::with_storage(
        x.dtype, [&](auto tag) { return load_as<Real>(*x.template at<decltype(tag)>(row, h)); });
  }
  /// |dO . v|, or |D|, for the magnitude: at least the root of its terms' squares, since a product that is small by
  /// chance is not known better than its terms, and a block may hold no other.
  Real size_of_dot(Real dp, const std::vector<Real>& v) const {
    Real squares = 0;
    for (std::size_t d = 0; d < v.size(); ++d) squares += dout_[d] * v[d] * dout_[d] * v[d];
    return std::max(std::abs(dp), std::sqrt(squares));
  }
  /// D itself is a difference that may be small by chance: `size` is that of its terms.
  void add_sink(std::int32_t h, Real weight, Real big_d, Real size) {
    e_->dsinks.value[static_cast<std::size_t>(h)] -= static_cast<double>(weight * big_d);
    e_->dsinks.magnitude[static_cast<std::size_t>(h)] += static_cast<double>(weight * size);
  }

  void add_key(const VisibleKey& key, std::int32_t h, std::size_t j, Real big_d, Real scale, const HeadRow<Real>& w) {
    const KvPool& pool = args_.fwd.kv[key.pool];
    const std::int32_t head = h / kind_.group();
    const Real p = std::exp(w.score[j] - lse_);
    const Real dp = dot(dout_, w.v[j]);
    const Real ds = arithmetic_.round(p * (dp - big_d) * w.slope[j]) * scale;
    const Real ds_size = p * (size_of_dot(dp, w.v[j]) + std::abs(big_d)) * scale;
    const std::size_t vector =
        static_cast<std::size_t>((static_cast<std::int64_t>(key.page) * pool.k.shape[1] + key.slot) * kind_.Hkv + head);
    const Real k_scale = static_cast<Real>(scale_of(pool.k_scale, pool.k, key.page, key.slot, head));
    const Real v_scale = static_cast<Real>(scale_of(pool.v_scale, pool.v, key.page, key.slot, head));
    const std::vector<Real>& q = w.q[w.q_of_key[j]];
    accumulate(&e_->dk[static_cast<std::size_t>(key.pool)], vector, q, ds * k_scale, ds_size * std::abs(k_scale),
               &sizes(&dk_size_, key.pool));
    accumulate(&e_->dv[static_cast<std::size_t>(key.pool)], vector, dout_, arithmetic_.round(p) * v_scale,
               p * std::abs(v_scale), &sizes(&dv_size_, key.pool));
    for (std::size_t d = 0; d < q.size(); ++d) {
      dq_[w.q_of_key[j]][d] += ds * w.k[j][d];
      absolute_[d] += ds_size * std::abs(w.k[j][d]);
    }
  }

  std::vector<double>& sizes(std::vector<std::vector<double>>* all, std::int32_t pool) {
    if (all->size() <= static_cast<std::size_t>(pool)) all->resize(static_cast<std::size_t>(pool) + 1);
    return (*all)[static_cast<std::size_t>(pool)];
  }

  /// e[vector] += weight x, in the arithmetic type; the sums of absolute values give the block's magnitude.
  void accumulate(Expected* e, std::size_t vector, const std::vector<Real>& x, Real weight, Real size,
                  std::vector<double>* sizes) {
    sizes->resize(e->value.size());
    const std::size_t block = static_cast<std::size_t>(e->block[vector]);
    for (std::size_t d = 0; d < x.size(); ++d) {
      const std::size_t i = vector * x.size() + d;
      e->value[i] = static_cast<double>(static_cast<Real>(e->value[i]) + weight * x[d]);
      (*sizes)[i] += static_cast<double>(size * std::abs(x[d]));
      raise(&e->magnitude[block], (*sizes)[i]);
    }
  }

  /// Turns dq back into the caller's frame: the transpose of each turn.
  void finish_dq(std::int64_t vector, std::int32_t block, const HeadRow<Real>& w) {
    const std::size_t width = static_cast<std::size_t>(kind_.D);
    std::vector<Real> total(width, Real(0));
    for (std::size_t t = 0; t < w.turns.size(); ++t) {
      if (!w.turns[t].none) rotate(*args_.fwd.rope, -w.turns[t].by, w.turns[t].factor, &dq_[t]);
      for (std::size_t d = 0; d < width; ++d) total[d] += dq_[t][d];
    }
    for (std::size_t d = 0; d < width; ++d) {
      e_->dq.value[static_cast<std::size_t>(vector) * width + d] = static_cast<double>(total[d]);
      raise(&e_->dq.magnitude[static_cast<std::size_t>(block)], static_cast<double>(absolute_[d]));
    }
  }

  const LayerKind& kind_;
  const AttendGrad& args_;
  Arithmetic arithmetic_;
  AttentionExpectation* e_;
  std::vector<Real> dout_, o_, absolute_;
  Real lse_ = 0;
  std::vector<std::vector<Real>> dq_;
  std::vector<std::vector<double>> dk_size_, dv_size_;
};

/// Empty dk and dv of every pool, with the blocks of the tokens that are named.
template <class Topology>
void prepare_kv(const Topology& topology, const LayerKind& kind, const Attend& args, AttentionExpectation* e) {
  const std::int64_t blocks = static_cast<std::int64_t>(topology.segments.size()) * kind.Hkv;
  for (const KvPool& pool : args.kv) {
    const std::int64_t vectors = pool.k.shape[0] * pool.k.shape[1] * kind.Hkv;
    e->dk.push_back(make_expected(vectors, kind.D, blocks, 0));
    e->dv.push_back(make_expected(vectors, kind.Dv, blocks, 0));
  }
  for_each_named_token(topology, [&](const VisibleKey& key) {
    const std::int64_t token = static_cast<std::int64_t>(key.page) * args.kv[key.pool].k.shape[1] + key.slot;
    for (std::int32_t h = 0; h < kind.Hkv; ++h) {
      const std::size_t vector = static_cast<std::size_t>(token * kind.Hkv + h);
      const std::size_t pool = static_cast<std::size_t>(key.pool);
      e->dk[pool].block[vector] = e->dv[pool].block[vector] = key.segment * kind.Hkv + h;
    }
  });
}

template <class Topology, class Arithmetic>
AttentionExpectation brute_force(const Topology& topology, const LayerKind& kind, const Attend& args,
                                 const AttendGrad* grad, Arithmetic arithmetic) {
  using Real = typename Arithmetic::Real;
  AttentionExpectation e;
  const std::int64_t vectors = rows_of(topology) * kind.Hq, blocks = row_blocks_of(topology) * kind.Hq;
  e.o = make_expected(vectors, kind.Dv, blocks, 0);
  e.lse = make_expected(vectors, 1, blocks, 8);
  if (grad != nullptr) {
    e.dq = make_expected(vectors, kind.D, blocks, 0);
    e.dsinks = make_expected(kind.Hq, 1, kind.Hq, 0);
    for (std::int32_t h = 0; h < kind.Hq; ++h) e.dsinks.block[static_cast<std::size_t>(h)] = h;
    prepare_kv(topology, kind, args, &e);
  }
  Brute<Arithmetic> brute(kind, args, arithmetic);
  AttendGrad none;
  BruteGradient<Arithmetic> gradient(kind, grad != nullptr ? *grad : none, arithmetic, &e);
  HeadRow<Real> w;
  for_each_row(topology, kind.window, args.actual_lengths, [&](const VisibleRow& row) {
    for (std::int32_t h = 0; h < kind.Hq; ++h) {
      const std::int32_t block = row.block * kind.Hq + h;
      brute.forward(row, h, &w);
      put_forward<Arithmetic>(w, static_cast<std::int64_t>(row.row) * kind.Hq + h, block, &e);
      if (grad != nullptr) gradient.add(row, h, brute.scale(), brute.sink(h), block, &w);
    }
  });
  e.a = brute.a();
  return e;
}

/// The type whose precision the dense emulation gives to P and dS: 16 bits where K and V or q have them.
inline DType dense_storage(const LayerKind& kind) noexcept {
  return size_of(kind.kv_dtype) == 2 ? kind.kv_dtype : kind.q_dtype;
}

}  // namespace detail

/// What the forward must give. Reads q, kv and every option of `args`; o, lse and workspace are not touched.
/// `Topology` is a Forest or a RectangleInput.
template <class Topology>
AttentionExpectation expect_forward(const Topology& topology, const LayerKind& kind, const Attend& args) {
  return detail::brute_force(topology, kind, args, nullptr, detail::Exact{});
}

/// What forward and backward must give. As the contract says, the gradients start from the o and lse in `args.fwd`,
/// which a forward must have written before: with 16-bit storage their rounding is part of the input.
template <class Topology>
AttentionExpectation expect_backward(const Topology& topology, const LayerKind& kind, const AttendGrad& args) {
  return detail::brute_force(topology, kind, args.fwd, &args, detail::Exact{});
}

/// The dense emulation: a fixed, plain 16-bit implementation. Inputs as stored, scores in f32, P = exp(s - max)
/// unnormalised and rounded to the storage type, sums in f32; backward with P and dS rounded, from the same o and lse
/// as the exact answer. The caller rounds the results once to the type in which outputs are stored (round_to), which
/// compare_16bit wants.
template <class Topology>
AttentionExpectation dense_forward(const Topology& topology, const LayerKind& kind, const Attend& args) {
  return detail::brute_force(topology, kind, args, nullptr, detail::Dense16{detail::dense_storage(kind)});
}
template <class Topology>
AttentionExpectation dense_backward(const Topology& topology, const LayerKind& kind, const AttendGrad& args) {
  return detail::brute_force(topology, kind, args.fwd, &args, detail::Dense16{detail::dense_storage(kind)});
}

// ---- Judging
// ---------------------------------------------------------------------------------------------------------

/// Exact results of a call, and the dense emulation's where storage has 16 bits: computed once, used for every
/// implementation that is judged.
struct Answer {
  AttentionExpectation exact;
  AttentionExpectation dense;
  bool is_16bit = false;
  DType acc = DType::f32;
};

namespace detail {

template <class Topology>
Answer answer(const Topology& topology, const LayerKind& kind, const Attend& args, const AttendGrad* grad) {
  Answer a;
  a.acc = kind.acc_dtype();
  a.is_16bit = a.acc == DType::f32 && (size_of(kind.q_dtype) == 2 || size_of(kind.kv_dtype) == 2);
  a.exact = brute_force(topology, kind, args, grad, Exact{});
  if (a.is_16bit) a.dense = brute_force(topology, kind, args, grad, Dense16{dense_storage(kind)});
  return a;
}

/// Puts one tensor's outcome under the name of the tensor into a whole: not ok if any is not, nearest to its bound
/// else.
inline void include(const char* name, const Comparison& part, Comparison* whole) {
  if (!part.ok || (whole->ok && part.error * whole->bound >= whole->error * part.bound)) {
    whole->error = part.error;
    whole->bound = part.bound;
    whole->worst = part.worst;
  }
  whole->ok = whole->ok && part.ok;
  whole->text += (whole->text.empty() ? "" : "\n") + std::string(name) + ": " + part.text;
}

inline Comparison check_tensor(Span<const double> x, DType storage, const Expected& exact, const Expected& dense,
                               const Answer& a, double tolerance, double factor) {
  if (!a.is_16bit) return compare(x, exact, tolerance, storage);
  std::vector<double> emulated(dense.value.size());
  for (std::size_t i = 0; i < emulated.size(); ++i) emulated[i] = round_to(storage, dense.value[i]);
  return compare_16bit(x, exact, emulated, factor, tolerance, storage);
}

}  // namespace detail

/// The answer to a forward, or to a backward that starts from the o and lse in `args.fwd`. `Topology` is a Forest or a
/// RectangleInput.
template <class Topology>
Answer answer_forward(const Topology& topology, const LayerKind& kind, const Attend& args) {
  return detail::answer(topology, kind, args, nullptr);
}
template <class Topology>
Answer answer_backward(const Topology& topology, const LayerKind& kind, const AttendGrad& args) {
  return detail::answer(topology, kind, args.fwd, &args);
}

/// Whether o and lse, as far as they are present in `args`, are within the tolerance of their storage.
inline Comparison check_forward(const Answer& answer, const Attend& args) {
  Comparison whole;
  const double tolerance = forward_tolerance(answer.acc, answer.exact.a);
  if (args.o) {
    detail::include("o",
                    detail::check_tensor(to_doubles(args.o), args.o.dtype, answer.exact.o, answer.dense.o, answer,
                                         tolerance, kForwardFactor16Bit),
                    &whole);
  }
  if (args.lse) {
    const double bound = answer.is_16bit ? lse_tolerance_16bit(answer.exact.a) : tolerance;
    detail::include("lse", compare(to_doubles(args.lse), answer.exact.lse, bound, args.lse.dtype), &whole);
  }
  return whole;
}

/// Whether dq, every pool's dk and dv, and dsinks (where present) are within the tolerance of their storage. Only for
/// calls that do not accumulate.
inline Comparison check_backward(const Answer& answer, const AttendGrad& args) {
  Comparison whole;
  const double tolerance = gradient_tolerance(answer.acc, answer.exact.a);
  const auto check = [&](const char* name, Span<const double> x, DType storage, const Expected& exact,
                         const Expected& dense) {
    detail::include(name, detail::check_tensor(x, storage, exact, dense, answer, tolerance, kBackwardFactor16Bit),
                    &whole);
  };
  const Expected none;
  check("dq", to_doubles(args.dq), args.dq.dtype, answer.exact.dq, answer.dense.dq);
  for (std::int64_t p = 0; p < args.dkv.size(); ++p) {
    const std::size_t i = static_cast<std::size_t>(p);
    const KvGrad& g = args.dkv[p];
    if (g.dk) {
      check("dk", to_doubles(g.dk), g.dk.dtype, answer.exact.dk[i], answer.is_16bit ? answer.dense.dk[i] : none);
    }
    if (g.dv) {
      check("dv", to_doubles(g.dv), g.dv.dtype, answer.exact.dv[i], answer.is_16bit ? answer.dense.dv[i] : none);
    }
  }
  if (!args.dsinks.empty()) {
    check("dsinks", to_doubles(Span<const float>(args.dsinks.data(), args.dsinks.size())), DType::f32,
          answer.exact.dsinks, answer.dense.dsinks);
  }
  return whole;
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
