// SPDX-License-Identifier: Apache-2.0
// A kernel of one's own, as a context takes it.
#pragma once

#include <prefixshare/context.hpp>

/// "cpu:rows": f32, row by row. It has no soft cap, sinks, bias, KV scales, rotation or actual lengths.
prefixshare::Implementation<prefixshare::AttentionProblem, prefixshare::AttendCall> row_kernel() noexcept;
