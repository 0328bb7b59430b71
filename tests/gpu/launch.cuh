// SPDX-License-Identifier: Apache-2.0
// Launches of the kit's own kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "gpu/device.hpp"

namespace prefixshare::gpu {

struct LaunchSize {
  int blocks, threads;
  int shared = 0;        ///< bytes of dynamic shared memory
  bool overlap = false;  ///< may start before its predecessor in the stream has ended
  cudaStream_t stream = nullptr;
};

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchSize& size, Arguments... arguments) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(size.blocks));
  config.blockDim = dim3(static_cast<unsigned>(size.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(size.shared);
  config.stream = size.stream;
  config.attrs = &attribute;
  config.numAttrs = size.overlap ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "cudaLaunchKernelEx");
}

}  // namespace prefixshare::gpu
