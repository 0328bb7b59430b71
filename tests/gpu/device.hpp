// SPDX-License-Identifier: Apache-2.0
// The CUDA device of this process: memory, streams, times, clocks. Errors of the runtime are exceptions here, which end
// the child process that runs the case.
#pragma once

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "gpu/harness/record.hpp"

namespace prefixshare::gpu {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error) + " (" +
                           std::to_string(static_cast<int>(error)) + ")");
}

/// Why no device can be used; empty if one can.
inline std::string no_device() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return count > 0 ? "" : "the driver knows none";
}

inline std::int64_t attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, 0), "cudaDeviceGetAttribute");
  return value;
}
inline std::int64_t multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }
inline std::int64_t l2_bytes() { return attribute(cudaDevAttrL2CacheSize); }

inline std::string device_name() {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  return properties.name;
}

/// What the results of a run are about.
inline Record describe_device() {
  int driver = 0, runtime = 0;
  std::size_t free_bytes = 0, total = 0;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  check(cudaMemGetInfo(&free_bytes, &total), "cudaMemGetInfo");
  Record r;
  r.add("name", device_name()).add("multiprocessors", multiprocessors()).add("l2_bytes", l2_bytes());
  r.add("memory_bytes", static_cast<double>(total));
  r.add("capability", 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor));
  return r.add("driver", driver).add("runtime", runtime);
}

/// Memory of the device, full of bytes 0xff: NaN in every storage type.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(std::int64_t bytes) : bytes_(bytes) {
    check(cudaMalloc(&data_, static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1))), "cudaMalloc");
    fill(0xff);
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  std::int64_t bytes() const noexcept { return bytes_; }
  template <class T>
  T* as() const noexcept {
    return static_cast<T*>(data_);
  }
  // Both may return before the bytes are there, and streams that do not wait for the default one are coming.
  void fill(int byte) {
    check(cudaMemset(data_, byte, static_cast<std::size_t>(bytes_)), "cudaMemset");
    check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  }
  void write(const void* from, std::int64_t bytes) {
    check(cudaMemcpy(data_, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice), "cudaMemcpy");
    check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  }
  void read(void* to, std::int64_t bytes) const {
    check(cudaMemcpy(to, data_, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost), "cudaMemcpy");
  }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

class CudaStream {
 public:
  explicit CudaStream(int priority = 0) {
    check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority), "cudaStreamCreateWithPriority");
  }
  ~CudaStream() { cudaStreamDestroy(stream_); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  operator cudaStream_t() const noexcept { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Time between two points of a stream.
class Stopwatch {
 public:
  Stopwatch() {
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  void start(cudaStream_t stream) { check(cudaEventRecord(begin_, stream), "cudaEventRecord"); }
  /// Seconds since start, when all before is done.
  double stop(cudaStream_t stream) {
    check(cudaEventRecord(end_, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// What `work` puts into a stream, as a graph that can be run again and again.
class Graph {
 public:
  Graph(cudaStream_t stream, const std::function<void(cudaStream_t)>& work) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    work(stream);
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    const cudaError_t error = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "cudaGraphInstantiate");
  }
  ~Graph() { cudaGraphExecDestroy(graph_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(graph_, stream), "cudaGraphLaunch"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

/// What the driver's management library says about the device's clocks and power; zero where it says nothing.
struct Clocks {
  unsigned sm_mhz = 0, memory_mhz = 0, milliwatts = 0;

  static Clocks now() {
    static const Clocks none;
    static void* const library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    using Handle = void*;
    const auto find = [](const char* name) { return library != nullptr ? dlsym(library, name) : nullptr; };
    const auto init = reinterpret_cast<int (*)()>(find("nvmlInit_v2"));
    const auto by_bus = reinterpret_cast<int (*)(const char*, Handle*)>(find("nvmlDeviceGetHandleByPciBusId_v2"));
    const auto clock = reinterpret_cast<int (*)(Handle, int, unsigned*)>(find("nvmlDeviceGetClockInfo"));
    const auto power = reinterpret_cast<int (*)(Handle, unsigned*)>(find("nvmlDeviceGetPowerUsage"));
    if (init == nullptr || by_bus == nullptr || clock == nullptr || power == nullptr || init() != 0) return none;
    char bus[32];
    Handle device = nullptr;
    check(cudaDeviceGetPCIBusId(bus, sizeof bus, 0), "cudaDeviceGetPCIBusId");
    if (by_bus(bus, &device) != 0) return none;
    constexpr int kSm = 1, kMemory = 2;
    Clocks c;
    clock(device, kSm, &c.sm_mhz);
    clock(device, kMemory, &c.memory_mhz);
    power(device, &c.milliwatts);
    return c;
  }
};

}  // namespace prefixshare::gpu
