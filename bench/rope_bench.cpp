// SPDX-License-Identifier: Apache-2.0
// rope: applying it to keys, and moving keys that have it.
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "prefixshare/reference/rope.hpp"
#include "prefixshare/rope.hpp"
#include "support/attention_input.hpp"
#include "support/row_case.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

constexpr std::int32_t kDelta = 1000;

/// Keys at positions 0, 1, ...
class Keys {
 public:
  explicit Keys(const Problem& p, bool small = false)
      : tokens_(small ? 1 : testing::detail::scaled(p.workload->rows, p.scale)),
        x_(tokens_ * p.kind.Hkv * p.kind.D * size_of(p.kind.kv_dtype)),
        out_(tokens_ * p.kind.Hkv * p.kind.D * size_of(p.kind.kv_dtype)),
        positions_(static_cast<std::size_t>(tokens_)) {
    NormalVectors(1, p.kind.kv_dtype, p.kind.D).fill(x_.data(), tokens_ * p.kind.Hkv);
    std::iota(positions_.begin(), positions_.end(), 0);
    for (int i = 0; i < p.kind.D / 2; ++i) inv_freq_.push_back(std::pow(500000.0, -2.0 * i / p.kind.D));
    table_.inv_freq = inv_freq_;
    table_.dim = p.kind.D / 2 * 2;
    view_ = view_of<3>(x_, p.kind.kv_dtype, {tokens_, p.kind.Hkv, p.kind.D});
    out_view_ = view_of<3>(out_, p.kind.kv_dtype, {tokens_, p.kind.Hkv, p.kind.D});
  }
  Keys(const Keys&) = delete;
  Keys& operator=(const Keys&) = delete;

  std::int64_t bytes() const { return 2 * tokens_ * view_.shape[1] * view_.shape[2] * size_of(view_.dtype); }

 protected:
  /// The first rows against the reference on the same keys in f64.
  template <class Args, class Reference>
  testing::Comparison compare(Args args, Reference&& reference) const {
    const TensorView<3> x = first_rows(args.x), got = first_rows(args.out);
    std::vector<double> exact = testing::to_doubles(x);
    args.x = args.out = make_view(exact.data(), {x.shape[0], x.shape[1], x.shape[2]});
    throw_if_error(reference(args));
    const double furthest = static_cast<double>(x.shape[0] + kDelta);
    return compare_vectors(got, exact, testing::rope_tolerance(DType::f32, furthest));
  }

  std::int64_t tokens_;
  Buffer x_, out_;
  std::vector<std::int32_t> positions_;
  std::vector<double> inv_freq_;
  RopeTable table_;
  TensorView<3> view_, out_view_;
};

class Apply : public Keys {
 public:
  using Keys::Keys;
  RopeApply args() const { return {view_, out_view_, positions_, table_}; }
  Status call(const Context& context) const { return rope_apply(context, args()); }
  testing::Comparison check() const {
    RopeApply first = args();
    first.positions = first.positions.subspan(0, std::min(tokens_, kCheckedRows));
    return compare(first, [](const RopeApply& a) { return reference::rope_apply(a); });
  }
};

class Shift : public Keys {
 public:
  using Keys::Keys;
  RopeShift args() const { return {view_, out_view_, {&kDelta, 1}, table_}; }
  Status call(const Context& context) const { return rope_shift(context, args()); }
  testing::Comparison check() const {
    return compare(args(), [](const RopeShift& a) { return reference::rope_shift(a); });
  }
};

}  // namespace

void register_rope(Session* session) {
  register_rows<Apply>(session, "rope_apply", session->context.rope_apply);
  register_rows<Shift>(session, "rope_shift", session->context.rope_shift);
}

}  // namespace prefixshare::bench
