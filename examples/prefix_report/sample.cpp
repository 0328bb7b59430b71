// SPDX-License-Identifier: Apache-2.0
#include "sample.hpp"

#include <algorithm>
#include <limits>

namespace prefix_report {

namespace {

using prefixshare::Forest;

class Chooser {
 public:
  Chooser(const Forest& forest, Weight weight, std::int64_t limit)
      : forest_(forest), weight_(weight), limit_(limit), left_(limit), nodes_(forest.nodes.size()) {
    own_.resize(nodes_);
    first_.assign(nodes_, std::numeric_limits<std::int32_t>::max());
    held_.assign(nodes_, 0);
    for (std::size_t s = 0; s < forest.sequences.size(); ++s) add_sequence(static_cast<std::int32_t>(s));
    for (std::size_t n = nodes_; n-- > 0;) add_to_parent(n);
    paid_.assign(nodes_, weight == Weight::logical);
  }

  std::int64_t total() const {
    std::int64_t sum = 0;
    for (std::size_t n = 0; n < nodes_; ++n) sum += forest_.nodes[n].parent < 0 ? held_[n] : 0;
    return sum;
  }

  std::vector<std::int32_t> choose() {
    push_children(-1);
    while (!candidates_.empty()) {
      const std::int32_t node = candidates_.back();
      candidates_.pop_back();
      const std::int64_t cost = held_[at(node)] + unpaid_above(node);
      if (cost <= left_) {
        take(node, cost);
      } else if (held_[at(node)] + path_above(node) > limit_) {
        divide(node);
      }
    }
    std::sort(chosen_.begin(), chosen_.end());
    return chosen_;
  }

 private:
  static std::size_t at(std::int32_t i) { return static_cast<std::size_t>(i); }

  void add_sequence(std::int32_t s) {
    const std::int32_t node = forest_.sequences[at(s)].node;
    if (node < 0) return;
    own_[at(node)].push_back(s);
    first_[at(node)] = std::min(first_[at(node)], s);
    if (weight_ == Weight::logical) held_[at(node)] += forest_.path_end(node);
  }

  /// Children come after their parent, so that walking backwards finds every subtree complete.
  void add_to_parent(std::size_t n) {
    if (weight_ == Weight::unique) held_[n] += tokens(static_cast<std::int32_t>(n));
    const std::int32_t parent = forest_.nodes[n].parent;
    if (parent < 0) return;
    held_[at(parent)] += held_[n];
    first_[at(parent)] = std::min(first_[at(parent)], first_[n]);
  }

  /// Tokens of a node in whole pages (a contiguous pool has no other pages to fill).
  std::int64_t tokens(std::int32_t node) const {
    const prefixshare::Node& n = forest_.nodes[at(node)];
    if (n.length == 0) return 0;
    const prefixshare::PoolShape& pool = forest_.pools[at(forest_.segments[at(n.segment)].pool)];
    if (pool.num_pages == 1) return n.length;
    return (std::int64_t{n.length} + pool.page_size - 1) / pool.page_size * pool.page_size;
  }

  std::int64_t unpaid_above(std::int32_t node) const {
    std::int64_t sum = 0;
    for (std::int32_t n = forest_.nodes[at(node)].parent; n >= 0 && !paid_[at(n)]; n = forest_.nodes[at(n)].parent) {
      sum += tokens(n);
    }
    return sum;
  }

  std::int64_t path_above(std::int32_t node) const {
    std::int64_t sum = 0;
    if (weight_ == Weight::logical) return sum;
    for (std::int32_t n = forest_.nodes[at(node)].parent; n >= 0; n = forest_.nodes[at(n)].parent) sum += tokens(n);
    return sum;
  }

  void pay(std::int32_t node, std::int64_t cost) {
    for (std::int32_t n = node; n >= 0 && !paid_[at(n)]; n = forest_.nodes[at(n)].parent) paid_[at(n)] = true;
    left_ -= cost;
  }

  void take(std::int32_t node, std::int64_t cost) {
    pay(node, cost);
    for (std::int32_t n = node; n < forest_.subtree_end[at(node)]; ++n) {
      chosen_.insert(chosen_.end(), own_[at(n)].begin(), own_[at(n)].end());
    }
  }

  /// The sequences that end at the node itself, one by one, then its children as families.
  void divide(std::int32_t node) {
    for (std::int32_t sequence : own_[at(node)]) {
      const std::int64_t cost = weight_ == Weight::logical ? std::int64_t{forest_.path_end(node)}
                                : paid_[at(node)]          ? 0
                                                           : tokens(node) + unpaid_above(node);
      if (cost > left_) continue;
      pay(node, cost);
      chosen_.push_back(sequence);
    }
    push_children(node);
  }

  /// The last pushed is looked at first: families in the order of their first sequence.
  void push_children(std::int32_t node) {
    const std::size_t begin = candidates_.size();
    const std::int32_t end = node < 0 ? static_cast<std::int32_t>(nodes_) : forest_.subtree_end[at(node)];
    for (std::int32_t child = node + 1; child < end; child = forest_.subtree_end[at(child)]) {
      candidates_.push_back(child);
    }
    std::sort(candidates_.begin() + static_cast<std::ptrdiff_t>(begin), candidates_.end(),
              [this](std::int32_t a, std::int32_t b) { return first_[at(a)] > first_[at(b)]; });
  }

  const Forest& forest_;
  Weight weight_;
  std::int64_t limit_;
  std::int64_t left_;
  std::size_t nodes_;
  std::vector<std::vector<std::int32_t>> own_;  // per node: sequences that end there
  std::vector<std::int32_t> first_;             // per node: first sequence of the subtree
  std::vector<std::int64_t> held_;              // per node: tokens that its subtree holds
  std::vector<bool> paid_;                      // per node: its tokens are counted already
  std::vector<std::int32_t> candidates_;
  std::vector<std::int32_t> chosen_;
};

}  // namespace

std::vector<std::int32_t> choose_families(const Forest& forest, Weight weight, std::int64_t limit) {
  return Chooser(forest, weight, limit).choose();
}

std::int64_t held_tokens(const Forest& forest, Weight weight) { return Chooser(forest, weight, 0).total(); }

}  // namespace prefix_report
