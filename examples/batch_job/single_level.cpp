// SPDX-License-Identifier: Apache-2.0
// Which node of its path each request's prefix ends at.
#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "groups.hpp"

namespace batch_job {

using prefixshare::Forest;

namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

PrefixNodes prefixes_of_requests(const Forest& trie, const std::vector<std::int32_t>& prefix_of_node) {
  PrefixNodes prefixes;
  for (const prefixshare::Sequence& sequence : trie.sequences) {
    prefixes.push_back(sequence.node < 0 ? -1 : prefix_of_node[at(sequence.node)]);
  }
  return prefixes;
}

std::vector<std::int64_t> requests_ending_at(const Forest& trie) {
  std::vector<std::int64_t> count(trie.nodes.size(), 0);
  for (const prefixshare::Sequence& sequence : trie.sequences) {
    if (sequence.node >= 0) ++count[at(sequence.node)];
  }
  return count;
}

/// Per node: the most tokens of a node on its path.
std::vector<std::int32_t> longest_labels(const Forest& trie) {
  std::vector<std::int32_t> longest;
  for (const prefixshare::Node& node : trie.nodes) {
    longest.push_back(node.parent < 0 ? node.length : std::max(node.length, longest[at(node.parent)]));
  }
  return longest;
}

/// Moves the fewer elements.
void move_into(std::vector<std::int32_t>* to, std::vector<std::int32_t>* from) {
  if (to->size() < from->size()) to->swap(*from);
  to->insert(to->end(), from->begin(), from->end());
  *from = {};
}

/// A(v, .) on the integers from 0 to where v's parent ends.
class Savings {
 public:
  /// Requests save what the prefix above them has.
  void add_requests(std::int64_t count) {
    if (count > 0) add_jump(0, count);
  }

  void add(Savings* other) {
    if (other->jumps_.size() > jumps_.size()) std::swap(*this, *other);
    at_zero_ += other->at_zero_;
    for (const auto& [p, jump] : other->jumps_) add_jump(p, jump);
    other->jumps_.clear();
  }

  /// Takes max(A(p), A(path) - path), of which the second is the same for all p: a prefix of its own for a node that
  /// ends at `path`. Returns the first p from which on the prefix above is as good; 0 if it always is.
  std::int64_t offer_prefix(std::int64_t path) {
    drop_from(path);
    const std::int64_t offer = at_zero_ + slope_ * path - moment_ - path;
    if (offer <= at_zero_) return 0;
    std::int64_t p = 0, value = at_zero_, slope = 0;
    auto next = jumps_.begin();  // there is one, as A grows
    do {
      value += slope * (next->first - p);
      p = next->first;
      slope += next->second;
      slope_ -= next->second;
      moment_ -= next->second * p;
      next = jumps_.erase(next);
    } while (next != jumps_.end() && value + slope * (next->first - p) < offer);
    const std::int64_t steps = (offer - value + slope - 1) / slope;
    const std::int64_t above = value + slope * steps - offer;  // at the first integer that is not below the offer
    at_zero_ = offer;
    add_jump(p + steps - 1, above);
    add_jump(p + steps, slope - above);
    return p + steps;
  }

 private:
  void add_jump(std::int64_t p, std::int64_t jump) {
    if (jump == 0) return;
    jumps_[p] += jump;
    slope_ += jump;
    moment_ += jump * p;
  }

  void drop_from(std::int64_t p) {
    while (!jumps_.empty() && jumps_.rbegin()->first >= p) {
      const auto last = std::prev(jumps_.end());
      slope_ -= last->second;
      moment_ -= last->second * last->first;
      jumps_.erase(last);
    }
  }

  std::int64_t at_zero_ = 0;
  std::map<std::int64_t, std::int64_t> jumps_;  // p -> by how much the slope grows there
  std::int64_t slope_ = 0;                      // behind all jumps
  std::int64_t moment_ = 0;                     // sum of p * jump
};

}  // namespace

PrefixNodes greedy_prefixes(const Forest& trie) {
  const std::size_t nodes = trie.nodes.size();
  const std::vector<std::int32_t> longest = longest_labels(trie);
  std::vector<std::vector<std::int32_t>> below(nodes);          // what hangs below a node when its turn comes
  std::vector<std::int64_t> leaves = requests_ending_at(trie);  // of what stays together
  std::vector<std::int32_t> home(nodes, -1);                    // where a node stays; -1: it is a group of its own
  for (std::size_t c = nodes; c-- > 0;) {
    // The label of u, which hangs below c, is all that lies between the ends of c and u.
    const auto gain = [&trie, &leaves, end = trie.path_end(static_cast<std::int32_t>(c))](std::int32_t u) {
      return (leaves[at(u)] - 1) * (trie.path_end(u) - end);
    };
    std::vector<std::int32_t>& up = below[c];
    auto stay = std::partition(up.begin(), up.end(), [&](std::int32_t u) { return gain(u) > trie.nodes[c].length; });
    if (leaves[c] == 0 && up.end() - stay == 1) stay = up.end();  // the only one left takes the place of c
    for (auto u = stay; u != up.end(); ++u) {
      leaves[c] += leaves[at(*u)];
      home[at(*u)] = static_cast<std::int32_t>(c);
    }
    const auto goes_to_the_top = [&](std::int32_t u) { return gain(u) > longest[c]; };  // its gain grows on the way
    up.erase(std::remove_if(up.begin(), stay, goes_to_the_top), up.end());
    if (leaves[c] > 0) up.push_back(static_cast<std::int32_t>(c));
    if (trie.nodes[c].parent >= 0) move_into(&below[at(trie.nodes[c].parent)], &up);
  }
  std::vector<std::int32_t> prefix(nodes);
  for (std::size_t n = 0; n < nodes; ++n) {
    prefix[n] = home[n] >= 0 ? prefix[at(home[n])] : leaves[n] > 1 ? static_cast<std::int32_t>(n) : -1;
  }
  return prefixes_of_requests(trie, prefix);
}

PrefixNodes exact_prefixes(const Forest& trie) {
  const std::size_t nodes = trie.nodes.size();
  const std::vector<std::int64_t> requests = requests_ending_at(trie);
  std::vector<Savings> savings(nodes);
  std::vector<std::int64_t> enough(nodes);  // a prefix above of this many tokens is as good as the node's own
  for (std::size_t n = nodes; n-- > 0;) {
    savings[n].add_requests(requests[n]);
    enough[n] = savings[n].offer_prefix(trie.path_end(static_cast<std::int32_t>(n)));
    if (trie.nodes[n].parent >= 0) savings[at(trie.nodes[n].parent)].add(&savings[n]);
  }
  std::vector<std::int32_t> prefix(nodes);
  for (std::size_t n = 0; n < nodes; ++n) {
    const std::int32_t parent = trie.nodes[n].parent;
    const std::int32_t above = parent < 0 ? -1 : prefix[at(parent)];
    prefix[n] = trie.path_end(above) < enough[n] ? static_cast<std::int32_t>(n) : above;
  }
  return prefixes_of_requests(trie, prefix);
}

}  // namespace batch_job
