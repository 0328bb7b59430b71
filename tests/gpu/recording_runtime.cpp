// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime as far as the library and the kit use it, on a machine without a device: memory is the host's,
// streams do everything at once, and kernels are not run. What a launch asks for goes to the file that
// PREFIXSHARE_LAUNCHES names, a line "dynamic <kernel> <bytes>" for each kernel and size, and what no device would
// allow as "fault <text>". Linked in front of the real one, whose functions are then not taken.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>

namespace {

constexpr int kGivenShared = 48 * 1024, kMostShared = 227 * 1024, kAllShared = 228 * 1024;  // of sm_90
constexpr std::size_t kLooksAtIt = std::size_t{16} << 20;  // larger memory is only there to be large

struct Runtime {
  std::map<const void*, std::string> kernels;      // by host function
  std::map<const void*, int> shared;               // what was asked for, by host function
  std::map<const char*, std::size_t> allocations;  // bytes, by first
  std::set<std::pair<std::string, std::size_t>> seen;
  bool capturing = false;
};
Runtime& runtime() {
  static Runtime r;
  return r;
}

void note(const std::string& line) {
  const char* path = std::getenv("PREFIXSHARE_LAUNCHES");
  std::FILE* file = path == nullptr ? nullptr : std::fopen(path, "a");
  if (file == nullptr) return;
  std::fprintf(file, "%s\n", line.c_str());
  std::fclose(file);
}
cudaError_t fault(const std::string& text) {
  note("fault " + text);
  return cudaErrorInvalidValue;
}
/// What no stream allows while it is captured: what waits for the device, and questions about the stream.
cudaError_t outside_capture(const char* function) {
  return runtime().capturing ? fault(std::string(function) + " while a stream is captured") : cudaSuccess;
}

/// Whether the bytes lie in device memory.
bool on_device(const void* data, std::size_t bytes) {
  const auto& all = runtime().allocations;
  auto at = all.upper_bound(static_cast<const char*>(data));
  if (at == all.begin()) return false;
  --at;
  return static_cast<const char*>(data) + bytes <= at->first + at->second;
}
cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (kind != cudaMemcpyDeviceToHost && !on_device(to, bytes)) return fault("a copy past the device's memory");
  if (kind != cudaMemcpyHostToDevice && !on_device(from, bytes)) return fault("a copy from past the device's memory");
  if (bytes < kLooksAtIt || kind == cudaMemcpyDeviceToHost) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t set(void* data, int value, std::size_t bytes) {
  if (!on_device(data, bytes)) return fault("memory set past the device's");
  if (bytes < kLooksAtIt) std::memset(data, value, bytes);
  return cudaSuccess;
}

cudaError_t launch(const void* function, dim3 grid, dim3 block, std::size_t shared) {
  Runtime& r = runtime();
  const auto kernel = r.kernels.find(function);
  if (kernel == r.kernels.end()) return fault("a launch of what is no kernel");
  const auto asked = r.shared.find(function);
  const unsigned threads = block.x * block.y * block.z;
  if (grid.x < 1 || grid.x > 0x7fffffffu || grid.y != 1 || grid.z != 1) return fault(kernel->second + ": its grid");
  if (threads < 1 || threads > 1024) return fault(kernel->second + ": its threads");
  if (shared > static_cast<std::size_t>(asked == r.shared.end() ? kGivenShared : asked->second))
    return fault(kernel->second + ": shared memory");
  if (r.seen.insert({kernel->second, shared}).second) note("dynamic " + kernel->second + " " + std::to_string(shared));
  return cudaSuccess;
}

/// A handle that nobody looks into.
template <class Handle>
cudaError_t make(Handle* handle) {
  static char one;
  *handle = reinterpret_cast<Handle>(&one);
  return cudaSuccess;
}

}  // namespace

extern "C" {

// ---- What nvcc's host code calls

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  runtime().kernels[function] = name;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, std::size_t, int, int) {}
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, std::size_t*, void*) { return fault("a launch with <<< >>>"); }
unsigned __cudaPushCallConfiguration(dim3, dim3, std::size_t, cudaStream_t) { return 0; }
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) { return cudaErrorInvalidValue; }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, std::size_t, cudaStream_t) {
  return fault("a launch with <<< >>>");
}

// ---- The device

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::memset(static_cast<void*>(p), 0, sizeof *p);
  std::strcpy(p->name, "Recording runtime");
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  switch (which) {
    case cudaDevAttrMultiProcessorCount: *value = 16; break;
    case cudaDevAttrL2CacheSize: *value = 4 << 20; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = kMostShared; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = kAllShared; break;
    default: *value = 0;
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* bus, int, int) { return *bus = '\0', cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = 0, *greatest = -2, cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return outside_capture("cudaDeviceSynchronize"); }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaErrorInvalidValue";
}
const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "invalid argument"; }

// ---- Memory

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  if (const cudaError_t e = outside_capture("cudaMalloc"); e != cudaSuccess) return e;
  *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*memory == MAP_FAILED) return cudaErrorMemoryAllocation;
  runtime().allocations[static_cast<const char*>(*memory)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  const auto at = runtime().allocations.find(static_cast<const char*>(memory));
  if (at == runtime().allocations.end()) return fault("memory freed that is not the device's");
  munmap(memory, at->second);
  runtime().allocations.erase(at);
  return outside_capture("cudaFree");
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) { return *memory = std::malloc(bytes), cudaSuccess; }
cudaError_t cudaFreeHost(void* memory) { return std::free(memory), cudaSuccess; }
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total) {
  return *free_bytes = *total = std::size_t{80} << 30, cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* data) {
  *a = {};
  a->type = on_device(data, 1) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t e = outside_capture("cudaMemcpy");
  return e == cudaSuccess ? copy(to, from, bytes, kind) : e;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return copy(to, from, bytes, kind);
}
cudaError_t cudaMemset(void* data, int value, std::size_t bytes) { return set(data, value, bytes); }
cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t) { return set(data, value, bytes); }

// ---- Streams, events, graphs

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { return make(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamGetDevice(cudaStream_t, int* device) {
  return *device = 0, outside_capture("cudaStreamGetDevice");
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return outside_capture("cudaStreamSynchronize"); }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = runtime().capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  return runtime().capturing = true, cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  runtime().capturing = false;
  return make(graph);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t, unsigned long long) { return make(exec); }
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* event) { return make(event); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return outside_capture("cudaEventSynchronize"); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  return *milliseconds = 5, cudaSuccess;
}

// ---- Launches

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) { return *a = {}, cudaSuccess; }
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute which, int value) {
  if (which != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > kMostShared) return fault("more shared memory than there is");
  runtime().shared[function] = value;
  return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* function, void**) {
  return launch(function, c->gridDim, c->blockDim, c->dynamicSmemBytes);
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void**, std::size_t shared, cudaStream_t) {
  return launch(function, grid, block, shared);
}

}  // extern "C"
