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

// ---- The other way

constexpr int kApart = 7;  // chains of each

/// Products and sums in chains of their own, which do not meet: neither is fused with the other, nor copied.
void multiply_apart(std::int64_t count) {
  const Lanes factor = all(1.0000001f), term = all(0.001f);
  Lanes products[kApart], sums[kApart];
  for (Lanes& p : products) p = term;
  for (std::int64_t n = 0; n < count; ++n) {
    for (Lanes& p : products) p.v = p.v * factor.v;
    for (Lanes& s : sums) s.v = s.v + term.v;
  }
  keep(products);
  keep(sums);
}

/// As many, in the order of another loop: four at a time, a quarter of the array apart.
void exponentials_apart(std::int64_t count) {
  constexpr std::int64_t kQuarter = Bursts::kExponentials / 4;
  float x[Bursts::kExponentials], y[Bursts::kExponentials];
  for (std::int64_t i = 0; i < Bursts::kExponentials; ++i) x[i] = -0.01f * static_cast<float>(i);
  for (std::int64_t n = 0; n < count; ++n) {
    for (std::int64_t q = 0; q < 4; ++q) {
      for (std::int64_t i = 0; i < kQuarter; ++i) y[q * kQuarter + i] = detail::exp_of(x[q * kQuarter + i]);
    }
    keep(y);
  }
}

void read_halves(const float* from, std::int64_t count) {
  const std::int64_t half = count / 2;
  Lanes sums[8];
  for (std::int64_t i = 0; i < half; i += 8 * Lanes::kCount) {
    for (const float* at : {from + i, from + half + i}) {
      for (int k = 0; k < 8; ++k) {
        Lanes x;
        x.load(at + k * Lanes::kCount);
        sums[k].keep_larger(x);
      }
    }
  }
  keep(sums);
}

}  // namespace

Bursts baseline_bursts(Way way) {
  Bursts b;
  b.name = "baseline";
  b.usable = true;
  if (way == Way::registers) {
    b.multiply = &multiply;
    b.multiply_adds = Lanes::kCount * kChains;
    b.exponentials = &exponentials;
    b.read = &read;
  } else {
    b.multiply = &multiply_apart;
    b.multiply_adds = Lanes::kCount * kApart;
    b.exponentials = &exponentials_apart;
    b.read = &read_halves;
  }
  return b;
}

}  // namespace prefixshare::bench
