// SPDX-License-Identifier: Apache-2.0
// A kernel of one's own, put in front of a context's.
#pragma once

#include <prefixshare/context.hpp>

/// "cpu:rows": f32, row by row. It has no soft cap, sinks, bias, KV scales, rotation or actual lengths.
prefixshare::Status add_row_kernel(prefixshare::Context* context) noexcept;
