// SPDX-License-Identifier: Apache-2.0
// A device whose kernels run in the emulator: its memory is the host's, its implementations are those of CUDA with
// their names. The kernels are compiled once, for all tests that include this.
#pragma once

#include "support/device.hpp"
#include "support/emulator.hpp"

namespace prefixshare::tests {

/// How kernels run from now on, and what was launched since this was last assigned.
Emulator& emulator();

/// A context with the implementations of attention that the product has on a device, in its order.
Context emulated_context(const CostModel& cost);

/// A wrong kernel ends the test: the emulator's error must not leave a noexcept call, so this throws it on.
void rethrow_emulated();

}  // namespace prefixshare::tests
