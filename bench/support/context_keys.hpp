// SPDX-License-Identifier: Apache-2.0
// What a file of results says about itself: machine, build, ceilings.
#pragma once

#include "support/session.hpp"

namespace prefixshare::bench {

/// Adds the keys of docs/benchmarking.md to Google Benchmark's context. Measures the ceilings of every team.
void add_context_keys(Session* session);

}  // namespace prefixshare::bench
