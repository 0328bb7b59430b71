// SPDX-License-Identifier: Apache-2.0
// Body of a forward for a few packed rows: the arithmetic is little, so keys are walked in memory order, all KV heads
// of a token before the next block of tokens, and each key is read once from memory. Vectors run along the head dim for
// the dot products and the outputs, along the keys for the softmax.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cpu/key_block.hpp"
#include "cpu/panel_logits.hpp"
#include "cpu/vector_math.hpp"

PREFIXSHARE_REGION_BEGIN

class AttendStream {
 public:
  AttendStream(const detail::AttendView& view, const detail::PanelMemory& memory,
               detail::QueryRows<float>* query) noexcept
      : view_(view),
        args_(view.args),
        kind_(view.kind()),
        group_(kind_.group()),
        scale_(static_cast<float>(view.scale())),
        memory_(memory),
        query_(*query) {}

  /// Whether a tile's rows are few enough, and the layer of a shape that fills vectors.
  static bool takes(const LayerKind& kind, const RowTile& tile) noexcept {
    return tile.count * kind.group() <= detail::kStreamRows && kind.D % 16 == 0 && kind.Dv % 16 == 0;
  }

  void begin(const RowTile& tile) noexcept {
    tile_rows_ = tile.count;
    of_head_ = tile.count * group_;
  }
  void load(std::int32_t first_instance, std::int32_t head, std::int32_t heads) noexcept {
    for (std::int32_t h = 0; h < heads; ++h) {
      query_.load(first_instance, tile_rows_, head + h, memory_.q + h * of_head_ * kind_.D);
    }
  }
  void clear(std::int32_t heads) noexcept {
    std::fill_n(memory_.maximum, heads * of_head_, kEmpty);
    std::fill_n(memory_.sum, heads * of_head_, 0.0f);
    std::fill_n(memory_.o, heads * of_head_ * kind_.Dv, 0.0f);
  }

  void absorb(const detail::Piece* pieces, std::int32_t count, std::int32_t head, std::int32_t heads) noexcept {
    Block block{pieces, count, head, pieces[count - 1].end, detail::all_visible(pieces, count)};
    KeyPlaces places;
    for (const detail::Piece* p = pieces; p != pieces + count; ++p) {
      places.find(view_.plan, pool_of(*p), view_.plan.segments[p->run->segment], std::int64_t{p->run->token} + p->key,
                  0, p->begin, p->end);
    }
    Ahead ahead;
    ahead.start(view_, pieces[count - 1], head, heads, detail::kBlockKeys,
                std::int64_t{heads} * ((block.columns + 3) / 4));
    for (std::int32_t h = 0; h < heads; ++h) {
      block.head = head + h;
      const std::int64_t row = h * of_head_;
      score(block, places, memory_.q + row * kind_.D, &ahead);
      for (std::int64_t m = 0; m < of_head_; ++m) soften(block, m, row + m);
      add_values(block, places, memory_.o + row * kind_.Dv);
    }
  }

  void finish(std::int32_t heads) noexcept {
    for (std::int64_t m = 0; m < heads * of_head_; ++m) {
      const float sum = memory_.sum[m];
      if (sum == 0) {
        memory_.maximum[m] = kEmpty;
        continue;
      }
      float* o = memory_.o + m * kind_.Dv;
      for (std::int64_t d = 0; d < kind_.Dv; d += 16) (Vec::load(o + d) / Vec::all(sum)).store(o + d);
      memory_.maximum[m] += detail::log_of(sum);
    }
  }

 private:
  const KvPool& pool_of(const detail::Piece& piece) const noexcept {
    return args_.kv[view_.plan.segments[piece.run->segment].pool];
  }

  // ---- Logits

  /// From a row's scores to the next: four keys at a time may write beyond a block.
  static constexpr std::int64_t kScoreRow = detail::kBlockKeys + 16;
  float* scores(std::int64_t m) const noexcept { return memory_.p + m * kScoreRow; }

  void score(const Block& block, const KeyPlaces& places, const float* q, Ahead* ahead) noexcept {
    for (const detail::Piece* p = block.pieces; p != block.pieces + block.count; ++p) {
      const TensorView<4>& k = pool_of(*p).k;
      const std::int64_t offset = block.head * k.stride[2];
      switch (k.dtype) {
        case DType::f32: score_piece<float>(*p, places, offset, q, ahead); break;
        case DType::f16: score_piece<Float16>(*p, places, offset, q, ahead); break;
        case DType::bf16: score_piece<BFloat16>(*p, places, offset, q, ahead); break;
        case DType::f64: break;  // computes in f64, elsewhere
      }
    }
  }
  template <class Storage>
  void score_piece(const detail::Piece& piece, const KeyPlaces& places, std::int64_t offset, const float* q,
                   Ahead* ahead) noexcept {
    for (std::int32_t c = piece.begin; c < piece.end; c += 4) {
      ahead->some();
      const Storage* k[4];
      for (std::int32_t i = 0; i < 4; ++i) {  // the last key again, to fill four up
        const std::int32_t column = std::min(c + i, piece.end - 1);
        k[i] = reinterpret_cast<const Storage*>(places.k[column]) + offset;
      }
      std::int64_t m = 0;
      for (; m + kStreamDotRows <= of_head_; m += kStreamDotRows) {
        for (int i = 0; i < 4; i += kStreamDotKeys) {
          dot<Storage, kStreamDotRows, kStreamDotKeys>(k + i, q + m * kind_.D, scores(m) + c + i);
        }
      }
      for (; m < of_head_; ++m) dot<Storage, 1, 4>(k, q + m * kind_.D, scores(m) + c);
    }
  }
  /// Rows of q with keys; their product is a multiple of 4.
  template <class Storage, int Rows, int Keys>
  void dot(const Storage* const* k, const float* q, float* s) const noexcept {
    Vec sums[std::size_t{Rows * Keys}];
    PREFIXSHARE_UNROLL
    for (int i = 0; i < Rows * Keys; ++i) sums[i] = Vec::zero();
    for (std::int64_t d = 0; d < kind_.D; d += 16) {
      Vec row[std::size_t{Keys}];
      PREFIXSHARE_UNROLL
      for (int i = 0; i < Keys; ++i) row[i] = Vec::load(k[i] + d);
      PREFIXSHARE_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const Vec x = Vec::load(q + r * kind_.D + d);
        PREFIXSHARE_UNROLL
        for (int i = 0; i < Keys; ++i) sums[r * Keys + i] = fma(x, row[i], sums[r * Keys + i]);
      }
    }
    float dots[std::size_t{Rows * Keys}];
    for (int i = 0; i < Rows * Keys; i += 4) sum4(sums + i, dots + i);
    for (int r = 0; r < Rows; ++r) std::copy_n(dots + r * Keys, Keys, s + r * kScoreRow);
  }

  // ---- Softmax

  /// Dot products of row m of the head to exp(logit - maximum), as portable::ForwardBody does.
  void soften(const Block& block, std::int64_t m, std::int64_t row) noexcept {
    float* s = scores(m);
    const std::int32_t padded = (block.columns + 15) / 16 * 16;
    to_logits(block, m, s);
    std::fill(s + block.columns, s + padded, kEmpty);
    const float before = memory_.maximum[row];
    Vec most = Vec::all(before);
    for (std::int32_t c = 0; c < padded; c += 16) most = larger(most, Vec::load(s + c));
    const float after = largest(most), shift = after == kEmpty ? 0.0f : after;
    Vec sum = Vec::zero();
    for (std::int32_t c = 0; c < padded; c += 16) {
      const Vec p = exp_of(Vec::load(s + c) - Vec::all(shift));
      p.store(s + c);
      sum = sum + p;
    }
    const float keep = detail::exp_of(before - shift);
    memory_.maximum[row] = after;
    memory_.sum[row] = memory_.sum[row] * keep + total(sum);
    float* o = memory_.o + row * kind_.Dv;
    for (std::int64_t d = 0; d < kind_.Dv && keep != 1; d += 16) (Vec::load(o + d) * Vec::all(keep)).store(o + d);
    scale_probabilities(block, s);
  }
  static float total(Vec x) noexcept {
    const Vec four[4] = {x, Vec::zero(), Vec::zero(), Vec::zero()};
    float sums[4];
    sum4(four, sums);
    return sums[0];
  }

  /// Scale, soft cap, bias, mask.
  void to_logits(const Block& block, std::int64_t m, float* s) const noexcept {
    for (const detail::Piece* p = block.pieces; p != block.pieces + block.count; ++p) {
      multiply_scales(*p, pool_of(*p).k, pool_of(*p).k_scale, block.head, s);
    }
    const Vec scale = Vec::all(scale_), cap = Vec::all(static_cast<float>(args_.softcap));
    for (std::int32_t c = 0; c < block.columns; c += 16) {
      Vec x = Vec::load(s + c) * scale;
      if (args_.softcap > 0) x = cap * tanh_of(x / cap);
      x.store(s + c);
    }
    const std::int64_t q_head = block.head * group_ + m % group_;
    for (std::int32_t i = 0; i < block.count; ++i) detail::add_bias(view_, block.pieces[i], q_head, s);
    if (!block.full) detail::hide(view_, block.pieces, block.count, m / group_, s);
  }
  /// The values' scales go into the probabilities.
  void scale_probabilities(const Block& block, float* p) const noexcept {
    for (const detail::Piece* piece = block.pieces; piece != block.pieces + block.count; ++piece) {
      multiply_scales(*piece, pool_of(*piece).v, pool_of(*piece).v_scale, block.head, p);
    }
  }
  void multiply_scales(const detail::Piece& piece, const TensorView<4>& pool, const KvScale& scale, std::int64_t head,
                       float* x) const noexcept {
    if (scale.granularity == ScaleGranularity::none) return;
    const Segment& segment = view_.plan.segments[piece.run->segment];
    for (std::int32_t c = piece.begin; c < piece.end; ++c) {
      const detail::TokenPlace at =
          detail::place_of(view_.plan, segment, std::int64_t{piece.run->token} + piece.key + (c - piece.begin));
      x[c] *= detail::scale_at(scale, at, pool.shape[1], head, kind_.Hkv);
    }
  }

  // ---- Outputs

  void add_values(const Block& block, const KeyPlaces& places, float* o) noexcept {
    for (const detail::Piece* p = block.pieces; p != block.pieces + block.count; ++p) {
      const TensorView<4>& v = pool_of(*p).v;
      const std::int64_t offset = block.head * v.stride[2];
      switch (v.dtype) {
        case DType::f32: add_piece<float>(*p, places, offset, o); break;
        case DType::f16: add_piece<Float16>(*p, places, offset, o); break;
        case DType::bf16: add_piece<BFloat16>(*p, places, offset, o); break;
        case DType::f64: break;  // computes in f64, elsewhere
      }
    }
  }
  /// A value that a row does not see is never multiplied, not even by zero: it may be NaN.
  template <class Storage>
  void add_piece(const detail::Piece& piece, const KeyPlaces& places, std::int64_t offset, float* o) noexcept {
    if (piece.run->mask == MaskKind::full) {
      std::int64_t m = 0;
      for (; m + 4 <= of_head_; m += 4) add_range<Storage, 4>(places, piece.begin, piece.end, offset, m, o);
      for (; m < of_head_; ++m) add_range<Storage, 1>(places, piece.begin, piece.end, offset, m, o);
      return;
    }
    for (std::int64_t i = 0; i < tile_rows_; ++i) add_visible<Storage>(piece, places, offset, i, o);
  }
  template <class Storage>
  void add_visible(const detail::Piece& piece, const KeyPlaces& places, std::int64_t offset, std::int64_t i,
                   float* o) noexcept {
    const std::uint64_t word = detail::visible_word(view_, &piece, 1, i);
    for (std::int32_t c = piece.begin; c < piece.end;) {
      std::int32_t end = c;
      while (end < piece.end && (word >> end & 1) != 0) ++end;
      for (std::int64_t m = i * group_; c < end && m < (i + 1) * group_; ++m) {
        add_range<Storage, 1>(places, c, end, offset, m, o);
      }
      c = end + 1;
    }
  }
  /// o[row m + r] += sum over columns [begin, end) of p v.
  template <class Storage, int Rows>
  void add_range(const KeyPlaces& places, std::int32_t begin, std::int32_t end, std::int64_t offset, std::int64_t m,
                 float* o) const noexcept {
    std::int64_t d = 0;
    for (; d + 16 * kStreamSumVectors <= kind_.Dv; d += 16 * kStreamSumVectors) {
      add_part<Storage, Rows, kStreamSumVectors>(places, begin, end, offset, m, d, o);
    }
    for (; d < kind_.Dv; d += 16) add_part<Storage, Rows, 1>(places, begin, end, offset, m, d, o);
  }
  template <class Storage, int Rows, int Vectors>
  void add_part(const KeyPlaces& places, std::int32_t begin, std::int32_t end, std::int64_t offset, std::int64_t m,
                std::int64_t d, float* o) const noexcept {
    Vec sums[std::size_t{Rows}][std::size_t{Vectors}];
    PREFIXSHARE_UNROLL
    for (int r = 0; r < Rows; ++r) {
      PREFIXSHARE_UNROLL
      for (int i = 0; i < Vectors; ++i) sums[r][i] = Vec::load(o + (m + r) * kind_.Dv + d + 16 * i);
    }
    const float* p = scores(m);
    for (std::int32_t c = begin; c < end; ++c) {
      const Storage* v = reinterpret_cast<const Storage*>(places.v[c]) + offset + d;
      Vec row[std::size_t{Vectors}];
      PREFIXSHARE_UNROLL
      for (int i = 0; i < Vectors; ++i) row[i] = Vec::load(v + 16 * i);
      PREFIXSHARE_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const Vec weight = Vec::all(p[r * kScoreRow + c]);
        PREFIXSHARE_UNROLL
        for (int i = 0; i < Vectors; ++i) sums[r][i] = fma(weight, row[i], sums[r][i]);
      }
    }
    PREFIXSHARE_UNROLL
    for (int r = 0; r < Rows; ++r) {
      PREFIXSHARE_UNROLL
      for (int i = 0; i < Vectors; ++i) sums[r][i].store(o + (m + r) * kind_.Dv + d + 16 * i);
    }
  }

  const detail::AttendView& view_;
  const Attend& args_;
  LayerKind kind_;
  std::int64_t group_;
  float scale_;
  const detail::PanelMemory& memory_;
  detail::QueryRows<float>& query_;
  std::int32_t tile_rows_ = 0;
  std::int64_t of_head_ = 0;  // packed rows of a KV head
};

PREFIXSHARE_REGION_END
