// SPDX-License-Identifier: Apache-2.0
// For tests of kernels: the ways to run one, and what the emulator says of one that is wrong.
#pragma once

#include <string>
#include <vector>

#include "simt/simt.hpp"

namespace prefixshare::tests {

/// Every order with every policy of copies. The rest varies along: seeds, resident blocks, alignment, order of blocks.
/// A kernel's results may differ in none of them.
inline std::vector<simt::Options> simt_modes() {
  std::vector<simt::Options> modes;
  for (const auto order : {simt::Order::forward, simt::Order::reverse, simt::Order::random, simt::Order::pct}) {
    for (const auto async : {simt::Async::eager, simt::Async::lazy, simt::Async::random}) {
      simt::Options o;
      o.order = order;
      o.async = async;
      o.seed = modes.size() + 1;
      o.resident = modes.size() % 2 == 0 ? 1 : 3;
      o.misalign = modes.size() % 4 >= 2;
      o.shuffle_blocks = modes.size() % 3 == 2;
      modes.push_back(o);
    }
  }
  return modes;
}

inline std::string to_string(const simt::Options& o) {
  const char* const orders[] = {"forward", "reverse", "random", "pct"};
  const char* const asyncs[] = {"eager", "lazy", "random"};
  return std::string("order ") + orders[static_cast<int>(o.order)] + ", copies " + asyncs[static_cast<int>(o.async)] +
         ", seed " + std::to_string(o.seed) + ", resident blocks " + std::to_string(o.resident) +
         (o.misalign ? ", misaligned" : "") + (o.shuffle_blocks ? ", blocks shuffled" : "");
}

/// The message of the simt::Error that a call throws; empty if it throws none.
template <class F>
std::string simt_error(const F& call) {
  try {
    call();
  } catch (const simt::Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace prefixshare::tests
