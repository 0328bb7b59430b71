// SPDX-License-Identifier: Apache-2.0
// Reference of rope_rebase: each page of each layer on its own, turned in f64 with one rounding.
#pragma once

#include <cstring>

#include "prefixshare/detail/validate_rebase.hpp"
#include "prefixshare/reference/rope.hpp"
#include "prefixshare/rope_rebase.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace reference {

/// A page of a cache as [page_size, H, D].
inline TensorView<3> page_of(const TensorView<4>& cache, std::int64_t page) {
  TensorView<3> view;
  view.data = cache.ptr(page);
  view.dtype = cache.dtype;
  for (int d = 0; d < 3; ++d) {
    view.shape[d] = cache.shape[d + 1];
    view.stride[d] = cache.stride[d + 1];
  }
  return view;
}

/// One move of one layer.
inline void rebase_page(const KvPool& layer, const RopeTable& table, std::int64_t from, std::int64_t to, double delta) {
  for (std::int64_t t = 0; t < layer.k.shape[1]; ++t) {
    if (delta == 0) {
      copy_token(page_of(layer.k, from), page_of(layer.k, to), t);
    } else {
      Matrix k = load_heads(page_of(layer.k, from), t, 0, layer.k.shape[2]);
      rotate(table, delta, 1.0, &k);
      store_heads(page_of(layer.k, to), t, 0, k);
    }
    if (layer.v) copy_token(page_of(layer.v, from), page_of(layer.v, to), t);
  }
}

inline Status rope_rebase_part(const RopeRebase& args, std::int32_t i, std::int32_t n) noexcept {
  const std::int64_t layers = args.layers.size();
  return run_part("rope_rebase", args.from_pages.size() * layers, i, n, [&](std::int64_t u) {
    const std::int64_t move = u / layers;
    const std::int32_t delta = args.deltas[args.deltas.size() == 1 ? 0 : move];
    rebase_page(args.layers[u % layers], args.table, args.from_pages[move], args.to_pages[move], delta);
  });
}

inline Status rope_rebase(const RopeRebase& args) noexcept {
  if (Status s = prefixshare::detail::validate(args)) return s;
  return rope_rebase_part(args, 0, 1);
}

}  // namespace reference
}  // namespace v0_1
}  // namespace prefixshare
