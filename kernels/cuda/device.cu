// SPDX-License-Identifier: Apache-2.0
// CUDA devices: whether there is one that this build's kernels run on, whose memory is whose, copies and zeroes. With
// launch.hpp the only place that calls the runtime.
#include <atomic>
#include <cstring>

#include "cuda/launch.hpp"
#include "cuda/operators.hpp"

namespace prefixshare {
inline namespace v0_1 {
namespace cuda {
namespace {

constexpr const char* kOp = "device";
constexpr std::int32_t kBlocksOfProcessor = 2;  // of a streaming multiprocessor: one computes while the other waits

/// Whether the build has code for a device shows at any of its kernels.
__global__ void kernel_of_this_build() {}

Status unavailable(const char* op, cudaError_t error) noexcept {
  static_cast<void>(cudaGetLastError());
  return runtime_error(op, "implementation", error, StatusCode::backend_unavailable);
}

/// The current device, if it can run this build's kernels.
Status find_device(const char* op, int* ordinal) noexcept {
  constexpr int kLeast = 8;
  int count = 0, major = 0;
  if (const cudaError_t e = cudaGetDeviceCount(&count); e != cudaSuccess) return unavailable(op, e);
  if (count < 1) return unavailable(op, cudaErrorNoDevice);
  if (const cudaError_t e = cudaGetDevice(ordinal); e != cudaSuccess) return unavailable(op, e);
  if (const cudaError_t e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, *ordinal);
      e != cudaSuccess) {
    return unavailable(op, e);
  }
  if (major < kLeast) {
    return detail::failure({op, "implementation"}, "compute capability of the device", major, ">=", kLeast,
                           StatusUnit::number, StatusCode::unsupported);
  }
  cudaFuncAttributes attributes;
  const cudaError_t e = cudaFuncGetAttributes(&attributes, kernel_of_this_build);
  return e == cudaSuccess ? Status{} : unavailable(op, e);
}

/// Asking takes milliseconds, so it is done once.
struct DeviceNames {
  static constexpr int kMost = 64;
  char of[kMost][256] = {};

  DeviceNames() noexcept {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) return;
    for (int i = 0; i < count && i < kMost; ++i) {
      cudaDeviceProp properties;
      if (cudaGetDeviceProperties(&properties, i) == cudaSuccess) std::memcpy(of[i], properties.name, sizeof of[i]);
    }
  }
};

/// The device that a stream belongs to. A stream that is being captured may not be asked (cudaStreamGetDevice answers
/// cudaErrorStreamCaptureUnsupported): its launches go to the thread's device, or fail and say so.
cudaError_t device_of(cudaStream_t stream, bool capturing, int* ordinal) noexcept {
  return stream == nullptr || capturing ? cudaGetDevice(ordinal) : cudaStreamGetDevice(stream, ordinal);
}

}  // namespace

Status check_device(const char* op) noexcept {
  static std::atomic<std::uint64_t> good{0};  // a bit for each device that was found to be: it stays so
  int ordinal = -1;
  if (good.load(std::memory_order_relaxed) != 0 && cudaGetDevice(&ordinal) == cudaSuccess && ordinal < 64 &&
      (good.load(std::memory_order_relaxed) >> ordinal & 1) != 0) {
    return {};
  }
  if (Status s = find_device(op, &ordinal)) return s;
  if (ordinal < 64) good.fetch_or(std::uint64_t{1} << ordinal, std::memory_order_relaxed);
  return {};
}

const char* device_name() noexcept {
  static const DeviceNames names;
  int ordinal = -1;
  const bool known = cudaGetDevice(&ordinal) == cudaSuccess && ordinal >= 0 && ordinal < DeviceNames::kMost;
  return known ? names.of[ordinal] : "";
}

Status device_state(Stream stream, DeviceState* state) noexcept {
  if (Status s = check_device(kOp)) return s;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  if (Status s = checked(kOp, "stream", cudaStreamIsCapturing(stream_of(stream), &capture))) return s;
  const bool capturing = capture == cudaStreamCaptureStatusActive;
  int ordinal = 0, current = 0, processors = 0;
  if (Status s = checked(kOp, "stream", device_of(stream_of(stream), capturing, &ordinal))) return s;
  if (Status s = checked(kOp, "stream", cudaGetDevice(&current))) return s;
  if (ordinal != current)
    return detail::failure({kOp, "stream"}, "device (that is the thread's)", ordinal, "==", current);
  if (Status s = checked(kOp, "stream", cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, ordinal))) {
    return s;
  }
  *state = {ordinal, processors * kBlocksOfProcessor, capturing};
  return {};
}

Status device_owner(const void* data, std::int32_t* ordinal) noexcept {
  cudaPointerAttributes attributes{};
  if (Status s = checked(kOp, "pointer", cudaPointerGetAttributes(&attributes, data))) return s;
  const bool device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  *ordinal = device ? attributes.device : -1;
  return {};
}

Status copy_to_device(void* to, const void* from, std::int64_t bytes, Stream stream) noexcept {
  return checked(kOp, "copy",
                 cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, stream_of(stream)));
}

Status clear_on_device(void* data, std::int64_t bytes, Stream stream) noexcept {
  return checked(kOp, "clear", cudaMemsetAsync(data, 0, static_cast<std::size_t>(bytes), stream_of(stream)));
}

}  // namespace cuda
}  // namespace v0_1
}  // namespace prefixshare
