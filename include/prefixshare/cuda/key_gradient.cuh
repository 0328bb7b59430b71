// SPDX-License-Identifier: Apache-2.0
// dK and dV of up to 64 keys by a block of eight warps: the keys stay, the rows that meet them go by. Warps 0 to 3 sum
// up dV, warps 4 to 7 dK, of sixteen keys each. All rows and heads that see a key are summed here, so that what is
// written is written once.
#pragma once

#include <cstdint>

#include "prefixshare/cuda/gradient_products.cuh"
#include "prefixshare/cuda/plain_gradients.cuh"
#include "prefixshare/cuda/row_tiles.cuh"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

/// Dynamic shared memory of a block.
template <int D, int Dv>
struct KeyGradientMemory {
  static constexpr int kValuesAt = kImageKeys * Tile<D>::kRowBytes;
  static constexpr int kStagesAt = kValuesAt + kImageKeys * Tile<Dv>::kRowBytes;
  static constexpr int kBytes = kStagesAt + 2 * RowStage<D, Dv>::kBytes;
  static_assert(PlainTile<kKeyGradientThreads>::bytes(D, Dv) <= kBytes && kStagesAt % 128 == 0);
};

template <class T, int D, int Dv>
class KeyGradient {
  using Memory = KeyGradientMemory<D, Dv>;
  using Stage = RowStage<D, Dv>;
  static constexpr int kPartRows = kGradientPart<D>;
  static constexpr int kBlocks = kPartRows / 8;
  enum class Visibility { none, some, all };

 public:
  PREFIXSHARE_DEVICE KeyGradient(const AttendGradParams& p, const ImageKeyWork& work, unsigned char* memory)
      : p_(p), a_(p.fwd), work_(work), memory_(memory) {
    const PoolParams& pool = a_.pools[work.pool];
    has_columns_ = pool.bias != nullptr || pool.k_scale.granularity != 0 || pool.v_scale.granularity != 0;
  }

  PREFIXSHARE_DEVICE void run() {
    const PoolGradParams& grad = p_.grads[work_.pool];
    if (grad.dk == nullptr && grad.dv == nullptr) return;
    copy_keys();
    RowTiles<T, D, Dv> tiles(p_, work_, memory_ + Memory::kStagesAt);
    bool odd = false;
    while (!tiles.done()) odd = absorb(tiles.take()) || odd;
    ptx::copy_async_wait<0>();
    if (!ptx::any_block(odd)) return write();
    // Something not finite met a pair that is hidden.
    PlainKeyGradient<kKeyGradientThreads>(p_, work_, memory_).run();
  }

 private:
  PREFIXSHARE_DEVICE Tile<D> keys() const { return {memory_}; }
  PREFIXSHARE_DEVICE Tile<Dv> values() const { return {memory_ + Memory::kValuesAt}; }
  static PREFIXSHARE_DEVICE bool sums_values() { return ptx::warp() < 4; }
  static PREFIXSHARE_DEVICE int first_key() { return ptx::warp() % 4 * 16; }

  /// What logits need of a key beside the key. Looked up where it is used: few layers have it.
  PREFIXSHARE_DEVICE KeyColumn column(int key) const {
    const PoolParams& pool = a_.pools[work_.pool];
    KeyColumn c{nullptr, pool.bias_stride[2], 1.0f, 1.0f};
    if (!has_columns_ || key >= work_.length) return c;
    const KeyPlace at = place_of(a_, work_, key);
    c.k_scale = scale_at(pool.k_scale, at, pool.page_size, work_.kv_head, a_.Hkv);
    c.v_scale = scale_at(pool.v_scale, at, pool.page_size, work_.kv_head, a_.Hkv);
    if (pool.bias != nullptr) c.bias = static_cast<const float*>(pool.bias) + offset_of(pool.bias_stride, at, 0);
    return c;
  }
  /// Starts the copies of the keys, sixteen for each warp, or of the values.
  PREFIXSHARE_DEVICE void copy_keys() const {
    const PoolParams& pool = a_.pools[work_.pool];
    const int key = first_key() + ptx::lane() % 16;
    const KeyPlace at = place_of(a_, work_, key < work_.length ? key : 0);
    if (sums_values()) {
      copy(values(), pool.v, offset_of(pool.v_stride, at, work_.kv_head));
    } else {
      copy(keys(), pool.k, offset_of(pool.k_stride, at, work_.kv_head));
    }
    ptx::copy_async_commit();
  }
  template <int Width>
  PREFIXSHARE_DEVICE void copy(Tile<Width> to, const void* base, std::int64_t offset) const {
    const unsigned char* row = static_cast<const unsigned char*>(base) + 2 * offset;
    copy_rows<16>(to, ptx::lane(), first_key(), row, 0, work_.length - first_key());
  }

  /// Adds a tile of rows. Returns whether that was no use: see has_not_finite.
  PREFIXSHARE_DEVICE bool absorb(Stage stage) {
    const int lane = ptx::opaque(ptx::lane());
    const Visibility visible = visibility(stage, lane);
    if (visible == Visibility::none) return false;
    PREFIXSHARE_ROLL
    for (int first = 0; first < Stage::kRows; first += kPartRows) absorb_part(stage, first, visible, lane);
    if (visible == Visibility::all) return false;
    return sums_values() ? has_not_finite<T, Stage::kRows>(stage.outputs(), lane)
                         : has_not_finite<T, Stage::kRows>(stage.queries(), lane);
  }
  /// Adds rows [first, first + kPartRows) of a tile.
  PREFIXSHARE_DEVICE void absorb_part(Stage stage, int first, Visibility visible, int lane) {
    const Tile<D> queries = {stage.queries().data + first * Tile<D>::kRowBytes};
    const Tile<Dv> outputs = {stage.outputs().data + first * Tile<Dv>::kRowBytes};
    float s[kBlocks][4] = {}, dp[kBlocks][4] = {};
    multiply_rows<T>(s, keys(), first_key(), queries, lane);
    if (!sums_values()) multiply_rows<T>(dp, values(), first_key(), outputs, lane);
    if (has_columns_ || a_.softcap > 0) {
      score_with_options(stage, first, s, dp, lane);
    } else {
      score(stage, first, s, dp, lane);
    }
    if (visible == Visibility::some) hide(stage, first, s, lane);
    if (sums_values()) {
      multiply_columns<T>(sum_, s, outputs, lane);
    } else {
      multiply_columns<T>(sum_, s, queries, lane);
    }
  }

  /// How many pairs of a tile's rows and this warp's keys are seen.
  PREFIXSHARE_DEVICE Visibility visibility(Stage stage, int lane) const {
    bool any = false, all = true;
    PREFIXSHARE_UNROLL
    for (int row = lane; row < Stage::kRows; row += 32) {
      const std::uint32_t seen = static_cast<std::uint32_t>(stage.visible()[row] >> first_key()) & 0xffffu;
      any = any || seen != 0;
      all = all && (seen == 0xffffu || stage.lse()[row] == kNoRow);
    }
    if (ptx::ballot(any) == 0) return Visibility::none;
    return ptx::ballot(!all) == 0 ? Visibility::all : Visibility::some;
  }
  /// Calls f(block, element, row) for this lane's results of the part that begins at row `first`.
  template <class F>
  static PREFIXSHARE_DEVICE void each_result(int first, int lane, F&& f) {
    PREFIXSHARE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      PREFIXSHARE_UNROLL
      for (int c = 0; c < 4; ++c) f(b, c, first + 8 * b + 2 * (lane % 4) + c % 2);
    }
  }

  /// Products to probabilities, or to the gradients of products where this warp sums dK.
  PREFIXSHARE_DEVICE void score(Stage stage, int first, float (&s)[kBlocks][4], const float (&dp)[kBlocks][4],
                                int lane) const {
    const float scale = a_.scale * kLog2E;
    each_result(first, lane,
                [&](int b, int c, int row) { s[b][c] = ptx::exp2(fmaf(s[b][c], scale, -stage.lse()[row])); });
    if (sums_values()) return;
    each_result(first, lane, [&](int b, int c, int row) { s[b][c] *= dp[b][c] - stage.row_dot()[row]; });
  }
  PREFIXSHARE_DEVICE void score_with_options(Stage stage, int first, float (&s)[kBlocks][4],
                                             const float (&dp)[kBlocks][4], int lane) const {
    const ScoreRule rule(a_);
    const std::int32_t group = a_.Hq / a_.Hkv;
    const KeyColumn key[2] = {column(first_key() + lane / 4), column(first_key() + lane / 4 + 8)};
    each_result(first, lane, [&](int b, int c, int row) {
      if (c == 0)
        ptx::sync_warp();  // else what is known of all rows is loaded at once, into registers that are not there
      std::int32_t head = work_.kv_head * group;
      if (key[c / 2].bias != nullptr) head += (stage.first_packed + row) % group;
      float slope;
      const float p = ptx::exp2(rule.logit(s[b][c], key[c / 2], head, &slope) - stage.lse()[row]);
      s[b][c] = sums_values() ? p : p * (dp[b][c] * key[c / 2].v_scale - stage.row_dot()[row]) * slope;
    });
  }
  PREFIXSHARE_DEVICE void hide(Stage stage, int first, float (&s)[kBlocks][4], int lane) const {
    const int key = first_key() + lane / 4;
    each_result(first, lane, [&](int b, int c, int row) {
      if ((stage.visible()[row] >> (key + c / 2 * 8) & 1) == 0) s[b][c] = 0.0f;
    });
  }
  PREFIXSHARE_DEVICE void write() const {
    const PoolGradParams& grad = p_.grads[work_.pool];
    PREFIXSHARE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int key = first_key() + ptx::lane() / 4 + 8 * r;
      if (key >= work_.length) continue;
      const KeyPlace at = place_of(a_, work_, key);
      const bool accumulate = p_.accumulate != 0;
      if (sums_values()) {
        if (grad.dv == nullptr) continue;
        put_row<T, Dv / 8>(sum_, r, column(key).v_scale, grad.dv_dtype, grad.dv,
                           offset_of(grad.dv_stride, at, work_.kv_head), accumulate);
      } else if (grad.dk != nullptr) {
        put_row<T, D / 8>(sum_, r, column(key).k_scale * a_.scale, grad.dk_dtype, grad.dk,
                          offset_of(grad.dk_stride, at, work_.kv_head), accumulate);
      }
    }
  }

  const AttendGradParams& p_;
  const AttendParams& a_;
  const ImageKeyWork& work_;
  unsigned char* memory_;
  bool has_columns_;
  float sum_[D / 8][4] = {};
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
