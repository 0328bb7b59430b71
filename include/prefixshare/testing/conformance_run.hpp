// SPDX-License-Identifier: Apache-2.0
// What run_conformance does; its contract is in conformance.hpp.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/context.hpp"
#include "prefixshare/testing/attention_matrix.hpp"
#include "prefixshare/testing/conformance.hpp"
#include "prefixshare/testing/oracle.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {
namespace detail {

/// Bits of the outputs.
inline std::vector<std::uint64_t> output_hashes(const Problem& p) {
  std::vector<std::uint64_t> hashes = {p.o.hash(), p.lse.hash(), p.dq.hash()};
  for (const Problem::Pool& pool : p.pools) hashes.push_back(pool.dk.hash()), hashes.push_back(pool.dv.hash());
  for (const float x : p.dsinks) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    hashes.push_back(bits);
  }
  return hashes;
}

/// Runs the cases of one implementation.
class Conformance {
 public:
  Conformance(const Context& context, const std::string& name, const ConformanceOptions& options)
      : context_(context), options_(options) {
    report_.implementation = name;
    report_.status = force_implementation(&context_, name.c_str());
    forward_ = prefixshare::detail::find(context_.tree_attention, name.c_str()) != nullptr;
    report_.backward = options.backward && context_.tree_attention_backward.forced[0] != '\0';
    if (report_.status.ok() && !forward_ && !report_.backward) {
      report_.status = prefixshare::detail::list_error("name", "implementations of attention", 0, ">=", 1,
                                                       StatusCode::invalid_argument);
    }
  }

  ConformanceReport run() {
    if (!report_.status.ok() || !find_plain()) return report_;
    learn();
    for (std::uint64_t seed = 1; seed <= options_.seeds; ++seed) {
      std::uint64_t number = seed * 1000;
      for (const Levels& row : pairwise_levels(allowed_, seed)) {
        for (const PackedRows packed : {PackedRows::few, PackedRows::many}) {
          judge(make_case(packed, row, ++number), Fault::wrong_result, describe(row));
        }
      }
    }
    if (options_.walk) walk();
    return report_;
  }

 private:
  /// How a case went.
  enum class Outcome { right, wrong, declined, refused };

  // ---- What it can

  /// The first types and head dims that it takes when all else is plain.
  bool find_plain() {
    const Levels types = all_levels()[0], dims = all_levels()[1];
    for (const std::int32_t t : types) {
      for (const std::int32_t d : dims) {
        plain_ = Levels(kFactors, 0);
        plain_[0] = t;
        plain_[1] = d;
        plain_outcome_ = probe(plain_, Fault::wrong_result, true);
        if (plain_outcome_ != Outcome::declined) return true;
      }
    }
    report_.status = why_;
    return false;
  }

  /// Asks for every level of every factor, with all else plain.
  void learn() {
    for (std::size_t f = 0; f < kFactors; ++f) {
      const FactorLevels& factor = factor_levels()[f];
      ConformanceReport::Ability ability;
      ability.factor = factor.name;
      allowed_.emplace_back();
      for (std::size_t l = 0; l < factor.levels.size(); ++l) {
        Levels levels = plain_;
        levels[f] = static_cast<std::int32_t>(l);
        const bool option = factor.optional && plain_outcome_ == Outcome::right;
        const Fault when_wrong = option ? Fault::accepts_too_much : Fault::wrong_result;
        const bool plain = levels == plain_;
        const Outcome outcome = plain ? plain_outcome_ : probe(levels, when_wrong, factor.planned);
        if (plain || outcome == Outcome::right) allowed_.back().push_back(levels[f]);
        std::vector<std::string>& names = outcome == Outcome::declined  ? ability.declined
                                          : outcome == Outcome::refused ? ability.refused
                                          : outcome == Outcome::wrong   ? ability.wrong
                                                                        : ability.yes;
        names.push_back(factor.levels[l]);
      }
      report_.abilities.push_back(std::move(ability));
    }
  }

  /// The worst outcome of a few cases with these levels. Where the call refuses what could have been declined
  /// (`planned`), that is a fault.
  Outcome probe(const Levels& levels, Fault when_wrong, bool planned) {
    Outcome worst = Outcome::declined;
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      const PackedRows packed = seed % 2 == 0 ? PackedRows::few : PackedRows::many;
      const Outcome outcome = judge(make_case(packed, levels, seed), when_wrong, describe(levels));
      const bool refused = outcome == Outcome::refused;
      if (refused && planned)
        note(Fault::accepts_too_much, false, describe(levels), "the call says " + to_string(why_));
      if (refused || outcome == Outcome::wrong) return outcome;
      if (outcome == Outcome::right) worst = outcome;
    }
    return worst;
  }

  void walk() {
    std::int32_t i = 0;
    Levels levels;
    for (const std::int32_t group : {1, 4}) {
      for (std::int32_t rows = 1; rows <= kMostPackedRows / group; ++rows, ++i) {
        const AttentionCase c = make_packed_case(allowed_, group, rows, i, &levels);
        judge(c, Fault::wrong_result,
              describe(levels) + ", " + std::to_string(rows) + " rows of " + std::to_string(group) + " heads");
      }
    }
  }

  // ---- One case

  void note(Fault f, bool good, const std::string& where, const std::string& what) {
    ConformanceReport::Check& c = report_.checks[static_cast<std::size_t>(f)];
    ++c.cases;
    if (good) return;
    ++c.failed;
    if (c.first.empty()) c.first = where + ": " + what;
  }

  Outcome judge(const AttentionCase& c, Fault when_wrong, const std::string& where) {
    Problem p;
    ProblemOptions options = c.options;
    options.backward = report_.backward && !options.alias_segments;
    why_ = make_problem(c.topology, options, &p);
    if (!why_.ok()) return Outcome::declined;
    if (options.bias) hide_with_bias(&p);
    Plan plan;
    if (!make_plan_of(c, options.backward, p.forest, &plan)) return Outcome::declined;
    const std::uint64_t inputs = p.input_hash();
    why_ = run_forward(plan, &p, 1);
    const bool forward_refused = !why_.ok();
    if (why_.ok()) why_ = run_backward(plan, &p, 1);
    if (!why_.ok()) {
      check_refusal(plan, &p, forward_refused, where);
      return Outcome::refused;
    }
    const Comparison result = compare_with_oracle(&p);
    note(when_wrong, result.ok, where, result.text);
    if (when_wrong != Fault::wrong_result) note(Fault::wrong_result, true, "", "");
    note(Fault::writes_outside, p.guards_intact(), where, "guard bands have changed");
    note(Fault::writes_inputs, p.input_hash() == inputs, where, "inputs have changed");
    check_bits(plan, &p, where);
    return result.ok ? Outcome::right : Outcome::wrong;
  }

  bool make_plan_of(const AttentionCase& c, bool backward, const Forest& forest, Plan* plan) {
    Context planning = context_;
    if (c.plan.cost.item == eager_cost().item && forward_) {
      CostModel cost = c.plan.cost;
      const auto* entry = prefixshare::detail::find(planning.tree_attention, report_.implementation.c_str());
      cost.row_step = entry->cost.row_step;
      cost.few_rows = entry->cost.few_rows;
      cost.by_head = entry->cost.by_head;
      why_ = set_cost(&planning, report_.implementation.c_str(), cost);
      if (!why_.ok()) return false;
    }
    PlanOptions options = c.plan;
    options.backward = backward;
    why_ = make_plan(planning, forest, c.options.kind, options, plan);
    return why_.ok();
  }

  /// Which part comes when: of three, 1, then 0, then 2.
  static std::int32_t turn(std::int32_t i, std::int32_t parts) { return parts - 1 - (i + 1) % parts; }

  /// Into poisoned outputs, a part after the other.
  Status run_forward(const Plan& plan, Problem* p, std::int32_t parts) {
    if (Status s = p->bind_workspace(plan, parts)) return s;
    p->poison_outputs();
    for (std::int32_t i = 0; i < parts; ++i) {
      if (Status s = tree_attention_part(context_, plan, p->attend(), turn(i, parts), parts)) return s;
    }
    return {};
  }
  /// After the forward, where the plan has a backward.
  Status run_backward(const Plan& plan, Problem* p, std::int32_t parts) {
    for (std::int32_t i = 0; plan.header.backward && i < parts; ++i) {
      if (Status s = tree_attention_backward_part(context_, plan, p->attend_grad(), turn(i, parts), parts)) return s;
    }
    return {};
  }
  Status run_both(const Plan& plan, Problem* p, std::int32_t parts) {
    if (Status s = run_forward(plan, p, parts)) return s;
    return run_backward(plan, p, parts);
  }
  Status run_executor(const Plan& plan, Problem* p) {
    if (Status s = p->bind_workspace(plan, context_.executor.concurrency)) return s;
    p->poison_outputs();
    if (Status s = tree_attention(context_, plan, p->attend())) return s;
    return plan.header.backward ? tree_attention_backward(context_, plan, p->attend_grad()) : Status{};
  }

  static Comparison compare_with_oracle(Problem* p) {
    const LayerKind& kind = p->options.kind;
    Comparison whole = check_forward(answer_forward(p->forest, kind, p->attend()), p->attend());
    if (!p->dq) return whole;
    const AttendGrad grad = p->attend_grad();
    const Comparison gradients = check_backward(answer_backward(p->forest, kind, grad), grad);
    if (whole.ok && !gradients.ok) whole.text.clear();
    if (!gradients.ok) whole.text += gradients.text;
    whole.ok = whole.ok && gradients.ok;
    return whole;
  }

  void check_bits(const Plan& plan, Problem* p, const std::string& where) {
    const std::vector<std::uint64_t> first = output_hashes(*p);
    const auto same = [&](const Status& s) { return s.ok() && output_hashes(*p) == first; };
    const bool again = same(run_both(plan, p, 1));
    note(Fault::not_repeatable, again, where, "another run gives other bits");
    if (!again) return;  // then nothing is known of parts
    note(Fault::depends_on_parts, same(run_both(plan, p, 3)), where, "three parts give other bits, or are refused");
    if (context_.executor.parallel_for == nullptr) return;
    note(Fault::depends_on_parts, same(run_executor(plan, p)), where, "the executor gives other bits, or is refused");
  }

  /// A call that is refused leaves everything as it was, whichever part says so.
  void check_refusal(const Plan& plan, Problem* p, bool forward, const std::string& where) {
    constexpr std::int32_t kParts = 3;
    const Status why = why_;
    const auto untouched = [&] {
      return p->gradients_untouched() && (!forward || p->forward_untouched()) && p->guards_intact();
    };
    bool clean = untouched();
    for (std::int32_t i = 0; forward && i < kParts && p->bind_workspace(plan, kParts).ok(); ++i) {
      const bool refused = !tree_attention_part(context_, plan, p->attend(), i, kParts).ok();
      clean = clean && refused && untouched();
    }
    note(Fault::writes_on_error, clean, where, "outputs were written, though it says " + to_string(why));
  }

  Context context_;
  ConformanceOptions options_;
  ConformanceReport report_;
  bool forward_ = false;
  Levels plain_;
  Outcome plain_outcome_ = Outcome::declined;
  AllowedLevels allowed_;
  Status why_;
};

}  // namespace detail

inline ConformanceReport run_conformance(const Context& context, const std::string& name,
                                         const ConformanceOptions& options) {
  return detail::Conformance(context, name, options).run();
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
