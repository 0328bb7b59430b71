// SPDX-License-Identifier: Apache-2.0
// Stage bench: the workloads against their floors. Every answer is checked before it is timed; contenders take turns in
// one process; what a graph replays goes round through so many input sets that no cache holds them.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpu/bench_file.hpp"
#include "gpu/bench_input.hpp"
#include "gpu/conformance.hpp"
#include "gpu/floors.hpp"
#include "gpu/harness/clock.hpp"
#include "gpu/harness/results.hpp"
#include "gpu/stages.hpp"
#include "gpu/times.hpp"
#include "prefixshare/testing/sampled_rows.hpp"

namespace prefixshare::gpu {
namespace {

constexpr int kReplays = 50;
constexpr int kMostSets = 64;

// ---- Timing

/// A way to do the workload: `call(set, stream)` puts one call on one input set into a stream.
struct Contender {
  int sets = 1;
  std::function<void(int set, Stream stream)> call;
};

/// Seconds per call of each contender: calls on every set in turn, as one graph, replayed round-robin.
std::vector<Times> graph_times(const Machine& machine, const std::vector<Contender>& contenders, int replays) {
  std::vector<std::function<double()>> run;
  for (const Contender& c : contenders) {
    c.call(0, {});  // what is first asked for is made outside the graph
    machine.wait();
    run.push_back(machine.timed([&c](Stream stream) {
      for (int set = 0; set < c.sets; ++set) c.call(set, stream);
    }));
    run.back()();
  }
  std::vector<std::vector<double>> times(contenders.size());
  for (int n = 0; n < replays; ++n) {
    for (std::size_t i = 0; i < contenders.size(); ++i) times[i].push_back(run[i]() / contenders[i].sets);
  }
  std::vector<Times> result;
  for (std::vector<double>& t : times) result.emplace_back(std::move(t));
  return result;
}

/// From the call to the end of its work, one at a time, as the host sees it.
Times eager_times(const Machine& machine, const Contender& c, int repeats) {
  std::vector<double> times;
  for (int n = 0; n < repeats; ++n) {
    const Clock::time_point begin = Clock::now();
    c.call(n % c.sets, {});
    machine.wait();
    times.push_back(seconds_since(begin));
  }
  return Times(times);
}

double median_seconds(const std::function<void()>& work, int repeats = 5) {
  std::vector<double> times;
  for (int n = 0; n < repeats; ++n) {
    const Clock::time_point begin = Clock::now();
    work();
    times.push_back(seconds_since(begin));
  }
  return Times(times).median();
}

int set_count(const Machine& machine, std::int64_t bytes) {
  const std::int64_t sets = 4 * machine.cache_bytes() / std::max<std::int64_t>(bytes, 1) + 2;
  return static_cast<int>(std::min<std::int64_t>(sets, kMostSets));
}

void add_times(const Times& times, const std::string& prefix, Record* r) {
  r->add(prefix + "us", 1e6 * times.median());
  r->add(prefix + "minimum_us", 1e6 * times.minimum());
  r->add(prefix + "p90_us", 1e6 * times.p90());
}
// ---- Checks

/// These rows of a tensor alone.
template <int Rank>
testing::Tensor<Rank> rows_of(const testing::Tensor<Rank>& all, const std::vector<RowInstance>& rows) {
  const TensorView<Rank> from = all.view();
  typename testing::Tensor<Rank>::Shape shape;
  std::copy_n(from.shape, Rank, shape.begin());
  shape[0] = static_cast<std::int64_t>(rows.size());
  testing::Tensor<Rank> some(from.dtype, shape);
  const auto bytes = static_cast<std::size_t>(from.stride[0] * size_of(from.dtype));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(static_cast<char*>(some.view().data) + i * bytes,
                static_cast<const char*>(from.data) + static_cast<std::size_t>(rows[i].row) * bytes, bytes);
  }
  return some;
}

/// o and lse of a few rows against the oracle.
testing::Comparison check_rows(const Forest& forest, const LayerKind& kind, const LayerInput& input) {
  std::int32_t longest = 1;
  for (const Sequence& s : forest.sequences) longest = std::max(longest, forest.path_end(s.node));
  testing::SampledRows sample(forest, std::clamp(500'000 / (longest * kind.Hq), 1, 6));
  testing::Tensor<4> k = input.k.fetch(), v = input.v.fetch();
  testing::Tensor<3> q = rows_of(input.q.fetch(), sample.rows), o = rows_of(input.o.fetch(), sample.rows);
  testing::Tensor<2> lse = rows_of(input.lse.fetch(), sample.rows);
  KvPool pool;
  pool.k = k.view(), pool.v = v.view();
  Attend host;
  host.q = q.view(), host.kv = {&pool, 1}, host.o = o.view(), host.lse = lse.view();
  for (std::size_t i = 0; i < sample.rows.size(); ++i) sample.rows[i].row = static_cast<std::int32_t>(i);
  RectangleInput alone = sample.input(forest);
  alone.q_rows = static_cast<std::int32_t>(sample.rows.size());
  return testing::check_forward(testing::answer_forward(alone, kind, host), host);
}

/// sum <x, y> over all rows, and the same of the absolute values. `named` says which rows of a cache count.
template <int Rank>
std::pair<double, double> inner(const BenchTensor<Rank>& x, const BenchTensor<Rank>& y,
                                const std::vector<char>& named = {}) {
  const std::vector<double> a = testing::to_doubles(x.fetch().view()), b = testing::to_doubles(y.fetch().view());
  const std::size_t row = a.size() / std::max<std::size_t>(named.size(), 1);
  double sum = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!named.empty() && !named[i / row]) continue;
    sum += a[i] * b[i];
    size += std::abs(a[i] * b[i]);
  }
  return {sum, size};
}

/// Two identities of the gradients of all rows and keys: sum dq q = sum dk k, since each score is bilinear in them, and
/// sum dv v = sum dout o. A part that is missing or taken twice breaks them. Empty if they hold.
std::string check_gradients(const Forest& forest, const LayerInput& input) {
  constexpr double kBound = 0x1p-10;  // of sums of absolute values, whose bf16 errors are many and independent
  const PoolShape& pool = forest.pools[0];
  std::vector<char> named(static_cast<std::size_t>(pool.num_pages) * static_cast<std::size_t>(pool.page_size), 0);
  testing::for_each_named_token(forest, [&](const testing::VisibleKey& key) {
    named[static_cast<std::size_t>(std::int64_t{key.page} * pool.page_size + key.slot)] = 1;
  });
  const auto [queries, query_size] = inner(input.dq, input.q);
  const auto [keys, key_size] = inner(input.dk, input.k, named);
  const auto [values, value_size] = inner(input.dv, input.v, named);
  const auto [outputs, output_size] = inner(input.dout, input.o);
  if (!(std::abs(queries - keys) <= kBound * (query_size + key_size))) return "sum dq q is not sum dk k";
  if (!(std::abs(values - outputs) <= kBound * (value_size + output_size))) return "sum dv v is not sum dout o";
  return "";
}

// ---- Attention

/// A workload's forest, planned, on its input sets.
struct AttentionRun {
  Forest forest;
  LayerKind kind;
  bool training;
  std::unique_ptr<PlannedCall> call;
  std::vector<std::unique_ptr<LayerInput>> sets;

  AttentionRun(const Target& target, Forest placed, const LayerKind& heads, bool backward, PlanOptions options)
      : forest(std::move(placed)), kind(heads), training(backward) {
    options.backward = backward;
    call = std::make_unique<PlannedCall>(target, forest, kind, options);
    sets.push_back(std::make_unique<LayerInput>(target, forest, kind, training, 1));
    for (int n = 1; n < set_count(*target.machine, sets[0]->bytes()); ++n) {
      sets.push_back(std::make_unique<LayerInput>(target, forest, kind, training, static_cast<std::uint64_t>(n) + 1));
    }
    target.machine->wait();
  }

  void run(int set, Stream stream) const {
    const LayerInput& input = *sets[static_cast<std::size_t>(set)];
    throw_if_error(call->forward(input.attend(), stream));
    if (training) throw_if_error(call->backward(input.attend_grad(), stream));
  }
  Contender contender() const {
    return {static_cast<int>(sets.size()), [this](int set, Stream s) { run(set, s); }};
  }
  /// Runs the first set and checks some of its rows.
  testing::Comparison check(const Target& target) const {
    run(0, {});
    target.machine->wait();
    return check_rows(forest, kind, *sets[0]);
  }
  Work work() const {
    const Counters c = count(call->plan);
    ForestStats stats;
    throw_if_error(forest_stats(forest, &stats));
    const double token = 2.0 * kind.Hkv * (kind.D + kind.Dv), row = kind.Hq * (2.0 * (kind.D + kind.Dv) + 4);
    Work w;
    w.distinct_bytes = static_cast<double>(stats.unique_tokens) * token + static_cast<double>(stats.rows) * row;
    w.bytes = static_cast<double>(c.kv_bytes + c.q_bytes + c.partial_bytes);
    w.flops = static_cast<double>(c.flops_forward);
    w.exponentials = static_cast<double>(c.exps);
    if (!training) return w;
    w.distinct_bytes *= 3;  // the forward's; K, V, q, o, dout again; dk, dv, dq
    w.bytes = 0;            // counters know the forward's only
    w.flops += static_cast<double>(c.flops_backward);
    w.exponentials *= 2;
    return w;
  }
};

void add_floor(const Work& work, const Ceilings& ceilings, double seconds, Record* r) {
  const Floor floor = floor_of(work, ceilings);
  r->add("floor_us", 1e6 * floor.seconds).add("floor_of", floor.bound).add("floor_fraction", floor.seconds / seconds);
  r->add("GB/s", 1e-9 * work.distinct_bytes / seconds).add("TFLOP/s", 1e-12 * work.flops / seconds);
}

/// What one step costs beside its layers.
void add_planning(const Target& target, AttentionRun* run, Record* r) {
  PlanOptions options;
  options.backward = run->training;
  options.target_parallelism = target.blocks;
  Plan plan;
  r->add("plan_us", 1e6 * median_seconds([&] {
                      throw_if_error(make_plan(target.context, run->forest, run->kind, options, &plan, target.space));
                    }));
  if (target.space != MemorySpace::device) return;
  r->add("upload_us", 1e6 * median_seconds([&] {
                        run->call->upload_again();
                        target.machine->wait();
                      }));
  r->add("image_bytes", run->call->device_plan().image_bytes);
}

Result attention(const Target& target, const BenchWorkload& w, std::int32_t page_size, const Ceilings& ceilings,
                 bool quick) {
  const bool training = w.kind == "train";
  PlanOptions never;
  never.sharing = Sharing::never;
  AttentionRun shared(target, place(topology_of(w), page_size), w.heads, training, {});
  // Training without sharing is whole sequences with keys and values of their own.
  AttentionRun unshared(target, place(topology_of(w, training), page_size), w.heads, training, never);
  Result result;
  Record& r = result.figures;
  r.add("implementation",
        training ? shared.call->plan.header.backward_implementation : shared.call->plan.header.implementation);
  r.add("sets", static_cast<int>(shared.sets.size()));
  const testing::Comparison mine = shared.check(target), other = unshared.check(target);
  r.add("error", mine.error).add("bound", mine.bound);
  std::string wrong = !mine.ok ? mine.text : !other.ok ? "unshared: " + other.text : "";
  if (wrong.empty() && training) wrong = check_gradients(shared.forest, *shared.sets[0]);
  if (!wrong.empty()) {
    result.outcome = Outcome::failed;
    result.text = wrong;
    return result;
  }
  r.append(target.machine->clocks("_before"));
  const std::vector<Contender> contenders = {shared.contender(), unshared.contender()};
  const std::vector<Times> times = graph_times(*target.machine, contenders, quick ? 10 : kReplays);
  r.append(target.machine->clocks("_after"));
  add_times(times[0], "", &r);
  add_floor(shared.work(), ceilings, times[0].median(), &r);
  add_times(times[1], "unshared_", &r);
  r.add("vs_unshared", times[1].median() / times[0].median());
  r.add("unshared_floor_us", 1e6 * floor_of(unshared.work(), ceilings).seconds);
  const bool same_plan = shared.call->plan == unshared.call->plan;
  r.add("plan_equal", same_plan);
  if (shared.forest.sequences.size() == 1 && !same_plan) return Result::failure("one sequence, and it is shared");
  r.add("eager_us", 1e6 * eager_times(*target.machine, contenders[0], 20).median());
  add_planning(target, &shared, &r);
  return result;
}

// ---- merge_states, rope_shift: floors of copies

/// Times one way of a workload whose floor is moving its bytes, and adds what that says.
void add_copy_times(const Machine& machine, const Contender& contender, double bytes, const Ceilings& ceilings,
                    bool quick, Record* r) {
  r->add("sets", contender.sets);
  r->append(machine.clocks("_before"));
  const Times times = graph_times(machine, {contender}, quick ? 10 : kReplays)[0];
  r->append(machine.clocks("_after"));
  add_times(times, "", r);
  const double floor = bytes / ceilings.copy;
  r->add("floor_us", 1e6 * floor).add("floor_of", "copy").add("floor_fraction", floor / times.median());
  r->add("GB/s", 1e-9 * bytes / times.median());
  r->add("eager_us", 1e6 * eager_times(machine, contender, 20).median());
}

struct MergeInput {
  std::vector<BenchTensor<3>> o;
  std::vector<BenchTensor<2>> lse;
  std::vector<State> parts;
  BenchTensor<3> out_o;
  BenchTensor<2> out_lse;

  MergeInput(const Target& target, const BenchWorkload& w, std::uint64_t seed) {
    const std::int64_t rows3[] = {w.rows, w.heads.Hq, w.heads.Dv}, rows2[] = {w.rows, w.heads.Hq};
    for (int p = 0; p < w.parts; ++p) {
      o.emplace_back(target, DType::bf16, rows3);
      lse.emplace_back(target, DType::f32, rows2);
      o.back().fill(100 * seed + static_cast<std::uint64_t>(2 * p));
      lse.back().fill(100 * seed + static_cast<std::uint64_t>(2 * p) + 1);
      parts.push_back({o.back().view(), lse.back().view()});
    }
    out_o = BenchTensor<3>(target, DType::bf16, rows3);
    out_lse = BenchTensor<2>(target, DType::f32, rows2);
  }
  std::int64_t bytes() const {
    return (out_o.bytes() + out_lse.bytes()) * (1 + static_cast<std::int64_t>(parts.size()));
  }
  MergeStates args(Stream stream) const { return {parts, {out_o.view(), out_lse.view()}, stream}; }
};

/// `width` elements of a (row, head).
std::vector<double> pair_of(testing::Tensor<3>& x, std::int64_t pair, std::int64_t width) {
  TensorView<3> one = x.view();
  one.data = static_cast<char*>(one.data) + pair * width * size_of(one.dtype);
  one.shape[0] = one.shape[1] = 1;
  return testing::to_doubles(one);
}

/// The first and the last (row, head), merged in f64.
testing::Comparison check_merge(const MergeInput& input) {
  const std::int64_t width = input.out_o.view().shape[2], count = input.out_lse.bytes() / 4;
  const std::int64_t pairs[] = {0, count - 1};
  testing::Expected want;
  want.width = width;
  want.magnitude = {0};
  want.value.resize(static_cast<std::size_t>(2 * width));
  double weights[2] = {};
  for (std::size_t p = 0; p < input.parts.size(); ++p) {
    const std::vector<double> lse = testing::to_doubles(input.lse[p].fetch().view());
    testing::Tensor<3> o = input.o[p].fetch();
    for (std::size_t i = 0; i < 2; ++i) {
      const double weight = std::exp(lse[static_cast<std::size_t>(pairs[i])]);
      double* sum = want.value.data() + static_cast<std::int64_t>(i) * width;
      for (const double x : pair_of(o, pairs[i], width)) *sum++ += weight * x;
      weights[i] += weight;
    }
  }
  testing::Tensor<3> out = input.out_o.fetch();
  std::vector<double> got;
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::int64_t d = 0; d < width; ++d)
      want.value[i * static_cast<std::size_t>(width) + static_cast<std::size_t>(d)] /= weights[i];
    want.block.push_back(0);
    const std::vector<double> o = pair_of(out, pairs[i], width);
    got.insert(got.end(), o.begin(), o.end());
  }
  return testing::compare(got, want, testing::kMergeTolerance, DType::bf16);
}

Result merge(const Target& target, const BenchWorkload& w, const Ceilings& ceilings, bool quick) {
  std::vector<std::unique_ptr<MergeInput>> sets;
  do {
    sets.push_back(std::make_unique<MergeInput>(target, w, sets.size() + 1));
  } while (static_cast<int>(sets.size()) < set_count(*target.machine, sets[0]->bytes()));
  const auto call = [&](int set, Stream stream) {
    throw_if_error(merge_states(target.context, sets[static_cast<std::size_t>(set)]->args(stream)));
  };
  call(0, {});
  target.machine->wait();
  Result result = judged(check_merge(*sets[0]), "");
  if (result.outcome != Outcome::passed) return result;
  add_copy_times(*target.machine, {static_cast<int>(sets.size()), call}, static_cast<double>(sets[0]->bytes()),
                 ceilings, quick, &result.figures);
  return result;
}

struct ShiftInput {
  BenchTensor<3> x, out;
  ShiftInput(const Target& target, const BenchWorkload& w, std::uint64_t seed) {
    const std::int64_t shape[] = {w.tokens, w.heads.Hkv, w.heads.D};
    x = BenchTensor<3>(target, DType::bf16, shape);
    out = BenchTensor<3>(target, DType::bf16, shape);
    x.fill(seed);
  }
  std::int64_t bytes() const { return x.bytes() + out.bytes(); }
};

Result shift(const Target& target, const BenchWorkload& w, const Ceilings& ceilings, bool quick) {
  constexpr std::int32_t kDelta = 1234;
  std::vector<double> frequencies;
  for (std::int32_t i = 0; i < w.heads.D / 2; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / w.heads.D));
  const ArrayThere<std::int32_t> deltas(target, std::vector<std::int32_t>{kDelta});
  std::vector<std::unique_ptr<ShiftInput>> sets;
  do {
    sets.push_back(std::make_unique<ShiftInput>(target, w, sets.size() + 1));
  } while (static_cast<int>(sets.size()) < set_count(*target.machine, sets[0]->bytes()));
  RopeShift args;
  args.deltas = deltas.span();
  args.lists_space = target.space;
  args.table.inv_freq = frequencies;
  args.table.dim = w.heads.D;
  const auto call = [&](int set, Stream stream) {
    RopeShift a = args;
    a.x = sets[static_cast<std::size_t>(set)]->x.view(), a.out = sets[static_cast<std::size_t>(set)]->out.view();
    a.stream = stream;
    throw_if_error(rope_shift(target.context, a));
  };
  call(0, {});
  target.machine->wait();
  const std::vector<double> x = testing::to_doubles(sets[0]->x.fetch().view());
  testing::Expected want;
  want.width = w.heads.D;
  want.value = x;
  want.block.assign(x.size() / static_cast<std::size_t>(w.heads.D), 0);
  want.magnitude = {0};
  for (std::size_t at = 0; at < x.size(); at += static_cast<std::size_t>(w.heads.D)) {
    const auto begin = x.begin() + static_cast<std::ptrdiff_t>(at);
    std::vector<double> row(begin, begin + w.heads.D);
    testing::detail::rotate(args.table, kDelta, 1, &row);
    std::copy(row.begin(), row.end(), want.value.begin() + static_cast<std::ptrdiff_t>(at));
  }
  Result result = judged(testing::compare(testing::to_doubles(sets[0]->out.fetch().view()), want,
                                          testing::rope_tolerance(DType::f32, kDelta), DType::bf16),
                         "");
  if (result.outcome != Outcome::passed) return result;
  add_copy_times(*target.machine, {static_cast<int>(sets.size()), call}, static_cast<double>(sets[0]->bytes()),
                 ceilings, quick, &result.figures);
  return result;
}

/// The target, planning with what the stage constants measured for the workloads' type.
Target with_costs(Target target, const std::vector<Record>& constants) {
  for (const Record& line : constants) {
    if (!line.has("item_ns") || line.text("storage") != "bf16") continue;
    const std::string name = line.text("implementation");
    CostModel cost = detail::find(target.context.tree_attention, name.c_str())->cost;
    cost.item = line.value("item_ns"), cost.kv_element = line.value("kv_element_ns"), cost.mac = line.value("mac_ns");
    cost.few_kv_element = line.value("few_kv_element_ns"), cost.few_mac = line.value("few_mac_ns");
    cost.partial = line.value("partial_ns"), cost.min_item = line.value("min_item_ns");
    throw_if_error(set_cost(&target.context, name.c_str(), cost));
  }
  return target;
}

}  // namespace

Stage bench_stage(const StageOptions& options) {
  constexpr double kSecondsOfBench = 120;
  Stage stage{"bench",
              {},
              {"case", "us", "floor_us", "floor_of", "floor_fraction", "vs_unshared", "plan_us", "eager_us"},
              nullptr};
  const MakeTarget make = options.target;
  const bool quick = options.quick;
  const std::string folder = options.folder;
  for (const BenchWorkload& w : read_workloads(options.workloads)) {
    const auto add = [&](const std::string& layout, const auto& run) {
      const auto on_target = [=] {
        const std::vector<Record> constants = read_records(folder + "/constants.jsonl");
        const Target target = with_costs(target_of(make), constants);
        return run(target, Ceilings(constants, static_cast<double>(target.machine->cache_bytes())));
      };
      stage.cases.push_back({w.name + layout, on_target, kSecondsOfBench});
    };
    if (w.kind == "merge") {
      add("/merge_states", [=](const Target& t, const Ceilings& c) { return merge(t, w, c, quick); });
    } else if (w.kind == "shift") {
      add("/rope_shift", [=](const Target& t, const Ceilings& c) { return shift(t, w, c, quick); });
    } else {
      for (const std::int32_t page : {16, 0}) {
        if (page == 0 && (quick || w.kind == "train")) continue;
        add(page == 0 ? "/contiguous" : "/page:16",
            [=](const Target& t, const Ceilings& c) { return attention(t, w, page, c, quick); });
      }
    }
  }
  stage.finish = [folder](const std::vector<Record>& lines) { write_bench_file(folder, lines); };
  return stage;
}

}  // namespace prefixshare::gpu
