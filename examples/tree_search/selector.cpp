// SPDX-License-Identifier: Apache-2.0
#include "selector.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace tree_search {

namespace {

constexpr double kRounding = 1e-13;  // bounds and objectives, of sums around 1, are not known better
constexpr int kPriceSteps = 60;      // at most, per subproblem

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

void require(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(what);
}

void check(const SelectionProblem& p) {
  const std::size_t nodes = p.parents.size(), leaves = p.leaves.size();
  require(p.lengths.size() == nodes, "lengths: one per node");
  require(p.weights.size() == leaves, "weights: one per leaf");
  require(p.clusters.empty() || p.clusters.size() == leaves, "clusters: one per leaf, or none");
  require(std::isfinite(p.lambda_b) && p.lambda_b >= 0, "lambda_b: a number >= 0");
  require(std::isfinite(p.lambda_d) && p.lambda_d >= 0, "lambda_d: a number >= 0");
  for (std::size_t n = 0; n < nodes; ++n) {
    require(p.parents[n] >= -1 && p.parents[n] < static_cast<std::int32_t>(n), "parents: before their children");
    require(p.lengths[n] >= 0, "lengths: >= 0");
  }
  for (std::size_t i = 0; i < leaves; ++i) {
    require(p.leaves[i] >= 0 && at(p.leaves[i]) < nodes, "leaves: nodes of the tree");
    require(std::isfinite(p.weights[i]), "weights: numbers");
  }
}

/// Marks the nodes on the paths of the kept leaves; all of them without `keep`.
std::vector<char> union_of_paths(const SelectionProblem& p, const std::vector<std::uint8_t>* keep) {
  std::vector<char> on_path(p.parents.size(), 0);
  for (std::size_t i = 0; i < p.leaves.size(); ++i) {
    if (keep == nullptr || (*keep)[i]) on_path[at(p.leaves[i])] = 1;
  }
  for (std::size_t n = on_path.size(); n-- > 0;) {
    if (on_path[n] && p.parents[n] >= 0) on_path[at(p.parents[n])] = 1;
  }
  return on_path;
}

/// lambda_b * cost / cost(all) of each node; 0 for nodes that no leaf needs.
std::vector<double> node_costs(const SelectionProblem& p) {
  const std::vector<char> needed = union_of_paths(p, nullptr);
  std::vector<double> costs(p.parents.size(), 0);
  double all = 0;
  for (std::size_t n = 0; n < costs.size(); ++n) {
    if (needed[n]) costs[n] = p.cost == NodeCost::nodes ? 1 : p.lengths[n];
    all += costs[n];
  }
  for (double& cost : costs) cost = all > 0 ? p.lambda_b * cost / all : 0;
  return costs;
}

/// Labels become 0 .. K - 1; their number is returned.
std::size_t number_clusters(const SelectionProblem& p, std::vector<std::size_t>* cluster) {
  std::vector<std::int64_t> labels = p.clusters;
  std::sort(labels.begin(), labels.end());
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  for (const std::int64_t label : p.clusters) {
    cluster->push_back(at(std::lower_bound(labels.begin(), labels.end(), label) - labels.begin()));
  }
  return labels.size();
}

/// Branch and bound over leaves. Bounds come from a price per cluster: with 0 <= price <= bonus,
///   bonus * min(1, n) <= (bonus - price) + price * n   for n kept leaves of the cluster,
/// and with the right side in its place the objective is a sum over leaves and nodes, which one pass maximises.
class Selector {
 public:
  explicit Selector(const SelectionProblem& problem) : p_(problem), cost_(node_costs(problem)) {
    clusters_ = number_clusters(p_, &cluster_);
    bonus_ = clusters_ > 0 ? p_.lambda_d / static_cast<double>(clusters_) : 0;
    cluster_.resize(p_.leaves.size(), 0);  // without clusters: all in one that is worth nothing
    clusters_ = std::max<std::size_t>(clusters_, 1);
    price_.assign(clusters_, bonus_);
    fixed_.assign(p_.leaves.size(), Fixed::no);
  }

  Selection run(std::int64_t max_subproblems) {
    best_.objective = -std::numeric_limits<double>::infinity();
    while (true) {
      const double bound = best_bound();
      if (++best_.subproblems == 1) best_.bound = bound;
      if (bound > best_.objective + kRounding) {
        if (best_.subproblems >= max_subproblems) break;
        const std::size_t leaf = open_leaf();
        fixed_[leaf] = Fixed::in;
        trail_.push_back({leaf, false});
      } else if (!backtrack()) {
        best_.bound = best_.objective;
        break;
      }
    }
    return best_;
  }

 private:
  enum class Fixed : char { no, in, out };

  struct Decision {
    std::size_t leaf;
    bool last;  ///< both ways were tried when this one is
  };

  /// What one pass knows of a subtree: its best set of leaves that is not empty.
  struct Best {
    double value = 0;  ///< of what is taken below, and in the end less the node's cost
    bool forced = false;
    bool some = false;                                             ///< something is worth taking, or must be
    double only_value = -std::numeric_limits<double>::infinity();  ///< else the one that costs least:
    std::int64_t only = -1;                                        ///< a child (its node), or a leaf (- 2 - its index)
  };

  bool backtrack() {
    while (!trail_.empty() && trail_.back().last) {
      fixed_[trail_.back().leaf] = Fixed::no;
      trail_.pop_back();
    }
    if (trail_.empty()) return false;
    trail_.back().last = true;
    fixed_[trail_.back().leaf] = Fixed::out;
    return true;
  }

  /// The least bound that moving prices finds. Every pass also tries its leaves as a solution.
  double best_bound() {
    classify_clusters();
    double least = std::numeric_limits<double>::infinity();
    for (int step = 0; step < kPriceSteps; ++step) {
      const double bound = relax();
      if (std::isinf(bound)) return bound;  // every leaf is out
      const double objective = try_kept();
      least = std::min(least, bound);
      if (least <= best_.objective + kRounding) break;
      if (!move_prices(bound)) return objective;
    }
    return least;
  }

  /// Open: undecided. Covered: a leaf of it is in, so that its bonus is sure. Else every leaf of it is out.
  void classify_clusters() {
    open_.assign(clusters_, 0);
    covered_.assign(clusters_, 0);
    for (std::size_t i = 0; i < fixed_.size(); ++i) {
      if (fixed_[i] == Fixed::no) open_[cluster_[i]] = 1;
      if (fixed_[i] == Fixed::in) covered_[cluster_[i]] = 1;
    }
    for (std::size_t k = 0; k < clusters_; ++k) open_[k] = open_[k] && !covered_[k];
  }

  double worth(std::size_t leaf) const {
    return p_.weights[leaf] + (open_[cluster_[leaf]] ? price_[cluster_[leaf]] : 0);
  }

  static void offer(Best* best, double value, bool forced, std::int64_t which) {
    if (forced || value > 0) {
      best->value += value;
      best->forced = best->forced || forced;
      best->some = true;
    } else if (value >= best->only_value) {  // offers come last to first, so that the first of equals stays
      best->only_value = value;
      best->only = which;
    }
  }

  /// The largest value at the present prices, and the leaves that have it in kept_.
  double relax() {
    subtree_.assign(cost_.size() + 1, Best());  // the last is above the roots
    for (std::size_t i = fixed_.size(); i-- > 0;) {
      if (fixed_[i] == Fixed::out) continue;
      offer(&subtree_[at(p_.leaves[i])], worth(i), fixed_[i] == Fixed::in, -2 - static_cast<std::int64_t>(i));
    }
    for (std::size_t n = cost_.size(); n-- > 0;) {
      Best& best = subtree_[n];
      if (!best.some && best.only == -1) continue;  // no leaf below
      best.value = (best.some ? best.value : best.only_value) - cost_[n];
      offer(&subtree_[above(n)], best.value, best.forced, static_cast<std::int64_t>(n));
    }
    const Best& all = subtree_.back();
    double value = all.some ? all.value : all.only_value;
    for (std::size_t k = 0; k < clusters_; ++k) value += open_[k] ? bonus_ - price_[k] : covered_[k] ? bonus_ : 0;
    keep_taken();
    return value;
  }

  std::size_t above(std::size_t node) const { return p_.parents[node] < 0 ? cost_.size() : at(p_.parents[node]); }

  static bool takes(const Best& parent, double value, bool forced, std::int64_t which) {
    return parent.some ? forced || value > 0 : parent.only == which;
  }

  /// From the roots down: what each subtree's best set takes.
  void keep_taken() {
    taken_.assign(cost_.size() + 1, 0);
    taken_.back() = 1;
    for (std::size_t n = 0; n < cost_.size(); ++n) {
      const Best &best = subtree_[n], &parent = subtree_[above(n)];
      const bool there = best.some || best.only != -1;
      taken_[n] = there && taken_[above(n)] && takes(parent, best.value, best.forced, static_cast<std::int64_t>(n));
    }
    kept_.assign(fixed_.size(), 0);
    count_.assign(clusters_, 0);
    for (std::size_t i = 0; i < fixed_.size(); ++i) {
      const std::size_t node = at(p_.leaves[i]);
      if (fixed_[i] == Fixed::out || !taken_[node]) continue;
      if (!takes(subtree_[node], worth(i), fixed_[i] == Fixed::in, -2 - static_cast<std::int64_t>(i))) continue;
      kept_[i] = 1;
      ++count_[cluster_[i]];
    }
  }

  /// The objective of what the last pass takes, which is kept if there was none better.
  double try_kept() {
    double objective = 0;
    for (std::size_t i = 0; i < kept_.size(); ++i) objective += kept_[i] ? p_.weights[i] : 0;
    for (std::size_t n = 0; n < cost_.size(); ++n) objective -= taken_[n] ? cost_[n] : 0;
    for (const std::int64_t count : count_) objective += count > 0 ? bonus_ : 0;
    if (objective > best_.objective) {
      best_.objective = objective;
      best_.keep = kept_;
    }
    return objective;
  }

  /// A subgradient step with the length that would meet the best solution if the bound were linear. False where no
  /// price can move: the bound is then what the last pass takes.
  bool move_prices(double bound) {
    const auto slope = [this](std::size_t k) {  // of the bound in the price
      const double more = static_cast<double>(count_[k]) - 1;
      return !open_[k] || (more < 0 && price_[k] >= bonus_) || (more > 0 && price_[k] <= 0) ? 0 : more;
    };
    double norm = 0;
    for (std::size_t k = 0; k < clusters_; ++k) norm += slope(k) * slope(k);
    if (norm == 0) return false;
    const double step = (bound - best_.objective) / norm;
    for (std::size_t k = 0; k < clusters_; ++k) {
      price_[k] = std::clamp(price_[k] - step * slope(k), 0.0, bonus_);
    }
    return true;
  }

  /// A leaf of the cluster that the last bound flatters most.
  std::size_t open_leaf() const {
    double most = -1;
    std::size_t leaf = 0;
    for (std::size_t i = 0; i < fixed_.size(); ++i) {
      const std::size_t k = cluster_[i];
      if (fixed_[i] != Fixed::no || !open_[k]) continue;
      const double excess = count_[k] == 0 ? bonus_ - price_[k] : price_[k] * (static_cast<double>(count_[k]) - 1);
      if (excess > most) {
        most = excess;
        leaf = i;
      }
    }
    return leaf;
  }

  const SelectionProblem& p_;
  std::vector<double> cost_;
  std::vector<std::size_t> cluster_;  ///< per leaf
  std::size_t clusters_ = 0;
  double bonus_ = 0;  ///< of a covered cluster
  std::vector<double> price_;
  std::vector<char> open_, covered_;  ///< per cluster
  std::vector<Fixed> fixed_;          ///< per leaf
  std::vector<Decision> trail_;
  std::vector<Best> subtree_;        ///< per node, and above the roots
  std::vector<char> taken_;          ///< what the last pass takes: nodes
  std::vector<std::uint8_t> kept_;   ///< leaves
  std::vector<std::int64_t> count_;  ///< leaves of each cluster
  Selection best_;
};

}  // namespace

double objective_of(const SelectionProblem& problem, const std::vector<std::uint8_t>& keep) {
  const std::vector<double> costs = node_costs(problem);
  const std::vector<char> kept = union_of_paths(problem, &keep);
  std::vector<std::int64_t> covered;
  double objective = 0;
  for (std::size_t i = 0; i < keep.size(); ++i) {
    if (!keep[i]) continue;
    objective += problem.weights[i];
    if (!problem.clusters.empty()) covered.push_back(problem.clusters[i]);
  }
  for (std::size_t n = 0; n < costs.size(); ++n) objective -= kept[n] ? costs[n] : 0;
  std::vector<std::int64_t> all = problem.clusters;
  const auto distinct = [](std::vector<std::int64_t>* labels) {
    std::sort(labels->begin(), labels->end());
    return static_cast<double>(std::unique(labels->begin(), labels->end()) - labels->begin());
  };
  if (!all.empty()) objective += problem.lambda_d * distinct(&covered) / distinct(&all);
  return objective;
}

Selection select_leaves(const SelectionProblem& problem, std::int64_t max_subproblems) {
  check(problem);
  if (problem.leaves.empty()) return {};
  return Selector(problem).run(max_subproblems);
}

}  // namespace tree_search
