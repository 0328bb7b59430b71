// SPDX-License-Identifier: Apache-2.0
// kernel_module: kernels of one's own in a shared library, which `prefixshare_bench --kernel=FILE` loads.
#pragma once

#include <cstdint>

#include "prefixshare/context.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace testing {

/// The function of a shared library that puts its kernels into a context, and its name. `context_bytes` is the size
/// that the caller's Context has: a library that was built with other headers says so and touches nothing.
using AddKernels = void (*)(std::int64_t context_bytes, Context* context, Status* status);
inline constexpr const char* kAddKernels = "prefixshare_add_kernels_v0_1";

}  // namespace testing
}  // namespace v0_1
}  // namespace prefixshare

/// Defines that function, once in a shared library, outside of namespaces. `add(Context*)` adds the kernels and returns
/// a Status.
#define PREFIXSHARE_KERNEL_MODULE(add)                                                              \
  extern "C" PREFIXSHARE_API void prefixshare_add_kernels_v0_1(std::int64_t, prefixshare::Context*, \
                                                               prefixshare::Status*);               \
  extern "C" PREFIXSHARE_API void prefixshare_add_kernels_v0_1(                                     \
      std::int64_t context_bytes, prefixshare::Context* context, prefixshare::Status* status) {     \
    constexpr auto kBytes = static_cast<std::int64_t>(sizeof(prefixshare::Context));                \
    const prefixshare::Status other = {prefixshare::StatusCode::unsupported,                        \
                                       prefixshare::StatusUnit::bytes,                              \
                                       "kernel module",                                             \
                                       "Context",                                                   \
                                       "size",                                                      \
                                       "==",                                                        \
                                       -1,                                                          \
                                       context_bytes,                                               \
                                       kBytes};                                                     \
    *status = context_bytes == kBytes ? add(context) : other;                                       \
  }
