// SPDX-License-Identifier: Apache-2.0
// Stream: in whose order a call on device memory runs.
#pragma once

namespace prefixshare {
inline namespace v0_1 {

/// A stream of a device, as its runtime names it: a cudaStream_t, without the headers of CUDA. Null is the default
/// stream of the current device. Calls on host memory ignore it.
struct Stream {
  void* handle = nullptr;
};

}  // namespace v0_1
}  // namespace prefixshare
