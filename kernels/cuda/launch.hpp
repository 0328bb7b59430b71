// SPDX-License-Identifier: Apache-2.0
// How kernels are started, and what the runtime's errors become.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "prefixshare/detail/validate.hpp"
#include "prefixshare/status.hpp"
#include "prefixshare/stream.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {

inline cudaStream_t stream_of(Stream stream) noexcept { return static_cast<cudaStream_t>(stream.handle); }

/// An error of the runtime, with its number and name.
inline Status runtime_error(const char* op, const char* argument, cudaError_t error, StatusCode code) noexcept {
  return detail::failure({op, argument}, cudaGetErrorName(error), static_cast<std::int64_t>(error), "==", 0,
                         StatusUnit::number, code);
}
/// ok, or a device_error. The error does not stay behind for the caller's next question to the runtime.
inline Status checked(const char* op, const char* argument, cudaError_t error) noexcept {
  if (error == cudaSuccess) return {};
  static_cast<void>(cudaGetLastError());
  return runtime_error(op, argument, error, StatusCode::device_error);
}

/// Starts the kernels of one call, in the order of its stream.
class Launch {
 public:
  Launch(const char* op, Stream stream) noexcept : op_(op), stream_(stream) {}

  /// chained: the kernel may start before its predecessor in the stream has ended, and waits for it itself
  /// (ptx::prerequisite_wait).
  template <class Params>
  Status operator()(void (*kernel)(Params), std::int64_t blocks, int threads, std::int64_t shared_bytes, bool chained,
                    const Params& params) const noexcept {
    static_assert(sizeof(Params) <= 4096, "kernel parameters");
    if (Status s = allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes)) return s;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    config.stream = stream_of(stream_);
    config.attrs = &attribute;
    config.numAttrs = chained ? 1 : 0;
    void* arguments[] = {const_cast<Params*>(&params)};
    return checked(op_, "launch", cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments));
  }

  /// What the current device gives a block at most, and has for all blocks of a multiprocessor.
  Status shared_memory(std::int64_t* of_block, std::int64_t* of_processor) const noexcept {
    if (Status s = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, of_block)) return s;
    return attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, of_processor);
  }

 private:
  Status attribute(cudaDeviceAttr which, std::int64_t* value) const noexcept {
    int device = 0, found = 0;
    if (Status s = checked(op_, "stream", cudaGetDevice(&device))) return s;
    const Status s = checked(op_, "stream", cudaDeviceGetAttribute(&found, which, device));
    *value = found;
    return s;
  }
  /// More shared memory than every device gives has to be asked for.
  Status allow_shared(const void* kernel, std::int64_t bytes) const noexcept {
    constexpr std::int64_t kGiven = 48 * 1024;
    if (bytes <= kGiven) return {};
    return checked(op_, "shared memory",
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  }

  const char* op_;
  Stream stream_;
};

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
