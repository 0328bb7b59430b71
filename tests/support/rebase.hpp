// SPDX-License-Identifier: Apache-2.0
// What the tests of rope_rebase share: caches of some layers, moves of their pages, and what must come of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "prefixshare/rope_rebase.hpp"
#include "prefixshare/testing/compare.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"
#include "support/ops.hpp"

namespace prefixshare::tests {

inline constexpr std::int64_t kPages = 9, kPageSize = 3, kHeads = 2, kD = 24, kDv = 10;

/// Moves: page 4 and page 1 in place, copies of which two start from one page, one that goes nowhere.
struct Moves {
  std::vector<std::int32_t> from{4, 7, 7, 2, 1, 3};
  std::vector<std::int32_t> to{4, 0, 8, 5, 1, 6};
  std::vector<std::int32_t> deltas{-3, 100, -8191, 0, 0, 131071};

  /// The move that ends at a page, or -1.
  std::int64_t to_page(std::int64_t page) const {
    const auto at = std::find(to.begin(), to.end(), page);
    return at == to.end() ? -1 : at - to.begin();
  }
};

/// A table with its frequencies.
struct TurnOf {
  std::vector<double> inv_freq;
  RopeTable table;

  TurnOf(std::int32_t dim, std::int32_t offset, RopePairing pairing) {
    for (std::int32_t i = 0; i < dim / 2; ++i) inv_freq.push_back(std::pow(10000.0, -2.0 * i / dim));
    table.dim = dim;
    table.offset = offset;
    table.pairing = pairing;
    table.mscale = 1.3;  // which must not show
  }
  RopeTable get() const {
    RopeTable t = table;
    t.inv_freq = inv_freq;
    return t;
  }
};

/// Caches of some layers, each with strides of its own, and what they held before.
struct Caches {
  std::vector<testing::Tensor<4>> k, v, k_before, v_before;
  std::vector<KvPool> layers;

  Caches(std::size_t count, DType k_type, DType v_type, bool with_values = true, std::uint64_t seed = 1) {
    testing::Random random(seed);
    for (std::size_t l = 0; l < count; ++l) {
      const testing::TensorLayout layout{static_cast<std::int64_t>(l % 3), l % 2 == 1};
      k.emplace_back(k_type, testing::Tensor<4>::Shape{kPages, kPageSize, kHeads, kD}, layout);
      v.emplace_back(v_type, testing::Tensor<4>::Shape{kPages, kPageSize, kHeads, kDv}, layout);
      k.back().fill_normal(&random);
      v.back().fill_normal(&random);
    }
    remember();
    for (std::size_t l = 0; l < count; ++l) {
      layers.emplace_back();
      layers.back().k = k[l].view();
      if (with_values) layers.back().v = v[l].view();
    }
  }
  void remember() {
    k_before = k;
    v_before = v;
  }
};

inline TensorView<3> page(const TensorView<4>& cache, std::int64_t which) {
  TensorView<3> view;
  view.data = cache.ptr(which);
  view.dtype = cache.dtype;
  std::copy(cache.shape + 1, cache.shape + 4, view.shape);
  std::copy(cache.stride + 1, cache.stride + 4, view.stride);
  return view;
}

/// x e^(i delta f) for each pair of a page of keys, as complex numbers in f64.
inline std::vector<double> turned(const TensorView<3>& keys, const RopeTable& table, double delta) {
  std::vector<double> y = testing::to_doubles(keys);
  const bool half = table.pairing == RopePairing::half;
  for (std::size_t row = 0; row < y.size(); row += static_cast<std::size_t>(keys.shape[2])) {
    for (std::int32_t i = 0; i < table.dim / 2; ++i) {
      const std::size_t a = row + static_cast<std::size_t>(table.offset + (half ? i : 2 * i));
      const std::size_t b = a + static_cast<std::size_t>(half ? table.dim / 2 : 1);
      const std::complex<double> z = std::complex<double>(y[a], y[b]) * std::polar(1.0, delta * table.inv_freq[i]);
      y[a] = z.real();
      y[b] = z.imag();
    }
  }
  return y;
}

/// Keys turned, values copied, and everything else as it was.
inline void check_keys(const testing::Tensor<4>& now, const testing::Tensor<4>& before, const Moves& moves,
                       const RopeTable& table) {
  const DType acc = now.view().dtype == DType::f64 ? DType::f64 : DType::f32;
  for (std::int64_t p = 0; p < kPages; ++p) {
    const std::int64_t m = moves.to_page(p);
    const std::int32_t delta = m < 0 ? 0 : moves.deltas[moves.deltas.size() == 1 ? 0 : static_cast<std::size_t>(m)];
    const std::int64_t source = m < 0 ? p : moves.from[static_cast<std::size_t>(m)];
    CAPTURE(p, m, delta);
    if (delta == 0) {
      CHECK(testing::same_bits(page(now.view(), p), page(before.view(), source)));
      continue;
    }
    const auto c = close(page(now.view(), p), turned(page(before.view(), source), table, delta),
                         testing::rope_tolerance(acc, std::abs(static_cast<double>(delta))));
    CAPTURE(c.text);
    CHECK(c.ok);
  }
  CHECK(now.guards_intact());
}
inline void check_values(const testing::Tensor<4>& now, const testing::Tensor<4>& before, const Moves& moves) {
  for (std::int64_t p = 0; p < kPages; ++p) {
    const std::int64_t m = moves.to_page(p);
    const std::int64_t source = m < 0 ? p : moves.from[static_cast<std::size_t>(m)];
    CHECK(testing::same_bits(page(now.view(), p), page(before.view(), source)));
  }
  CHECK(now.guards_intact());
}
inline void check(const Caches& caches, const Moves& moves, const RopeTable& table, bool with_values = true) {
  for (std::size_t l = 0; l < caches.k.size(); ++l) {
    CAPTURE(l);
    check_keys(caches.k[l], caches.k_before[l], moves, table);
    check_values(caches.v[l], caches.v_before[l], with_values ? moves : Moves{{}, {}, {}});
  }
}

inline RopeRebase args_of(const Caches& caches, const Moves& moves, const RopeTable& table) {
  RopeRebase args;
  args.layers = caches.layers;
  args.from_pages = moves.from;
  args.to_pages = moves.to;
  args.deltas = moves.deltas;
  args.table = table;
  return args;
}
inline bool same(const Caches& a, const Caches& b) {
  bool same = true;
  for (std::size_t l = 0; l < a.k.size(); ++l) {
    same = same && testing::same_bits(a.k[l].view(), b.k[l].view()) && testing::same_bits(a.v[l].view(), b.v[l].view());
  }
  return same;
}

}  // namespace prefixshare::tests
