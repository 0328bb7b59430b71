// SPDX-License-Identifier: Apache-2.0
// Times of what is put into a stream again and again.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <vector>

#include "gpu/device.hpp"
#include "gpu/times.hpp"

namespace prefixshare::gpu {

/// Seconds of one of many rounds in a row, again and again.
inline Times burst_times(const std::function<void(cudaStream_t)>& once, bool quick) {
  constexpr double kBurst = 4e-3;  // seconds: much longer than what the clock and the first launch take
  constexpr int kMostRounds = 1 << 14;
  const CudaStream stream;
  Stopwatch watch;
  once(stream);
  stream.wait();
  int count = 1;
  std::vector<double> times;
  for (const std::size_t samples = quick ? 5 : 20; times.size() < samples;) {
    watch.start(stream);
    for (int n = 0; n < count; ++n) once(stream);
    const double seconds = watch.stop(stream);
    if (seconds >= kBurst || count >= kMostRounds) {
      times.push_back(seconds / count);
    } else {
      count *= 2;
    }
  }
  return Times(times);
}

}  // namespace prefixshare::gpu
