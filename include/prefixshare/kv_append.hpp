// SPDX-License-Identifier: Apache-2.0
// kv_append: this step's keys and values into the cache. Contract and argument types.
#pragma once

#include <cstdint>

#include "prefixshare/rope.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// For each token t with slots[t] >= 0: pool.k[slot] = R(positions[t]) k[t] (times mscale; unrotated without a table),
/// pool.v[slot] = v[t], where slot = page * page_size + slot in page. With a KV scale, value / scale is stored.
/// k: [tokens, Hkv, D], v: [tokens, Hkv, Dv], any storage types; arithmetic f32 (f64 if any is f64), one rounding.
/// pool: as KvPool; its bias is not touched. Slots that are not named keep their bits.
/// `slots` come from append_slots or from the engine; a slot that two tokens name is invalid_argument only where it is
/// cheap to see (never checked here): the result is then one of the two.
/// Aliasing: pool.k and pool.v overlap neither k nor v; they overlap each other only if v is absent (latent attention
/// stores k alone: leave v and pool.v absent). tokens == 0 is ok. Workspace none. Bits do not depend on the parts.
/// Errors: invalid_argument (a slot past the pool names its element), backend_unavailable.
struct KvAppend {
  TensorView<3> k;
  TensorView<3> v;
  KvPool pool;                         ///< out: k and v
  Span<const std::int64_t> slots;      ///< [tokens]; -1 skips the token
  Span<const std::int32_t> positions;  ///< [tokens]; needed with a table
  const RopeTable* rope = nullptr;
  /// Of slots and positions: that of the pool. On a device the host never reads them: a slot past the pool is not seen.
  MemorySpace lists_space = MemorySpace::host;
  Stream stream = {};
};

}  // namespace v0_1
}  // namespace prefixshare
