// SPDX-License-Identifier: Apache-2.0
// The products of AttendTiles, for keys and values in bf16. A tile of scores is 16 keys by the 16 rows of a panel, a
// tile of outputs 16 elements of o by 16 rows. Keys are read as rows; queries, probabilities (rounded to bf16) and
// transposed values are brought into tile order, with zeros up to whole tiles.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "cpu/key_block.hpp"
#include "cpu/packed_tiles.hpp"
#include "cpu/panel_logits.hpp"
#include "cpu/region.hpp"
#include "cpu/tile_multiplier.hpp"
#include "cpu/vector.hpp"
#include "cpu/vector_bf16.hpp"

PREFIXSHARE_REGION_BEGIN

/// Asks for the keys and values of a packed segment that come after a block, a share with every step.
class Lines {
 public:
  void start(const BFloat16* k, const BFloat16* v, std::int64_t tokens, std::int64_t k_width, std::int64_t v_width,
             std::int64_t steps) noexcept {
    k_ = k, v_ = v;
    k_share_ = detail::ceil_div(tokens * k_width, steps), v_share_ = detail::ceil_div(tokens * v_width, steps);
    steps_ = steps;
  }
  void some() noexcept {
    if (steps_ == 0) return;
    --steps_;
    detail::prefetch(k_, k_share_ * 2), detail::prefetch(v_, v_share_ * 2);
    k_ += k_share_, v_ += v_share_;
  }

 private:
  const BFloat16 *k_ = nullptr, *v_ = nullptr;
  std::int64_t k_share_ = 0, v_share_ = 0, steps_ = 0;
};

template <class Multiplier>
class TileProducts {
 public:
  static constexpr int kPanels = 2;                          // with 2 tiles of keys or of values: 4 sums, 2 + 2 factors
  static constexpr std::int32_t kKeys = detail::kTileTerms;  // of a chunk, whose scores are made at once
  static constexpr std::int64_t kChunk = kKeys * detail::kPanelRows;  // scores of a panel and a chunk

  TileProducts(const detail::AttendView& view, const PanelLogits* logits, detail::Arena* arena) noexcept
      : view_(view),
        args_(view.args),
        kind_(view.kind()),
        logits_(*logits),
        memory_(arena, kind_),
        splits_(args_.q.dtype != DType::bf16 || detail::QueryRows<float>(view, nullptr).turns()),
        k_steps_(detail::ceil_div(kind_.D, detail::kTileTerms)),
        v_tiles_(2 * detail::ceil_div(kind_.Dv, detail::kTileTerms)) {}

  /// Query rows of `panels` panels, [panels * kPanelRows, D]. A query that is not a bf16 (it was turned, or has another
  /// storage type) becomes the sum of two.
  void load_queries(const float* rows, std::int64_t panels) noexcept {
    query_panels_ = panels;
    for (std::int64_t p = 0; p < panels; ++p) {
      const float* at = rows + p * detail::kPanelRows * kind_.D;
      for (std::int64_t i = 0; i < k_steps_; ++i) {
        pack_queries<false>(at, i * detail::kTileTerms, q_tiles(p, 0) + i * detail::kTile);
        if (splits_) pack_queries<true>(at, i * detail::kTileTerms, q_tiles(p, 1) + i * detail::kTile);
      }
    }
  }

  void load_keys(const Block& block) noexcept {
    chunks_ = (block.columns + kKeys - 1) / kKeys;
    const std::int64_t steps = (query_panels_ + kPanels - 1) / kPanels * chunks_ * (k_steps_ + v_tiles_ / 2);
    if (find_packed(block, steps)) return;
    find(block);
    for (std::int32_t c = 0; c < chunks_ * kKeys; c += 16) keys_[c / 16] = keys_of(block, c);
    v_ = memory_.v;
    for (std::int32_t i = 0; i < chunks_; ++i) {
      for (std::int64_t t = 0; t < v_tiles_; t += 2) pack_values(block, t * 16, i);
    }
    odd_ = (!block.full || scaled_) && clear_odd(block);
    next_.lines = Lines();
    next_.rows.start(view_, block.pieces[block.count - 1], block.head, 1, detail::kTileBlockKeys, steps);
  }
  /// [Mp] sums of the weights as they are multiplied: what AttendTiles keeps beside o.
  float* sums() const noexcept { return memory_.sum; }
  /// Chunks of the block.
  std::int32_t chunks() const noexcept { return chunks_; }
  /// Whether probabilities go into the tiles as they are, and nothing is added beside the tiles.
  bool plain() const noexcept { return !scaled_ && !odd_; }

  /// s[panel][key][row] = key . query for the keys of a chunk and 1 to kPanels neighbouring panels.
  void scores(const Block& block, std::int32_t chunk, std::int64_t panel, int panels, float* s) noexcept {
    multiply_keys(chunk, panel, 0, panels, s);
    if (splits_) {
      multiply_keys(chunk, panel, 1, panels, memory_.rest);
      add_rest(memory_.rest, panels * kChunk, s);
    }
    for (std::int32_t c = 0; scaled_ && c < columns_of(block, chunk); ++c) {
      for (int i = 0; i < panels; ++i) {
        float* at = s + i * kChunk + c * detail::kPanelRows;
        (Vec::load(at) * Vec::all(k_scales_[chunk * kKeys + c])).store(at);
      }
    }
  }
  /// Keys of a chunk that are the block's; what `scores` writes for the others has no meaning.
  static std::int32_t columns_of(const Block& block, std::int32_t chunk) noexcept {
    return std::min(block.columns - chunk * kKeys, kKeys);
  }

  /// Probabilities of keys `column` and `column + 1` of a chunk, for the rows of panel i of those multiplied together.
  /// Returns their sum as it is multiplied.
  Vec put_weights(int i, std::int32_t chunk, std::int32_t column, Vec even, Vec odd) noexcept {
    const __m512i pairs = interleave_rounded(even, odd);
    _mm512_store_si512(weights_at(i, 0, chunk, column), pairs);
    return first_of(pairs) + second_of(pairs);
  }
  /// The same times the scales of the values; what the rounding leaves over is multiplied, too: a probability of 1 is
  /// exact, but its product with a scale is not.
  Vec put_scaled_weights(int i, std::int32_t chunk, std::int32_t column, Vec even, Vec odd) noexcept {
    if (!scaled_) return put_weights(i, chunk, column, even, odd);
    const float* scales = weights_ + chunk * kKeys + column;
    const Vec a = even * Vec::all(scales[0]), b = odd * Vec::all(scales[1]);
    _mm512_store_si512(weights_at(i, 0, chunk, column), interleave_rounded(a, b));
    _mm512_store_si512(weights_at(i, 1, chunk, column), interleave_rounded(rounding_rest(a), rounding_rest(b)));
    return even + odd;
  }
  /// The weights of a chunk that no row of panel i sees.
  void clear_weights(int i, std::int32_t chunk) noexcept {
    for (int part = 0; part < (scaled_ ? 2 : 1); ++part) {
      std::memset(weights_at(i, part, chunk, 0), 0, std::size_t{detail::kTile} * sizeof(BFloat16));
    }
  }
  /// Chunks [0, chunks) of panel i times a power of two for each row: exact, but for what becomes subnormal.
  void multiply_weights(int i, std::int32_t chunks, Vec factor) const noexcept {
    for (int part = 0; part < (scaled_ ? 2 : 1); ++part) {
      for (std::int32_t c = 0; c < chunks * kKeys; c += 2) multiply_pairs(weights_at(i, part, 0, c), factor);
    }
  }

  /// o[d][row] += sum over keys of value * weight for 1 to kPanels neighbouring panels.
  void add_values(int panels, float* o) noexcept {
    for (std::int64_t t = 0; t < v_tiles_; t += 2) multiply_values(t, panels, o + t * 16 * detail::kPanelRows);
  }
  /// What the tiles leave out: the values of a chunk that are not finite, times probabilities p [key][row], to o of the
  /// rows that see them.
  void add_odd_values(const Block& block, std::int32_t chunk, std::int64_t panel, const float* p,
                      float* o) const noexcept {
    for (std::int32_t c = 0; odd_ && c < columns_of(block, chunk); ++c) {
      const std::int32_t column = chunk * kKeys + c;
      const BFloat16* v = reinterpret_cast<const BFloat16*>(places_.v[column]);
      const float scale = scaled_ ? v_scales_[column] : 1.0f;
      const Mask rows = block.full ? equal(Vec::zero(), Vec::zero()) : logits_.seen(panel, column);
      for (std::int64_t d = 0; d < kind_.Dv; ++d) {
        if (is_finite(v[d]) && std::isfinite(scale)) continue;
        float* at = o + d * detail::kPanelRows;
        const Vec before = Vec::load(at);
        const Vec value = Vec::all(to_float(v[d]) * scale);
        choose(rows, fma(value, Vec::load(p + c * detail::kPanelRows), before), before).store(at);
      }
    }
  }

 private:
  /// What comes after a block, as it lies in the pool or in a packed segment.
  struct Next {
    Ahead rows;
    Lines lines;

    /// With every step of a product: what is asked for at once must not fill the buffers that loads need, too.
    void some() noexcept { rows.some(), lines.some(); }
  };

  std::int64_t o_panel() const noexcept { return detail::PanelMemory::o_panel(kind_); }
  BFloat16* q_tiles(std::int64_t panel, int part) const noexcept {
    return memory_.q + (panel * 2 + part) * k_steps_ * detail::kTile;
  }
  RowTiles v_tiles_of(std::int64_t tile) const noexcept {
    return {reinterpret_cast<const char*>(v_ + tile * detail::kTile), kTileRowBytes, v_tiles_ * detail::kTile * 2};
  }
  BFloat16* p_tiles(int i, int part) const noexcept {
    return memory_.p + (i * 2 + part) * (detail::kTileBlockKeys / kKeys) * detail::kTile;
  }
  BFloat16* weights_at(int i, int part, std::int32_t chunk, std::int32_t column) const noexcept {
    return p_tiles(i, part) + (chunk * kKeys + column) * detail::kPanelRows;
  }

  // ---- Into tile order

  /// Rows of 32 bf16 at memory_.turn to a tile of B: [pair][row][2].
  void turn(BFloat16* tile) const noexcept { transpose16(memory_.turn, 16, reinterpret_cast<float*>(tile), 16); }

  /// Elements [d, d + 32) of a panel's query rows, or what their rounding leaves over.
  template <bool Rest>
  void pack_queries(const float* rows, std::int64_t d, BFloat16* tile) const noexcept {
    for (std::int64_t r = 0; r < detail::kPanelRows; ++r) {
      const float* row = rows + r * kind_.D + d;
      Vec low = load_first(row, kind_.D - d), high = load_first(row + 16, kind_.D - d - 16);
      if constexpr (Rest) low = rounding_rest(low), high = rounding_rest(high);
      const __m512i rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.v, low.v));
      _mm512_store_si512(memory_.turn + r * 16, rounded);
    }
    turn(tile);
  }
  /// Elements [d, d + 32) of the values of a chunk, as two tiles [element][key].
  void pack_values(const Block& block, std::int64_t d, std::int32_t chunk) const noexcept {
    for (std::int32_t i = 0; i < 16; ++i) {
      const __m512i even = value_words(block, chunk * kKeys + 2 * i, d),
                    odd = value_words(block, chunk * kKeys + 2 * i + 1, d);
      _mm512_store_si512(memory_.turn + i * 32, _mm512_unpacklo_epi16(even, odd));
      _mm512_store_si512(memory_.turn + i * 32 + 16, _mm512_unpackhi_epi16(even, odd));
    }
    turn_pairs(memory_.turn, memory_.v + (chunk * v_tiles_ + d / 16) * detail::kTile);
  }
  __m512i value_words(const Block& block, std::int32_t column, std::int64_t d) const noexcept {
    if (column >= block.columns) return _mm512_setzero_si512();
    return _mm512_maskz_loadu_epi16(first_words(kind_.Dv - d), places_.v[column] + d * 2);
  }

  // ---- Keys and values

  /// A block that starts with a step of a packed segment, and has nothing odd, is multiplied where it lies.
  bool find_packed(const Block& block, std::int64_t steps) noexcept {
    const detail::Piece& piece = block.pieces[0];
    const std::int64_t token = std::int64_t{piece.run->token} + piece.key;
    const PackedSegment* packed = block.count == 1 && token % detail::kTileTerms == 0
                                      ? view_.packed(*piece.run, piece.key, block.columns)
                                      : nullptr;
    if (packed == nullptr) return false;
    detail::PackedHeader header;
    std::memcpy(&header, packed->data, sizeof header);
    const PackedTiles tiles(kind_, const_cast<void*>(packed->data), header.tokens);
    const std::int64_t row = block.head * tiles.padded + token, step = row / detail::kTileTerms;
    std::uint32_t flags = 0;
    for (std::int32_t i = 0; i < chunks_; ++i) flags |= tiles.flags[step + i];
    if ((flags & PackedTiles::kOdd) != 0) return false;
    for (std::int32_t t = 0; t < 2 * chunks_; ++t) {
      keys_[t] = {reinterpret_cast<const char*>(tiles.k + (row + t * 16) * tiles.k_width), tiles.k_width * 2,
                  kTileRowBytes};
    }
    v_ = tiles.v + step * v_tiles_ * detail::kTile;
    odd_ = false;
    scaled_ = (flags & PackedTiles::kScaled) != 0;
    if (scaled_) {
      std::copy_n(tiles.k_scales + row, block.columns, k_scales_);
      std::copy_n(tiles.v_scales + row, block.columns, weights_);
      clear_weights_beyond(block.columns);
    }
    next_.rows = Ahead();
    const std::int64_t next = row + chunks_ * kKeys,
                       left = std::max<std::int64_t>(0, block.head * tiles.padded + tiles.padded - next);
    next_.lines.start(tiles.k + next * tiles.k_width, v_ + chunks_ * v_tiles_ * detail::kTile,
                      std::min<std::int64_t>(left, detail::kTileBlockKeys), tiles.k_width, v_tiles_ * 16, steps);
    return true;
  }
  void find(const Block& block) noexcept {
    scaled_ = false;
    for (const detail::Piece* piece = block.pieces; piece != block.pieces + block.count; ++piece) {
      const Segment& segment = view_.plan.segments[piece->run->segment];
      const KvPool& pool = args_.kv[segment.pool];
      places_.find(view_.plan, pool, segment, std::int64_t{piece->run->token} + piece->key, block.head, piece->begin,
                   piece->end);
      scaled_ = scaled_ || pool.k_scale.granularity != ScaleGranularity::none ||
                pool.v_scale.granularity != ScaleGranularity::none;
    }
    for (const detail::Piece* piece = block.pieces; scaled_ && piece != block.pieces + block.count; ++piece) {
      find_scales(*piece, block.head);
    }
    if (scaled_) clear_weights_beyond(block.columns);
  }
  /// What fills the last chunk up has probability 0, and must have a weight by which that stays 0.
  void clear_weights_beyond(std::int32_t columns) noexcept {
    std::fill(weights_ + columns, weights_ + chunks_ * kKeys, 0.0f);
  }
  void find_scales(const detail::Piece& piece, std::int32_t head) noexcept {
    const Segment& segment = view_.plan.segments[piece.run->segment];
    const KvPool& pool = args_.kv[segment.pool];
    const std::int64_t page_size = view_.plan.pools[segment.pool].page_size;
    detail::TokenWalk walk(view_.plan, segment, std::int64_t{piece.run->token} + piece.key);
    for (std::int32_t c = piece.begin; c < piece.end; ++c) {
      const detail::TokenPlace at = walk.next();
      k_scales_[c] = detail::scale_at(pool.k_scale, at, page_size, head, kind_.Hkv);
      v_scales_[c] = weights_[c] = detail::scale_at(pool.v_scale, at, page_size, head, kind_.Hkv);
    }
  }

  /// Keys [column, column + 16) as they lie, or copied where they lie unevenly or far apart, so that they would share
  /// few sets of the first-level cache, or are not whole tiles. The scores of keys beyond the block are not read,
  /// whatever the copy holds there.
  RowTiles keys_of(const Block& block, std::int32_t column) const noexcept {
    const char* const* k = places_.k + column;
    if (kind_.D % detail::kTileTerms == 0 && column + 16 <= block.columns && std::abs(distance(k)) <= kind_.D * 4 &&
        evenly_strided(k)) {
      return {k[0], distance(k), kTileRowBytes};
    }
    const std::int64_t width = k_steps_ * detail::kTileTerms;
    for (std::int32_t c = column; c < block.columns && c < column + 16; ++c) {
      BFloat16* row = memory_.k + c * width;
      std::memcpy(row, places_.k[c], static_cast<std::size_t>(kind_.D) * sizeof(BFloat16));
      std::memset(row + kind_.D, 0, static_cast<std::size_t>(width - kind_.D) * sizeof(BFloat16));
    }
    return {reinterpret_cast<const char*>(memory_.k + column * width), width * 2, kTileRowBytes};
  }
  static std::int64_t distance(const char* const* k) noexcept {
    return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(k[1]) - reinterpret_cast<std::uintptr_t>(k[0]));
  }
  static bool evenly_strided(const char* const* k) noexcept {
    for (int i = 1; i < 15; ++i) {
      if (distance(k + i) != distance(k)) return false;
    }
    return true;
  }

  // ---- Values that are not finite, where a row may not see them (what it does not see is never multiplied, not even
  // ---- by zero) or weights have two parts (which would cancel): they are zero in the tiles, so that no other row's
  // ---- sum knows of them, and are added to the rows that see them.

  bool clear_odd(const Block& block) noexcept {
    bool found = false;
    for (std::int64_t t = 0; t < chunks_ * v_tiles_; ++t) {
      found = clear_odd_values(memory_.v + t * detail::kTile) || found;
    }
    for (std::int32_t c = 0; c < block.columns && scaled_; ++c) {
      if (std::isfinite(v_scales_[c])) continue;
      weights_[c] = 0;
      found = true;
    }
    return found;
  }
  static bool clear_odd_values(BFloat16* tile) noexcept {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    bool found = false;
    for (std::int64_t i = 0; i < detail::kTile; i += 32) {
      const __m512i x = _mm512_load_si512(tile + i);
      const __mmask32 finite = _mm512_cmpneq_epi16_mask(_mm512_and_si512(x, exponent), exponent);
      if (finite == ~__mmask32{0}) continue;
      found = true;
      _mm512_store_si512(tile + i, _mm512_maskz_mov_epi16(finite, x));
    }
    return found;
  }

  // ---- Products

  /// Keys of a chunk times queries, or times what their rounding left over.
  void multiply_keys(std::int32_t chunk, std::int64_t panel, int part, int panels, float* s) noexcept {
    const PanelTiles q = {q_tiles(panel, part), 2 * k_steps_ * detail::kTile};
    multiply<false>(keys_ + 2 * chunk, q, k_steps_, panels, {s, kChunk});
  }
  /// The product with what rounding left over of the queries; not where infinities have made their sum already.
  static void add_rest(const float* rest, std::int64_t count, float* s) noexcept {
    const Vec infinity = Vec::all(std::numeric_limits<float>::infinity());
    for (std::int64_t i = 0; i < count; i += 16) {
      const Vec x = Vec::load(s + i);
      choose(less(magnitude(x), infinity), x + Vec::load(rest + i), x).store(s + i);
    }
  }

  /// Values of two tiles of the block times weights.
  void multiply_values(std::int64_t tile, int panels, float* o) noexcept {
    const RowTiles v[2] = {v_tiles_of(tile), v_tiles_of(tile + 1)};
    for (int part = 0; part < (scaled_ ? 2 : 1); ++part) {
      const PanelTiles p = {p_tiles(0, part), p_tiles(1, part) - p_tiles(0, part)};
      multiply<true>(v, p, chunks_, panels, {o, o_panel()});
    }
  }
  template <bool adds>
  void multiply(const RowTiles* a, PanelTiles b, std::int64_t steps, int panels, SumTiles c) noexcept {
    if (panels == 2) {
      multiplier_.template multiply<2, adds>(a, b, steps, c, &next_);
    } else {
      multiplier_.template multiply<1, adds>(a, b, steps, c, &next_);
    }
  }

  const detail::AttendView& view_;
  const Attend& args_;
  LayerKind kind_;
  const PanelLogits& logits_;
  detail::TileMemory memory_;
  bool splits_;              // queries are sums of two bf16
  std::int64_t k_steps_;     // tiles along D
  std::int64_t v_tiles_;     // tiles along Dv
  std::int32_t chunks_ = 0;  // tiles along the block's keys
  std::int64_t query_panels_ = 0;
  const BFloat16* v_ = nullptr;  // tiles of the block's values
  bool scaled_ = false;          // the three below hold the block's scales
  bool odd_ = false;             // the block has values that are not finite, kept out of the tiles
  float k_scales_[detail::kTileBlockKeys];
  float v_scales_[detail::kTileBlockKeys];
  float weights_[detail::kTileBlockKeys];  // v_scales_, as far as they go into the tiles
  KeyPlaces places_;                       // of what is not packed
  RowTiles keys_[detail::kTileBlockKeys / 16];
  Next next_;
  Multiplier multiplier_;
};

PREFIXSHARE_REGION_END
