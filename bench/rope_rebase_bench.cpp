// SPDX-License-Identifier: Apache-2.0
// rope_rebase: a cached document moves to other pages and another position, its keys turned and its values copied.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "prefixshare/reference/rope.hpp"
#include "prefixshare/rope_rebase.hpp"
#include "support/attention_input.hpp"
#include "support/row_case.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

constexpr std::int32_t kDelta = 1000;
constexpr std::int32_t kPageSize = 16;

/// One layer's cache: the document in the first half of its pages, room for it in the second.
class Rebase {
 public:
  explicit Rebase(const Problem& p, bool small = false)
      : kind_(p.kind),
        pages_(small ? 1 : testing::detail::scaled(testing::detail::scaled(p.workload->rows, p.scale), kPageSize)),
        k_(2 * half_bytes()),
        v_(2 * half_bytes()),
        from_(static_cast<std::size_t>(pages_)),
        to_(static_cast<std::size_t>(pages_)) {
    NormalVectors(1, kind_.kv_dtype, kind_.D).fill(k_.data(), rows() * kind_.Hkv);
    NormalVectors(2, kind_.kv_dtype, kind_.D).fill(v_.data(), rows() * kind_.Hkv);
    std::iota(from_.begin(), from_.end(), 0);
    std::iota(to_.begin(), to_.end(), pages_);
    for (int i = 0; i < kind_.D / 2; ++i) inv_freq_.push_back(std::pow(500000.0, -2.0 * i / kind_.D));
    table_.inv_freq = inv_freq_;
    table_.dim = kind_.D / 2 * 2;
    layer_.k = view_of<4>(k_, kind_.kv_dtype, {2 * pages_, kPageSize, kind_.Hkv, kind_.D});
    layer_.v = view_of<4>(v_, kind_.kv_dtype, {2 * pages_, kPageSize, kind_.Hkv, kind_.D});
  }
  Rebase(const Rebase&) = delete;
  Rebase& operator=(const Rebase&) = delete;

  RopeRebase args() const { return {{&layer_, 1}, from_, to_, {&kDelta, 1}, table_}; }
  Status call(const Context& context) const { return rope_rebase(context, args()); }
  std::int64_t bytes() const { return 4 * half_bytes(); }

  /// The first keys against the reference on the same keys in f64; all values bit for bit.
  testing::Comparison check() const {
    std::vector<double> exact = testing::to_doubles(first_keys(0));
    const TensorView<3> got = first_keys(pages_);
    const TensorView<3> x = make_view(exact.data(), {got.shape[0], got.shape[1], got.shape[2]});
    throw_if_error(reference::rope_shift({x, x, {&kDelta, 1}, table_}));
    testing::Comparison c = compare_vectors(got, exact, testing::rope_tolerance(DType::f32, kDelta));
    const bool copied = std::memcmp(v_.data(), layer_.v.ptr(pages_), static_cast<std::size_t>(half_bytes())) == 0;
    if (!copied) c.ok = false, c.text += "values are no copy";
    return c;
  }

 private:
  std::int64_t rows() const { return std::int64_t{pages_} * kPageSize; }
  std::int64_t half_bytes() const { return rows() * kind_.Hkv * kind_.D * size_of(kind_.kv_dtype); }
  /// Of the pages from `page` on, which follow one another in memory.
  TensorView<3> first_keys(std::int32_t page) const {
    TensorView<3> keys = make_view(static_cast<float*>(layer_.k.ptr(page)), {rows(), kind_.Hkv, kind_.D});
    keys.dtype = kind_.kv_dtype;
    return first_rows(keys);
  }

  LayerKind kind_;
  std::int32_t pages_;
  Buffer k_, v_;
  std::vector<std::int32_t> from_, to_;
  std::vector<double> inv_freq_;
  RopeTable table_;
  KvPool layer_;
};

}  // namespace

void register_rope_rebase(Session* session) {
  register_rows<Rebase>(session, "rope_rebase", session->context.rope_rebase);
}

}  // namespace prefixshare::bench
