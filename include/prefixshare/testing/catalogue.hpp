// SPDX-License-Identifier: Apache-2.0
// catalogue: the workloads of tests, benches, docs and peers, with one name each.
#pragma once

#include <string>
#include <vector>

#include "prefixshare/testing/catalogue_models.hpp"
#include "prefixshare/testing/catalogue_own.hpp"
#include "prefixshare/testing/catalogue_published.hpp"
#include "prefixshare/testing/workload.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// Every workload that needs no file, in a fixed order. Those of real input: catalogue_data.hpp.
inline const std::vector<Workload>& catalogue() {
  static const std::vector<Workload> list = [] {
    std::vector<Workload> all;
    for (const auto add : {&detail::add_own, &detail::add_models, &detail::add_published}) add(&all);
    return all;
  }();
  return list;
}

/// The workload with that name, or null.
inline const Workload* find_workload(const std::string& name) {
  for (const Workload& w : catalogue()) {
    if (w.name == name) return &w;
  }
  return nullptr;
}

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare
