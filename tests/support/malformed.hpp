// SPDX-License-Identifier: Apache-2.0
// Malformed calls as generated tables: a valid call, and faults that each break one thing of it and can be undone.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "prefixshare/plan.hpp"
#include "prefixshare/rope.hpp"
#include "prefixshare/testing/problem.hpp"
#include "prefixshare/tree_attention.hpp"
#include "support/catch.hpp"

namespace prefixshare::tests {

inline constexpr std::int64_t kInt64Max = std::numeric_limits<std::int64_t>::max();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// All memory of a call in one piece, guard bands between the tensors: one comparison sees every write.
class Arena {
 public:
  Arena() : bytes_(kCapacity, kGuard) {
    next_ = kAlignment - static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(bytes_.data()) % kAlignment);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Poisoned memory for `count` elements, 256-byte aligned.
  template <class T>
  T* take(std::int64_t count) {
    const std::int64_t at = next_, bytes = count * std::int64_t{sizeof(T)};
    next_ += (bytes / kAlignment + 2) * kAlignment;
    REQUIRE(next_ <= kCapacity);
    std::fill_n(bytes_.begin() + at, bytes, kPoison);
    return reinterpret_cast<T*>(bytes_.data() + at);
  }
  /// An array with these elements.
  template <class T>
  Span<T> array(const std::vector<T>& values) {
    T* data = take<T>(static_cast<std::int64_t>(values.size()));
    std::copy(values.begin(), values.end(), data);
    return {data, static_cast<std::int64_t>(values.size())};
  }
  /// An f32 tensor full of poison.
  template <std::size_t Rank>
  TensorView<static_cast<int>(Rank)> output(const std::int64_t (&shape)[Rank]) {
    std::int64_t count = 1;
    for (const std::int64_t length : shape) count *= length;
    return make_view(take<float>(count), shape);
  }
  /// An f32 tensor of N(0, 1).
  template <std::size_t Rank>
  TensorView<static_cast<int>(Rank)> input(const std::int64_t (&shape)[Rank]) {
    const auto view = output(shape);
    std::int64_t count = 1;
    for (const std::int64_t length : shape) count *= length;
    for (std::int64_t i = 0; i < count; ++i) static_cast<float*>(view.data)[i] = static_cast<float>(random_.normal());
    return view;
  }

  std::vector<unsigned char> image() const { return {bytes_.begin(), bytes_.begin() + next_}; }
  bool equals(const std::vector<unsigned char>& image) const {
    return std::equal(image.begin(), image.end(), bytes_.begin());
  }
  void restore(const std::vector<unsigned char>& image) { std::copy(image.begin(), image.end(), bytes_.begin()); }

 private:
  static constexpr std::int64_t kCapacity = std::int64_t{1} << 20;
  static constexpr std::int64_t kAlignment = 256;
  static constexpr unsigned char kGuard = 0xa5;
  static constexpr unsigned char kPoison = 0xff;
  std::vector<unsigned char> bytes_;
  std::int64_t next_ = 0;
  testing::Random random_{20240607};
};

/// What the refusal must say.
struct Refusal {
  std::string argument;
  std::string field;
  std::optional<std::int64_t> got;
  std::int64_t index = -1;
  StatusCode code = StatusCode::invalid_argument;
  std::string other = {};      ///< overlaps: the other argument's name would do as well
  const char* only = nullptr;  ///< the way of calling that can see it; null: all
};

using Undo = std::function<void()>;
struct Fault {
  std::string text;  ///< argument: fault class
  Refusal refusal;
  std::function<Undo()> apply;
};

/// Which lengths of a view are fixed by other arguments, and what its rule is.
struct ViewTraits {
  std::string argument;
  std::int64_t index = -1;
  bool output = false;
  bool optional = false;
  unsigned exact = 0xf;   ///< bit d: length d is what other arguments say
  unsigned at_least = 0;  ///< bit d: length d may be longer
  bool unit_inner = true;
  bool zero_strides = false;      ///< legal (never for outputs)
  bool negative_strides = false;  ///< legal
  std::optional<DType> wrong_dtype = DType::f16;
};

/// Memory that another argument owns, to lay an output over.
struct Region {
  std::string argument;
  void* address;
};

/// A valid call of one operator, the ways to make it, and its faults.
class Table {
 public:
  explicit Table(std::string op) : op_(std::move(op)) {}

  void add_way(const char* name, std::function<Status()> call) { ways_.push_back({name, std::move(call)}); }

  /// `*field = bad` is refused so.
  template <class T, class U>
  void add(const std::string& fault, T* field, U bad, Refusal refusal) {
    const std::string text = refusal.argument + "." + refusal.field + ": " + fault;
    faults_.push_back({text, std::move(refusal), [field, bad]() -> Undo {
                         const T good = *field;
                         *field = static_cast<T>(bad);
                         return [field, good] { *field = good; };
                       }});
  }
  void add(const std::string& fault, Refusal refusal, std::function<Undo()> apply) {
    faults_.push_back({refusal.argument + "." + refusal.field + ": " + fault, std::move(refusal), std::move(apply)});
  }

  /// Every fault class of one view. The rank is a template parameter of every view, so that class shows as a shape of
  /// the wrong extent.
  template <int Rank>
  void add_view(TensorView<Rank>* view, const ViewTraits& t) {
    if (!t.optional) add("null", &view->data, nullptr, refusal(t, "data", 0));
    for (int d = 0; d < Rank; ++d) {
      add_lengths(view, t, d);
      if (view->shape[d] > 1) add_strides(view, t, d);
    }
    if (t.output && Rank > 1) add("self-overlap", &view->stride[0], view->stride[1], refusal(t, "stride", {}));
    if (t.wrong_dtype)
      add("dtype", &view->dtype, *t.wrong_dtype, refusal(t, "dtype", static_cast<int>(*t.wrong_dtype)));
    add("no dtype", &view->dtype, static_cast<DType>(9), refusal(t, "dtype", 9));
    add("alignment", &view->data, static_cast<char*>(view->data) + 1, refusal(t, "alignment", 1));
    Refusal device = refusal(t, "space", 1);
    device.code = StatusCode::backend_unavailable;
    add("device memory", &view->space, MemorySpace::device, device);
    add("no space", &view->space, static_cast<MemorySpace>(5), refusal(t, "space", 5));
  }

  /// A span that must have exactly the size that it has. `null_field`: how the operator says null.
  template <class T>
  void add_array(Span<T>* span, const std::string& argument, const char* null_field = "data", bool exact = true) {
    const std::int64_t size = span->size();
    add("null", span, Span<T>(nullptr, size), {argument, null_field, 0});
    add("negative size", span, Span<T>(span->data(), -1), {argument, "size", -1});
    if (!exact) return;
    add("short", span, Span<T>(span->data(), size - 1), {argument, "size", size - 1});
    add("long", span, Span<T>(span->data(), size + 1), {argument, "size", size + 1});
  }

  /// A table for rows of D elements.
  void add_rope(RopeTable* table, const std::string& argument, std::int32_t D) {
    add("odd", &table->dim, table->dim - 1, {argument, "dim % 2", 1});
    add("negative", &table->dim, -2, {argument, "dim", -2});
    add("beyond the row", &table->offset, D, {argument, "offset + dim", std::int64_t{D} + table->dim});
    add("negative", &table->offset, -1, {argument, "offset", -1});
    const Span<const double> freq = table->inv_freq;
    add("short", &table->inv_freq, freq.subspan(0, freq.size() - 1), {argument, "inv_freq.size", freq.size() - 1});
    add("null", &table->inv_freq, Span<const double>(nullptr, freq.size()), {argument, "inv_freq.data", 0});
    add("unknown", &table->pairing, static_cast<RopePairing>(7), {argument, "pairing", 7});
    add("NaN", &table->mscale, kNaN, {argument, "isfinite(mscale)", 0});
  }

  void add_scale(KvScale* scale, const std::string& argument, std::int64_t index = -1) {
    add("null", &scale->data, nullptr, {argument, "data", 0, index});
    add("unknown", &scale->granularity, static_cast<ScaleGranularity>(9), {argument, "granularity", 9, index});
  }

  void add_kind(LayerKind* kind) {
    add("zero heads", &kind->Hq, 0, {"kind", "Hq", 0});
    add("zero heads", &kind->Hkv, 0, {"kind", "Hkv", 0});
    add("negative heads", &kind->Hq, -4, {"kind", "Hq", -4});
    add("not a multiple", &kind->Hq, kind->Hkv + 1, {"kind", "Hq", kind->Hkv + 1});
    add("zero", &kind->D, 0, {"kind", "D", 0});
    add("too long", &kind->D, INT32_MAX, {"kind", "D", INT32_MAX});
    add("negative", &kind->Dv, -1, {"kind", "Dv", -1});
    add("zero", &kind->window, 0, {"kind", "window", 0});
    add("negative", &kind->window, -2, {"kind", "window", -2});
    add("no dtype", &kind->q_dtype, static_cast<DType>(9), {"kind", "q_dtype", 9});
    add("no dtype", &kind->kv_dtype, static_cast<DType>(9), {"kind", "kv_dtype", 9});
  }

  /// `*data`, where an output starts, laid over each region. `shift` bytes in, where exactly the same view is legal.
  void add_overlaps(void** data, const std::string& argument, std::int64_t index, const std::vector<Region>& regions,
                    std::int64_t shift = 0) {
    for (const Region& region : regions) {
      Refusal r{argument, "overlap", 1, index};
      r.other = region.argument;
      add("over " + region.argument, data, static_cast<char*>(region.address) + shift, r);
    }
  }

  /// Every fault in every way of calling: refused by name with nothing written, and undone the call passes as before.
  /// `reset` brings back what a good call changed; `state` is all that a call could write.
  template <class Reset, class State>
  std::int64_t check(Reset&& reset, State&& state) {
    std::int64_t cases = 0;
    for (const auto& [name, call] : ways_) {
      INFO("way: " << name);
      reset();
      const auto before = state();
      REQUIRE(to_string(call()) == "ok");
      const auto good = state();
      const bool writes = !(before == good);
      CHECK(writes);
      for (const Fault& fault : faults_) {
        if (fault.refusal.only != nullptr && std::strcmp(fault.refusal.only, name) != 0) continue;
        INFO(fault.text);
        reset();
        const Undo undo = fault.apply();
        check_refusal(call(), fault.refusal);
        undo();
        const bool untouched = before == state();
        CHECK(untouched);
        CHECK(to_string(call()) == "ok");
        const bool as_before = good == state();
        CHECK(as_before);
        ++cases;
      }
    }
    return cases;
  }
  std::int64_t check(Arena* arena) {
    const std::vector<unsigned char> before = arena->image();
    return check([&] { arena->restore(before); }, [&] { return arena->image(); });
  }

 private:
  static Refusal refusal(const ViewTraits& t, const char* field, std::optional<std::int64_t> got) {
    return {t.argument, field, got, t.index};
  }

  template <int Rank>
  void add_lengths(TensorView<Rank>* view, const ViewTraits& t, int d) {
    const std::string field = "shape[" + std::to_string(d) + "]";
    const auto add_length = [&](const char* fault, std::int64_t length) {
      add(fault, &view->shape[d], length, refusal(t, field.c_str(), length));
    };
    add_length("negative", -1);
    add_length("most negative", std::numeric_limits<std::int64_t>::min());
    add_length("overflow", kInt64Max);
    if ((t.exact >> d & 1u) == 0) return;
    add_length("extent", view->shape[d] - 1);
    if ((t.at_least >> d & 1u) == 0) add_length("extent", view->shape[d] + 1);
  }

  template <int Rank>
  void add_strides(TensorView<Rank>* view, const ViewTraits& t, int d) {
    const std::string field = "stride[" + std::to_string(d) + "]";
    const auto add_stride = [&](const char* fault, std::int64_t stride) {
      add(fault, &view->stride[d], stride, refusal(t, field.c_str(), stride));
    };
    const bool unit = t.unit_inner && d == Rank - 1;
    add_stride("overflow", kInt64Max / 2);
    if (unit) add_stride("inner stride", 2);
    if (unit || !t.zero_strides) add_stride("zero", 0);
    if (unit || !t.negative_strides) add_stride("negative", -view->stride[d]);
    if (unit || !t.negative_strides) add_stride("most negative", std::numeric_limits<std::int64_t>::min());
  }

  /// Whether what was got is as wanted after all, by the refusal's own words.
  static bool holds(const Status& s) {
    const std::string relation = s.relation;
    if (relation == "==") return s.got == s.want;
    if (relation == "!=") return s.got != s.want;
    if (relation == "<") return s.got < s.want;
    if (relation == "<=") return s.got <= s.want;
    if (relation == ">") return s.got > s.want;
    if (relation == ">=") return s.got >= s.want;
    if (relation == "multiple of") return s.want != 0 && s.got % s.want == 0;
    return relation.empty();
  }

  void check_refusal(const Status& s, const Refusal& want) const {
    CAPTURE(to_string(s));
    CHECK(to_string(s.code) == std::string(to_string(want.code)));
    CHECK(s.op == op_);
    const bool named = s.argument == want.argument || (!want.other.empty() && s.argument == want.other);
    CHECK(named);
    CHECK(s.field == want.field);
    if (want.other.empty()) CHECK(s.index == want.index);
    if (want.got) CHECK(s.got == *want.got);
    CHECK_FALSE(holds(s));
    CHECK(to_string(s).find(op_ + ": " + s.argument) == 0);
  }

  std::string op_;
  std::vector<std::pair<const char*, std::function<Status()>>> ways_;
  std::vector<Fault> faults_;
};

}  // namespace prefixshare::tests
