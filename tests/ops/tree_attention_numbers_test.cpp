// SPDX-License-Identifier: Apache-2.0
// tree_attention, forward: numbers that are not finite, logits that are large and nearly tied, subnormals. On every
// implementation, with few packed rows and with many, with head dims that fill vectors and that do not.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "support/attention.hpp"

namespace {

using namespace prefixshare;
using namespace prefixshare::tests;
using prefixshare::testing::answer_forward;
using prefixshare::testing::check_forward;
using prefixshare::testing::to_doubles;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr DType kTypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16};

LayerKind kind_of(DType type, std::int32_t D) {
  LayerKind kind;
  kind.Hq = 4;
  kind.Hkv = 2;
  kind.D = kind.Dv = D;
  kind.q_dtype = kind.kv_dtype = type;
  return kind;
}

// ---- Numbers that are not finite
// -------------------------------------------------------------------------------------

/// Element 5 of a key or value of the second KV head.
struct Poison {
  bool key;
  double x;
};
constexpr Poison kPoisons[] = {{true, kNaN}, {true, kInf}, {true, -kInf}, {false, kNaN}, {false, kInf}, {false, -kInf}};
constexpr std::int64_t kPoisonedDim = 5;

/// Row i of o, as it should be: clean, or with a NaN where the value is, or all NaN.
enum class Want { clean, nan_dim, all_nan };

void check_row(Want want, const double* got, const double* clean, std::int64_t width) {
  std::int64_t wrong = 0;
  for (std::int64_t d = 0; d < width; ++d) {
    const bool nan = want == Want::all_nan || (want == Want::nan_dim && d == kPoisonedDim);
    wrong += nan ? !std::isnan(got[d]) : std::memcmp(got + d, clean + d, sizeof(double)) != 0;
  }
  CHECK(wrong == 0);
}

/// Poisons the token in `slot` of pool 0, runs, and puts it back. NaN: exactly the rows and heads that see it are
/// poisoned, and the others keep every bit. Infinities: as the oracle has it.
void run_poisoned(const NamedContext& c, const Plan& plan, const Poison& poison, std::int32_t slot,
                  const Outputs& clean, Problem* p) {
  const LayerKind& kind = p->options.kind;
  testing::Tensor<4>& tensor = poison.key ? p->pools[0].k : p->pools[0].v;
  const std::int64_t at = (std::int64_t{slot} * kind.Hkv + 1) * kind.D + kPoisonedDim;
  const double before = to_doubles(tensor.view())[static_cast<std::size_t>(at)];
  tensor.set(at, poison.x);
  run_forward(c.context, plan, p);
  if (std::isinf(poison.x)) {
    check_comparison(check_forward(answer_forward(p->forest, kind, p->attend()), p->attend()));
  }
  const Outputs got = outputs_of(*p);
  testing::for_each_row(p->forest, kind.window, {}, [&](const testing::VisibleRow& row) {
    const bool sees = std::any_of(row.keys.begin(), row.keys.end(), [&](const auto& key) { return key.slot == slot; });
    for (std::int32_t h = 0; h < kind.Hq; ++h) {
      const bool poisoned = sees && h / kind.group() == 1;
      if (poisoned && !std::isnan(poison.x)) continue;
      const std::size_t i = static_cast<std::size_t>(row.row * kind.Hq + h), dim = static_cast<std::size_t>(kind.Dv);
      check_row(!poisoned    ? Want::clean
                : poison.key ? Want::all_nan
                             : Want::nan_dim,
                &got.values[0][i * dim], &clean.values[0][i * dim], kind.Dv);
      check_row(poisoned && poison.key ? Want::all_nan : Want::clean, &got.values[1][i], &clean.values[1][i], 1);
    }
  });
  tensor.set(at, before);
}

/// Poisons one token after the other.
void run_poisons(const NamedContext& c, const Topology& topology, const LayerKind& kind) {
  ProblemOptions options;
  options.kind = kind;
  Problem p;
  require_ok(make_problem(topology, options, &p));
  PlanOptions plan_options;
  plan_options.cost = eager_cost();
  const Plan plan = proved_plan(c, p.forest, kind, plan_options);
  run_forward(c.context, plan, &p);
  const Outputs clean = outputs_of(p);
  std::int32_t turn = 0;
  for (const Segment& s : p.forest.segments) {
    for (std::int32_t token = 0; token < s.length; token += 1 + token % 7, ++turn) {
      const Poison& poison = kPoisons[turn % 6];
      INFO((poison.key ? "key " : "value ") << token << " of " << s.length << ": " << poison.x);
      run_poisoned(c, plan, poison, s.offset + token, clean, &p);
    }
  }
}

}  // namespace

TEST_CASE("tree_attention: NaN and infinity in a key or value reach the rows that see them and no other",
          "[attention]") {
  for (const NamedContext& c : attention_contexts(DType::bf16)) {
    for (const DType type : kTypes) {
      for (const std::int32_t D : {16, 20}) {
        LayerKind kind = kind_of(type, D);
        if (!c.takes(kind)) continue;
        for (const std::int32_t rows : {4, 40}) {  // few packed rows, and many
          for (const std::int32_t window : {-1, 5}) {
            kind.window = window;
            INFO(c.name << ", " << to_string(type) << ", D " << D << ", rows " << rows << ", window " << window);
            Random random(1);
            run_poisons(c, testing::chain(std::vector<std::int32_t>{70}, rows), kind);
            run_poisons(c, draft_tree(9, rows, &random), kind);
            if (window > 0) continue;
            run_poisons(c, testing::prefix_group(9, std::vector<std::int32_t>{4, 1, rows / 2}, true), kind);
          }
        }
      }
    }
  }
}

TEST_CASE("tree_attention: NaN in q poisons its row and head", "[attention]") {
  for (const NamedContext& c : attention_contexts()) {
    for (const std::int32_t D : {16, 20}) {
      for (const std::int32_t rows : {4, 40}) {
        INFO(c.name << ", D " << D << ", rows " << rows);
        ProblemOptions options;
        options.kind = kind_of(DType::f32, D);
        Problem p;
        require_ok(make_problem(testing::chain(std::vector<std::int32_t>{70}, rows), options, &p));
        const Plan plan = proved_plan(c, p.forest, options.kind, {});
        run_forward(c.context, plan, &p);
        const Outputs clean = outputs_of(p);
        p.q.set((3 * 4 + 1) * D + 2, kNaN);  // row 3, head 1
        run_forward(c.context, plan, &p);
        const Outputs got = outputs_of(p);
        for (std::size_t i = 0; i < static_cast<std::size_t>(rows) * 4; ++i) {
          const Want want = i == 3 * 4 + 1 ? Want::all_nan : Want::clean;
          const std::size_t at = i * static_cast<std::size_t>(D);
          check_row(want, &got.values[0][at], &clean.values[0][at], D);
          check_row(want, &got.values[1][i], &clean.values[1][i], 1);
        }
      }
    }
  }
}

// ---- Large logits
// ----------------------------------------------------------------------------------------------------

TEST_CASE("tree_attention: large logits stay within what the scores are worth", "[attention]") {
  const std::vector<NamedContext> contexts = attention_contexts(DType::bf16);
  for (const double amplitude : {30.0, 300.0, 3000.0}) {
    for (const DType type : kTypes) {
      for (const std::int32_t rows : {4, 40}) {
        INFO(to_string(type) << ", amplitude " << amplitude << ", rows " << rows);
        ForwardCase c;
        c.topology = testing::chain(std::vector<std::int32_t>{90}, rows);
        c.options.kind = kind_of(type, 32);
        c.options.q_amplitude = amplitude;
        run_case(contexts, c);
      }
    }
  }
}

namespace {

/// Queries and keys of +-1 in one pattern, so that every logit is `logit`, but for one or two elements of some keys,
/// which are larger by 2^-7: what all storage types hold.
void nearly_tie(double logit, Problem* p) {
  const LayerKind& kind = p->options.kind;
  Random random(7);
  const auto sign = [](std::int64_t d) { return d % 3 == 0 ? -1.0 : 1.0; };
  const double q = logit / std::sqrt(static_cast<double>(kind.D));  // sum over D of q, times 1 / sqrt(D)
  for (std::int64_t i = 0; i < testing::count_of(p->q.view()); ++i) p->q.set(i, q * sign(i % kind.D));
  testing::Tensor<4>& k = p->pools[0].k;
  for (std::int64_t i = 0; i < testing::count_of(k.view()); ++i) {
    k.set(i, sign(i % kind.D) * (random.chance(1.0 / kind.D) ? 1 + 0x1p-7 : 1));
  }
}

}  // namespace

TEST_CASE("tree_attention: nearly tied logits up to 1e4 are told apart as far as the scores are known", "[attention]") {
  const std::vector<NamedContext> contexts = attention_contexts(DType::bf16);
  for (const DType type : kTypes) {
    for (const std::int32_t D : {64, 20}) {
      for (const std::int32_t rows : {4, 40}) {
        for (const double logit : {1.0, 100.0, 1e3, 1e4}) {
          INFO(to_string(type) << ", D " << D << ", rows " << rows << ", logit " << logit);
          ProblemOptions options;
          options.kind = kind_of(type, D);
          Problem p;
          require_ok(make_problem(testing::chain(std::vector<std::int32_t>{150}, rows), options, &p));
          nearly_tie(logit, &p);
          run_problem(contexts, {}, &p);
        }
      }
    }
  }
}

// ---- Subnormals
// ------------------------------------------------------------------------------------------------------

namespace {

/// The smallest positive number of a type, and the largest power of two that is subnormal.
double smallest(DType t) {
  return t == DType::f64 ? 0x1p-1074 : t == DType::f32 ? 0x1p-149 : t == DType::f16 ? 0x1p-24 : 0x1p-133;
}
double largest_subnormal_power(DType t) { return t == DType::f64 ? 0x1p-1023 : t == DType::f16 ? 0x1p-15 : 0x1p-127; }

/// `rows` rows that see all of a prefix.
Topology readers(std::int32_t prefix, std::int32_t rows) {
  Topology t;
  t.add_node(-1, prefix);
  for (std::int32_t r = 0; r < rows; ++r) t.add_sequence(0, 1);
  return t;
}

/// Calls f(problem options, rows) for every type and shape of these tests.
template <class F>
void for_each_shape(F&& f) {
  for (const DType type : kTypes) {
    for (const std::int32_t D : {16, 20}) {
      for (const std::int32_t rows : {2, 30}) {
        ProblemOptions options;
        options.kind = kind_of(type, D);
        INFO(to_string(type) << ", D " << D << ", rows " << rows);
        f(options, rows);
      }
    }
  }
}

}  // namespace

TEST_CASE("tree_attention: subnormal values come through as they are", "[attention]") {
  const std::vector<NamedContext> contexts = attention_contexts();
  for_each_shape([&](const ProblemOptions& options, std::int32_t rows) {
    const LayerKind& kind = options.kind;
    // As many equal keys and values as a power of two: o is the value, whatever the arithmetic.
    for (const std::int32_t keys : {1, 2, 64}) {
      Problem p;
      require_ok(make_problem(readers(keys, rows), options, &p));
      std::vector<double> value;
      for (std::int32_t d = 0; d < kind.D; ++d) value.push_back(smallest(kind.kv_dtype) * (d % 7));
      for (std::int64_t i = 0; i < testing::count_of(p.kv[0].k); ++i) {
        p.pools[0].k.set(i, smallest(kind.kv_dtype));
        p.pools[0].v.set(i, value[static_cast<std::size_t>(i % kind.D)]);
      }
      for (const NamedContext& c : contexts) {
        if (!c.takes(kind)) continue;
        INFO(c.name << ", keys " << keys);
        run_forward(c.context, proved_plan(c, p.forest, kind, {}), &p);
        const std::vector<double> o = to_doubles(p.o.view());
        for (std::size_t i = 0; i < o.size(); ++i) CHECK(o[i] == value[i % value.size()]);
      }
    }
  });
}

TEST_CASE("tree_attention: subnormal queries and keys count in the logits", "[attention]") {
  const std::vector<NamedContext> contexts = attention_contexts();
  for_each_shape([&](ProblemOptions options, std::int32_t rows) {
    // Every product is +-1 / 32: without the subnormals all logits would be zero.
    options.scale = 1;
    options.wide_outputs = true;
    const double tiny = largest_subnormal_power(options.kind.kv_dtype), large = 1 / tiny / 32;
    for (const bool tiny_keys : {false, true}) {
      INFO((tiny_keys ? "keys" : "queries"));
      Problem p;
      require_ok(make_problem(readers(9, rows), options, &p));
      Random random(3);
      for (std::int64_t i = 0; i < testing::count_of(p.q.view()); ++i) p.q.set(i, tiny_keys ? large : tiny);
      for (std::int64_t i = 0; i < testing::count_of(p.kv[0].k); ++i) {
        p.pools[0].k.set(i, (tiny_keys ? tiny : large) * (random.chance(0.5) ? 1 : -1));
      }
      run_problem(contexts, {}, &p);
      for (const double x : to_doubles(p.lse.view())) CHECK((std::isfinite(x) && std::abs(x - std::log(9)) > 1e-3));
    }
  });
}
