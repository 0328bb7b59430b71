// SPDX-License-Identifier: Apache-2.0
// rope_rebase: cached pages move to another position, in all layers at once. Contract and argument types.
#pragma once

#include <cstdint>

#include "prefixshare/rope.hpp"
#include "prefixshare/span.hpp"
#include "prefixshare/stream.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// For every layer and every move i: k[to_pages[i]] = R(deltas[i]) k[from_pages[i]], v[to_pages[i]] = v[from_pages[i]].
/// Where from and to are one page, its keys turn in place and its values stay. The rotation is that of RopeShift: never
/// with mscale, delta 0 copies bit for bit, and the pages to move are pristine copies, so that keys are rounded once.
/// layers: the caches of layers of one LayerKind; k of all has one shape [num_pages, page_size, Hkv, D] and dtype, v as
/// well, or is absent throughout (latent attention: move k alone). Strides are each layer's own. Any storage types;
/// arithmetic of keys f32 (f64 for f64), angles f64.
/// KV scales: a turned key keeps its scale, so those of a tensor or a head hold wherever a page goes. Those of a token
/// or a page are the cache's own and not written here: unsupported. Biases and packed segments do not move along.
/// Moves are independent: a page is the target of one move at most, and if it is, the source of no other. Any number of
/// moves may start from one page. Violations in host lists are invalid_argument, in device lists never looked for.
/// Aliasing: no tensor overlaps another, of whatever layer. No layers or no moves are ok. Workspace none. Bits do not
/// depend on the number of parts. Errors: invalid_argument, unsupported, backend_unavailable.
/// Source: Su et al., "RoFormer", 2021, section 3.2.2.
struct RopeRebase {
  Span<const KvPool> layers;            ///< host; out: k and v of target pages
  Span<const std::int32_t> from_pages;  ///< [moves]
  Span<const std::int32_t> to_pages;    ///< [moves]
  Span<const std::int32_t> deltas;      ///< [1] for all moves or [moves]
  RopeTable table;
  MemorySpace lists_space = MemorySpace::host;  ///< of pages and deltas: that of the caches
  Stream stream = {};
};

}  // namespace v0_1
}  // namespace prefixshare
