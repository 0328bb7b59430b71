// SPDX-License-Identifier: Apache-2.0
// What every host kernel of tree_attention needs to read a plan: where keys lie, which rows see them, how queries turn.
// Comes with tree_attention.hpp, whose argument types it uses.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "prefixshare/detail/convert.hpp"
#include "prefixshare/detail/lanes.hpp"
#include "prefixshare/detail/rope_leaf.hpp"
#include "prefixshare/detail/softmax_state.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace detail {

inline constexpr std::int32_t kBlockKeys = 64;  // keys of a forward block: scores of 128 rows fit L1 beside the keys
inline constexpr std::int32_t kSumLanes = 8;    // a row's exponentials are summed in this many lanes, then pairwise

// Rows of one head lie far apart among those of the others, out of reach of hardware prefetchers: asking 16 keys ahead
// halves the time of a decode over bf16 keys that are not in cache.
inline constexpr std::int64_t kPrefetchKeys = 16;

/// A plan and its call: the pair that every leaf needs.
struct AttendView {
  const PlanView& plan;
  const Attend& args;

  const LayerKind& kind() const noexcept { return plan.header.kind; }
  /// By how much the orders and positions of a slot's rows fall because the slot is not full.
  std::int64_t shortfall(std::int32_t slot) const noexcept {
    return slot < 0 || args.actual_lengths.empty() ? 0 : plan.slot_capacity[slot] - args.actual_lengths[slot];
  }
  /// Keys of a run that exist in this call.
  std::int64_t keys(const KeyRun& run) const noexcept {
    if (run.length_slot < 0 || args.actual_lengths.empty()) return run.length;
    return std::clamp<std::int64_t>(args.actual_lengths[run.length_slot] - run.length_origin, 0, run.length);
  }
  /// The packed copy of a run's keys [key, key + count), if it holds them all.
  const PackedSegment* packed(const KeyRun& run, std::int64_t key, std::int64_t count) const noexcept {
    const Span<const PackedSegment> list = args.kv[plan.segments[run.segment].pool].packed;
    const auto before = [](const PackedSegment& p, std::int32_t segment) { return p.segment < segment; };
    const PackedSegment* at = std::lower_bound(list.begin(), list.end(), run.segment, before);
    return at != list.end() && at->segment == run.segment && run.token + key + count <= at->tokens ? at : nullptr;
  }
  double scale() const noexcept {
    return args.scale != 0 ? args.scale : 1.0 / std::sqrt(static_cast<double>(kind().D));
  }
};

/// The first bytes of a packed segment: what it is.
struct PackedHeader {
  char implementation[kNameCapacity] = "";
  std::int32_t tokens = 0, Hkv = 0, D = 0, Dv = 0, kv_dtype = 0;
  std::int32_t unused[3] = {};
};
static_assert(sizeof(PackedHeader) == 64, "what follows stays aligned");

/// Keys and values of a packed segment in f32, one KV head after the other: [Hkv, tokens, D], then [Hkv, tokens, Dv].
struct PackedRows {
  float* k;
  float* v;

  PackedRows(const LayerKind& kind, void* data, std::int64_t tokens) noexcept
      : k(reinterpret_cast<float*>(static_cast<char*>(data) + sizeof(PackedHeader))),
        v(k + kind.Hkv * tokens * kind.D) {}
};

/// Page and slot of a token of a segment.
struct TokenPlace {
  std::int64_t page, slot;
};
inline TokenPlace place_of(const PlanView& plan, const Segment& segment, std::int64_t token) noexcept {
  const std::int64_t size = plan.pools[segment.pool].page_size;
  const std::int64_t at = segment.offset + token;
  return {plan.pages[segment.first_page + at / size], at % size};
}

/// The places of consecutive tokens of a segment, without a division for each.
class TokenWalk {
 public:
  TokenWalk() = default;
  TokenWalk(const PlanView& plan, const Segment& segment, std::int64_t token) noexcept
      : pages_(plan.pages.data() + segment.first_page),
        page_size_(plan.pools[segment.pool].page_size),
        index_((segment.offset + token) / page_size_),
        slot_((segment.offset + token) % page_size_) {}
  TokenPlace next() noexcept {
    const TokenPlace at{pages_[index_], slot_};
    if (++slot_ == page_size_) ++index_, slot_ = 0;
    return at;
  }

 private:
  const std::int32_t* pages_ = nullptr;
  std::int64_t page_size_ = 1, index_ = 0, slot_ = 0;
};

/// KV scale of a token and head.
inline float scale_at(const KvScale& s, TokenPlace at, std::int64_t page_size, std::int64_t head,
                      std::int64_t heads) noexcept {
  switch (s.granularity) {
    case ScaleGranularity::tensor: return s.data[0];
    case ScaleGranularity::head: return s.data[head];
    case ScaleGranularity::token: return s.data[(at.page * page_size + at.slot) * heads + head];
    case ScaleGranularity::page: return s.data[at.page * heads + head];
    case ScaleGranularity::none: break;
  }
  return 1.0f;
}

/// One row of a cache in Acc: in place when it is stored so and unscaled, else converted into `buffer`.
template <class Acc>
const Acc* cached_row(const TensorView<4>& x, TokenPlace at, std::int64_t head, float scale, std::int64_t n,
                      Acc* buffer) noexcept {
  const void* row = x.ptr(at.page, at.slot, head);
  if (x.dtype == dtype_of<Acc> && scale == 1.0f) return static_cast<const Acc*>(row);
  load_row(x.dtype, row, n, buffer);
  if (scale != 1.0f) {
    for (std::int64_t d = 0; d < n; ++d) buffer[d] *= static_cast<Acc>(scale);
  }
  return buffer;
}

/// Asks for a row's cache lines ahead of use, in the second-level cache: what is asked for a block ahead would not stay
/// in the first.
inline void prefetch(const void* row, std::int64_t bytes) noexcept {
#if defined(__GNUC__)
  for (std::int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(static_cast<const char*>(row) + b, 0, 2);
#else
  static_cast<void>(row);
  static_cast<void>(bytes);
#endif
}

/// Consecutive keys of one run inside a block.
struct Piece {
  const KeyRun* run;
  std::int32_t key;    // first key, counted inside the run
  std::int32_t begin;  // first column of the block
  std::int32_t end;
};

/// Calls f(begin, end) for the columns of a piece that row `i` of its tile sees: maximal ranges, ascending.
template <class F>
void visible_ranges(const AttendView& a, const Piece& p, std::int64_t i, F&& f) {
  const KeyRun& run = *p.run;
  if (run.mask == MaskKind::full) return f(p.begin, p.end);
  const std::int64_t count = p.end - p.begin;
  if (run.mask == MaskKind::interval) {
    const RowInstance& row = a.plan.instances[run.first_instance + i];
    const std::int64_t order = row.order - a.shortfall(row.length_slot);
    const std::int64_t first = std::int64_t{run.position} + p.key;
    const std::int64_t window = a.kind().window;
    const std::int64_t low = window < 0 ? 0 : std::clamp<std::int64_t>(order - window + 1 - first, 0, count);
    const std::int64_t high = std::clamp<std::int64_t>(order + 1 - first, 0, count);
    if (low < high) f(p.begin + static_cast<std::int32_t>(low), p.begin + static_cast<std::int32_t>(high));
    return;
  }
  const std::uint64_t* words = a.plan.words.data() + run.first_word + i * ((std::int64_t{run.length} + 63) / 64);
  const auto bit = [&](std::int64_t j) { return (words[(p.key + j) / 64] >> ((p.key + j) % 64) & 1) != 0; };
  for (std::int64_t j = 0; j < count;) {
    if (!bit(j)) {
      ++j;
      continue;
    }
    std::int64_t end = j + 1;
    while (end < count && bit(end)) ++end;
    f(p.begin + static_cast<std::int32_t>(j), p.begin + static_cast<std::int32_t>(end));
    j = end;
  }
}

/// The columns of a block that row `i` of its tile sees, as bits.
inline std::uint64_t visible_word(const AttendView& a, const Piece* pieces, std::int32_t count,
                                  std::int64_t i) noexcept {
  static_assert(kBlockKeys <= 64, "a block's columns are the bits of a word");
  std::uint64_t word = 0;
  for (const Piece* p = pieces; p != pieces + count; ++p) {
    visible_ranges(a, *p, i, [&](std::int32_t begin, std::int32_t end) {
      word |= (~std::uint64_t{0} >> (64 - (end - begin))) << begin;
    });
  }
  return word;
}

/// Whether every row sees every key of a block.
inline bool all_visible(const Piece* pieces, std::int32_t count) noexcept {
  for (std::int32_t p = 0; p < count; ++p) {
    if (pieces[p].run->mask != MaskKind::full) return false;
  }
  return true;
}

/// Logits of row `i` of a tile become -inf where it sees nothing.
template <class Acc>
void hide(const AttendView& a, const Piece* pieces, std::int32_t count, std::int64_t i, Acc* logits) noexcept {
  constexpr Acc kHidden = -std::numeric_limits<Acc>::infinity();
  std::int32_t seen = 0;
  for (std::int32_t p = 0; p < count; ++p) {
    visible_ranges(a, pieces[p], i, [&](std::int32_t begin, std::int32_t end) {
      std::fill(logits + seen, logits + begin, kHidden);
      seen = end;
    });
  }
  std::fill(logits + seen, logits + pieces[count - 1].end, kHidden);
}

/// Bias of a key for a query head.
inline double bias_at(const TensorView<3>& bias, TokenPlace at, std::int64_t q_head) noexcept {
  const void* x = bias.ptr(at.page, at.slot, q_head);
  return bias.dtype == DType::f64 ? *static_cast<const double*>(x) : static_cast<double>(*static_cast<const float*>(x));
}

/// Adds the bias of a piece's keys to a row of logits.
template <class Acc>
void add_bias(const AttendView& a, const Piece& p, std::int64_t q_head, Acc* logits) noexcept {
  const Segment& segment = a.plan.segments[p.run->segment];
  const TensorView<3>& bias = a.args.kv[segment.pool].bias;
  if (!bias) return;
  for (std::int32_t c = p.begin; c < p.end; ++c) {
    const TokenPlace at = place_of(a.plan, segment, std::int64_t{p.run->token} + p.key + (c - p.begin));
    logits[c] += static_cast<Acc>(bias_at(bias, at, q_head));
  }
}

template <class T>
T larger(T a, T b) noexcept {
  return b > a ? b : a;
}
/// Largest of n values, n a multiple of kSumLanes; NaNs are left to the exponentials.
template <class Acc>
Acc row_maximum(const Acc* x, std::int32_t n) noexcept {
  constexpr int kStep = Lanes<Acc>::kCount;
  Lanes<Acc> best, next;
  best.load(x);
  for (std::int32_t c = kStep; c < n; c += kStep) {
    next.load(x + c);
    best.keep_larger(next);
  }
  Acc lanes[std::size_t{kStep}];
  best.store(lanes);
  Acc maximum = -std::numeric_limits<Acc>::infinity();
  for (const Acc lane : lanes) maximum = larger(maximum, lane);
  return maximum;
}
/// Sum of n values, n a multiple of kSumLanes, in kSumLanes lanes and then pairwise: the order depends on the column
/// only.
template <class Acc>
Acc row_sum(const Acc* x, std::int32_t n) noexcept {
  Acc lanes[kSumLanes] = {};
  for (std::int32_t c = 0; c < n; c += kSumLanes) {
    for (std::int32_t i = 0; i < kSumLanes; ++i) lanes[i] += x[c + i];
  }
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

/// (o, lse) becomes its merge with (o_b, lse_b). An empty side leaves the other's bits; its o is not read.
template <class Acc>
void merge_into(Acc* o, Acc* lse, const Acc* o_b, Acc lse_b, std::int64_t n) noexcept {
  constexpr Acc kEmpty = -std::numeric_limits<Acc>::infinity();
  if (lse_b == kEmpty) return;
  const bool empty = *lse == kEmpty;
  const MergedPair<Acc> merged = merge_pair(*lse, lse_b);
  *lse = merged.lse;
  if (empty) {
    std::copy_n(o_b, n, o);
    return;
  }
  for (std::int64_t d = 0; d < n; ++d) o[d] = merged.weight_a * o[d] + merged.weight_b * o_b[d];
}

/// Walks the keys of consecutive runs in blocks: a block holds up to `limit` keys of runs that meet the same row
/// instances; with `aligned` it also ends at multiples of `limit` in mask position.
class BlockCursor {
 public:
  BlockCursor(const AttendView& a, std::int32_t first_run, std::int32_t run_count, std::int32_t limit,
              bool aligned) noexcept
      : a_(a), run_(first_run), end_(first_run + run_count), limit_(limit), aligned_(aligned) {
    skip_empty();
  }
  bool done() const noexcept { return run_ == end_; }
  /// Row instances that the next key meets.
  std::int32_t instances() const noexcept { return a_.plan.runs[run_].first_instance; }
  /// Mask position of the next key.
  std::int64_t position() const noexcept { return std::int64_t{a_.plan.runs[run_].position} + key_; }

  /// Fills `pieces` (room for `limit`) with the next block; returns their count.
  std::int32_t next(Piece* pieces) noexcept {
    const std::int32_t instances = a_.plan.runs[run_].first_instance;
    const std::int64_t room = aligned_ ? limit_ - position() % limit_ : limit_;
    std::int32_t count = 0, columns = 0;
    while (!done() && columns < room && a_.plan.runs[run_].first_instance == instances) {
      const KeyRun& run = a_.plan.runs[run_];
      const std::int64_t take = std::min<std::int64_t>(a_.keys(run) - key_, room - columns);
      pieces[count++] = {&run, key_, columns, columns + static_cast<std::int32_t>(take)};
      columns += static_cast<std::int32_t>(take);
      key_ += static_cast<std::int32_t>(take);
      if (key_ < a_.keys(run)) break;
      ++run_;
      key_ = 0;
      skip_empty();
    }
    return count;
  }

 private:
  void skip_empty() noexcept {
    while (run_ < end_ && a_.keys(a_.plan.runs[run_]) == 0) ++run_;
  }

  const AttendView& a_;
  std::int32_t run_, end_;
  std::int32_t key_ = 0;
  std::int32_t limit_;
  bool aligned_;
};

/// The keys and values of a block for one KV head, as rows in Acc.
template <class Acc>
struct KeyRows {
  const Acc** k;  // [columns] -> [D]
  const Acc** v;  // [columns] -> [Dv]
  Acc* k_buffer;
  Acc* v_buffer;

  void load(const AttendView& a, const Piece* pieces, std::int32_t count, std::int64_t head) const noexcept {
    const LayerKind& kind = a.kind();
    for (const Piece* p = pieces; p != pieces + count; ++p) {
      const Segment& segment = a.plan.segments[p->run->segment];
      const KvPool& pool = a.args.kv[segment.pool];
      const std::int64_t page_size = a.plan.pools[segment.pool].page_size;
      const bool v_in_k = pool.v.data == pool.k.data && pool.v.dtype == pool.k.dtype && kind.Dv <= kind.D &&
                          std::equal(pool.v.stride, pool.v.stride + 3, pool.k.stride) &&
                          pool.v_scale.granularity == ScaleGranularity::none &&
                          pool.k_scale.granularity == ScaleGranularity::none;
      const std::int64_t keys = a.keys(*p->run);
      for (std::int32_t c = p->begin; c < p->end; ++c) {
        const std::int64_t key = std::int64_t{p->key} + (c - p->begin);
        const TokenPlace at = place_of(a.plan, segment, p->run->token + key);
        if (key + kPrefetchKeys < keys) {
          const TokenPlace ahead = place_of(a.plan, segment, p->run->token + key + kPrefetchKeys);
          prefetch(pool.k.ptr(ahead.page, ahead.slot, head), kind.D * size_of(pool.k.dtype));
          if (!v_in_k) prefetch(pool.v.ptr(ahead.page, ahead.slot, head), kind.Dv * size_of(pool.v.dtype));
        }
        const float k_scale = scale_at(pool.k_scale, at, page_size, head, kind.Hkv);
        const float v_scale = scale_at(pool.v_scale, at, page_size, head, kind.Hkv);
        k[c] = cached_row(pool.k, at, head, k_scale, kind.D, k_buffer + std::int64_t{c} * kind.D);
        v[c] = v_in_k ? k[c] : cached_row(pool.v, at, head, v_scale, kind.Dv, v_buffer + std::int64_t{c} * kind.Dv);
      }
    }
  }
};

/// Query rows of a tile for one KV head, turned into the frame of one list of instances: row i * group + g.
template <class Acc>
class QueryRows {
 public:
  QueryRows(const AttendView& a, Acc* angles) noexcept : a_(a), angles_(angles) {}

  /// Angle position and gain of an instance.
  struct Turn {
    std::int64_t position;
    double gain;
  };
  Turn turn(const RowInstance& r) const noexcept {
    const std::int64_t delta = a_.plan.deltas[r.delta];
    if (a_.args.q_rotated || a_.args.rope == nullptr) return {-delta, 1.0};
    return {r.position - a_.shortfall(r.length_slot) - delta, a_.args.rope->mscale};
  }
  /// Whether any rotation happens in this call.
  bool turns() const noexcept { return a_.args.rope != nullptr && (!a_.args.q_rotated || a_.plan.deltas.size() > 1); }

  /// Loads instances [first, first + count) of `head` into `rows`; the angles are kept for the next head.
  void load(std::int32_t first, std::int32_t count, std::int64_t head, Acc* rows) noexcept {
    const LayerKind& kind = a_.kind();
    const std::int64_t group = kind.group();
    if (turns() && (first != angles_of_ || count > angle_count_)) fill_angles(first, count);
    for (std::int64_t i = 0; i < count; ++i) {
      const RowInstance& r = a_.plan.instances[first + i];
      for (std::int64_t g = 0; g < group; ++g) {
        Acc* row = rows + (i * group + g) * kind.D;
        load_row(a_.args.q.dtype, a_.args.q.ptr(r.row, head * group + g), kind.D, row);
        if (turns()) rotate_one(row, i, r, false);
      }
    }
  }

  /// Adds the gradient of the loaded rows, turned back into the caller's frame, to `out`; clears `gradient`.
  void turn_back(std::int32_t first, std::int32_t count, Acc* gradient, Acc* out) noexcept {
    const LayerKind& kind = a_.kind();
    const std::int64_t group = kind.group();
    for (std::int64_t m = 0; m < count * group; ++m) {
      Acc* row = gradient + m * kind.D;
      if (turns()) rotate_one(row, m / group, a_.plan.instances[first + m / group], true);
      for (std::int64_t d = 0; d < kind.D; ++d) {
        out[m * kind.D + d] += row[d];
        row[d] = 0;
      }
    }
  }

 private:
  void fill_angles(std::int32_t first, std::int32_t count) noexcept {
    const RopeTable& table = *a_.args.rope;
    for (std::int64_t i = 0; i < count; ++i) {
      const Turn t = turn(a_.plan.instances[first + i]);
      Acc* cosines = angles_ + i * table.dim;
      angles(table, t.position, t.gain, cosines, cosines + table.dim / 2);
    }
    angles_of_ = first;
    angle_count_ = count;
  }
  /// The transposed rotation is the one with the sines negated.
  void rotate_one(Acc* row, std::int64_t i, const RowInstance& r, bool back) noexcept {
    const RopeTable& table = *a_.args.rope;
    const Turn t = turn(r);
    if (t.position == 0 && t.gain == 1.0) return;
    Acc* cosines = angles_ + i * table.dim;
    Acc* sines = cosines + table.dim / 2;
    if (back) negate(sines, table.dim / 2);
    rotate(row, table, cosines, sines);
    if (back) negate(sines, table.dim / 2);
  }
  static void negate(Acc* x, std::int64_t n) noexcept {
    for (std::int64_t i = 0; i < n; ++i) x[i] = -x[i];
  }

  const AttendView& a_;
  Acc* angles_;
  std::int32_t angles_of_ = -1;  // angles_ holds those of instances [angles_of_, angles_of_ + angle_count_)
  std::int32_t angle_count_ = 0;
};

/// Takes aligned pieces off a block of memory; with a null base it only counts.
class Arena {
 public:
  explicit Arena(void* base) noexcept : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(std::int64_t count) noexcept {
    T* at = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
    return at;
  }
  std::int64_t used() const noexcept { return used_; }

 private:
  char* base_;
  std::int64_t used_ = 0;
};

}  // namespace detail
}  // namespace v0_1
}  // namespace prefixshare
