// SPDX-License-Identifier: Apache-2.0
// problem: seeded attention problems that own their memory. What nothing names holds NaN, outputs are poisoned and lie
// between guard bands.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "prefixshare/dtype.hpp"
#include "prefixshare/forest.hpp"
#include "prefixshare/plan.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// The same numbers from a seed with every compiler and library.
class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : state_(seed) {}
  std::uint64_t next() noexcept {  // splitmix64
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// In [0, 1).
  double uniform() noexcept { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// In [low, high].
  std::int32_t between(std::int32_t low, std::int32_t high) noexcept {
    const std::uint64_t count = static_cast<std::uint64_t>(static_cast<std::int64_t>(high) - low + 1);
    return static_cast<std::int32_t>(low + static_cast<std::int64_t>(next() % count));
  }
  bool chance(double p) noexcept { return uniform() < p; }
  /// N(0, 1).
  double normal() noexcept {
    const double r = std::sqrt(-2 * std::log(1 - uniform()));
    return r * std::cos(6.283185307179586 * uniform());
  }
  template <class T>
  void shuffle(std::vector<T>* x) noexcept {
    for (std::size_t i = x->size(); i > 1; --i) std::swap((*x)[i - 1], (*x)[next() % i]);
  }

 private:
  std::uint64_t state_;
};

// ---- Tensors
// ---------------------------------------------------------------------------------------------------------

/// How a tensor lies in memory.
struct TensorLayout {
  std::int64_t pad = 0;  ///< unused elements after each vector, row, ...
  bool swap_heads =
      false;  ///< the last two dimensions but one change places: head-major memory behind a token-major view
};

/// A tensor between guard bands, first full of poison: bytes 0xff, which are NaN in every storage type.
template <int Rank>
class Tensor {
 public:
  using Shape = std::array<std::int64_t, static_cast<std::size_t>(Rank)>;

  Tensor() = default;
  Tensor(DType dtype, const Shape& shape, const TensorLayout& layout = {}) {
    view_.dtype = dtype;
    constexpr std::size_t kRank = static_cast<std::size_t>(Rank);
    std::array<std::size_t, kRank> order;  // in memory, outermost first
    std::iota(order.begin(), order.end(), std::size_t{0});
    if constexpr (Rank >= 3) {
      if (layout.swap_heads) std::swap(order[kRank - 3], order[kRank - 2]);
    }
    std::int64_t stride = 1;
    for (std::size_t i = kRank; i-- > 0;) {
      const std::size_t d = order[i];
      view_.shape[d] = shape[d];
      view_.stride[d] = stride;
      stride = stride * view_.shape[d] + (Rank > 1 ? layout.pad : 0);
    }
    bytes_.assign(static_cast<std::size_t>(stride * size_of(dtype) + 2 * kGuard), kPoison);
  }

  explicit operator bool() const noexcept { return !bytes_.empty(); }
  /// Of this tensor's memory: valid until it is destroyed; moving keeps it.
  TensorView<Rank> view() const noexcept {
    TensorView<Rank> v = view_;
    if (!bytes_.empty()) v.data = const_cast<unsigned char*>(bytes_.data()) + kGuard;
    return v;
  }
  void poison() { std::fill(bytes_.begin(), bytes_.end(), kPoison); }
  /// All of it, guard bands too: for copies in other memory. The view begins 128 bytes in.
  Span<unsigned char> memory() noexcept { return bytes_; }

  /// Element i, row-major.
  void set(std::int64_t i, double x) {
    prefixshare::detail::with_storage(view_.dtype, [&](auto tag) {
      static_cast<decltype(tag)*>(view().data)[offset_of(view_, i)] = store_as<decltype(tag)>(x);
    });
  }
  void fill_normal(Random* random, double amplitude = 1) {
    for (std::int64_t i = 0; i < count_of(view_); ++i) set(i, amplitude * random->normal());
  }
  /// Vector i of the innermost dimension.
  void fill_vector(std::int64_t i, Random* random) {
    const std::int64_t width = view_.shape[Rank - 1];
    for (std::int64_t d = 0; d < width; ++d) set(i * width + d, random->normal());
  }

  /// Whether every byte outside the elements is still poison: guard bands and padding.
  bool guards_intact() const {
    std::vector<char> element(bytes_.size(), 0);
    const std::int64_t size = size_of(view_.dtype);
    for (std::int64_t i = 0; i < (bytes_.empty() ? 0 : count_of(view_)); ++i) {
      const std::int64_t at = kGuard + offset_of(view_, i) * size;
      std::fill_n(element.begin() + at, size, char{1});
    }
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      if (!element[i] && bytes_[i] != kPoison) return false;
    }
    return true;
  }
  /// Whether elements [first, first + count), row-major, still hold the poison.
  bool poisoned(std::int64_t first, std::int64_t count) const {
    const std::int64_t size = size_of(view_.dtype);
    for (std::int64_t i = first; i < first + count; ++i) {
      const unsigned char* at = bytes_.data() + kGuard + offset_of(view_, i) * size;
      if (std::any_of(at, at + size, [](unsigned char b) { return b != kPoison; })) return false;
    }
    return true;
  }

 private:
  static constexpr std::int64_t kGuard = 128;
  static constexpr unsigned char kPoison = 0xff;
  TensorView<Rank> view_;
  std::vector<unsigned char> bytes_;
};

// ---- Topologies
// ------------------------------------------------------------------------------------------------------

/// A batch before it has any place in memory: segments are lengths, nodes name them as in Forest.
struct Topology {
  std::vector<std::int32_t> segments;
  std::vector<Node> nodes;
  std::vector<Sequence> sequences;

  /// A node with a segment of its own; its index.
  std::int32_t add_node(std::int32_t parent, std::int32_t length) {
    Node n;
    n.parent = parent;
    n.segment = static_cast<std::int32_t>(segments.size());
    n.length = length;
    segments.push_back(length);
    nodes.push_back(n);
    return static_cast<std::int32_t>(nodes.size()) - 1;
  }
  void add_sequence(std::int32_t node, std::int32_t q_len, std::int32_t first_order = Sequence::kLastTokens) {
    Sequence s;
    s.node = node;
    s.q_len = q_len;
    s.first_order = first_order;
    sequences.push_back(s);
  }
};

/// Limits of random forests.
struct RandomForest {
  std::int32_t max_nodes = 40;
  std::int32_t max_length = 9;  ///< tokens of a node; a few nodes are empty
  std::int32_t max_rows = 4;    ///< query rows of a sequence
  bool shared_segments = true;  ///< several nodes on one segment, with deltas of their own
  bool length_slots = false;    ///< lengths of some leaves are capacities
};

/// A random forest: several roots, empty nodes, segments under several parents, sequences that end at inner nodes, have
/// no rows, no path, or rows that are not the path's last tokens.
inline Topology random_topology(Random* random, const RandomForest& limits = {}) {
  Topology t;
  const std::int32_t count = random->between(1, limits.max_nodes);
  for (std::int32_t n = 0; n < count; ++n) {
    const std::int32_t parent = n == 0 || random->chance(0.15) ? -1 : random->between(0, n - 1);
    const std::int32_t length = random->chance(0.15) ? 0 : random->between(1, limits.max_length);
    const std::int32_t i = t.add_node(parent, length);
    if (!limits.shared_segments || n == 0 || !random->chance(0.25)) continue;
    t.segments.pop_back();
    Node& node = t.nodes[static_cast<std::size_t>(i)];
    node.segment = random->between(0, static_cast<std::int32_t>(t.segments.size()) - 1);
    const std::int32_t tokens = t.segments[static_cast<std::size_t>(node.segment)];
    node.begin = random->between(0, tokens);
    node.length = random->between(0, tokens - node.begin);
    if (random->chance(0.7)) node.delta = random->between(-40, 40);
  }
  for (std::int32_t s = random->between(1, count + 2); s > 0; --s) {
    const std::int32_t q_len = random->between(0, limits.max_rows);
    const bool anywhere = random->chance(0.1);
    t.add_sequence(random->between(-1, count - 1), q_len, anywhere ? random->between(-2, 30) : Sequence::kLastTokens);
  }
  if (!limits.length_slots) return t;
  std::vector<char> inner(t.nodes.size(), 0);
  for (const Node& n : t.nodes) {
    if (n.parent >= 0) inner[static_cast<std::size_t>(n.parent)] = 1;
  }
  std::int32_t slots = 0;
  for (std::size_t n = 0; n < t.nodes.size(); ++n) {
    if (!inner[n] && random->chance(0.6)) t.nodes[n].length_slot = slots++;
  }
  return t;
}

/// One prefix and its suffixes, in packed order. `training`: every token is a query row; else the last token of each
/// suffix.
inline Topology prefix_group(std::int32_t prefix, Span<const std::int32_t> suffixes, bool training) {
  Topology t;
  const std::int32_t root = t.add_node(-1, prefix);
  if (training) t.add_sequence(root, prefix);
  for (std::int32_t length : suffixes) {
    t.add_sequence(t.add_node(root, length), training ? length : std::min(length, 1));
  }
  return t;
}

/// One sequence through nodes of the given lengths.
inline Topology chain(Span<const std::int32_t> lengths, std::int32_t q_len) {
  Topology t;
  std::int32_t last = -1;
  for (std::int32_t length : lengths) last = t.add_node(last, length);
  t.add_sequence(last, q_len);
  return t;
}

// ---- Problems
// --------------------------------------------------------------------------------------------------------

struct ProblemOptions {
  LayerKind kind;
  std::uint64_t seed = 1;
  std::int32_t page_size = 0;   ///< 0: contiguous pools; else shuffled pages
  std::int32_t pools = 1;       ///< segments are spread over them
  bool alias_segments = false;  ///< some segments lie inside others (not for the backward)
  bool strided = false;         ///< padding everywhere; o and the pools in head-major memory
  bool wide_outputs = false;    ///< o and gradients in the arithmetic type, not in storage type
  bool v_in_k = false;          ///< v is the first Dv of k
  double q_amplitude = 1;
  double scale = 0;
  double softcap = 0;
  bool sinks = false;
  bool bias = false;
  bool rope = false;  ///< a table, also without deltas
  bool q_rotated = true;
  RopePairing pairing = RopePairing::half;
  std::int32_t rope_dim = 0;  ///< 0: D
  std::int32_t rope_offset = 0;
  double mscale = 1;
  ScaleGranularity k_scale = ScaleGranularity::none;
  ScaleGranularity v_scale = ScaleGranularity::none;
  bool backward = false;
  bool dlse = true;
};

/// A forest in memory with everything that a call needs. Move it, do not copy it.
struct Problem {
  struct Pool {
    PoolShape shape;
    Tensor<4> k, v, dk, dv;
    Tensor<3> bias;
    std::vector<float> k_scale, v_scale;
    std::vector<char> named;  ///< [slots] whether a node names it
  };

  ProblemOptions options;
  Forest forest;
  std::vector<Pool> pools;
  Tensor<3> q, o, dout, dq;
  Tensor<2> lse, dlse;
  std::vector<float> sinks, dsinks;
  std::vector<double> inv_freq;
  RopeTable rope;
  std::vector<std::int32_t> actual_lengths;
  std::vector<KvPool> kv;
  std::vector<KvGrad> dkv;
  std::vector<unsigned char> workspace_memory;
  Workspace workspace;

  Problem() = default;
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;
  Problem(Problem&&) = default;
  Problem& operator=(Problem&&) = default;

  /// Arguments of the forward. Valid while the problem lives and is not moved.
  Attend attend() {
    Attend a;
    a.q = q.view();
    a.kv = kv;
    a.o = o.view();
    a.lse = lse.view();
    a.scale = options.scale;
    a.softcap = options.softcap;
    a.sinks = sinks;
    a.rope = rope.dim > 0 ? &rope : nullptr;
    a.q_rotated = options.q_rotated;
    a.actual_lengths = actual_lengths;
    a.fingerprint = forest.fingerprint;
    a.workspace = workspace;
    return a;
  }
  /// Arguments of the backward; o and lse must hold the forward's.
  AttendGrad attend_grad() {
    AttendGrad g;
    g.fwd = attend();
    g.dout = dout.view();
    g.dlse = dlse.view();
    g.dq = dq.view();
    g.dkv = dkv;
    g.dsinks = dsinks;
    g.workspace = workspace;
    return g;
  }

  /// A fresh workspace, of exactly the size that is asked for, that serves forward and backward of `plan` in `parts`.
  Status bind_workspace(const Plan& plan, std::int32_t parts) {
    const PlanLimits limits = limits_of(plan, parts);
    std::int64_t bytes = 0, backward = 0;
    if (Status s = forward_workspace(plan.header.kind, limits, &bytes)) return s;
    if (Status s = backward_workspace(plan.header.kind, limits, &backward)) return s;
    bytes = std::max(bytes, backward);
    workspace_memory.assign(static_cast<std::size_t>(bytes) + 256, 0xff);
    const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(workspace_memory.data());
    void* aligned = workspace_memory.data() + ((begin + 255) / 256 * 256 - begin);
    return init_workspace(plan.header.kind, limits, aligned, bytes, &workspace);
  }

  void poison_outputs() {
    o.poison(), lse.poison(), dq.poison();
    for (Pool& p : pools) p.dk.poison(), p.dv.poison();
    std::fill(dsinks.begin(), dsinks.end(), std::numeric_limits<float>::quiet_NaN());
  }
  /// Whether nothing was written but the outputs: guard bands, padding, and gradients of tokens that no node names.
  bool guards_intact() const {
    bool ok = o.guards_intact() && lse.guards_intact() && dq.guards_intact();
    for (const Pool& p : pools) {
      if (!p.dk) continue;
      ok = ok && p.dk.guards_intact() && p.dv.guards_intact();
      const std::int64_t dk = p.dk.view().shape[2] * p.dk.view().shape[3];
      const std::int64_t dv = p.dv.view().shape[2] * p.dv.view().shape[3];
      for (std::size_t t = 0; ok && t < p.named.size(); ++t) {
        const std::int64_t token = static_cast<std::int64_t>(t);
        ok = p.named[t] || (p.dk.poisoned(token * dk, dk) && p.dv.poisoned(token * dv, dv));
      }
    }
    return ok;
  }
};

namespace detail {

/// Gives every segment of a topology a place in the pools: in order with gaps, or in pages that are shuffled
/// afterwards.
class PoolLayout {
 public:
  PoolLayout(const Topology& topology, const ProblemOptions& options, Random* random)
      : topology_(topology), options_(options), random_(random), used_(static_cast<std::size_t>(options.pools), 0) {}

  void run(std::vector<PoolShape>* pools, std::vector<std::int32_t>* pages, std::vector<Segment>* segments) {
    for (std::int32_t length : topology_.segments) place(length, segments);
    for (std::size_t p = 0; p < used_.size(); ++p) pools->push_back(shape_of(used_[p]));
    name_pages(*pools, pages, segments);
  }

 private:
  /// Until name_pages, `first_page` is the first logical slot of the segment.
  void place(std::int32_t length, std::vector<Segment>* segments) {
    Segment s;
    s.pool = random_->between(0, options_.pools - 1);
    s.length = length;
    if (options_.alias_segments && !segments->empty() && random_->chance(0.3)) {
      const Segment& host = (*segments)[random_->next() % segments->size()];
      if (host.length >= length) {
        s.pool = host.pool;
        s.first_page = host.first_page + random_->between(0, host.length - length);
        segments->push_back(s);
        return;
      }
    }
    std::int32_t& used = used_[static_cast<std::size_t>(s.pool)];
    const std::int32_t page = options_.page_size;
    if (page == 0) used += random_->between(0, 3);
    if (page > 0 && random_->chance(0.6)) used = (used + page - 1) / page * page;  // else goes on in the last page
    s.first_page = used;
    used += length;
    segments->push_back(s);
  }

  PoolShape shape_of(std::int32_t used) const {
    PoolShape shape;
    shape.page_size = options_.page_size > 0 ? options_.page_size : used + 3;
    shape.num_pages = options_.page_size > 0 ? (used + options_.page_size - 1) / options_.page_size + 2 : 1;
    return shape;
  }

  void name_pages(const std::vector<PoolShape>& pools, std::vector<std::int32_t>* pages,
                  std::vector<Segment>* segments) {
    std::vector<std::vector<std::int32_t>> ids;
    for (const PoolShape& pool : pools) {
      ids.emplace_back(static_cast<std::size_t>(pool.num_pages));
      std::iota(ids.back().begin(), ids.back().end(), 0);
      random_->shuffle(&ids.back());
    }
    for (Segment& s : *segments) {
      const std::int32_t page_size = pools[static_cast<std::size_t>(s.pool)].page_size;
      const std::int32_t slot = s.first_page, first = slot / page_size;
      s.offset = slot % page_size;
      s.first_page = static_cast<std::int32_t>(pages->size());
      for (std::int32_t p = first; p <= (slot + s.length) / page_size; ++p) {
        pages->push_back(ids[static_cast<std::size_t>(s.pool)][static_cast<std::size_t>(p)]);
      }
    }
  }

  const Topology& topology_;
  const ProblemOptions& options_;
  Random* random_;
  std::vector<std::int32_t> used_;
};

inline Status place_forest(const Topology& topology, const ProblemOptions& options, Random* random, Forest* forest) {
  std::vector<PoolShape> pools;
  std::vector<std::int32_t> pages;
  std::vector<Segment> segments;
  PoolLayout(topology, options, random).run(&pools, &pages, &segments);
  ForestInput input;
  input.pools = pools;
  input.pages = pages;
  input.segments = segments;
  input.nodes = topology.nodes;
  input.sequences = topology.sequences;
  return make_forest(input, forest);
}

inline std::vector<float> random_scales(ScaleGranularity granularity, const PoolShape& shape, std::int32_t heads,
                                        Random* random) {
  std::int64_t count = 0;
  switch (granularity) {
    case ScaleGranularity::none: break;
    case ScaleGranularity::tensor: count = 1; break;
    case ScaleGranularity::head: count = heads; break;
    case ScaleGranularity::token: count = static_cast<std::int64_t>(shape.num_pages) * shape.page_size * heads; break;
    case ScaleGranularity::page: count = static_cast<std::int64_t>(shape.num_pages) * heads; break;
  }
  std::vector<float> scales(static_cast<std::size_t>(count));
  for (float& s : scales) s = static_cast<float>(0.5 + random->uniform());
  return scales;
}

/// Random actual lengths of the forest's length slots.
inline void choose_lengths(Random* random, Problem* problem) {
  for (const Node& n : problem->forest.nodes) {
    if (n.length_slot < 0) continue;
    std::vector<std::int32_t>& actual = problem->actual_lengths;
    actual.resize(std::max(actual.size(), static_cast<std::size_t>(n.length_slot) + 1));
    actual[static_cast<std::size_t>(n.length_slot)] = random->between(0, n.length);
  }
}

/// Memory of a pool, all NaN, and its scales.
inline void allocate_pool(const PoolShape& shape, Random* random, Problem* problem) {
  const ProblemOptions& o = problem->options;
  const LayerKind& kind = o.kind;
  const TensorLayout layout{o.strided ? 8 : 0, o.strided};
  const std::int64_t pages = shape.num_pages, page_size = shape.page_size;
  const DType grad = o.wide_outputs ? kind.acc_dtype() : kind.kv_dtype;
  Problem::Pool pool;
  pool.shape = shape;
  pool.named.assign(static_cast<std::size_t>(pages * page_size), 0);
  pool.k = Tensor<4>(kind.kv_dtype, {pages, page_size, kind.Hkv, kind.D}, layout);
  if (!o.v_in_k) pool.v = Tensor<4>(kind.kv_dtype, {pages, page_size, kind.Hkv, kind.Dv}, layout);
  if (o.bias) pool.bias = Tensor<3>(kind.acc_dtype(), {pages, page_size, kind.Hq}, {layout.pad, false});
  if (o.backward) {
    pool.dk = Tensor<4>(grad, {pages, page_size, kind.Hkv, kind.D}, layout);
    pool.dv = Tensor<4>(grad, {pages, page_size, kind.Hkv, kind.Dv}, layout);
  }
  pool.k_scale = random_scales(o.k_scale, shape, kind.Hkv, random);
  pool.v_scale = random_scales(o.v_scale, shape, kind.Hkv, random);
  problem->pools.push_back(std::move(pool));
}

/// K, V and bias of the tokens that some path really has; all else stays NaN.
inline void fill_pools(Random* random, Problem* problem) {
  const Forest& f = problem->forest;
  const LayerKind& kind = problem->options.kind;
  std::vector<std::vector<char>> filled;
  for (const Problem::Pool& p : problem->pools) filled.emplace_back(p.named.size(), char{0});
  for (const Node& n : f.nodes) {
    const bool is_capacity = n.length_slot >= 0;
    const std::int32_t actual =
        is_capacity ? problem->actual_lengths[static_cast<std::size_t>(n.length_slot)] : n.length;
    for (std::int32_t t = 0; t < n.length; ++t) {
      const Segment& s = f.segments[static_cast<std::size_t>(n.segment)];
      Problem::Pool& pool = problem->pools[static_cast<std::size_t>(s.pool)];
      const std::int32_t at = s.offset + n.begin + t, page_size = pool.shape.page_size;
      const std::int64_t page = f.pages[static_cast<std::size_t>(s.first_page + at / page_size)];
      const std::int64_t token = page * page_size + at % page_size;
      pool.named[static_cast<std::size_t>(token)] = 1;
      char& done = filled[static_cast<std::size_t>(s.pool)][static_cast<std::size_t>(token)];
      if (t >= actual || done) continue;
      done = 1;
      for (std::int32_t h = 0; h < kind.Hkv; ++h) pool.k.fill_vector(token * kind.Hkv + h, random);
      for (std::int32_t h = 0; h < kind.Hkv && pool.v; ++h) pool.v.fill_vector(token * kind.Hkv + h, random);
      if (pool.bias) pool.bias.fill_vector(token, random);
    }
  }
}

inline KvScale scale_view(ScaleGranularity granularity, const std::vector<float>& data) {
  KvScale s;
  s.granularity = granularity;
  s.data = data.empty() ? nullptr : data.data();
  return s;
}

inline void bind_pools(Problem* problem) {
  const ProblemOptions& o = problem->options;
  for (const Problem::Pool& p : problem->pools) {
    KvPool kv;
    kv.k = p.k.view();
    kv.v = o.v_in_k ? p.k.view() : p.v.view();
    kv.v.shape[3] = o.kind.Dv;
    kv.k_scale = scale_view(o.k_scale, p.k_scale);
    kv.v_scale = scale_view(o.v_scale, p.v_scale);
    kv.bias = p.bias.view();
    problem->kv.push_back(kv);
    KvGrad grad;
    grad.dk = p.dk.view();
    grad.dv = p.dv.view();
    problem->dkv.push_back(grad);
  }
}

inline void make_rows(Random* random, Problem* problem) {
  const ProblemOptions& o = problem->options;
  const LayerKind& kind = o.kind;
  const std::int64_t rows = problem->forest.rows();
  const std::int64_t pad = o.strided ? 8 : 0;
  const DType out = o.wide_outputs ? kind.acc_dtype() : kind.q_dtype;
  problem->q = Tensor<3>(kind.q_dtype, {rows, kind.Hq, kind.D}, {pad, false});
  problem->q.fill_normal(random, o.q_amplitude);
  problem->o = Tensor<3>(out, {rows, kind.Hq, kind.Dv}, {pad, o.strided});
  problem->lse = Tensor<2>(kind.acc_dtype(), {rows, kind.Hq}, {pad, false});
  if (o.sinks) {
    for (std::int32_t h = 0; h < kind.Hq; ++h) problem->sinks.push_back(static_cast<float>(random->normal()));
    if (kind.Hq > 1) problem->sinks[0] = -std::numeric_limits<float>::infinity();  // a head without one
  }
  if (!o.backward) return;
  problem->dout = Tensor<3>(kind.q_dtype, {rows, kind.Hq, kind.Dv}, {pad, o.strided});
  problem->dout.fill_normal(random);
  problem->dq = Tensor<3>(out, {rows, kind.Hq, kind.D}, {pad, false});
  if (o.dlse) {
    problem->dlse = Tensor<2>(kind.acc_dtype(), {rows, kind.Hq}, {pad, false});
    problem->dlse.fill_normal(random);
  }
  if (o.sinks) problem->dsinks.assign(static_cast<std::size_t>(kind.Hq), std::numeric_limits<float>::quiet_NaN());
}

inline void make_rope(Problem* problem) {
  const ProblemOptions& o = problem->options;
  const std::vector<Node>& nodes = problem->forest.nodes;
  const bool turned = std::any_of(nodes.begin(), nodes.end(), [](const Node& n) { return n.delta != 0; });
  if (!o.rope && !turned && o.q_rotated) return;
  problem->rope.dim = o.rope_dim > 0 ? o.rope_dim : o.kind.D / 2 * 2;
  problem->rope.offset = o.rope_offset;
  problem->rope.pairing = o.pairing;
  problem->rope.mscale = o.mscale;
  for (std::int32_t i = 0; i < problem->rope.dim / 2; ++i) {
    problem->inv_freq.push_back(std::pow(10000.0, -2.0 * i / problem->rope.dim));
  }
  problem->rope.inv_freq = problem->inv_freq;
}

/// A problem whose forest is placed: pools, rows and rotation.
inline void fill_problem(Random* random, Problem* problem) {
  choose_lengths(random, problem);
  for (const PoolShape& shape : problem->forest.pools) allocate_pool(shape, random, problem);
  fill_pools(random, problem);
  bind_pools(problem);
  make_rows(random, problem);
  make_rope(problem);
}

}  // namespace detail

/// A topology in memory: pools laid out, keys, values, queries and output gradients N(0, 1), everything else poisoned.
/// Deterministic in (topology, options). Errors: those of make_forest.
inline Status make_problem(const Topology& topology, const ProblemOptions& options, Problem* problem) {
  Random random(options.seed * 0x9e3779b97f4a7c15u + 1);
  *problem = Problem();
  problem->options = options;
  if (Status s = detail::place_forest(topology, options, &random, &problem->forest)) return s;
  detail::fill_problem(&random, problem);
  return {};
}

/// The same of a forest that has its place already, such as one from block tables. Of the options, page_size, pools and
/// alias_segments mean nothing here.
inline void make_problem(const Forest& forest, const ProblemOptions& options, Problem* problem) {
  Random random(options.seed * 0x9e3779b97f4a7c15u + 1);
  *problem = Problem();
  problem->options = options;
  problem->forest = forest;
  detail::fill_problem(&random, problem);
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
