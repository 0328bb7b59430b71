// SPDX-License-Identifier: Apache-2.0
// rope: rotary position embedding, applied and shifted. Contract and argument types.
#pragma once

#include <cstdint>

#include "prefixshare/span.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/stream.hpp"
#include "prefixshare/tensor.hpp"

namespace prefixshare {
inline namespace v0_1 {

/// half: pairs (i, i + dim/2) of the rotary dims (Llama, NeoX). interleaved: pairs (2i, 2i + 1) (GPT-J).
enum class RopePairing : std::uint8_t { half, interleaved };

/// The rotation, explicit: angle of pair i at position p is p * inv_freq[i], computed in f64.
/// Dims [offset, offset + dim) rotate, the others pass through: offset 0 is leading partial rotary, D - dim trailing.
/// mscale is the attention factor of YaRN and LongRoPE: `rope_apply` multiplies by it, a shift never does.
struct RopeTable {
  Span<const double> inv_freq;  ///< [dim / 2], host; zeros leave a pair alone
  std::int32_t dim = 0;         ///< rotary dims, even
  std::int32_t offset = 0;
  RopePairing pairing = RopePairing::half;
  double mscale = 1;
};

/// out[t] = mscale * R(positions[t]) x[t] on the rotary dims (mscale on those dims only), copy elsewhere.
/// x, out: [tokens, H, D] f64|f32|f16|bf16 of one dtype, innermost stride 1. Arithmetic f32 (f64 for f64), angles f64,
/// one rounding. `out` may equal x exactly; any other overlap is invalid_argument. tokens == 0 is ok. Workspace none.
/// Bits do not depend on the number of parts. Errors: invalid_argument, backend_unavailable.
/// Source: Su et al., "RoFormer", 2021, section 3.2.2.
struct RopeApply {
  TensorView<3> x;
  TensorView<3> out;
  Span<const std::int32_t> positions;  ///< [tokens]
  RopeTable table;
  MemorySpace lists_space = MemorySpace::host;  ///< of `positions`: that of x. On a device the host never reads them
  Stream stream = {};
};

/// out[t] = R(deltas[t]) x[t]: moves cached keys from position p to p + delta. Without mscale, whatever the table says:
/// it is in the key already. Shift from the pristine copy by the accumulated integer delta: one rounding whatever the
/// number of moves (repeated shifts drift as sqrt of their number). delta 0 copies bit for bit.
/// Shapes, aliasing and the rest as RopeApply; `deltas` has one element for all tokens or one per token.
struct RopeShift {
  TensorView<3> x;
  TensorView<3> out;
  Span<const std::int32_t> deltas;
  RopeTable table;
  MemorySpace lists_space = MemorySpace::host;  ///< of `deltas`: that of x, or the host's if there is one for all
  Stream stream = {};
};

}  // namespace v0_1
}  // namespace prefixshare
