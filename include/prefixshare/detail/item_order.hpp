// SPDX-License-Identifier: Apache-2.0
// The order of a plan's items: shares of equal cost for the workers that it is made for. Comes with plan.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

/// Divides items among workers. Parts own consecutive items, so each worker's items come one after the other: those
/// that compute and those that wait for keys, of which every other worker takes the latter first. All workers get the
/// same mix, and at any moment some compute and others read. Large items go to whoever has least, the largest first;
/// small ones fill the shares up in the order in which they come, so that neighbours stay together.
class ItemOrder {
 public:
  /// `ns`: predicted, per item. `reads`: whether an item waits for keys.
  ItemOrder(const std::vector<double>& ns, const std::vector<char>& reads, std::int32_t workers)
      : ns_(ns), reads_(reads), worker_(ns.size(), 0), load_(static_cast<std::size_t>(workers), 0) {
    for (const bool kind : {false, true}) {
      double all = 0;
      for (std::size_t i = 0; i < ns.size(); ++i) all += is(i, kind) ? ns[i] : 0;
      share_ += all / workers;
      place_large(kind, all / workers / kSmall);
      place_small(kind, all / workers / kSmall);
    }
  }

  /// Indices of the items in order.
  std::vector<std::size_t> order() const {
    std::vector<std::pair<std::int32_t, std::size_t>> keys;  // by worker, by turn, then as they are
    keys.reserve(ns_.size());
    for (std::size_t i = 0; i < ns_.size(); ++i) {
      const bool reads_first = worker_[i] % 2 != 0, second = !is(i, reads_first);
      keys.push_back({2 * worker_[i] + second, i});
    }
    std::sort(keys.begin(), keys.end());
    std::vector<std::size_t> order;
    order.reserve(keys.size());
    for (const auto& [key, i] : keys) order.push_back(i);
    return order;
  }

 private:
  static constexpr double kSmall = 8;  // an item is small if a worker's share has room for so many

  bool is(std::size_t item, bool reads) const noexcept { return (reads_[item] != 0) == reads; }
  void give(std::size_t item, std::size_t worker) noexcept {
    worker_[item] = static_cast<std::int32_t>(worker);
    load_[worker] += ns_[item];
  }

  void place_large(bool kind, double small) {
    std::vector<std::size_t> large;
    for (std::size_t i = 0; i < ns_.size(); ++i) {
      if (is(i, kind) && ns_[i] > small) large.push_back(i);
    }
    std::stable_sort(large.begin(), large.end(), [this](std::size_t a, std::size_t b) { return ns_[a] > ns_[b]; });
    for (const std::size_t i : large) {
      give(i, static_cast<std::size_t>(std::min_element(load_.begin(), load_.end()) - load_.begin()));
    }
  }
  void place_small(bool kind, double small) noexcept {
    std::size_t worker = 0;
    for (std::size_t i = 0; i < ns_.size(); ++i) {
      if (!is(i, kind) || ns_[i] > small) continue;
      while (worker + 1 < load_.size() && load_[worker] + ns_[i] / 2 > share_) ++worker;
      give(i, worker);
    }
  }

  const std::vector<double>& ns_;
  const std::vector<char>& reads_;
  std::vector<std::int32_t> worker_;  // per item
  std::vector<double> load_;          // per worker
  double share_ = 0;                  // of a worker, of the kinds so far
};

/// The order in which workers take items from a queue, each when it is free: large items first, so that the last ones
/// are small, and of those that compute and those that wait for keys always the kind of which less is done.
inline std::vector<std::size_t> queue_order(const std::vector<double>& ns, const std::vector<char>& reads) {
  std::vector<std::size_t> kinds[2];
  double rest[2] = {0, 0}, all[2];
  for (std::size_t i = 0; i < ns.size(); ++i) {
    kinds[reads[i] != 0].push_back(i);
    rest[reads[i] != 0] += ns[i];
  }
  for (int kind = 0; kind < 2; ++kind) {
    all[kind] = std::max(rest[kind], 1e-300);
    std::stable_sort(kinds[kind].begin(), kinds[kind].end(),
                     [&](std::size_t a, std::size_t b) { return ns[a] > ns[b]; });
  }
  std::vector<std::size_t> order;
  order.reserve(ns.size());
  for (std::size_t next[2] = {0, 0}; order.size() < ns.size();) {
    const bool left[2] = {next[0] < kinds[0].size(), next[1] < kinds[1].size()};
    const int kind = !left[0] || (left[1] && rest[1] / all[1] > rest[0] / all[0]) ? 1 : 0;
    const std::size_t item = kinds[kind][next[kind]++];
    rest[kind] -= ns[item];
    order.push_back(item);
  }
  return order;
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
