// SPDX-License-Identifier: Apache-2.0
// merge_states, forward and backward.
#include <cstdint>
#include <string>
#include <vector>

#include "prefixshare/merge_states.hpp"
#include "prefixshare/reference/merge_states.hpp"
#include "prefixshare/testing/problem.hpp"
#include "support/attention_input.hpp"
#include "support/row_case.hpp"
#include "support/session.hpp"

namespace prefixshare::bench {
namespace {

/// A state in memory.
class StoredState {
 public:
  StoredState(DType dtype, std::int64_t rows, std::int64_t heads, std::int64_t width)
      : o_(rows * heads * width * size_of(dtype)), lse_(rows * heads * size_of(DType::f32)) {
    state_.o = view_of<3>(o_, dtype, {rows, heads, width});
    state_.lse = view_of<2>(lse_, DType::f32, {rows, heads});
  }
  void fill(std::uint64_t seed) {
    const TensorView<3>& o = state_.o;
    NormalVectors(2 * seed, o.dtype, o.shape[2]).fill(o_.data(), o.shape[0] * o.shape[1]);
    NormalVectors(2 * seed + 1, DType::f32, o.shape[1]).fill(lse_.data(), o.shape[0]);
  }
  const State& state() const { return state_; }

 private:
  Buffer o_, lse_;
  State state_;
};

State first_rows_of(const State& s) { return {first_rows(s.o), first_rows(s.lse)}; }

/// A state in f64 for the reference's results.
struct ExactState {
  testing::Tensor<3> o;
  testing::Tensor<2> lse;

  explicit ExactState(const State& like)
      : o(DType::f64, {like.o.shape[0], like.o.shape[1], like.o.shape[2]}),
        lse(DType::f64, {like.lse.shape[0], like.lse.shape[1]}) {}
  State state() const { return {o.view(), lse.view()}; }
};

std::int64_t bytes_of(const State& s) {
  return s.o.shape[0] * s.o.shape[1] * (s.o.shape[2] * size_of(s.o.dtype) + size_of(DType::f32));
}

/// Parts, their merge, and room for gradients.
class States {
 public:
  explicit States(const Problem& p, bool small = false) {
    const std::int64_t rows = small ? 1 : testing::detail::scaled(p.workload->rows, p.scale);
    const auto count = static_cast<std::size_t>(p.workload->parts);
    stored_.reserve(2 * count + 2);
    for (std::size_t i = 0; i < 2 * count + 2; ++i) {  // parts, result, gradient of the result, gradients of parts
      const DType dtype = i < count ? p.kind.kv_dtype : p.kind.q_dtype;
      stored_.emplace_back(dtype, rows, p.kind.Hq, p.kind.Dv);
      if (i < count || i == count + 1) stored_.back().fill(i);
      views_.push_back(stored_.back().state());
    }
    merge_.parts = {views_.data(), static_cast<std::int64_t>(count)};
    merge_.out = views_[count];
  }
  States(const States&) = delete;
  States& operator=(const States&) = delete;

 protected:
  std::size_t count() const { return static_cast<std::size_t>(merge_.parts.size()); }
  std::vector<State> first_parts() const {
    std::vector<State> parts;
    for (const State& s : merge_.parts) parts.push_back(first_rows_of(s));
    return parts;
  }

  std::vector<StoredState> stored_;
  std::vector<State> views_;
  MergeStates merge_;
};

class Merge : public States {
 public:
  using States::States;
  const MergeStates& args() const { return merge_; }
  Status call(const Context& context) const { return merge_states(context, merge_); }
  testing::Comparison check() const {
    const std::vector<State> parts = first_parts();
    const State got = first_rows_of(merge_.out);
    const ExactState exact(got);
    throw_if_error(reference::merge_states({parts, exact.state()}));
    testing::Comparison whole;
    testing::detail::include("o", compare_vectors(got.o, testing::to_doubles(exact.o.view()), testing::kMergeTolerance),
                             &whole);
    testing::detail::include(
        "lse", compare_vectors(got.lse, testing::to_doubles(exact.lse.view()), testing::kMergeTolerance), &whole);
    return whole;
  }
  std::int64_t bytes() const {
    std::int64_t all = bytes_of(merge_.out);
    for (const State& s : merge_.parts) all += bytes_of(s);
    return all;
  }
};

/// Its inputs are the parts and their merge, which it makes first.
class MergeGradient : public States {
 public:
  explicit MergeGradient(const Problem& p, bool small = false) : States(p, small) {
    grad_.parts = merge_.parts;
    grad_.out = merge_.out;
    grad_.dout = views_[count() + 1].o;
    grad_.dlse = views_[count() + 1].lse;
    grad_.dparts = {views_.data() + count() + 2, static_cast<std::int64_t>(count())};
    throw_if_error(reference::merge_states(merge_));
  }
  const MergeStatesGrad& args() const { return grad_; }
  Status call(const Context& context) const { return merge_states_backward(context, grad_); }
  testing::Comparison check() const {
    const std::vector<State> parts = first_parts();
    std::vector<ExactState> exact;
    std::vector<State> dparts;
    for (const State& s : parts) exact.emplace_back(s);
    for (const ExactState& e : exact) dparts.push_back(e.state());
    MergeStatesGrad g = grad_;
    g.parts = parts;
    g.out = first_rows_of(grad_.out);
    g.dout = first_rows(grad_.dout);
    g.dlse = first_rows(grad_.dlse);
    g.dparts = dparts;
    throw_if_error(reference::merge_states_backward(g));
    testing::Comparison whole;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const State got = first_rows_of(grad_.dparts[static_cast<std::int64_t>(i)]);
      testing::detail::include(
          "do", compare_vectors(got.o, testing::to_doubles(exact[i].o.view()), testing::kMergeTolerance), &whole);
    }
    return whole;
  }
  std::int64_t bytes() const {
    std::int64_t all = bytes_of(grad_.out) + bytes_of(views_[count() + 1]);
    for (std::size_t i = 0; i < count(); ++i) all += bytes_of(views_[i]) + bytes_of(views_[count() + 2 + i]);
    return all;
  }

 private:
  MergeStatesGrad grad_;
};

}  // namespace

void register_merge_states(Session* session) {
  register_rows<Merge>(session, "merge_states", session->context.merge_states);
  register_rows<MergeGradient>(session, "merge_states_backward", session->context.merge_states_backward);
}

}  // namespace prefixshare::bench
