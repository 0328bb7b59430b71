// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_target.hpp"

#include <memory>
#include <vector>

#include "gpu/device.hpp"

namespace prefixshare::gpu {

void fill_random(void* data, DType dtype, std::int64_t count, std::uint64_t seed);  // fill_random.cu

namespace {

class CudaMachine : public Machine {
 public:
  void* allocate(std::int64_t bytes) const override {
    void* memory = nullptr;
    check(cudaMalloc(&memory, static_cast<std::size_t>(bytes)), "cudaMalloc");
    return memory;
  }
  void release(void* memory) const noexcept override { cudaFree(memory); }
  // Both may return before the bytes are there, and streams that do not wait for the default one are coming.
  void poison(void* memory, std::int64_t bytes) const override {
    check(cudaMemset(memory, 0xff, static_cast<std::size_t>(bytes)), "cudaMemset");
    check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  }
  void write(void* to, const void* from, std::int64_t bytes) const override {
    check(cudaMemcpy(to, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice), "cudaMemcpy");
    check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  }
  void read(void* to, const void* from, std::int64_t bytes) const override {
    check(cudaMemcpy(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost), "cudaMemcpy");
  }
  void wait() const override { check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }

  std::vector<Stream> streams() const override {
    int least = 0, greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    for (int priority = greatest + static_cast<int>(streams_.size()); priority <= least; ++priority) {
      streams_.push_back(std::make_unique<CudaStream>(priority));
    }
    std::vector<Stream> list;
    for (const auto& stream : streams_) list.push_back({static_cast<cudaStream_t>(*stream)});
    return list;
  }
  /// Copies on a stream of its own: the blocks of a call then come to run in another order.
  void disturb(int rounds) const override {
    constexpr std::size_t kBytes = std::size_t{128} << 20;
    if (!noise_) noise_ = std::make_unique<DeviceBuffer>(2 * kBytes);
    for (int n = 0; n < rounds; ++n) {
      check(cudaMemcpyAsync(noise_->as<char>(), noise_->as<char>() + kBytes, kBytes, cudaMemcpyDeviceToDevice,
                            noise_stream_),
            "cudaMemcpyAsync");
    }
  }
  std::function<void()> record(const std::function<void(Stream)>& work) const override {
    wait();
    const auto stream = std::make_shared<CudaStream>();
    const auto graph = std::make_shared<Graph>(*stream, [&](cudaStream_t s) { work({s}); });
    return [stream, graph] {
      check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // what was written for it is on another stream
      graph->launch(*stream);
    };
  }

  std::function<double()> timed(const std::function<void(Stream)>& work) const override {
    wait();
    const auto stream = std::make_shared<CudaStream>();
    const auto graph = std::make_shared<Graph>(*stream, [&](cudaStream_t s) { work({s}); });
    const auto watch = std::make_shared<Stopwatch>();
    return [stream, graph, watch] {
      watch->start(*stream);
      graph->launch(*stream);
      return watch->stop(*stream);
    };
  }
  void fill(void* data, DType dtype, std::int64_t count, std::uint64_t seed) const override {
    fill_random(data, dtype, count, seed);
  }
  std::int64_t cache_bytes() const override { return l2_bytes(); }
  Record clocks(const std::string& suffix) const override {
    const Clocks c = Clocks::now();
    return Record()
        .add("sm_mhz" + suffix, c.sm_mhz)
        .add("memory_mhz" + suffix, c.memory_mhz)
        .add("watts" + suffix, c.milliwatts / 1000.0);
  }

 private:
  mutable std::vector<std::unique_ptr<CudaStream>> streams_;
  mutable std::unique_ptr<DeviceBuffer> noise_;
  CudaStream noise_stream_;
};

}  // namespace

Target cuda_target() {
  Target t;
  t.machine = std::make_shared<CudaMachine>();
  t.space = MemorySpace::device;
  throw_if_error(create_context(&t.context));
  throw_if_error(device_blocks(t.context, &t.blocks));
  return t;
}

}  // namespace prefixshare::gpu
