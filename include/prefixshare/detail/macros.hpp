// SPDX-License-Identifier: Apache-2.0
// PREFIXSHARE_API: exported from the compiled library. PREFIXSHARE_HD: host and device leaf.
#pragma once

#if defined(_WIN32)
#define PREFIXSHARE_API
#else
#define PREFIXSHARE_API __attribute__((visibility("default")))
#endif

#if defined(__CUDACC__)
#define PREFIXSHARE_HD __host__ __device__
#else
#define PREFIXSHARE_HD
#endif
