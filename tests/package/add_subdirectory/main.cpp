// SPDX-License-Identifier: Apache-2.0
// Merges the states of two key sets of equal weight: the mean of the outputs, and lse grown by log 2.
#include <cmath>
#include <cstdint>
#include <vector>

#include "prefixshare/context.hpp"

namespace ps = prefixshare;

int main() {
  float o[2] = {1.0f, 4.0f};
  float lse[2] = {0.5f, 0.5f};
  float merged_o = 0.0f;
  float merged_lse = 0.0f;
  const std::vector<ps::State> parts = {{ps::make_view(&o[0], {1, 1, 1}), ps::make_view(&lse[0], {1, 1})},
                                        {ps::make_view(&o[1], {1, 1, 1}), ps::make_view(&lse[1], {1, 1})}};
  const ps::State out = {ps::make_view(&merged_o, {1, 1, 1}), ps::make_view(&merged_lse, {1, 1})};

  ps::Context context;
  ps::throw_if_error(ps::create_context(&context));
  ps::throw_if_error(ps::merge_states(context, {parts, out}));

  const bool right = std::abs(merged_o - 2.5f) < 1e-6f && std::abs(merged_lse - 0.5f - std::log(2.0f)) < 1e-6f;
  return right ? 0 : 1;
}
