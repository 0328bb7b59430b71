// SPDX-License-Identifier: Apache-2.0
// How device kernels read the keys of an image: how many there are in this call, which rows see them, and the walk over
// runs in tiles. The same rules as detail/attend_leaves.hpp.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/attend_params.hpp"
#include "prefixshare/cuda/ptx.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

template <class T>
PREFIXSHARE_DEVICE T between(T x, T low, T high) {
  return x < low ? low : x > high ? high : x;
}

PREFIXSHARE_DEVICE const ImageItem* items_of(const AttendParams& p) {
  return p.plan.list<ImageItem>(p.plan.header().items_at);
}
PREFIXSHARE_DEVICE const ImageRun* runs_of(const AttendParams& p) {
  return p.plan.list<ImageRun>(p.plan.header().runs_at);
}
PREFIXSHARE_DEVICE const ImageInstance* instances_of(const AttendParams& p) {
  return p.plan.list<ImageInstance>(p.plan.header().instances_at);
}

/// Tokens of a length slot in this call.
PREFIXSHARE_DEVICE std::int32_t actual_length(const AttendParams& p, std::int32_t slot) {
  const std::int32_t capacity = p.plan.list<std::int32_t>(p.plan.header().slots_at)[slot];
  return between(p.lengths[slot], 0, capacity);
}
/// By how much the orders and positions of a slot's rows fall because the slot is not full.
PREFIXSHARE_DEVICE std::int32_t shortfall(const AttendParams& p, std::int32_t slot) {
  if (slot < 0 || p.lengths == nullptr) return 0;
  return p.plan.list<std::int32_t>(p.plan.header().slots_at)[slot] - actual_length(p, slot);
}
/// Keys of a run that exist in this call.
PREFIXSHARE_DEVICE std::int32_t keys_of(const AttendParams& p, const ImageRun& run) {
  if (run.length_slot < 0 || p.lengths == nullptr) return run.length;
  return between(actual_length(p, run.length_slot) - run.length_origin, 0, run.length);
}

/// Page and slot of a token of an ImageRun, or of an ImageKeyWork.
struct KeyPlace {
  std::int32_t page, slot;
};
template <class Run>
PREFIXSHARE_DEVICE KeyPlace place_of(const std::int32_t* pages, PageSize size, const Run& run, std::int32_t key) {
  const std::int32_t at = run.token + key, page = size.page(at);
  return {pages[run.first_page + page], at - page * size.size};
}
template <class Run>
PREFIXSHARE_DEVICE KeyPlace place_of(const AttendParams& p, const Run& run, std::int32_t key) {
  return place_of(p.plan.list<std::int32_t>(p.plan.header().pages_at), p.pools[run.pool].page_size, run, key);
}
/// Elements from the start of a pool to one head of a token.
PREFIXSHARE_DEVICE std::int64_t offset_of(const std::int64_t (&stride)[3], KeyPlace at, std::int32_t head) {
  return at.page * stride[0] + at.slot * stride[1] + head * stride[2];
}
/// KV scale of a token and head.
PREFIXSHARE_DEVICE float scale_at(const ScaleParams& s, KeyPlace at, PageSize pages, std::int32_t head,
                                  std::int32_t heads) {
  switch (static_cast<ScaleGranularity>(s.granularity)) {
    case ScaleGranularity::tensor: return s.data[0];
    case ScaleGranularity::head: return s.data[head];
    case ScaleGranularity::token: return s.data[(std::int64_t{at.page} * pages.size + at.slot) * heads + head];
    case ScaleGranularity::page: return s.data[std::int64_t{at.page} * heads + head];
    case ScaleGranularity::none: break;
  }
  return 1.0f;
}

/// Mask order of a row in this call. Nothing is visible to an order below that of the first key, however far.
PREFIXSHARE_DEVICE std::int32_t order_of(const AttendParams& p, const ImageInstance& row) {
  const std::int64_t order = std::int64_t{row.order} - shortfall(p, row.length_slot);
  return static_cast<std::int32_t>(order < INT32_MIN ? INT32_MIN : order);
}

/// Which of the keys [key, key + count) of a run a row sees, as bits; count is 1 to 64. `tile_row` is the row's number
/// in its tile.
PREFIXSHARE_DEVICE std::uint64_t visible_keys(const AttendParams& p, const ImageRun& run, std::int32_t key,
                                              std::int32_t count, std::int32_t tile_row, std::int32_t order) {
  const std::uint64_t all = ~std::uint64_t{0} >> (64 - count);
  if (run.mask == static_cast<std::int32_t>(MaskKind::full)) return all;
  if (run.mask == static_cast<std::int32_t>(MaskKind::interval)) {
    const std::int64_t end = std::int64_t{order} + 1 - run.position - key;  // of what it sees, from `key` on
    const std::int64_t high = between<std::int64_t>(end, 0, count);
    const std::int64_t low = p.window < 0 ? 0 : between<std::int64_t>(end - p.window, 0, count);
    return low < high ? (~std::uint64_t{0} >> (64 - (high - low))) << low : 0;
  }
  const std::uint64_t* words = p.plan.list<std::uint64_t>(p.plan.header().words_at) + run.first_word +
                               std::int64_t{tile_row} * run.words_per_row + key / 64;
  const std::int32_t shift = key % 64;
  const std::uint64_t rest = shift + count > 64 ? words[1] << (64 - shift) : 0;
  return (words[0] >> shift | rest) & all;
}

/// The runs of an item that a walk has before it, by number: little to keep.
struct ListedRuns {
  std::int32_t at, end;

  PREFIXSHARE_DEVICE void begin(const AttendParams&, const ImageItem& item) {
    at = item.first_run;
    end = item.first_run + item.run_count;
  }
  PREFIXSHARE_DEVICE bool done() const { return at == end; }
  PREFIXSHARE_DEVICE const ImageRun& run(const AttendParams& p) const { return runs_of(p)[at]; }
  PREFIXSHARE_DEVICE void advance(const AttendParams&) { ++at; }
};

/// The same for a warp that has registers, and for which others wait: it keeps the present run, and where lists begin.
class KeptRun {
 public:
  PREFIXSHARE_DEVICE explicit KeptRun(const AttendParams& p)
      : runs_(runs_of(p)), pages_(p.plan.list<std::int32_t>(p.plan.header().pages_at)) {}

  PREFIXSHARE_DEVICE void begin(const AttendParams&, const ImageItem& item) {
    at_ = item.first_run;
    end_ = item.first_run + item.run_count;
    load();
  }
  PREFIXSHARE_DEVICE bool done() const { return at_ == end_; }
  PREFIXSHARE_DEVICE const ImageRun& run(const AttendParams&) const { return run_; }
  PREFIXSHARE_DEVICE void advance(const AttendParams&) {
    ++at_;
    load();
  }
  /// Where a key of the present run lies.
  PREFIXSHARE_DEVICE KeyPlace place(const AttendParams& p, std::int32_t key) const {
    return place_of(pages_, p.pools[run_.pool].page_size, run_, key);
  }

 private:
  PREFIXSHARE_DEVICE void load() {
    if (!done()) run_ = runs_[at_];
  }

  const ImageRun* runs_;
  const std::int32_t* pages_;
  ImageRun run_ = {};
  std::int32_t at_ = 0, end_ = 0;
};

/// Where a walk over the keys of an item's runs is. It goes in tiles: a tile holds up to Keys keys of runs that follow
/// each other and meet the same row instances; in batch_invariant mode it also ends at multiples of Keys in mask
/// position.
template <int Keys, class Runs = ListedRuns>
struct KeyWalk : Runs {
  static_assert(Keys <= 64 && kInvariantChunk % Keys == 0, "a tile's columns are bits of a word, and lie in one chunk");

  std::int32_t key;   // next key of the run,
  std::int32_t keys;  // which has so many in this call

  PREFIXSHARE_DEVICE void start(const AttendParams& p, const ImageItem& item) {
    Runs::begin(p, item);
    find_keys(p);
  }
  /// Row instances that the next key meets.
  PREFIXSHARE_DEVICE std::int32_t instances(const AttendParams& p) const { return this->run(p).first_instance; }
  /// Chunk of batch_invariant mode in which the next key lies.
  PREFIXSHARE_DEVICE std::int32_t chunk(const AttendParams& p) const {
    return static_cast<std::int32_t>(position(p) / kInvariantChunk);
  }

  /// Calls f(run, first key, first column, keys) for the pieces of the next tile; returns its columns.
  template <class F>
  PREFIXSHARE_DEVICE std::int32_t next(const AttendParams& p, F&& f) {
    const std::int32_t met = instances(p);
    const std::int32_t room = p.invariant != 0 ? Keys - static_cast<std::int32_t>(position(p) % Keys) : Keys;
    std::int32_t columns = 0;
    do {
      const std::int32_t left = keys - key, take = left < room - columns ? left : room - columns;
      f(this->run(p), key, columns, take);
      columns += take;
      key += take;
      if (key < keys) break;
      this->advance(p);
      find_keys(p);
    } while (!this->done() && columns < room && instances(p) == met);
    return columns;
  }

 private:
  PREFIXSHARE_DEVICE std::int64_t position(const AttendParams& p) const {
    return std::int64_t{this->run(p).position} + key;
  }
  /// Passes over runs that have no keys in this call.
  PREFIXSHARE_DEVICE void find_keys(const AttendParams& p) {
    key = 0;
    for (; !this->done(); this->advance(p)) {
      keys = keys_of(p, this->run(p));
      if (keys > 0) return;
    }
  }
};

/// States that an item makes: in batch_invariant mode one per chunk of path positions that its runs can touch.
PREFIXSHARE_DEVICE std::int32_t chunk_count(const AttendParams& p, const ImageItem& item) {
  if (p.invariant == 0 || item.run_count == 0) return 1;
  const ImageRun& first = runs_of(p)[item.first_run];
  const ImageRun& last = runs_of(p)[item.first_run + item.run_count - 1];
  return static_cast<std::int32_t>((std::int64_t{last.position} + last.length - 1) / kInvariantChunk -
                                   first.position / kInvariantChunk + 1);
}
/// Chunk in which the first of them lies.
PREFIXSHARE_DEVICE std::int32_t first_chunk(const AttendParams& p, const ImageItem& item) {
  return item.run_count == 0 ? 0 : runs_of(p)[item.first_run].position / kInvariantChunk;
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
