// SPDX-License-Identifier: Apache-2.0
// A region of a source that is compiled for more than the baseline. A source defines PREFIXSHARE_REGION (a namespace),
// PREFIXSHARE_REGION_TARGET (the compilers' names of the features) and PREFIXSHARE_REGION_VECTOR (the header of its
// Vec), then includes the vector headers: one region per source. What they define between PREFIXSHARE_REGION_BEGIN and
// PREFIXSHARE_REGION_END may use the features; what other headers define, and lambdas, stay at the baseline.
#pragma once

#define PREFIXSHARE_PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define PREFIXSHARE_PUSH_TARGET(features) \
  PREFIXSHARE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define PREFIXSHARE_POP_TARGET PREFIXSHARE_PRAGMA(clang attribute pop)
#else
#define PREFIXSHARE_PUSH_TARGET(features) PREFIXSHARE_PRAGMA(GCC push_options) PREFIXSHARE_PRAGMA(GCC target(features))
#define PREFIXSHARE_POP_TARGET PREFIXSHARE_PRAGMA(GCC pop_options)
#endif

/// Before a loop with a constant count, so that the arrays that it walks become registers.
#if defined(__clang__)
#define PREFIXSHARE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PREFIXSHARE_UNROLL _Pragma("GCC unroll 16")
#endif

#define PREFIXSHARE_REGION_BEGIN                     \
  PREFIXSHARE_PUSH_TARGET(PREFIXSHARE_REGION_TARGET) \
  namespace prefixshare {                            \
  inline namespace v0_1 {                            \
  namespace cpu {                                    \
  namespace PREFIXSHARE_REGION {
#define PREFIXSHARE_REGION_END \
  }                            \
  }                            \
  }                            \
  }                            \
  PREFIXSHARE_POP_TARGET
