// SPDX-License-Identifier: Apache-2.0
// The image of a plan, written on the host: items become pieces of one KV head and at most kWideRows packed rows, which
// thread blocks take in order. The backward's work is shared out to thread blocks by cost.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "prefixshare/cuda/plan_image.hpp"
#include "prefixshare/tree_attention.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// Pieces of `size` that `count` things make.
constexpr std::int64_t piece_count(std::int64_t count, std::int32_t size) noexcept {
  return detail::ceil_div(count, size);
}

/// Whether the kernel that follows merges a group: see kSerialMergeBytes.
inline bool is_deferred(const PlanView& plan, const ReduceGroup& g) noexcept {
  const std::int64_t row = plan.header.kind.Hq * (plan.header.kind.Dv + std::int64_t{1}) * std::int64_t{4};
  const bool serial = plan.header.partial_rows * row <= kSerialMergeBytes && plan.header.kind.Dv <= kSerialMergeDims;
  return g.part_count > 0 && !serial;
}

/// The pieces of a tile's packed rows that a reduce group's rows lie in.
struct PieceRange {
  std::int64_t begin, end;
};
inline PieceRange pieces_of_group(const PlanView& plan, std::int32_t tile, const ReduceGroup& g) noexcept {
  const GroupTile* first = plan.group_tiles.data() + g.first_tile;  // its tiles ascend
  const GroupTile* at = std::lower_bound(first, first + g.tile_count, tile,
                                         [](const GroupTile& t, std::int32_t wanted) { return t.tile < wanted; });
  const std::int64_t group = plan.header.kind.group();
  return {at->offset * group / kWideRows, piece_count((at->offset + g.row_count) * group, kWideRows)};
}

/// Keys that a run and the keys [token, token + length) of a segment have in common.
inline bool meets(const KeyRun& run, std::int64_t token, std::int64_t length) noexcept {
  return run.token < token + length && token < std::int64_t{run.token} + run.length;
}

/// Lengths of the lists that are not the plan's own.
struct ImageCounts {
  std::int64_t items = 0, item_groups = 0;
  std::int64_t deferred = 0, deferred_rows = 0;
  std::int64_t query_work = 0, key_work = 0, key_spans = 0;
};

inline void count_items(const PlanView& plan, ImageCounts* n) noexcept {
  for (const Item& item : plan.items) {
    const RowTile& tile = plan.tiles[item.tile];
    n->items +=
        (item.head_end - item.head_begin) * piece_count(tile.count * std::int64_t{plan.header.kind.group()}, kWideRows);
    for (std::int32_t i = 0; item.slot >= 0 && i < tile.group_count; ++i) {
      const ReduceGroup& g = plan.groups[plan.tile_groups[tile.first_group + i]];
      if (is_deferred(plan, g)) continue;
      const PieceRange pieces = pieces_of_group(plan, item.tile, g);
      n->item_groups += pieces.end - pieces.begin;
    }
  }
}
inline void count_groups(const PlanView& plan, ImageCounts* n) noexcept {
  const LayerKind& kind = plan.header.kind;
  for (const ReduceGroup& g : plan.groups) {
    n->deferred += is_deferred(plan, g);
    n->deferred_rows += is_deferred(plan, g) ? g.row_count : 0;
    if (plan.header.backward) n->query_work += kind.Hkv * piece_count(g.row_count * kind.group(), kWideRows);
  }
}
inline void count_keys(const PlanView& plan, ImageCounts* n) noexcept {
  for (const KeyBlock& b : plan.blocks) {
    n->key_work += plan.header.kind.Hkv * piece_count(b.length, kImageKeys);
    for (std::int32_t at = 0; at < b.length; at += kImageKeys) {
      for (std::int32_t r = 0; r < b.run_count; ++r) {
        const KeyRun& run = plan.runs[plan.block_runs[b.first_run + r]];
        n->key_spans += meets(run, std::int64_t{b.token} + at, std::min(kImageKeys, b.length - at));
      }
    }
  }
}

inline ImageCounts count_image(const PlanView& plan) noexcept {
  ImageCounts n;
  count_items(plan, &n);
  count_groups(plan, &n);
  count_keys(plan, &n);
  return n;
}
/// The largest ordinal of the image, which must be an int32.
inline std::int64_t largest_ordinal(const PlanView& plan, const ImageCounts& n) noexcept {
  std::int64_t most =
      std::max({n.items, n.item_groups, n.query_work, n.key_work, n.key_spans, plan.header.partial_rows});
  for (const Segment& s : plan.segments) most = std::max(most, std::int64_t{s.offset} + s.length);
  return most;
}

/// Places lists one after the other, each at a multiple of 16 bytes.
class ImagePlaces {
 public:
  template <class T>
  std::int64_t place(std::int64_t count) noexcept {
    const std::int64_t at = bytes_;
    bytes_ += (count * static_cast<std::int64_t>(sizeof(T)) + 15) / 16 * 16;
    return at;
  }
  std::int64_t bytes() const noexcept { return bytes_; }

 private:
  std::int64_t bytes_ = sizeof(ImageHeader);
};

inline void place_forward(const PlanView& plan, const ImageCounts& n, ImagePlaces* places, ImageHeader* h) noexcept {
  h->items_at = places->place<ImageItem>(n.items);
  h->runs_at = places->place<ImageRun>(plan.runs.size());
  h->instances_at = places->place<ImageInstance>(plan.instances.size());
  h->pages_at = places->place<std::int32_t>(plan.pages.size());
  h->words_at = places->place<std::uint64_t>(plan.words.size());
  h->slots_at = places->place<std::int32_t>(plan.slot_capacity.size());
  h->groups_at = places->place<ImageGroup>(plan.groups.size());
  h->group_rows_at = places->place<std::int32_t>(plan.group_rows.size());
  h->parts_at = places->place<std::int32_t>(plan.parts.size());
  h->item_groups_at = places->place<std::int32_t>(n.item_groups);
  h->deferred_at = places->place<ImageDeferred>(n.deferred);
}
/// Without the backward's lists only their places are there.
inline void place_backward(const PlanView& plan, const ImageCounts& n, ImagePlaces* places, ImageHeader* h) noexcept {
  const std::int64_t ends = plan.header.backward ? h->blocks + std::int64_t{1} : 0;
  h->query_blocks_at = places->place<std::int32_t>(ends);
  h->query_work_at = places->place<ImageQueryWork>(n.query_work);
  h->query_spans_at = places->place<ImageQuerySpan>(plan.header.backward ? plan.group_tiles.size() : 0);
  h->key_blocks_at = places->place<std::int32_t>(ends);
  h->key_work_at = places->place<ImageKeyWork>(n.key_work);
  h->key_spans_at = places->place<ImageKeySpan>(n.key_spans);
}
inline ImageHeader make_header(const PlanView& plan, std::int32_t blocks, const ImageCounts& n) noexcept {
  ImageHeader h{};
  h.version = kImageVersion;
  h.blocks = blocks;
  h.rows = plan.header.rows;
  h.item_count = static_cast<std::int32_t>(n.items);
  h.run_count = static_cast<std::int32_t>(plan.runs.size());
  h.group_count = static_cast<std::int32_t>(plan.groups.size());
  h.deferred_count = static_cast<std::int32_t>(n.deferred);
  h.deferred_rows = static_cast<std::int32_t>(n.deferred_rows);
  h.length_slots = plan.header.length_slots;
  h.invariant = plan.header.mode == Mode::batch_invariant;
  h.query_work_count = static_cast<std::int32_t>(n.query_work);
  h.key_work_count = static_cast<std::int32_t>(n.key_work);
  h.partial_rows = plan.header.partial_rows;
  h.fingerprint = plan.header.fingerprint;
  ImagePlaces places;
  place_forward(plan, n, &places, &h);
  place_backward(plan, n, &places, &h);
  h.bytes = places.bytes();
  return h;
}

/// Deals pieces of work, which come in order of cost, to thread blocks: a piece belongs to the block in whose share of
/// the total its middle lies.
class WorkShares {
 public:
  WorkShares(std::int64_t total, std::int32_t blocks, std::int32_t* first) noexcept
      : total_(total), blocks_(blocks), first_(first) {}

  /// The next `pieces`, each an equal part of the costs [begin, end).
  void deal(std::int64_t begin, std::int64_t end, std::int64_t pieces) noexcept {
    const double each = static_cast<double>(end - begin) / static_cast<double>(pieces);
    for (std::int64_t i = 0; i < pieces; ++i) {
      const double middle = static_cast<double>(begin) + each * (static_cast<double>(i) + 0.5);
      const std::int32_t owner = detail::owner(static_cast<std::int64_t>(middle), total_, blocks_);
      while (started_ <= owner) first_[started_++] = dealt_;
      ++dealt_;
    }
  }
  void finish() noexcept {
    while (started_ <= blocks_) first_[started_++] = dealt_;
  }

 private:
  std::int64_t total_;
  std::int32_t blocks_;
  std::int32_t* first_;  // [blocks + 1]
  std::int32_t started_ = 0, dealt_ = 0;
};

/// Writes the lists of an image.
class ImageWriter {
 public:
  ImageWriter(const PlanView& plan, const ImageHeader& header, void* to) noexcept
      : plan_(plan), kind_(plan.header.kind), header_(header), to_(static_cast<unsigned char*>(to)) {}

  void write() noexcept {
    clear_padding();
    *list<ImageHeader>(0) = header_;
    write_runs();
    write_instances();
    write_copies();
    write_groups();
    write_deferred();
    write_items();
    if (!plan_.header.backward) return;
    write_query_work();
    write_query_spans();
    write_key_work();
  }

 private:
  template <class T>
  T* list(std::int64_t at) const noexcept {
    return reinterpret_cast<T*>(to_ + at);
  }

  /// The 16 bytes in front of every list and of the end, before anything else is written: equal plans make equal bytes.
  void clear_padding() const noexcept {
    const ImageHeader& h = header_;
    for (const std::int64_t at :
         {h.items_at, h.runs_at, h.instances_at, h.pages_at, h.words_at, h.slots_at, h.groups_at, h.group_rows_at,
          h.parts_at, h.item_groups_at, h.deferred_at, h.query_blocks_at, h.query_work_at, h.query_spans_at,
          h.key_blocks_at, h.key_work_at, h.key_spans_at, h.bytes}) {
      std::memset(to_ + at - 16, 0, 16);
    }
  }

  /// Where a token of a segment lies, for ImageRun and ImageKeyWork: tokens of one segment count from one page.
  template <class T>
  void set_place(std::int32_t segment, std::int32_t token, T* to) const noexcept {
    const Segment& s = plan_.segments[segment];
    to->pool = s.pool;
    to->first_page = s.first_page;
    to->token = s.offset + token;
  }

  void write_runs() const noexcept {
    ImageRun* out = list<ImageRun>(header_.runs_at);
    for (const KeyRun& run : plan_.runs) {
      ImageRun r{};
      set_place(run.segment, run.token, &r);
      r.length = run.length;
      r.position = run.position;
      r.first_instance = run.first_instance;
      r.length_slot = run.length_slot;
      r.length_origin = run.length_origin;
      r.mask = static_cast<std::int32_t>(run.mask);
      r.words_per_row = static_cast<std::int32_t>(piece_count(run.length, 64));
      r.first_word = run.first_word;
      *out++ = r;
    }
  }
  void write_instances() const noexcept {
    ImageInstance* out = list<ImageInstance>(header_.instances_at);
    for (const RowInstance& r : plan_.instances) {
      *out++ = {r.row, r.order, r.position, plan_.deltas[r.delta], r.length_slot};
    }
  }
  /// Lists that the plan has already.
  void write_copies() const noexcept {
    std::copy(plan_.pages.begin(), plan_.pages.end(), list<std::int32_t>(header_.pages_at));
    std::copy(plan_.words.begin(), plan_.words.end(), list<std::uint64_t>(header_.words_at));
    std::copy(plan_.slot_capacity.begin(), plan_.slot_capacity.end(), list<std::int32_t>(header_.slots_at));
    std::copy(plan_.group_rows.begin(), plan_.group_rows.end(), list<std::int32_t>(header_.group_rows_at));
    std::transform(plan_.parts.begin(), plan_.parts.end(), list<std::int32_t>(header_.parts_at),
                   [](std::int64_t part) { return static_cast<std::int32_t>(part); });
  }

  /// Arrivals are counted when the items are written.
  void write_groups() const noexcept {
    ImageGroup* out = list<ImageGroup>(header_.groups_at);
    for (const ReduceGroup& g : plan_.groups) *out++ = {g.first_row, g.row_count, g.first_part, g.part_count, 0, {}};
  }
  void write_deferred() const noexcept {
    ImageDeferred* out = list<ImageDeferred>(header_.deferred_at);
    std::int32_t rows = 0;
    for (std::int32_t g = 0; g < header_.group_count; ++g) {
      if (!is_deferred(plan_, plan_.groups[g])) continue;
      *out++ = {g, rows};
      rows += plan_.groups[g].row_count;
    }
  }

  // ---- Forward ----

  /// Each item of the plan, in their order: for each of its KV heads the pieces of its packed rows.
  void write_items() noexcept {
    ImageItem* out = list<ImageItem>(header_.items_at);
    for (const Item& item : plan_.items) {
      const ImageItem* const first = out;
      out = write_head(item, out);
      const std::int64_t pieces = out - first, heads = item.head_end - item.head_begin;
      for (std::int64_t h = 1; h < heads; ++h) {  // the other heads differ in nothing else
        for (std::int64_t p = 0; p < pieces; ++p) {
          *out = first[p];
          out++->kv_head = static_cast<std::uint16_t>(item.head_begin + h);
        }
      }
    }
  }

  /// The pieces of an item for its first KV head, and the groups of each.
  ImageItem* write_head(const Item& item, ImageItem* out) noexcept {
    const RowTile& tile = plan_.tiles[item.tile];
    const std::int32_t packed = tile.count * kind_.group();
    for (std::int32_t begin = 0; begin < packed; begin += kWideRows) {
      const std::int32_t count = std::min(kWideRows, packed - begin);
      ImageItem m{};
      m.first_run = item.first_run;
      m.run_count = item.run_count;
      m.instance = tile.first;
      m.slot = static_cast<std::int32_t>(item.slot);
      m.first_group = next_group_;
      m.first_packed = static_cast<std::uint16_t>(begin);
      m.tile_rows = static_cast<std::uint16_t>(tile.count);
      m.kv_head = static_cast<std::uint16_t>(item.head_begin);
      m.packed_count = static_cast<std::uint8_t>(count);
      m.wide = header_.invariant != 0 || count > kNarrowRows;
      m.fold = item.fold;
      if (item.slot >= 0) write_item_groups(item, begin / kWideRows);
      m.group_count = static_cast<std::uint16_t>(next_group_ - m.first_group);
      *out++ = m;
    }
    return out;
  }

  /// The groups of a piece. Every part of a tile's keys has one item that begins at KV head 0: what it counts is what
  /// arrives for each head.
  void write_item_groups(const Item& item, std::int64_t piece) noexcept {
    const RowTile& tile = plan_.tiles[item.tile];
    for (std::int32_t i = 0; i < tile.group_count; ++i) {
      const std::int32_t index = plan_.tile_groups[tile.first_group + i];
      const ReduceGroup& g = plan_.groups[index];
      const PieceRange pieces = pieces_of_group(plan_, item.tile, g);
      if (is_deferred(plan_, g) || piece < pieces.begin || piece >= pieces.end) continue;
      list<std::int32_t>(header_.item_groups_at)[next_group_++] = index;
      if (item.head_begin == 0) ++list<ImageGroup>(header_.groups_at)[index].arrivals;
    }
  }

  // ---- Backward ----

  void write_query_work() const noexcept {
    ImageQueryWork* out = list<ImageQueryWork>(header_.query_work_at);
    WorkShares shares(plan_.header.total_group_cost, header_.blocks, list<std::int32_t>(header_.query_blocks_at));
    for (std::int64_t i = 0; i < plan_.groups.size(); ++i) {
      const ReduceGroup& g = plan_.groups[i];
      const ImageQueryWork* const first = out;
      for (std::int32_t head = 0; head < kind_.Hkv; ++head) out = write_query_rows(g, head, out);
      const bool last = i + 1 == plan_.groups.size();
      shares.deal(g.cost, last ? plan_.header.total_group_cost : plan_.groups[i + 1].cost, out - first);
    }
    shares.finish();
  }
  ImageQueryWork* write_query_rows(const ReduceGroup& g, std::int32_t head, ImageQueryWork* out) const noexcept {
    const std::int32_t packed = g.row_count * kind_.group();
    for (std::int32_t begin = 0; begin < packed; begin += kWideRows) {
      ImageQueryWork w{};
      w.first_span = g.first_tile;
      w.span_count = g.tile_count;
      w.first_row = g.first_row;
      w.first_packed = begin;
      w.packed_count = static_cast<std::uint16_t>(std::min(kWideRows, packed - begin));
      w.kv_head = static_cast<std::uint16_t>(head);
      *out++ = w;
    }
    return out;
  }
  /// One span for each place of a group in a tile.
  void write_query_spans() const noexcept {
    ImageQuerySpan* out = list<ImageQuerySpan>(header_.query_spans_at);
    for (const GroupTile& at : plan_.group_tiles) {
      const RowTile& tile = plan_.tiles[at.tile];
      *out++ = {tile.first_run, tile.run_count, at.offset};
    }
  }

  void write_key_work() const noexcept {
    ImageKeyWork* out = list<ImageKeyWork>(header_.key_work_at);
    WorkShares shares(plan_.header.total_block_cost, header_.blocks, list<std::int32_t>(header_.key_blocks_at));
    std::int32_t next_span = 0;
    for (std::int64_t i = 0; i < plan_.blocks.size(); ++i) {
      const KeyBlock& b = plan_.blocks[i];
      const ImageKeyWork* const first = out;
      for (std::int32_t begin = 0; begin < b.length; begin += kImageKeys) out = write_keys(b, begin, &next_span, out);
      const bool last = i + 1 == plan_.blocks.size();
      shares.deal(b.cost, last ? plan_.header.total_block_cost : plan_.blocks[i + 1].cost, out - first);
    }
    shares.finish();
  }
  /// Up to kImageKeys keys of a block, for every KV head, and the runs that cross them.
  ImageKeyWork* write_keys(const KeyBlock& b, std::int32_t begin, std::int32_t* next_span,
                           ImageKeyWork* out) const noexcept {
    ImageKeyWork w{};
    set_place(b.segment, b.token + begin, &w);
    w.length = std::min(kImageKeys, b.length - begin);
    w.first_span = *next_span;
    for (std::int32_t r = 0; r < b.run_count; ++r) {
      const std::int32_t index = plan_.block_runs[b.first_run + r];
      const KeyRun& run = plan_.runs[index];
      if (!meets(run, std::int64_t{b.token} + begin, w.length)) continue;
      const RowTile& tile = plan_.tiles[run.tile];
      list<ImageKeySpan>(header_.key_spans_at)[(*next_span)++] = {index, tile.count, tile.first};
    }
    w.span_count = *next_span - w.first_span;
    for (w.kv_head = 0; w.kv_head < kind_.Hkv; ++w.kv_head) *out++ = w;
    return out;
  }

  const PlanView& plan_;
  const LayerKind& kind_;
  const ImageHeader& header_;
  unsigned char* to_;
  std::int32_t next_group_ = 0;
};

/// Bytes of the image of a plan whose work is shared out to `blocks` thread blocks, at least one; -1 if the image would
/// need an ordinal beyond int32.
inline std::int64_t image_bytes(const PlanView& plan, std::int32_t blocks) noexcept {
  const ImageCounts n = count_image(plan);
  return largest_ordinal(plan, n) <= INT32_MAX ? make_header(plan, blocks, n).bytes : -1;
}

/// Writes the image to memory of image_bytes(plan, blocks), aligned to 16 bytes. The bytes follow from the arguments.
inline void write_image(const PlanView& plan, std::int32_t blocks, void* to) noexcept {
  const ImageHeader header = make_header(plan, blocks, count_image(plan));
  ImageWriter(plan, header, to).write();
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
