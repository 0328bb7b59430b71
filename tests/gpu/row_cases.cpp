// SPDX-License-Identifier: Apache-2.0
// merge_states, rope, rope_rebase, kv_append and draft trees on the target, against cpu:portable on the same numbers in
// f64.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "gpu/conformance.hpp"

namespace prefixshare::gpu {
namespace {

using testing::Random;
using testing::Tensor;
using testing::TensorLayout;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr DType kTypes[] = {DType::bf16, DType::f16, DType::f32};

/// The host's implementations, for f64.
const Context& portable() {
  static const Target target = host_target();
  return target.context;
}

/// The same numbers in f64.
template <int Rank>
Tensor<Rank> widened(const Tensor<Rank>& x) {
  typename Tensor<Rank>::Shape shape;
  std::copy_n(x.view().shape, Rank, shape.begin());
  Tensor<Rank> wide(DType::f64, shape);
  const std::vector<double> values = testing::to_doubles(x.view());
  for (std::size_t i = 0; i < values.size(); ++i) wide.set(static_cast<std::int64_t>(i), values[i]);
  return wide;
}

/// A tensor against its f64 twin, relative to the largest element or to `magnitude`.
template <int Rank>
testing::Comparison compare_with(const Tensor<Rank>& x, const Tensor<Rank>& want, double bound, double magnitude = 0) {
  testing::Expected e;
  e.width = std::max<std::int64_t>(1, want.view().shape[Rank - 1]);
  e.value = testing::to_doubles(want.view());
  e.block.assign(e.value.size() / static_cast<std::size_t>(e.width), 0);
  e.magnitude = {8 * magnitude};
  return testing::compare(testing::to_doubles(x.view()), e, bound, x.view().dtype);
}

/// The worse of what was found so far and of one more tensor.
void include(const std::string& name, const testing::Comparison& c, bool guards, Result* result) {
  if (result->outcome != Outcome::passed) return;
  if (!c.ok) *result = Result::failure(name + ": " + c.text);
  if (!guards) *result = Result::failure(name + ": it wrote beside its output");
}

// ---- merge_states

struct MergeCase {
  DType type, out_type;
  int parts;
  std::int64_t rows, heads, Dv, pad;
  bool in_place, backward;
};

struct HostState {
  Tensor<3> o;
  Tensor<2> lse;
  State state() const { return {o.view(), lse.view()}; }
  HostState wide() const { return {widened(o), widened(lse)}; }
};

HostState random_state(const MergeCase& c, DType type, Random* random) {
  HostState s{Tensor<3>(type, {c.rows, c.heads, c.Dv}, {c.pad, c.pad > 0}),
              Tensor<2>(DType::f32, {c.rows, c.heads}, {c.pad, false})};
  s.o.fill_normal(random);
  for (std::int64_t i = 0; i < c.rows * c.heads; ++i) {
    const bool empty = random->chance(0.15);  // whose o may hold anything
    s.lse.set(i, empty ? -kInf : 3 * random->normal());
    for (std::int64_t d = 0; empty && d < c.Dv; ++d) s.o.set(i * c.Dv + d, std::nan(""));
  }
  return s;
}

/// A state of the host on the target.
struct StateThere {
  TensorThere<3> o;
  TensorThere<2> lse;
  StateThere(const Target& target, HostState* s) : o(target, &s->o), lse(target, &s->lse) {}
  State state() const { return {o.view(), lse.view()}; }
  void fetch() const { o.fetch(), lse.fetch(); }
};

std::vector<State> states_of(const std::vector<HostState>& hosts) {
  std::vector<State> states;
  for (const HostState& s : hosts) states.push_back(s.state());
  return states;
}

Result merge_result(const Target& target, const MergeCase& c, std::uint64_t seed) {
  Random random(seed);
  std::vector<HostState> parts, wide;
  for (int p = 0; p < c.parts; ++p) parts.push_back(random_state(c, c.type, &random));
  for (const HostState& s : parts) wide.push_back(s.wide());
  HostState out{Tensor<3>(c.out_type, {c.rows, c.heads, c.Dv}, {c.pad, false}),
                Tensor<2>(DType::f32, {c.rows, c.heads}, {c.pad, false})};
  HostState want{Tensor<3>(DType::f64, {c.rows, c.heads, c.Dv}), Tensor<2>(DType::f64, {c.rows, c.heads})};
  throw_if_error(merge_states(portable(), {states_of(wide), want.state()}));

  std::vector<StateThere> there;
  std::vector<State> states;
  for (HostState& s : parts) there.emplace_back(target, &s);
  for (const StateThere& s : there) states.push_back(s.state());
  const StateThere out_there(target, &out);
  const State result = c.in_place ? states[0] : out_there.state();
  if (Status s = merge_states(target.context, {states, result}); !s.ok()) return failed(s);
  target.machine->wait();
  const HostState& written = c.in_place ? parts[0] : out;
  c.in_place ? there[0].fetch() : out_there.fetch();
  Result r;
  include("o", compare_with(written.o, want.o, testing::kMergeTolerance), written.o.guards_intact(), &r);
  include("lse", compare_with(written.lse, want.lse, testing::kMergeTolerance, 1), written.lse.guards_intact(), &r);
  return r;
}

Result merge_gradient_result(const Target& target, const MergeCase& c, std::uint64_t seed) {
  Random random(seed);
  std::vector<HostState> parts, wide, grads, want;
  for (int p = 0; p < c.parts; ++p) parts.push_back(random_state(c, c.type, &random));
  for (const HostState& s : parts) wide.push_back(s.wide());
  const auto fresh = [&](DType o_type, DType lse_type) {
    return HostState{Tensor<3>(o_type, {c.rows, c.heads, c.Dv}, {c.pad, false}),
                     Tensor<2>(lse_type, {c.rows, c.heads}, {c.pad, false})};
  };
  for (int p = 0; p < c.parts; ++p) grads.push_back(fresh(c.type, DType::f32));
  for (int p = 0; p < c.parts; ++p) want.push_back(fresh(DType::f64, DType::f64));
  HostState out = fresh(c.out_type, DType::f32), dout = fresh(c.type, DType::f32);
  throw_if_error(merge_states(portable(), {states_of(parts), out.state()}));
  dout.o.fill_normal(&random), dout.lse.fill_normal(&random);
  const HostState wide_out = out.wide(), wide_dout = dout.wide();
  const std::vector<State> wide_states = states_of(wide), want_states = states_of(want);
  throw_if_error(merge_states_backward(
      portable(), {wide_states, wide_out.state(), wide_dout.o.view(), wide_dout.lse.view(), want_states}));

  std::vector<StateThere> parts_there, grads_there;
  std::vector<State> states, grad_states;
  for (HostState& s : parts) parts_there.emplace_back(target, &s);
  for (HostState& s : grads) grads_there.emplace_back(target, &s);
  for (const StateThere& s : parts_there) states.push_back(s.state());
  for (const StateThere& s : grads_there) grad_states.push_back(s.state());
  const StateThere out_there(target, &out), dout_there(target, &dout);
  const MergeStatesGrad args{states, out_there.state(), dout_there.o.view(), dout_there.lse.view(), grad_states};
  if (Status s = merge_states_backward(target.context, args); !s.ok()) return failed(s);
  target.machine->wait();
  Result r;
  for (std::size_t p = 0; p < grads.size(); ++p) {
    grads_there[p].fetch();
    const std::string name = "part " + std::to_string(p);
    const double bound = testing::gradient_tolerance(DType::f32, 0);
    include(name + " o", compare_with(grads[p].o, want[p].o, bound), grads[p].o.guards_intact(), &r);
    include(name + " lse", compare_with(grads[p].lse, want[p].lse, bound, 1), grads[p].lse.guards_intact(), &r);
  }
  return r;
}

void add_merges(const CaseOptions& options, std::vector<Case>* cases) {
  const MakeTarget make = options.target;
  std::uint64_t seed = 0;
  for (const DType type : kTypes) {
    for (const int parts : {1, 2, 5, 40}) {
      for (const bool odd : {false, true}) {  // rows that are not aligned, and dims that are no vectors
        MergeCase c{type,        odd ? DType::f32 : type, parts,       options.small ? 3 : 67,
                    odd ? 5 : 8, odd ? 77 : 128,          odd ? 3 : 0, false,
                    false};
        const std::string name = std::string(to_string(type)) + " parts:" + std::to_string(parts) + (odd ? " odd" : "");
        ++seed;
        cases->push_back({"merge/" + name, [=] { return merge_result(target_of(make), c, seed); }});
        cases->push_back({"merge backward/" + name, [=] { return merge_gradient_result(target_of(make), c, seed); }});
        c.in_place = true;
        c.out_type = type;
        cases->push_back({"merge/" + name + " in place", [=] { return merge_result(target_of(make), c, seed); }});
      }
    }
  }
}

// ---- rope_apply, rope_shift

struct Turns {
  std::vector<double> frequencies;
  RopeTable table;
  Turns(std::int32_t dim, std::int32_t offset, RopePairing pairing) {
    for (std::int32_t i = 0; i < dim / 2; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / dim));
    table.dim = dim;
    table.offset = offset;
    table.pairing = pairing;
    table.mscale = 1.25;
  }
  RopeTable get() const {
    RopeTable t = table;
    t.inv_freq = frequencies;
    return t;
  }
};

struct RopeCase {
  DType type;
  RopePairing pairing;
  std::int64_t tokens, D;
  std::int32_t dim, offset;
  std::int32_t most;  ///< largest position
  bool in_place, apply;
};

template <class Args>
Args rope_args(TensorView<3> x, TensorView<3> out, Span<const std::int32_t> list, MemorySpace space, RopeTable table) {
  Args args;
  args.x = x, args.out = out, args.table = table, args.lists_space = space;
  if constexpr (std::is_same_v<Args, RopeApply>) {
    args.positions = list;
  } else {
    args.deltas = list;
  }
  return args;
}

template <class Args>
Result rope_result(const Target& target, const RopeCase& c, Status (*op)(const Context&, const Args&) noexcept,
                   std::uint64_t seed) {
  Random random(seed);
  const Turns turns(c.dim, c.offset, c.pairing);
  Tensor<3> x(c.type, {c.tokens, 3, c.D}, {c.D % 8, false}), out(c.type, {c.tokens, 3, c.D}, {c.D % 8, true});
  x.fill_normal(&random);
  std::vector<std::int32_t> list(static_cast<std::size_t>(c.tokens));
  for (std::int32_t& p : list) p = random.chance(0.1) ? 0 : random.between(c.apply ? 0 : -c.most, c.most);
  const Tensor<3> wide = widened(x);
  const Tensor<3> want(DType::f64, {c.tokens, 3, c.D});
  throw_if_error(op(portable(), rope_args<Args>(wide.view(), want.view(), list, MemorySpace::host, turns.get())));

  const TensorThere<3> x_there(target, &x), out_there(target, &out);
  const ArrayThere<std::int32_t> list_there(target, list);
  const TensorView<3> result = c.in_place ? x_there.view() : out_there.view();
  const Args args = rope_args<Args>(x_there.view(), result, list_there.span(), target.space, turns.get());
  if (Status s = op(target.context, args); !s.ok()) return failed(s);
  target.machine->wait();
  c.in_place ? x_there.fetch() : out_there.fetch();
  const Tensor<3>& written = c.in_place ? x : out;
  Result r;
  include("out", compare_with(written, want, testing::rope_tolerance(DType::f32, c.most)), written.guards_intact(), &r);
  return r;
}

void add_ropes(const CaseOptions& options, std::vector<Case>* cases) {
  const MakeTarget make = options.target;
  struct Dims {
    std::int64_t D;
    std::int32_t dim, offset;
  };
  std::uint64_t seed = 100;
  for (const DType type : kTypes) {
    for (const RopePairing pairing : {RopePairing::half, RopePairing::interleaved}) {
      for (const Dims dims : {Dims{128, 128, 0}, Dims{192, 64, 128}, Dims{80, 24, 16}, Dims{77, 30, 5}}) {
        for (const bool apply : {true, false}) {
          ++seed;
          const RopeCase c{type,        pairing,   options.small ? 5 : 200, dims.D, dims.dim,
                           dims.offset, 1'000'000, seed % 3 == 0,           apply};
          const std::string name = std::string(apply ? "rope apply/" : "rope shift/") + to_string(type) +
                                   (pairing == RopePairing::half ? " half" : " interleaved") +
                                   " D:" + std::to_string(dims.D) + (c.in_place ? " in place" : "");
          cases->push_back({name, [=] {
                              return apply ? rope_result<RopeApply>(target_of(make), c, &rope_apply, seed)
                                           : rope_result<RopeShift>(target_of(make), c, &rope_shift, seed);
                            }});
        }
      }
    }
  }
}

// ---- kv_append, rope_rebase

/// Slots in random order, some of them none.
std::vector<std::int64_t> random_slots(std::int64_t tokens, std::int64_t capacity, Random* random) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(capacity));
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i);
  random->shuffle(&all);
  all.resize(static_cast<std::size_t>(tokens));
  for (std::int64_t& slot : all) slot = random->chance(0.1) ? -1 : slot;
  return all;
}

struct AppendCase {
  DType type, cache;
  bool rotate, odd;  ///< odd: rows that are not aligned, and dims that are no vectors
};

Result append_result(const Target& target, const AppendCase& c, std::uint64_t seed) {
  constexpr std::int64_t kTokens = 50, kHeads = 3, kPages = 9, kPage = 16;
  constexpr std::int32_t kMost = 100'000;
  const std::int64_t D = c.odd ? 77 : 96, Dv = c.odd ? 51 : 80;
  Random random(seed);
  const Turns turns = c.odd ? Turns(30, 5, RopePairing::half) : Turns(64, 16, RopePairing::half);
  const RopeTable table = turns.get();
  Tensor<3> k(c.type, {kTokens, kHeads, D}, {c.odd ? 3 : 8, false}), v(c.type, {kTokens, kHeads, Dv}, {0, true});
  k.fill_normal(&random), v.fill_normal(&random);
  Tensor<4> k_pool(c.cache, {kPages, kPage, kHeads, D}, {0, true}), v_pool(c.cache, {kPages, kPage, kHeads, Dv});
  const std::vector<std::int64_t> slots = random_slots(kTokens, kPages * kPage, &random);
  std::vector<std::int32_t> positions(kTokens);
  for (std::int32_t& p : positions) p = random.between(0, kMost);
  std::vector<float> scales(kHeads);
  for (float& s : scales) s = static_cast<float>(0.5 + random.uniform());

  const Tensor<3> wide_k = widened(k), wide_v = widened(v);
  const Tensor<4> want_k(DType::f64, {kPages, kPage, kHeads, D}), want_v(DType::f64, {kPages, kPage, kHeads, Dv});
  KvAppend args;
  args.k = wide_k.view(), args.v = wide_v.view();
  args.pool.k = want_k.view(), args.pool.v = want_v.view();
  args.pool.k_scale = {scales.data(), ScaleGranularity::head};
  args.slots = slots, args.positions = positions;
  args.rope = c.rotate ? &table : nullptr;
  throw_if_error(kv_append(portable(), args));

  const TensorThere<3> k_there(target, &k), v_there(target, &v);
  const TensorThere<4> k_pool_there(target, &k_pool), v_pool_there(target, &v_pool);
  const ArrayThere<std::int64_t> slots_there(target, slots);
  const ArrayThere<std::int32_t> positions_there(target, positions);
  const ArrayThere<float> scales_there(target, scales);
  args.k = k_there.view(), args.v = v_there.view();
  args.pool.k = k_pool_there.view(), args.pool.v = v_pool_there.view();
  args.pool.k_scale.data = scales_there.data();
  args.slots = slots_there.span(), args.positions = positions_there.span();
  args.lists_space = target.space;
  if (Status s = kv_append(target.context, args); !s.ok()) return failed(s);
  target.machine->wait();
  k_pool_there.fetch(), v_pool_there.fetch();
  Result r;  // slots that no token names are NaN in both
  include("k", compare_with(k_pool, want_k, testing::rope_tolerance(DType::f32, c.rotate ? kMost : 0)),
          k_pool.guards_intact(), &r);
  include("v", compare_with(v_pool, want_v, testing::rope_tolerance(DType::f32, 0)), v_pool.guards_intact(), &r);
  return r;
}

Result rebase_result(const Target& target, DType type, RopePairing pairing, bool odd, std::uint64_t seed) {
  constexpr std::int64_t kHeads = 2, kPages = 12, kPage = 16;
  constexpr std::int32_t kMost = 50'000, kLayers = 3;
  Random random(seed);
  const std::int64_t D = odd ? 77 : 128, Dv = odd ? 51 : 64;
  const Turns turns = odd ? Turns(30, 5, pairing) : Turns(128, 0, pairing);
  // Pages 0 to 3 stay where they are and turn; 4 and 5 go to several others.
  const std::vector<std::int32_t> from = {0, 1, 2, 4, 4, 5, 5}, to = {0, 1, 2, 6, 7, 8, 11};
  std::vector<std::int32_t> deltas;
  for (std::size_t i = 0; i < from.size(); ++i) deltas.push_back(i == 1 ? 0 : random.between(-kMost, kMost));
  std::vector<Tensor<4>> k, v, want_k, want_v;
  for (int l = 0; l < kLayers; ++l) {
    k.emplace_back(type, Tensor<4>::Shape{kPages, kPage, kHeads, D}, TensorLayout{l == 1 ? 8 : 0, l == 2});
    v.emplace_back(type, Tensor<4>::Shape{kPages, kPage, kHeads, Dv}, TensorLayout{0, l == 1});
    k.back().fill_normal(&random), v.back().fill_normal(&random);
    want_k.push_back(widened(k.back())), want_v.push_back(widened(v.back()));
  }
  const auto layers_of = [](const auto& keys, const auto& values) {
    std::vector<KvPool> layers(keys.size());
    for (std::size_t l = 0; l < keys.size(); ++l) layers[l].k = keys[l].view(), layers[l].v = values[l].view();
    return layers;
  };
  RopeRebase args;
  args.table = turns.get();
  std::vector<KvPool> layers = layers_of(want_k, want_v);
  args.layers = layers, args.from_pages = from, args.to_pages = to, args.deltas = deltas;
  throw_if_error(rope_rebase(portable(), args));

  std::vector<TensorThere<4>> k_there, v_there;
  for (int l = 0; l < kLayers; ++l) {
    k_there.emplace_back(target, &k[static_cast<std::size_t>(l)]);
    v_there.emplace_back(target, &v[static_cast<std::size_t>(l)]);
  }
  const ArrayThere<std::int32_t> from_there(target, from), to_there(target, to), deltas_there(target, deltas);
  layers = layers_of(k_there, v_there);
  args.layers = layers;
  args.from_pages = from_there.span(), args.to_pages = to_there.span(), args.deltas = deltas_there.span();
  args.lists_space = target.space;
  if (Status s = rope_rebase(target.context, args); !s.ok()) return failed(s);
  target.machine->wait();
  Result r;
  for (std::size_t l = 0; l < k.size(); ++l) {
    k_there[l].fetch(), v_there[l].fetch();
    const std::string layer = "layer " + std::to_string(l);
    include(layer + " k", compare_with(k[l], want_k[l], testing::rope_tolerance(DType::f32, kMost)),
            k[l].guards_intact(), &r);
    include(layer + " v", compare_with(v[l], want_v[l], 0), v[l].guards_intact(), &r);
  }
  return r;
}

void add_caches(const CaseOptions& options, std::vector<Case>* cases) {
  const MakeTarget make = options.target;
  std::uint64_t seed = 200;
  for (const DType type : kTypes) {
    for (const DType cache : kTypes) {
      for (const bool rotate : {true, false}) {
        for (const bool odd : {false, true}) {
          ++seed;
          const AppendCase c{type, cache, rotate, odd};
          cases->push_back({std::string("kv append/") + to_string(type) + " into " + to_string(cache) +
                                (rotate ? " turning" : "") + (odd ? " odd" : ""),
                            [=] { return append_result(target_of(make), c, seed); }});
        }
      }
    }
    for (const RopePairing pairing : {RopePairing::half, RopePairing::interleaved}) {
      for (const bool odd : {false, true}) {
        ++seed;
        cases->push_back({std::string("rope rebase/") + to_string(type) +
                              (pairing == RopePairing::half ? " half" : " interleaved") + (odd ? " odd" : ""),
                          [=] { return rebase_result(target_of(make), type, pairing, odd, seed); }});
      }
    }
  }
}

// ---- draft_tree_from_parents

/// Trees of all sizes up to the rows' bits, and trees with faults: the same lists as on the host.
Result draft_result(const Target& target, std::int32_t words_per_row, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::int32_t> parents;
  std::vector<std::int64_t> offsets = {0};
  for (std::int32_t tree = 0; tree < 20; ++tree) {
    const std::int32_t nodes = tree < 2 ? 64 * words_per_row + tree : random.between(0, 64 * words_per_row);
    for (std::int32_t n = 0; n < nodes; ++n) parents.push_back(random.between(-1, n - 1));
    if (tree == 5 && nodes > 2) parents.back() = nodes;                   // out of range
    if (tree == 6 && nodes > 2) parents[parents.size() - 2] = nodes - 1;  // may close a cycle
    offsets.push_back(static_cast<std::int64_t>(parents.size()));
  }
  const std::size_t words = parents.size() * static_cast<std::size_t>(words_per_row);
  std::vector<std::int32_t> depth(parents.size(), -7), faults(20, -7);
  std::vector<std::uint64_t> bits(words, 7);
  const ArrayThere<std::int32_t> parents_there(target, parents), depth_there(target, depth),
      faults_there(target, faults);
  const ArrayThere<std::int64_t> offsets_there(target, offsets);
  const ArrayThere<std::uint64_t> bits_there(target, bits);
  DraftTreeBatch args;
  args.words_per_row = words_per_row;
  args.parents = parents, args.offsets = offsets, args.depth = depth, args.words = bits, args.faults = faults;
  throw_if_error(draft_tree_from_parents(portable(), args));
  args.parents = parents_there.span(), args.offsets = offsets_there.span();
  args.depth = depth_there.span(), args.words = bits_there.span(), args.faults = faults_there.span();
  args.space = target.space;
  if (Status s = draft_tree_from_parents(target.context, args); !s.ok()) return failed(s);
  target.machine->wait();
  if (depth_there.read() != depth) return Result::failure("depths");
  if (bits_there.read() != bits) return Result::failure("bits");
  if (faults_there.read() != faults) return Result::failure("faults");
  return {};
}

}  // namespace

void add_row_cases(const CaseOptions& options, std::vector<Case>* cases) {
  const MakeTarget make = options.target;
  add_merges(options, cases);
  add_ropes(options, cases);
  add_caches(options, cases);
  for (const std::int32_t words : {1, 2, 4}) {
    cases->push_back({"draft trees/words:" + std::to_string(words),
                      [=] { return draft_result(target_of(make), words, static_cast<std::uint64_t>(words)); }});
  }
}

}  // namespace prefixshare::gpu
