// SPDX-License-Identifier: Apache-2.0
// Bursts in plain C++ for the compiler's baseline, with what cpu:portable computes with.
#include "prefixshare/detail/lanes.hpp"
#include "prefixshare/detail/softmax_state.hpp"
#include "support/bursts.hpp"

namespace prefixshare::bench {
namespace {

using Lanes = prefixshare::detail::Lanes<float>;
constexpr int kChains = 12;

Lanes all(float x) {
  const float lanes[4] = {x, x, x, x};
  Lanes l;
  l.load(lanes);
  return l;
}

void multiply(std::int64_t count) {
  const Lanes factor = all(0.999f), term = all(0.001f);
  Lanes sums[kChains];
  for (std::int64_t n = 0; n < count; ++n) {
    for (Lanes& s : sums) {
      Lanes next = term;
      next.multiply_add(s, factor);
      s = next;
    }
  }
  keep(sums);
}

void exponentials(std::int64_t count) {
  float x[Bursts::kExponentials], y[Bursts::kExponentials];
  for (std::int64_t i = 0; i < Bursts::kExponentials; ++i) x[i] = -0.01f * static_cast<float>(i);
  for (std::int64_t n = 0; n < count; ++n) {
    for (std::int64_t i = 0; i < Bursts::kExponentials; ++i) y[i] = detail::exp_of(x[i]);
    keep(y);
  }
}

void read(const float* from, std::int64_t count) {
  const std::int64_t quarter = count / 4;
  Lanes sums[8];
  for (std::int64_t i = 0; i < quarter; i += 2 * Lanes::kCount) {
    for (int k = 0; k < 8; ++k) {
      Lanes x;
      x.load(from + k / 2 * quarter + i + k % 2 * Lanes::kCount);
      sums[k].keep_larger(x);
    }
  }
  keep(sums);
}

}  // namespace

Bursts baseline_bursts() {
  Bursts b;
  b.name = "baseline";
  b.usable = true;
  b.multiply = &multiply;
  b.multiply_adds = Lanes::kCount * kChains;
  b.exponentials = &exponentials;
  b.read = &read;
  return b;
}

}  // namespace prefixshare::bench
