// SPDX-License-Identifier: Apache-2.0
// What makes cases of attention, for tests with any harness, by its names in prefixshare::testing.
#pragma once

#include "prefixshare/testing/attention_matrix.hpp"
#include "prefixshare/testing/problem.hpp"

namespace prefixshare::tests {

using ForwardCase = prefixshare::testing::AttentionCase;
using prefixshare::testing::draft_tree;
using prefixshare::testing::eager_cost;
using prefixshare::testing::hide_with_bias;
using prefixshare::testing::pairwise;
using prefixshare::testing::Problem;
using prefixshare::testing::ProblemOptions;
using prefixshare::testing::Random;
using prefixshare::testing::Topology;

}  // namespace prefixshare::tests
