// SPDX-License-Identifier: Apache-2.0
// One layer's tensors for a way of doing the step, and the calls of the operators on them.
#pragma once

#include <cstdint>

#include "buffer.hpp"
#include "prefixshare/context.hpp"
#include "step.hpp"

namespace prefix_report {

/// What a step reads: q [rows, Hq, D], k and v [pages, page_size, Hkv, D], dout [rows, Hq, D], all of the storage type.
struct Inputs {
  Buffer q;
  Buffer k;
  Buffer v;
  Buffer dout;  ///< training only
};

/// Random inputs for the shared way.
Inputs random_inputs(const prefixshare::Context& context, const Step& step, std::uint64_t seed);

/// Inputs of the unshared way of training: every sequence has its own copy of its rows. dout of a repeated token goes
/// to its first copy, the others get zero, so that the gradients of the copies add up to the shared one.
Inputs repeat_inputs(const prefixshare::Context& context, const Step& step, const Inputs& shared);

/// The outputs and the workspace of one way. Results are f32, not rounded to the storage type, so that checks are
/// sharp.
class Layer {
 public:
  Layer(const Way& way, const Inputs& inputs, std::int32_t threads, bool train);

  /// Run the operators. Throw std::runtime_error if one refuses.
  void forward(const prefixshare::Context& context);
  void backward(const prefixshare::Context& context);

  const Way& way() const { return way_; }
  const Inputs& inputs() const { return inputs_; }
  const float* o() const { return static_cast<const float*>(o_.data()); }
  const float* lse() const { return static_cast<const float*>(lse_.data()); }
  const float* dq() const { return static_cast<const float*>(dq_.data()); }
  const float* dk() const { return static_cast<const float*>(dk_.data()); }
  const float* dv() const { return static_cast<const float*>(dv_.data()); }

 private:
  prefixshare::Attend attend() const;

  const Way& way_;
  const Inputs& inputs_;
  Buffer o_, lse_, dq_, dk_, dv_;
  Buffer memory_;
  prefixshare::Workspace workspace_;  ///< of both passes, which follow each other
  prefixshare::KvPool kv_;
};

/// Bytes that a run holds per token: of a decode step K and V; of a training step all operands and results.
std::int64_t bytes_per_token(const prefixshare::LayerKind& kind, bool train);

}  // namespace prefix_report
