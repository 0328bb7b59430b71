// SPDX-License-Identifier: Apache-2.0
// TensorView, the checks of views, and overlap against sets of bytes.
#include "prefixshare/tensor.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "prefixshare/detail/part_range.hpp"
#include "prefixshare/detail/validate.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/catch.hpp"

using namespace prefixshare;
using detail::Shape;
using detail::StrideRule;
using detail::ViewRule;

namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

/// Bytes that a view touches; twice, if two of its elements share one.
template <int Rank>
std::multiset<const char*> bytes_of(const TensorView<Rank>& view) {
  std::multiset<const char*> bytes;
  std::int64_t count = 1;
  for (const std::int64_t n : view.shape) count *= n;
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t at = 0, rest = i;
    for (int d = Rank - 1; d >= 0; --d) {
      at += rest % view.shape[d] * view.stride[d];
      rest /= view.shape[d];
    }
    for (int b = 0; b < size_of(view.dtype); ++b)
      bytes.insert(static_cast<const char*>(view.data) + at * size_of(view.dtype) + b);
  }
  return bytes;
}

template <int Rank>
bool share_a_byte(const TensorView<Rank>& a, const TensorView<Rank>& b) {
  const auto of_a = bytes_of(a);
  const auto of_b = bytes_of(b);
  return std::any_of(of_a.begin(), of_a.end(), [&](const char* byte) { return of_b.count(byte) > 0; });
}

TensorView<3> random_view(testing::Random* random, char* memory) {
  TensorView<3> view;
  view.dtype = random->chance(0.5) ? DType::f32 : DType::f16;
  view.data = memory + 4 * random->between(100, 140);
  for (int d = 0; d < 3; ++d) {
    view.shape[d] = random->between(random->chance(0.05) ? 0 : 1, 4);
    view.stride[d] = random->between(-2, 20);
  }
  return view;
}

Status check(const TensorView<2>& view, ViewRule rule = {}) {
  return detail::check_view({"op", "x"}, view, {{3, -1}}, rule);
}

}  // namespace

TEST_CASE("tensor: make_view is contiguous row-major and addresses elements", "[tensor]") {
  float memory[24] = {};
  const TensorView<3> view = make_view(memory, {2, 3, 4});
  CHECK(view.dtype == DType::f32);
  CHECK(view.stride[0] == 12);
  CHECK(view.stride[1] == 4);
  CHECK(view.stride[2] == 1);
  CHECK(view.offset(1, 2, 3) == 23);
  CHECK(view.offset(1) == 12);
  CHECK(view.at<float>(1, 0, 2) == memory + 14);
  CHECK(view.ptr(0, 2, 1) == memory + 9);
  CHECK(static_cast<bool>(view));
  CHECK_FALSE(static_cast<bool>(TensorView<3>{}));
}

TEST_CASE("tensor: strided and const views", "[tensor]") {
  const std::uint16_t bits[6] = {};
  const auto* memory = reinterpret_cast<const Float16*>(bits);
  const TensorView<2> transposed = make_view(memory, {3, 2}, {1, 3});
  CHECK(transposed.dtype == DType::f16);
  CHECK(transposed.ptr(2, 1) == bits + 5);
  CHECK(transposed.offset(std::int64_t{1} << 40, 0) == std::int64_t{1} << 40);
}

TEST_CASE("check_view: each fault is named, and undone it passes", "[validate]") {
  alignas(8) static float memory[64];
  const TensorView<2> good = make_view(memory, {3, 4});
  struct Fault {
    std::string field;
    StatusCode code;
    TensorView<2> view;
    ViewRule rule;
    std::int64_t got, want;
  };
  std::vector<Fault> faults;
  const auto add = [&](const char* field, std::int64_t got, std::int64_t want, auto&& spoil, ViewRule rule = {},
                       StatusCode code = StatusCode::invalid_argument) {
    faults.push_back({field, code, good, rule, got, want});
    spoil(faults.back().view);
  };
  add("data", 0, 0, [](auto& v) { v.data = nullptr; });
  add("data", 0, 0, [](auto& v) { v = {}; });
  add("shape[0]", -1, 0, [](auto& v) { v.shape[0] = -1; });
  add("shape[0]", 2, 3, [](auto& v) { v.shape[0] = 2; });
  add("shape[1]", -7, 0, [](auto& v) { v.shape[1] = -7; });
  add("shape[1]", kMax, kMax / 3, [](auto& v) { v.shape[1] = kMax; });
  add("stride[1]", 2, 1, [](auto& v) { v.stride[1] = 2; });
  add("stride[0]", 0, 0, [](auto& v) { v.stride[0] = 0; });
  add("stride[0]", -4, 0, [](auto& v) { v.stride[0] = -4; });
  add("stride[0]", kMax / 4, kMax / 8, [](auto& v) { v.stride[0] = kMax / 4; });
  add(
      "stride", 12, 16, [](auto& v) { v.stride[0] = 3; },
      [] {
        ViewRule r;
        r.output = true;
        return r;
      }());
  add("dtype", 7, 0, [](auto& v) { v.dtype = static_cast<DType>(7); });
  add(
      "dtype", 1, 3, [](auto&) {},
      [] {
        ViewRule r;
        r.dtypes = detail::dtype_set(DType::bf16);
        return r;
      }());
  add("alignment", 1, 0, [](auto& v) { v.data = static_cast<char*>(v.data) + 1; });
  add(
      "space", 1, 0, [](auto& v) { v.space = MemorySpace::device; }, {}, StatusCode::backend_unavailable);
  add("space", 5, 0, [](auto& v) { v.space = static_cast<MemorySpace>(5); });
  for (const Fault& fault : faults) {
    CAPTURE(fault.field, fault.got);
    const Status s = check(fault.view, fault.rule);
    CHECK(s.code == fault.code);
    CHECK(std::string(s.op) == "op");
    CHECK(std::string(s.argument) == "x");
    CHECK(s.field == fault.field);
    CHECK(s.got == fault.got);
    CHECK(s.want == fault.want);
  }
  CHECK(check(good).ok());
}

TEST_CASE("check_view: what is legal", "[validate]") {
  static float memory[64];
  TensorView<2> view = make_view(memory, {3, 4});
  ViewRule rule;
  view.stride[0] = 0;
  rule.strides = StrideRule::nonnegative;
  CHECK(check(view, rule).ok());
  view.data = memory + 40;
  view.stride[0] = -8;
  rule.strides = StrideRule::any;
  CHECK(check(view, rule).ok());
  view = make_view(memory, {3, 1}, {5, 99});  // the stride of a single element does not matter
  CHECK(check(view).ok());
  rule.required = false;
  CHECK(check(TensorView<2>{}, rule).ok());
  CHECK(check(make_view(static_cast<float*>(nullptr), {3, 0})).ok());  // nothing to point to
}

TEST_CASE("overlap: views called apart share no byte, intervals apart are apart", "[validate]") {
  testing::Random random(11);
  static char memory[4096];
  std::int64_t apart = 0, together = 0;
  for (int i = 0; i < 20000; ++i) {
    const TensorView<3> a = random_view(&random, memory);
    const TensorView<3> b = random_view(&random, memory);
    const bool overlap = detail::overlap(a, b);
    REQUIRE(overlap == detail::overlap(b, a));
    const auto of_a = bytes_of(a);
    const auto of_b = bytes_of(b);
    if (of_a.empty() || of_b.empty() || *of_a.rbegin() < *of_b.begin() || *of_b.rbegin() < *of_a.begin()) {
      REQUIRE_FALSE(overlap);
    }
    if (!overlap) REQUIRE_FALSE(share_a_byte(a, b));
    (overlap ? together : apart) += 1;
  }
  CHECK(apart > 1000);
  CHECK(together > 1000);
}

TEST_CASE("overlap: K and V interleaved in one cache are apart", "[validate]") {
  static float memory[4000];
  // [pages, 2, page, heads, D]
  const TensorView<4> k = make_view(memory, {4, 5, 3, 8}, {240, 24, 8, 1});
  TensorView<4> v = k;
  v.data = memory + 120;
  CHECK_FALSE(detail::overlap(k, v));
  v.data = memory + 119;
  CHECK(detail::overlap(k, v));
  CHECK(detail::overlap(k, k));
  // [pages, page, heads, D + Dv] with D > Dv
  const TensorView<4> fused_k = make_view(memory, {4, 5, 3, 8}, {180, 36, 12, 1});
  const TensorView<4> fused_v = make_view(memory + 8, {4, 5, 3, 4}, {180, 36, 12, 1});
  CHECK_FALSE(detail::overlap(fused_k, fused_v));
  const TensorView<4> wide_v = make_view(memory + 8, {4, 5, 3, 5}, {180, 36, 12, 1});
  CHECK(detail::overlap(fused_k, wide_v));
  // Rows of a packed projection [tokens, Hq + Hkv, D], as views of different rank.
  const TensorView<3> q = make_view(memory, {20, 4, 8}, {48, 8, 1});
  const TensorView<4> packed_k = make_view(memory + 32, {1, 20, 2, 8}, {960, 48, 8, 1});
  CHECK_FALSE(detail::overlap(q, packed_k));
}

TEST_CASE("outputs: elements that share memory are refused", "[validate]") {
  testing::Random random(12);
  static char memory[4096];
  std::int64_t accepted = 0, refused = 0;
  for (int i = 0; i < 20000; ++i) {
    const TensorView<3> view = random_view(&random, memory);
    const bool ok = detail::check_no_self_overlap({"op", "x"}, view).ok();
    const auto bytes = bytes_of(view);
    const bool distinct = std::set<const char*>(bytes.begin(), bytes.end()).size() == bytes.size();
    if (ok) REQUIRE(distinct);
    (ok ? accepted : refused) += 1;
  }
  CHECK(accepted > 1000);
  CHECK(refused > 1000);
  float x[64];
  CHECK(detail::check_no_self_overlap({"op", "x"}, make_view(x, {4, 3}, {1, 7})).ok());  // transposed, padded
}

TEST_CASE("same_view: ignores the strides of single elements only", "[validate]") {
  float memory[64];
  const TensorView<2> a = make_view(memory, {1, 4}, {4, 1});
  TensorView<2> b = make_view(memory, {1, 4}, {77, 1});
  CHECK(detail::same_view(a, b));
  b.dtype = DType::bf16;
  CHECK_FALSE(detail::same_view(a, b));
  CHECK_FALSE(detail::same_view(make_view(memory, {2, 4}), make_view(memory, {2, 4}, {8, 1})));
}

TEST_CASE("check_rope: each fault is named", "[validate]") {
  const std::vector<double> inv_freq{1, 0.5};
  RopeTable good;
  good.inv_freq = inv_freq;
  good.dim = 4;
  good.offset = 4;
  const auto field = [&](auto&& spoil) {
    RopeTable table = good;
    spoil(table);
    const Status s = detail::check_rope({"op", "table"}, table, 8);
    CHECK((s.ok() || s.code == StatusCode::invalid_argument));
    return std::string(s.field);
  };
  CHECK(field([](RopeTable&) {}) == "");
  CHECK(field([](RopeTable& t) { t.dim = -2; }) == "dim");
  CHECK(field([](RopeTable& t) { t.dim = 3; }) == "dim % 2");
  CHECK(field([](RopeTable& t) { t.offset = -1; }) == "offset");
  CHECK(field([](RopeTable& t) { t.offset = 5; }) == "offset + dim");
  CHECK(field([](RopeTable& t) { t.offset = std::numeric_limits<std::int32_t>::max(); }) == "offset + dim");
  CHECK(field([](RopeTable& t) { t.dim = 2; }) == "inv_freq.size");
  CHECK(field([](RopeTable& t) { t.inv_freq = {nullptr, 2}; }) == "inv_freq.data");
  CHECK(field([](RopeTable& t) { t.pairing = static_cast<RopePairing>(2); }) == "pairing");
  CHECK(field([](RopeTable& t) { t.mscale = std::numeric_limits<double>::quiet_NaN(); }) == "isfinite(mscale)");
}

TEST_CASE("part_range: parts are consecutive, even, and cover everything once", "[validate]") {
  for (const std::int64_t units : {std::int64_t{0}, std::int64_t{1}, std::int64_t{7}, std::int64_t{64}, kMax}) {
    for (const std::int32_t parts : {1, 2, 3, 8, 64}) {
      std::int64_t end = 0;
      for (std::int32_t part = 0; part < parts; ++part) {
        const detail::Range range = detail::part_range(units, part, parts);
        REQUIRE(range.begin == end);
        REQUIRE(range.end - range.begin - units / parts <= 1);
        REQUIRE(range.end - range.begin >= units / parts);
        end = range.end;
      }
      REQUIRE(end == units);
    }
  }
}
