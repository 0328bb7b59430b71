// SPDX-License-Identifier: Apache-2.0
// The image of a plan that device kernels read: the plan's lists, cut into work of one thread block each, in one piece
// of memory that a single copy moves. Plain data; the offsets are bytes from the start of the image.
#pragma once

#include <cstdint>

#include "prefixshare/detail/macros.hpp"
#include "prefixshare/plan.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline constexpr std::int32_t kImageVersion = 2;
inline constexpr std::int64_t kImageAlignment = 256;
inline constexpr std::int32_t kWideRows = 64;    // packed rows of a WIDE item: 16 for each of four warps
inline constexpr std::int32_t kNarrowRows = 16;  // of a NARROW item, whose warps take a quarter of the keys each
/// Where the partial states of a plan take more bytes, all groups are merged by the kernel that follows. In a graph
/// that kernel starts after 0.5 us; an item that merges holds up its block for 3 us and, since others' states must be
/// seen, empties the first-level cache of the plan (measured on an H200).
inline constexpr std::int64_t kSerialMergeBytes = 65536;
/// And where o has more dims: there items have no registers to merge with.
inline constexpr std::int32_t kSerialMergeDims = 192;

/// One block's piece of forward work: up to 64 packed rows of a tile, against some of its runs, for one KV head.
/// Packed row m of a tile is its row m / group with head m % group of the KV head's group.
struct ImageItem {
  std::int32_t first_run;  ///< into runs
  std::int32_t run_count;
  std::int32_t instance;       ///< of the tile's first row: the rows whose output or partial state this is
  std::int32_t slot;           ///< partial row of the tile's first row; -1: the item finishes its rows
  std::int32_t first_group;    ///< into item_groups
  std::uint16_t group_count;   ///< reduce groups to which its rows belong; 0 unless slot >= 0
  std::uint16_t first_packed;  ///< first packed row, counted inside the tile
  std::uint16_t tile_rows;     ///< rows of the tile
  std::uint16_t kv_head;
  std::uint8_t packed_count;  ///< 1 to kWideRows
  std::uint8_t wide;          ///< which body
  std::uint8_t fold;          ///< batch_invariant: one state for all chunks, else one per chunk, tile_rows apart
  std::uint8_t unused;
};
static_assert(sizeof(ImageItem) == 32, "two of them are a memory transaction");

/// A key run with its segment resolved: key j lies at token `token + j` of the page list that starts at `first_page`.
struct ImageRun {
  std::int32_t pool;
  std::int32_t first_page;  ///< into pages
  std::int32_t token;       ///< from the start of the first page: the segment's offset is in it
  std::int32_t length;
  std::int32_t position;        ///< mask position of the first key
  std::int32_t first_instance;  ///< of the tile's first row, in this run's frame
  std::int32_t length_slot;     ///< -1: none; else actual keys are clamp(actual - length_origin, 0, length)
  std::int32_t length_origin;
  std::int32_t mask;           ///< MaskKind
  std::int32_t words_per_row;  ///< of the visibility bits
  std::int64_t first_word;     ///< of the tile's first row
};
static_assert(sizeof(ImageRun) == 48);

/// A row instance with its delta resolved.
struct ImageInstance {
  std::int32_t row;
  std::int32_t order;
  std::int32_t position;
  std::int32_t delta;
  std::int32_t length_slot;
};

/// Rows whose partial states are merged together, for each KV head on its own.
struct ImageGroup {
  std::int32_t first_row;  ///< into group_rows
  std::int32_t row_count;
  std::int32_t first_part;  ///< into parts
  std::int32_t part_count;
  std::int32_t arrivals;  ///< items of one KV head that write these parts; 0: the kernel that follows merges
  std::int32_t unused[3];
};

/// Rows of one deferred group, for the kernel that follows.
struct ImageDeferred {
  std::int32_t group;
  std::int32_t first_row;  ///< rows of the deferred groups before this one
};

/// Backward, dQ: up to 64 packed rows of a reduce group, for one KV head, against all runs of the group's tiles.
struct ImageQueryWork {
  std::int32_t first_span;  ///< into query_spans
  std::int32_t span_count;
  std::int32_t first_row;     ///< into group_rows: first row of the group
  std::int32_t first_packed;  ///< first packed row, counted inside the group
  std::uint16_t packed_count;
  std::uint16_t kv_head;
};
/// The group's place in one tile, and that tile's runs.
struct ImageQuerySpan {
  std::int32_t first_run;
  std::int32_t run_count;
  std::int32_t offset;  ///< tile row of the group's first row
};

/// Backward, dK and dV: up to kImageKeys keys with one owner, for one KV head.
inline constexpr std::int32_t kImageKeys = 64;
struct ImageKeyWork {
  std::int32_t pool;
  std::int32_t first_page;  ///< into pages
  std::int32_t token;       ///< as in ImageRun: the block's first key
  std::int32_t length;
  std::int32_t first_span;  ///< into key_spans
  std::int32_t span_count;
  std::int32_t kv_head;
  std::int32_t unused;
};
/// A run that crosses a key block: its rows against the keys that both have.
struct ImageKeySpan {
  std::int32_t run;            ///< into runs
  std::int32_t tile_rows;      ///< rows of the run's tile
  std::int32_t tile_instance;  ///< of the tile's first row, canonical: ImageInstance::row names the query row
};

/// The first bytes of an image. `*_at` are byte offsets of the lists.
struct alignas(16) ImageHeader {
  std::int32_t version;
  std::int32_t blocks;  ///< thread blocks of a launch
  std::int32_t rows;    ///< query rows of a call
  std::int32_t item_count;
  std::int32_t run_count;
  std::int32_t group_count;
  std::int32_t deferred_count;  ///< groups that the kernel that follows merges
  std::int32_t deferred_rows;   ///< their rows
  std::int32_t length_slots;
  std::int32_t invariant;                         ///< Mode::batch_invariant
  std::int32_t query_work_count, key_work_count;  ///< backward
  std::int32_t chunk_states;                      ///< reserved: 0
  std::int32_t unused;
  std::int64_t partial_rows;
  std::int64_t bytes;  ///< of the image
  std::uint64_t fingerprint;
  std::int64_t items_at;         ///< ImageItem[item_count], in the order in which blocks take them
  std::int64_t runs_at;          ///< ImageRun[run_count]
  std::int64_t instances_at;     ///< ImageInstance[]
  std::int64_t pages_at;         ///< std::int32_t[]
  std::int64_t words_at;         ///< std::uint64_t[]
  std::int64_t slots_at;         ///< std::int32_t[length_slots]: capacities
  std::int64_t groups_at;        ///< ImageGroup[group_count]
  std::int64_t group_rows_at;    ///< std::int32_t[]
  std::int64_t parts_at;         ///< std::int32_t[]: partial row of the group's first row, per part, in key order
  std::int64_t item_groups_at;   ///< std::int32_t[]: groups of each item
  std::int64_t deferred_at;      ///< ImageDeferred[deferred_count]
  std::int64_t query_blocks_at;  ///< backward: std::int32_t[blocks + 1] into query_work
  std::int64_t query_work_at;    ///< ImageQueryWork[]
  std::int64_t query_spans_at;   ///< ImageQuerySpan[]
  std::int64_t key_blocks_at;    ///< std::int32_t[blocks + 1] into key_work
  std::int64_t key_work_at;      ///< ImageKeyWork[]
  std::int64_t key_spans_at;     ///< ImageKeySpan[]
};

/// An image as kernels read it.
struct PlanImage {
  const unsigned char* data = nullptr;

  PREFIXSHARE_HD const ImageHeader& header() const noexcept { return *reinterpret_cast<const ImageHeader*>(data); }
  template <class T>
  PREFIXSHARE_HD const T* list(std::int64_t at) const noexcept {
    return reinterpret_cast<const T*>(data + at);
  }
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
