// SPDX-License-Identifier: Apache-2.0
// The merge of partial states after the forward of tree_attention on CUDA, in the emulator: any numbers of parts, with
// states that are empty, NaN or infinite among them, against the reference in f64 and against folding one by one.
#include "prefixshare/cuda/merge_rows.cuh"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "prefixshare/reference/merge_states.hpp"
#include "simt/modes.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/emulator.hpp"
#include "support/ops.hpp"

using namespace prefixshare;
using tests::close;
using tests::Emulator;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Shape {
  std::int32_t Hq, Dv;
  DType type;
  std::int64_t pad;  ///< elements between the rows of o: 1 leaves most of them without alignment
  bool sinks;
};
struct Group {
  std::int32_t rows, parts;
};

/// What one state is, among others of its row and head.
enum class Special { none, some_empty, all_empty, all_but_last_empty, nan, infinite };

/// Groups whose merge was left to the launch that follows, their partial states, and where the rows end up.
class Deferred {
 public:
  Deferred(const std::vector<Group>& groups, Shape shape) : groups_(groups), shape_(shape) {
    for (const Group& g : groups) {
      deferred_.push_back({static_cast<std::int32_t>(image_groups_.size()), rows_});
      image_groups_.push_back({rows_, g.rows, static_cast<std::int32_t>(parts_.size()), g.parts, 0, {}});
      for (std::int32_t part = 0; part < g.parts; ++part, partial_rows_ += g.rows) parts_.push_back(partial_rows_);
      rows_ += g.rows;
    }
    for (std::int32_t row = rows_; row-- > 0;) group_rows_.push_back(row);  // as good as any order
    fill();
  }

  /// Runs the merge; the bits of o and lse.
  std::vector<std::uint8_t> run(std::int64_t blocks, bool invariant, const simt::Options& how = {}) {
    o_ = testing::Tensor<3>(shape_.type, {rows_, shape_.Hq, shape_.Dv}, {shape_.pad, false});
    lse_ = testing::Tensor<2>(DType::f32, {rows_, shape_.Hq});
    const std::vector<std::int64_t> image = make_image();
    cuda::AttendParams p{};
    p.plan.data = reinterpret_cast<const unsigned char*>(image.data());
    p.o = o_.view().data;
    for (int d = 0; d < 2; ++d) p.o_stride[d] = o_.view().stride[d], p.lse_stride[d] = lse_.view().stride[d];
    p.lse = static_cast<float*>(lse_.view().data);
    p.sinks = shape_.sinks ? sinks_.data() : nullptr;
    p.partial_o = reinterpret_cast<float*>(partial_o_.data());
    p.partial_lse = partial_lse_.data();
    p.Hq = shape_.Hq, p.Dv = shape_.Dv, p.invariant = invariant, p.o_dtype = shape_.type;
    Emulator emulator(how);
    REQUIRE(emulator(&cuda::merge_deferred<cuda::kAttendThreads>, blocks, cuda::kAttendThreads, 0, true, p).ok());
    CHECK(o_.guards_intact());
    CHECK(lse_.guards_intact());
    return bits();
  }

  /// Against the reference in f64. A sink is one more part, whose o is 0.
  void check() {
    testing::Tensor<3> o(DType::f64, {rows_, shape_.Hq, shape_.Dv});
    testing::Tensor<2> lse(DType::f64, {rows_, shape_.Hq});
    each_row([&](const cuda::ImageGroup& g, std::int32_t r, std::int32_t row) {
      std::vector<testing::Tensor<3>> part_o;
      std::vector<testing::Tensor<2>> part_lse;
      for (std::int32_t part = 0; part <= g.part_count; ++part) {
        const bool sink = part == g.part_count;
        part_o.emplace_back(DType::f64, std::array<std::int64_t, 3>{1, shape_.Hq, shape_.Dv});
        part_lse.emplace_back(DType::f64, std::array<std::int64_t, 2>{1, shape_.Hq});
        for (std::int32_t h = 0; h < shape_.Hq; ++h) {
          const std::int64_t at = sink ? 0 : partial(g, part, r, h);
          const float none = shape_.sinks ? sinks_[static_cast<std::size_t>(h)] : -kInf;
          part_lse.back().set(h, static_cast<double>(sink ? none : partial_lse_[static_cast<std::size_t>(at)]));
          for (std::int32_t d = 0; d < shape_.Dv; ++d) {
            part_o.back().set(h * shape_.Dv + d, sink ? 0.0 : static_cast<double>(part_element(at, d)));
          }
        }
      }
      std::vector<State> states;
      for (std::size_t i = 0; i < part_o.size(); ++i) states.push_back({part_o[i].view(), part_lse[i].view()});
      const State out{slice(o.view(), row), slice(lse.view(), row)};
      REQUIRE(reference::merge_states({states, out}).ok());
    });
    const auto c = close(o_.view(), testing::to_doubles(o.view()), testing::kMergeTolerance, 1);
    const auto l = close(lse_.view(), testing::to_doubles(lse.view()), testing::kMergeTolerance, 1);
    CAPTURE(c.text, l.text);
    CHECK(c.ok);
    CHECK(l.ok);
  }

  /// The bits that folding the parts one by one gives.
  std::vector<std::uint8_t> fold() {
    each_row([&](const cuda::ImageGroup& g, std::int32_t r, std::int32_t row) {
      for (std::int32_t h = 0; h < shape_.Hq; ++h) {
        std::vector<float> o(static_cast<std::size_t>(shape_.Dv));
        float lse = cuda::kEmptyLse;
        for (std::int32_t part = 0; part < g.part_count; ++part) {
          const std::int64_t at = partial(g, part, r, h);
          const cuda::StateMerge merge = cuda::merge_lse(&lse, partial_lse_[static_cast<std::size_t>(at)]);
          for (std::int32_t d = 0; d < shape_.Dv; ++d) {
            float& x = o[static_cast<std::size_t>(d)];
            x = merge(x, part_element(at, d));
          }
        }
        cuda::AttendParams p{};
        p.sinks = shape_.sinks ? sinks_.data() : nullptr;
        const float weight = cuda::merge_sink(p, h, &lse);
        const std::int64_t at = std::int64_t{row} * shape_.Hq + h;
        for (std::int32_t d = 0; d < shape_.Dv; ++d) {
          o_.set(at * shape_.Dv + d, static_cast<double>(weight * o[static_cast<std::size_t>(d)]));
        }
        lse_.set(at, static_cast<double>(lse));
      }
    });
    return bits();
  }

 private:
  std::int64_t partial(const cuda::ImageGroup& g, std::int32_t part, std::int32_t r, std::int32_t h) const {
    return (std::int64_t{parts_[static_cast<std::size_t>(g.first_part + part)]} + r) * shape_.Hq + h;
  }
  float& part_element(std::int64_t state, std::int32_t d) {
    return reinterpret_cast<float*>(partial_o_.data())[state * shape_.Dv + d];
  }
  /// Calls f(group, row of the group, query row) for all rows.
  template <class F>
  void each_row(F&& f) {
    for (const cuda::ImageGroup& g : image_groups_) {
      for (std::int32_t r = 0; r < g.row_count; ++r) f(g, r, group_rows_[static_cast<std::size_t>(g.first_row + r)]);
    }
  }
  template <int Rank>
  static TensorView<Rank> slice(TensorView<Rank> all, std::int32_t row) {
    all.data = static_cast<double*>(all.data) + row * all.stride[0];
    all.shape[0] = 1;
    return all;
  }

  /// Each kind of state comes round among the rows and heads.
  void fill() {
    testing::Random random(9);
    const auto states = static_cast<std::size_t>(partial_rows_ * shape_.Hq);
    partial_lse_.resize(states);
    partial_o_.resize(states * static_cast<std::size_t>(shape_.Dv) / 4 + 1);
    for (std::int32_t h = 0; h < shape_.Hq; ++h) sinks_.push_back(static_cast<float>(random.normal()));
    int next = 0;
    each_row([&](const cuda::ImageGroup& g, std::int32_t r, std::int32_t) {
      for (std::int32_t h = 0; h < shape_.Hq; ++h, ++next) {
        const std::int32_t odd = random.between(0, std::max(0, g.part_count - 1));
        for (std::int32_t part = 0; part < g.part_count; ++part) {
          fill_state(partial(g, part, r, h), static_cast<Special>(next % 6), part == odd && g.part_count > 1,
                     part == g.part_count - 1, &random);
        }
      }
    });
  }
  void fill_state(std::int64_t at, Special special, bool odd, bool last, testing::Random* random) {
    float& lse = partial_lse_[static_cast<std::size_t>(at)];
    lse = static_cast<float>(3 * random->normal());
    for (std::int32_t d = 0; d < shape_.Dv; ++d) part_element(at, d) = static_cast<float>(random->normal());
    if (special == Special::all_but_last_empty && last) part_element(at, 0) = -0.0f;
    const bool empty = special == Special::all_empty || (special == Special::all_but_last_empty && !last) ||
                       (special == Special::some_empty && random->chance(0.5));
    if (empty) {
      lse = -kInf;
      for (std::int32_t d = 0; d < shape_.Dv; ++d) part_element(at, d) = kNaN;
    }
    if (odd && special == Special::nan) lse = kNaN;
    if (odd && special == Special::infinite) lse = kInf;
  }

  /// A header and the lists that the merge reads.
  std::vector<std::int64_t> make_image() const {
    std::vector<std::int64_t> image((sizeof(cuda::ImageHeader) + 7) / 8);
    const auto add = [&](const auto& list) {
      const std::size_t at = image.size() * 8, bytes = list.size() * sizeof(list[0]);
      image.resize(image.size() + (bytes + 15) / 16 * 2);
      std::memcpy(reinterpret_cast<unsigned char*>(image.data()) + at, list.data(), bytes);
      return static_cast<std::int64_t>(at);
    };
    cuda::ImageHeader header{};
    header.deferred_count = static_cast<std::int32_t>(deferred_.size());
    header.deferred_rows = rows_;
    header.groups_at = add(image_groups_);
    header.group_rows_at = add(group_rows_);
    header.parts_at = add(parts_);
    header.deferred_at = add(deferred_);
    std::memcpy(image.data(), &header, sizeof header);
    return image;
  }
  std::vector<std::uint8_t> bits() const {
    std::vector<std::uint8_t> all;
    for (const double x : testing::to_doubles(o_.view())) append(static_cast<float>(x), &all);
    for (const double x : testing::to_doubles(lse_.view())) append(static_cast<float>(x), &all);
    return all;
  }
  /// All NaN are the same.
  static void append(float x, std::vector<std::uint8_t>* all) {
    if (std::isnan(x)) x = kNaN;
    std::uint8_t bytes[sizeof x];
    std::memcpy(bytes, &x, sizeof x);
    all->insert(all->end(), bytes, bytes + sizeof x);
  }

  std::vector<Group> groups_;
  Shape shape_;
  std::int32_t rows_ = 0, partial_rows_ = 0;
  std::vector<cuda::ImageGroup> image_groups_;
  std::vector<cuda::ImageDeferred> deferred_;
  std::vector<std::int32_t> group_rows_, parts_;
  std::vector<ptx::Float4> partial_o_;  // for its alignment
  std::vector<float> partial_lse_, sinks_;
  testing::Tensor<3> o_{DType::f32, {1, 1, 1}};
  testing::Tensor<2> lse_{DType::f32, {1, 1}};
};

const std::vector<Group> kGroups = {{3, 2}, {2, 1}, {1, 0}, {2, 31}, {2, 32}, {1, 33}, {2, 100}, {4, 3}, {2, 9}};
constexpr Shape kShapes[] = {{6, 128, DType::f32, 0, false}, {5, 64, DType::bf16, 0, true},
                             {7, 256, DType::f16, 1, false}, {3, 96, DType::bf16, 4, true},
                             {4, 17, DType::f32, 0, true},   {1, 130, DType::bf16, 0, false}};

/// So few that warps take several heads, an even share, and more than there is to do.
constexpr std::int64_t kGrids[] = {1, 8, 150};

}  // namespace

TEST_CASE("cuda merge_rows: all parts at once agree with the reference, whoever merges how much", "[cuda]") {
  for (const Shape& shape : kShapes) {
    CAPTURE(shape.Hq, shape.Dv, shape.type, shape.pad, shape.sinks);
    Deferred deferred(kGroups, shape);
    std::vector<std::uint8_t> first;
    std::size_t turn = 0;
    const std::vector<simt::Options> modes = tests::simt_modes();
    for (const std::int64_t blocks : kGrids) {
      CAPTURE(blocks);
      const std::vector<std::uint8_t> bits = deferred.run(blocks, false, modes[turn++ * 5 % modes.size()]);
      deferred.check();
      if (first.empty()) first = bits;
      CHECK(bits == first);
    }
  }
}

TEST_CASE("cuda merge_rows: batch_invariant has the bits of folding part by part", "[cuda]") {
  for (const Shape& shape : kShapes) {
    CAPTURE(shape.Hq, shape.Dv, shape.type, shape.pad, shape.sinks);
    Deferred deferred(kGroups, shape);
    for (const std::int64_t blocks : kGrids) {
      const std::vector<std::uint8_t> bits = deferred.run(blocks, true);
      deferred.check();
      CHECK(bits == deferred.fold());
    }
  }
}

TEST_CASE("cuda merge_rows: a lone state keeps its bits", "[cuda]") {
  for (const bool invariant : {false, true}) {
    Deferred deferred({{12, 1}}, {6, 64, DType::f32, 0, false});
    const std::vector<std::uint8_t> bits = deferred.run(2, invariant);
    CHECK(bits == deferred.fold());
  }
}
