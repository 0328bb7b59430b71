// SPDX-License-Identifier: Apache-2.0
// A shared library whose function adds nothing.
#include "prefixshare/testing/kernel_module.hpp"

namespace {
prefixshare::Status add(prefixshare::Context*) noexcept { return {}; }
}  // namespace

PREFIXSHARE_KERNEL_MODULE(add)
