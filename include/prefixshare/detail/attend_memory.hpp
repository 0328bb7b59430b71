// SPDX-License-Identifier: Apache-2.0
// How a workspace is divided: counters, then the scratch of each part, then partial states; on a device the same, with
// one piece of scratch for each thread block. [M] is packed rows: tile rows x group. Comes with tree_attention.hpp,
// whose argument types it uses.
#pragma once

#include <algorithm>
#include <cstdint>

#include "prefixshare/cuda/plan_image.hpp"
#include "prefixshare/detail/attend_leaves.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr std::int64_t kWorkspaceAlignment = 256;
constexpr std::int64_t align_up(std::int64_t bytes) noexcept {
  return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

/// Keys of a forward block for matrix tiles, the most of any body: o is read and written once for each.
inline constexpr std::int32_t kTileBlockKeys = 256;

/// Scratch of the frame of a forward.
template <class Acc>
struct FrameMemory {
  Acc* fold_o;    // [M, Dv] of the chunks folded so far
  Acc* fold_lse;  // [M]
  Piece* pieces;  // [kTileBlockKeys]

  FrameMemory(Arena* arena, const LayerKind& kind) noexcept {
    const std::int64_t m = tile_row_limit(kind) * std::int64_t{kind.group()};
    fold_o = arena->take<Acc>(m * kind.Dv);
    fold_lse = arena->take<Acc>(m);
    pieces = arena->take<Piece>(kTileBlockKeys);
  }
};

/// Scratch of the plain C++ body of a forward.
template <class Acc>
struct ForwardMemory {
  Acc* q;              // [M, D]
  Acc* o;              // [M, Dv] of the present state, not yet divided by its sum
  Acc* maximum;        // [M]
  Acc* sum;            // [M]
  Acc* scores;         // [M, kBlockKeys]
  Acc* angles;         // [tile rows, D]
  const Acc** q_rows;  // [M]
  Acc** o_rows;        // [M]
  KeyRows<Acc> keys;   // kBlockKeys

  ForwardMemory(Arena* arena, const LayerKind& kind) noexcept {
    const std::int64_t tile = tile_row_limit(kind), m = tile * kind.group();
    q = arena->take<Acc>(m * kind.D);
    o = arena->take<Acc>(m * kind.Dv);
    maximum = arena->take<Acc>(m);
    sum = arena->take<Acc>(m);
    scores = arena->take<Acc>(m * kBlockKeys);
    angles = arena->take<Acc>(tile * kind.D);
    q_rows = arena->take<const Acc*>(m);
    o_rows = arena->take<Acc*>(m);
    keys = take_keys(arena, kind, kBlockKeys);
  }
  static KeyRows<Acc> take_keys(Arena* arena, const LayerKind& kind, std::int64_t count) noexcept {
    KeyRows<Acc> keys;
    keys.k = arena->take<const Acc*>(count);
    keys.v = arena->take<const Acc*>(count);
    keys.k_buffer = arena->take<Acc>(count * kind.D);
    keys.v_buffer = arena->take<Acc>(count * kind.Dv);
    return keys;
  }
};

inline constexpr std::int32_t kPanelRows = 16;  // rows side by side in a panel: one or two vector registers
inline constexpr std::int32_t kScorePanel = kBlockKeys * kPanelRows;  // scores of a panel
inline constexpr std::int32_t kPanels = 4;                            // panels whose probabilities are in use at once
inline constexpr std::int32_t kTileTerms = 32;                  // products of two bf16 that a matrix tile sums at once
inline constexpr std::int64_t kTile = kPanelRows * kTileTerms;  // bf16 of a matrix tile
constexpr std::int64_t whole_tiles(std::int64_t width) noexcept { return ceil_div(width, kTileTerms) * kTileTerms; }

/// Scratch of the vector bodies of a forward, f32. [Mp] is packed rows filled up to whole panels; a panel-major array
/// holds, for each panel, [width][kPanelRows].
struct PanelMemory {
  float* q;             // [rows, D], rows: M, or kStreamRows of every KV head
  float* o;             // [rows, Dv]
  float* maximum;       // [rows or Mp]
  float* sum;           // [rows or Mp]
  float* o_panels;      // panel-major, width Dv up to whole tiles
  float* p;             // scores: kPanels panels of a block of kBlockKeys, two of one of kTileBlockKeys
  std::uint32_t* seen;  // [kTileBlockKeys / 32][Mp] whether a row sees 32 columns of a block
  float* angles;        // [tile rows, D]

  static constexpr std::int64_t kScores = std::int64_t{kPanelRows} * std::max(kPanels * kBlockKeys, 2 * kTileBlockKeys);

  PanelMemory(Arena* arena, const LayerKind& kind) noexcept {
    const std::int64_t tile = tile_row_limit(kind), padded = padded_rows(kind);
    const std::int64_t rows = std::max(padded, std::int64_t{kStreamRows} * kind.Hkv);
    q = arena->take<float>(rows * kind.D);
    o = arena->take<float>(rows * kind.Dv);
    maximum = arena->take<float>(rows);
    sum = arena->take<float>(rows);
    o_panels = arena->take<float>(padded / kPanelRows * o_panel(kind));
    p = arena->take<float>(kScores);
    seen = arena->take<std::uint32_t>(kTileBlockKeys / 32 * padded);
    angles = arena->take<float>(tile * kind.D);
  }
  static std::int64_t padded_rows(const LayerKind& kind) noexcept {
    return ceil_div(tile_row_limit(kind) * std::int64_t{kind.group()}, kPanelRows) * kPanelRows;
  }
  /// From a panel of o to the next.
  static std::int64_t o_panel(const LayerKind& kind) noexcept { return whole_tiles(kind.Dv) * kPanelRows; }
};

/// Scratch of products with fused multiply-adds, f32.
struct FmaMemory {
  float* q_panels;  // [Mp], panel-major, width D
  float* k[2];      // [kBlockKeys, D] of the present block and of the next
  float* v[2];      // [kBlockKeys, Dv]

  FmaMemory(Arena* arena, const LayerKind& kind) noexcept {
    q_panels = arena->take<float>(PanelMemory::padded_rows(kind) * kind.D);
    for (float*& block : k) block = arena->take<float>(kBlockKeys * std::int64_t{kind.D});
    for (float*& block : v) block = arena->take<float>(kBlockKeys * std::int64_t{kind.Dv});
  }
};

/// Scratch of products with matrix tiles. A tile is kTile elements, rows one after the other.
struct TileMemory {
  BFloat16* q;  // tiles [Mp / kPanelRows][2][D / kTileTerms]
  BFloat16* k;  // [kTileBlockKeys, D up to whole tiles]
  BFloat16* v;  // tiles [kTileBlockKeys / kTileTerms][Dv / kPanelRows]
  BFloat16* p;  // tiles [2][2][kTileBlockKeys / kTileTerms]
  float* rest;  // [2][kTileTerms][kPanelRows] scores
  float* turn;  // [kPanelRows][kTileTerms] two tiles before they are transposed
  float* sum;   // [Mp] of the weights as they are multiplied

  TileMemory(Arena* arena, const LayerKind& kind) noexcept {
    q = arena->take<BFloat16>(PanelMemory::padded_rows(kind) * 2 * whole_tiles(kind.D));
    k = arena->take<BFloat16>(kTileBlockKeys * whole_tiles(kind.D));
    v = arena->take<BFloat16>(kTileBlockKeys * whole_tiles(kind.Dv));
    p = arena->take<BFloat16>(4 * kTileBlockKeys * kPanelRows);
    rest = arena->take<float>(2 * kTileTerms * kPanelRows);
    turn = arena->take<float>(kPanelRows * kTileTerms);
    sum = arena->take<float>(PanelMemory::padded_rows(kind));
  }
};

/// Scratch of one part of the backward.
template <class Acc>
struct BackwardMemory {
  Acc* q;                 // [M, D]
  Acc* dout;              // [M, Dv]
  Acc* o;                 // [Dv]
  Acc* lse;               // [M]
  Acc* row_dot;           // [M] D_i = dO . o - dlse
  Acc* dq_frame;          // [M, D] in the frame of the present instances
  Acc* dq;                // [M, D] in the caller's frame
  Acc* p;                 // [M, kKeyBlock] probabilities
  Acc* ds;                // [M, kKeyBlock] score gradients
  Acc* dk;                // [kKeyBlock, D]
  Acc* dv;                // [kKeyBlock, Dv]
  Acc* angles;            // [tile rows, D]
  const Acc** q_rows;     // [M]
  const Acc** dout_rows;  // [M]
  Acc** dq_rows;          // [M]
  Acc** dk_rows;          // [kKeyBlock]
  Acc** dv_rows;          // [kKeyBlock]
  KeyRows<Acc> keys;      // kKeyBlock
  Piece* pieces;          // [kBlockKeys]

  BackwardMemory(Arena* arena, const LayerKind& kind) noexcept {
    const std::int64_t tile = tile_row_limit(kind), m = tile * kind.group();
    q = arena->take<Acc>(m * kind.D);
    dout = arena->take<Acc>(m * kind.Dv);
    o = arena->take<Acc>(kind.Dv);
    lse = arena->take<Acc>(m);
    row_dot = arena->take<Acc>(m);
    dq_frame = arena->take<Acc>(m * kind.D);
    dq = arena->take<Acc>(m * kind.D);
    p = arena->take<Acc>(m * kKeyBlock);
    ds = arena->take<Acc>(m * kKeyBlock);
    dk = arena->take<Acc>(kKeyBlock * std::int64_t{kind.D});
    dv = arena->take<Acc>(kKeyBlock * std::int64_t{kind.Dv});
    angles = arena->take<Acc>(tile * kind.D);
    q_rows = arena->take<const Acc*>(m);
    dout_rows = arena->take<const Acc*>(m);
    dq_rows = arena->take<Acc*>(m);
    dk_rows = arena->take<Acc*>(kKeyBlock);
    dv_rows = arena->take<Acc*>(kKeyBlock);
    keys = ForwardMemory<Acc>::take_keys(arena, kind, kKeyBlock);
    pieces = arena->take<Piece>(kBlockKeys);
  }
};

/// What follows the counters of a forward on a device, where arithmetic is f32.
struct DeviceForwardMemory {
  float* fold;         // batch_invariant: [blocks, kWideRows * (Dv + 1)] of the chunks folded so far
  float* partial_o;    // [partial rows, Hq, Dv]
  float* partial_lse;  // [partial rows, Hq]

  DeviceForwardMemory(Arena* arena, const LayerKind& kind, Mode mode, std::int64_t blocks,
                      std::int64_t partial_rows) noexcept {
    const std::int64_t folds = mode == Mode::batch_invariant ? blocks * cuda::kWideRows : 0;
    fold = arena->take<float>(folds * (std::int64_t{kind.Dv} + 1));
    partial_o = arena->take<float>(partial_rows * kind.Hq * kind.Dv);
    partial_lse = arena->take<float>(partial_rows * kind.Hq);
  }
};
/// The same of a backward.
struct DeviceBackwardMemory {
  float* row_dot;  // [rows, Hq] D_i = dO . o - dlse

  DeviceBackwardMemory(Arena* arena, const LayerKind& kind, std::int64_t rows) noexcept {
    row_dot = arena->take<float>(rows * kind.Hq);
  }
};

/// Bytes of parts of a workspace, one behind the other, which take the same arguments.
template <class... Memory, class... Argument>
std::int64_t bytes_of(const LayerKind& kind, Argument... argument) noexcept {
  Arena count(nullptr);
  ((void)Memory(&count, kind, argument...), ...);
  return align_up(count.used());
}
/// Scratch of one part: what the largest of the bodies needs, so that it does not depend on which one runs.
inline std::int64_t forward_scratch_bytes(const LayerKind& kind) noexcept {
  if (kind.acc_dtype() == DType::f64) return bytes_of<FrameMemory<double>, ForwardMemory<double>>(kind);
  return std::max({bytes_of<FrameMemory<float>, ForwardMemory<float>>(kind),
                   bytes_of<FrameMemory<float>, PanelMemory, FmaMemory>(kind),
                   bytes_of<FrameMemory<float>, PanelMemory, TileMemory>(kind)});
}
inline std::int64_t backward_scratch_bytes(const LayerKind& kind) noexcept {
  return kind.acc_dtype() == DType::f64 ? bytes_of<BackwardMemory<double>>(kind)
                                        : bytes_of<BackwardMemory<float>>(kind);
}

inline std::int64_t counter_bytes(std::int64_t rows) noexcept { return align_up(rows * 4); }
/// That of the queue of items, then one for each of the reduce groups and KV heads.
inline std::int64_t device_counter_bytes(const LayerKind& kind, std::int64_t rows) noexcept {
  return counter_bytes(1 + rows * kind.Hkv);
}
/// Partial states: o then lse, of every partial row and query head.
inline std::int64_t partial_bytes(const LayerKind& kind, std::int64_t partial_rows) noexcept {
  return align_up(partial_rows * kind.Hq * (std::int64_t{kind.Dv} + 1) * size_of(kind.acc_dtype()));
}
/// The most partial rows that make_plan produces for a forest within limits.
inline std::int64_t partial_row_bound(const PlanLimits& limits) noexcept {
  if (limits.partial_rows >= 0) return limits.partial_rows;
  if (limits.mode == Mode::fast) return kPartialRowsPerRow * limits.rows + kPartialRowsExtra;
  return limits.rows * (ceil_div(limits.max_context, kInvariantChunk) + 2);
}

/// Which of `parts` owns the work that starts at `cost` of `total`.
inline std::int32_t owner(std::int64_t cost, std::int64_t total, std::int32_t parts) noexcept {
  if (parts == 1 || total <= 0) return 0;
  const double at = static_cast<double>(cost) / static_cast<double>(total);
  return std::clamp(static_cast<std::int32_t>(at * parts), 0, parts - 1);
}

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
