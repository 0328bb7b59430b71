// SPDX-License-Identifier: Apache-2.0
// What the instructions of a warp do, as PTX defines them, on the registers of its 32 lanes.
#pragma once

#include <cstdint>

#include "prefixshare/dtype.hpp"

namespace simt::detail {

/// One lane's part of ldmatrix.
struct MatrixLane {
  const void* address;  ///< of its row, in shared memory
  std::uint16_t row[8];
  std::uint32_t* r;  ///< a register per matrix
};
void load_matrices(MatrixLane* const (&lanes)[32], int matrices, bool transposed);
/// Phases beyond one per matrix: rows whose addresses fall into the same four banks are read one after the other.
int bank_conflicts(MatrixLane* const (&lanes)[32], int matrices);

/// One lane's part of mma.m16n8k16.
struct MultiplyLane {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};
/// Sums in f32, k after k. The order on the device is not known, so only sums that are exact agree in all bits.
void multiply_add(MultiplyLane* const (&lanes)[32], prefixshare::DType type);

}  // namespace simt::detail
