// SPDX-License-Identifier: Apache-2.0
// Tiles of 16-bit elements in shared memory: how they lie there, how a warp deals out the pieces of rows that lie
// anywhere, and the operands of matrix products that come out.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/ptx.cuh"

// Before loops over arrays that must stay in registers, before loops that must stay loops, and between.
#if defined(__CUDACC__)
#define PREFIXSHARE_UNROLL _Pragma("unroll")
#define PREFIXSHARE_UNROLL_4 _Pragma("unroll 4")
#define PREFIXSHARE_ROLL _Pragma("unroll 1")
#else
#define PREFIXSHARE_UNROLL
#define PREFIXSHARE_UNROLL_4
#define PREFIXSHARE_ROLL
#endif

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// Rows of Width elements, a multiple of 32, one after the other. A chunk is 16 bytes, what a copy moves. The chunks of
/// a row change places within groups of eight (four, where a row is not whole lines of 128 bytes), so that a matrix
/// load, which reads the same chunk of eight rows, finds them in eight different groups of banks.
template <int Width>
struct Tile {
  static_assert(Width % 32 == 0);
  static constexpr int kChunks = Width / 8;
  static constexpr int kRowBytes = Width * 2;
  static constexpr int kGroup = kChunks % 8 == 0 ? 8 : 4;

  unsigned char* data;

  static PREFIXSHARE_DEVICE int offset(int row, int chunk) {
    return row * kRowBytes + (chunk ^ (kGroup == 8 ? row & 7 : (row >> 1) & 3)) * 16;
  }
  /// The offset of a chunk that is `chunks` further, if the bits of both numbers have nothing in common. With a
  /// constant it costs one instruction, and there are few different ones for a compiler to keep in registers.
  static PREFIXSHARE_DEVICE int further(int offset, int chunks) {
    return (offset ^ (chunks % kGroup * 16)) + chunks / kGroup * (kGroup * 16);
  }
  PREFIXSHARE_DEVICE unsigned char* chunk(int row, int chunk) const { return data + offset(row, chunk); }
  PREFIXSHARE_DEVICE std::uint16_t* element(int row, int i) const {
    return reinterpret_cast<std::uint16_t*>(chunk(row, i / 8)) + i % 8;
  }
};

/// Rounds in which the lanes of a warp have a chunk each of Rows rows.
template <int Width, int Rows>
inline constexpr int kChunkRounds = Rows* Tile<Width>::kChunks / 32;

/// Calls f(row, offset, address) for a lane's chunk in round i of those of rows [first_row, first_row + Rows) of
/// a tile: `offset` of its place in the tile, `address` of what goes there. first_row is a multiple of 8. Where row r
/// of them starts is what lane first_lane + r says.
template <int Width, int Rows, class F>
PREFIXSHARE_DEVICE void round_chunk(int i, int lane, int first_row, const unsigned char* row_start, int first_lane,
                                    F&& f) {
  constexpr int kChunks = Tile<Width>::kChunks;
  static_assert(Rows * kChunks % 32 == 0);
  if constexpr (32 % kChunks == 0) {  // a lane has the same chunk of every row that it gets
    constexpr int kStep = 32 / kChunks;
    const int row = lane / kChunks, chunk = lane % kChunks;
    const int offset = Tile<Width>::offset(first_row + row, chunk) ^ (kStep * i % 8 * 16);
    f(row + kStep * i, offset + kStep * i * Tile<Width>::kRowBytes,
      ptx::shuffle(row_start, first_lane + row + kStep * i) + 16 * chunk);
  } else {
    const int at = 32 * i + lane, row = at / kChunks, chunk = at % kChunks;
    f(row, Tile<Width>::offset(first_row + row, chunk), ptx::shuffle(row_start, first_lane + row) + 16 * chunk);
  }
}

/// Starts the copies of Rows rows to a tile from its row first_row on, by a warp: row r of them begins where
/// `row_start` of lane first_lane + r says. Those from `count` on become zero. What lanes tell each other takes its
/// time: of AtOnce rounds at once, if there are registers.
template <int Rows, int AtOnce = 1, int Width>
PREFIXSHARE_DEVICE void copy_rows(Tile<Width> to, int lane, int first_row, const unsigned char* row_start,
                                  int first_lane, int count) {
  constexpr int kRounds = kChunkRounds<Width, Rows>;
  static_assert(kRounds % AtOnce == 0);
  lane = ptx::opaque(lane);  // what follows from it is not kept
  PREFIXSHARE_UNROLL
  for (int begin = 0; begin < kRounds; begin += AtOnce) {
    const unsigned char* from[AtOnce];
    int at[AtOnce], bytes[AtOnce];
    PREFIXSHARE_UNROLL
    for (int i = 0; i < AtOnce; ++i) {
      round_chunk<Width, Rows>(begin + i, lane, first_row, row_start, first_lane,
                               [&](int r, int offset, const unsigned char* address) {
                                 from[i] = address, at[i] = offset, bytes[i] = r < count ? 16 : 0;
                               });
    }
    PREFIXSHARE_UNROLL
    for (int i = 0; i < AtOnce; ++i) ptx::copy_async(to.data + at[i], from[i], bytes[i]);
  }
}

/// Left operand: rows [row, row + 16) of a tile, elements [16 step, 16 step + 16). Rows are multiples of 8 here and
/// below.
template <int Width>
PREFIXSHARE_DEVICE void load_left(std::uint32_t (&a)[4], Tile<Width> tile, int lane, int row, int step) {
  const int offset = Tile<Width>::offset(lane % 16, lane / 16);
  ptx::load_matrix_x4(a, tile.data + Tile<Width>::further(offset, 2 * step) + row * Tile<Width>::kRowBytes);
}
/// Two right operands whose columns are rows of a tile, [row, row + 8) and [row + 8, row + 16), and whose sums run over
/// elements [16 step, 16 step + 16).
template <int Width>
PREFIXSHARE_DEVICE void load_right(std::uint32_t (&b)[4], Tile<Width> tile, int lane, int row, int step) {
  const int offset = Tile<Width>::offset(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  ptx::load_matrix_x4(b, tile.data + Tile<Width>::further(offset, 2 * step) + row * Tile<Width>::kRowBytes);
}
/// Two right operands whose columns are the elements of two chunks, `chunk`, which is even, and the next, and whose
/// sums run over rows [row, row + 16) of a tile.
template <int Width>
PREFIXSHARE_DEVICE void load_right_transposed(std::uint32_t (&b)[4], Tile<Width> tile, int lane, int row, int chunk) {
  const int offset = Tile<Width>::offset(lane % 16, lane / 16);
  ptx::load_matrix_x4_transposed(b, tile.data + Tile<Width>::further(offset, chunk) + row * Tile<Width>::kRowBytes);
}

/// Adds the products of a left operand with two right operands.
template <class T>
PREFIXSHARE_DEVICE void multiply_add_pair(float (&d)[4], float (&next)[4], const std::uint32_t (&a)[4],
                                          const std::uint32_t (&b)[4]) {
  const std::uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
  ptx::multiply_add<T>(d, a, first);
  ptx::multiply_add<T>(next, a, second);
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
